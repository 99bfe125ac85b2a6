"""What `hashguard evaluate` does: check the command line, run the units, judge them, write the report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from model.attacks.subjects import Subject, load_subject
from model.attacks.wordnet import read_thesaurus
from model.data.console import errors_end_the_command, show_json, show_line
from model.data.manifest import read_manifest
from model.errors import DataError, ModelError, RecipeError, UnknownName
from model.evaluation.assembly import Judged, assemble
from model.evaluation.evidence import ModelEvidence, write_whole
from model.evaluation.gates import check
from model.evaluation.plan import Cast, UsageError, twin_specs
from model.evaluation.probes import run_probes
from model.evaluation.profiles import Profile, default_queries, needs_surrogate, profile
from model.evaluation.recording import REPORT, record
from model.evaluation.report import write_html
from model.evaluation.runner import Session, evaluate_model
from model.evaluation.specs import AttackSpec
from model.evaluation.stage import Contender, Setting, choose_queries
from model.evaluation.store import UNITS, UnitStore
from model.evaluation.watching import Terminal, terminal
from model.training.stopping import Stopped, listening

PAGE = "report.html"
USAGE = 2


@dataclass(frozen=True)
class Order:
    """The command line."""

    data: Path
    models: list[Path]
    out: Path
    attacks: str
    resume: bool
    twin: Path | None
    surrogates: list[Path]
    queries: int | None
    wordnet: Path | None
    seed: int
    device: str
    record: bool = False


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything read and checked before the first unit runs."""

    order: Order
    cast: Cast
    setting: Setting
    profile: Profile


def launch(options: Mapping[str, Any], *, as_json: bool) -> None:
    """Run the command; ends the process by typer.Exit unless every gate holds."""
    order = Order(**{field.name: options[field.name] for field in fields(Order)})
    with errors_end_the_command(), _usage():
        prepared = prepare(order)
        _claim(order.out, resume=order.resume)
        with _stopping() as wish, terminal(wish, len(order.models), quiet=as_json) as watch:
            report = run(prepared, watch)
        path = order.out / REPORT
        write_whole(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode("utf-8"))
        write_html(report, order.out / PAGE)
    holds = all(entry["holds"] for entry in report["checks"])
    refused = _record(report, order.models) if order.record else None
    _show(report, order.out, recorded=order.record and refused is None, as_json=as_json)
    if refused is not None:
        typer.echo(f"error: {refused}", err=True)
    if refused is not None or not holds:
        raise typer.Exit(1)


def prepare(order: Order) -> Prepared:
    """Read models and data and settle what is to be run. Raises UsageError and whatever reading raises."""
    _check_names(order.attacks)
    if not order.models:
        raise UsageError("--model: wanted at least one model, got none")
    cast = Cast(
        tuple(load_subject(folder, order.device) for folder in order.models),
        None if order.twin is None else load_subject(order.twin, order.device),
        tuple(load_subject(folder, order.device) for folder in order.surrogates),
    )
    manifest = read_manifest(order.data)
    wanted = order.queries or default_queries(order.attacks)
    queries = choose_queries(manifest, cast.everyone, wanted)
    if not queries:
        raise DataError("wanted labelled items of split query that every model can read, got none")
    chosen = profile(order.attacks, len(queries))
    _check_surrogates(cast, chosen)
    thesaurus = None if order.wordnet is None else read_thesaurus(order.wordnet)
    return Prepared(order, cast, Setting(manifest, queries, order.seed, thesaurus), chosen)


def run(prepared: Prepared, watch: Terminal) -> dict[str, Any]:
    """Run all units, the probes and the gates; the dict of report.json. Raises Stopped."""
    session = Session(UnitStore.open(prepared.order.out), watch)
    cast, specs = prepared.cast, prepared.profile.specs
    evidences = [
        _evaluate(prepared, subject, label, specs, session)
        for subject, label in zip(cast.subjects, cast.labels(), strict=True)
    ]
    known = {own.digest: own for own in evidences}
    if cast.twin is not None and cast.twin.digest not in known:
        label = "undefended twin"
        known[cast.twin.digest] = _evaluate(prepared, cast.twin, label, twin_specs(specs), session)
    judged = []
    for own in evidences:
        watch.judging(own.label)
        own.facts.update(run_probes(own))
        twin = cast.twin_of(own.subject)
        evidence = None if twin is None else known[twin.digest]
        checks, missing = check(own, evidence, strict=prepared.profile.name == "full")
        judged.append(Judged(own, tuple(checks), tuple(missing), evidence))
    if session.store and session.store.damaged:
        judged[0].evidence.notes.append(
            f"{len(session.store.damaged)} damaged unit files were not believed and done again"
        )
    return assemble(judged, prepared.profile, prepared.setting, _command(prepared.order))


