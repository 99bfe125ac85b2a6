"""Search and bulk load of the embedded backend against raw Faiss in the same process.

    .venv/bin/python -m bench.search --items 1000000 --bits 64 [--clock cpu] [--out FILE.json]

Prints, and with --out writes, rows of what was measured, ours and the peer's figure and their ratio. The
searches of both sides are interleaved, one query at a time, on one thread, because this is the only fair
way on a machine whose speed varies; the figure is the median over `--queries`, the spread the half width
of the middle half. The peer of a search is `IndexBinaryFlat.search` over the same codes, which knows no
ids and promises no order. Memory is the growth of the resident set against the budget of
2.5 x n x (bits/8 + 8) bytes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from index import registry
from index.core import BinaryIndex, SearchOptions

BATCH = 100_000
Call = Callable[[int], object]
Clock = Callable[[], float]
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
"""Clocks for the searches: "cpu" leaves out the time that other processes take on a busy machine."""


@dataclass(frozen=True)
class Row:
    """One line of a report: `ratio` is ours / peer, `spread` belongs to ours."""

    what: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    spread: float | None


def resident_mb() -> float:
    """Resident set of this process in MB (10**6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def batches(items: int, bits: int, seed: int) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Yield (ids, codes) in an order that scatters ids over the whole range, BATCH at a time."""
    rng = np.random.default_rng(seed)
    step = 7_368_787  # prime to every power of ten: each number below `items` comes once
    for start in range(0, items, BATCH):
        numbers = (np.arange(start, min(start + BATCH, items), dtype=np.int64) * step) % items
        codes = rng.integers(0, 256, (len(numbers), bits // 8), dtype=np.uint8)
        yield [f"item-{number:08d}" for number in numbers.tolist()], codes


def bulk_load(index: BinaryIndex, items: int, seed: int) -> list[Row]:
    """Fill the index; report items per second, the slowest batch and memory."""
    before, total, worst = resident_mb(), 0.0, 0.0
    for ids, codes in batches(items, index.bits, seed):
        started = time.perf_counter()
        index.add(ids, codes)
        took = time.perf_counter() - started
        total, worst = total + took, max(worst, took)
    budget = 2.5 * items * (index.bits // 8 + 8) / 1e6
    grown = resident_mb() - before
    return [
        Row("bulk add", items / total, None, "items/s", None, None),
        Row(f"slowest batch of {BATCH}", worst, None, "s", None, None),
        Row("memory against budget", grown, budget, "MB", grown / budget, None),
    ]


def interleaved(what: str, ours: Call, peer: Call, queries: int, clock: Clock) -> Row:
    """Time both sides query by query, in turns; medians in milliseconds."""
    times = np.empty((2, queries))
    for number in range(queries):
        for side in (0, 1) if number % 2 else (1, 0):
            started = clock()
            (ours, peer)[side](number)
            times[side, number] = clock() - started
    mine, other = np.median(times, axis=1) * 1e3
    low, high = np.quantile(times[0], [0.25, 0.75]) * 1e3
    return Row(what, mine, other, "ms", mine / other, (high - low) / 2)


def searches(index: BinaryIndex, queries: int, seed: int, clock: Clock) -> list[Row]:
    """Compare single searches, a second page and a batch with raw Faiss over the same codes."""
    raw = faiss.IndexBinaryFlat(index.bits)
    raw.use_heap = False
    raw.add(index.codes()[1])
    faiss.omp_set_num_threads(1)
    asked = np.random.default_rng(seed + 1).integers(0, 256, (queries, index.bits // 8), dtype=np.uint8)
    rows = []
    for k in (10, 100):
        options = SearchOptions(k)
        rows.append(
            interleaved(
                f"single search k={k}",
                lambda n, options=options: index.search(asked[n : n + 1], options),
                lambda n, k=k: raw.search(asked[n : n + 1], k),
                queries,
                clock,
            )
        )
    last = [hits[-1] for hits in index.search(asked, SearchOptions(10))]
    rows.append(
        interleaved(
            "second page k=10 (peer: first page)",
            lambda n: index.search(asked[n : n + 1], SearchOptions(10, after=last[n])),
            lambda n: raw.search(asked[n : n + 1], 10),
            queries,
            clock,
        )
    )
    batch = interleaved(
        "batch of 32, k=10",
        lambda _: index.search(asked[:32], SearchOptions(10)),
        lambda _: raw.search(asked[:32], 10),
        max(5, queries // 20),
        clock,
    )
    return [*rows, batch]


def life(index: BinaryIndex, backend: str, seed: int) -> list[Row]:
    """Measure single adds, a search beside dead rows, saving and loading."""
    rng = np.random.default_rng(seed + 2)
    code = rng.integers(0, 256, (1, index.bits // 8), dtype=np.uint8)
    times = []
    for number in range(300):
        started = time.perf_counter()
        index.add([f"new-{number}"], code)
        times.append(time.perf_counter() - started)
    rows = [Row("single add", float(np.median(times)) * 1e3, None, "ms", None, None)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        index.save(Path(folder) / "saved")
        rows.append(Row("save", time.perf_counter() - started, None, "s", None, None))
        started = time.perf_counter()
        registry.load(backend, Path(folder) / "saved", index.bits)
        rows.append(Row("load with all digests", time.perf_counter() - started, None, "s", None, None))
    return rows


def machine() -> str:
    """Processor, cores and versions, without naming the host."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, Faiss {faiss.__version__}"


def commit() -> str:
    """Current commit of the repository, empty without one."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def show(rows: Sequence[Row]) -> None:
    """The rows on stdout, beside their peers."""
    for row in rows:
        peer = "" if row.peer is None else f"  peer {row.peer:.4g}"
        peer += "" if row.ratio is None else f"  ratio {row.ratio:.3f}"
        print(f"{row.what:46} {row.ours:10.4g} {row.unit}{peer}")


def write_report(out: Path, name: str, module: str, rows: Sequence[Row], **more: object) -> None:
    """The data file of a benchmark that was called as `python -m module` with this process's arguments.

    `more` goes in beside the rows.
    """
    report = {
        "name": name,
        "command": f"python -m {module} " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "commit": commit(),
        "rows": [asdict(row) for row in rows],
        **more,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--backend", default="faiss", choices=sorted(registry.BACKENDS))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    arguments = parser.parse_args()
    index = registry.create(arguments.backend, arguments.bits)
    rows = bulk_load(index, arguments.items, arguments.seed)
    rows += searches(index, arguments.queries, arguments.seed, CLOCKS[arguments.clock])
    rows += life(index, arguments.backend, arguments.seed)
    show(rows)
    if arguments.out:
        name = f"search-{arguments.backend}-{arguments.items}x{arguments.bits}"
        write_report(arguments.out, name, "bench.search", rows)


if __name__ == "__main__":
    main()
