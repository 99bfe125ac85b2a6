"""Reading an artefact's JSON files without believing them: sizes, types, ranges, file names.

No torch here: listing models must be quick, and a manifest is checked before any weight is touched.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NoReturn

from model.errors import ArtefactError

FORMAT = 1
MAX_JSON_BYTES = 8_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
SHA256 = re.compile(r"[0-9a-f]{64}")

WEIGHTS, TOKENIZER, SCORE = "model.safetensors", "tokenizer.json", "score.safetensors"
CALIBRATION, ROBUSTNESS, README = "calibration.json", "robustness.json", "README.md"
# A manifest may name these and nothing else, so a name can neither leave the folder nor surprise.
# What is recorded after training (robustness.json) stands in evidence.json: model/artefact_evidence.py.
FILES = frozenset({WEIGHTS, TOKENIZER, SCORE, CALIBRATION, README})
REQUIRED = frozenset({WEIGHTS, CALIBRATION, README})
TASKS = frozenset({"image-to-text", "text-to-image", "image-to-image", "text-to-text"})

_FIELDS: Mapping[str, tuple[type, ...]] = {
    "format": (int,),
    "name": (str,),
    "version": (str,),
    "created": (str,),
    "code_version": (str,),
    "bits": (int,),
    "architecture": (dict,),
    "preprocessing": (dict, type(None)),
    "preprocessing_digest": (str,),
    "label_names": (list,),
    "training_data": (dict,),
    "defence": (dict,),
    "threat": (dict, type(None)),
    "scores": (dict,),
    "seed": (int,),
    "files": (dict,),
}


def read_object(data: bytes, where: str, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of at most `most` bytes (8 MB), without NaN or infinities; raises ArtefactError."""
    if len(data) > most:
        raise ArtefactError(f"{where}: wanted at most {most} bytes, got {len(data)}")
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{where}: wanted JSON, got something else: {error}") from error
    if not isinstance(found, dict):
        raise ArtefactError(f"{where}: wanted a JSON object, got {type(found).__name__}")
    return found


def check_manifest(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse an unknown format, unknown or missing fields, wrong types, bad file names (ArtefactError)."""
    if manifest.get("format") != FORMAT:
        raise ArtefactError(f"{where}: wanted format {FORMAT}, got {manifest.get('format')!r}")
    check_names(set(manifest), set(_FIELDS), set(_FIELDS), where)
    for field, types in _FIELDS.items():
        value = manifest[field]
        if not isinstance(value, types) or isinstance(value, bool):
            wanted = " or ".join(t.__name__ for t in types)
            raise ArtefactError(f"{where}: {field}: wanted {wanted}, got {type(value).__name__}")
    _check_pattern(manifest["name"], NAME, f"{where}: name")
    _check_pattern(manifest["version"], VERSION, f"{where}: version")
    if manifest["bits"] not in range(16, 257, 8):
        raise ArtefactError(f"{where}: bits: wanted a multiple of 8 from 16 to 256, got {manifest['bits']}")
    if not all(isinstance(label, str) for label in manifest["label_names"]):
        raise ArtefactError(f"{where}: label_names: wanted strings")
    sides = set(manifest["architecture"])
    if not sides or sides - {"image", "text"}:
        raise ArtefactError(f"{where}: architecture: wanted image, text or both, got {sorted(sides)}")
    _check_files(manifest["files"], where)


def _check_files(files: Mapping[str, Any], where: str) -> None:
    check_names(set(files), set(FILES), set(REQUIRED), f"{where}: files")
    for name, entry in files.items():
        check_entry(name, entry, f"{where}: files")


def check_entry(name: str, entry: object, where: str) -> None:
    """Refuse what is not the SHA-256 and size of a file (ArtefactError)."""
    if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
        raise ArtefactError(f"{where}: {name}: wanted sha256 and bytes, got {entry!r}")
    _check_pattern(entry["sha256"], SHA256, f"{where}: {name}: sha256")
    size = entry["bytes"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ArtefactError(f"{where}: {name}: bytes: wanted a whole number, got {size!r}")


def check_calibration(table: Mapping[str, Any], bits: int, where: str) -> dict[str, tuple[float, ...]]:
    """P(relevant | distance) per task, K + 1 probabilities that never rise; raises ArtefactError."""
    check_names(set(table), {"bits", "tasks"}, {"bits", "tasks"}, where)
    if table["bits"] != bits:
        raise ArtefactError(f"{where}: bits: wanted {bits} as in the manifest, got {table['bits']!r}")
    tasks = table["tasks"]
    if not isinstance(tasks, dict):
        raise ArtefactError(f"{where}: tasks: wanted an object, got {type(tasks).__name__}")
    check_names(set(tasks), set(TASKS), set(), f"{where}: tasks")
    return {task: _check_curve(curve, bits, f"{where}: {task}") for task, curve in tasks.items()}


def _check_curve(curve: object, bits: int, where: str) -> tuple[float, ...]:
    if not isinstance(curve, list) or len(curve) != bits + 1:
        got = len(curve) if isinstance(curve, list) else type(curve).__name__
        raise ArtefactError(f"{where}: wanted {bits + 1} probabilities, got {got}")
    for p in curve:
        if isinstance(p, bool) or not isinstance(p, int | float) or not math.isfinite(p) or not 0 <= p <= 1:
            raise ArtefactError(f"{where}: wanted probabilities from 0 to 1, got {p!r}")
    if any(later > sooner for sooner, later in pairwise(curve)):
        raise ArtefactError(f"{where}: wanted probabilities that never rise with the distance")
    return tuple(float(p) for p in curve)


def check_names(got: set[str], known: set[str], wanted: set[str], where: str) -> None:
    """Refuse names that are not known, and the lack of wanted ones (ArtefactError)."""
    if got - known:
        raise ArtefactError(f"{where}: unknown {', '.join(sorted(got - known))}")
    if wanted - got:
        raise ArtefactError(f"{where}: missing {', '.join(sorted(wanted - got))}")


def _check_pattern(value: object, pattern: re.Pattern[str], where: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ArtefactError(f"{where}: wanted {pattern.pattern}, got {value!r}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
