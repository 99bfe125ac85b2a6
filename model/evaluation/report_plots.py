"""Plots of a report: which rows of report.json go into which picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.evaluation import report_words as words
from model.evaluation.plots import Level, Line, Plot, Scale, draw, linear_scale, log_scale, swatch, thin
from model.evaluation.report_tables import models, tasks
from model.evaluation.scoring import MAIN_PROTOCOL

MOST_CURVES = 6
"""Plots of loss curves: the attacks of the suite at the budget where most of them ran."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A drawn plot, the entries of its legend as (swatch, name), and a caption."""

    svg: str
    legend: tuple[tuple[str, str], ...]
    caption: str
    identity: str


def figures(report: Row) -> list[Figure]:
    """All plots that the rows can fill: over the budget, over steps, over black-box queries, loss curves."""
    found: list[Plot] = []
    for task in tasks(report):
        found += [plot for norm in ("linf", "l2") if (plot := over_budget(report, task, norm))]
        found += over_steps(report, task)
    found += over_queries(report)
    found += loss_curves(report)
    return [_figure(plot, f"plot{place}") for place, plot in enumerate(found, start=1)]


def over_budget(report: Row, task: str, norm: str) -> Plot | None:
    """Worst case per query of every model against the budget, clean at 0; None for fewer than two budgets."""
    cases = [
        case
        for case in report["worst_case"]
        if (case["task"], case["norm"], case["protocol"]) == (task, norm, MAIN_PROTOCOL)
        and case["map"] is not None
    ]
    lines = []
    for style, label in enumerate(models(report)):
        own = sorted((case for case in cases if case["model"] == label), key=lambda case: case["eps"])
        if own:
            clean = 100 * own[0]["clean_map"]
            points = [(_size(norm, case["eps"]), 100 * case["map"]) for case in own]
            band = [(100 * case["lo"], 100 * case["hi"]) for case in own]
            lines.append(Line(label, ((0.0, clean), *points), ((clean, clean), *band), style))
    if len({x for line in lines for x, _ in line.points}) < 3:
        return None
    name = "budget, L∞, in 1/255" if norm == "linf" else f"budget, {words.norm_name(norm)}"
    x = log_scale(name, (x for line in lines for x, _ in line.points))
    title = f"{words.task_name(task)}: worst case against the {words.norm_name(norm)} budget"
    return _map_plot(title, x, lines, _chance(report, task))


def _size(norm: str, eps: float) -> float:
    """Where a budget stands on the axis: L-inf in levels of 1/255, where report.json rounds eps."""
    return round(255 * eps, 2) if norm == "linf" else eps


def over_steps(report: Row, task: str) -> list[Plot]:
    """MAP against an attack's steps, one line a model: a plot for each attack whose steps were varied."""
    rows = [row for row in _main(report, task) if row["purpose"] == "steps"]
    plots = []
    for (attack, size), own in _by_attack(rows).items():
        lines = []
        for style, label in enumerate(models(report)):
            found = {row["steps"]: 100 * row["map"] for row in own if row["model"] == label}
            if found:
                lines.append(Line(label, tuple(sorted(found.items())), style=style))
        x = log_scale("steps", (float(x) for line in lines for x, _ in line.points))
        title = f"{words.task_name(task)}: {attack} at {size} with more steps"
        plots.append(_map_plot(title, x, lines, _chance(report, task)))
    return plots


def over_queries(report: Row) -> list[Plot]:
    """Objective of black-box attacks against the queries they spent: one plot an attack."""
    rows = [row for row in _curved(report) if row["purpose"] == "black-box"]
    return [
        _curves(report, own, f"{attack}, {budget}: objective against queries", "queries")
        for (attack, budget), own in _by_attack(rows).items()
    ]


def loss_curves(report: Row) -> list[Plot]:
    """Objective of the suite's gradient attacks against their steps, at the budget where most of them ran."""
    rows = [row for row in _curved(report) if row["purpose"] == "suite" and row["steps"] > 1]
    if not rows:
        return []
    sizes: dict[tuple[str, float], set[str]] = {}
    for row in rows:
        sizes.setdefault((row["norm"], row["eps"]), set()).add(row["attack"])
    widest = max(sizes, key=lambda pair: (len(sizes[pair]), -abs(pair[1] - 8 / 255)))
    chosen = [row for row in rows if (row["norm"], row["eps"]) == widest]
    return [
        _curves(report, own, f"{attack}, {budget}: objective against steps", "steps")
        for (attack, budget), own in list(_by_attack(chosen).items())[:MOST_CURVES]
    ]


def _curved(report: Row) -> list[Row]:
    """Rows with a curve: of each attack of a model at one budget and purpose the one that tried hardest."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in report["rows"]:
        if row["protocol"] == MAIN_PROTOCOL and any(row["curve"]):
            key = tuple(row[name] for name in ("model", "attack", "norm", "eps", "purpose"))
            if key not in found or _tries(found[key]) < _tries(row):
                found[key] = row
    return list(found.values())


def _tries(row: Row) -> int:
    tries: int = max(row["steps"] * row["restarts"], row["queries"])
    return tries


def _by_attack(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["attack"], words.budget(row["norm"], row["eps"])), []).append(row)
    return found


def _curves(report: Row, rows: Sequence[Row], title: str, unit: str) -> Plot:
    order = models(report)
    lines = []
    for row in rows:
        curve = max(row["curve"], key=lambda restart: restart[-1])
        step = row[unit] / max(1, len(curve) - 1)
        points = thin([(step * place, value) for place, value in enumerate(curve)])
        lines.append(Line(row["model"], points, style=order.index(row["model"])))
    last = max(1.0, *(x for line in lines for x, _ in line.points))
    x = log_scale(unit, [last, *(10.0**power for power in range(8) if 10**power <= last)])
    y = linear_scale("objective", [y for line in lines for _, y in line.points], from_zero=False)
    return Plot("", title, x, y, tuple(lines))


def _main(report: Row, task: str) -> list[Row]:
    return [
        row
        for row in report["rows"]
        if (row["task"], row["protocol"]) == (task, MAIN_PROTOCOL) and row["map"] is not None
    ]


def _chance(report: Row, task: str) -> list[Level]:
    """Chance of the task as a level; one for each when models differ in it."""
    values = {row["chance"] for row in _main(report, task) if row["attack"] == "none"} - {None}
    return [Level("chance", 100 * value) for value in sorted({round(value, 4) for value in values})]


def _map_plot(title: str, x: Scale, lines: Sequence[Line], levels: Sequence[Level]) -> Plot:
    values = [y for line in lines for _, y in line.points] + [level.value for level in levels]
    values += [high for line in lines for _, high in line.band]
    return Plot("", title, x, linear_scale("mAP, per cent", values), tuple(lines), tuple(levels))


def _figure(plot: Plot, identity: str) -> Figure:
    named = Plot(identity, plot.title, plot.x, plot.y, plot.lines, plot.levels)
    legend = [(swatch(line.style), line.name) for line in plot.lines]
    legend += [(swatch(None), f"{level.name} ({level.value:.1f})") for level in plot.levels]
    return Figure(draw(named), tuple(legend), plot.title, identity)
