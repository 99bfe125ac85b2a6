"""Tables of robustness (README) and of differences (docs/method.md) from the claims in `docs/robustness/`.

Image queries and text queries have a table each, a line for every model of every claim. A model with both
modalities is shown across them; one without texts by images that find images. The claims have the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

BUDGETS = (2, 4, 8, 16)
"""Levels of 255 that the table of image queries shows."""
CLAIMED = 8
"""The level of 255 that a claim is about."""
MAIN, STRICT = "train+database", "database"
COMPARED = (("4", "8", "16"), ("text",))
"""Budgets whose differences are shown: of image queries, of text queries."""
IMAGE_TASKS = ("image-to-text", "image-to-image")
"""The first that a model has is shown."""
TEXT_TASK = "text-to-image"

LEAD = (
    "Worst case per query, mean over queries: the least AP over all attacks of the profile within the budget "
    "(L-inf on RGB in [0, 1]). Tie-aware mAP@all over train + database, 95 % intervals at 8/255; the strict "
    "protocol searches the database alone. From the claims in `docs/robustness/`, which have the other tasks "
    "as well. No gate that was judged fails; `gates` says how many were judged and how many had nothing to "
    "judge."
)
TEXT_LEAD = (
    "Texts under attack, each with at most a fifth of its words changed: words replaced, typing errors, and "
    "the worse of both for each query; in brackets the share of the clean mAP."
)


@dataclass(frozen=True)
class Shown:
    """A model of a claim and the task that it is shown by."""

    report: dict[str, Any]
    model: dict[str, Any]
    task: str

    @property
    def heads(self) -> list[str]:
        """Set and bits, label, defence and seed."""
        model = self.model
        return [
            f"{self.report['data']['name']}, {model['bits']}",
            model["label"],
            f"{model['defence']}, {model['seed']}",
        ]

    def cases(self, protocol: str = MAIN) -> dict[str, dict[str, Any]]:
        """Worst cases by budget."""
        return {
            budget(case): case
            for case in self.report["worst_case"]
            if (case["model"], case["task"], case["protocol"]) == (self.model["label"], self.task, protocol)
            and case["map"] is not None
        }

    def alone(self) -> str:
        """MAP under the strongest APGD on the mainstay code alone, at 8/255."""
        found = [
            row["map"]
            for row in self.report["rows"]
            if (row["model"], row["task"], row["protocol"]) == (self.model["label"], self.task, MAIN)
            and (row["attack"], row["norm"]) == ("apgd:mainstay", "linf")
            and round(row["eps"] * 255) == CLAIMED
        ]
        return f"{min(found):.3f}" if found else "-"

    def gates(self) -> str:
        """How many gates hold of those judged, and how many were not judged."""
        label = self.model["label"]
        held = [check["holds"] for check in self.report["checks"] if check["model"] == label]
        out = [entry for entry in self.report["left_out"] if entry["model"] == label]
        missing = sum(entry["what"].startswith("gate ") for entry in out)
        return f"{sum(held)} of {len(held)}" + (f", {missing} not judged" if missing else "")


def robustness_table(folder: Path) -> str:
    """Both tables; empty without a claim."""
    claims = [report for _, report in _reports(folder) if "worst_case" in report]
    if not claims:
        return ""
    shown = [each for report in claims for each in _shown(report, IMAGE_TASKS)]
    heads = ["set, bits", "model", "defence, seed", "task", "clean", *(f"{level}/255" for level in BUDGETS)]
    heads += ["mainstay alone, 8/255", "strict: clean, 8/255", "chance", "queries", "gates"]
    parts = ["## Robustness", LEAD, _table(heads, (_image_line(each) for each in shown))]
    texts = [each for report in claims for each in _shown(report, (TEXT_TASK,)) if "text" in each.cases()]
    if texts:
        heads = ["set, bits", "model", "defence, seed", "clean", "words", "typing errors", "worse of both"]
        parts += [TEXT_LEAD, _table([*heads, "queries"], (_text_line(each) for each in texts))]
    return "\n\n".join(parts)


def differences_table(folder: Path) -> str:
    """Paired differences of worst cases over train + database; empty without a claim about several models."""
    lines = [
        [
            stem,
            f"{pair['a']} - {pair['b']}",
            pair["task"],
            budget(pair),
            f"{pair['difference']:+.3f}",
            f"{pair['lo']:+.3f} to {pair['hi']:+.3f}",
            str(pair["n"]),
        ]
        for stem, report in _reports(folder)
        for pair in report.get("pairs", ())
        if pair["protocol"] == MAIN and budget(pair) in COMPARED[pair["task"].startswith("text")]
    ]
    heads = ["claim", "models", "task", "budget", "difference", "95 %", "queries"]
    return _table(heads, lines) if lines else ""


def budget(case: dict[str, Any]) -> str:
    """The column of a worst case: a level of 255, or the norm of a text attack."""
    return f"{round(case['eps'] * 255)}" if case["norm"] == "linf" else str(case["norm"])


def _reports(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(name, content) of the data files."""
    return [
        (path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))
    ]


def _shown(report: dict[str, Any], tasks: tuple[str, ...]) -> Iterator[Shown]:
    """The models of a claim that have one of the tasks."""
    for model in report["models"]:
        every = (Shown(report, model, task) for task in tasks)
        yield from islice((shown for shown in every if shown.cases()), 1)


def _table(heads: list[str], lines: Iterator[list[str]] | list[list[str]]) -> str:
    """Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _image_line(shown: Shown) -> list[str]:
    """A model's line among the image queries."""
    cases, strict = shown.cases(), shown.cases(STRICT).get(str(CLAIMED))
    any_case = next(iter(cases.values()))
    cells = [_figure(cases[str(level)]) if str(level) in cases else "-" for level in BUDGETS]
    hard = f"{strict['clean_map']:.3f}, {strict['map']:.3f}" if strict else "-"
    ends = [shown.alone(), hard, f"{any_case['chance']:.3f}", str(any_case["n"]), shown.gates()]
    return [*shown.heads, shown.task, f"{any_case['clean_map']:.3f}", *cells, *ends]


def _text_line(shown: Shown) -> list[str]:
    """A model's line among the text queries."""
    cases = shown.cases()
    clean, n = cases["text"]["clean_map"], cases["text"]["n"]
    found = [cases.get(name) for name in ("words", "typos", "text")]
    cells = [f"{case['map']:.3f} ({case['map'] / clean:.2f})" if case else "-" for case in found]
    return [*shown.heads, f"{clean:.3f}", *cells, str(n)]


def _figure(case: dict[str, Any]) -> str:
    """MAP, at 8/255 with its interval."""
    value = f"{case['map']:.3f}"
    return f"{value} ({case['lo']:.3f}-{case['hi']:.3f})" if budget(case) == str(CLAIMED) else value
