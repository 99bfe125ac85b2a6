"""Attack scores in searches: there when they are on, the same hits either way, and never in anyone's way."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_homes import settings_for
from fake_models import FakeEncoder, FakeShelf, picture
from structlog.testing import capture_logs

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from tiny import make_model
from tiny import picture as drawn

from model.inference import Encoder
from service.adapters import DiskModels, PackedEncoder
from service.application.batching import BatchingEncoder, BatchingOptions, ModelThread
from service.application.errors import InvalidInput, Unavailable
from service.application.types import FINAL_PHASES, ItemDraft, Query, Suspicion
from service.wiring import build_application

BOTH = ["image", "text"]
COLOURS = ("red", "green", "blue", "grey")
BENIGN = np.linspace(0, 1, 200)


def filled(home, scored):
    """A started application with one item per colour and six texts."""
    shelf = FakeShelf(home / "models")
    shelf.publish("1", scored=scored)
    app = build_application(settings_for(home), shelf)
    app.start()
    app.items.put_batch([ItemDraft(c, picture(c), f"a {c} square") for c in COLOURS])
    app.items.put_batch([ItemDraft(f"t{n}", text=f"word{n % 3} !") for n in range(6)])
    return app


@pytest.fixture(scope="module")
def off_and_on(tmp_path_factory):
    """Two applications with the same corpus, without and with scores; tests only read."""
    apps = [filled(tmp_path_factory.mktemp("scores"), scored) for scored in (None, BOTH)]
    yield apps
    for app in apps:
        app.close()


QUERIES = [
    Query(to="text", image=picture("red")),
    Query(to="image", image=picture("grey"), k=3),
    Query(to="image", text="green !!! word1"),
    Query(to="text", text="word2", max_distance=40),
    Query(to="text", item=("red", "image")),
    Query(to="image", item=("t1", "text")),
]
SCORES = [1.0, 128 / 255, 3.0, 0.0, None, None]


def hits(answer):
    return [(hit.id, hit.distance, hit.match) for hit in answer.hits]


@pytest.mark.parametrize(("query", "score"), list(zip(QUERIES, SCORES, strict=True)))
def test_hits_are_the_same_with_and_without_and_stored_items_have_no_score(off_and_on, query, score):
    off, on = (app.retrieval.search(query) for app in off_and_on)
    assert hits(off) == hits(on)
    assert len(off.hits) > 1
    assert off.attack_score is None
    assert on.attack_score == (None if score is None else pytest.approx(score))


def test_a_batch_has_the_scores_of_its_queries_one_by_one(off_and_on):
    off, on = (app.retrieval.search_batch([*QUERIES, Query(to="text", text="  ")]) for app in off_and_on)
    assert [hits(answer) for answer in off[:-1]] == [hits(answer) for answer in on[:-1]]
    assert [answer.attack_score for answer in on[:-1]] == pytest.approx(SCORES)
    assert {answer.attack_score for answer in off[:-1]} == {None}
    assert isinstance(on[-1], InvalidInput)


def test_pages_of_a_query_go_on_whether_scores_are_on_or_not(off_and_on):
    pages = []
    for app in off_and_on:
        first = app.retrieval.search(Query(to="text", text="red", k=2))
        second = app.retrieval.search(Query(to="text", text="red", k=2, cursor=first.next_cursor))
        pages.append((hits(first), hits(second), first.next_cursor))
    assert pages[0] == pages[1]


def test_a_code_alone_asks_for_no_score(off_and_on, monkeypatch):
    def never(_inputs):
        raise AssertionError("nobody asked for a score")

    for name in ("examine_images", "examine_texts"):
        monkeypatch.setattr(off_and_on[1].follower._state.current.encoder, name, never)
    codes = [
        (app.retrieval.encode_image(picture("red")).code, app.retrieval.encode_text("a !").code)
        for app in off_and_on
    ]
    assert codes[0] == codes[1]


def test_a_suspicion_names_the_rates_whose_thresholds_it_exceeds():
    thresholds = {0.05: 1.0, 0.01: 2.0}
    found = [Suspicion("text", score, thresholds).exceeded() for score in (0.5, 1.0, 1.5, 2.0, 2.5)]
    assert found == [[], [], [0.05], [0.05], [0.01, 0.05]]


def test_joined_queries_get_their_own_codes_and_scores():
    encoder = FakeEncoder("1", scored=BOTH)
    thread = ModelThread(BatchingOptions(max_batch=8, max_delay_s=0.002, max_queue=500, deadline_s=60.0))
    batching = BatchingEncoder(encoder, thread)
    texts = [f"word{n} {'!' * (n % 5)}" for n in range(80)]
    try:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda text: batching.examine_texts([text])[0], texts))
        assert [one.score for one in found] == [n % 5 for n in range(80)]
        assert [one.code for one in found] == [code.tobytes() for code in batching.encode_texts(texts)]
        assert max(encoder.batches) > 1
        with pytest.raises(InvalidInput):
            batching.examine_texts(["crash"])
    finally:
        thread.close()
    with pytest.raises(Unavailable):
        batching.examine_texts(["word"])


def wait_for(job_of, job_id):
    deadline = time.monotonic() + 60
    while (job := job_of(job_id)).phase not in FINAL_PHASES:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert job.error is None
    return job


def test_a_model_without_a_score_answers_is_named_once_and_a_roll_back_brings_the_score_back(
    make_app, home, shelf
):
    shelf.publish("1", scored=BOTH)
    app = make_app()
    app.items.put(ItemDraft("red", picture("red"), "a red square"))
    asked = Query(to="image", text="red !!!")
    assert app.retrieval.search(asked).attack_score == 3.0
    assert app.health.ready().reasons == ()

    first = app.health.ready().generation_id
    shelf.publish("2", scored=["image"])
    with capture_logs() as logs:
        wait_for(app.reindexing.job, app.reindexing.start("fake/2", True, None).id)
        app.follower.tick()
        answers = [app.retrieval.search(asked) for _ in range(3)]
    assert {(answer.model_version, answer.attack_score) for answer in answers} == {("fake/2", None)}
    assert {answer.hits[0].id for answer in answers} == {"red"}
    assert app.retrieval.search(Query(to="image", image=picture("red"))).attack_score == 1.0
    warned = [line for line in logs if line["event"] == "attack_score_missing"]
    assert [(line["log_level"], line["model"], line["sides"]) for line in warned] == [
        ("warning", "fake/2", ["text"])
    ]
    state = app.health.ready()
    assert state.ok
    assert state.reasons == ("the attack score is on, and fake/2 has none for texts",)

    app.reindexing.activate(first)
    assert app.retrieval.search(asked).attack_score == 3.0
    assert app.health.ready().reasons == ()


def test_without_scores_nobody_is_told_that_a_model_has_none(app):
    assert app.health.ready().reasons == ()
    assert app.follower._state.current.unscored == []


# The real encoder behind the port


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """tiny/1 with scores for both sides, tiny/2 for images alone, tiny/3 without; one set of weights."""
    folder = tmp_path_factory.mktemp("models")
    for benign in ({"image": BENIGN, "text": BENIGN}, {"image": BENIGN}, None):
        make_model(folder, benign=benign)
    return folder


def load(models, version, scores=True):
    return DiskModels(models, "cpu", scores=scores).load("tiny", version)


def test_the_disk_gives_scores_only_when_they_are_on_and_there(models):
    sides = {version: load(models, version).score_thresholds for version in "123"}
    assert {version: set(found) for version, found in sides.items()} == {
        "1": {"image", "text"},
        "2": {"image"},
        "3": set(),
    }
    assert sides["1"]["text"][0.01] > sides["1"]["text"][0.05]
    assert [load(models, version, scores=False).score_thresholds for version in "123"] == [None] * 3


def test_codes_are_bit_for_bit_those_without_scores(models):
    plain = load(models, "1", scores=False)
    images = [plain.decode(drawn(n)) for n in range(70)]
    texts = [f"{n} red circles" for n in range(70)]
    wanted = [code.tobytes() for code in (*plain.encode_images(images), *plain.encode_texts(texts))]
    truth = Encoder.load(models / "tiny" / "1", "cpu", score=True)
    scores = [*truth.score_images(images), *truth.score_texts(texts)]
    for version in "123":
        encoder = load(models, version)
        found = [*encoder.examine_images(images), *encoder.examine_texts(texts)]
        assert [one.code for one in found] == wanted
        there = {"1": 140, "2": 70, "3": 0}[version]
        assert [one.score for one in found] == [*scores[:there], *[None] * (140 - there)]
    assert min(scores) >= 0
    assert len(set(scores[:70])) == 70


def test_a_score_that_fails_or_is_no_number_costs_the_query_nothing(models, monkeypatch):
    encoder = Encoder.load(models / "tiny" / "1", "cpu", score=True)
    packed = PackedEncoder(encoder, scores=True)
    codes = [code.tobytes() for code in packed.encode_texts(["a", "b", "c"])]

    def broken(_texts):
        raise RuntimeError("the branches broke")

    monkeypatch.setattr(encoder, "score_texts", broken)
    with capture_logs() as logs:
        found = packed.examine_texts(["a", "b", "c"])
    assert [(one.code, one.score) for one in found] == [(code, None) for code in codes]
    assert [(line["event"], line["side"]) for line in logs] == [("attack_score_failed", "text")]
    monkeypatch.setattr(encoder, "score_texts", lambda _: np.array([np.nan, 0.25, np.inf]))
    assert [one.score for one in packed.examine_texts(["a", "b", "c"])] == [None, 0.25, None]


def test_a_damaged_score_is_a_clear_error_when_scores_are_on_and_nobodys_business_when_off(tmp_path):
    path = make_model(tmp_path / "models", benign={"image": BENIGN}) / "score.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert load(tmp_path / "models", "1", scores=False).bits == 32
    with pytest.raises(Unavailable, match=r"cannot be loaded: .*score\.safetensors: wanted") as caught:
        load(tmp_path / "models", "1")
    assert caught.value.code == "model_damaged"


def test_a_score_of_hostile_content_is_refused_though_its_digest_fits(tmp_path):
    make_model(tmp_path / "models", benign={"image": np.full(50, np.nan)})
    with pytest.raises(Unavailable, match=r"score\.safetensors: thresholds\.image: wanted falling numbers"):
        load(tmp_path / "models", "1")
