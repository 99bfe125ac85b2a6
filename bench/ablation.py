"""Ablation: every part of a defence removed once, retrained from the same seed, and attacked.

    python -m bench.ablation --data DIR [--defence drfgd] [--epochs 8] [--jobs 2] [--only NAME,...]

Trains the recipe as it is and once for each part with that part switched off (one key of the recipe, or the
few that are one part), all from one seed and for the same number of epochs, then attacks all of them in one
run of `hashguard evaluate` and writes `docs/robustness/ablation-<set>-<defence>.json`: clean mAP, worst
cases, and the paired difference to the whole recipe with its 95 % interval over the queries. A finished
training is kept under --work and not repeated; neither is a finished attack.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from model.training.config import digest, load_recipe

WHOLE = "whole"
MAIN = "train+database"
TASKS = ("image-to-text", "text-to-image")
ATTACKS = "apgd:mainstay,apgd:own-code,apgd:mainstay@16/255,words:mainstay,typos:mainstay"

ENCODER = ("robust", "vulnerable", "consistency", "contrast", "separation", "invariance", "correlation")
GENERATOR = (
    "reconstruction",
    "alignment",
    "alignment_across",
    "hardness",
    "keeping",
    "recombination",
    "realism",
    "resilience",
)
MIXTURE = ("from_attacked", "recombined", "cross_guided", "perturbed")
HASHERS = ("adversarial", "generated", "centre", "agreement", "cross", "guidance")

Changes = tuple[str, ...]


def off(*keys: str) -> Changes:
    """The changes that set keys of `[defence]` to 0."""
    return tuple(f"defence.{key}=0.0" for key in keys)


SHARED: dict[str, Changes] = {
    "attacked_hash": ("defence.extras.attacked_hash=0.0",),
    "text_edits": ("augment.text_edits=0.0",),
    "text attack": ("defence.inner.eps_text=0.0",),
    "averaged weights": ("optimiser.average=0.0",),
}
PARTS: dict[str, dict[str, Changes]] = {
    "drfgd": {
        "(a) dual-branch encoder": off(*ENCODER, "keeping", "recombination", "guidance"),
        "(b) generator": off("share", "generated"),
        **{f"(a) {key}": off(key) for key in ENCODER},
        **{f"(b) {key}": off(key) for key in (*GENERATOR, *MIXTURE)},
        **{f"(c) {key}": off(key) for key in HASHERS},
        **SHARED,
    },
    "saat": {"mainstay term": off("attack"), "attacked quantisation": off("attack_quantisation"), **SHARED},
}


def model_name(variant: str, number: int) -> str:
    """A model name for a variant; the number keeps them apart."""
    letters = "".join(letter if letter.isalnum() else "-" for letter in variant.lower()).strip("-")
    return f"{number:02d}-{letters}"


def train(arguments: argparse.Namespace, name: str, changes: Changes) -> Path:
    """Train one variant unless it is there; its folder. Raises RuntimeError when training fails."""
    folder: Path = arguments.work / "models" / name / "1"
    if folder.is_dir():
        return folder
    command = [sys.executable, "-m", "model.cli", "train", "--data", str(arguments.data)]
    command += ["--defence", arguments.defence, "--recipe", arguments.recipe or arguments.defence]
    command += ["--name", name, "--out", str(arguments.work / "models"), "--bits", str(arguments.bits)]
    command += ["--epochs", str(arguments.epochs), "--seed", str(arguments.seed)]
    for change in (*arguments.set, *changes):
        command += ["--set", change]
    if arguments.wordnet and SHARED["text_edits"][0] not in changes:  # which would leave it without a use
        command += ["--wordnet", str(arguments.wordnet)]
    begun = arguments.work / "models" / ".runs" / name / "checkpoints"
    if begun.is_dir() and any(begun.iterdir()):
        command.append("--resume")
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    log = arguments.work / f"{name}.log"
    with log.open("a", encoding="utf-8") as out:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode or not folder.is_dir():
        raise RuntimeError(f"training {name} ended with status {done.returncode}; see {log}")
    return folder


def attack(arguments: argparse.Namespace, folders: list[Path]) -> dict[str, Any]:
    """Attack all models in one run; the report. Raises RuntimeError when there is none."""
    out = arguments.work / "evaluation"
    (out / "report.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "model.cli", "evaluate", "--data", str(arguments.data)]
    for folder in folders:
        command += ["--model", str(folder)]
    command += ["--attacks", arguments.attacks, "--queries", str(arguments.queries), "--out", str(out)]
    if arguments.wordnet:
        command += ["--wordnet", str(arguments.wordnet)]
    if out.is_dir() and any(out.iterdir()):
        command.append("--resume")
    done = subprocess.run(command, check=False)
    path = out / "report.json"
    if not path.exists():
        raise RuntimeError(f"the evaluation ended with status {done.returncode} and without a report")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def rows(report: dict[str, Any], labels: dict[str, str], parts: dict[str, Changes]) -> list[dict[str, Any]]:
    """One row for each variant; `labels` gives the report's name of each.

    worst: worst case by task and budget, with its difference to the whole recipe (its interval is paired
    over the queries) where the whole recipe has one.
    """
    gaps = _gaps(report, labels[WHOLE])
    found = []
    for variant, label in labels.items():
        clean, worst = {}, []
        for case in report["worst_case"]:
            if (case["model"], case["protocol"]) != (label, MAIN) or case["task"] not in TASKS:
                continue
            clean[case["task"]] = case["clean_map"]
            place = {name: case[name] for name in ("task", "norm", "eps", "map", "lo", "hi")}
            worst.append({**place, "difference": gaps.get((label, case["task"], case["norm"], case["eps"]))})
        failed = [c["name"] for c in report["checks"] if c["model"] == label and not c["holds"]]
        changes = list(parts.get(variant, ()))
        found.append(
            {"variant": variant, "changes": changes, "clean": clean, "worst": worst, "failed": failed}
        )
    return found


def _gaps(report: dict[str, Any], whole: str) -> dict[tuple[str, str, str, float], dict[str, float]]:
    """Paired differences variant - whole by (label, task, norm, eps)."""
    gaps = {}
    for pair in report["pairs"]:
        if pair["protocol"] != MAIN or whole not in (pair["a"], pair["b"]):
            continue
        sign = 1 if pair["b"] == whole else -1
        label = pair["a"] if sign == 1 else pair["b"]
        low, high = sorted((sign * pair["lo"], sign * pair["hi"]))
        key = (label, pair["task"], pair["norm"], pair["eps"])
        gaps[key] = {"map": sign * pair["difference"], "lo": low, "hi": high}
    return gaps


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="manifest folder")
    parser.add_argument("--defence", choices=sorted(PARTS), default="drfgd")
    parser.add_argument("--recipe", help="the defence's own when left out")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, which share the cores")
    parser.add_argument("--only", default="", help="parts by name, separated by commas; all when left out")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every variant's recipe"
    )
    parser.add_argument("--attacks", default=ATTACKS)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--wordnet", type=Path, help="for edited texts and for the attack on words")
    parser.add_argument("--out", type=Path, default=Path("docs/robustness"))
    parser.add_argument("--work", type=Path, default=Path("runs"), help="where the trainings are kept")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs: wanted at least 1, got {arguments.jobs}")
    arguments.name = f"ablation-{arguments.data.resolve().name}-{arguments.defence}"
    arguments.work = arguments.work / f"{arguments.name}-{settings_key(arguments)}"
    return arguments


def settings_key(arguments: argparse.Namespace) -> str:
    """Eight hex digits of all that is trained with: a model of other settings is never taken."""
    recipe = load_recipe(arguments.recipe or arguments.defence, arguments.set)
    given = [str(getattr(arguments, name)) for name in ("data", "bits", "epochs", "seed", "wordnet")]
    settings = json.dumps([digest(recipe), PARTS[arguments.defence], *given])
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def trained(arguments: argparse.Namespace, parts: dict[str, Changes]) -> dict[str, Path]:
    """The folders of the whole recipe's model and of every variant's, several trained at a time."""
    (arguments.work / "models").mkdir(parents=True, exist_ok=True)
    numbers = {variant: place for place, variant in enumerate([WHOLE, *PARTS[arguments.defence]])}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = {
            variant: pool.submit(train, arguments, model_name(variant, numbers[variant]), changes)
            for variant, changes in {WHOLE: (), **parts}.items()
        }
        return {variant: future.result() for variant, future in waiting.items()}


def main() -> int:
    """Train, attack, write."""
    arguments = read_arguments()
    parts = chosen(PARTS[arguments.defence], arguments.only)
    folders = trained(arguments, parts)
    report = attack(arguments, list(folders.values()))
    labels = {variant: f"{folder.parent.name}/{folder.name}" for variant, folder in folders.items()}
    document = {
        "name": arguments.name,
        "command": shlex.join(["python", "-m", "bench.ablation", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "data": report["data"],
        **{key: getattr(arguments, key) for key in ("epochs", "seed", "bits", "set", "queries", "attacks")},
        "rows": rows(report, labels, parts),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{arguments.name}.json"
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    Console(width=140).print(f"written to {path}")
    return 0


def chosen(parts: dict[str, Changes], only: str) -> dict[str, Changes]:
    """The parts named, or all. Raises SystemExit for a name that is none."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in parts]
    if unknown:
        raise SystemExit(f"wanted parts of {', '.join(parts)}, got {', '.join(unknown)}")
    return {name: parts[name] for name in names} if names else parts


if __name__ == "__main__":
    sys.exit(main())
