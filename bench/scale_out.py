"""Two replicas behind nginx on loopback, under load: killed, restarted, reindexed, rolled back.

    PYTHONPATH=tests:clients/python .venv/bin/python -m bench.scale_out [--engine pgvector] [--out FILE.json]

The topology of the compose file's profile `scale`, as processes, with PostgreSQL and an engine. Callers
with the project's Python client search in both directions without a pause, and one stores items, while each
replica is killed (SIGKILL) and started again, one is stopped (SIGTERM) and started again, the corpus is
reindexed with another model, and rolled back. Rows:

- failed calls, and searches answered by a pair of model and generation that never belonged together; peer: 0.
- seconds between the first and the last replica that served a new generation (their own word), and for how
  long callers still got the old one after somebody had got the new one; the peer is the target, 2 s.
- written items that each replica's index finds in the end, of all whose call was answered; peer: all of them.
- how long a killed replica takes until it is ready again; median and longest call of each phase.

The status is 1, after the report, when a call failed, a write was lost or a replica was late.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hashguard_client.client import Client
from real_servers import running_milvus, running_postgres

from bench.callers import Log, Watch, asking, longest_ms, median_ms, watching, written_text
from bench.replicas import NAMES, Replica, Stack, command, running, shared_settings
from bench.search import Row, show, write_report

TARGET_S = 2.0
PATIENCE_S = 60.0
CHUNK = 25


@dataclass
class Findings:
    """What the story showed: its phases as (name, begun, ended), and rows."""

    phases: list[tuple[str, float, float]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of the story, for the calls that ran in it."""
        begun = time.monotonic()
        yield
        self.phases.append((name, begun, time.monotonic()))

    def add(self, what: str, ours: float, peer: float | None, unit: str) -> None:
        """A row; the ratio is left out where the target is 0."""
        self.rows.append(Row(what, ours, peer, unit, ours / peer if peer else None, None))

    def broken(self) -> list[str]:
        """What is not as it has to be."""
        wrong = [row for row in self.rows if row.peer is not None and row.ours > row.peer]
        short = [row for row in self.rows if row.unit == "of all" and row.ours != row.peer]
        return [f"{row.what}: wanted {row.peer:g}, got {row.ours:g} {row.unit}" for row in wrong + short]


@dataclass(frozen=True)
class Scene:
    """What the steps of the story act on."""

    stack: Stack
    client: Client
    log: Log
    watch: Watch
    pause_s: float


def kill(scene: Scene, found: Findings, replica: Replica) -> None:
    """SIGKILL, a pause in which the other one is alone, and a new start."""
    with found.phase(f"{replica.name} killed and restarted"):
        replica.end(signal.SIGKILL)
        time.sleep(scene.pause_s)
        replica.start()
        found.add(f"{replica.name} ready again after SIGKILL", replica.await_ready(), None, "s")
        time.sleep(scene.pause_s)


def restart(scene: Scene, found: Findings, replica: Replica) -> None:
    """SIGTERM, which drains, and a new start."""
    with found.phase(f"{replica.name} stopped and restarted"):
        begun = time.monotonic()
        status = replica.end(signal.SIGTERM)
        found.add(f"{replica.name} drained", time.monotonic() - begun, None, "s")
        found.add(f"{replica.name} exit status after SIGTERM", status, 0, "")
        replica.start()
        replica.await_ready()
        time.sleep(scene.pause_s)


def reindex(scene: Scene, found: Findings, model: str) -> None:
    """Reindex through nginx, and see both replicas arrive."""
    with found.phase("reindex"):
        begun = time.monotonic()
        job = scene.client.wait_for_job(scene.client.reindex(model)["id"], every_s=0.2)
        if job["phase"] != "done":
            raise RuntimeError(f"wanted a reindex, the job {job['phase']}: {job['error']}")
        found.add("reindex job", time.monotonic() - begun, None, "s")
        _arrive(scene, found, "reindex", job["generation"], begun)


def roll_back(scene: Scene, found: Findings) -> None:
    """Roll back through nginx, and see both replicas arrive."""
    with found.phase("roll-back"):
        begun = time.monotonic()
        generation = scene.client.roll_back()["id"]
        found.add("roll-back call", time.monotonic() - begun, None, "s")
        _arrive(scene, found, "roll-back", generation, begun)


def _arrive(scene: Scene, found: Findings, what: str, generation: str, since: float) -> None:
    last = scene.watch.await_all(generation, NAMES, PATIENCE_S)
    apart = last - scene.watch.first(generation)
    time.sleep(scene.pause_s)
    found.add(f"{what}: between the first and the last replica", apart, TARGET_S, "s")
    found.add(
        f"{what}: callers got the old one after the new", scene.log.stale_s(generation, since), TARGET_S, "s"
    )


