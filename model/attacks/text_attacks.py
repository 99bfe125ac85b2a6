"""Attacks that change the text itself, which is what a user can send: one greedy loop, two ways to propose.

Each round proposes changes of single words, asks the model about them, and keeps the best if it raises the
criterion; until the word budget is spent. `WordSubstitution` ranks its proposals by the gradient
(white-box), `Typos` draws them (it sees what the model answers and no gradient).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from model.attacks.base import CodeCriterion, Criterion, Objective, Target
from model.attacks.mainstay import signs
from model.attacks.relaxation import Relaxation
from model.attacks.text_limits import (
    Rule,
    SubstitutionRule,
    TypoRule,
    broken_limits,
    replace_word,
    typos,
    word_budget,
    words,
)
from model.attacks.text_model import TextModel
from model.attacks.victims import frozen
from model.errors import RecipeError


@dataclass(frozen=True)
class Edit:
    """Word number `index` becomes `new`."""

    index: int
    new: str


@dataclass(frozen=True, eq=False)
class TextOutcome:
    """What became of n texts. texts: tuple of n. original: as the tokenizer got them (single spaces).

    value, loss, clean_loss, queries, backward: as in AttackOutcome. changed: int64 (n,) words changed.
    """

    texts: tuple[str, ...]
    original: tuple[str, ...]
    value: Tensor
    loss: Tensor
    clean_loss: Tensor
    queries: Tensor
    backward: Tensor
    changed: Tensor

    def broken(self, rule: Rule) -> list[tuple[int, str]]:
        """(row, sentence) for every limit that some text breaks; empty when all are within theirs."""
        pairs = enumerate(zip(self.original, self.texts, strict=True))
        return [(row, fault) for row, (old, new) in pairs for fault in broken_limits(old, new, rule)]


class Proposer(Protocol):
    """How to propose changes."""

    @property
    def gradients(self) -> int:
        """Gradients it takes per round."""
        ...

    @property
    def rule(self) -> Rule:
        """The limits of one word's change."""
        ...

    def propose(self, round_: Round, generator: Generator) -> list[list[Edit]]:
        """Per open text, the changes worth asking about; none for a text that has none."""
        ...


@dataclass(frozen=True, eq=False)
class Round:
    """The open texts of one round, their targets, and the words of each that have changed already."""

    model: TextModel
    objective: Objective
    texts: list[str]
    target: Target
    taken: list[frozenset[int]]


@dataclass(frozen=True)
class TextAttack:
    """`proposer` under `objective`; `name` is its method and aim, as "typos:mainstay"."""

    method: str
    objective: Objective
    proposer: Proposer

    @property
    def name(self) -> str:
        """As "words:mainstay"."""
        return f"{self.method}:{self.objective.name}"

    @property
    def rule(self) -> Rule:
        """The limits of one word's change, for `broken_limits`."""
        return self.proposer.rule

    def __call__(
        self,
        model: TextModel,
        texts: Sequence[str],
        target: Target,
        *,
        generator: Generator,
        criterion: Criterion | None = None,
    ) -> TextOutcome:
        """Attack texts, each for its row of `target`."""
        with frozen(model):
            search = _Greedy(self, model, [model.codec.clean(t) for t in texts], target, criterion)
            while search.open:
                search.step(generator)
        return search.outcome()


