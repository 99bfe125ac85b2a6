"""`hashguard attack`: adversarial images as PNG files, or changed texts, in a manifest folder of their own.

The folder can be uploaded, trained on or attacked again; `attack.json` in it says what was done to what and
with which model, and that the files really obey the budget.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from model.attacks.base import Target
from model.attacks.batches import Batching, attack_in_batches
from model.attacks.knowledge import Knowledge
from model.attacks.mainstay import signs
from model.attacks.registry import (
    OBJECTIVES,
    TEXT_METHODS,
    Effort,
    build_attack,
    build_text_attack,
)
from model.attacks.relaxation import Relaxation
from model.attacks.rounding import check_budget, quantise, to_png
from model.attacks.subjects import Subject, knowledge_of, load_subject, with_both
from model.attacks.text_attacks import TextOutcome
from model.attacks.text_limits import SubstitutionRule, label_words
from model.attacks.text_model import TextModel, neighbourhood
from model.attacks.threat import Norm, Threat, parse_eps
from model.attacks.victims import ImageModel
from model.attacks.wordnet import Thesaurus, read_thesaurus
from model.data.console import errors_end_the_command, show_json, show_line
from model.data.folders import ManifestWriter, new_folder, write_json
from model.data.lines import Fields
from model.data.manifest import Manifest, Record, read_manifest
from model.data.progress import progress_bar
from model.errors import DataError, UnknownName

FORMAT = 1

Split = StrEnum("Split", ["train", "database", "query"])
NormName = StrEnum("NormName", ["linf", "l2"])

NORM_OF: dict[NormName, Norm] = {NormName("linf"): "linf", NormName("l2"): "l2"}


@dataclass(frozen=True, eq=False)
class Job:
    """What to attack: a model, its queries, what the attacker knows of them, and the seed."""

    subject: Subject
    manifest: Manifest
    queries: list[Record]
    knowledge: Knowledge
    seed: int

    def generator(self, stream: int) -> torch.Generator:
        """Randomness of one use; `stream` keeps the uses apart."""
        return torch.Generator().manual_seed(self.seed + (stream << 32))

    def target(self, aim: str) -> Target:
        """The targets of all queries."""
        return OBJECTIVES[aim].target(self.knowledge, generator=self.generator(1))


def attack(
    model: Annotated[Path, typer.Option(help="Model directory.", metavar="DIR")],
    data: Annotated[Path, typer.Option(help="Manifest folder.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.", metavar="OUT")],
    name: Annotated[
        str,
        typer.Option(
            "--attack",
            help=f"An aim ({', '.join(OBJECTIVES)}), alone or after a method: fgsm, pgd, apgd, square, nes, "
            "ranks or noise for images, words or typos for texts, as in pgd:mainstay.",
        ),
    ] = "mainstay",
    eps: Annotated[str, typer.Option(help="Budget of images in units of [0, 1], as 8/255.")] = "8/255",
    norm: Annotated[NormName, typer.Option(help="Norm of the budget.")] = NormName("linf"),
    steps: Annotated[int | None, typer.Option(help="Steps of gradient attacks.", min=1)] = None,
    restarts: Annotated[int, typer.Option(help="Restarts of gradient attacks.", min=1)] = 1,
    queries: Annotated[int | None, typer.Option(help="Queries per item of black-box attacks.", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Attack only the first items.", min=1)] = None,
    split: Annotated[Split, typer.Option(help="Which items to attack.")] = Split("query"),
    wordnet: Annotated[
        Path | None,
        typer.Option(help="WordNet's files (Debian: wordnet-base); else label words stay.", metavar="DIR"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.", min=0, max=2**31)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Attack the items of a split: PNG files (or changed texts) ready to send, and attack.json."""
    with errors_end_the_command():
        started = time.monotonic()
        method, _, aim = name.rpartition(":")
        if aim not in OBJECTIVES:
            raise UnknownName("objective", aim, OBJECTIVES)
        side = "text" if method in TEXT_METHODS else "image"
        threat = Threat(NORM_OF[norm], parse_eps(eps))
        effort = Effort(steps=steps, restarts=restarts, queries=queries)
        job = _job(model, data, (split.value, limit, side), device, seed)
        with new_folder(out) as folder:
            if side == "text":
                report = _attack_texts(job, folder, method, aim, wordnet)
            else:
                report = _attack_images(job, folder, name, threat, effort, quiet=as_json)
            report |= {"seconds": round(time.monotonic() - started, 1), "command": sys.argv[1:]}
            write_json(folder / "attack.json", report)
        _show(report, out, as_json=as_json)


def _job(model: Path, data: Path, wanted: tuple[str, int | None, str], device: str, seed: int) -> Job:
    split, limit, side = wanted
    subject = load_subject(model, device)
    manifest = read_manifest(data)
    records = with_both([r for r in manifest.records if r.split == split], subject)[:limit]
    return Job(subject, manifest, records, knowledge_of(subject, manifest, records, side, seed=seed), seed)


