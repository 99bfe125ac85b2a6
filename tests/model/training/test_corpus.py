"""The train split taken apart: what is held out, which labels count, what cannot be trained on."""

import dataclasses

import pytest
import torch

from model.data.manifest import read_manifest
from model.errors import DataError
from model.training.config import from_table
from model.training.corpus import held_out_positions, load_corpus

BOTH = (True, True)


@pytest.fixture
def load(make_folder, recipe):
    """Loads a changed folder's corpus; ``said`` collects what a user was told."""

    def loading(n, change=None, sides=BOTH, said=None, table=None):
        manifest = read_manifest(make_folder(n, change=change))
        chosen = from_table(table) if table else recipe
        return load_corpus(manifest, chosen, sides, (said if said is not None else []).append)

    return loading


def changed(**fields):
    """A change of every row."""
    return lambda _, row: row | fields


def test_items_labels_and_parts_line_up(folder, recipe):
    manifest = read_manifest(folder)
    corpus = load_corpus(manifest, recipe, BOTH, [].append)
    assert corpus.ids == tuple(r.id for r in manifest.records)
    assert corpus.label_names == manifest.label_names
    assert corpus.label_source == "manifest"
    assert corpus.labels.sum(1).tolist() == [2.0] * 72
    together = torch.cat([corpus.trained, corpus.held_out]).sort().values
    assert torch.equal(together, torch.arange(72))
    assert len(corpus.held_out) == 18
    assert len(corpus.training_texts()) == 2 * 54


def test_only_the_train_split_is_read(load):
    def change(i, row):
        return row | {"split": ["train", "query", "database"][i % 3 if i >= 20 else 0]}

    corpus = load(60, change)
    assert len(corpus.ids) == 20 + len([i for i in range(20, 60) if i % 3 == 0])


def test_labels_that_only_other_splits_have_are_no_labels_of_the_model(load):
    def change(i, row):
        return row | ({"split": "query", "labels": ["unseen"]} if i == 5 else {})

    assert "unseen" not in load(30, change).label_names


def test_holding_out_is_by_id_whatever_the_order():
    ids = [f"x{i}" for i in range(1000)]
    chosen = {ids[i] for i in held_out_positions(ids, 0.1)}
    backwards = ids[::-1]
    assert {backwards[i] for i in held_out_positions(backwards, 0.1)} == chosen
    assert len(chosen) == 100


@pytest.mark.parametrize(
    ("n", "share", "count"),
    [(1000, 0.0, 0), (1000, 0.01, 64), (100, 0.05, 20), (100_000, 0.5, 2000), (2, 0.5, 0)],
)
def test_how_many_are_held_out(n, share, count):
    assert len(held_out_positions([str(i) for i in range(n)], share)) == count


def test_without_labels_text_clusters_stand_in_and_that_is_said(load, tiny):
    said = []
    corpus = load(60, changed(labels=[]), said=said, table={**tiny, "data": {"pseudo_labels": 4}})
    assert corpus.label_source == "pseudo"
    assert any("no labels" in line for line in said)
    assert 2 <= len(corpus.label_names) <= 4
    assert corpus.labels.sum() > 0


def test_an_image_only_item_gets_no_pseudo_label(load, tiny):
    def change(i, row):
        return row | {"labels": []} | ({"texts": []} if i == 7 else {})

    corpus = load(60, change, table={**tiny, "data": {"pseudo_labels": 4}})
    assert corpus.labels[7].sum() == 0


def test_items_that_the_model_cannot_read_are_left_out_aloud(load):
    said = []

    def change(i, row):
        return row | ({"image": None} if i < 5 else {})

    corpus = load(40, change, sides=(True, False), said=said)
    assert len(corpus.ids) == 35
    assert any("5 train items" in line for line in said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"split": "database"}, "wanted at least 2 items of split 'train'"),
        ({"labels": ["only"]}, "at least 2 different labels"),
        ({"labels": ["a", "b"]}, "no irrelevant pair"),
        ({"labels": [], "texts": []}, "neither labels nor texts"),
    ],
)
def test_data_that_teaches_nothing_is_refused(load, fields, said):
    with pytest.raises(DataError, match=said):
        load(12, changed(**fields))


def test_labels_that_nobody_shares_are_refused(load):
    with pytest.raises(DataError, match="no relevant pair"):
        load(12, lambda i, row: row | {"labels": [f"own-{i}"]})


def test_corpus_is_immutable(folder, recipe):
    corpus = load_corpus(read_manifest(folder), recipe, BOTH, [].append)
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.ids = ()
