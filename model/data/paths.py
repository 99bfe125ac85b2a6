"""Files below a folder that somebody else filled: found without ever leaving that folder."""

import os
import stat
from pathlib import Path

from model.data.lines import path_fault
from model.errors import DataError

# The largest original photograph worth reading; longer files are refused before they are read.
MAX_IMAGE_BYTES = 64 << 20


def locate(root: Path, relative: str) -> Path:
    """The regular file that `relative` names below `root`, with every link followed.

    `root` must be resolved already. Raises DataError when the path is absolute, has `..`, leads out
    of `root` through a link, does not exist, or is no regular file (a pipe would block its reader).
    """
    fault = path_fault(relative)
    if fault:
        raise DataError(f"{fault}, got {relative[:80]!a}")
    try:
        real = Path(os.path.realpath(root / relative, strict=True))
        mode = real.stat().st_mode
    except OSError as error:
        raise DataError(f"no file {relative[:80]!a} ({error.strerror})") from error
    if not real.is_relative_to(root):
        raise DataError(f"{relative[:80]!a} is a link that leaves the folder")
    if not stat.S_ISREG(mode):
        raise DataError(f"{relative[:80]!a} is no regular file")
    return real


def read_image_bytes(path: Path) -> bytes:
    """The bytes of an image file; raises DataError when it cannot be read or exceeds `MAX_IMAGE_BYTES`."""
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise DataError(f"unreadable ({error.strerror})") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"wanted at most {MAX_IMAGE_BYTES >> 20} MiB, the file is longer")
    return data


def existing_folder(folder: Path) -> Path:
    """`folder` resolved; raises DataError when there is no such folder."""
    if not folder.is_dir():
        raise DataError(f"wanted a folder, got {folder}")
    return folder.resolve()
