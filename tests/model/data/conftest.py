"""Pictures and manifest folders made in code, shared by the tests of `model.data`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from data_set_files import picture_bytes

Line = dict[str, Any] | bytes
MakeFolder = Callable[..., Path]


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return picture_bytes


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a manifest folder from lines (objects, or raw bytes without line end) and images."""

    def make(*lines: Line, images: tuple[str, ...] = ("a.jpg",), name: str = "set") -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        for number, image in enumerate(images):
            (folder / "images" / image).write_bytes(picture_bytes(number))
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (folder / "pairs.jsonl").write_bytes(b"".join(line + b"\n" for line in raw))
        return folder

    return make
