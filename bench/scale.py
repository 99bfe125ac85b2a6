"""A large corpus of ready codes in the embedded default: import, restart, memory, search.

    .venv/bin/python -m bench.scale --items 10000000 [--backend faiss] [--out FILE.json]

Random image codes of the shipped sample model's width go through `hashguard index import-codes` into a new
home, `hashguard serve` starts on it and on an empty one, and then the application of that home is asked in
this process, in turns with raw Faiss over the same codes. Rows:

- import: items per second from opening the files to the live index (catalog, index, validation, activation),
  and of what is left without the catalog; the peer is the target of 100,000 items/s.
- restart: seconds from the start of the process to the first 200 of `/readyz`; the peer is the target, 20 s.
- memory: resident set of the service when it is ready and has answered 20 searches, above that of the
  service on the empty home, against the budget of 2.5 x n x (bits/8 + 8) bytes.
- search: median milliseconds of the application's search stage (index and rows of the catalog, what
  `took_ms.search` tells clients) and of the whole call, which encodes a text beside; the peer is
  `IndexBinaryFlat.search`.

The codes are uniform, so nothing but an exact scan finds the right ones; `--backend auto` trains an inverted
file, which is the wrong choice for such codes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.search import Row, show, write_report
from service.application.types import Query
from service.commands.demo import sample_model
from service.commands.home import adopt_model
from service.settings import Settings
from service.wiring import build_application, build_shelf

COMMAND = [sys.executable, "-m", "service.cli"]
READY_S = 600
WARM_UP = 20


def write_input(folder: Path, items: int, bits: int, seed: int) -> tuple[Path, Path]:
    """Write ids in an order that scatters them, and random codes; both paths."""
    step = 7_368_787  # prime to every power of ten: each number below `items` comes once
    numbers = (np.arange(items, dtype=np.int64) * step) % items
    ids, codes = folder / "ids.txt", folder / "codes.npy"
    with ids.open("w", encoding="ascii") as file:
        for start in range(0, items, 100_000):
            file.writelines(f"item-{number:08d}\n" for number in numbers[start : start + 100_000].tolist())
    np.save(codes, np.random.default_rng(seed).integers(0, 256, (items, bits // 8), dtype=np.uint8))
    return ids, codes


def imported(settings: Settings, label: str, ids: Path, codes: Path) -> list[Row]:
    """Import through the command line, in a process of its own."""
    arguments = ["index", "import-codes", "--ids", str(ids), "--image-codes", str(codes), "--model", label]
    started = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, *arguments, "--json"],
        env=environment(settings),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    process_s = time.perf_counter() - started
    report = json.loads(done.stdout)
    rate = report["items"] / report["seconds"]
    rest = report["items"] / (report["seconds"] - report["catalog_s"])
    print(f"import: {process_s:.1f} s with the start of the process, {report}", file=sys.stderr)
    return [
        Row("import, catalog and index", rate, 1e5, "items/s", rate / 1e5, None),
        Row("import, index alone", rest, 1e5, "items/s", rest / 1e5, None),
        Row("catalog on the disk", size_of(settings.home) / 1e6, None, "MB", None, None),
    ]


def size_of(home: Path) -> int:
    """Bytes of the catalog."""
    return sum(path.stat().st_size for path in home.glob("catalog.db*"))


def environment(settings: Settings) -> dict[str, str]:
    """What a command needs to work on the home; one thread, as the searches here have."""
    return settings.child_environment() | {"OMP_NUM_THREADS": "1"}


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, int, float]]:
    """Serve a home; the address, the process id, and seconds until it was ready."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0"], env=environment(settings), stderr=subprocess.PIPE, text=True
    )
    try:
        address = ""
        while not address:
            line = process.stderr.readline() if process.stderr else ""
            if not line:
                raise RuntimeError(f"the service ended with status {process.wait()}")
            address = line.rsplit(" on ", 1)[-1].strip() if line.startswith("serving ") else ""
        while not is_ready(address):
            if time.perf_counter() - started > READY_S:
                raise RuntimeError(f"the service is not ready after {READY_S} s")
            time.sleep(0.02)
        yield address, process.pid, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def is_ready(address: str) -> bool:
    """Whether `/readyz` says 200."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=30) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def ask(address: str, text: str) -> None:
    """One search over HTTP."""
    request = urllib.request.Request(
        f"{address}/v1/search/text-to-image",
        json.dumps({"text": text, "k": 10}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def resident_mb(pid: int) -> float:
    """Resident set of a process in MB (10**6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def started(settings: Settings) -> tuple[float, float]:
    """Start a service, ask it a little, stop it: seconds until it was ready, and its resident set in MB."""
    with serving(settings) as (address, pid, seconds):
        for number in range(WARM_UP):
            ask(address, f"picture number {number}")
        return seconds, resident_mb(pid)


def restarts(full: Settings, empty: Settings, items: int, bits: int) -> list[Row]:
    """Time to ready and memory of the service on both homes."""
    empty_s, empty_mb = started(empty)
    seconds, megabytes = started(full)
    budget = 2.5 * items * (bits // 8 + 8) / 1e6
    grown = megabytes - empty_mb
    return [
        Row("restart to ready", seconds, 20.0, "s", seconds / 20, None),
        Row("restart to ready, empty home", empty_s, None, "s", None, None),
        Row("memory above the empty service", grown, budget, "MB", grown / budget, None),
        Row("memory of the empty service", empty_mb, None, "MB", None, None),
    ]


def searches(settings: Settings, codes: NDArray[np.uint8], queries: int) -> list[Row]:
    """The application and raw Faiss in turns, query by query, wall clock."""
    raw = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    raw.use_heap = False
    raw.add(codes)
    app = build_application(settings)
    app.start()
    try:
        texts = [f"picture number {number}" for number in range(queries)]
        asked = [bytes.fromhex(app.retrieval.encode_text(text).code) for text in texts]
        times = np.empty((3, queries))
        for number, text in enumerate(texts):
            for side in (0, 1) if number % 2 else (1, 0):
                if side:
                    times[2, number] = raw_ms(raw, asked[number])
                else:
                    times[:2, number] = application_ms(app.retrieval.search, text)
    finally:
        app.close()
    stage, whole, peer = np.median(times, axis=1).tolist()
    spread = [float(np.subtract(*np.quantile(row, [0.75, 0.25]))) / 2 for row in times]
    return [
        Row("single search k=10, search stage", stage, peer, "ms", stage / peer, spread[0]),
        Row("single search k=10, whole call with encoding", whole, peer, "ms", whole / peer, spread[1]),
    ]


def application_ms(search, text: str) -> tuple[float, float]:  # noqa: ANN001 - Retrieval.search
    """Milliseconds of the search stage and of the whole call."""
    begun = time.perf_counter()
    answer = search(Query(to="image", text=text, k=10))
    return answer.timing.search_ms, (time.perf_counter() - begun) * 1e3


def raw_ms(raw: faiss.IndexBinaryFlat, code: bytes) -> float:
    """Milliseconds of Faiss alone, on one thread."""
    faiss.omp_set_num_threads(1)
    query = np.frombuffer(code, np.uint8)[np.newaxis]
    begun = time.perf_counter()
    raw.search(query, 10)
    return (time.perf_counter() - begun) * 1e3


def measure(folder: Path, items: int, backend: str, queries: int, seed: int) -> tuple[int, list[Row]]:
    """All rows, and the width of the codes; `folder` takes about 600 bytes an item."""
    full, empty = (
        Settings(home=folder / name, index_backend=backend, device="cpu") for name in ("full", "empty")
    )
    label = adopt_model(full, str(sample_model()))
    adopt_model(empty, str(sample_model()))
    bits = build_shelf(full).refs()[0].bits
    ids, codes = write_input(folder, items, bits, seed)
    rows = imported(full, label, ids, codes)
    rows += restarts(full, empty, items, bits)
    return bits, rows + searches(full, np.load(codes), queries)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--backend", default="faiss", choices=["faiss", "faiss-ivf", "auto"])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hashguard-scale-") as folder:
        bits, rows = measure(
            Path(folder), arguments.items, arguments.backend, arguments.queries, arguments.seed
        )
    show(rows)
    if arguments.out:
        name = f"scale-{arguments.backend}-{arguments.items}x{bits}"
        write_report(arguments.out, name, "bench.scale", rows)


if __name__ == "__main__":
    main()
