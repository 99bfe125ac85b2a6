"""All texts of a corpus as token ids, and which text stands for an item in an epoch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.text import TextCodec
from model.training.randomness import pick

JOINT = " . "
"""Between the texts of an item when they are joined."""


@dataclass(frozen=True)
class Marks:
    """Ids with a meaning of their own: ``special`` int64 (m,), ``unknown`` what a dropped token becomes."""

    special: Tensor
    unknown: int


def read_marks(codec: TextCodec) -> Marks:
    """The special tokens of a codec; where a vocabulary has no unknown token, padding stands in for it."""
    content: dict[str, Any] = json.loads(codec.to_json())
    special = [token["id"] for token in content.get("added_tokens", []) if token.get("special")]
    model = content["model"]
    unknown = model.get("unk_id")  # of a unigram vocabulary; the others give the token itself
    if unknown is None and isinstance(model.get("vocab"), dict):
        unknown = model["vocab"].get(model.get("unk_token"))
    return Marks(
        torch.tensor(sorted({codec.padding_id, *special}), dtype=torch.int64),
        codec.padding_id if unknown is None else int(unknown),
    )


class TokenTable:
    """Token ids of every text; items without text have one row of padding."""

    def __init__(self, codec: TextCodec, texts: Sequence[Sequence[str]], mode: str, seed: int) -> None:
        """Tokenise once.

        Args:
            codec: the tokenizer.
            texts: each item's texts, maybe none.
            mode: ``sample``, ``first`` or ``joined`` (see `DataSettings.texts`).
            seed: decides the samples.

        """
        if mode == "joined":
            texts = [(JOINT.join(each),) if each else () for each in texts]
        self._flat = [text for each in texts for text in (each or ("",))]
        self._counts = np.array([max(len(each), 1) for each in texts], dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._sampled, self._seed = mode == "sample", seed
        self.padding_id = codec.padding_id
        self.marks = read_marks(codec)
        self.present = torch.tensor([bool(each) for each in texts])
        self.tokens = codec.encode(self._flat)
        silent = torch.from_numpy(self._starts)[~self.present]
        self.tokens[silent] = codec.padding_id

    def rows(self, items: Tensor, epoch: int | None) -> Tensor:
        """Token ids int64 (n, L) of items (n,), cut to the longest row among them.

        With an ``epoch`` (from 0) an item's text is sampled from (seed, epoch, item) when the mode says
        so; without, it is the first.
        """
        rows = self.tokens[torch.from_numpy(self._chosen(items, epoch))]
        longest = int((rows != self.padding_id).sum(1).max()) if len(rows) else 1
        return rows[:, : max(longest, 1)]

    def texts(self, items: Tensor, epoch: int | None) -> list[str]:
        """The texts whose ids `rows` gives; "" for an item without text."""
        return [self._flat[i] for i in self._chosen(items, epoch).tolist()]

    def _chosen(self, items: Tensor, epoch: int | None) -> NDArray[np.int64]:
        """Positions of the texts that stand for the items."""
        numbers: NDArray[np.int64] = items.numpy()
        chosen = self._starts[numbers]
        if epoch is not None and self._sampled:
            chosen = chosen + pick(self._seed, epoch, numbers, self._counts[numbers])
        return chosen
