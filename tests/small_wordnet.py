"""A WordNet folder of a few synsets in the real files' format, for tests without Debian's package."""

from pathlib import Path

SYNSETS = {
    "noun": [
        ("dog", "domestic_dog", "hound"),
        ("cat", "true_cat", "feline"),
        ("box", "carton"),
        ("gang", "dog"),
    ],
    "adj": [("blue", "bluish(a)"), ("fast", "quick")],
    "verb": [("climb", "mount"), ("fast", "starve")],
    "adv": [("quickly", "rapidly")],
}
LETTER = {"noun": "n", "adj": "a", "verb": "v", "adv": "r"}
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by\n"


def write_wordnet(folder: Path) -> Path:
    """Write index, data and exception files; the synset of "dog" stands before the one of "gang, dog"."""
    folder.mkdir()
    for part, synsets in SYNSETS.items():
        data, senses = LICENCE, {}
        for words in synsets:
            offset = len(data)
            named = " ".join(f"{word} 0" for word in words)
            data += f"{offset:08d} 03 {LETTER[part]} {len(words):02x} {named} 000 | a gloss  \n"
            for word in words:
                senses.setdefault(word.partition("(")[0], []).append(offset)
        lines = [
            f"{word} {LETTER[part]} {len(at)} 1 @ {len(at)} 0 {' '.join(f'{o:08d}' for o in at)}  \n"
            for word, at in sorted(senses.items())
        ]
        (folder / f"data.{part}").write_text(data, "ascii")
        (folder / f"index.{part}").write_text(LICENCE + "".join(lines), "ascii")
    (folder / "noun.exc").write_text("mice mouse\noxen ox\nodd\n", "ascii")
    return folder
