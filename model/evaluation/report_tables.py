"""Tables of a report: rows and worst cases of report.json arranged so that models stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.evaluation import report_words as words
from model.evaluation.scoring import MAIN_PROTOCOL, PROTOCOLS, TASKS

STRICT_PROTOCOL = next(name for name in PROTOCOLS if name != MAIN_PROTOCOL)
APART = ("natural", "candidate")
"""Purposes with tables of their own: they are no attacks on the query."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One mAP. strict: under the strict protocol. fallen: at or below chance. lo, hi: its interval."""

    value: float | None
    lo: float | None = None
    hi: float | None = None
    strict: float | None = None
    fallen: bool = False


EMPTY = Cell(None)


@dataclass(frozen=True)
class Line:
    """A row of a table: what it is about, a remark on it, its cells."""

    name: str
    remark: str
    cells: tuple[Cell, ...]
    protocol: str = ""
    n: str = ""
    mean_of_minima: bool = False


@dataclass(frozen=True)
class Group:
    """Rows under one heading, as all attacks of one budget."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """A table of one task: names over the columns (spanned: the row above them), and the groups of rows."""

    task: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    spans: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class PairLine:
    """Differences of the worst case of `a` minus that of `b` on one task, by budget."""

    a: str
    b: str
    task: str
    cells: tuple[Row | None, ...]


@dataclass(frozen=True)
class PairTable:
    """All differences; columns and spans as in `Table`."""

    columns: tuple[str, ...]
    spans: tuple[tuple[str, int], ...]
    lines: tuple[PairLine, ...]


def tasks(report: Row) -> list[str]:
    """The tasks that the report has rows of, in the usual order."""
    present = {row["task"] for row in (*report["rows"], *report["worst_case"])}
    return [task for task in TASKS if task in present] + sorted(present - set(TASKS))


def models(report: Row) -> list[str]:
    """Labels of the models, in the order of the report."""
    return [entry["label"] for entry in report["models"]]


def budgets(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Each (norm, eps) there is, by norm in the usual order and by eps."""
    order = list(words.NORMS)
    found = {(row["norm"], row["eps"]) for row in rows}
    place = {norm: order.index(norm) if norm in order else len(order) for norm, _ in found}
    return sorted(found, key=lambda pair: (place[pair[0]], pair))


def worst_table(report: Row, task: str) -> Table:
    """Models and protocols x (clean, worst case at every budget with its interval, chance)."""
    cases = [case for case in report["worst_case"] if case["task"] == task and case["norm"] != "natural"]
    columns = budgets(cases)
    groups = []
    for label in models(report):
        own = [case for case in cases if case["model"] == label]
        lines = [_worst_line(own, protocol, columns) for protocol in PROTOCOLS]
        groups.append(Group(label, tuple(line for line in lines if line is not None)))
    names = tuple(words.budget(*pair) for pair in columns)
    return Table(task, names, tuple(group for group in groups if group.lines), _spans(columns))


def attack_table(report: Row, task: str) -> Table:
    """Attacks by budget x models; the last row of each budget is the worst case over all of them."""
    rows = [row for row in report["rows"] if row["task"] == task and row["purpose"] not in APART]
    names = models(report)
    clean = [row for row in rows if row["attack"] == "none"]
    groups = [Group("no attack", tuple(_attack_lines(clean, names)))]
    attacks = [row for row in rows if row["attack"] != "none"]
    cases = [case for case in report["worst_case"] if case["task"] == task and case["norm"] not in APART]
    for norm, eps in budgets([*attacks, *cases]):
        own = [row for row in attacks if (row["norm"], row["eps"]) == (norm, eps)]
        least = [case for case in cases if (case["norm"], case["eps"]) == (norm, eps)]
        lines = [*_attack_lines(own, names), *_minima_lines(least, names)]
        groups.append(Group(f"{words.norm_name(norm)}, {words.budget(norm, eps)}", tuple(lines)))
    return Table(task, tuple(names), tuple(group for group in groups if group.lines))


def natural_table(report: Row, task: str) -> Table | None:
    """Natural corruptions and models x severities; None when none was run."""
    rows = [row for row in report["rows"] if row["task"] == task and row["norm"] == "natural"]
    if not rows:
        return None
    severities = sorted({row["eps"] for row in rows})
    groups = []
    for attack in dict.fromkeys(row["attack"] for row in rows):
        lines = []
        for label in models(report):
            cells = tuple(
                _cell(
                    [row for row in rows if (row["model"], row["attack"], row["eps"]) == (label, attack, s)]
                )
                for s in severities
            )
            if any(cell.value is not None for cell in cells):
                lines.append(Line(label, "", cells))
        groups.append(Group(attack.partition(":")[2], tuple(lines)))
    return Table(task, tuple(f"severity {severity:g}" for severity in severities), tuple(groups))