def _attack_images(
    job: Job, folder: Path, name: str, threat: Threat, effort: Effort, *, quiet: bool
) -> dict[str, Any]:
    """Make the files; the entries of attack.json."""
    if name.startswith("ranks:"):
        database = with_both(job.manifest.of_split("database"), job.subject)
        if not database:
            raise DataError("the ranks attack needs items of split database to be ranked, got none")
        effort = Effort(queries=effort.queries, gallery=job.subject.image_codes(database))
    attacker = build_attack(name, threat, effort)
    x = job.subject.images(job.queries)
    model_fn = ImageModel(job.subject.hasher)
    with progress_bar("attacking", quiet=quiet) as progress:
        outcome = attack_in_batches(
            attacker,
            model_fn,
            x,
            job.target(attacker.objective.name),
            generator=job.generator(2),
            batching=Batching(progress=progress),
        )
    sent = quantise(outcome.x_adv, x, threat)
    budget = check_budget(sent, x, threat)
    if not budget.holds:
        raise DataError(f"the files would not obey the budget {threat}: {budget}")
    codes = _codes(model_fn, sent)
    with ManifestWriter(folder) as writer:
        for record, image in zip(job.queries, sent, strict=True):
            path = writer.write_image(record.id, ".png", to_png(image))
            writer.write(_fields(record, path, record.texts))
    sizes = (sent - x).flatten(1)
    items = [
        _item(record, job.knowledge.clean[row], codes[row])
        | {"linf": float(sizes[row].abs().max()), "l2": float(sizes[row].norm()), "queries": int(spent)}
        for row, (record, spent) in enumerate(zip(job.queries, outcome.queries, strict=True))
    ]
    done = {"threat": asdict(threat), "budget": asdict(budget), "effort": _effort(effort, attacker)}
    figures = {"never_a_gradient": outcome.never_a_gradient, "saturated": float(outcome.saturated.mean())}
    return _report(job, attacker.name, items) | done | figures


def _attack_texts(job: Job, folder: Path, method: str, aim: str, wordnet: Path | None) -> dict[str, Any]:
    """Write the changed first text of every item; the entries of attack.json."""
    model = TextModel(job.subject.hasher, job.subject.text_codec())
    thesaurus = None if wordnet is None else read_thesaurus(wordnet)
    rule = _substitution(job, model, thesaurus) if method == "words" else None
    attacker = build_text_attack(f"{method}:{aim}", rule)
    texts = [record.texts[0] for record in job.queries]
    outcome = attacker(model, texts, job.target(aim), generator=job.generator(2))
    broken = outcome.broken(attacker.rule)
    if broken:
        raise DataError(f"a changed text is outside its limits: {broken[0]}")
    codes = job.subject.text_codes(outcome.texts)
    with ManifestWriter(folder) as writer:
        for record, text in zip(job.queries, outcome.texts, strict=True):
            writer.write(_fields(record, None, (text,)))
    items = [
        _item(record, job.knowledge.clean[row], codes[row]) | _change(outcome, row)
        for row, record in enumerate(job.queries)
    ]
    notes = [rule.note] if rule else []
    return _report(job, attacker.name, items) | {"limits": "max(1, 20 %) of the words", "notes": notes}


def _substitution(job: Job, model: TextModel, thesaurus: Thesaurus | None) -> SubstitutionRule:
    corpus = [text for record in job.manifest.of_split("train") for text in record.texts]
    labels = label_words(job.manifest.label_names, thesaurus)
    return SubstitutionRule(labels, neighbourhood(model, corpus), thesaurus)


def _codes(model_fn: ImageModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([signs(model_fn(part)) for part in torch.split(x, 256)])


def _fields(record: Record, image: str | None, texts: tuple[str, ...]) -> Fields:
    return Fields(record.id, image, texts, record.labels, record.split, dict(record.metadata))


def _item(record: Record, clean: Tensor, code: Tensor) -> dict[str, Any]:
    """What became of one item; codes as 0/1 strings, bit 0 first."""
    before, after = ("".join("1" if bit > 0 else "0" for bit in c.tolist()) for c in (clean, code))
    flips = sum(a != b for a, b in zip(before, after, strict=True))
    return {"id": record.id, "flipped": flips, "code_before": before, "code_after": after}


def _change(outcome: TextOutcome, row: int) -> dict[str, Any]:
    return {
        "before": outcome.original[row],
        "after": outcome.texts[row],
        "words_changed": int(outcome.changed[row]),
        "queries": int(outcome.queries[row]),
    }


def _effort(effort: Effort, attacker: object) -> dict[str, Any]:
    """The effort as it was spent: the attack's own numbers where it has them."""
    relaxation: Relaxation = effort.relaxation
    wanted = ("steps", "restarts", "queries", "draws")
    spent = {key: getattr(attacker, key) for key in wanted if hasattr(attacker, key)}
    return spent | {"relaxation": relaxation.kind}


def _report(job: Job, name: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    card = job.subject.card
    flipped = [item["flipped"] for item in items]
    return {
        "format": FORMAT,
        "attack": name,
        "seed": job.seed,
        "model": {"name": card.name, "version": card.version, "digest": card.digest, "bits": card.bits},
        "items": items,
        "mean_flipped": sum(flipped) / len(flipped),
    }


def _show(report: dict[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        show_json({key: value for key, value in report.items() if key != "items"} | {"folder": str(out)})
        return
    bits = report["model"]["bits"]
    show_line(
        f"{len(report['items'])} items, {report['attack']}: {report['mean_flipped']:.1f} of {bits} bits"
    )
    for note in report.get("notes", []):
        show_line(note)
    show_line(f"{out}")
