"""The attack score measured: what it sees of every attack of the suite, and of an attacker who knows it.

    make bench-attack-score DATA=DIR MODEL=DIR [QUERIES=200]

Attacks the queries of a model that has a score with the evaluation's own units, scores what was sent through
the service's encoder, and writes `docs/robustness/attack-score-<set>.json`; `python -m bench.tables` makes
the table in docs/method.md from it. Rows with `knows_score` are the joint attacks of model/attacks/joint.py:
they want a score of at most `aims_below` and pay `weight` for failing. `map_spared` counts a query that is
flagged at 5 % as if it had not been attacked: what an attack is worth where somebody acts on the flag. The
same arguments give the same figures, apart from the seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.attack_score import RATES
from model.attacks.corruptions import CORRUPTIONS
from model.attacks.registry import TEXT_METHODS
from model.attacks.subjects import load_subject
from model.attacks.text_limits import SHARE
from model.attacks.wordnet import read_thesaurus
from model.data.manifest import read_manifest
from model.errors import DataError
from model.evaluation.detection import Floats, auroc, auroc_interval, share_above, share_interval
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.launch import short
from model.evaluation.plan import address
from model.evaluation.profiles import EMBEDDING_EPS, HAG_LIKE
from model.evaluation.runner import Session, evaluate_model, run_unit, unfit
from model.evaluation.score_stage import Evasion, ScoreStage, load_score
from model.evaluation.scoring import MAIN_PROTOCOL, mean_of, tasks_of
from model.evaluation.specs import AttackSpec
from model.evaluation.stage import Contender, Setting, choose_queries
from model.evaluation.summary import clean_json

LEVELS = (2, 4, 8, 16)
JOINT_LEVELS = (4, 8, 16)
SEVERITY = 3
ASKED, ASKED_ROWS = 200, 100
FLAG = 0.05
"""The rate whose threshold attackers who know the score aim below, and at which `map_spared` flags."""

METRIC = (
    "AUROC: ties half, clean queries against the same queries attacked, 95 % bootstrap over queries; "
    "flagged: share above the calibrated threshold; map: tie-aware mAP@all, train + database"
)

AIMS: Sequence[tuple[str, float]] = (("flag", 0.3), ("flag", 1.0), ("flag", 3.0), ("median", 3.0))
"""(what to stay below, weight): the threshold that flags, or the median of benign queries."""


@dataclass(frozen=True)
class Plan:
    """One attack, and what it knows of the score: (what to stay below, weight), or None."""

    spec: AttackSpec
    aim: tuple[str, float] | None = None


def plans(queries: int, steps: int) -> list[Plan]:
    """Everything that is run, on `queries` queries; gradient attacks that know the score get twice the steps.

    A joint objective is harder to climb: with equal steps the one that knows more would look weaker.
    """
    blind = [*_gradient(queries, steps), *_without_gradient(queries), *_texts(queries, steps)]
    joint = [
        _image("pgd:mainstay", level / 255, queries, steps=2 * steps, restarts=1) for level in JOINT_LEVELS
    ]
    joint += [spec for spec in _texts(queries, 2 * steps) if spec.aim == "mainstay"]
    return [*(Plan(spec) for spec in blind), *(Plan(spec, aim) for spec in joint for aim in AIMS)]


def _gradient(queries: int, steps: int) -> list[AttackSpec]:
    found = [_image("fgsm:mainstay", level / 255, queries, steps=1, restarts=1) for level in LEVELS]
    return found + [
        _image(f"apgd:{aim}", level / 255, queries, steps=steps, restarts=1)
        for aim in HAG_LIKE
        for level in LEVELS
    ]


def _without_gradient(queries: int) -> list[AttackSpec]:
    """What asks only, one draw of noise, and what happens to honest pictures."""
    asked = min(queries, ASKED_ROWS)
    found = [
        _image("square:own-code", 8 / 255, asked, queries=ASKED, purpose="black-box"),
        _image("noise:mainstay", 8 / 255, queries, queries=1, purpose="random"),
    ]
    return found + [
        _image(f"natural:{name}", SEVERITY, queries, norm="natural", purpose="natural")
        for name in CORRUPTIONS
    ]


def _image(name: str, eps: float, count: int, **other: Any) -> AttackSpec:  # noqa: ANN401 - fields of a spec
    fixed = {"norm": "linf", "steps": 0, "restarts": 0, "queries": 0, "purpose": "suite"} | other
    return AttackSpec(name=name, side="image", eps=eps, first=0, count=count, keep_images=True, **fixed)


def _texts(count: int, steps: int) -> list[AttackSpec]:
    found = []
    for aim in ("mainstay", "own-code"):
        for method, eps in (*zip(TEXT_METHODS, (SHARE, 1.0), strict=True), ("embedding", EMBEDDING_EPS)):
            effort = (steps, 1) if method == "embedding" else (0, 0)
            name = f"{method}:{aim}"
            found.append(AttackSpec(name, "text", method, eps, *effort, 0, 0, count, "text"))
    return found


@dataclass(frozen=True, eq=False)
class Bench:
    """The model on its stage, and the scores of its clean queries by side; of `held` more for the rates."""

    evidence: ModelEvidence
    stage: ScoreStage
    benign: dict[str, Floats]
    held: dict[str, Floats]
    seed: int

    def evasion(self, aim: tuple[str, float]) -> Evasion:
        """What an attacker with this aim stays below, by side, and its weight."""
        below, weight = aim
        sides = self.stage.score.sides
        levels = {side: sides[side].thresholds[FLAG] for side in self.benign}
        if below == "median":
            levels = {side: float(np.median(scores)) for side, scores in self.benign.items()}
        return Evasion(levels, weight)

    def rates(self) -> dict[str, Any]:
        """What benign queries do: the actual share above each threshold, with interval and count."""
        found: dict[str, Any] = {}
        for side, scores in self.held.items():
            calibrated = self.stage.score.sides[side]
            found[side] = {"n": len(scores), "calibrated_on": calibrated.queries, "thresholds": {}}
            found[side]["quantiles"] = dict(
                zip(("q05", "q50", "q95"), np.quantile(scores, [0.05, 0.5, 0.95]), strict=True)
            )
            for rate in RATES:
                share = share_above(scores, calibrated.thresholds[rate])
                low, high = share_interval(share, len(scores))
                figures = {"threshold": calibrated.thresholds[rate], "share": share, "lo": low, "hi": high}
                found[side]["thresholds"][f"{rate:g}"] = figures
        return found

    def row(self, plan: Plan) -> dict[str, Any]:
        """Run one attack and tell what the score says of it. Raises what the unit raises."""
        evasion = None if plan.aim is None else self.evasion(plan.aim)
        stage = self.stage if evasion is None else self.stage.evading(evasion)
        unit = run_unit(stage, plan.spec)
        side, spec = plan.spec.side, plan.spec
        scores = stage.scores_of(unit)
        named = ("side", "purpose", "norm", "eps", "steps", "restarts", "queries")
        return {
            "attack": spec.name,
            **{name: getattr(spec, name) for name in named},
            "knows_score": evasion is not None,
            "stays_below": None if plan.aim is None else plan.aim[0],
            "aims_below": None if evasion is None else evasion.thresholds[side],
            "weight": None if evasion is None else evasion.weight,
            **self._detection(side, unit, scores),
            **self._retrieval(side, unit, scores),
            "seconds": round(unit.seconds, 1),
        }

    def _detection(self, side: str, unit: Attacked, scores: Floats) -> dict[str, Any]:
        benign, thresholds = self.benign[side], self.stage.score.sides[side].thresholds
        low, high = auroc_interval(benign, scores, unit.rows, seed=self.seed)
        flagged = {f"{rate:g}": share_above(scores, thresholds[rate]) for rate in RATES}
        return {"n": len(scores), "auroc": auroc(benign, scores), "lo": low, "hi": high, "flagged": flagged}

    def _retrieval(self, side: str, unit: Attacked, scores: Floats) -> dict[str, Any]:
        """MAP of the side's first task over train + database, before and after the attack."""
        task = tasks_of(side, self.evidence.modalities)[0]
        clean = self.evidence.clean_ap(task)[unit.rows]
        attacked = self.evidence.scores.ap(unit.codes, unit.rows, task, MAIN_PROTOCOL)
        flagged = scores > self.stage.score.sides[side].thresholds[FLAG]
        figures = {
            "clean_map": mean_of(clean),
            "map": mean_of(attacked),
            "map_spared": mean_of(np.where(flagged, clean, attacked)),
            "chance": self.evidence.scores.chance(task, MAIN_PROTOCOL, unit.rows),
        }
        return {"task": task, **figures, "bit_flips": float(unit.flips.mean())}


