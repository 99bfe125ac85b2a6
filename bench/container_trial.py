"""The built images' file trees, run as their own user on a read-only root, without a container engine.

    PYTHONPATH=clients/python .venv/bin/python -m bench.container_trial [--out FILE.json]

Wants root, buildah and util-linux, and port 8000 of this machine. What an engine would do is done by
`unshare`, bind mounts and `setpriv` on the mounted tree of the image, with the environment, user, entry
point and health check that stand in the image's own configuration. The story:

1. The service's image: `prepare.sh` makes the sample and the keys, the entry point serves as process number
   1, the health check passes, a call without key is refused; an item is stored, found by text and by image,
   deleted; nothing but the home, the keys and /tmp can be written.
2. The trainer's image, beside it: draws data; its short training is refused by the floors as they are
   shipped, and published by floors that let it; the service serves that model.
3. SIGTERM: the service drains and ends with status 0; started again it has all of it.

Any step that does not hold ends the run with status 1. Rows: sizes, and how long things took.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from hashguard_client.client import Client
from hashguard_client.errors import HashguardError
from PIL import Image, ImageDraw

from bench.search import Row, show, write_report

BUILDAH = ("buildah", "--storage-driver", "vfs")
URL = "http://127.0.0.1:8000"
READY_S = 300.0
LARGEST_MB = 1500.0
TEXT = "one violet umbrella before a yellow house"
SHORT = ("--epochs", "1", "--attacks", "fgsm:mainstay", "--queries", "40")
LOOSE = ("--max-clean-drop", "1", "--max-robust-drop", "1")


Volumes = Mapping[str, Path]
"""Folders of this machine by where they are mounted; READ_ONLY at the end of a target means that."""
READ_ONLY = ":ro"


class Broken(RuntimeError):
    """A step of the story did not hold; says which and what came."""


@dataclass(frozen=True)
class Tree:
    """A mounted image: its root folder, its configuration, and what its files take on the disk."""

    name: str
    root: Path
    config: Mapping[str, Any]
    megabytes: float


def output(*words: str) -> str:
    """What a command of this machine prints. Raises Broken when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"{shlex.join(words)}: status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.strip()


@contextmanager
def mounted(image: str) -> Iterator[Tree]:
    """The tree of an image, as long as it is wanted."""
    found = json.loads(output(*BUILDAH, "inspect", "--type", "image", image))
    container = output(*BUILDAH, "from", "--pull-never", image)
    try:
        root = Path(output(*BUILDAH, "mount", container))
        size = float(sum(path.lstat().st_blocks for path in root.rglob("*")) * 512 / 1e6)
        yield Tree(image, root, found["Docker"]["config"], size)
    finally:
        output(*BUILDAH, "rm", container)


def setup(tree: Tree, volumes: Volumes) -> list[str]:
    """Shell commands that make the tree a container's: read-only, with its volumes and its own /tmp."""
    root = shlex.quote(str(tree.root))
    places = [
        (f"{root}{target.removesuffix(READ_ONLY)}", target, source) for target, source in volumes.items()
    ]
    lines = [f"mount --bind {root} {root}", *(f"mkdir -p {place}" for place, _, _ in places)]
    lines += [
        f"mount -o remount,ro,bind {root}",
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
    ]
    for place, target, source in places:
        lines.append(f"mount --bind {shlex.quote(str(source))} {place}")
        if target.endswith(READ_ONLY):
            lines.append(f"mount -o remount,ro,bind {place}")
    return lines


def inside(tree: Tree, words: Sequence[str], volumes: Volumes) -> list[str]:
    """The command of this machine that runs `words` in the tree, as the image's user, as process number 1."""
    user, _, group = str(tree.config["User"]).partition(":")
    drop = ["--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    there = f"cd {shlex.quote(tree.config.get('WorkingDir') or '/')} && exec {shlex.join(words)}"
    last = ["chroot", str(tree.root), "setpriv", *drop, "env", "-i", *tree.config["Env"], "sh", "-c", there]
    script = " && ".join([*setup(tree, volumes), f"exec {shlex.join(last)}"])
    return ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "sh", "-c", script]


