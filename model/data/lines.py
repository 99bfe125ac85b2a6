"""One line of `pairs.jsonl`: reading it from hostile bytes, checking every field, writing it back.

A line is `{"id", "image", "texts", "labels", "split"?, "metadata"?}`. Nothing here touches the file
system: whether the image exists and decodes is `model.data.manifest`'s question. Faults are returned
as sentences, all of them at once, because somebody with a broken file wants the list and not the first.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, NoReturn, get_args

Split = Literal["train", "query", "database"]
SPLITS: tuple[Split, ...] = get_args(Split)

MetadataValue = str | int | float | bool | list[str]

# Bounds that no honest line reaches; they keep one line from eating the machine.
MAX_LINE_BYTES = 1 << 20
MAX_TEXT_CHARS = 100_000
MAX_LABEL_CHARS = 200
MAX_PATH_CHARS = 1000
MAX_INTEGER = 2**63 - 1

_ID = re.compile(r"[A-Za-z0-9._:\-]{1,200}")
_KNOWN = ("id", "image", "texts", "labels", "split", "metadata")


@dataclass(frozen=True)
class Fields:
    """The checked fields of one line.

    `image` is the path as written, relative to the manifest folder, with `/`; None for an item
    without one. `split` is None when the line leaves it to the hash of the id.
    """

    id: str
    image: str | None = None
    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    split: Split | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


def valid_id(text: str) -> bool:
    """Whether `text` may be an item's id: 1 to 200 characters of `A-Z a-z 0-9 . _ : -`."""
    return _ID.fullmatch(text) is not None


def load_object(raw: bytes) -> dict[str, Any]:
    """Read one JSON object from `raw`.

    Raises ValueError with a sentence for anything else: bytes that are no UTF-8, text that is no JSON
    (NaN and Infinity included), a value that is no object, a key given twice, nesting or numbers that
    the parser refuses.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("not a manifest line: nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"wanted a JSON object, got {_kind(value)}")  # noqa: TRY004 - bad data, not a bad call
    return value


def check_fields(value: Mapping[str, Any]) -> tuple[Fields | None, list[str]]:
    """Check every field of one object; gives the fields, or None and all faults as sentences."""
    faults: list[str] = [f"unknown field {_short(key)}" for key in value if key not in _KNOWN]
    item_id = _check_id(value, faults)
    image = _check_image(value.get("image"), faults)
    texts = _check_strings("texts", value.get("texts", []), MAX_TEXT_CHARS, faults)
    labels = _check_strings("labels", value.get("labels", []), MAX_LABEL_CHARS, faults)
    split = _check_split(value.get("split"), faults)
    metadata = _check_metadata(value.get("metadata", {}), faults)
    if value.get("image") is None and value.get("texts", []) == []:
        faults.append("neither image nor texts: an item needs one of them")
    if faults:
        return None, faults
    return Fields(item_id, image, texts, tuple(dict.fromkeys(labels)), split, metadata), []


def write_line(fields: Fields) -> str:
    """One line of `pairs.jsonl` with its newline; the same fields always give the same characters."""
    value: dict[str, Any] = {
        "id": fields.id,
        "image": fields.image,
        "texts": list(fields.texts),
        "labels": list(fields.labels),
    }
    if fields.split is not None:
        value["split"] = fields.split
    if fields.metadata:
        value["metadata"] = dict(fields.metadata)
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def path_fault(path: str) -> str | None:
    """Why `path` may not name a file below a folder (None when it may).

    Decided on the text alone; a symbolic link that leads out is found when the path is resolved.
    """
    if not path or len(path) > MAX_PATH_CHARS:
        return f"a path has 1 to {MAX_PATH_CHARS} characters, got {len(path)}"
    if "\0" in path or "\\" in path or not _encodable(path):
        return "a path has no NUL, no backslash and only characters that UTF-8 knows"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "an absolute path leaves the folder"
    if ".." in PurePosixPath(path).parts:
        return "a path with '..' may leave the folder"
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is no JSON number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {_short(twice)} is given twice")
    return value


def _check_id(value: Mapping[str, Any], faults: list[str]) -> str:
    if "id" not in value:
        faults.append("no id")
        return ""
    item_id = value["id"]
    if not isinstance(item_id, str):
        faults.append(f"id: wanted a string, got {_kind(item_id)}")
        return ""
    if not valid_id(item_id):
        faults.append(f"id: wanted 1 to 200 characters of A-Z a-z 0-9 . _ : -, got {_short(item_id)}")
    return item_id


def _check_image(value: object, faults: list[str]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        faults.append(f"image: wanted a path or null, got {_kind(value)}")
        return None
    fault = path_fault(value)
    if fault:
        faults.append(f"image: {fault}, got {_short(value)}")
    return value


def _check_strings(name: str, value: object, limit: int, faults: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        faults.append(f"{name}: wanted a list of strings, got {_kind(value)}")
        return ()
    for position, entry in enumerate(value):
        fault = _text_fault(entry, limit)
        if fault:
            faults.append(f"{name}[{position}]: {fault}")
            return ()
    return tuple(value)


def _text_fault(value: object, limit: int) -> str | None:
    if not isinstance(value, str):
        return f"wanted a string, got {_kind(value)}"
    if not value.strip():
        return "wanted a text, got nothing but blanks"
    if len(value) > limit:
        return f"wanted at most {limit} characters, got {len(value)}"
    if "\0" in value or not _encodable(value):
        return "holds a NUL or half of a surrogate pair, which no UTF-8 text may"
    return None


def _check_split(value: object, faults: list[str]) -> Split | None:
    if value is None:
        return None
    for split in SPLITS:
        if value == split:
            return split
    faults.append(f"split: wanted one of {', '.join(SPLITS)}, got {_short(value)}")
    return None


def _check_metadata(value: object, faults: list[str]) -> dict[str, MetadataValue]:
    if not isinstance(value, dict):
        faults.append(f"metadata: wanted a flat object, got {_kind(value)}")
        return {}
    for key, entry in value.items():
        fault = _metadata_fault(entry)
        if not _encodable(key) or "\0" in key:
            fault = "a key with a NUL or half of a surrogate pair"
        if fault:
            faults.append(f"metadata[{_short(key)}]: {fault}")
    return value


def _metadata_fault(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if _encodable(value) and "\0" not in value else "not a UTF-8 text without NUL"
    if isinstance(value, int):
        return None if abs(value) <= MAX_INTEGER else "a whole number beyond 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number beyond a double's range"
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return next((fault for fault in map(_metadata_fault, value) if fault), None)
    return f"wanted a string, number, boolean or list of strings, got {_kind(value)}"


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "a boolean"),
        (str, "a string"),
        (int, "a number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _short(value: object) -> str:
    """`value` as it may appear in a message: escaped, and cut so that it cannot flood a terminal."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