def prepare(arguments: argparse.Namespace) -> Bench:
    """Model, score, queries, codes. Raises ArtefactError for a model without a score, DataError."""
    subject = load_subject(arguments.model, arguments.device)
    score, manifest = load_score(subject), read_manifest(arguments.data)
    queries = choose_queries(manifest, [subject], None)
    if not queries:
        raise DataError("wanted labelled items of split query that the model can read, got none")
    thesaurus = None if arguments.wordnet is None else read_thesaurus(arguments.wordnet)
    setting = Setting(manifest, queries[: arguments.queries], arguments.seed, thesaurus)
    session = Session()
    label = address(subject.card)
    evidence = evaluate_model(Contender(label, subject), (), setting, session=session)
    stage = ScoreStage(subject, setting, session.encodings.of(subject, setting), score=score)
    everybody = ScoreStage(subject, Setting(manifest, queries), stage.encoded, score=score)
    sides = [side for side in ("image", "text") if side in score.sides and side in evidence.modalities]
    held = {side: everybody.clean_scores(side) for side in sides}
    benign = {side: scores[: len(setting.queries)] for side, scores in held.items()}
    return Bench(evidence, stage, benign, held, arguments.seed)


def measure(bench: Bench, chosen: Sequence[Plan]) -> Iterator[tuple[dict[str, Any] | None, dict[str, str]]]:
    """(row, {}) for each plan, or (None, what was left out and why)."""
    for plan in chosen:
        missing = None if plan.spec.side in bench.benign else f"no score for {plan.spec.side}s"
        reason = missing or unfit(bench.stage, plan.spec)
        if reason:
            yield None, {"what": f"{plan.spec.name} ({plan.spec.purpose})", "why": reason}
        else:
            yield bench.row(plan), {}


