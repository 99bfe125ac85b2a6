"""Codes go from home to home and from engine to engine, and are taken for the content they were made of."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, FakeShelf, picture
from real_servers import MILVUS, POSTGRES

from index.exports import Export
from service.application.errors import Conflict, InvalidInput
from service.application.ports import Reach
from service.application.transfer import Taken
from service.bulk_wiring import FolderExports, build_bulk_import, build_transfer, model_of, read_codes
from service.wiring import build_importer, open_parts, rebuild

COLOURS = ["red", "green", "blue", "grey"]


class CountingEncoder(FakeEncoder):
    """Counts what is encoded."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.encoded = 0

    def _codes(self, points):
        self.encoded += len(points)
        return super()._codes(points)


def silent(*_):
    """Nobody watches."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Twelve items with images and texts."""
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "images").mkdir()
    lines = []
    for number in range(12):
        colour = tuple(int(c) for c in np.random.default_rng(number).integers(0, 256, 3))
        (folder / "images" / f"{number}.png").write_bytes(picture(colour))
        line = {"id": f"p{number}", "image": f"images/{number}.png", "split": "database", "metadata": {}}
        lines.append(line | {"texts": [f"{COLOURS[number % 4]} {number}"], "labels": ["x"]})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def patterns(manifest, tmp_path_factory):
    """Homes by name: with the models 1 and 2, and the corpus with codes of the one that the name says."""
    folder = tmp_path_factory.mktemp("patterns")
    for name in ("1", "2", "empty"):
        shelf = FakeShelf(folder / name / "models")
        shelf.publish("1")
        shelf.publish("2")
        parts = open_parts(settings_for(folder / name), shelf)
        if name != "empty":
            assert build_importer(parts, FakeEncoder(name)).run(manifest, silent).failed == 0
            rebuild(parts, f"fake/{name}")
        parts.close()
    return folder


@pytest.fixture
def make_home(tmp_path, patterns):
    """Opens copies of the homes."""
    opened = []

    def make(name, model="1", **changes):
        shutil.copytree(patterns / (model or "empty"), tmp_path / name)
        shelf = FakeShelf(tmp_path / name / "models")
        opened.append(open_parts(settings_for(tmp_path / name, **changes), shelf))
        return opened[-1]

    yield make
    for parts in opened:
        parts.close()


def ref(parts, version="1"):
    return next(one for one in parts.shelf.refs() if one.version == version)


def export(parts, target, version="1"):
    return build_transfer(parts).export(ref(parts, version), target, silent)


def take(parts, folder, encoder=None):
    return build_transfer(parts).take(encoder or FakeEncoder("1"), FolderExports().open(folder), silent)


def answers(parts):
    indexes = parts.store.load(parts.catalog.generations.live())
    asked = FakeEncoder("1").encode_texts([*COLOURS, "red 4", "blue 2"])
    return [indexes[side].search(code.tobytes(), Reach(9)) for side in ("image", "text") for code in asked]


ENGINES = ["memory", "faiss", pytest.param("pgvector", marks=POSTGRES), pytest.param("milvus", marks=MILVUS)]


@pytest.mark.parametrize("engine", ENGINES)
def test_out_of_one_engine_into_another(engine, make_home, request, tmp_path):
    """The home `there` knows the corpus with codes of model 2 only; model 1 encodes nothing in it."""
    more = {}
    if engine == "pgvector":
        more["index_url"] = request.getfixturevalue("postgres").database()
    if engine == "milvus":
        more["index_url"] = request.getfixturevalue("milvus_url")
    faiss, other = (
        make_home("one"),
        make_home("two", "2", index_backend=engine, **more),
    )
    wanted = answers(faiss)
    assert export(faiss, tmp_path / "out") == {"image": 12, "text": 12}
    encoder = CountingEncoder("1")
    assert take(other, tmp_path / "out", encoder) == Taken(new=24)
    assert encoder.encoded == 16  # eight items, to see whether the codes are right
    assert other.catalog.codes.count_lacking(encoder.digest, encoder.modalities) == 0
    assert rebuild(other, "fake/1").phase == "done"
    assert answers(other) == wanted
    assert export(other, tmp_path / "back") == {"image": 12, "text": 12}
    assert take(faiss, tmp_path / "back") == Taken(known=24)


def test_images_are_not_needed(make_home, tmp_path):
    export(make_home("one"), tmp_path / "out")
    other = make_home("two", "2")
    shutil.rmtree(tmp_path / "two" / "blobs")
    assert take(other, tmp_path / "out") == Taken(new=24)
    assert rebuild(other, "fake/1").phase == "done"


def test_what_has_changed_or_gone_since_is_left_out(make_home, tmp_path):
    export(make_home("one"), tmp_path / "out")
    other = make_home("two", "2")
    other.catalog.items.delete("p3")
    changed = tmp_path / "changed"
    changed.mkdir()
    line = {
        "id": "p4",
        "image": None,
        "texts": ["grey 4, as it is now"],
        "labels": ["x"],
        "split": "database",
    }
    (changed / "pairs.jsonl").write_text(json.dumps(line | {"metadata": {}}) + "\n")
    assert build_importer(other, FakeEncoder("2")).run(changed, silent).failed == 0
    assert take(other, tmp_path / "out") == Taken(new=20, changed=2, absent=2)
    lacking = other.catalog.codes.lacking(FakeEncoder("1").digest, frozenset({"text"}), None, 9)
    assert [version.id for version in lacking] == ["p4"]


