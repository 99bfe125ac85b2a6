"""Labels from text clusters: topics that are there are found, the same way every time."""

import numpy as np
import pytest

from model.data.pseudo_labels import MAX_CLUSTERS, pseudo_labels
from model.data.scenes import draw_scene
from model.errors import DataError

TOPICS = {
    "beach": ["sand", "waves", "surf", "ocean", "shore", "sea"],
    "dogs": ["dog", "puppy", "leash", "fetch", "bark", "fur"],
    "bikes": ["bicycle", "wheel", "helmet", "pedal", "race", "rider"],
}


def texts(seed: int, count: int, topics: int) -> tuple[list[str], list[set[str]]]:
    """Texts of `topics` topics each, five words from each, and which topics they are."""
    rng = np.random.default_rng(seed)
    chosen = [set(rng.choice(list(TOPICS), size=topics, replace=False).tolist()) for _ in range(count)]
    return [
        " ".join(word for name in sorted(names) for word in rng.choice(TOPICS[name], size=5))
        for names in chosen
    ], chosen


def test_texts_of_one_topic_share_a_label_and_others_do_not() -> None:
    words, topics = texts(0, 150, 1)
    labels = pseudo_labels(words, 3, seed=0).labels
    pairs = [(i, j) for i in range(150) for j in range(i)]
    agree = [bool(set(labels[i]) & set(labels[j])) == bool(topics[i] & topics[j]) for i, j in pairs]
    assert np.mean(agree) > 0.97


def test_a_text_about_two_things_gets_two_labels() -> None:
    single, _ = texts(0, 150, 1)
    double, _ = texts(1, 60, 2)
    labels = pseudo_labels(single + double, 3, seed=0).labels
    assert np.mean([len(names) == 1 for names in labels[:150]]) > 0.9
    assert np.mean([len(names) == 2 for names in labels[150:]]) > 0.9


def test_the_same_arguments_give_the_same_labels() -> None:
    words, _ = texts(3, 80, 1)
    assert pseudo_labels(words, 4, seed=7) == pseudo_labels(words, 4, seed=7)


def test_every_text_with_a_known_word_gets_a_label_and_others_none() -> None:
    words, _ = texts(0, 40, 1)
    labels = pseudo_labels([*words, "the of and", ""], 3, seed=0).labels
    assert all(labels[:40])
    assert labels[40:] == ((), ())


def test_the_summary_names_size_and_words_of_each_cluster() -> None:
    words, _ = texts(0, 90, 1)
    found = pseudo_labels(words, 3, seed=0)
    assert [line.split(" (")[0] for line in found.summary] == ["cluster:000", "cluster:001", "cluster:002"]
    sizes = [int(line.split("(")[1].split(" ")[0]) for line in found.summary]
    assert sizes == [
        sum(name in names for names in found.labels) for name in ("cluster:000", "cluster:001", "cluster:002")
    ]
    tops = [set(line.split(": ")[1].split(", ")) for line in found.summary]
    assert all(any(top <= set(topic) for topic in TOPICS.values()) for top in tops)


def test_captions_of_drawn_scenes_cluster_by_what_they_show() -> None:
    """Relevance by pseudo-labels is far better than chance at telling scenes with a common kind."""
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(400)]
    labels = pseudo_labels([scene.captions(rng)[0] for scene in scenes], 40, seed=0).labels
    kinds = [{group.kind for group in scene.groups} for scene in scenes]
    same = [
        (bool(set(labels[i]) & set(labels[j])), bool(kinds[i] & kinds[j]))
        for i in range(400)
        for j in range(i)
    ]
    among_related = np.mean([kind for label, kind in same if label])
    among_all = np.mean([kind for _, kind in same])
    assert among_related > 1.5 * among_all


@pytest.mark.parametrize(
    ("words", "clusters", "message"),
    [
        (["a b"] * 5, 1, "wanted 2 to"),
        (["a b"] * 5, MAX_CLUSTERS + 1, "wanted 2 to"),
        (["dog cat"], 2, "at least 2 texts"),
        ([], 2, "at least 2 texts"),
        (["the", "of", "and"], 2, "no words to cluster"),
        (["dog", "dog", "dog"], 2, "at least 2 different words"),
    ],
)
def test_what_cannot_be_clustered(words: list[str], clusters: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pseudo_labels(words, clusters, seed=0)
