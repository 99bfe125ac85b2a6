"""Synonyms from WordNet's own text files (Debian: package wordnet-base, folder /usr/share/wordnet).

The folder comes as an argument. The formats are those of the manual pages wndb(5) and wninput(5); only the
index, data and exception files are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError

PARTS = ("noun", "adj", "verb", "adv")
SENSES = 1  # WordNet lists the most frequent sense first; rarer ones turn "ring" into "gang"

PLURALS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("s", ""))
IRREGULAR: Mapping[str, str] = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
}


@dataclass(frozen=True, eq=False)
class Thesaurus:
    """index: per part of speech, lemma -> byte offsets of its senses. data: the synset files as bytes.

    exceptions: irregular noun forms -> lemma.
    """

    index: Mapping[str, Mapping[str, tuple[int, ...]]]
    data: Mapping[str, bytes]
    exceptions: Mapping[str, str]

    def synonyms(self, word: str) -> frozenset[str]:
        """Single words that share the first sense of `word` (lower case), as a noun or an adjective.

        Words that are neither are looked up as verbs and adverbs. The regular plural of a noun gives plurals
        and nothing else: as a lemma of its own it is mostly an idiom ("shoes" for "place").
        """
        lemma = singular(word)
        if lemma is not None and lemma in self.index["noun"]:
            return frozenset(plural(s) for s in self._of(lemma, "noun") if s != lemma)
        for parts in (("noun", "adj"), ("verb", "adv")):
            found = {s for part in parts for s in self._of(word, part)}
            if found:
                return frozenset(found - {word})
        return frozenset()

    def _of(self, lemma: str, part: str) -> list[str]:
        offsets = self.index[part].get(lemma, ())[:SENSES]
        return [word for offset in offsets for word in _synset(self.data[part], offset)]


def read_thesaurus(folder: Path) -> Thesaurus:
    """The WordNet in `folder`; raises DataError when it is not there or not WordNet."""
    try:
        index = {part: _index((folder / f"index.{part}").read_text("ascii")) for part in PARTS}
        data = {part: (folder / f"data.{part}").read_bytes() for part in PARTS}
        lines = (folder / "noun.exc").read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise DataError(f"wanted WordNet's index, data and exception files in {folder}: {error}") from error
    pairs = (line.split() for line in lines)
    return Thesaurus(index, data, {pair[0]: pair[1] for pair in pairs if len(pair) >= 2})


def base_forms(word: str, thesaurus: Thesaurus | None = None) -> frozenset[str]:
    """`word` (lower case) and what it may be a plural of."""
    forms = {word, IRREGULAR.get(word, word), singular(word) or word}
    if thesaurus:
        forms.add(thesaurus.exceptions.get(word, word))
    return frozenset(forms)


def singular(word: str) -> str | None:
    """The singular of a regular plural by its ending, or None ("glass")."""
    if word.endswith(("ss", "us", "is")) or len(word) < 4:
        return None
    for ending, instead in PLURALS:
        if word.endswith(ending):
            return word[: -len(ending)] + instead
    return None


def plural(word: str) -> str:
    """The regular plural."""
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def _index(text: str) -> dict[str, tuple[int, ...]]:
    """Lines "lemma pos synsets pointers [symbol...] senses tagged offset...", single words only."""
    found: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        if line.startswith(" "):  # the licence
            continue
        lemma, _, synsets, *rest = line.split()
        if "_" not in lemma:
            found[lemma] = tuple(int(offset) for offset in rest[-int(synsets) :])
    return found


def _synset(data: bytes, offset: int) -> list[str]:
    """The single words of "offset file type count(hex) word id word id ..."; marks as "(a)" are dropped."""
    parts = data[offset : data.find(b"\n", offset)].decode("ascii", "replace").split(" ")
    if len(parts) < 4:
        return []
    names = parts[4 : 4 + 2 * int(parts[3], 16) : 2]
    plain = (name.partition("(")[0].lower() for name in names)
    return [name for name in plain if name.isalpha()]
