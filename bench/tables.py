"""Writes the README's tables from the data files below docs/; `--check` only says whether they agree.

python -m bench.tables [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- quality:begin -->", "<!-- quality:end -->"
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


def main() -> int:
    """Write or check the README."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 when they differ")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    wanted = f"{before}{BEGIN}\n{quality_table(ROOT / 'docs' / 'quality')}\n{END}{after}"
    if check:
        return int(text != wanted)
    readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