def pair_table(report: Row) -> PairTable:
    """Pairs of models and tasks x budgets, main protocol; a pair without a difference leaves a gap."""
    pairs = [
        pair
        for pair in report["pairs"]
        if pair["protocol"] == MAIN_PROTOCOL and None not in (pair["difference"], pair["lo"], pair["hi"])
    ]
    columns = budgets(pairs)
    lines = []
    for a, b, task in dict.fromkeys((pair["a"], pair["b"], pair["task"]) for pair in pairs):
        own = {
            (pair["norm"], pair["eps"]): pair
            for pair in pairs
            if (pair["a"], pair["b"], pair["task"]) == (a, b, task)
        }
        lines.append(PairLine(a, b, task, tuple(own.get(column) for column in columns)))
    names = tuple(words.budget(*column) for column in columns)
    return PairTable(names, _spans(columns), tuple(lines))


def effect_lines(report: Row, label: str) -> list[Row]:
    """One row for each attack of a model: what it does to the code and to the picture, and what it costs."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in report["rows"]:
        if row["model"] == label and row["attack"] != "none" and row["protocol"] == MAIN_PROTOCOL:
            found.setdefault((row["norm"], row["eps"], *_what(row)), row)
    return list(found.values())


def _spans(columns: Sequence[tuple[str, float]]) -> tuple[tuple[str, int], ...]:
    """Names of norms and over how many columns each stands."""
    counts: dict[str, int] = {}
    for norm, _ in columns:
        counts[words.norm_name(norm)] = counts.get(words.norm_name(norm), 0) + 1
    return tuple(counts.items())


def _worst_line(cases: Sequence[Row], protocol: str, columns: Sequence[tuple[str, float]]) -> Line | None:
    own = {(case["norm"], case["eps"]): case for case in cases if case["protocol"] == protocol}
    if not own:
        return None
    any_case = next(iter(own.values()))
    clean, chance = Cell(any_case["clean_map"]), Cell(any_case["chance"])
    cells = tuple(_interval(own[pair]) if pair in own else EMPTY for pair in columns)
    row = (clean, *cells, chance)
    return Line(any_case["model"], any_case["defence"], row, protocol, f"{any_case['n']:,}")


def _interval(case: Row, strict: Row | None = None) -> Cell:
    fallen = _fallen(case)
    return Cell(case["map"], case["lo"], case["hi"], strict["map"] if strict else None, fallen)


def _fallen(row: Row) -> bool:
    return row["map"] is not None and row["chance"] is not None and row["map"] <= row["chance"]


def _attack_lines(rows: Sequence[Row], names: Sequence[str]) -> list[Line]:
    """A line per attack and effort, in the order of the rows."""
    lines = []
    for key in dict.fromkeys(_what(row) for row in rows):
        same = [row for row in rows if _what(row) == key]
        cells = tuple(_cell([row for row in same if row["model"] == name]) for name in names)
        lines.append(Line(same[0]["attack"], words.effort(same[0]), cells, n=_span([r["n"] for r in same])))
    return lines


def _what(row: Row) -> tuple[Any, ...]:
    return (row["attack"], row["steps"], row["restarts"], row["queries"], row["purpose"])


def _minima_lines(cases: Sequence[Row], names: Sequence[str]) -> list[Line]:
    if not cases:
        return []
    cells = []
    for name in names:
        own = {case["protocol"]: case for case in cases if case["model"] == name}
        main, strict = own.get(MAIN_PROTOCOL), own.get(STRICT_PROTOCOL)
        cells.append(_interval(main, strict) if main else EMPTY)
    counts = _span([case["n"] for case in cases])
    return [Line("worst case per query", "mean of minima", tuple(cells), n=counts, mean_of_minima=True)]


def _cell(rows: Sequence[Row]) -> Cell:
    """The mAP of one attack on one model under both protocols."""
    by_protocol = {row["protocol"]: row for row in rows}
    main, strict = by_protocol.get(MAIN_PROTOCOL), by_protocol.get(STRICT_PROTOCOL)
    if main is None:
        return EMPTY
    return Cell(main["map"], strict=strict["map"] if strict else None, fallen=_fallen(main))


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
