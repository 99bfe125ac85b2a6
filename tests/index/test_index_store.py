"""Generations are complete or not there, whatever happens while they are written."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from index import registry, store
from index.core import SearchOptions
from index.errors import CorruptIndex, GenerationMismatch, HashIndexError, UnknownOption
from index.store import (
    Meta,
    delete_generation,
    list_generations,
    load_generation,
    read_meta,
    sweep,
    write_generation,
)

MODEL, OTHER = "a" * 64, "b" * 64
META = Meta(
    model_name="toy",
    model_version="3",
    model_digest=MODEL,
    preprocessing_digest="c" * 64,
    bits=64,
    snapshot_seq=17,
    created="2026-11-23T10:00:00+00:00",
)


@pytest.fixture(scope="module")
def indexes(corpus):
    made = []
    for count in (30, 20):
        index = registry.create("faiss", 64)
        index.add(*corpus(count, 64, seed=count))
        made.append(index)
    return made


@pytest.fixture
def root(tmp_path):
    return tmp_path / "generations"


@pytest.fixture
def written(root, indexes):
    return write_generation(root, "g1", META, *indexes)


def test_what_was_written_is_loaded(root, written, indexes):
    assert written == root / "g1"
    generation = load_generation(written, MODEL)
    assert generation.id == "g1"
    assert (len(generation.image), len(generation.text)) == (30, 20)
    meta = generation.meta
    assert meta.counts == {"image": 30, "text": 20}
    assert (meta.model_name, meta.snapshot_seq, meta.backend) == ("toy", 17, "faiss")
    assert sorted(meta.files) == ["image/index.json", "text/index.json"]
    assert read_meta(written) == meta
    query = np.zeros((1, 8), dtype=np.uint8)
    for got, wanted in zip((generation.image, generation.text), indexes, strict=True):
        assert got.search(query, SearchOptions(30)) == wanted.search(query, SearchOptions(30))


def test_empty_sides_and_options(root):
    options = {"nprobe": "all", "ivf_from": 10}
    meta = Meta(**{**META.__dict__, "backend": "faiss-ivf", "options": options})
    write_generation(root, "empty", meta, registry.create("memory", 64), registry.create("faiss", 64))
    generation = load_generation(root / "empty")
    assert (len(generation.image), len(generation.text)) == (0, 0)
    assert generation.meta.options == options


def test_another_models_generation_is_refused(written):
    with pytest.raises(GenerationMismatch, match=f"wanted one of the model {OTHER}, got one of toy/3"):
        load_generation(written, OTHER)


def test_list_and_delete(root, written, indexes):
    write_generation(root, "g0", META, *indexes)
    (root / "stray").mkdir()
    (root / ".hidden").mkdir()
    (root / "file").touch()
    assert list_generations(root) == ["g0", "g1"]
    assert delete_generation(root, "g1")
    assert not delete_generation(root, "g1")
    assert list_generations(root) == ["g0"]
    assert not list(root.glob(".deleting*"))
    assert list_generations(root / "nowhere") == []
    assert sweep(root / "nowhere") == []


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "/a", "a\0", "x" * 101, "é", "a b"])
def test_ids_that_could_leave_the_root_are_refused(root, indexes, name):
    with pytest.raises(HashIndexError, match="generation id"):
        write_generation(root, name, META, *indexes)
    with pytest.raises(HashIndexError, match="generation id"):
        delete_generation(root, name)


def test_a_taken_id_is_refused(root, written, indexes):
    with pytest.raises(HashIndexError, match="exists"):
        write_generation(root, "g1", META, *indexes)
    assert len(load_generation(written).image) == 30


def test_another_width_is_refused(root, indexes):
    with pytest.raises(HashIndexError, match="text index: wanted 64 bits, got 32"):
        write_generation(root, "g", META, indexes[0], registry.create("faiss", 32))
    assert list_generations(root) == []


def damage(folder, name, data):
    (folder / name).write_bytes(data)


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("name", ["index.json", "codes.npy", "id_bytes.npy", "id_lengths.npy"])
def test_any_damaged_file_is_found(written, side, name):
    path = written / side / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptIndex):
        load_generation(written, MODEL)


def test_a_swapped_side_is_found(written):
    (written / "image").rename(written / "x")
    (written / "text").rename(written / "image")
    (written / "x").rename(written / "text")
    with pytest.raises(CorruptIndex, match="SHA-256"):
        load_generation(written, MODEL)


def test_a_missing_side_or_meta_is_found(written):
    (written / "text" / "index.json").unlink()
    with pytest.raises(CorruptIndex, match="readable"):
        load_generation(written, MODEL)
    (written / "META.json").unlink()
    with pytest.raises(CorruptIndex, match="readable"):
        read_meta(written)


def edit(folder, **changes):
    content = json.loads((folder / "META.json").read_text())
    content.update(changes)
    (folder / "META.json").write_text(json.dumps({k: v for k, v in content.items() if v is not Ellipsis}))


BAD_FIELDS = [
    ("format", 2),
    ("format", "1"),
    ("model_name", ""),
    ("model_name", 5),
    ("model_name", "x" * 201),
    ("model_version", None),
    ("backend", []),
    ("model_digest", "A" * 64),
    ("model_digest", "a" * 63),
    ("model_digest", "a" * 64 + "\n"),
    ("preprocessing_digest", None),
    ("bits", 63),
    ("bits", "64"),
    ("bits", 8),
    ("snapshot_seq", -1),
    ("snapshot_seq", 1.5),
    ("snapshot_seq", True),
    ("snapshot_seq", 1 << 63),
    ("created", "yesterday"),
    ("created", "2026-11-23T10:00:00"),
    ("created", 5),
    ("options", []),
    ("counts", {"image": 1}),
    ("counts", {"image": 1, "text": -1}),
    ("counts", [30, 20]),
    ("files", {}),
    ("files", {"image/index.json": "a" * 64, "../../etc/passwd": "a" * 64}),
    ("files", {"image/index.json": "a" * 64, "text/index.json": 5}),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_every_field_of_the_meta_is_checked(written, name, value):
    edit(written, **{name: value})
    with pytest.raises(CorruptIndex, match=rf"META\.json: .*{name}"):
        load_generation(written, MODEL)


def test_missing_and_unknown_fields_are_refused(written):
    edit(written, created=...)
    with pytest.raises(CorruptIndex, match="wanted the fields"):
        read_meta(written)
    edit(written, created=META.created, more=1)
    with pytest.raises(CorruptIndex, match="wanted the fields"):
        read_meta(written)


def test_counts_that_lie_are_found(written):
    edit(written, counts={"image": 30, "text": 21})
    with pytest.raises(CorruptIndex, match="text: wanted 21 items, got 20"):
        load_generation(written, MODEL)


def test_an_unknown_backend_or_option_says_so(written):
    edit(written, backend="abacus")
    with pytest.raises(UnknownOption, match="abacus"):
        load_generation(written, MODEL)
    edit(written, backend="faiss", options={"speed": 11})
    with pytest.raises(UnknownOption, match="speed"):
        load_generation(written, MODEL)


def test_a_bad_meta_is_not_written(root, indexes):
    with pytest.raises(CorruptIndex, match="model_digest"):
        write_generation(root, "g", Meta(**{**META.__dict__, "model_digest": "short"}), *indexes)
    assert list(root.iterdir()) == []


def fail_at(monkeypatch, target, name, at):
    """Make the `at`-th call of `target.name` raise as a full disk does; return the calls made."""
    original, calls = getattr(target, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, failing)
    return calls


# 2 sides x (3 arrays + index.json + folder) + META.json + folder + root
FSYNCS = 13


def test_every_file_and_folder_is_synced(root, indexes, monkeypatch):
    calls = fail_at(monkeypatch, os, "fsync", -1)
    write_generation(root, "g", META, *indexes)
    assert len(calls) == FSYNCS


@pytest.mark.parametrize("at", range(1, FSYNCS + 1))
def test_a_failure_at_any_step_leaves_nothing_visible(root, indexes, monkeypatch, at):
    with monkeypatch.context() as patched:
        fail_at(patched, os, "fsync", at)
        with pytest.raises(OSError, match="No space"):
            write_generation(root, "g", META, *indexes)
    # The last fsync is that of the root, after the rename: there the generation is complete already.
    assert list_generations(root) == (["g"] if at == FSYNCS else [])
    assert not list(root.glob(".building*"))
    if at == FSYNCS:
        assert len(load_generation(root / "g", MODEL).image) == 30
    else:
        assert write_generation(root, "g", META, *indexes) == root / "g"


def test_a_failing_rename_leaves_nothing_visible(root, indexes, monkeypatch):
    with monkeypatch.context() as patched:
        fail_at(patched, Path, "rename", 1)
        with pytest.raises(OSError, match="No space"):
            write_generation(root, "g", META, *indexes)
    assert list(root.iterdir()) == []


def test_two_writers_of_one_id(root, indexes, monkeypatch):
    """The second to rename finds the place taken and cleans up."""
    original = store.fsync_folder

    def overtaken(folder):
        monkeypatch.setattr(store, "fsync_folder", original)
        write_generation(root, "g", META, *indexes)
        original(folder)

    monkeypatch.setattr(store, "fsync_folder", overtaken)
    with pytest.raises(OSError, match=r"not empty|exists"):
        write_generation(root, "g", META, *indexes)
    assert list_generations(root) == ["g"]
    assert not list(root.glob(".building*"))
    assert len(load_generation(root / "g", MODEL).image) == 30


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from index import registry
from index.store import Meta, write_generation

left, original = int(sys.argv[2]), os.fsync

def fsync(handle):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
    original(handle)

os.fsync = fsync
index = registry.create("faiss", 64)
index.add(["a", "b"], np.zeros((2, 8), dtype=np.uint8))
meta = Meta("toy", "3", "a" * 64, "c" * 64, 64, 17, "2026-11-23T10:00:00+00:00")
write_generation(Path(sys.argv[1]), "g", meta, index, index)
"""


