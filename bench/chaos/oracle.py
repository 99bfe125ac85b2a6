"""The oracle: a process that reads a finished run and says what the service did wrong.

    python -m bench.chaos.oracle RUN

RUN holds `run.json`, `contents/`, `models/` (copies of the artefacts, made before the service saw them) and
`journals/`. Prints {"wrong": [...], "kinds": {...}, "counts": {...}}; `wrong` names the first of each kind
of fault. Nothing of `service` or `index` is imported: codes come from the artefacts' files, distances from
NumPy.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from math import inf
from pathlib import Path

from bench.chaos.codes import Codes
from bench.chaos.corpus import read_picture, read_texts
from bench.chaos.history import History, reigns, windows
from bench.chaos.journal import Event, read_events
from bench.chaos.judging import Judge

_NAMED = 5


class Verdict:
    """Faults by kind (the words before the colon), and counts."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._named: list[str] = []

    def blame(self, faults: Iterable[str], where: str = "") -> None:
        """Count faults, and name the first few of each kind."""
        for fault in faults:
            kind = fault.partition(":")[0]
            self.kinds[kind] += 1
            if self.kinds[kind] <= _NAMED:
                self._named.append(f"{fault}{where}")

    def as_json(self) -> Event:
        """What the process prints."""
        return {"wrong": self._named, "kinds": dict(self.kinds), "counts": dict(self.counts)}


def examine(run: Path) -> Event:
    """Judge a whole run."""
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))
    contents, journals = run / "contents", run / "journals"
    verdict, history = Verdict(), History()
    history.take(read_events(journals, "write"))
    verdict.blame(history.wrong)
    verdict.counts.update(writes_acknowledged=history.acknowledged, writes_unknown=history.unknown)
    codes = {label: Codes.of(run / "models" / label, contents) for label in told["models"]}
    reindexes = list(read_events(journals, "reindex"))
    kills = list(read_events(journals, "kill"))
    judge = Judge(history, reigns(told["first"], reindexes), codes, read_texts(contents))
    downs = windows(kills)
    for event in read_events(journals, "search"):
        _search(event, judge, downs, verdict)
    for event in read_events(journals, "write"):
        verdict.blame(failure(event, downs, verdict.counts))
    verdict.blame(jobs(reindexes, kills, verdict.counts))
    _end(list(read_events(journals, "end")), history, judge, contents, verdict)
    return verdict.as_json()


def _search(event: Event, judge: Judge, downs: list[tuple[float, float]], verdict: Verdict) -> None:
    if event.get("status") == 200:
        verdict.counts.update(answers=1, hits=len(event["body"]["hits"]))
        verdict.blame(judge.judge(event), f" (asked at {event['t0']:.3f}, {event['from']} {event['query']})")
    else:
        verdict.blame(failure(event, downs, verdict.counts))


def failure(event: Event, downs: list[tuple[float, float]], counts: Counter[str]) -> list[str]:
    """What is wrong with a failed request: it must fall into a window, and be a clean 503 or unanswered."""
    status, error = event.get("status"), event.get("error")
    if error is None and status is not None and status < 400:
        return []
    what = f"{event['what']} at {event['t0']:.3f} for {event['t1'] - event['t0']:.3f} s"
    if event["what"] == "delete" and status == 404:
        return []  # the history says whether it was there
    if error is not None and "Timeout" in error:
        return [f"hanging request: {what}, {error}"]
    if status is not None and not _clean(event):
        return [f"unclean failure: {what}, {status} {event.get('body')}"]
    inside = any(event["t0"] <= end and event["t1"] >= start for start, end in downs)
    kind = "503" if error is None else "connection error"
    counts[f"{kind} in a kill window" if inside else f"{kind} outside"] += 1
    return [] if inside else [f"failure outside a kill window: {what}, {error or event.get('body')}"]


def _clean(event: Event) -> bool:
    """A 503 as the contract has it: a problem document, and when to come back."""
    body = event.get("body")
    return (
        event["status"] == 503
        and event["type"].startswith("application/problem+json")
        and str(event["retry_after"]).isdecimal()
        and isinstance(body, dict)
        and {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    )


def jobs(reindexes: list[Event], kills: list[Event], counts: Counter[str]) -> list[str]:
    """Reindexes that failed although nobody was killed meanwhile."""
    wrong = []
    for one in reindexes:
        counts[f"reindexes {one['phase']}"] += 1
        hit = any(one["t0"] <= kill["until"] and kill["at"] <= one["t1"] for kill in kills)
        if one["phase"] != "done" and not hit:
            wrong.append(f"reindex failed by itself: {one['phase']}, {one['error']}")
    return wrong


def _end(events: list[Event], history: History, judge: Judge, contents: Path, verdict: Verdict) -> None:
    """Whether what is there at the end is what was acknowledged, in every generation.

    Raises KeyError when the end was not written down.
    """
    final = history.final()
    found = {event["what"]: event for event in events}
    verdict.blame(compare_listing(found["listing"]["items"], final, contents))
    for item_id, digest in found["pictures"]["digests"].items():
        if digest != _digest(contents, final[item_id].image):
            verdict.blame([f"lost picture: {item_id} {digest[:80]}"])
    looked_at = Counter()
    for event in events:
        if event["what"] == "enumeration":
            looked_at[event["generation"]] += 1
            verdict.blame(enumeration(event, judge), f" (generation {event['generation']})")
    kept = {one["id"]: one["model_version"] for one in found["generations"]["generations"]}
    if looked_at != Counter(dict.fromkeys(kept, 2)):
        verdict.blame([f"no end: of generations {sorted(kept)} these were looked at: {dict(looked_at)}"])
    verdict.counts.update(items=len(final), pictures=len(found["pictures"]["digests"]), generations=len(kept))


def compare_listing(listing: list[Event], final: dict[str, object], contents: Path) -> list[str]:
    """Lost, doubled and wrong items of a full listing."""
    texts = read_texts(contents)
    ids = [item["id"] for item in listing]
    wrong = [f"lost item: {one}" for one in sorted(final.keys() - set(ids))]
    wrong += [f"item that should be gone: {one}" for one in sorted(set(ids) - final.keys())]
    wrong += [f"doubled item: {one}" for one, times in Counter(ids).items() if times > 1]
    if ids != sorted(ids, key=str.encode):
        wrong.append("wrong order: the listing is not in the order of ids")
    for item in listing:
        version = final.get(item["id"])
        if version is not None:
            wanted = (None if version.text is None else texts[version.text], version.metadata)
            if (item["text"], item["metadata"]) != wanted:
                wrong.append(f"wrong content: {item['id']}")
            if item["image_digest"] != _digest(contents, version.image):
                wrong.append(f"wrong picture: {item['id']}")
    return wrong


def enumeration(event: Event, judge: Judge) -> list[str]:
    """What is wrong with the pages that together show all of a generation."""
    pages = event["pages"]
    wrong = [
        f"wrong generation: {page['index_generation']}"
        for page in pages
        if page["index_generation"] != event["generation"]
    ]
    hits = [hit for page in pages for hit in page["hits"]]
    whole = event | {"t0": inf, "t1": inf}
    return wrong + judge.hits(whole, pages[0]["model_version"], hits, len(hits) + 1)


def _digest(contents: Path, image: int | None) -> str | None:
    return None if image is None else hashlib.sha256(read_picture(contents, image)).hexdigest()


if __name__ == "__main__":
    print(json.dumps(examine(Path(sys.argv[1]))))
