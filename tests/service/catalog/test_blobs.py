"""Blobs: whole or not there, checked when read, on the local disk and on another file system."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.application.errors import Damaged
from service.catalog.blobs import FsspecBlobs, digest_of

DATA = b"some image bytes"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["local", "memory"])
def blobs(request, tmp_path):
    url = f"file://{tmp_path}/blobs" if request.param == "local" else f"memory://{tmp_path.name}"
    return FsspecBlobs(url)


def test_what_is_stored_comes_back_and_can_be_removed(blobs):
    assert digest_of(DATA) == DIGEST
    blobs.ensure(DIGEST, DATA)
    blobs.ensure(DIGEST, DATA)
    assert blobs.read(DIGEST) == DATA
    blobs.remove(DIGEST)
    blobs.remove(DIGEST)
    with pytest.raises(Damaged, match="is missing") as caught:
        blobs.read(DIGEST)
    assert caught.value.code == "blob_missing"


def test_an_empty_blob_is_a_blob(blobs):
    digest = digest_of(b"")
    blobs.ensure(digest, b"")
    assert blobs.read(digest) == b""


def test_it_lies_two_folders_deep(tmp_path):
    FsspecBlobs(f"file://{tmp_path}").ensure(DIGEST, DATA)
    path = tmp_path / DIGEST[:2] / DIGEST[2:4] / DIGEST
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == [DIGEST]


@pytest.mark.parametrize("found", [b"other bytes here", b"", DATA[:-1], DATA + b"x"])
def test_damage_is_noticed(tmp_path, found):
    blobs = FsspecBlobs(f"file://{tmp_path}")
    blobs.ensure(DIGEST, DATA)
    (tmp_path / DIGEST[:2] / DIGEST[2:4] / DIGEST).write_bytes(found)
    with pytest.raises(Damaged) as caught:
        blobs.read(DIGEST)
    assert caught.value.code == "blob_damaged"
    blobs.ensure(DIGEST, DATA)
    assert blobs.read(DIGEST) == DATA


def test_what_was_checked_a_moment_ago_is_not_read_again(blobs, monkeypatch):
    blobs.ensure(DIGEST, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(blobs._files, "cat_file", lambda path: pytest.fail(f"{path} was read"))
        blobs.ensure(DIGEST, DATA, checked=True)
    blobs.remove(DIGEST)
    blobs.ensure(DIGEST, DATA, checked=True)
    assert blobs.read(DIGEST) == DATA


def test_bytes_that_cannot_be_read_are_written_anew(tmp_path, monkeypatch):
    def bad_sector(path):
        raise OSError(5, "Input/output error")

    blobs = FsspecBlobs(f"file://{tmp_path}")
    blobs.ensure(DIGEST, DATA)
    path = tmp_path / DIGEST[:2] / DIGEST[2:4] / DIGEST
    before = path.stat().st_ino
    monkeypatch.setattr(blobs._files, "cat_file", bad_sector)
    blobs.ensure(DIGEST, DATA)
    assert (path.stat().st_ino == before, path.read_bytes()) == (False, DATA)


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", "A" * 64, "f" * 63, "f" * 65, "g" * 64])
def test_only_digests_are_names(blobs, digest):
    blobs.ensure(DIGEST, DATA)
    for call in (lambda: blobs.ensure(digest, DATA), lambda: blobs.read(digest)):
        with pytest.raises(ValueError, match="wanted a SHA-256"):
            call()
    blobs.remove(digest)  # it cannot be there
    assert [entry.digest for entry in blobs.entries()] == [DIGEST]


def test_a_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        FsspecBlobs(f"file://{tmp_path}").ensure(DIGEST, DATA)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_writers_of_the_same_bytes_do_not_disturb_each_other(tmp_path):
    blobs = FsspecBlobs(f"file://{tmp_path}")
    data = os.urandom(200_000)
    digest = digest_of(data)
    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(blobs.ensure, digest, data) for _ in range(16)]:
            call.result()
    assert blobs.read(digest) == data
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
