"""Reading files that strangers may have put there, and writing files so that a power cut keeps them whole."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from model.errors import ArtefactError


def folders(parent: Path, pattern: re.Pattern[str]) -> list[str]:
    """Names of the folders in `parent` that match `pattern` as a whole; none when there is no `parent`."""
    if not parent.is_dir():
        return []
    return [entry.name for entry in parent.iterdir() if pattern.fullmatch(entry.name) and entry.is_dir()]


def read_file(path: Path, most: int) -> bytes:
    """At most `most` + 1 bytes of a regular file (a pipe would block, a device never end); ArtefactError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ArtefactError(f"{path}: wanted a file, got: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtefactError(f"{path}: wanted a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most + 1)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write and fsync."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Fsync a folder: makes the names in it last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
