"""What the backends over engines of others share: their client libraries, options and references.

A client library is an optional extra and is imported when the first index of its backend is made, because
it may be missing and because it is slow to load (pymilvus brings pandas).

Of such an index only a reference is saved: the name of the table or collection that holds its codes. The
name is random and never used again, so a reference cannot come to mean other codes. URLs hold passwords,
so they are saved nowhere and stand in no message.
"""

import importlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from index.errors import CorruptIndex, HashIndexError, UnknownOption, Unsupported
from index.files import fsync_folder, read_json, write_json
from index.saved import HEADER, REFERENCE_FORMAT

MAX_TIMEOUT_S = 3600.0
_NAME = re.compile(r"hashguard_[0-9a-f]{32}")


@dataclass(frozen=True)
class RemoteOptions:
    """Options of a backend over an engine elsewhere.

    url: where the engine listens. timeout_s: how long one call may take, above 0 to MAX_TIMEOUT_S seconds.
    """

    url: str
    timeout_s: float = 10.0

    @classmethod
    def of(cls, backend: str, schemes: Sequence[str], options: Mapping[str, object]) -> "RemoteOptions":
        """Check the options of a backend. Raises UnknownOption; the URL is never quoted."""
        unknown = sorted(set(options) - {"url", "timeout_s"})
        if unknown:
            raise UnknownOption(f"{backend}: wanted the options url and timeout_s, got {', '.join(unknown)}")
        url, timeout_s = options.get("url"), options.get("timeout_s", cls.timeout_s)
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        if not isinstance(url, str) or _scheme(url) not in schemes:
            got = "none" if url is None else "something else"
            raise UnknownOption(f"{backend}: wanted the option url, {wanted}..., got {got}")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
            raise UnknownOption(f"{backend}: wanted timeout_s in seconds, got {timeout_s!r:.80}")
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise UnknownOption(f"{backend}: wanted timeout_s up to {MAX_TIMEOUT_S:g}, got {timeout_s!r:.80}")
        return cls(url, float(timeout_s))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def import_client(module: str, extra: str) -> ModuleType:
    """Import a client library. Raises Unsupported, which names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unsupported(
            f"{extra}: wanted the client library {module}, got {error}: pip install 'hashguard[{extra}]'"
        ) from error


def new_name() -> str:
    """A name for a table or collection that nobody has used."""
    return f"hashguard_{uuid.uuid4().hex}"


def is_name(name: str) -> bool:
    """Whether a table or collection has a name as `new_name` makes them."""
    return _NAME.fullmatch(name) is not None


def take_announce(options: dict[str, object]) -> Callable[[str], None]:
    """Take `announce` out of the options of an index: it hears the name before anything of it is made."""
    announce = options.pop("announce", None)
    return announce if callable(announce) else lambda name: None


def write_reference(folder: Path, backend: str, bits: int, count: int, name: str) -> None:
    """Save where the codes of an index are; `count` is what it holds now.

    Raises HashIndexError when `folder` is not empty, OSError when the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise HashIndexError(f"{folder.name}: wanted an empty folder")
    reference = {"format": REFERENCE_FORMAT, "backend": backend, "bits": bits, "count": count, "name": name}
    write_json(folder / HEADER, reference)
    fsync_folder(folder)


def reference_of(folder: Path) -> tuple[str, str]:
    """The backend of a saved reference and the name in it. Raises CorruptIndex, also where there is none."""
    kind = reference_backend(folder)
    name = None if kind is None else read_reference(folder, kind)
    if kind is None or name is None:
        raise CorruptIndex(f"{HEADER}: wanted a reference, got the codes themselves")
    return kind, name


def reference_backend(folder: Path) -> str | None:
    """The backend that a saved reference belongs to; None when `folder` holds the codes themselves.

    Raises CorruptIndex.
    """
    header = read_json(folder / HEADER)
    return str(header.get("backend")) if header.get("format") == REFERENCE_FORMAT else None


def read_reference(folder: Path, backend: str, bits: int | None = None) -> str | None:
    """The name in a reference of this backend; None when `folder` holds the codes themselves.

    `bits` is compared when given. Raises CorruptIndex, also for the reference of another backend.
    """
    header = read_json(folder / HEADER)
    if header.get("format") != REFERENCE_FORMAT:
        return None
    if header.get("backend") != backend:
        raise CorruptIndex(f"{HEADER}: wanted codes in {backend}, got {header.get('backend')!r:.80}")
    if bits is not None and header.get("bits") != bits:
        raise CorruptIndex(f"{HEADER}: wanted {bits} bits, got {header.get('bits')!r:.80}")
    name = header.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CorruptIndex(f"{HEADER}: wanted a name {_NAME.pattern}, got {name!r:.80}")
    return name
