"""Names of tables are claimed before the tables are made: what a dead builder leaves is known and dropped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from index_cases import REMOTE, params
from test_remote_backends import names_in

from index import registry
from index.backends.clients import is_name, new_name, reference_of, write_reference
from index.claims import claim, is_remote, left_behind, sweep_claims, unknown_tables
from index.errors import CorruptIndex
from index.store import Meta, load_generation, sweep, write_generation

BITS = 64
META = Meta("toy", "3", "a" * 64, "c" * 64, BITS, 17, "2026-11-23T10:00:00+00:00")

# A builder that is killed when its tables are made and filled, and no generation refers to them yet.
BUILDER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from index import registry
from index.claims import claim

root, name, url = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
kept = []
for side in ("image", "text"):
    index = registry.create(name, 64, url=url, announce=lambda t: kept.append(claim(root, name, 64, t)))
    index.add(["a"], np.zeros((1, 8), np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=params(REMOTE), scope="module")
def engine(request, connect):
    """A backend's name and the options that reach its server."""
    return request.param, connect(request.param)


def test_a_killed_builder_leaves_claims_and_a_sweep_drops_its_tables(engine, tmp_path):
    name, options = engine
    registry.create(name, BITS, **options)  # somebody else's, and the engine's list of indexes
    before = names_in(name, options)
    ended = subprocess.run(
        [sys.executable, "-c", BUILDER, str(tmp_path), name, options["url"]],
        cwd=Path(__file__).parents[2],
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert len(names_in(name, options) - before) == 2
    left = left_behind(tmp_path)
    assert len(left) == 2
    assert sweep_claims(tmp_path) == []  # without the engine's address they wait
    assert left_behind(tmp_path) == left
    assert sorted(sweep_claims(tmp_path, options["url"])) == left
    assert names_in(name, options) == before
    assert list(tmp_path.iterdir()) == []


def test_a_living_builder_and_what_a_generation_refers_to_are_left_alone(engine, tmp_path):
    """A builder that died between the rename and the release of its claims drops nothing that is served."""
    name, options = engine
    claims = []

    def announce(table):
        claims.append(claim(tmp_path, name, BITS, table))

    sides = [registry.create(name, BITS, announce=announce, **options) for _ in range(2)]
    sides[0].add(["a"], np.zeros((1, 8), np.uint8))
    assert left_behind(tmp_path) == sweep_claims(tmp_path, options["url"]) == []
    write_generation(tmp_path, "g1", Meta(**{**META.__dict__, "backend": name}), *sides)
    claims.pop().release()
    claims.clear()  # as the end of the process does
    assert len(left_behind(tmp_path)) == 1
    assert len(sweep_claims(tmp_path, options["url"])) == 1
    assert len(load_generation(tmp_path / "g1", "a" * 64, options["url"]).image) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["g1"]


def test_tables_that_nobody_here_knows_are_named(engine, tmp_path):
    name, options = engine
    mine = registry.create(name, BITS, **options)
    mine.save(tmp_path / "g1" / "image")
    theirs = registry.create(name, BITS, **options)
    theirs.save(tmp_path.with_name(tmp_path.name + "-other") / "g" / "image")
    table = reference_of(tmp_path / "g1" / "image")[1]
    found = unknown_tables(tmp_path, name, options["url"])
    assert table not in found
    assert set(found) == {one for one in names_in(name, options) if is_name(one)} - {table}
    assert found


# What needs no server.


def test_a_claim_that_was_cut_off_is_removed(tmp_path):
    (tmp_path / ".claim-0").mkdir()
    (tmp_path / ".claim-1" / "table").mkdir(parents=True)
    (tmp_path / ".claim-1" / "table" / "index.json").write_text("{")
    write_reference(tmp_path / ".claim-2" / "table", "memory", BITS, 0, "not a name of ours")
    (tmp_path / ".building-g1-0").mkdir()
    assert left_behind(tmp_path) == [".building-g1-0", ".claim-0", ".claim-1", ".claim-2"]
    assert sweep_claims(tmp_path) == [".claim-0", ".claim-1", ".claim-2"]
    assert sweep(tmp_path) == left_behind(tmp_path) or left_behind(tmp_path) == []


def test_an_engine_that_does_not_answer_keeps_its_claims(tmp_path, monkeypatch):
    monkeypatch.setattr("index.backends.postgres._CONNECT_S", 0.2)  # nobody needs to wait for nobody
    claim(tmp_path, "pgvector", BITS, new_name())  # nobody keeps it: its process counts as dead
    url = "postgresql://nobody@127.0.0.1:1/none"
    assert sweep_claims(tmp_path, url) == []
    assert len(left_behind(tmp_path)) == 1


def test_embedded_backends_have_no_tables(tmp_path):
    assert (is_remote("faiss"), is_remote("milvus")) == (False, True)
    assert unknown_tables(tmp_path / "nothing", "faiss", "unused") == []
    assert left_behind(tmp_path / "nothing") == sweep_claims(tmp_path / "nothing") == []
    embedded = registry.create("memory", BITS)
    embedded.save(tmp_path / "saved")
    with pytest.raises(CorruptIndex, match="the codes themselves"):
        reference_of(tmp_path / "saved")


def test_a_folder_that_cannot_be_written_claims_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        claim(tmp_path / "file", "pgvector", BITS, new_name())
