"""From a corpus to batches: which items in which order, augmented, on the right device."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.defences.base import Batch
from model.errors import DataError
from model.training.augment import augment_images, draw, drop_tokens
from model.training.config import Recipe
from model.training.corpus import Corpus
from model.training.distributed import World
from model.training.edits import EditedTexts
from model.training.images import ImageSource
from model.training.randomness import derive, make_generator
from model.training.tokens import TokenTable

EVALUATED_AT_ONCE = 256


@dataclass(frozen=True)
class Sides:
    """Decoded inputs of a corpus; None where the model has no such tower."""

    images: ImageSource | None
    tokens: TokenTable | None
    edits: EditedTexts | None = None


class Feed:
    """Batches of one process, a pure function of (recipe's seed, epoch, position)."""

    def __init__(self, recipe: Recipe, corpus: Corpus, sides: Sides, world: World) -> None:
        """Fix the batch size.

        The recipe's, or all items when there are fewer; a multiple of the number of processes. What is
        left over at an epoch's end is another part of the items each time.

        Raises:
            DataError: fewer than two items for each process.

        """
        self.recipe, self.corpus, self.sides, self.world = recipe, corpus, sides, world
        wanted = min(recipe.schedule.batch, len(corpus.trained))
        self.batch_size = wanted - wanted % world.size
        if self.batch_size < 2 * world.size:
            raise DataError(
                f"wanted at least 2 items per process and step, got {wanted} for {world.size} process(es)"
            )
        self.steps = len(corpus.trained) // self.batch_size
        self.has_image = torch.tensor([p is not None for p in corpus.images]) & (sides.images is not None)
        silent = torch.zeros(len(corpus.ids), dtype=torch.bool)
        self.has_text = sides.tokens.present if sides.tokens else silent

    def order(self, epoch: int) -> list[Tensor]:
        """The epoch's global batches: int64 positions among the trained items, a fresh permutation."""
        generator = make_generator("cpu", self.recipe.seed, "order", epoch)
        shuffled = torch.randperm(len(self.corpus.trained), generator=generator)
        return list(torch.split(shuffled[: self.steps * self.batch_size], self.batch_size))

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """This process's parts of the epoch's batches, from batch number ``done`` on."""
        batches = self.order(epoch)[done:]
        part = self.world.part(self.batch_size)
        items = [self.corpus.trained[batch] for batch in batches]
        streams = self.sides.images.stream([each[part] for each in items]) if self.sides.images else None
        for number, positions in enumerate(items, start=done):
            images = next(streams) if streams else None
            yield self._batch(positions, images, batches[number - done][part], (epoch, number))

    def _batch(self, positions: Tensor, images: Tensor | None, items: Tensor, at: tuple[int, int]) -> Batch:
        """Augment this process's part; draws are made for the whole batch and cut."""
        settings, part, device = self.recipe.augment, self.world.part(self.batch_size), self.world.device
        generator = make_generator("cpu", self.recipe.seed, "augment", *at)
        draws = draw(len(positions), settings, generator).part(part)
        own = positions[part]
        pixels = torch.zeros(len(own), 0, device=device)
        if images is not None:
            pixels = self._sized(augment_images(images.to(device), draws, settings.crop_padding), at[0])
        tokens, edited = torch.zeros(len(own), 1, dtype=torch.int64), None
        if self.sides.tokens:
            rows = self.sides.tokens.rows(positions, at[0])
            tokens = drop_tokens(rows, settings.token_dropout, self.sides.tokens.marks, generator)[part]
            edited = self._edited(self.sides.tokens, positions, tokens, at)
        return Batch(
            images=pixels,
            tokens=tokens.to(device),
            labels=self.corpus.labels[own].to(device),
            has_image=self.has_image[own].float().to(device),
            has_text=self.has_text[own].float().to(device),
            items=items.to(device),
            edited=None if edited is None else edited.to(device),
        )

    def _sized(self, images: Tensor, epoch: int) -> Tensor:
        """Images (n, 3, S, S) at the side that the epoch is trained at; never enlarged."""
        schedule = self.recipe.schedule
        small = epoch < round(schedule.small_until * schedule.epochs)
        if not (small and 0 < schedule.small_side < images.shape[2]):
            return images
        return F.interpolate(images, size=(schedule.small_side,) * 2, mode="area").contiguous(
            memory_format=torch.channels_last
        )

    def _edited(
        self, table: TokenTable, positions: Tensor, tokens: Tensor, at: tuple[int, int]
    ) -> Tensor | None:
        """Edited versions (n, tries, L) of this part's texts; where nothing is edited, ``tokens`` (n, L)."""
        if self.sides.edits is None:
            return None
        generator = np.random.default_rng(derive(self.recipe.seed, "edits", *at))
        part = self.world.part(self.batch_size)
        return self.sides.edits.versions(table.texts(positions, at[0]), tokens, part, generator)


def plain_images(source: ImageSource, items: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Images of items as they are, float (n, 3, S, S) in [0, 1], channels-last, in blocks."""
    for block in source.stream(list(torch.split(items, EVALUATED_AT_ONCE))):
        yield (block.to(device).float() / 255).permute(0, 3, 1, 2)


def plain_tokens(table: TokenTable, items: Tensor, device: torch.device) -> Iterator[Tensor]:
    """First texts of items as token ids, in blocks."""
    for block in torch.split(items, EVALUATED_AT_ONCE):
        yield table.rows(block, None).to(device)
