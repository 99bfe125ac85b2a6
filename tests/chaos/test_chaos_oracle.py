"""The oracle of the chaos bench finds every sort of lie, and only lies."""

import copy
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from chaos_made import CODES, CONTENTS, TEXTS, corpus, delete, honest, kinds, make_history, make_judge, put

from bench.chaos import oracle
from bench.chaos.corpus import FILTERS, draw_contents, make_draft
from bench.chaos.filters import holds
from bench.chaos.history import History, windows
from bench.chaos.killer import Killer, Strike, plan
from bench.chaos.server import Server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def history():
    """Everything written by 1; at 60 an item is replaced, another one deleted."""
    return make_history(put("b0", 7, 60.0, status=200), delete("B1", 60.0))


@pytest.fixture(scope="module")
def judge(history):
    return make_judge(history)


def test_honest_answers_are_true(history, judge):
    even = {"must": [{"key": "even", "eq": True}]}
    for changes in (
        {},
        {"k": 1},
        {"k": 1000},
        {"max_distance": 2},
        {"filter": even},
        {"filter": {"must": [{"key": "n", "gt": 10}], "must_not": [even["must"][0]]}, "k": 3},
        {"from": "image", "to": "text", "query": 5},
        {"at": 90.0},
        {"at": 200.0, "model": "m/2", "generation": "g2"},
        {"at": 105.0, "model": "m/2", "generation": "g2"},  # the alias may have moved
        {"at": 105.0},
    ):
        answer = honest(history, **changes)
        assert judge.judge(answer) == [], changes


def move_distance(hits):
    hits[4]["distance"] += 1


def leave_out(hits):
    del hits[4]


def double(hits):
    hits.insert(4, copy.deepcopy(hits[4]))
    del hits[-1]


def swap_ties(hits):
    tie = next(n for n in range(9) if hits[n]["distance"] == hits[n + 1]["distance"])
    hits[tie], hits[tie + 1] = hits[tie + 1], hits[tie]


def by_number(hits):
    """Ties in the order of the ids' numbers, as a service would have it that sorts by row and not by id."""
    hits.sort(key=lambda hit: (hit["distance"], hit["metadata"]["n"]))


def invent(hits):
    hits[4]["id"] = "nobody"


def mix_up(hits):
    hits[4]["text"], hits[5]["text"] = "text 11", "text 10"


def other_metadata(hits):
    hits[0]["metadata"] = {}


def no_image(hits):
    hits[0]["image_url"] = None


def other_similarity(hits):
    hits[0]["similarity"] += 0.01


def other_match(hits):
    hits[0]["match"] = 0.5


def one_too_many(hits):
    hits.append(hits[-1] | {"id": "_26"})


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (move_distance, "wrong distance"),
        (leave_out, "missing"),
        (double, "doubled"),
        (swap_ties, "wrong order"),
        (by_number, "wrong order"),
        (invent, "invented item"),
        (mix_up, "wrong content"),
        (other_metadata, "wrong content"),
        (no_image, "wrong content"),
        (other_similarity, "wrong similarity"),
        (other_match, "wrong match"),
        (one_too_many, "too many"),
    ],
)
def test_a_doctored_answer_is_found_out(history, judge, lie, kind):
    answer = honest(history)
    lie(answer["body"]["hits"])
    assert kind in kinds(judge.judge(answer))


def test_the_answer_of_another_model_is_found_out(history, judge):
    answer = honest(history)
    answer["body"]["hits"] = honest(history, model="m/2")["body"]["hits"]
    assert "wrong distance" in kinds(judge.judge(answer))


@pytest.mark.parametrize(
    ("at", "generation", "model", "kind"),
    [
        (200.0, "g1", "m/1", "stale generation"),  # the swap was seen at 110
        (111.0, "g1", "m/1", "stale generation"),
        (50.0, "g2", "m/2", "stale generation"),  # nobody had asked for it
        (50.0, "g0", "m/1", "stale generation"),
        (200.0, "g2", "m/1", "wrong model"),
        (50.0, "g1", "m/3", "wrong model"),
    ],
)
def test_a_pair_that_was_not_live_then_is_found_out(history, judge, at, generation, model, kind):
    answer = honest(history, at=at, model=model if model in CODES else "m/1")
    answer["body"] |= {"index_generation": generation, "model_version": model}
    assert kind in kinds(judge.judge(answer))


def test_what_may_be_missed_is_not_claimed_to_be_exact(history, judge):
    answer = honest(history)
    answer["body"]["exact"] = False
    assert kinds(judge.judge(answer)) == {"not exact"}


def test_hits_beyond_the_filter_or_the_distance_are_found_out(history, judge):
    answer = honest(history)
    farthest = answer["body"]["hits"][-1]["distance"]
    assert kinds(judge.judge(answer | {"max_distance": farthest - 1})) == {"not asked for"}
    narrowed = answer | {
        "filter": {"must_not": [{"key": "n", "eq": answer["body"]["hits"][0]["metadata"]["n"]}]}
    }
    assert kinds(judge.judge(narrowed)) == {"not asked for"}


