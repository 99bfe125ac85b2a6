"""What a text attack may do: words, budgets, typing errors, synonyms."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_wordnet import write_wordnet

from model.attacks.text_limits import (
    SubstitutionRule,
    TypoRule,
    broken_limits,
    changed_words,
    keyboard_neighbours,
    label_words,
    replace_word,
    typos,
    word_budget,
    words,
)
from model.attacks.wordnet import base_forms, plural, read_thesaurus, singular
from model.errors import DataError

DEBIAN = Path("/usr/share/wordnet")
NEAR = {"brown": frozenset({"black", "white", "dog"}), "ran": frozenset({"walked"})}


@pytest.fixture
def thesaurus(tmp_path):
    return read_thesaurus(write_wordnet(tmp_path / "wordnet"))


def rule_of(thesaurus=None, labels=("animal:Dog", "cat")):
    return SubstitutionRule(
        label_words(labels, thesaurus), lambda word: NEAR.get(word, frozenset()), thesaurus
    )


def test_words_are_runs_of_letters_and_digits():
    assert words("A tri-colored dog's W60005L2, isn't it?") == [
        "A", "tri-colored", "dog's", "W60005L2", "isn't", "it",
    ]  # fmt: skip
    assert words("  ...  ") == []
    assert words("über 犬") == ["über", "犬"]


@pytest.mark.parametrize(
    ("count", "budget"), [(0, 0), (1, 1), (5, 1), (9, 1), (10, 2), (14, 2), (15, 3), (100, 20)]
)
def test_a_fifth_of_the_words_may_change_and_at_least_one(count, budget):
    assert word_budget(" ".join(["word"] * count)) == budget


def test_a_word_is_replaced_where_it_stands():
    assert replace_word("dog, dog; dog!", 1, "cat") == "dog, cat; dog!"


def test_changes_are_found_by_place():
    assert changed_words("a brown dog", "a black dog") == [("brown", "black")]
    assert changed_words("a brown dog", "a brown dog") == []
    assert changed_words("a brown dog", "brown a dog") == [("a", "brown"), ("brown", "a")]


@pytest.mark.parametrize("changed", ["a brown dog!", "a brown", "a brown dog dog", "a  brown dog", ""])
def test_what_lies_between_words_must_stay(changed):
    assert changed_words("a brown dog", changed) is None
    assert broken_limits("a brown dog", changed, TypoRule()) != []


def test_substitutions_stay_in_the_neighbourhood_and_off_labels():
    rule, text = rule_of(), "the brown dog ran"
    assert broken_limits(text, "the black dog ran", rule) == []
    assert broken_limits(text, "the dog dog ran", rule) == [
        "'dog' is a label's word that the text did not have"
    ]
    assert "neighbourhood" in broken_limits(text, "the green dog ran", rule)[0]
    assert "no synonym" in broken_limits(text, "the brown hound ran", rule)[0]
    assert broken_limits(text, "the black dog walked", rule) == ["2 words changed, allowed are 1"]


def test_without_wordnet_label_words_stay_and_it_says_so(thesaurus):
    assert "stay untouched" in rule_of().note
    assert rule_of().substitutes("dog") == frozenset()
    assert rule_of().substitutes("Dogs") == frozenset()
    assert "synonyms only" in rule_of(thesaurus).note


def test_with_wordnet_label_words_become_synonyms(thesaurus):
    rule = rule_of(thesaurus)
    assert rule.substitutes("dog") == {"hound"}
    assert rule.substitutes("dogs") == {"hounds"}
    assert broken_limits("a brown dog", "a brown hound", rule) == []
    assert rule.is_label("hound")  # a synonym says the label too, so it is no filler for another word


def test_label_names_give_their_words(thesaurus):
    names = ["article:Sports Shoes", "group_of_people", "colour:Navy Blue"]
    assert {"sports", "sport", "shoes", "shoe", "group", "people", "person", "navy", "blue"} == label_words(
        names
    )
    assert "bluish" in label_words(names, thesaurus)


@pytest.mark.parametrize(
    ("word", "form"),
    [("dogs", "dog"), ("boxes", "box"), ("ladies", "lady"), ("benches", "bench"), ("dishes", "dish"),
     ("dresses", "dress"), ("trousers", "trouser")],
)  # fmt: skip
def test_regular_plurals_have_a_singular(word, form):
    assert singular(word) == form
    assert plural(form) == word
    assert form in base_forms(word)


def test_words_that_are_no_plurals():
    for word in ("glass", "bus", "this", "is", "cat"):
        assert singular(word) is None
    assert base_forms("men") == {"men", "man"}


def test_irregular_plurals_come_from_wordnet(thesaurus):
    assert "ox" in base_forms("oxen", thesaurus)


def test_the_first_sense_counts(thesaurus):
    assert thesaurus.synonyms("dog") == {"hound"}  # not "gang", the second, nor "domestic dog", two words
    assert thesaurus.synonyms("blue") == {"bluish"}  # "(a)" is grammar
    assert thesaurus.synonyms("fast") == {"quick"}  # the adjective before the verb
    assert thesaurus.synonyms("climb") == {"mount"}
    assert thesaurus.synonyms("boxes") == {"cartons"}
    assert thesaurus.synonyms("unheard") == frozenset()


@pytest.mark.skipif(
    not DEBIAN.is_dir() and os.environ.get("HASHGUARD_REQUIRE_SYSTEM") != "1",
    reason="Debian's wordnet-base is not installed",
)
@pytest.mark.system
def test_the_real_wordnet_is_read():
    real = read_thesaurus(DEBIAN)
    assert "automobile" in real.synonyms("car")
    assert "autos" in real.synonyms("cars")
    assert real.synonyms("shoes") == frozenset()  # not "place", as in "in my shoes"


@pytest.mark.parametrize("missing", ["index.noun", "data.verb", "noun.exc"])
def test_an_incomplete_wordnet_is_refused(tmp_path, missing):
    folder = write_wordnet(tmp_path / "wordnet")
    (folder / missing).unlink()
    with pytest.raises(DataError, match="WordNet"):
        read_thesaurus(folder)


def test_files_that_are_no_wordnet_are_refused(tmp_path):
    folder = write_wordnet(tmp_path / "wordnet")
    (folder / "index.noun").write_text("not an index\n", "ascii")
    with pytest.raises(DataError, match="WordNet"):
        read_thesaurus(folder)
    (folder / "index.noun").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="WordNet"):
        read_thesaurus(folder)


def test_a_damaged_synset_gives_no_synonyms(tmp_path):
    folder = write_wordnet(tmp_path / "wordnet")
    (folder / "data.noun").write_bytes(b"")
    assert read_thesaurus(folder).synonyms("dog") == frozenset()


def distance(a, b):
    """Optimal string alignment: edits of one character and swaps of neighbours."""
    d = {(i, j): max(i, j) if 0 in (i, j) else 0 for i in range(len(a) + 1) for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = a[i - 1] != b[j - 1]
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + cost)
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return d[len(a), len(b)]


@given(word=st.text(st.sampled_from("abcxyzQé9-'"), min_size=1, max_size=8).filter(lambda w: words(w) == [w]))
def test_typing_errors_are_one_edit_and_one_word(word):
    found = typos(word)
    assert word not in found
    for new in found:
        assert distance(word, new) == 1
        assert words(new) == [new]
        assert TypoRule().fault(word, new) is None


def test_every_kind_of_typing_error_is_there():
    found = typos("dog")
    assert {"og", "dg", "do"} <= found  # delete
    assert {"odg", "dgo"} <= found  # swap
    assert {"fog", "dig"} <= found  # keyboard neighbour
    assert {"dogg", "dfog", "doig"} <= found  # insert
    assert "dzg" not in found
    assert typos("a") == {"q", "w", "s", "z", "aa", "aq", "aw", "as", "az", "qa", "wa", "sa", "za"}
    assert "Fog" in typos("Dog")


def test_two_typing_errors_in_a_word_are_too_many():
    assert "more than one" in broken_limits("dog", "fgo", TypoRule())[0]


def test_neighbours_on_the_keyboard():
    assert set(keyboard_neighbours("g")) == {"f", "h", "t", "y", "v", "b"}
    assert set(keyboard_neighbours("Q")) == {"W", "A"}
    assert keyboard_neighbours("é") == keyboard_neighbours("9") == ()
