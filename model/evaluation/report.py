"""report.html from the dict of report.json alone: one file that loads nothing, prints, and fits a phone.

The dict is checked for the keys that the page reads and cleaned of characters that no page can hold; every
value is escaped by the template engine, and the page carries a policy that forbids loading and scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from model.errors import DataError
from model.evaluation import report_words as words
from model.evaluation.evidence import write_whole
from model.evaluation.pictures import FACTOR, magnified, png_uri, read_png
from model.evaluation.report_plots import Figure, figures
from model.evaluation.report_tables import (
    attack_table,
    effect_lines,
    models,
    natural_table,
    pair_table,
    tasks,
    worst_table,
)
from model.evaluation.scoring import MAIN_PROTOCOL

_MODEL = frozenset({"model", "defence", "seed", "bits"})
_HIT = frozenset({"id", "text", "relevant", "distance"})
REQUIRED: Mapping[str, frozenset[str]] = {
    "models": frozenset({"label", "defence", "seed", "bits", "seconds", "notes"}),
    "rows": _MODEL
    | {"task", "protocol", "attack", "purpose", "norm", "eps", "steps", "restarts", "queries", "map"}
    | {"bit_flips", "n", "chance", "linf", "l2", "ssim", "seconds", "curve", "t_map"},
    "worst_case": _MODEL | {"task", "protocol", "norm", "eps", "map", "lo", "hi", "clean_map", "chance", "n"},
    "pairs": frozenset({"a", "b", "task", "protocol", "norm", "eps", "difference", "lo", "hi", "n"}),
    "checks": frozenset({"model", "name", "holds", "detail"}),
    "left_out": frozenset({"model", "what", "why"}),
    "examples": frozenset({"model", "query_id", "task", "attack", "norm", "eps", "clean_png", "attacked_png"})
    | {"text", "labels", "ap_before", "ap_after", "before", "after"},
    "text_examples": frozenset({"model", "query_id", "task", "attack", "before", "after", "labels"})
    | {"ap_before", "ap_after", "hits_before", "hits_after"},
    "candidates": frozenset({"model", "attack", "norm", "eps", "n", "rank_before", "rank_after", "database"})
    | {"asking"},
}
"""Keys that the page reads, by list of report.json."""

CONDITIONS = ("profile", "seed", "versions", "machine")
"""What of `threat` stands at the end, where a reader looks for how to run it again; so does the command."""


def write_html(report: Mapping[str, Any], path: Path) -> None:
    """Write the page for the dict of report.json, whole or not at all. Raises DataError, OSError."""
    write_whole(path, render(report).encode("utf-8"))


def render(report: Mapping[str, Any]) -> str:
    """The page. Raises DataError for a dict without what the page needs, NaN, or a damaged picture."""
    clean = words.plain(report)
    check_shape(clean)
    return _environment().get_template("report.html.jinja").render(**_values(clean))


def check_shape(report: Mapping[str, Any]) -> None:
    """Raise DataError that names the first thing that is wanted and not there."""
    for name in ("data", "threat"):
        if not isinstance(report.get(name), Mapping):
            raise DataError(f"report: wanted an object under {name!r}, got {_kind(report.get(name))}")
    for name, keys in REQUIRED.items():
        _check_entries(name, report.get(name), keys)
    if not report["models"]:
        raise DataError("report: wanted at least one model, got none")
    known = models(report)
    for name in ("rows", "worst_case", "examples", "text_examples", "candidates"):
        if strange := sorted({entry["model"] for entry in report[name]} - set(known)):
            raise DataError(f"report: {name}: wanted models of {known}, got {strange}")
    for name in ("before", "after"):
        for example in report["examples"]:
            _check_entries(f"examples: {name}", example[name], _HIT)
        for example in report["text_examples"]:
            _check_entries(f"text_examples: hits_{name}", example[f"hits_{name}"], _HIT)


def _check_entries(name: str, entries: object, keys: frozenset[str]) -> None:
    if not isinstance(entries, list):
        raise DataError(f"report: wanted a list under {name!r}, got {_kind(entries)}")
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise DataError(f"report: wanted an object as {name}[{place}], got {_kind(entry)}")
        if missing := sorted(keys - set(entry)):
            raise DataError(f"report: {name}[{place}]: wanted {', '.join(missing)} too, got {sorted(entry)}")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("model", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (words.share, words.number, words.points, words.seconds, words.task_name)
    environment.filters.update({function.__name__: function for function in shown})
    environment.filters.update(norm=words.norm_name, effort=words.effort, explain=words.explain)
    environment.filters["protocol"] = lambda name: name.replace("+", " + ")
    environment.filters["budget_of"] = lambda eps, norm: words.budget(norm, eps)
    return environment


def _values(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template names."""
    found = tasks(report)
    attacks = dict.fromkeys(row["attack"] for row in report["rows"] if row["attack"] != "none")
    return {
        **{name: report[name] for name in ("data", "threat", *REQUIRED)},
        "data_shown": _data_facts(report["data"]),
        "failed": [check for check in report["checks"] if not check["holds"]],
        "by_model": _checks_by_model(report),
        "headlines": [line for label in models(report) if (line := _headline(report, label))],
        "tasks": found,
        "worst_tables": [worst_table(report, task) for task in found],
        "attack_tables": [attack_table(report, task) for task in found],
        "natural_tables": [table for task in found if (table := natural_table(report, task))],
        "pairs_shown": pair_table(report),
        "effects": [(label, effect_lines(report, label)) for label in models(report)],
        "figures": [_safe(figure) for figure in figures(report)],
        "image_examples": [_example(example) for example in report["examples"]],
        "texts": [_text_example(example) for example in report["text_examples"]],
        "attacks": [(name, words.explain(name)) for name in attacks],
        "threat_shown": {
            key: value for key, value in report["threat"].items() if key not in (*CONDITIONS, "command")
        },
        "conditions": {key: report["threat"][key] for key in CONDITIONS if key in report["threat"]},
        "model_facts": _model_facts(report),
        "factor": FACTOR,
        "main_protocol": MAIN_PROTOCOL,
    }


