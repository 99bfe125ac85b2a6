"""A short form of `make bench-chaos`: a real service killed under load, judged by the oracle; a minute."""

import json
import sys

import pytest

from bench.chaos.oracle import examine
from bench.chaos.run import Options, run

OPTIONS = Options(
    items=240,
    spare=60,
    searchers=4,
    seconds=30.0,
    reindexes=2,
    kills=3,
    seed=4,
    trained=False,
    pause_s=0.5,
    limit_s=240.0,
)
NOTHING = {"wrong": [], "kinds": {}}

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(600)]


def test_nothing_is_wrong_lost_or_doubled_whoever_is_killed(tmp_path):
    report = run(tmp_path / "run", OPTIONS, lambda what: print(what, file=sys.stderr))
    assert {name: report[name] for name in NOTHING} == NOTHING
    counts, kills = report["counts"], report["kills"]
    assert counts["reindexes done"] >= OPTIONS.reindexes
    assert sum(1 + one["twice"] for one in kills) == OPTIONS.kills
    assert {target for one in kills for target in one["targets"]} == {"service", "worker"}
    assert min(counts["answers"], counts["writes_acknowledged"] - OPTIONS.items, counts["items"]) > 50
    assert counts["generations"] >= 1

    # The same run with lies in what was written down: the oracle must see every one of them.
    journals = tmp_path / "run" / "journals"
    edit(journals / "search-0.jsonl", nearer, lambda event: event.get("body", {}).get("hits"))
    edit(journals / "end.jsonl", lose, lambda event: event["what"] == "listing")
    edit(journals / "end.jsonl", lose_hit, lambda event: event["what"] == "enumeration")
    verdict = examine(tmp_path / "run")
    assert {"wrong distance", "lost item", "missing"} <= verdict["kinds"].keys()


def edit(path, change, which):
    """Change the first event of a journal that is `which`."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    change(next(event for event in events if which(event)))
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def nearer(event):
    hit = event["body"]["hits"][0]
    hit["distance"] -= 1


def lose(event):
    del event["items"][7]


def lose_hit(event):
    del event["pages"][0]["hits"][7]