def ran(tree: Tree, words: Sequence[str], volumes: Volumes, *, status: int = 0) -> tuple[str, str]:
    """Run to the end: standard output and errors. Raises Broken for another exit status."""
    done = subprocess.run(inside(tree, words, volumes), capture_output=True, text=True, check=False)
    if done.returncode != status:
        told = (done.stdout + done.stderr)[-3000:]
        raise Broken(f"{shlex.join(words)}: wanted status {status}, got {done.returncode}: {told}")
    return done.stdout, done.stderr


@contextmanager
def serving(tree: Tree, volumes: Volumes, log: Path) -> Iterator[float]:
    """The image's own entry point and command until SIGTERM; the seconds until it was ready."""
    if is_ready():
        raise Broken(f"something else answers on {URL}")
    words = [*tree.config["Entrypoint"], *tree.config["Cmd"]]
    begun = time.monotonic()
    with (
        log.open("ab") as file,
        subprocess.Popen(inside(tree, words, volumes), stdout=file, stderr=file) as ours,
    ):
        try:
            while not is_ready():
                if ours.poll() is not None or time.monotonic() - begun > READY_S:
                    raise Broken(f"the service did not get ready: {log.read_text()[-3000:]}")
                time.sleep(0.05)
            yield time.monotonic() - begun
            tell(ours, signal.SIGTERM)
            if (status := ours.wait(60)) != 0:
                raise Broken(f"after SIGTERM: wanted status 0, got {status}: {log.read_text()[-2000:]}")
        finally:
            tell(ours, signal.SIGKILL)