def test_an_acknowledged_write_must_be_seen_and_the_old_version_not(history, judge):
    before, after = honest(history, k=1000), honest(history, at=90.0, k=1000)
    for answer, when, wanted in ((before, 90.0, {"deleted item"}), (after, 50.0, {"missing"})):
        assert wanted <= kinds(judge.judge(answer | {"t0": when, "t1": when + 1}))
    both = {"t0": 60.5, "t1": 60.8}  # the writes are under way: each of the answers may come
    assert judge.judge(before | both) == judge.judge(after | both) == []


def test_an_item_of_two_versions_is_torn(history, judge):
    """The distance of the old version with the content of the new one."""
    at = {"t0": 60.5, "t1": 60.8}
    old, new = (
        {hit["id"]: hit for hit in honest(history, at=when, k=1000)["body"]["hits"]} for when in (50.0, 90.0)
    )
    torn = honest(history, k=1000) | at
    assert old["b0"]["distance"] != new["b0"]["distance"]
    for hit in torn["body"]["hits"]:
        if hit["id"] == "b0":
            hit.update(text=new["b0"]["text"], metadata=new["b0"]["metadata"])
    assert kinds(judge.judge(torn)) == {"torn item"}


def test_a_write_that_was_not_acknowledged_may_be_seen_or_not():
    lost = put("b0", 7, 60.0) | {"status": 503}
    later = put("b0", 9, 70.0, status=200)
    history = make_history(lost, later)
    judge = make_judge(history)
    versions = history.items["b0"]
    assert (history.acknowledged, history.unknown) == (31, 1)
    assert [one.image for one in versions if one.may_be_seen(65, 66)] == [0, 7]
    assert [one.image for one in versions if one.may_be_seen(80, 81)] == [9]
    without, done = make_history(), make_history(lost | {"status": 200})
    for way in (without, done):
        assert judge.judge(honest(way, at=65.0)) == []
    assert judge.judge(honest(without, at=65.0, k=1000) | {"t0": 80.0, "t1": 81.0}) != []


@pytest.mark.parametrize(
    "write",
    [
        put("b0", 1, 60.0, status=201),  # it was there: 200
        put("new", 1, 60.0, status=200),
        put("new", 1, 60.0, status=422),
        delete("b0", 60.0, status=404),
        delete("new", 60.0, status=204),
    ],
)
def test_a_write_that_was_answered_wrongly_is_found_out(write):
    assert len(make_history(write).wrong) == 1


def test_a_history_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="two writes of b0"):
        make_history(put("b0", 1, 60.0), put("b0", 2, 60.5))
    with pytest.raises(ValueError, match="not acknowledged"):
        make_history(put("b0", 1, 60.0) | {"status": 503}).final()


PROBLEM = dict.fromkeys(("type", "title", "status", "detail", "code", "request_id"), "x")
CLEAN = {"status": 503, "type": "application/problem+json", "retry_after": "5", "body": PROBLEM}
BROKEN = {"error": "ReadError"}


@pytest.mark.parametrize(
    ("at", "outcome", "kind"),
    [
        (10.5, CLEAN, None),
        (10.5, BROKEN, None),
        (9.5, BROKEN, None),  # in flight when the kill came
        (30.0, CLEAN, "failure outside a kill window"),
        (30.0, BROKEN, "failure outside a kill window"),
        (10.5, {"error": "ReadTimeout"}, "hanging request"),
        (10.5, CLEAN | {"status": 500}, "unclean failure"),
        (10.5, CLEAN | {"retry_after": None}, "unclean failure"),
        (10.5, CLEAN | {"type": "text/plain", "body": None}, "unclean failure"),
        (10.5, CLEAN | {"status": 404}, "unclean failure"),
    ],
)
def test_requests_fail_cleanly_and_in_a_kill_window_only(at, outcome, kind):
    downs = windows([{"at": 10.0, "ready_at": 20.0}, {"at": 29.0, "ready_at": None}])
    event = {"what": "search", "t0": at, "t1": at + 1} | outcome
    assert kinds(oracle.failure(event, downs, Counter())) == ({kind} if kind else set())


def test_a_reindex_fails_only_when_somebody_was_killed():
    failed = {"phase": "failed", "error": "why", "t0": 10.0, "t1": 20.0}
    for during in ({"at": 15.0, "until": 15.1}, {"at": 9.9, "until": 10.0}, {"at": 20.0, "until": 20.1}):
        assert oracle.jobs([failed], [during], Counter()) == []
    for apart in ({"at": 25.0, "until": 25.1}, {"at": 9.8, "until": 9.9}):
        assert kinds(oracle.jobs([failed], [apart], Counter())) == {"reindex failed by itself"}


