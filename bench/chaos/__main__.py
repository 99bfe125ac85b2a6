"""Kills service and worker again and again under load, and has every answer judged by an oracle.

    .venv/bin/python -m bench.chaos [--items 2000] [--seconds 600] [--reindexes 20] [--kills 30] [--out FILE]

Exit status 1 when the oracle found a fault; the run's folder is kept then. `journal.py` says what lies in it,
`judging.py` what counts as a true answer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.chaos.run import Options, run
from bench.search import Row, show, write_report


def rows(report: dict[str, Any], options: Options) -> list[Row]:
    """The report's counts, beside how much trouble was wanted."""
    counts, kills = report["counts"], report["kills"]
    hits = {
        name: sum((1 + one["twice"]) for one in kills if name in one["targets"])
        for name in ("service", "worker")
    }
    figures = [
        ("wrong answers and other faults", sum(report["kinds"].values()), None),
        ("answers judged", counts["answers"], None),
        ("hits judged", counts["hits"], None),
        ("writes acknowledged", counts["writes_acknowledged"], None),
        ("writes without an answer", counts["writes_unknown"], None),
        ("seconds (peer: wanted)", report["seconds"], options.seconds),
        ("reindexes completed (peer: wanted)", counts["reindexes done"], options.reindexes),
        ("reindexes that a kill ended", counts.get("reindexes failed", 0), None),
        ("kills (peer: wanted)", sum(1 + one["twice"] for one in kills), options.kills),
        ("SIGKILL to the service", hits["service"], None),
        ("SIGKILL to the worker", hits["worker"], None),
        ("failed in a kill window: connection", counts.get("connection error in a kill window", 0), None),
        ("failed in a kill window: 503", counts.get("503 in a kill window", 0), None),
        ("items at the end", counts["items"], None),
        ("generations at the end", counts["generations"], None),
    ]
    return [
        Row(what, float(ours), peer, "", None if peer is None else ours / peer, None)
        for what, ours, peer in figures
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--reindexes", type=int, default=20)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--searchers", type=int, default=8)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", default="trained", choices=["trained", "initialised"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service goes with this process
    options = Options(
        items=given.items, searchers=given.searchers, writers=given.writers, seconds=given.seconds,
        reindexes=given.reindexes, kills=given.kills, seed=given.seed, trained=given.models == "trained",
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="hashguard-chaos-"))
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - begun:4.0f} s] {what}", file=sys.stderr)

    try:
        report = run(folder, options, say)
    except BaseException:
        print(f"the run lies in {folder}", file=sys.stderr)
        raise
    show(rows(report, options))
    if given.out:
        write_report(given.out, "chaos", "bench.chaos", rows(report, options), **report)
    if report["wrong"]:
        print(json.dumps(report["wrong"], indent=1), f"the run lies in {folder}", sep="\n", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