def _evaluate(
    prepared: Prepared, subject: Subject, label: str, specs: Sequence[AttackSpec], session: Session
) -> ModelEvidence:
    contender = Contender(label, subject, prepared.cast.surrogates_of(subject))
    return evaluate_model(contender, specs, prepared.setting, session=session)


def _check_names(attacks: str) -> None:
    """Refuse a bad --attacks before anything is read."""
    try:
        profile(attacks, 1)
    except (RecipeError, UnknownName) as error:
        raise UsageError(f"--attacks: {error}") from error


def _check_surrogates(cast: Cast, chosen: Profile) -> None:
    """Transfer belongs to a claim: only quick, and lists of names, may do without a surrogate."""
    if chosen.name not in ("standard", "full") or not needs_surrogate(chosen):
        return
    for subject, label in zip(cast.subjects, cast.labels(), strict=True):
        if subject.preprocessing is not None and not cast.surrogates_of(subject):
            raise UsageError(
                f"{label}: the profile {chosen.name} attacks by transfer and wants an independently trained "
                "model: give --surrogate DIR or a second --model"
            )


def _claim(out: Path, *, resume: bool) -> None:
    """Refuse a folder that holds something else than a begun evaluation. Raises DataError."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError(f"--out: wanted a folder, {out} is a file or a link")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not resume:
        raise DataError(f"wanted a new or empty folder, {out} holds files; --resume continues an evaluation")
    if not (out / UNITS).is_dir():
        raise DataError(f"--resume: wanted a folder with a begun evaluation, {out} holds something else")


@contextmanager
def _stopping() -> Iterator[Any]:
    with listening() as wish:
        try:
            yield wish
        except Stopped as stop:
            typer.echo(f"{stop}; the same command with --resume continues", err=True)
            raise typer.Exit(128 + stop.signum) from stop


@contextmanager
def _usage() -> Iterator[None]:
    """Wrong usage ends with status 2."""
    try:
        yield
    except UsageError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USAGE) from error


def _command(order: Order) -> str:
    """The command as anyone can run it: folders by their names, not by where they lie here."""
    words = ["hashguard", "evaluate", "--data", order.data.resolve().name]
    for folder in order.models:
        words += ["--model", short(folder)]
    words += ["--attacks", order.attacks, "--out", order.out.name, "--seed", str(order.seed)]
    if order.twin:
        words += ["--twin", short(order.twin)]
    for folder in order.surrogates:
        words += ["--surrogate", short(folder)]
    if order.queries:
        words += ["--queries", str(order.queries)]
    if order.wordnet:
        words += ["--wordnet", order.wordnet.name]
    return shlex.join(words)


def short(folder: Path) -> str:
    """The last two parts of a model's folder: name and version."""
    return "/".join(folder.resolve().parts[-2:])


def _record(report: Mapping[str, Any], folders: Sequence[Path]) -> Exception | None:
    """Record the figures in the models; why that was refused, None when it was done."""
    try:
        record(report, folders)
    except (ModelError, OSError) as error:
        return error
    return None


def _show(report: Mapping[str, Any], out: Path, *, recorded: bool, as_json: bool) -> None:
    failed = [entry for entry in report["checks"] if not entry["holds"]]
    if as_json:
        shown = {name: report[name] for name in ("worst_case", "checks", "pairs", "left_out")}
        show_json({"folder": str(out), "holds": not failed, "recorded": recorded, **shown})
        return
    for case in report["worst_case"]:
        if case["protocol"] == "train+database" and case["norm"] in ("linf", "text"):
            show_line(_line(case))
    for entry in failed:
        show_line(f"FAILED {entry['model']}: {entry['name']}: {entry['detail']}")
    show_line(f"{len(report['checks']) - len(failed)} of {len(report['checks'])} gates hold")
    if recorded:
        show_line("recorded in the models: robustness.json and their cards")
    show_line(str(out / PAGE))


def _line(case: Mapping[str, Any]) -> str:
    budget = f"{case['eps'] * 255:g}/255" if case["norm"] == "linf" else "words, typos"
    figures = [case[name] for name in ("clean_map", "map", "lo", "hi", "chance")]
    if None in figures:
        return f"{case['model']} {case['task']} {budget}: no query counts"
    clean, worst, low, high, chance = figures
    return (
        f"{case['model']} {case['task']} {budget}: worst case {worst:.3f} ({low:.3f} to {high:.3f}), "
        f"clean {clean:.3f}, chance {chance:.3f}"
    )
