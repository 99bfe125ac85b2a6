"""The test of the tests on a real model: which gates see through which defence that is broken on purpose.

    make bench-broken-defences MODEL=DIR DATA=DIR [SURROGATE=DIR]

Wraps the undefended model's image tower in each of the broken defences of the test suite
(tests/model/evaluation/broken_defences.py), attacks every one with the same small suite, and writes the
verdicts of all gates with their sentences as JSON; it prints the Markdown table for docs/method.md. The
undefended model is the twin of all and the surrogate of all; its own row needs another surrogate for the gate
on transfer. The same arguments give the same file, the random defences included (their draws are seeded),
apart from the machine, the commit and the seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from broken_defences import TABLE, wrapped
from small_suite import attacked, image_suite

from model.attacks.subjects import Subject, load_subject
from model.data.manifest import Manifest, read_manifest
from model.evaluation.evidence import ModelEvidence
from model.evaluation.gates import check
from model.evaluation.runner import Session
from model.evaluation.scoring import mean_of
from model.evaluation.specs import AttackSpec
from model.evaluation.stage import Setting, choose_queries

NONE = "none"


def row(name: str, what: str, evidence: ModelEvidence, twin: ModelEvidence, seconds: float) -> dict[str, Any]:
    """What became of one defence: what it would claim, and every gate's verdict."""
    checks, left_out = check(evidence, twin, strict=False)
    task = evidence.main_task
    claims = evidence.find(name="apgd:mainstay", purpose="suite", eps=8 / 255)
    return {
        "defence": name,
        "what": what,
        "clean_map": round(evidence.mean_clean(task), 4),
        "map_at_8": round(mean_of(evidence.unit_ap(claims[0], task)), 4),
        "fired": [verdict.name for verdict in checks if not verdict.holds],
        "checks": [verdict.to_json() for verdict in checks],
        "left_out": left_out,
        "seconds": round(seconds, 1),
    }


def rows(
    undefended: Subject,
    manifest: Manifest,
    specs: Sequence[AttackSpec],
    setting: Setting,
    others: list[Subject],
) -> list[dict[str, Any]]:
    """One row for the model as it is and one for each broken defence around it."""
    session, started = Session(), time.monotonic()
    twin = attacked(undefended, manifest, specs, setting=setting, surrogates=others, session=session)
    found = [row(NONE, "the undefended model itself", twin, twin, time.monotonic() - started)]
    for name, (_, what) in TABLE.items():
        started = time.monotonic()
        subject = wrapped(undefended, name)
        evidence = attacked(
            subject, manifest, specs, setting=setting, surrogates=[undefended], session=session
        )
        found.append(row(name, what, evidence, twin, time.monotonic() - started))
        print(f"{name}: {', '.join(found[-1]['fired']) or 'nothing fires'}", flush=True)
    return found


def table(report: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| defence | what it does | clean mAP | apparent mAP at 8/255 | gates that fire |",
        "|---|---|---|---|---|",
    ]
    for entry in report["rows"]:
        fired = ", ".join(entry["fired"]) or "none"
        lines.append(
            f"| {entry['defence']} | {entry['what']} | {entry['clean_map']:.3f} | {entry['map_at_8']:.3f} "
            f"| {fired} |"
        )
    return "\n".join(lines) + "\n"


def commit() -> str:
    """Current commit of the repository, empty without one."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="an undefended model")
    parser.add_argument("--data", type=Path, required=True, help="manifest folder")
    parser.add_argument("--surrogate", type=Path, help="an independently trained model, for the first row")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--asked", type=int, default=400, help="queries of the black-box attacks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("docs/robustness/broken_defences.json"))
    given = parser.parse_args()
    manifest, undefended = read_manifest(given.data), load_subject(given.model, given.device)
    others = [load_subject(given.surrogate, given.device)] if given.surrogate else []
    setting = Setting(manifest, choose_queries(manifest, [undefended, *others], given.queries))
    specs = image_suite(len(setting.queries), given.steps, given.asked)
    card = undefended.card
    report = {
        "name": "gates that fire on defences broken on purpose",
        "command": "python -m bench.broken_defences " + " ".join(sys.argv[1:]),
        "machine": {
            "machine": platform.machine(),
            "torch": torch.__version__,
            "device": str(undefended.device),
        },
        "commit": commit(),
        "model": {"name": card.name, "version": card.version, "digest": card.digest, "bits": card.bits},
        "data": {
            "set": given.data.name,
            "fingerprint": manifest.fingerprint,
            "queries": len(setting.queries),
        },
        "suite": [spec.to_json() for spec in specs],
        "rows": rows(undefended, manifest, specs, setting, others),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    given.out.write_text(text, encoding="utf-8")
    print(table(report))


if __name__ == "__main__":
    main()
