"""What a text attack may do, and the function that says whether it did: used by attacks, tests and reports.

A word is a run of letters and digits, with hyphens and apostrophes inside. At most max(1, 20 %) of the
words change, everything between them stays. Substitution: a label's word only by a synonym, another word
only within its neighbourhood and never by a label's word. Typos: one edit a word (insert, delete, swap,
keyboard neighbour).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from model.attacks.wordnet import Thesaurus, base_forms

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
STOP_WORDS = frozenset(
    {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"}
)
SHARE = 0.2

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""A US keyboard; each row stands half a key to the right of the one above."""

Neighbours = Callable[[str], frozenset[str]]
"""A lower-case word -> the words that may replace it."""


class Rule(Protocol):
    """Which change of one word is allowed."""

    def fault(self, old: str, new: str) -> str | None:
        """What is wrong with `new` for `old`, or None."""
        ...


@dataclass(frozen=True, eq=False)
class SubstitutionRule:
    """labels: from `label_words`. Without a thesaurus label words stay untouched (`note` says so)."""

    labels: frozenset[str]
    neighbours: Neighbours
    thesaurus: Thesaurus | None = None

    @property
    def note(self) -> str:
        """The condition that a report prints."""
        if self.thesaurus is None:
            return "no WordNet was given: words of labels stay untouched"
        return "words of labels are replaced by WordNet synonyms only"

    def is_label(self, word: str) -> bool:
        """Whether `word`, or a base form of it, is a word of some label."""
        return not self.labels.isdisjoint(base_forms(word.lower(), self.thesaurus))

    def substitutes(self, word: str) -> frozenset[str]:
        """What may stand for `word`, lower case, `word` itself left out."""
        lower = word.lower()
        if self.is_label(lower):
            found = self.thesaurus.synonyms(lower) if self.thesaurus else frozenset()
        else:
            found = frozenset(w for w in self.neighbours(lower) if not self.is_label(w))
        return found - {lower}

    def fault(self, old: str, new: str) -> str | None:
        """Not among the substitutes."""
        if new.lower() in self.substitutes(old):
            return None
        if self.is_label(old):
            return f"{old!r} is a label's word and {new!r} is no synonym of it"
        if self.is_label(new):
            return f"{new!r} is a label's word that the text did not have"
        return f"{new!r} is not in the neighbourhood of {old!r}"


@dataclass(frozen=True)
class TypoRule:
    """One edit a word."""

    def fault(self, old: str, new: str) -> str | None:
        """More than one edit, or none that a hand makes."""
        return None if new in typos(old) else f"{new!r} is more than one typing error from {old!r}"


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Their places, (start, end) in characters."""
    return [match.span() for match in WORD.finditer(text)]


def word_budget(text: str) -> int:
    """How many words may change: max(1, 20 % rounded down), 0 for a text without words."""
    count = len(words(text))
    return max(1, int(SHARE * count)) if count else 0


def replace_word(text: str, index: int, new: str) -> str:
    """`text` with its word number `index` replaced."""
    start, end = word_spans(text)[index]
    return text[:start] + new + text[end:]


def changed_words(original: str, changed: str) -> list[tuple[str, str]] | None:
    """The pairs (old, new) that differ; None when words or what lies between them do not correspond."""
    if WORD.split(original) != WORD.split(changed):
        return None
    return [(a, b) for a, b in zip(words(original), words(changed), strict=True) if a != b]


def broken_limits(original: str, changed: str, rule: Rule) -> list[str]:
    """Every limit that `changed` breaks, as sentences; empty when it is within all of them."""
    pairs = changed_words(original, changed)
    if pairs is None:
        return ["something other than words has changed, or their number"]
    faults = [fault for old, new in pairs if (fault := rule.fault(old, new))]
    budget = word_budget(original)
    if len(pairs) > budget:
        faults.append(f"{len(pairs)} words changed, allowed are {budget}")
    return faults


def label_words(names: Iterable[str], thesaurus: Thesaurus | None = None) -> frozenset[str]:
    """Words of label names ("article:Sports Shoes", "group_of_people"), their base forms, and synonyms.

    What stands before a colon is the label's kind. With a thesaurus a synonym of a label's word says the
    label too.
    """
    plain: set[str] = set()
    for name in names:
        spoken = name.rsplit(":", 1)[-1].replace("_", " ").lower()
        plain.update(word for word in words(spoken) if word not in STOP_WORDS)
    known = {form for word in plain for form in base_forms(word, thesaurus)}
    if thesaurus:
        known |= {synonym for word in plain for synonym in thesaurus.synonyms(word)}
    return frozenset(known)


def typos(word: str) -> frozenset[str]:
    """Every text one typing error away that is still one word: keeps the first letter's case elsewhere.

    Insertions double a letter or add a keyboard neighbour; a deletion leaves at least one character.
    """
    found: set[str] = set()
    for i, letter in enumerate(word):
        head, tail = word[:i], word[i + 1 :]
        near = keyboard_neighbours(letter)
        found.add(head + tail)
        found.update(head + key + tail for key in near)
        found.update(head + letter + key + tail for key in (*near, letter))
        found.update(head + key + letter + tail for key in near)
        if tail:
            found.add(head + tail[0] + letter + tail[1:])
    return frozenset(new for new in found if new != word and WORD.fullmatch(new))


def keyboard_neighbours(letter: str) -> tuple[str, ...]:
    """Keys that touch `letter` on a US keyboard, in its case; none for other characters."""
    lower = letter.lower()
    for y, row in enumerate(ROWS):
        x = row.find(lower)
        if x >= 0 and len(lower) == 1:
            places = [(y, x - 1), (y, x + 1), (y - 1, x), (y - 1, x + 1), (y + 1, x - 1), (y + 1, x)]
            keys = [ROWS[r][c] for r, c in places if 0 <= r < len(ROWS) and 0 <= c < len(ROWS[r])]
            return tuple(key.upper() if letter.isupper() else key for key in keys)
    return ()
