"""The steps of `hashguard retrain`: new data? train, judge, publish, have the service reindex.

Every step leaves its result on disk (model/retraining/work.py) and is passed over when that is there, so a
killed retraining goes on where it was. Until the last one the live model is not touched, and the last one is
the service's own: it swaps only to an index that is built and checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from model.artefact import ModelCard, find_model
from model.data.manifest import read_manifest
from model.errors import RetrainingError
from model.evaluation.evidence import write_whole
from model.evaluation.launch import Order as Evaluation
from model.evaluation.launch import prepare
from model.evaluation.launch import run as evaluate
from model.evaluation.plan import UNDEFENDED
from model.evaluation.recording import REPORT, record
from model.evaluation.report import write_html
from model.evaluation.watching import terminal
from model.retraining.floors import Floors, shortfalls
from model.retraining.live import Service
from model.retraining.work import Decision, Run, alone, key_of, resumable, trained
from model.training.config import Recipe, from_table, load_recipe, to_table
from model.training.display import Display, Terminal
from model.training.distributed import joined_world
from model.training.fit import Order as Training
from model.training.fit import default_name, fit
from model.training.stopping import Stopped, StopWish

WORK, MODELS, PAGE = "retrain", "models", "report.html"
TOWERS = ("image", "text")
"""How the names of a hasher's parameters begin."""
FIRST_RECIPE, FIRST_DEFENCE, FIRST_BITS = "default", UNDEFENDED, 64
"""What a first model is trained by when nothing is said; later ones are trained like the live one."""


@dataclass(frozen=True)
class Order:
    """The command line. What is None is taken from the live model (recipe, defence, bits, name)."""

    data: Path
    home: Path
    if_new_data: bool = False
    recipe: str | None = None
    defence: str | None = None
    bits: int | None = None
    name: str | None = None
    backbone: str | None = None
    seed: int | None = None
    epochs: int | None = None
    attacks: str = "quick"
    queries: int | None = None
    floors: Floors = field(default_factory=Floors)
    device: str = "auto"


@dataclass(frozen=True)
class Result:
    """What came of it: `served` is a new model, `unchanged` says in `why` that there was nothing to do."""

    outcome: Literal["served", "unchanged"]
    model: str | None
    why: str


def retrain(order: Order, service: Service, wish: StopWish) -> Result:
    """All steps, or those that are left.

    Raises RetrainingError (refused, or the service does not take it), Stopped, and what training and
    evaluation raise; the live model stays in each case.
    """
    with alone(order.home / WORK):
        live = _live_card(order.home / MODELS, service)
        fingerprint = read_manifest(order.data).fingerprint
        if order.if_new_data and live and live.manifest["training_data"].get("fingerprint") == fingerprint:
            return Result("unchanged", label_of(live), "the live model was trained on this very data")
        training = _training(order, live)
        job = _Job(order, live, training, _run_of(order, training, fingerprint), wish)
        known = job.run.decision()
        if known is not None and known.outcome != "accepted":
            if order.if_new_data and (why := job.passed_over(known)):
                return Result("unchanged", known.model, why)
            if not order.if_new_data:
                job.run.clear()
        if known is None or known.outcome != "accepted":
            known = job.judge(job.train())
        return _serve(job, known, service)


def label_of(card: ModelCard) -> str:
    """As "name/version"."""
    return f"{card.name}/{card.version}"


@dataclass(frozen=True, eq=False)
class _Job:
    """One retraining with everything that its steps need."""

    order: Order
    live: ModelCard | None
    training: Training
    run: Run
    wish: StopWish

    @property
    def judged(self) -> str:
        """Key of what a candidate is judged by."""
        order, live = self.order, self.live
        return key_of(
            {
                "live": None if live is None else live.digest,
                "attacks": [order.attacks, order.queries],
                "floors": asdict(order.floors),
            }
        )

    def passed_over(self, known: Decision) -> str:
        """Why a scheduled run has nothing to do on data that it has seen; "" when it has."""
        if known.outcome == "served":
            return f"this data gave {known.model}, which was served and has been replaced since"
        if known.judged == self.judged:
            return f"this data gave {known.model}, which was refused: {'; '.join(known.reasons)}"
        return ""  # another live model or other floors: the candidate is judged again

    def train(self) -> ModelCard:
        """The candidate; trained, or continued, unless it is there."""
        if (found := trained(self.run.models)) is not None:
            return found
        self.run.reserve(self.training.name, self.order.home / MODELS)
        return self._fit(replace(self.training, models=self.run.models))

    def twin(self) -> ModelCard | None:
        """The undefended model that shows that the attacks work; None for a candidate that is its own.

        It has the candidate's architecture and is trained on the same data by the same recipe, without the
        defence: attacks are believed only when they take it to chance (the gate works-on-twin).
        """
        if self.training.defence == UNDEFENDED:
            return None
        if (found := trained(self.run.twins)) is not None:
            return found
        recipe = undefended(self.training.recipe)
        return self._fit(
            replace(self.training, models=self.run.twins, defence=UNDEFENDED, recipe=recipe),
            "training the undefended twin, which shows that the attacks work",
        )

    def _fit(self, training: Training, why: str | None = None) -> ModelCard:
        """Train, from a checkpoint if there is one."""
        training = replace(training, resume=resumable(training.models, training.name))
        with joined_world(self.order.device) as world, Terminal() as display:
            if world.size > 1:
                raise RetrainingError(
                    f"wanted one process, got {world.size}: torchrun is for hashguard train"
                )
            if why is not None:
                display.say(why)
            fit(training, world, display, self.wish)
        return _present(trained(training.models))

    def judge(self, candidate: ModelCard) -> Decision:
        """Evaluate it beside the live model and write the decision; raises RetrainingError when refused."""
        report = self._evaluate(candidate)
        live = None if self.live is None else self.live.digest
        reasons = shortfalls(report, candidate.digest, live, self.order.floors)
        label = label_of(candidate)
        if not reasons:
            record(report, [candidate.folder])
        outcome: Literal["refused", "accepted"] = "refused" if reasons else "accepted"
        decision = Decision(outcome, label, candidate.digest, self.judged, reasons)
        self.run.decide(decision)
        if reasons:
            shown = self.run.evaluation(self.judged) / PAGE
            raise RetrainingError(
                f"{label} is refused, the live model stays: {'; '.join(reasons)} (figures: {shown})"
            )
        return decision

    def _evaluate(self, candidate: ModelCard) -> dict[str, Any]:
        out = self.run.evaluation(self.judged)
        order, twin = self.order, self.twin()
        wanted = Evaluation(
            data=order.data,
            models=[candidate.folder, *([] if self.live is None else [self.live.folder])],
            out=out,
            attacks=order.attacks,
            resume=True,
            twin=None if twin is None else twin.folder,
            surrogates=[],
            queries=order.queries,
            wordnet=None,
            seed=0,
            device=order.device,
        )
        with terminal(self.wish, len(wanted.models), quiet=False) as watch:
            report = evaluate(prepare(wanted), watch)
        write_whole(out / REPORT, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode("utf-8"))
        write_html(report, out / PAGE)
        return report