def test_a_worker_that_is_waited_for_is_killed_when_it_comes_not_before():
    class Busy(Server):
        def __init__(self):
            self.looks = 0

        def workers(self):
            return [1]

        def kill_workers(self):
            self.looks += 1
            return [] if self.looks < 4 else [7]

    events = []
    journal = SimpleNamespace(write=events.append)
    strike = Strike(0.0, ("worker",), 0.0, None, 1)
    begun = time.monotonic()
    Killer(Busy(), [strike], journal).run(lambda: True)
    (event,) = events
    assert event["workers"] == 1
    assert begun + 0.03 <= event["at"] <= event["until"] <= time.monotonic()


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos") / "contents"
    draw_contents(folder, CONTENTS, 1)
    return folder


def listed(history, contents):
    texts = oracle.read_texts(contents)
    return [
        {
            "id": item_id,
            "text": texts[one.text],
            "metadata": one.metadata,
            "image_digest": oracle._digest(contents, one.image),
        }
        for item_id, one in sorted(history.final().items(), key=lambda pair: pair[0].encode())
    ]


def test_a_listing_that_lost_doubled_or_changed_an_item_is_found_out(history, contents):
    final, true = history.final(), listed(history, contents)
    assert oracle.compare_listing(true, final, contents) == []
    for listing, kind in (
        (true[1:], "lost item"),
        ([true[0], *true], "doubled item"),
        (true[::-1], "wrong order"),
        ([*true[:-1], true[-1] | {"text": "other"}], "wrong content"),
        ([*true[:-1], true[-1] | {"image_digest": "0" * 64}], "wrong picture"),
        (sorted([*true, true[0] | {"id": "B1"}], key=lambda one: one["id"]), "item that should be gone"),
    ):
        assert kinds(oracle.compare_listing(listing, final, contents)) == {kind}


def test_a_generation_that_lacks_an_item_is_found_out(history, judge):
    answer = honest(history, at=90.0, k=1000)
    pages = [
        answer["body"] | {"hits": answer["body"]["hits"][:20]},
        answer["body"] | {"hits": answer["body"]["hits"][20:]},
    ]
    event = answer | {"generation": "g1", "pages": pages}
    assert oracle.enumeration(event, judge) == []
    assert kinds(oracle.enumeration(event | {"pages": pages[:1]}, judge)) == {"missing"}
    assert kinds(oracle.enumeration(event | {"pages": [*pages, pages[1]]}, judge)) == {
        "doubled",
        "wrong order",
    }
    assert kinds(oracle.enumeration(event | {"generation": "g2"}, judge)) == {"wrong generation"}


def test_filters_mean_what_the_contract_says():
    metadata = {"ground": "plain", "objects": 4, "fresh": True, "tags": ["old", "sharp"]}
    assert [holds(one, metadata) for one in FILTERS] == [False, True, True, True, True]
    for part in (
        {"key": "objects", "eq": "4"},
        {"key": "fresh", "eq": 1},
        {"key": "tags", "eq": "ol"},
        {"key": "nothing", "lt": 5},
        {"key": "objects", "in": []},
    ):
        assert not holds({"must": [part]}, metadata)
        assert holds({"must_not": [part]}, metadata)
    assert holds({"must": [{"key": "objects", "eq": 4.0}, {"key": "objects", "gt": 3.5}]}, metadata)


def test_the_oracle_knows_neither_service_nor_index():
    script = "import sys, bench.chaos.oracle; print({'service', 'index', 'torch'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "{'torch'}"  # `model.inference` is there, and neither of the others


@pytest.mark.parametrize("kills", [1, 3, 30])
def test_kills_follow_from_the_seed_and_lie_in_the_time_given(kills):
    strikes = plan(kills, 600.0, 5)
    assert strikes == plan(kills, 600.0, 5) != plan(kills, 600.0, 6)
    assert sum(one.kills for one in strikes) == kills
    assert [one.at_s for one in strikes] == sorted(one.at_s for one in strikes)
    assert all(0 <= one.at_s <= 600 for one in strikes)
    assert "service" in strikes[-1].targets
    assert {one.keep for one in strikes if one.at_s > 300} <= {3}
    if kills > 1:
        assert {target for one in strikes for target in one.targets} == {"service", "worker"}
    assert kills < 30 or {one.kills for one in strikes} == {1, 2}


def test_drafts_have_an_image_or_a_text():
    rng = np.random.default_rng(1)
    drafts = [make_draft(rng, CONTENTS) for _ in range(300)]
    without = [(one.image is None, one.text is None) for one in drafts]
    assert set(without) == {(False, False), (True, False), (False, True)}
    assert len(TEXTS) == CONTENTS
    assert len(corpus()) == 30
    assert History().final() == {}
