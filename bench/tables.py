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

ROOT = Path(__file__).resolve().parents[1]
MARKS = "<!-- {name}:begin -->", "<!-- {name}:end -->"
BUDGETS = (2, 4, 8, 16)
"""Levels of 255 that the robustness table shows."""
CLAIMED = 8
"""The level of 255 that a claim is about."""
MAIN = "train+database"
COMPARED = (("4", "8", "16"), ("text",))
"""Budgets whose differences are shown: of image queries, of text queries."""
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


def robustness_table(folder: Path) -> str:
    """Worst cases over train + database, a line for each model of each claim; empty without a claim."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    claims = [report for report in reports if "worst_case" in report]
    if not claims:
        return ""
    heads = [*(f"{level}/255" for level in BUDGETS), "mainstay alone, 8/255"]
    lines = [
        "## Robustness",
        "",
        "Worst case per query, mean over queries: the least AP over all attacks of the profile within the "
        "budget (L-inf on RGB in [0, 1]; texts: words and typing errors). Tie-aware mAP@all over train + "
        "database, 95 % intervals at 8/255; from the claims in `docs/robustness/`. No gate that was judged "
        "fails; `gates` says how many were judged and how many had nothing to judge.",
        "",
        f"| set, bits | model | defence, seed | task | clean | {' | '.join(heads)} | texts | chance "
        "| queries | gates |",
        "|" + "---|" * (9 + len(heads)),
    ]
    return "\n".join([*lines, *(line for report in claims for line in _claim_lines(report))])


def _claim_lines(report: dict[str, Any]) -> list[str]:
    """A line for each model and task with worst cases under the main protocol."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    heads: dict[tuple[str, str], str] = {}
    for case in report["worst_case"]:
        if case["protocol"] != MAIN or case["map"] is None:
            continue
        key = (case["model"], case["task"])
        heads[key] = f"{report['data']['name']}, {case['bits']} | {case['model']} | {case['defence']}, "
        heads[key] += f"{case['seed']} | {case['task']}"
        first = {"clean": f"{case['clean_map']:.3f}", "chance": f"{case['chance']:.3f}", "n": str(case["n"])}
        own = cells.setdefault(key, first | {"gates": _gates(report, case["model"])})
        own[_budget(case)] = _figure(case)
        own["mainstay"] = _alone(report, key)
    names = ("clean", *(str(level) for level in BUDGETS), "mainstay", "text", "chance", "n", "gates")
    return [
        f"| {heads[key]} | " + " | ".join(own.get(name, "-") for name in names) + " |"
        for key, own in cells.items()
    ]


def _alone(report: dict[str, Any], key: tuple[str, str]) -> str:
    """MAP of a model and task under the strongest APGD on the mainstay code alone, at 8/255."""
    found = [
        row["map"]
        for row in report["rows"]
        if (row["model"], row["task"]) == key
        and (row["protocol"], row["attack"], row["norm"]) == (MAIN, "apgd:mainstay", "linf")
        and round(row["eps"] * 255) == CLAIMED
    ]
    return f"{min(found):.3f}" if found else "-"


def differences_table(folder: Path) -> str:
    """Paired differences of worst cases over train + database; empty without a claim about several models."""
    lines = [
        f"| {path.stem} | {pair['a']} - {pair['b']} | {pair['task']} | {_budget(pair)}"
        f" | {pair['difference']:+.3f} | {pair['lo']:+.3f} to {pair['hi']:+.3f} | {pair['n']} |"
        for path in sorted(folder.glob("*.json"))
        for pair in json.loads(path.read_text(encoding="utf-8")).get("pairs", ())
        if pair["protocol"] == MAIN and _budget(pair) in COMPARED[pair["task"].startswith("text")]
    ]
    if not lines:
        return ""
    heads = ("claim", "models", "task", "budget", "difference", "95 %", "queries")
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *lines])


def _gates(report: dict[str, Any], model: str) -> str:
    """How many gates hold of those judged, and how many were not judged."""
    held = [check["holds"] for check in report["checks"] if check["model"] == model]
    out = [entry for entry in report["left_out"] if entry["model"] == model]
    missing = sum(entry["what"].startswith("gate ") for entry in out)
    return f"{sum(held)} of {len(held)}" + (f", {missing} not judged" if missing else "")


def _budget(case: dict[str, Any]) -> str:
    """The column of a worst case."""
    return f"{round(case['eps'] * 255)}" if case["norm"] == "linf" else str(case["norm"])


def _figure(case: dict[str, Any]) -> str:
    """MAP, at 8/255 with its interval."""
    value = f"{case['map']:.3f}"
    interval = f" ({case['lo']:.3f}-{case['hi']:.3f})"
    return value + interval if _budget(case) == str(CLAIMED) else value


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
