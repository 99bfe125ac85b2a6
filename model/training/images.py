"""Where a run's decoded images come from: memory when they fit, decoding workers when they do not."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.data.paths import read_image_bytes
from model.errors import DataError, ImageError
from model.preprocessing import Preprocessing

Tick = Callable[[int, int], None]
"""Called with (done, total); may raise to stop."""


class ImageSource(Protocol):
    """Decoded images by item number."""

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each part (n,) of item numbers its images, uint8 (n, S, S, 3); black where an item has none."""
        ...


def decode_file(path: Path | None, preprocessing: Preprocessing) -> Tensor:
    """One decoded image, uint8 (S, S, 3); black for None.

    Raises:
        DataError: the file cannot be read or is no usable picture; names the file.

    """
    if path is None:
        return torch.zeros(preprocessing.size, preprocessing.size, 3, dtype=torch.uint8)
    try:
        return torch.from_numpy(preprocessing.decode(read_image_bytes(path)))
    except (DataError, ImageError) as error:
        raise DataError(f"image {path.name}: {error}") from error


class ImagesInMemory:
    """All images decoded once into one uint8 tensor (N, S, S, 3)."""

    def __init__(self, images: Tensor) -> None:
        """Take the decoded images."""
        self.images = images

    @classmethod
    def decode(
        cls, paths: Sequence[Path | None], preprocessing: Preprocessing, tick: Tick
    ) -> "ImagesInMemory":
        """Decode files on all cores (Pillow releases the interpreter's lock); raises DataError."""
        side = preprocessing.size
        images = torch.zeros(len(paths), side, side, 3, dtype=torch.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = pool.map(lambda path: decode_file(path, preprocessing), paths)
            try:
                for i, image in enumerate(futures):
                    images[i] = image
                    tick(i + 1, len(paths))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return cls(images)

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `ImageSource`."""
        for part in parts:
            yield self.images[part]


class ImagesFromDisk:
    """Images decoded whenever they are wanted, ahead of time by ``workers`` processes (0: in this one)."""

    def __init__(self, paths: Sequence[Path | None], preprocessing: Preprocessing, workers: int) -> None:
        """Remember the files; nothing is read yet."""
        self._files = _Files(paths, preprocessing)
        self._workers = workers

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `ImageSource`; raises DataError for a file that has become unreadable."""
        # The loader draws its workers' base seed from this generator instead of the process's own.
        loader: DataLoader[Tensor] = DataLoader(
            self._files,
            batch_sampler=[part.tolist() for part in parts],
            num_workers=self._workers,
            generator=torch.Generator(),
        )
        yield from loader


class _Files(Dataset[Tensor]):
    """Decoding on access."""

    def __init__(self, paths: Sequence[Path | None], preprocessing: Preprocessing) -> None:
        self.paths = tuple(paths)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> Tensor:
        return decode_file(self.paths[item], self.preprocessing)


def open_images(
    paths: Sequence[Path | None], preprocessing: Preprocessing, memory_mb: int, workers: int, tick: Tick
) -> ImageSource:
    """Images in memory when all of them take at most ``memory_mb`` MiB decoded, else from disk."""
    if len(paths) * preprocessing.size**2 * 3 <= memory_mb * 2**20:
        return ImagesInMemory.decode(paths, preprocessing, tick)
    return ImagesFromDisk(paths, preprocessing, workers)
