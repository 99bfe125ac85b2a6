"""The tables of docs/method.md on what each part of a defence earns, from docs/robustness/ablation-*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = (("image-to-text", "linf", 8), ("image-to-text", "linf", 16), ("text-to-image", "text", None))
"""Worst cases shown: task, norm, and budget in levels of 255 where there is one."""


def ablation_table(folder: Path) -> str:
    """One table for each data file; empty without one."""
    parts = [
        _of_file(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("ablation-*.json"))
    ]
    return "\n\n".join(parts)


def _of_file(report: dict[str, Any]) -> str:
    """The sentences and the table of one data file: the whole recipe first, then by what a part earns."""
    whole, *others = report["rows"]
    others.sort(key=_earned)
    settings = ", ".join((f"{report['bits']} bits", *report["set"]))
    lines = [
        f"`{report['name']}`: {report['epochs']} epochs, seed {report['seed']}, {settings}; "
        f"{report['queries']} queries, {report['attacks']}. Differences are without the part less with it, "
        "in points of mAP, with paired 95 % intervals over the queries; negative says that the part earns.",
        "",
        "| without | clean I->T | worst case 8/255 | 16/255 | T->I clean | texts |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(row, whole) for row in (whole, *others))])


def _earned(row: dict[str, Any]) -> float:
    """What the first column's worst case loses without the part; what has none comes last."""
    case = _case(row, COLUMNS[0])
    return float(case["difference"]["map"]) if case and case["difference"] else float("inf")


def _line(row: dict[str, Any], whole: dict[str, Any]) -> str:
    first, second, texts = (_cell(_case(row, column)) for column in COLUMNS)
    clean, back = (_clean(row, whole, task) for task in ("image-to-text", "text-to-image"))
    name = f"(nothing: {row['variant']})" if row is whole else row["variant"]
    return f"| {name} | {clean} | {first} | {second} | {back} | {texts} |"


def _clean(row: dict[str, Any], whole: dict[str, Any], task: str) -> str:
    if task not in row["clean"]:
        return "-"
    value = f"{row['clean'][task]:.3f}"
    return value if row is whole else f"{value}, {100 * (row['clean'][task] - whole['clean'][task]):+.1f}"


def _cell(case: dict[str, Any] | None) -> str:
    if case is None or case["map"] is None:
        return "-"
    gap = case["difference"]
    if gap is None:
        return f"{case['map']:.3f}"
    low, high = 100 * gap["lo"], 100 * gap["hi"]
    return f"{case['map']:.3f}, {100 * gap['map']:+.1f} ({low:+.1f} to {high:+.1f})"


def _case(row: dict[str, Any], column: tuple[str, str, int | None]) -> dict[str, Any] | None:
    """The worst case of a column, or None."""
    task, norm, level = column
    for case in row["worst"]:
        budget = level is None or round(case["eps"] * 255) == level
        if (case["task"], case["norm"]) == (task, norm) and budget:
            found: dict[str, Any] = case
            return found
    return None
