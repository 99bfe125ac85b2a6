"""Robustness claims: `hashguard evaluate` on a list of models, and the claim file behind the README's table.

    python -m bench.robustness --data DIR --models A,B,... [--profile standard] [--twin DIR]

Runs the real command (its units stay under --work, so that an interrupted run goes on) and writes
`docs/robustness/<set>-<bits>.json`: report.json without pictures and quoted texts. A gate that fails blocks
the claim: nothing is written, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

QUOTED = ("examples", "text_examples")
CURVE_DIGITS = 4
MAIN = "train+database"


def evaluate(arguments: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Run the command; the report, or None when the run itself failed."""
    (out / "report.json").unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "model.cli",
        "evaluate",
        "--data",
        str(arguments.data),
        "--out",
        str(out),
    ]
    for model in split(arguments.models):
        command += ["--model", model]
    for surrogate in split(arguments.surrogates):
        command += ["--surrogate", surrogate]
    for option in ("twin", "wordnet", "queries"):
        if getattr(arguments, option):
            command += [f"--{option}", str(getattr(arguments, option))]
    command += ["--attacks", arguments.profile, "--seed", str(arguments.seed)]
    if out.is_dir() and any(out.iterdir()):
        command.append("--resume")
    subprocess.run(command, check=False)
    path = out / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def split(names: str) -> list[str]:
    """The parts of a comma list."""
    return [name.strip() for name in names.split(",") if name.strip()]


def claim(report: dict[str, Any], command: str) -> dict[str, Any]:
    """The claim file's content: no picture, no text of the data set, curves of the main task only."""
    kept = {name: value for name, value in report.items() if name not in QUOTED}
    first = report["rows"][0]["task"]
    rows = []
    for row in report["rows"]:
        shown = row["protocol"] == MAIN and row["task"] == first
        curve = [[round(value, CURVE_DIGITS) for value in part] for part in row["curve"]] if shown else []
        rows.append({**row, "curve": curve})
    return {"name": f"robustness on {report['data']['name']}", "claimed_by": command, **kept, "rows": rows}


def claim_path(report: dict[str, Any], folder: Path, part: str = "") -> Path:
    """Where the claim, or a named part of it, goes; raises ValueError for models of several code lengths."""
    bits = {model["bits"] for model in report["models"]}
    if len(bits) != 1:
        raise ValueError(f"a claim is about one code length, got {sorted(bits)}")
    return folder / f"{report['data']['name']}-{bits.pop()}{f'-{part}' if part else ''}.json"


def work_name(arguments: argparse.Namespace) -> str:
    """A folder name for data set and part, or profile, which may be a list of attacks."""
    what = f"{arguments.data.resolve().name}-{arguments.part or arguments.profile}"
    return re.sub(r"[^A-Za-z0-9.-]+", "-", what)[:100]


def show(report: dict[str, Any], console: Console) -> None:
    """The worst cases of the main protocol as a table."""
    table = Table(title=f"{report['data']['name']}, {MAIN}: worst case per query")
    for column in ("model", "task", "budget", "clean", "worst case", "95 %", "chance", "n"):
        table.add_column(column)
    for case in report["worst_case"]:
        if case["protocol"] == MAIN and case["map"] is not None:
            budget = (
                f"{case['eps'] * 255:g}/255" if case["norm"] == "linf" else f"{case['norm']} {case['eps']:g}"
            )
            interval = f"{case['lo']:.3f} - {case['hi']:.3f}"
            figures = [f"{case[name]:.3f}" for name in ("clean_map", "map")]
            cells = [case["model"], case["task"], budget, *figures, interval, f"{case['chance']:.3f}"]
            table.add_row(*cells, str(case["n"]))
    console.print(table)


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="manifest folder")
    parser.add_argument("--models", required=True, help="model directories, separated by commas")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--twin", type=Path, help="undefended model, when it is not among --models")
    parser.add_argument("--surrogates", default="", help="model directories, separated by commas")
    parser.add_argument("--wordnet", type=Path)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--part", default="", help="a claim beside the main one, such as seeds or widths")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/robustness"))
    parser.add_argument("--work", type=Path, default=Path("runs/robustness"))
    arguments = parser.parse_args()
    console = Console(width=140)
    work = arguments.work / work_name(arguments)
    report = evaluate(arguments, work)
    if report is None:
        console.print("the evaluation ended without a report: see above")
        return 1
    show(report, console)
    failed = [check for check in report["checks"] if not check["holds"]]
    if failed:
        for check in failed:
            console.print(f"{check['model']}: {check['name']}: {check['detail']}", markup=False)
        console.print(f"no claim is written: {len(failed)} gates do not hold; the report is in {work}")
        return 1
    path = claim_path(report, arguments.out, arguments.part)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "bench.robustness", *sys.argv[1:]])
    path.write_text(json.dumps(claim(report, command), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