def lost(replica: Replica, api_key: str, names: Sequence[str]) -> list[str]:
    """Names of written items whose text the replica's own index does not find, after a second look."""
    left = list(names)
    with Client(replica.url, api_key=api_key) as client:
        for _ in range(2):
            missed = []
            for start in range(0, len(left), CHUNK):
                chunk = left[start : start + CHUNK]
                queries = [
                    {"to": "text", "text": written_text(name), "k": 1000, "max_distance": 0} for name in chunk
                ]
                for name, result in zip(chunk, client.search_batch(queries), strict=True):
                    hits = result["answer"]["hits"] if result["status"] == 200 else []
                    missed += [] if name in {hit["id"] for hit in hits} else [name]
            left = missed
            if left:
                time.sleep(TARGET_S)
    return left


def mixed(log: Log) -> int:
    """Searches that named another model for a generation than most did."""
    pairs = {(call.generation, call.model) for call in log.calls if call.generation and call.model}
    return len(pairs) - len({generation for generation, _ in pairs})


def play(scene: Scene, api_key: str, steps: Sequence[Callable[[Scene, Findings], None]]) -> Findings:
    """All steps in their order, between two quiet phases."""
    found = Findings()
    with found.phase("steady"):
        time.sleep(scene.pause_s)
    for step in steps:
        step(scene, found)
    with found.phase("steady again"):
        time.sleep(scene.pause_s)
    summarise(scene, found, api_key)
    return found


def summarise(scene: Scene, found: Findings, api_key: str) -> None:
    """The rows of the calls."""
    log = scene.log
    for name, begun, ended in found.phases:
        calls = log.between(begun, ended)
        found.add(f"{name}: median search", median_ms(calls), None, "ms")
        found.add(f"{name}: longest call", longest_ms(calls), None, "ms")
    found.add("calls", len(log.calls), None, "")
    found.add("calls that failed", len(log.failures()), 0, "")
    found.add("pauses of the clients before another try", len(log.retries), None, "")
    found.add("wrong pairs of generation and model", mixed(log), 0, "")
    written = tuple(log.written)
    for replica in scene.stack.replicas:
        kept = len(written) - len(lost(replica, api_key, written))
        found.add(f"written items that {replica.name} finds", kept, len(written), "of all")


Step = Callable[[Scene, Findings], None]


def steps(replicas: Sequence[Replica], model: str) -> list[Step]:
    """The whole story."""
    killed = [lambda scene, found, one=replica: kill(scene, found, one) for replica in replicas]
    return [
        *killed,
        lambda scene, found: restart(scene, found, replicas[0]),
        lambda scene, found: reindex(scene, found, model),
        roll_back,
    ]


def tell(
    folder: Path,
    environment: dict[str, str],
    data: Path,
    chosen: Callable[[Sequence[Replica]], list[Step]],
    searchers: int,
    pause_s: float,
) -> Findings:
    """Start the stack on a home that holds the corpus of `data`, and play `chosen` under load."""
    scopes = [word for scope in ("search", "write", "admin") for word in ("--scope", scope)]
    api_key = command(environment, "keys", "create", "scale-out", *scopes).strip()
    texts, images = subjects(data)
    with ExitStack() as stack:
        running_stack = stack.enter_context(running(folder, environment))
        watch = stack.enter_context(watching(running_stack.replicas))
        client = stack.enter_context(Client(running_stack.url, api_key=api_key))
        log = stack.enter_context(asking(running_stack.url, api_key, texts, images, searchers))
        scene = Scene(running_stack, client, log, watch, pause_s)
        return play(scene, api_key, chosen(running_stack.replicas))


def subjects(data: Path) -> tuple[list[str], list[bytes]]:
    """Texts and images of the first 50 pairs of a manifest folder."""
    lines = (data / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[:50]
    pairs = [json.loads(line) for line in lines]
    return [pair["texts"][0] for pair in pairs], [(data / pair["image"]).read_bytes() for pair in pairs]


def prepare(folder: Path, environment: dict[str, str], pairs: int) -> Path:
    """Draw a corpus, train two models on it, and index it with the first; the corpus' folder."""
    data, models = folder / "data", folder / "home" / "models"
    command(environment, "data", "sample", data, "--pairs", pairs, "--seed", 3)
    for seed in (0, 1):
        options = ("--bits", 64, "--name", "mine", "--epochs", 1, "--seed", seed)
        command(environment, "train", "--data", data, "--out", models, *options)
    command(environment, "index", "build", "--data", data, "--model", "mine/1")
    return data


def main() -> int:
    """Run the benchmark; 1 when something was not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--engine", default="pgvector", choices=["pgvector", "milvus"])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--searchers", type=int, default=4)
    parser.add_argument("--pause-s", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hashguard-scale-out-")))
        catalog_url = stack.enter_context(running_postgres()).database()
        milvus = arguments.engine == "milvus"
        engine_url = stack.enter_context(running_milvus()) if milvus else catalog_url
        environment = shared_settings(folder, catalog_url, arguments.engine, engine_url)
        data = prepare(folder, environment, arguments.pairs)
        found = tell(
            folder,
            environment,
            data,
            lambda replicas: steps(replicas, "mine/2"),
            arguments.searchers,
            arguments.pause_s,
        )
    show(found.rows)
    if arguments.out:
        write_report(arguments.out, f"scale-out-{arguments.engine}", "bench.scale_out", found.rows)
    for line in found.broken():
        print(line, file=sys.stderr)
    return 1 if found.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
