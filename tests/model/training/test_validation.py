"""Held-out scores against a brute-force ranking, and what counts as a query."""

import numpy as np
import pytest
import torch

from model.data.manifest import read_manifest
from model.hashers.create import create_hasher
from model.preprocessing import Preprocessing
from model.training.batches import Sides
from model.training.corpus import load_corpus
from model.training.images import ImagesInMemory
from model.training.tokens import TokenTable
from model.training.validation import HeldOut, SideCodes, selection_score, task_pairs


def quiet(done, total):
    """No display."""


def brute_map(query, database):
    """Mean AP over random tie orders, own item out, by sorting."""
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(400):
        values = []
        for i, code in enumerate(query.codes):
            others = np.flatnonzero(database.items != query.items[i])
            relevant = (database.labels[others] @ query.labels[i]) > 0
            if not relevant.any():
                continue
            distance = (database.codes[others] != code).sum(1)
            order = np.lexsort((rng.random(len(others)), distance))
            hits = relevant[order]
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            values.append((precision * hits).sum() / hits.sum())
        runs.append(np.mean(values))
    return float(np.mean(runs))


def codes(n, seed, items):
    rng = np.random.default_rng(seed)
    labels = (np.random.default_rng(9).random((20, 4)) < 0.3).astype(np.float32)[items]
    return SideCodes(rng.random((n, 8)) < 0.5, labels, np.array(items))


def held_out_score(sides):
    class Fixed(HeldOut):
        def __init__(self):
            pass

        def encode(self, hasher):
            return sides

    return Fixed().score(None)


def test_scores_are_those_of_sorting_with_the_own_item_out():
    sides = {"image": codes(12, 1, list(range(12))), "text": codes(10, 2, list(range(5, 15)))}
    scores = held_out_score(sides)
    assert set(scores) == {"image-to-text", "text-to-image", "image-to-image", "text-to-text"}
    assert scores["image-to-text"] == pytest.approx(brute_map(sides["image"], sides["text"]), abs=0.01)
    assert scores["text-to-text"] == pytest.approx(brute_map(sides["text"], sides["text"]), abs=0.01)


def test_the_own_item_is_behind_everything_and_irrelevant():
    sides = {"image": codes(6, 1, list(range(6)))}
    distances, relevant = task_pairs(sides)["image-to-image"]
    assert (np.diag(distances) == 9).all()
    assert not np.diag(relevant).any()


def test_a_task_nobody_can_answer_is_left_out():
    lonely = SideCodes(np.zeros((3, 8), dtype=bool), np.eye(3, dtype=np.float32), np.arange(3))
    assert held_out_score({"image": lonely}) == {}


def test_epochs_are_compared_by_the_cross_modal_tasks_when_there_are_any():
    assert selection_score({"image-to-text": 0.4, "text-to-image": 0.6, "text-to-text": 1.0}) == 0.5
    assert selection_score({"image-to-image": 0.7}) == 0.7
    assert selection_score({}) == 0.0


@pytest.mark.parametrize("kinds", [("image", "text"), ("image",), ("text",)])
def test_sides_follow_the_towers(folder, recipe, kinds):
    corpus = load_corpus(read_manifest(folder), recipe, (True, True), [].append)
    request = {kind: recipe.architecture[kind] for kind in kinds}
    generator = torch.Generator().manual_seed(0)
    created = create_hasher(request, 16, corpus.training_texts(), generator)
    images = ImagesInMemory.decode(corpus.images, Preprocessing(size=16), quiet) if "image" in kinds else None
    tokens = TokenTable(created.codec, corpus.texts, "first", 0) if created.codec else None
    found = HeldOut(corpus, Sides(images, tokens), torch.device("cpu")).encode(created.hasher.eval())
    assert set(found) == set(kinds)
    for side in found.values():
        assert side.codes.shape == (18, 16)
        assert side.items.tolist() == corpus.held_out.tolist()