def _headline(report: Mapping[str, Any], label: str) -> Mapping[str, Any] | None:
    """The worst case that a model is named by: its first task, L-inf, the budget nearest to 8/255."""
    cases = [
        case for case in report["worst_case"] if (case["model"], case["protocol"]) == (label, MAIN_PROTOCOL)
    ]
    order = {task: place for place, task in enumerate(tasks(report))}
    return min(
        cases,
        key=lambda case: (case["norm"] != "linf", order[case["task"]], abs(case["eps"] - 8 / 255)),
        default=None,
    )


def _checks_by_model(report: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    names = dict.fromkeys([*models(report), *(check["model"] for check in report["checks"])])
    grouped = [(name, [check for check in report["checks"] if check["model"] == name]) for name in names]
    return [(name, checks) for name, checks in grouped if checks]


def _data_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on the data; of the many counts of excluded queries only those that are not 0."""
    excluded = data.get("excluded")
    if not isinstance(excluded, Mapping):
        return dict(data)
    some = {place: count for place, count in excluded.items() if count}
    return {**data, "excluded": some or "no query: each has a relevant item"}


def _model_facts(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What is known of each model besides its figures, which the tables have."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for entry in report["models"]:
        kept = {key: value for key, value in entry.items() if key not in ("label", "clean", "seconds")}
        found.append((entry["label"], {**kept, "time spent": words.seconds(entry["seconds"])}))
    return found


def _safe(figure: Figure) -> dict[str, Any]:
    """A figure whose SVG, escaped by its writer, is not escaped again."""
    return {
        "svg": Markup(figure.svg),  # noqa: S704 - plots.draw builds it with an XML writer
        "legend": [(Markup(mark), name) for mark, name in figure.legend],  # noqa: S704 - the same
        "caption": figure.caption,
    }


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    clean, attacked = read_png(example["clean_png"]), read_png(example["attacked_png"])
    return {
        **example,
        "clean_uri": png_uri(clean),
        "attacked_uri": png_uri(attacked),
        "change_uri": png_uri(magnified(clean, attacked)),
    }


def _text_example(example: Mapping[str, Any]) -> dict[str, Any]:
    before, after = example["before"], example["after"]
    return {
        **example,
        "marked_before": words.marked(before, after),
        "marked_after": words.marked(after, before),
    }


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
