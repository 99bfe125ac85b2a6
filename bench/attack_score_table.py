"""The table of docs/method.md on the attack score, from `docs/robustness/attack-score-*.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHOWN_JOINT = (8, 16)
"""Levels of 255 at which the attacker who knows the score is shown; the data files have more."""


def attack_score_table(folder: Path) -> str:
    """What benign queries do and a line for each attack shown, by data set; empty without a data file."""
    parts = [
        _of_set(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("attack-score-*.json"))
    ]
    return "\n\n".join(parts)


def _of_set(report: dict[str, Any]) -> str:
    """The sentences and the table of one data file."""
    model, data = report["model"], report["data"]
    lines = [
        f"{data['set']}, {model['label']} ({model['defence']}, {model['bits']} bits, seed {model['seed']}), "
        f"{data['queries']} queries. Benign queries above the thresholds: {_benign(report['benign'])}.",
        "",
        "| attack | knows the score | AUROC (95 %) | flagged at 1 % | at 5 % | clean mAP | mAP "
        "| flagged ones spared |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(row) for row in report["rows"] if _shown(row))])


def _benign(sides: dict[str, Any]) -> str:
    """As "images 0.2 % (0.0-1.1) at 1 %, ... of 500"."""
    said = []
    for side, figures in sides.items():
        rates = ", ".join(
            f"{100 * one['share']:.1f} % ({100 * one['lo']:.1f}-{100 * one['hi']:.1f}) at {_percent(rate)}"
            for rate, one in figures["thresholds"].items()
        )
        said.append(f"{side}s {rates} (n = {figures['n']}, calibrated on {figures['calibrated_on']})")
    return "; ".join(said)


def _shown(row: dict[str, Any]) -> bool:
    """Everything at 8/255, the mainstay at all levels, corruptions, and texts under the mainstay's aim."""
    level = round(row["eps"] * 255)
    if row["knows_score"] and row["norm"] == "linf":
        return level in SHOWN_JOINT
    if row["norm"] == "linf":
        return level == 8 or row["attack"] == "apgd:mainstay"
    return row["norm"] == "natural" or row["attack"].endswith(":mainstay")


def _line(row: dict[str, Any]) -> str:
    knows = "-"
    if row["knows_score"]:
        below = "the 5 % threshold" if row["stays_below"] == "flag" else "the benign median"
        knows = f"below {below}, weight {row['weight']:g}"
    flagged = row["flagged"]
    cells = [
        f"{row['attack']} {_budget(row)}",
        knows,
        f"{row['auroc']:.3f} ({row['lo']:.3f}-{row['hi']:.3f})",
        f"{100 * flagged['0.01']:.1f} %",
        f"{100 * flagged['0.05']:.1f} %",
        *(f"{row[name]:.3f}" for name in ("clean_map", "map", "map_spared")),
    ]
    return f"| {' | '.join(cells)} |"


def _budget(row: dict[str, Any]) -> str:
    if row["norm"] == "linf":
        return f"{row['eps'] * 255:g}/255"
    units = {"natural": "severity ", "words": "share ", "typos": "edits a word ", "embedding": "RMS "}
    return f"{units.get(row['norm'], '')}{row['eps']:g}"


def _percent(rate: str) -> str:
    return f"{100 * float(rate):g} %"