class _Greedy:
    """The loop's state over n texts."""

    def __init__(
        self,
        attack: TextAttack,
        model: TextModel,
        texts: list[str],
        target: Target,
        criterion: Criterion | None,
    ) -> None:
        self.attack, self.model, self.target = attack, model, target
        self.judge = criterion or CodeCriterion(attack.objective)
        self.original, self.texts = tuple(texts), list(texts)
        self.taken: list[frozenset[int]] = [frozenset()] * len(texts)
        everything = torch.arange(len(texts))
        self.value, self.loss = self.look(texts, everything)
        self.clean_loss = self.loss.clone()
        self.queries = torch.ones(len(texts), dtype=torch.int64)
        self.backward = torch.zeros(len(texts), dtype=torch.int64)
        self.open = [row for row, text in enumerate(texts) if word_budget(text) > 0]

    def look(self, texts: list[str], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Criterion and objective (m,) of texts that stand for the queries `rows` (m,)."""
        logits = self.model.logits(texts)
        target = self.target.rows(rows.to(self.target.codes.device))
        return self.judge(logits, target), self.attack.objective(signs(logits), target)

    def step(self, generator: Generator) -> None:
        """One round over the open texts; a text with no better proposal, or no budget left, is closed."""
        index = torch.tensor(self.open)
        texts, taken = [self.texts[r] for r in self.open], [self.taken[r] for r in self.open]
        target = self.target.rows(index.to(self.target.codes.device))
        round_ = Round(self.model, self.attack.objective, texts, target, taken)
        offers = self.attack.proposer.propose(round_, generator)
        self.backward[index] += self.attack.proposer.gradients
        flat = [(row, edit) for row, edits in zip(self.open, offers, strict=True) for edit in edits]
        if not flat:
            self.open = []
            return
        tried = [replace_word(self.texts[row], edit.index, edit.new) for row, edit in flat]
        rows = torch.tensor([row for row, _ in flat])
        self.queries += torch.bincount(rows, minlength=len(self.queries))
        value, loss = self.look(tried, rows)
        self.open = self._accept(flat, tried, value, loss)

    def _accept(
        self, flat: list[tuple[int, Edit]], tried: list[str], value: Tensor, loss: Tensor
    ) -> list[int]:
        """Keep each text's best proposal where it is better than what it had; the texts still open."""
        best: dict[int, int] = {}
        values = value.tolist()
        for place, (row, _) in enumerate(flat):
            if row not in best or values[place] > values[best[row]]:
                best[row] = place
        still = []
        for row, place in best.items():
            if not values[place] > float(self.value[row]):
                continue
            self.texts[row], self.value[row], self.loss[row] = tried[place], value[place], loss[place]
            self.taken[row] |= {flat[place][1].index}
            if len(self.taken[row]) < word_budget(self.original[row]):
                still.append(row)
        return still

    def outcome(self) -> TextOutcome:
        """The result."""
        changed = torch.tensor([len(taken) for taken in self.taken], dtype=torch.int64)
        return TextOutcome(
            tuple(self.texts),
            self.original,
            self.value,
            self.loss,
            self.clean_loss,
            self.queries,
            self.backward,
            changed,
        )


@dataclass(frozen=True, eq=False)
class WordSubstitution:
    """Proposes the `tries` substitutions that the gradient likes best: (e_new - e_old) . sum of its slope.

    A word's vector is the mean of its tokens' embeddings. Candidates are what `rule` allows.
    """

    rule: SubstitutionRule
    tries: int = 24
    relaxation: Relaxation = field(default_factory=Relaxation)
    gradients: int = 1

    def propose(self, round_: Round, generator: Generator) -> list[list[Edit]]:
        """Ranked per text, best first."""
        slopes = round_.model.word_slopes(round_.texts, round_.target, round_.objective, self.relaxation)
        wanted = {
            word.lower(): sorted(self.rule.substitutes(word)) for text in round_.texts for word in words(text)
        }
        vectors = round_.model.word_vectors(sorted({*wanted, *(w for ws in wanted.values() for w in ws)}))
        offers = []
        for text, slope, taken in zip(round_.texts, slopes, round_.taken, strict=True):
            scored: list[tuple[float, Edit]] = []
            for index, word in enumerate(words(text)):
                new = wanted[word.lower()]
                if index in taken or not new or index >= len(slope):
                    continue
                gain = (torch.stack([vectors[w] for w in new]) - vectors[word.lower()]) @ slope[index]
                scored += [(g, Edit(index, _cased(w, word))) for g, w in zip(gain.tolist(), new, strict=True)]
            scored.sort(key=lambda pair: -pair[0])
            offers.append([edit for _, edit in scored[: self.tries]])
        return offers


@dataclass(frozen=True)
class Typos:
    """Proposes `tries` random typing errors per text and round."""

    rule: TypoRule = field(default_factory=TypoRule)
    tries: int = 24
    gradients: int = 0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise RecipeError(f"tries: wanted a whole number >= 1, got {self.tries!r}")

    def propose(self, round_: Round, generator: Generator) -> list[list[Edit]]:
        """Drawn without repeats, every word alike and then every edit of it."""
        return [
            self._draw(text, taken, generator) for text, taken in zip(round_.texts, round_.taken, strict=True)
        ]

    def _draw(self, text: str, taken: frozenset[int], generator: Generator) -> list[Edit]:
        choices = {i: sorted(typos(word)) for i, word in enumerate(words(text)) if i not in taken}
        open_ = [i for i, found in choices.items() if found]
        if not open_:
            return []
        draws = torch.rand(self.tries, 2, generator=generator, device=generator.device).tolist()
        picked: dict[Edit, None] = {}
        for which, edit in draws:
            index = open_[int(which * len(open_))]
            found = choices[index]
            picked[Edit(index, found[int(edit * len(found))])] = None
        return list(picked)


def _cased(new: str, old: str) -> str:
    """`new` in the manner of `old`: upper, Capitalised or lower."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new.capitalize() if old[:1].isupper() else new
