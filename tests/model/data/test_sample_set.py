"""The drawn data set: same seed same bytes, true captions, variety, a folder that appears whole or not."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.data.drawing import SIZE, draw
from model.data.manifest import check_manifest, read_manifest, split_of
from model.data.sample import MAX_SEED, draw_pair, write_sample
from model.data.scenes import COLOURS, GROUNDS, INVERSE, KINDS, RELATIONS, Group, Scene, draw_scene
from model.data.shapes import SHAPES
from model.errors import DataError


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of every file below `folder`."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def scene(seed: int) -> Scene:
    return draw_scene(np.random.default_rng(seed))


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    write_sample(tmp_path / "here", 30, 7)
    code = (
        "import sys; from pathlib import Path; from model.data.sample import write_sample; "
        "write_sample(Path(sys.argv[1]), 30, 7)"
    )
    # Another hash seed, so that an order borrowed from a set or a dict of strings would show.
    env = {**os.environ, "PYTHONHASHSEED": "99", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, env=env)
    assert digest(tmp_path / "here") == digest(tmp_path / "there")


def test_another_seed_gives_other_pictures_and_ids(tmp_path: Path) -> None:
    write_sample(tmp_path / "a", 10, 1)
    write_sample(tmp_path / "b", 10, 2)
    first, second = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert {record.id for record in first.records}.isdisjoint(record.id for record in second.records)
    assert first.fingerprint != second.fingerprint


def test_a_longer_set_begins_with_the_shorter_one(tmp_path: Path) -> None:
    write_sample(tmp_path / "short", 5, 3)
    write_sample(tmp_path / "long", 12, 3)
    short = (tmp_path / "short" / "pairs.jsonl").read_text()
    assert (tmp_path / "long" / "pairs.jsonl").read_text().startswith(short)


def test_the_set_is_a_good_manifest_with_its_arguments_beside_it(tmp_path: Path) -> None:
    write_sample(tmp_path / "set", 300, 0)
    assert check_manifest(tmp_path / "set") == []
    manifest = read_manifest(tmp_path / "set")
    assert {record.split for record in manifest.records} == {"train", "database", "query"}
    assert all(record.split == split_of(record.id) for record in manifest.records)
    assert all(len(set(record.texts)) == 2 for record in manifest.records)
    assert json.loads((tmp_path / "set" / "sample.json").read_text()) == {
        "format": 1, "pairs": 300, "seed": 0, "size": SIZE
    }  # fmt: skip
    with Image.open(manifest.records[0].image or "") as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (SIZE, SIZE), "RGB")


def test_there_is_enough_of_everything() -> None:
    assert len(KINDS) >= 10
    assert len(COLOURS) >= 8
    scenes = [scene(seed) for seed in range(3000)]
    kinds = Counter(group.kind for item in scenes for group in item.groups)
    colours = Counter(group.colour for item in scenes for group in item.groups)
    assert set(kinds) == set(KINDS)
    assert set(colours) == set(COLOURS)
    assert {item.ground for item in scenes} == set(GROUNDS)
    assert {item.relation for item in scenes} == {*RELATIONS, None}
    assert {group.count for item in scenes for group in item.groups} == {1, 2, 3, 4}
    assert min(kinds.values()) > 0.7 * max(kinds.values())


def test_two_groups_of_a_scene_differ() -> None:
    scenes = [item for item in map(scene, range(5000)) if len(item.groups) == 2]
    assert all(
        (item.groups[0].colour, item.groups[0].kind) != (item.groups[1].colour, item.groups[1].kind)
        for item in scenes
    )


def test_the_caption_of_the_issue() -> None:
    item = Scene((Group(2, "red", "circle"), Group(1, "blue", "house")), "left of", "striped")
    seen = {caption for seed in range(200) for caption in item.captions(np.random.default_rng(seed))}
    assert seen == {
        "two red circles left of a blue house on a striped ground",
        "a blue house right of two red circles on a striped ground",
        "a picture of two red circles left of a blue house, striped background",
        "on a striped ground, two red circles and a blue house: two red circles left of a blue house",
    }
    assert item.labels() == ("colour:blue", "colour:red", "object:circle", "object:house")


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (Group(1, "orange", "boat"), "an orange boat"),
        (Group(3, "pink", "cross"), "three pink crosses"),
        (Group(4, "white", "fish"), "four white fish"),
    ],
)
def test_words_of_a_group(group: Group, words: str) -> None:
    assert group.words() == words


@given(st.integers(0, 2**32))
def test_captions_say_what_the_labels_say(seed: int) -> None:
    item = scene(seed)
    for caption in item.captions(np.random.default_rng(seed)):
        assert item.ground in caption
        assert all(group.words() in caption for group in item.groups)
        assert {word for word in re.findall(r"[a-z]+", caption) if word in COLOURS} == {
            group.colour for group in item.groups
        }
        if item.relation:
            assert item.relation in caption or INVERSE[item.relation] in caption


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_relation_is_true_in_the_pixels(relation: str) -> None:
    """On a plain grey-ish ground the centre of the reddest pixels lies where the caption says."""
    item = Scene((Group(1, "red", "square"), Group(1, "blue", "square")), relation, "plain")
    for seed in range(12):
        pixels = np.asarray(draw(item, np.random.default_rng(seed)), dtype=np.float64)
        red = pixels[:, :, 0] - pixels[:, :, 1:].mean(axis=2)
        blue = pixels[:, :, 2] - pixels[:, :, :2].mean(axis=2)
        (red_y, red_x), (blue_y, blue_x) = (np.argwhere(c > 0.6 * c.max()).mean(axis=0) for c in (red, blue))
        holds = {
            "left of": red_x < blue_x,
            "right of": red_x > blue_x,
            "above": red_y < blue_y,
            "below": red_y > blue_y,
        }
        assert holds[relation], seed


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_object_shows_on_every_ground(kind: str, ground: str) -> None:
    """The same chances with another object give another picture, in a good part of it."""
    first, other = (
        np.asarray(draw(Scene((Group(1, colour, kind),), None, ground), np.random.default_rng(5)), dtype=int)
        for colour in ("red", "blue")
    )
    changed = (np.abs(first - other).max(axis=2) > 40).mean()
    assert 0.02 < changed < 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_stay_in_their_square(kind: str) -> None:
    for part in SHAPES[kind]:
        assert part.points.ndim == 2
        assert np.abs(part.points).max() <= 1.0 + 1e-9


def test_pictures_are_not_all_alike() -> None:
    assert len({draw_pair(0, index).jpeg for index in range(200)}) == 200


@pytest.mark.parametrize(("pairs", "seed"), [(0, 0), (-1, 0), (10**9, 0), (1, -1), (1, MAX_SEED + 1)])
def test_numbers_out_of_range(tmp_path: Path, pairs: int, seed: int) -> None:
    with pytest.raises(DataError, match="wanted"):
        write_sample(tmp_path / "set", pairs, seed)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_seed_works(tmp_path: Path) -> None:
    write_sample(tmp_path / "set", 1, MAX_SEED)
    assert check_manifest(tmp_path / "set") == []


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match="holds files; nothing was written"):
        write_sample(tmp_path, 3, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_stopping_half_way_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "set", 10, 0, stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_pairs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    progress: Callable[[int, int], None] = lambda done, total: seen.append((done, total))  # noqa: E731
    write_sample(tmp_path / "set", 3, 0, progress)
    assert seen == [(1, 3), (2, 3), (3, 3)]