def _serve(job: _Job, decision: Decision, service: Service) -> Result:
    """Publish an accepted candidate and have the service take it in."""
    if job.live is None or job.live.digest != decision.digest:
        job.run.publish(decision, job.order.home / MODELS)
        with Terminal() as display:
            display.say(f"{decision.model} has passed the floors; the service reindexes")
            service.reindex(decision.model, _telling(display, job.wish))
        live = service.live()
        if live is None or live.digest != decision.digest:
            got = "nothing" if live is None else live.model
            raise RetrainingError(f"the reindex is done, wanted {decision.model} to be live, got {got}")
    job.run.decide(replace(decision, outcome="served"))
    return Result("served", decision.model, "it passed the floors, and its index is live")


def _telling(display: Display, wish: StopWish) -> Callable[[str, int, int], None]:
    """Shows how far the service is; a wish to stop ends the watching, the service's job goes on."""

    def tell(phase: str, done: int, total: int) -> None:
        display.progress(f"reindex: {phase}", done, total)
        if wish:
            raise Stopped(wish.signum, "stopped watching; the service's job goes on", resumable=True)

    return tell


def _live_card(models: Path, service: Service) -> ModelCard | None:
    """The live model's card; None when nothing is live. Raises RetrainingError, ArtefactError."""
    live = service.live()
    if live is None:
        return None
    card = find_model(models, live.model)
    if card.digest != live.digest:
        raise RetrainingError(
            f"{card.folder}: wanted the live model, digest {live.digest[:12]}, got {card.digest[:12]}: "
            "is --home the service's?"
        )
    return card


def _training(order: Order, live: ModelCard | None) -> Training:
    """What is to be trained: as the live model was, with the command line's changes. Raises RecipeError."""
    table = {} if live is None else live.manifest["defence"]
    bits = order.bits
    if bits is None:
        bits = FIRST_BITS if live is None else live.bits
    defence = order.defence or str(table.get("name", FIRST_DEFENCE))
    name = order.name or (default_name(order.data, defence, bits) if live is None else live.name)
    recipe = _recipe(order, table.get("recipe"))
    return Training(order.data, order.home / MODELS, name, bits, defence, recipe)


def _recipe(order: Order, lived: dict[str, Any] | None) -> Recipe:
    if order.recipe is not None:
        recipe = load_recipe(order.recipe)
    else:
        recipe = load_recipe(FIRST_RECIPE) if lived is None else from_table(lived)
    recipe = recipe.with_changes(seed=order.seed, epochs=order.epochs)
    return recipe if order.backbone is None else recipe.with_source(order.backbone)


def undefended(recipe: Recipe) -> Recipe:
    """The recipe without its defence, and without the rates of networks that only the defence has."""
    rates = {prefix: rate for prefix, rate in recipe.optimiser.rates.items() if prefix.startswith(TOWERS)}
    return replace(recipe, defence={}, optimiser=replace(recipe.optimiser, rates=rates))


def _run_of(order: Order, training: Training, fingerprint: str) -> Run:
    key = {
        "data": fingerprint,
        "recipe": to_table(training.recipe),
        "defence": training.defence,
        "bits": training.bits,
        "name": training.name,
    }
    return Run(order.home / WORK / key_of(key))


def _present(card: ModelCard | None) -> ModelCard:
    if card is None:
        raise RetrainingError("the training has ended and left no model")
    return card
