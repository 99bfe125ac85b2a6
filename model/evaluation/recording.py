"""From report.json to an artefact's robustness.json: figures of a model whose judged gates all hold.

No torch here: `hashguard model record` must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.artefact import ModelCard, read_card, record_robustness
from model.artefact_checks import read_object
from model.durable import read_file
from model.errors import ArtefactError, DataError
from model.robustness import Robustness, build_robustness

REPORT = "report.json"
REPORT_FORMAT = 1
MAX_REPORT_BYTES = 64_000_000
NO_ATTACK = ("clean", "natural")
"""Purposes of rows that no attacker made."""
_GATE = "gate "

Report = Mapping[str, Any]
Rows = list[Mapping[str, Any]]


def read_report(path: Path) -> Report:
    """report.json, given by its own path or by its folder; raises DataError."""
    file = path / REPORT if path.is_dir() else path
    try:
        found = read_object(read_file(file, MAX_REPORT_BYTES), str(file), MAX_REPORT_BYTES)
    except ArtefactError as error:
        raise DataError(f"report: {error}") from error
    if found.get("format") != REPORT_FORMAT:
        raise DataError(f"{file}: wanted a report of format {REPORT_FORMAT}, got {found.get('format')!r}")
    return found


def record(report: Report, folders: Iterable[Path]) -> list[ModelCard]:
    """Record what the report says of the models in `folders`: of all of them, or of none.

    Raises DataError for gates that do not hold and for a report without the models or with figures missing,
    ArtefactError for damaged models, OSError. When a disk fails between two models the first one is recorded.
    """
    cards = [read_card(folder) for folder in folders]
    entries = [_entry(report, card) for card in cards]
    _refuse_failed(report, [_get(entry, "label", str, "models") for entry in entries])
    found = [robustness_of(report, entry, card) for entry, card in zip(entries, cards, strict=True)]
    return [record_robustness(card.folder, one) for card, one in zip(cards, found, strict=True)]


def failed_gates(report: Report, labels: Iterable[str]) -> list[str]:
    """The gates that do not hold for these models, as "model: gate". Raises DataError."""
    return [
        f"{label}: {_get(check, 'name', str, 'checks')}"
        for label in labels
        for check in _of(report, "checks", label)
        if not _get(check, "holds", bool, "checks")
    ]


def robustness_of(report: Report, entry: Mapping[str, Any], card: ModelCard) -> Robustness:
    """The content of robustness.json of the model that is `entry` among the report's models.

    Rows without a figure (no query counted) are left away. Raises DataError.
    """
    label = _get(entry, "label", str, "models")
    threat, left = _get(report, "threat", dict, "report"), _left_out(report, label)
    twin = entry.get("twin")
    table = {
        "format": 1,
        "model": {"name": card.name, "version": card.version, "digest": card.digest},
        "data": _picked(_get(report, "data", dict, "report"), _DATA),
        "threat": _picked(threat, _THREAT),
        "profile": threat.get("profile"),
        "seed": _seed(threat.get("seed")),
        "command": threat.get("command"),
        "twin": twin.get("digest") if isinstance(twin, dict) else None,
        "attacks": _attacks(_of(report, "rows", label)),
        "clean": _clean(_get(entry, "clean", dict, "models")),
        "worst_case": _measured(_picked(row, _CASE) for row in _of(report, "worst_case", label)),
        "gates": {
            **_held(_of(report, "checks", label)),
            "not_judged": [
                {"name": row["name"].removeprefix(_GATE), "why": row["why"]}
                for row in left
                if row["name"].startswith(_GATE)
            ],
        },
        "not_run": [row for row in left if not row["name"].startswith(_GATE)],
        "versions": threat.get("versions"),
    }
    try:
        return build_robustness(table, f"report on {label}")
    except ArtefactError as error:
        raise DataError(str(error)) from error


_DATA = ("name", "fingerprint", "split_digest", "counts", "queries")
_THREAT = ("goals", "knowledge", "capability", "metric", "relevance", "ties", "intervals", "wordnet")
_CLEAN = ("map", "lo", "hi", "chance", "n")
_CASE = ("task", "protocol", "norm", "eps", *_CLEAN, "clean_map", "attacks")
_UNIT = ("attack", "side", "purpose", "norm", "eps", "steps", "restarts", "queries")


def _entry(report: Report, card: ModelCard) -> Mapping[str, Any]:
    """The report's entry of a model, found by its digest; raises DataError."""
    entries = _rows(report, "models")
    found = [entry for entry in entries if entry.get("digest") == card.digest]
    if len(found) != 1:
        got = ", ".join(f"{entry.get('label')} with {entry.get('digest')}" for entry in entries) or "none"
        raise DataError(
            f"{card.folder}: wanted a report on this model, {card.name}/{card.version} with the digest "
            f"{card.digest}; the report is on {got}"
        )
    return found[0]


def _refuse_failed(report: Report, labels: Sequence[str]) -> None:
    failed = failed_gates(report, labels)
    if failed:
        raise DataError(
            f"nothing is recorded: wanted every judged gate to hold, these do not: {', '.join(failed)}"
        )


def _held(checks: Rows) -> dict[str, Any]:
    names = [_get(check, "name", str, "checks") for check in checks if check.get("holds") is True]
    return {"judged": len(checks), "held": names}


def _left_out(report: Report, label: str) -> list[dict[str, Any]]:
    rows = _of(report, "left_out", label)
    return [{"name": _get(row, "what", str, "left_out"), "why": row.get("why")} for row in rows]


def _clean(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _measured(
        {
            "task": task,
            "protocol": protocol,
            **_picked(_get(protocols, protocol, dict, f"clean: {task}"), _CLEAN),
        }
        for task in table
        for protocols in [_get(table, task, dict, "clean")]
        for protocol in protocols
    )


def _attacks(rows: Rows) -> list[dict[str, Any]]:
    """Each attack once, though a report has a row for each task and protocol; n: the most inputs of them."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row.get("purpose") in NO_ATTACK:
            continue
        unit = _picked(row, _UNIT)
        count = _get(row, "n", int, "rows")
        known = found.setdefault(tuple(str(value) for value in unit.values()), {**unit, "n": count})
        known["n"] = max(known["n"], count)
    return list(found.values())


def _measured(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("map") is not None]


def _picked(table: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of the fields that are there; what is missing is named when the whole is checked."""
    return {name: table[name] for name in names if name in table}


def _of(report: Report, name: str, label: str) -> Rows:
    return [row for row in _rows(report, name) if row.get("model") == label]


def _rows(report: Report, name: str) -> Rows:
    found: Rows = _get(report, name, list, "report")
    for place, row in enumerate(found):
        if not isinstance(row, dict):
            raise DataError(f"report: {name}[{place}]: wanted an object, got {type(row).__name__}")
    return found


def _get(table: Mapping[str, Any], name: str, kind: type, where: str) -> Any:  # noqa: ANN401 - of type `kind`
    found = table.get(name)
    if not isinstance(found, kind):
        raise DataError(f"{where}: {name}: wanted {kind.__name__}, got {type(found).__name__}")
    return found


def _seed(value: object) -> object:
    """The report has it as text; what is no whole number is refused when the whole is checked."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value