def tell(ours: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the process inside: `unshare` does not pass it on, nor takes it along when it dies."""
    if ours.poll() is None:
        for child in Path(f"/proc/{ours.pid}/task/{ours.pid}/children").read_text().split():
            os.kill(int(child), number)


def is_ready() -> bool:
    """Whether `/readyz` says so."""
    try:
        return httpx.get(f"{URL}/readyz", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def check(what: str, holds: bool, came: object = "") -> None:
    """Raise Broken unless it holds; say it when it does."""
    if not holds:
        raise Broken(f"{what}: {came}")
    print(f"holds: {what}", file=sys.stderr)


def confined(tree: Tree, volumes: Volumes) -> None:
    """Who it runs as, what it cannot write and what the image does not hold."""
    who, _ = ran(tree, ["id", "-u"], volumes)
    check("the process is user 10001", who.strip() == "10001", who)
    _, told = ran(tree, ["touch", "/opt/hashguard/x"], volumes, status=1)
    check("the root cannot be written", "Read-only file system" in told, told)
    ran(tree, ["touch", "/tmp/x", "/var/lib/hashguard/.x"], volumes)
    probe = "import importlib.util, shutil; print(shutil.which('gcc'), importlib.util.find_spec('kornia'))"
    found, _ = ran(tree, ["python", "-c", probe], volumes)
    check("no compiler and no training extra", found.split() == ["None", "None"], found)


def picture() -> bytes:
    """A picture that the sample corpus does not hold."""
    image = Image.new("RGB", (96, 96), "gold")
    ImageDraw.Draw(image).polygon([(10, 60), (48, 10), (86, 60)], fill="purple")
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def newcomer(key: str) -> None:
    """Store, find both ways, delete."""
    refused = httpx.get(f"{URL}/v1/items", timeout=10)
    check("a call without a key is refused", refused.status_code == 401, refused.text)
    with Client(URL, api_key=key) as client:
        client.put_item("trial-1", image=picture(), text=TEXT, metadata={"year": 2026})
        for call, query in (
            (client.text_to_image, TEXT),
            (client.text_to_text, TEXT),
            (client.image_to_text, picture()),
            (client.image_to_image, picture()),
        ):
            hits = call(query, k=1000, filter={"must": [{"key": "year", "eq": 2026}]})["hits"]  # type: ignore[operator]
            check(f"{call.__name__} finds it", [hit["id"] for hit in hits] == ["trial-1"], hits)
        check("its picture comes back", client.image("trial-1") == picture())
        client.delete_item("trial-1")
        left = client.text_to_text(TEXT, k=1000, filter={"must": [{"key": "year", "eq": 2026}]})["hits"]
        check("deleted it is not found", left == [], left)
        client.put_item("trial-2", image=picture(), text=TEXT)


def live_model() -> str:
    """The model that answers."""
    return str(httpx.get(f"{URL}/readyz", timeout=10).json()["model_version"])


def train(tree: Tree, volumes: dict[str, Path], data: Path, rows: list[Row]) -> None:
    """Data are drawn, a candidate is refused, another is published and served."""
    before = live_model()
    draw = ["hashguard", "data", "sample", "/data/drawn", "--pairs", "400", "--seed", "5"]
    ran(tree, draw, volumes | {"/data": data})
    volumes = {**volumes, "/data:ro": data / "drawn"}
    volumes["/run/hashguard:ro"] = volumes.pop("/run/hashguard")
    job = [*tree.config["Entrypoint"], *tree.config["Cmd"]]
    job += ["--url", URL, "--key-file", "/run/hashguard/admin", "--json", *SHORT]
    _, told = ran(tree, job, volumes, status=1)
    check("a worse candidate is refused, and the live model stays", live_model() == before, told)
    print(told.strip()[-400:], file=sys.stderr)
    begun = time.monotonic()
    done, _ = ran(tree, [word for word in job if word != "--if-new-data"] + [*LOOSE], volumes)
    rows.append(seconds("trainer: trained, judged, reindexed, served", begun))
    check("the candidate is published", json.loads(done)["outcome"] == "served", done)
    check("the service serves it", live_model() != before, live_model())


def seconds(what: str, begun: float) -> Row:
    """A row of the time since `begun`."""
    return Row(what, time.monotonic() - begun, None, "s", None, None)


def story(service: Tree, trainer: Tree | None, folder: Path) -> list[Row]:
    """All steps; the rows. Raises Broken."""
    home, keys, data = (folder / name for name in ("home", "keys", "data"))
    for one in (home, keys, data):
        one.mkdir()
        os.chown(one, 10001, 10001)
    volumes = {"/var/lib/hashguard": home, "/run/hashguard": keys}
    rows = [
        Row("service: file tree", service.megabytes, LARGEST_MB, "MB", service.megabytes / LARGEST_MB, None)
    ]
    confined(service, volumes)
    begun = time.monotonic()
    ran(service, ["/bin/sh", "/opt/hashguard/docker/prepare.sh"], volumes)
    rows.append(seconds("service: sample, index and keys are made", begun))
    with serving(service, volumes, folder / "log") as took:
        rows.append(Row("service: ready", took, None, "s", None, None))
        ran(service, service.config["Healthcheck"]["Test"][1:], volumes)
        check("the health check passes", True)
        newcomer((keys / "client").read_text().strip())
        if trainer is not None:
            rows.append(Row("trainer: file tree", trainer.megabytes, None, "MB", None, None))
            train(trainer, volumes, data, rows)
        model = live_model()
        begun = time.monotonic()
    rows.append(seconds("service: ended after SIGTERM", begun))
    check("SIGTERM ends it with status 0", True)
    begun = time.monotonic()
    ran(service, ["/bin/sh", "/opt/hashguard/docker/prepare.sh"], volumes)
    rows.append(seconds("service: second preparation", begun))
    with (
        serving(service, volumes, folder / "log"),
        Client(URL, api_key=(keys / "client").read_text()) as client,
    ):
        check("started again it serves the same model", live_model() == model, live_model())
        check("and the item", client.item("trial-2")["text"] == TEXT)
    _, told = ran(service, ["sh", "-c", "hashguard doctor || hashguard doctor --json >&2"], volumes)
    check("doctor finds nothing wrong", '"problem": true' not in told, told)
    return rows


def main() -> int:
    """Run the trial."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--service", default="hashguard-service:check")
    parser.add_argument("--trainer", default="hashguard-trainer:check", help="empty: without it")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hashguard-trial-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # user 10001 has to get to what is mounted
        try:
            service = stack.enter_context(mounted(given.service))
            trainer = stack.enter_context(mounted(given.trainer)) if given.trainer else None
            rows = story(service, trainer, Path(folder))
        except (Broken, HashguardError, httpx.HTTPError) as error:
            print(f"DOES NOT HOLD: {error}", file=sys.stderr)
            return 1
    show(rows)
    if given.out:
        write_report(given.out, "containers", "bench.container_trial", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
