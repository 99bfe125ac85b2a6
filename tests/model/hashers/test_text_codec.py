"""Vocabulary and encoding: deterministic training, any text accepted, bounded work, stored and read back."""

import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.text import SPECIAL, TokenizerOptions, read_codec, train_codec
from model.errors import DataError, RecipeError

THINGS = ("dog", "Straße", "naïve cat", "犬と猫")
CORPUS = [
    f"A {colour} {thing}, running {n} times!"
    for n, colour in enumerate(("red", "blue", "dark-green"))
    for thing in THINGS
]
OPTIONS = TokenizerOptions(size=200, min_frequency=1)


@pytest.fixture(scope="module")
def codec():
    return train_codec(CORPUS, OPTIONS, 16)


def test_training_is_deterministic_across_processes():
    script = (
        "from model.data.text import TokenizerOptions, train_codec\n"
        f"texts = {CORPUS!r} + [chr(0x4E00 + i) * (1 + i % 3) for i in range(2500)]\n"
        "for kind in ('bpe', 'word'):\n"
        "    options = TokenizerOptions(kind=kind, size=2600, min_frequency=1)\n"
        "    print(train_codec(texts, options, 16).digest())\n"
    )
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) == 2 * 65


def test_start_token_comes_first_and_padding_is_zero(codec):
    tokens = codec.encode(["a red dog", "red"])
    assert tokens.dtype == torch.int64
    assert tokens[:, 0].tolist() == [SPECIAL.index("[TXT]")] * 2
    assert codec.padding_id == 0
    assert (tokens[1] == 0).sum() == (tokens[0] != 0).sum() - (tokens[1] != 0).sum()


def test_case_width_and_white_space_do_not_matter(codec):
    one = codec.encode(["a red dog"])
    for text in ("A RED Dog", "  a \t red\n\ndog ", "ａ ｒｅｄ ｄｏｇ"):
        assert torch.equal(codec.encode([text]), one)


def test_seen_words_become_their_own_pieces(codec):
    assert codec.tokens("red dog") == ["[TXT]", "▁red", "▁dog"]
    assert "[UNK]" in codec.tokens("зебра")


def test_word_vocabulary_splits_nothing():
    codec = train_codec(CORPUS, TokenizerOptions(kind="word", size=200, min_frequency=1), 16)
    assert codec.tokens("red dogs") == ["[TXT]", "red", "[UNK]"]


def test_lengths(codec):
    assert codec.encode([]).shape == (0, 1)
    assert codec.encode([""]).tolist() == [[2]]
    assert codec.encode(["red " * 100]).shape == (1, 16)
    assert codec.encode(["red"], length=9).shape == (1, 9)
    assert codec.encode(["red " * 100], length=4).shape == (1, 4)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=60), max_size=4))
def test_every_string_has_tokens_inside_the_vocabulary(codec, texts):
    tokens = codec.encode(texts)
    assert tokens.shape[0] == len(texts)
    assert 1 <= tokens.shape[1] <= 16
    assert ((tokens >= 0) & (tokens < codec.vocabulary_size)).all()
    for row, text in zip(tokens, texts, strict=True):
        alone = codec.encode([text])[0]
        assert torch.equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == 0).all()


@pytest.mark.parametrize(
    "text", ["\ud800", "a\0b", "\udfff red", "\x7f\x80", "\u202eabc", "\U0001f469\u200d\U0001f467" * 50]
)
def test_odd_strings(codec, text):
    assert codec.encode([text]).shape[0] == 1


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "red " * 250_000, " " * 1_000_000 + "red", "\ufdfa" * 300_000]
)
def test_a_megabyte_is_cut_quickly(codec, text):
    start = time.perf_counter()
    tokens = codec.encode([text])
    assert time.perf_counter() - start < 1.0
    assert tokens.shape[1] <= 16


def test_blanks_before_the_words_do_not_push_them_out(codec):
    assert torch.equal(codec.encode([" " * 100_000 + "red dog"]), codec.encode(["red dog"]))


def test_codec_survives_its_json(codec):
    again = read_codec(codec.to_json(), 16)
    assert again.digest() == codec.digest()
    assert again.vocabulary_size == codec.vocabulary_size
    assert torch.equal(again.encode(CORPUS), codec.encode(CORPUS))


def test_size_bounds_the_vocabulary():
    assert train_codec(CORPUS * 5, TokenizerOptions(size=80, min_frequency=1), 16).vocabulary_size <= 80


def test_rare_characters_beyond_the_limit_are_unknown():
    many = [chr(0x4E00 + i) for i in range(3000)]
    codec = train_codec([*many, *many[:1999]], TokenizerOptions(size=5000, min_frequency=1), 16)
    assert "[UNK]" not in codec.tokens(many[0])
    assert "[UNK]" in codec.tokens(many[2999])


@pytest.mark.parametrize("texts", [[], [""], ["  ", "\n"]])
def test_no_text_no_vocabulary(texts):
    with pytest.raises(DataError, match="at least one text"):
        train_codec(texts, OPTIONS, 16)


def test_unknown_kind():
    with pytest.raises(RecipeError, match="wanted bpe or word, got 'wordpiece'"):
        train_codec(CORPUS, TokenizerOptions(kind="wordpiece"), 16)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "not json", '{"version": "1.0", "model": {"type": "Evil"}}']
)
def test_foreign_files_are_no_tokenizer(text):
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        read_codec(text, 16)
