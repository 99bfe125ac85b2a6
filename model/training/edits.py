"""Training texts with words changed the way a hostile user would: what text attacks do, as augmentation.

An edit changes as many words as an attack may (`word_budget`), each by one typing error or by another word
of the corpus; a label's word never comes in by that. With a thesaurus a label's word becomes a synonym or
is mistyped, as under the word attack, which keeps the text's meaning. Several edits of a text can be tried:
`hardest` keeps the one whose code is farthest from the code of the text as it was, which is adversarial
augmentation with the budget of the attacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from model.attacks.text_limits import label_words, replace_word, typos, word_budget, words
from model.attacks.victims import frozen
from model.attacks.wordnet import Thesaurus, base_forms
from model.data.text import TextCodec
from model.defences.base import Batch
from model.hashers.base import CrossModalHasher

VOCABULARY = 20_000
"""Most frequent words of the corpus that others may become."""


@dataclass(frozen=True, eq=False)
class Editor:
    """others: words that may stand for any other, without the labels' own; may be empty (then typos only).

    mistyped: chance that a word to be changed gets a typing error; else it becomes another word.
    labels: words of labels, their base forms and synonyms. thesaurus: where labels' words have their
    synonyms from; without one they become other words like any word.
    """

    others: tuple[str, ...]
    mistyped: float = 0.5
    labels: frozenset[str] = frozenset()
    thesaurus: Thesaurus | None = None

    @staticmethod
    def of(
        texts: Iterable[str],
        label_names: Iterable[str],
        mistyped: float = 0.5,
        thesaurus: Thesaurus | None = None,
    ) -> Editor:
        """The editor of a corpus."""
        labels = label_words(label_names, thesaurus)
        counts = Counter(word.lower() for text in texts for word in words(text))
        known = (word for word, _ in counts.most_common())
        kept = islice((word for word in known if labels.isdisjoint(base_forms(word, thesaurus))), VOCABULARY)
        return Editor(tuple(kept), mistyped, labels, thesaurus)

    def edit(self, text: str, generator: np.random.Generator) -> str:
        """`text` with `word_budget(text)` of its words changed; as it was when it has no words."""
        found = words(text)
        for index in generator.permutation(len(found))[: word_budget(text)].tolist():
            text = replace_word(text, index, self._other(found[index], generator))
        return text

    def _other(self, word: str, generator: np.random.Generator) -> str:
        """What a word becomes; itself when nothing else is to be had."""
        others = self._meant(word)
        mistyped = not others or generator.random() < self.mistyped
        choices: Sequence[str] = sorted(typos(word)) if mistyped else others
        return choices[int(generator.integers(len(choices)))] if choices else word

    def _meant(self, word: str) -> Sequence[str]:
        """What may stand for a word: any other, or for a label's word its synonyms."""
        lower = word.lower()
        if self.thesaurus is None or self.labels.isdisjoint(base_forms(lower, self.thesaurus)):
            return self.others
        return sorted(self.thesaurus.synonyms(lower) - {lower})


@dataclass(frozen=True, eq=False)
class EditedTexts:
    """Makes the edited versions of a batch's texts. share: chance that a text is edited at all."""

    codec: TextCodec
    editor: Editor
    share: float
    tries: int

    def versions(
        self, texts: Sequence[str], tokens: Tensor, part: slice, generator: np.random.Generator
    ) -> Tensor:
        """Token ids int64 (n, tries, L') of a process's part of the batch's texts.

        Draws are made for the whole batch, so that an item gets the same edits with one process as with many.

        Args:
            texts: of the whole batch.
            tokens: int64 (n, L), what stands for the part's texts that are not edited, all tries of them.
            part: this process's rows.
            generator: decides.

        """
        hit = generator.random(len(texts)) < self.share
        seeds = generator.integers(2**63, size=len(texts))
        edited, blank = torch.from_numpy(hit)[part], self.codec.padding_id
        flat = [
            self.editor.edit(text, one) if chosen else ""
            for text, seed, chosen in zip(texts[part], seeds[part], hit[part], strict=True)
            for one in [np.random.default_rng(seed)]
            for _ in range(self.tries)
        ]
        rows = self.codec.encode(flat).view(len(edited), self.tries, -1)
        width = max(rows.shape[-1], tokens.shape[1])
        rows = nn.functional.pad(rows, (0, width - rows.shape[-1]), value=blank)
        plain = nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=blank)
        return torch.where(edited[:, None, None], rows, plain[:, None])


def hardest(hasher: CrossModalHasher, batch: Batch) -> Batch:
    """The batch with its texts replaced by the hardest of their edited versions.

    Hardest is the version whose relaxed code has the smallest inner product with the code of the text as it
    was, in evaluation mode and without gradients; of equals the first. A batch without versions stays.
    """
    if batch.edited is None:
        return batch
    n, tries, _ = batch.edited.shape
    if tries == 1:
        return replace(batch, tokens=batch.edited[:, 0], edited=None)
    with torch.no_grad(), frozen(hasher):
        before = hasher.hash_text(batch.tokens)
        after = hasher.hash_text(batch.edited.flatten(0, 1)).view(n, tries, -1)
    chosen = (after * before[:, None]).sum(-1).argmin(1)
    rows = torch.arange(n, device=chosen.device)
    return replace(batch, tokens=batch.edited[rows, chosen], edited=None)
