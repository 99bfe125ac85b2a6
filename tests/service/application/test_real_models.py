"""The whole of the service's inside with a real (tiny, untrained) model, real Faiss and a real worker."""

import struct
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from tiny import BITS, make_model, picture

from service.adapters import DiskGenerations, DiskModels
from service.application.errors import InvalidInput, NotFound, TooLarge, Unavailable, UnsupportedMedia
from service.application.types import FINAL_PHASES, ItemDraft, JobPhase, Query
from service.settings import Settings
from service.wiring import build_application, build_index, ensure_generation, load_encoder, open_parts


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "home"
    make_model(folder / "models")
    return folder


@pytest.fixture(scope="module")
def app(home):
    app = build_application(Settings(home=home, follower_poll_s=0.1, model_batch_delay_ms=0))
    app.start()
    yield app
    app.close()


@pytest.fixture
def shelf(home):
    return DiskModels(home / "models", "cpu")


def test_a_model_of_the_home_can_be_loaded_by_label(home, shelf):
    encoder = load_encoder(Settings(home=home), "tiny/1")
    assert (encoder.bits, encoder.model_name, encoder.model_version) == (BITS, "tiny", "1")
    ref = shelf.refs()[0]
    assert (ref.label, ref.digest, ref.bits) == ("tiny/1", encoder.digest, BITS)
    assert ref.preprocessing_digest == encoder.preprocessing_digest
    codes = encoder.encode_texts(["two red circles", "a blue square"])
    assert (codes.shape, codes.dtype.name) == ((2, BITS // 8), "uint8")
    image = encoder.decode(picture(1))
    assert encoder.encode_images([image, image]).tobytes() == encoder.encode_images([image]).tobytes() * 2
    with pytest.raises(NotFound):
        load_encoder(Settings(home=home), "tiny/2")


def test_an_empty_index_is_of_the_configured_backend(home):
    index = build_index(Settings(home=home, index_backend="memory"), BITS)
    assert (len(index), index.exact) == (0, True)
    assert type(index.index).__name__ == "MemoryIndex"


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (b"", InvalidInput, "empty_file"),
        (b"plain text", UnsupportedMedia, "unsupported_image"),
        (b"GIF89a" + b"\0" * 50, UnsupportedMedia, "unsupported_image"),
        (picture(1)[:200], InvalidInput, "broken_image"),
    ],
)
def test_bad_images_keep_the_code_of_the_model(app, data, error, code):
    for call in (
        lambda: app.retrieval.encode_image(data),
        lambda: app.items.put(ItemDraft("bad", data)),
        lambda: app.retrieval.search(Query(to="text", image=data)),
    ):
        with pytest.raises(error) as caught:
            call()
        assert caught.value.code == code


def test_a_bomb_is_too_large(app):

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501) * 20_000)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    started = time.perf_counter()
    with pytest.raises(TooLarge) as caught:
        app.items.put(ItemDraft("bomb", bomb))
    assert caught.value.code == "too_many_pixels"
    assert time.perf_counter() - started < 1


def test_put_find_thumbnail_delete(app):
    item, created = app.items.put(ItemDraft("one", picture(1), "two red circles", {"n": 1}))
    assert created
    assert item.image_type == "image/png"
    for to, asked in (("image", {"image": picture(1)}), ("text", {"text": "two red circles"})):
        hit = app.retrieval.search(Query(to=to, k=1, **asked)).hits[0]
        assert (hit.id, hit.distance) == ("one", 0)
    assert app.retrieval.search(Query(to="text", image=picture(1))).hits[0].match is not None
    assert app.items.thumbnail("one", 64)[0][:3] == b"\xff\xd8\xff"
    app.items.delete("one")
    assert app.retrieval.search(Query(to="image", image=picture(1))).hits == ()


def test_reindex_with_a_second_model_in_a_real_worker(app, home):
    app.items.put_batch([ItemDraft(f"i{n}", picture(n), f"text number {n}") for n in range(8)])
    make_model(home / "models", seed=1)
    job = app.reindexing.start("latest", True, None)
    deadline = time.monotonic() + 200
    while (job := app.reindexing.job(job.id)).phase not in FINAL_PHASES:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (job.phase, job.error) == (JobPhase.DONE, None)
    answer = app.retrieval.search(Query(to="image", image=picture(3), k=1))
    assert (answer.model_version, answer.hits[0].id, answer.hits[0].distance) == ("tiny/2", "i3", 0)
    assert answer.index_generation == job.generation_id
    assert "heart" not in (home / "logs" / f"reindex-{job.id}.log").read_text()


def test_cards_are_the_public_part(app):
    card = app.models.card("tiny", "1")
    assert (card["name"], card["version"], card["bits"]) == ("tiny", "1", BITS)
    assert {"robustness", "readme", "digest"} <= set(card)
    assert "files" not in card
    assert len(app.models.cards()) >= 1
    for name, version in (("tiny", "99"), ("..", ".."), ("", "1")):
        with pytest.raises(NotFound):
            app.models.card(name, version)


def test_a_damaged_model_is_not_loaded(tmp_path):
    folder = make_model(tmp_path / "models")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(Unavailable, match="cannot be loaded") as caught:
        DiskModels(tmp_path / "models", "cpu").load("tiny", "1")
    assert caught.value.code == "model_damaged"
    (folder / "README.md").unlink()
    with pytest.raises(Unavailable):
        DiskModels(tmp_path / "models", "cpu").card("tiny", "1")


def test_a_generation_of_another_model_or_without_a_folder_is_refused(tmp_path):
    make_model(tmp_path / "models")
    parts = open_parts(Settings(home=tmp_path))
    generation = ensure_generation(parts)
    parts.close()
    store = DiskGenerations(tmp_path / "generations", "faiss")
    assert len(store.load(generation)["image"]) == 0
    for wrong in (replace(generation, model_digest="0" * 64), replace(generation, id="gone")):
        with pytest.raises(Unavailable, match="cannot be loaded") as caught:
            store.load(wrong)
        assert caught.value.code == "generation_damaged"
    store.delete(generation.id)
    store.delete(generation.id)
    with pytest.raises(Unavailable):
        store.load(generation)


def test_only_indexes_of_the_store_can_be_written(tmp_path):
    store = DiskGenerations(tmp_path, "memory")
    make_model(tmp_path / "models")
    parts = open_parts(Settings(home=tmp_path))
    generation = ensure_generation(parts)
    parts.close()
    with pytest.raises(TypeError, match="wanted an index that this store made, got dict"):
        store.write(replace(generation, id="g"), {"image": {}, "text": {}})