def test_bare_codes_go_along_to_bare_items(make_home, tmp_path):
    (tmp_path / "ids").write_text("x\ny\n")
    np.save(tmp_path / "codes.npy", np.arange(16, dtype=np.uint8).reshape(2, 8))
    one, two = make_home("one", None), make_home("two", None)
    ready = read_codes(tmp_path / "ids", {"image": tmp_path / "codes.npy"}, 64)
    build_bulk_import(one).run(FakeEncoder("1"), ready, silent)
    export(one, tmp_path / "out")
    build_bulk_import(two).run(FakeEncoder("2"), ready, silent)
    assert take(two, tmp_path / "out") == Taken(new=2)
    assert two.catalog.codes.all(FakeEncoder("1").digest, "image", 64)[0] == ["x", "y"]


def codes_of(parts, version="1"):
    return [parts.catalog.codes.all(FakeEncoder(version).digest, side, 64)[0] for side in ("image", "text")]


def test_codes_of_another_model_are_refused(make_home, tmp_path):
    export(make_home("one"), tmp_path / "out")
    other = make_home("two", "2")
    with pytest.raises(Conflict, match=r"export is of fake/1 .* wanted codes of fake/2"):
        take(other, tmp_path / "out", FakeEncoder("2"))
    head = FolderExports().open(tmp_path / "out").head
    assert model_of(other, head).label == "fake/1"
    (tmp_path / "two" / "models" / "fake.json").write_text('{"fake/2": {}}')
    with pytest.raises(Conflict, match=r"fake/1 with the digest .* not in this home; there are: fake/2"):
        model_of(other, head)
    assert codes_of(other) == [[], []]


def forged(folder, target, change):
    """An export, sound in itself, with other codes than the model would make."""
    parts = Export(folder)
    sides = {}
    for side in ("image", "text"):
        rows = list(parts.rows(side, 5))
        for block in rows:
            change(block.codes)
        sides[side] = iter([(block.ids, block.codes, block.contents.tobytes()) for block in rows])
    FolderExports().write(target, FolderExports().open(folder).head, sides)


def invert(codes):
    codes ^= 255


def flip_one(codes):
    codes[:, 0] ^= 1


@pytest.mark.parametrize("knows", ["1", "2"])
def test_wrong_codes_under_the_right_digest_are_refused(make_home, tmp_path, knows):
    """They differ from the codes that are here ("1"), or from those that the model makes ("2")."""
    export(make_home("one"), tmp_path / "out")
    forged(tmp_path / "out", tmp_path / "bad", invert)
    other = make_home("two", knows)
    before = codes_of(other)
    with pytest.raises(Conflict, match=r"differs in 64 of 64 bits .* not the codes of this model"):
        take(other, tmp_path / "bad")
    assert codes_of(other) == before


def test_a_bit_that_another_machine_rounds_otherwise_is_no_reason(make_home, tmp_path):
    export(make_home("one"), tmp_path / "out")
    forged(tmp_path / "out", tmp_path / "near", flip_one)
    assert take(make_home("two", "2"), tmp_path / "near").new == 24
    assert take(make_home("three"), tmp_path / "near").known == 24


def test_an_export_that_fits_nothing_is_refused(make_home, tmp_path):
    export(make_home("one"), tmp_path / "out")
    with pytest.raises(Conflict, match="no item here has the content of one of the 24 codes"):
        take(make_home("two", None), tmp_path / "out")


def test_there_must_be_something_to_export_and_a_place_for_it(make_home, tmp_path):
    parts = make_home("one")
    with pytest.raises(Conflict, match="no codes of fake/2"):
        export(parts, tmp_path / "out", "2")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(Conflict, match="wanted a new folder"):
        export(parts, tmp_path / "out")
    with pytest.raises(InvalidInput, match="generation id"):
        export(parts, tmp_path / "a name with spaces")


def test_damaged_exports_are_refused_before_and_while_they_are_read(make_home, tmp_path):
    export(make_home("one"), tmp_path / "out")
    other = make_home("two", "2")
    with pytest.raises(InvalidInput, match=r"export cannot be read.*META\.json"):
        FolderExports().open(tmp_path / "nowhere")
    proven = FolderExports().open(tmp_path / "out")
    path = tmp_path / "out" / "text" / "codes.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(InvalidInput, match=r"codes\.npy: wanted SHA-256"):
        FolderExports().open(tmp_path / "out")
    with pytest.raises(InvalidInput, match=r"codes\.npy: wanted SHA-256"):
        build_transfer(other).take(FakeEncoder("1"), proven, silent)
    assert codes_of(other) == [[], []]
