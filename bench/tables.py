"""Writes the pages' tables from the data files below docs/; `--check` only says whether they agree.

python -m bench.tables [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.ablation_table import ablation_table
from bench.attack_score_table import attack_score_table
from bench.life_cycle_table import chaos_table, reindex_load_table, rows_table
from bench.robustness_table import differences_table, robustness_table

ROOT = Path(__file__).resolve().parents[1]
MARKS = "<!-- {name}:begin -->", "<!-- {name}:end -->"
TASKS = ("image-to-text", "text-to-image", "image-to-image", "text-to-text")


def quality_table(folder: Path) -> str:
    """One line for each data set, model and protocol found in `folder`."""
    lines = [
        "## Quality",
        "",
        "Tie-aware mAP@all, relevant = a shared label, undefended; from the files in `docs/quality/`, which "
        "hold seed, split, time, intervals and command.",
        "",
        "| set, bits | model | retrieved from | I->T | T->I | I->I | T->T | chance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        lines += _lines(report)
    return "\n".join(lines)


def _lines(report: dict[str, Any]) -> list[str]:
    """The table's lines for one data file; rows about unseen texts stay in the file."""
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in report["rows"]:
        if "unseen" not in row["what"]:
            cells.setdefault((row["what"], row["protocol"]), {"chance": row["chance"]})[row["task"]] = row[
                "map"
            ]
    return [
        f"| {report['data']['set']}, {report['bits']} | {what} | {protocol} | "
        + " | ".join(f"{found[task]:.3f}" if task in found else "-" for task in (*TASKS, "chance"))
        + " |"
        for (what, protocol), found in cells.items()
    ]


def replaced(text: str, name: str, table: str) -> str:
    """A page's `text` with `table` between the marks of `name`; raises ValueError without the marks."""
    begin, end = (mark.format(name=name) for mark in MARKS)
    if begin not in text or end not in text:
        raise ValueError(f"wanted the marks {begin} and {end}, they are not on the page")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"


def tables() -> dict[str, dict[str, str]]:
    """Every table by page and name."""
    docs = ROOT / "docs"
    robustness, performance = docs / "robustness", docs / "performance"
    return {
        "README.md": {"quality": quality_table(docs / "quality"), "robustness": robustness_table(robustness)},
        "docs/method.md": {
            "differences": differences_table(robustness),
            "ablation": ablation_table(robustness),
            "attack-score": attack_score_table(robustness),
        },
        "docs/operations.md": {
            "chaos": chaos_table(performance),
            "reindex-load": reindex_load_table(performance),
            **{name: rows_table(performance, name) for name in ("scale", "scale-out-pgvector", "containers")},
        },
    }


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 when they differ")
    check = parser.parse_args().check
    differ = False
    for page, named in tables().items():
        path = ROOT / page
        text = wanted = path.read_text(encoding="utf-8")
        for name, table in named.items():
            wanted = replaced(wanted, name, table)
        differ |= text != wanted
        if not check:
            path.write_text(wanted, encoding="utf-8")
    return int(check and differ)


if __name__ == "__main__":
    sys.exit(main())
