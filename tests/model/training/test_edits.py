"""Edited training texts: within the attacks' limits, equal for one process and for many, the hardest kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_wordnet import write_wordnet

from model.attacks.text_limits import changed_words, label_words, typos, word_budget, words
from model.attacks.wordnet import read_thesaurus
from model.data.manifest import read_manifest
from model.data.text import TokenizerOptions, train_codec
from model.defences.base import Batch
from model.errors import RecipeError
from model.hashers.create import create_hasher
from model.training.batches import Feed, Sides
from model.training.config import from_table
from model.training.corpus import load_corpus
from model.training.distributed import World
from model.training.edits import EditedTexts, Editor, hardest
from model.training.tokens import TokenTable

CPU = torch.device("cpu")
TEXTS = ("a red ball on the grass", "two blue cubes", "!?", "", "a green cone behind a red ball at night")
LABELS = ("colour:red", "shape:Ball")


@pytest.fixture(scope="module")
def editor():
    return Editor.of(TEXTS, LABELS)


@pytest.fixture(scope="module")
def codec():
    return train_codec(list(TEXTS), TokenizerOptions(size=200, min_frequency=1), 16)


def test_words_of_labels_replace_nothing(editor):
    assert {"red", "ball"}.isdisjoint(editor.others)
    assert {"grass", "cubes", "two"} <= set(editor.others)
    assert {"red", "ball"} <= label_words(LABELS)


def test_the_most_frequent_words_are_kept(monkeypatch):
    monkeypatch.setattr("model.training.edits.VOCABULARY", 2)
    assert Editor.of(["a a a b b c"], []).others == ("a", "b")


@given(st.text(max_size=120), st.integers(0, 2**32))
def test_an_edit_stays_within_what_an_attack_may_do(text, seed):
    editor = Editor.of(TEXTS, LABELS)
    edited = editor.edit(text, np.random.default_rng(seed))
    pairs = changed_words(text, edited)
    assert pairs is not None
    assert len(pairs) <= word_budget(text)
    assert all(new in editor.others or new in typos(old) for old, new in pairs)


def test_edits_change_something_and_are_of_both_kinds(editor):
    text = TEXTS[0]
    kinds = set()
    for seed in range(40):
        for old, new in changed_words(text, editor.edit(text, np.random.default_rng(seed))):
            kinds.add("typo" if new in typos(old) else "word")
    assert kinds == {"typo", "word"}
    assert editor.edit("!? ...", np.random.default_rng(0)) == "!? ..."


@pytest.mark.parametrize(("mistyped", "kind"), [(0.0, "word"), (1.0, "typo")])
def test_the_chance_of_a_typing_error_decides(mistyped, kind):
    editor = Editor.of(TEXTS, LABELS, mistyped)
    for seed in range(20):
        for old, new in changed_words(TEXTS[0], editor.edit(TEXTS[0], np.random.default_rng(seed))):
            assert (new in typos(old)) == (kind == "typo"), (old, new)
            assert kind == "typo" or new in editor.others


def test_with_a_thesaurus_a_labels_word_becomes_a_synonym_or_is_mistyped(tmp_path):
    thesaurus = read_thesaurus(write_wordnet(tmp_path / "wordnet"))
    text = "a blue box before two balls, bluish and quick"
    editor = Editor.of([text], ["colour:blue", "shape:ball"], 0.5, thesaurus)
    assert {"blue", "bluish", "ball", "balls"}.isdisjoint(editor.others)
    came: dict[str, set[str]] = {}
    for seed in range(300):
        for old, new in changed_words(text, editor.edit(text, np.random.default_rng(seed))):
            came.setdefault(old, set()).add(new if new not in typos(old) else "typo")
    assert came["blue"] == {"bluish", "typo"}
    assert came["balls"] == {"typo"}, "no synonym is known: another word would change what the text says"
    assert came["bluish"] == {"blue", "typo"} or came["bluish"] == {"typo"}
    assert len(came["quick"]) > 2


def test_without_a_thesaurus_a_labels_word_becomes_any_other(editor):
    became = set()
    for seed in range(200):
        pairs = changed_words(TEXTS[0], editor.edit(TEXTS[0], np.random.default_rng(seed)))
        became |= {new for old, new in pairs if old == "red"}
    assert became & set(editor.others)


def test_without_other_words_there_are_typing_errors_only():
    editor = Editor.of(["red ball"], ["red", "ball"])
    assert editor.others == ()
    (pair,) = changed_words("red ball", editor.edit("red ball", np.random.default_rng(0)))
    assert pair[1] in typos(pair[0])
    assert editor.edit("日本", np.random.default_rng(0)) in {"日本", "本日", "日", "本", "日日本", "日本本"}


def test_texts_that_are_not_edited_keep_their_tokens(codec, editor):
    tokens = codec.encode(TEXTS)
    tokens[0, 1] = 1  # a dropped token
    never = EditedTexts(codec, editor, 0.0, 3).versions(TEXTS, tokens, slice(0, 5), np.random.default_rng(0))
    assert never.shape == (5, 3, tokens.shape[1])
    assert torch.equal(never, tokens[:, None].expand(-1, 3, -1))
    always = EditedTexts(codec, editor, 1.0, 3).versions(TEXTS, tokens, slice(0, 5), np.random.default_rng(0))
    length = tokens.shape[1]
    changed = (always[:, :, :length] != codec.encode(TEXTS)[:, None]).any(-1) | always[:, :, length:].any(-1)
    assert changed[[0, 1, 4]].all()
    assert not changed[[2, 3]].any(), "texts without words stay"


def test_two_processes_edit_as_one(codec, editor):
    tokens, edits = codec.encode(TEXTS), EditedTexts(codec, editor, 0.5, 2)
    whole = edits.versions(TEXTS, tokens[:4], slice(0, 4), np.random.default_rng(3))
    for part in (slice(0, 2), slice(2, 4)):
        half = edits.versions(TEXTS, tokens[part], part, np.random.default_rng(3))
        for one, other in zip(half.flatten(0, 1), whole[part].flatten(0, 1), strict=True):
            assert torch.equal(one[one != codec.padding_id], other[other != codec.padding_id])


def make_batch(tokens, edited):
    n = len(tokens)
    blank = torch.zeros(n, 0)
    return Batch(blank, tokens, torch.ones(n, 1), torch.zeros(n), torch.ones(n), torch.arange(n), edited)


@pytest.fixture
def hasher(recipe):
    table = {"text": recipe.architecture["text"], "image": recipe.architecture["image"]}
    created = create_hasher(table, 16, list(TEXTS), torch.Generator().manual_seed(0))
    return created.hasher.train()


def test_the_hardest_is_the_farthest_from_the_text(hasher):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 12, (6, 5), generator=generator)
    edited = torch.randint(2, 12, (6, 4, 5), generator=generator)
    found = hardest(hasher, make_batch(tokens, edited))
    assert hasher.training, "modes are put back"
    assert found.edited is None
    hasher.eval()
    with torch.no_grad():
        before = hasher.hash_text(tokens)
        for i in range(6):
            products = [float(hasher.hash_text(edited[i, k][None])[0] @ before[i]) for k in range(4)]
            best = int(np.argmin(products))
            assert torch.equal(found.tokens[i], edited[i, best])


def test_the_hardest_leaves_no_trace_in_the_hasher(hasher):
    state = {name: value.clone() for name, value in hasher.state_dict().items()}
    tokens = torch.ones(3, 4, dtype=torch.int64)
    hardest(hasher, make_batch(tokens, tokens[:, None].repeat(1, 2, 1)))
    assert all(torch.equal(value, state[name]) for name, value in hasher.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in hasher.parameters())


def test_one_try_is_taken_and_none_leaves_the_batch(hasher):
    tokens = torch.ones(3, 4, dtype=torch.int64)
    batch = make_batch(tokens, None)
    assert hardest(hasher, batch) is batch
    other = tokens[:, None] + 1
    assert torch.equal(hardest(hasher, replace(batch, edited=other)).tokens, other[:, 0])


def test_the_feed_edits_the_text_it_sampled_and_repeats_itself(folder, recipe):
    table = from_table({"seed": 5, "schedule": {"batch": 16}, "augment": {"text_edits": 1.0}})
    corpus = load_corpus(read_manifest(folder), recipe, (True, True), [].append)
    codec = train_codec(corpus.training_texts(), TokenizerOptions(size=200, min_frequency=1), 16)
    editor = Editor.of(corpus.training_texts(), corpus.label_names)
    sides = Sides(None, TokenTable(codec, corpus.texts, "sample", 5), EditedTexts(codec, editor, 1.0, 2))
    feed = Feed(table, corpus, sides, World(0, 1, CPU))
    first, again = next(feed.epoch(0)), next(feed.epoch(0))
    assert torch.equal(first.edited, again.edited)
    assert not torch.equal(first.edited, next(feed.epoch(1)).edited)
    chosen = corpus.trained[feed.order(0)[0]]
    for text, versions in zip(sides.tokens.texts(chosen, 0), first.edited, strict=True):
        for row in versions:
            shown = codec.tokens(text)
            assert abs(int((row != codec.padding_id).sum()) - len(shown)) <= 8 * word_budget(text)
        assert len(words(text)) > 0


@pytest.mark.parametrize(
    "bad", [{"text_edits": 1.5}, {"text_tries": 0}, {"text_edits": "x"}, {"text_typos": -1}]
)
def test_settings_that_cannot_be(bad):
    with pytest.raises(RecipeError, match="text_"):
        from_table({"augment": bad})


def test_a_wordnet_serves_edited_texts_only():
    edited = from_table({"augment": {"text_edits": 0.5}})
    assert edited.with_wordnet("folder").augment.wordnet == "folder"
    with pytest.raises(RecipeError, match="text_edits is 0"):
        from_table({}).with_wordnet("folder")
    with pytest.raises(RecipeError, match="text_edits is 0"):
        from_table({"augment": {"wordnet": "folder"}})