@pytest.mark.parametrize("at", [2, 11, 12, 13])
def test_a_killed_build_is_invisible_and_swept(root, indexes, at):
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(root), str(at)],
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )
    assert ended.returncode == -9
    complete = at == FSYNCS
    assert list_generations(root) == (["g"] if complete else [])
    assert len(list(root.glob(".building*"))) == (0 if complete else 1)
    if complete:
        assert len(load_generation(root / "g", MODEL).text) == 2
        return
    write_generation(root, "g", META, *indexes)
    assert not list(root.glob(".building*"))
    assert len(load_generation(root / "g", MODEL).image) == 30


def test_sweeping_spares_a_build_that_is_running(root):
    running, dead, deleting = (root / name for name in (".building-a-1", ".building-b-2", ".deleting-c-3"))
    for folder in (running, dead, deleting):
        (folder / "image").mkdir(parents=True)
    handle = os.open(running, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert sweep(root) == [dead.name, deleting.name]
        assert [each.name for each in root.iterdir()] == [running.name]
    finally:
        os.close(handle)
    assert sweep(root) == [running.name]


def test_a_deletion_that_was_cut_short_is_swept(root, written, monkeypatch):
    with monkeypatch.context() as patched:
        fail_at(patched, store.shutil, "rmtree", 1)
        with pytest.raises(OSError, match="No space"):
            delete_generation(root, "g1")
    assert list_generations(root) == []
    assert len(sweep(root)) == 1
    assert list(root.iterdir()) == []


def test_a_deletion_holds_its_folder_until_it_is_done(root, written, monkeypatch):
    seen = []
    rmtree = store.shutil.rmtree

    def looked_at(path):
        seen.append((list(store.abandoned(root, store.HIDDEN)), sweep(root), delete_generation(root, "g1")))
        rmtree(path)

    monkeypatch.setattr(store.shutil, "rmtree", looked_at)
    assert delete_generation(root, "g1")
    assert seen == [([], [], False)]
    assert list(root.iterdir()) == []


def test_what_goes_while_it_is_locked_is_done(root, written, monkeypatch):
    """Another process has removed it between the moment it was seen and the moment it was locked."""
    lock = store.lock

    def late(folder):
        handle = lock(folder)
        store.shutil.rmtree(folder)
        return handle

    (root / ".deleting-a-1").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(store, "lock", late)
        assert not delete_generation(root, "g1")
        assert list(store.abandoned(root, store.HIDDEN)) == []
    (root / ".deleting-b-2").mkdir()
    rmtree = store.shutil.rmtree

    def overtaken(path):
        rmtree(path)
        rmtree(path)

    monkeypatch.setattr(store.shutil, "rmtree", overtaken)
    assert sweep(root) == [".deleting-b-2"]


def test_a_generation_that_somebody_has_locked_is_theirs(root, written):
    handle = store.lock(written)
    try:
        assert not delete_generation(root, "g1")
    finally:
        os.close(handle)
    assert list_generations(root) == ["g1"]