def report(bench: Bench, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run everything; the content of the data file."""
    stage, card = bench.stage, bench.stage.subject.card
    rows, left_out = [], []
    for row, missing in measure(bench, plans(len(stage.setting.queries), arguments.steps)):
        if row is None:
            left_out.append(missing)
            continue
        rows.append(row)
        console.print(sentence(row), markup=False, highlight=False)
    name = arguments.data.resolve().name
    found = {
        "name": f"attack score on {name}",
        "metric": METRIC,
        "command": command(arguments),
        "machine": {
            "machine": platform.machine(),
            "torch": torch.__version__,
            "device": str(stage.subject.device),
        },
        "commit": commit(),
        "seed": arguments.seed,
        "model": {
            "label": bench.evidence.label,
            "digest": card.digest,
            "bits": card.bits,
            "defence": bench.evidence.defence,
            "seed": bench.evidence.seed,
        },
        "data": {
            "set": name,
            "fingerprint": stage.setting.manifest.fingerprint,
            "split_digest": bench.evidence.split_digest,
            "queries": len(stage.setting.queries),
        },
        "benign": bench.rates(),
        "rows": rows,
        "left_out": left_out,
    }
    plain: dict[str, Any] = clean_json(found)
    return plain


def sentence(row: dict[str, Any]) -> str:
    """A row in a line."""
    size = f"{row['eps'] * 255:g}/255" if row["norm"] == "linf" else f"{row['eps']:g}"
    knows = f", below the {row['stays_below']} at {row['weight']:g}" if row["knows_score"] else ""
    flagged = ", ".join(f"{share:.1%} at {rate}" for rate, share in row["flagged"].items())
    return (
        f"{row['attack']} {size}{knows}: AUROC {row['auroc']:.3f} ({row['lo']:.3f}-{row['hi']:.3f}), flagged "
        f"{flagged}; mAP {row['map']:.3f} of {row['clean_map']:.3f}, spared {row['map_spared']:.3f}"
    )


def show(bench: Bench, console: Console) -> None:
    """Print what benign queries do."""
    table = Table(title=f"{bench.evidence.label}: benign queries above the thresholds")
    for column in ("side", "rate", "threshold", "share", "95 %", "n"):
        table.add_column(column)
    for side, figures in bench.rates().items():
        for rate, one in figures["thresholds"].items():
            cells = [f"{one['threshold']:.4g}", f"{one['share']:.4f}", f"{one['lo']:.4f}-{one['hi']:.4f}"]
            table.add_row(side, rate, *cells, str(figures["n"]))
    console.print(table)


def command(arguments: argparse.Namespace) -> str:
    """The command as anyone can run it: folders by their names."""
    words = ["python", "-m", "bench.attack_score", "--data", arguments.data.resolve().name]
    words += ["--model", short(arguments.model)]
    words += [f"--queries={arguments.queries}", f"--steps={arguments.steps}", f"--seed={arguments.seed}"]
    if arguments.wordnet:
        words += ["--wordnet", arguments.wordnet.name]
    return shlex.join(words)


def commit() -> str:
    """Current commit of the repository, empty without one."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def main(given: Sequence[str] | None = None) -> Path:
    """Run the benchmark; the file that was written."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="manifest folder")
    parser.add_argument("--model", type=Path, required=True, help="a model with an attack score")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20, help="of gradient attacks; twice for joint ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wordnet", type=Path, help="folder of WordNet's files, for synonyms of label words")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("docs/robustness"))
    arguments = parser.parse_args(given)
    console = Console(width=140)
    bench = prepare(arguments)
    show(bench, console)
    text = json.dumps(report(bench, arguments, console), indent=1, allow_nan=False) + "\n"
    path: Path = arguments.out / f"attack-score-{arguments.data.resolve().name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    console.print(f"written to {path}", markup=False)
    return path


if __name__ == "__main__":
    main()
