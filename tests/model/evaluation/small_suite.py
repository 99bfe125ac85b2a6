"""A suite small enough for tests, in which every gate has what it needs, for the models of small_models."""

from collections.abc import Sequence
from dataclasses import replace

from model.attacks.subjects import Subject
from model.data.manifest import Manifest
from model.evaluation.evidence import ModelEvidence
from model.evaluation.gates import check
from model.evaluation.probes import run_probes
from model.evaluation.runner import evaluate_model
from model.evaluation.specs import AttackSpec
from model.evaluation.stage import Contender, Setting, choose_queries
from model.evaluation.verdicts import Check

ROWS, STEPS = 60, 12
LEVEL = 1 / 255


def image_spec(name: str, levels: float, **other: object) -> AttackSpec:
    """An L-inf attack of `levels` grey levels on all rows, of the suite unless said otherwise."""
    values = {
        "name": name,
        "side": "image",
        "norm": "linf",
        "eps": levels * LEVEL,
        "steps": 0 if name.startswith(("square", "nes", "noise")) else STEPS,
        "restarts": 0 if name.startswith(("square", "nes", "noise")) else 1,
        "queries": 0,
        "first": 0,
        "count": ROWS,
        "purpose": "suite",
    }
    return AttackSpec(**{**values, **other})


def text_spec(name: str, eps: float, **other: object) -> AttackSpec:
    """A text attack on the first 20 rows."""
    norm = name.partition(":")[0]
    steps = 5 if norm == "embedding" else 0
    values = {
        "name": name,
        "side": "text",
        "norm": norm,
        "eps": eps,
        "steps": steps,
        "restarts": min(steps, 1),
    }
    fixed = {"queries": 0, "first": 0, "count": 20, "purpose": "text"}
    return AttackSpec(**{**values, **fixed, **other})


def image_suite(rows: int, steps: int, asked: int) -> tuple[AttackSpec, ...]:
    """Nine white-box units, four without gradients (two of them on half of the rows each), one by transfer.

    steps: of the gradient attacks, doubled twice over for the convergence; asked: queries of the black box.
    """
    half = rows // 2
    blind = {"queries": asked, "purpose": "black-box", "count": half}
    specs = (
        image_spec("fgsm:mainstay", 8, steps=1),
        image_spec("apgd:mainstay", 2, steps=steps),
        image_spec("apgd:mainstay", 4, steps=steps),
        image_spec("apgd:mainstay", 8, steps=steps, keep_images=True),
        image_spec("apgd:own-code", 8, steps=steps),
        image_spec("apgd:mainstay", 16, steps=steps),
        image_spec("apgd:mainstay", 255, steps=steps),
        image_spec("apgd:own-code", 255, steps=steps),
        image_spec("apgd:mainstay", 8, steps=2 * steps, restarts=2, purpose="convergence"),
        image_spec("square:own-code", 8, **blind),
        image_spec("nes:own-code", 8, **{**blind, "first": half}),
        image_spec("noise:mainstay", 8, queries=1, purpose="random"),
        image_spec("noise:mainstay", 8, queries=10, purpose="random"),
        image_spec("transfer:mainstay", 8, steps=steps, purpose="transfer"),
    )
    return tuple(spec if spec.purpose == "black-box" else replace(spec, count=rows) for spec in specs)


IMAGES = image_suite(ROWS, STEPS, 124)
HEADLINE, BLIND, TRANSFERRED = IMAGES[:9], IMAGES[9:13], IMAGES[13:]
CURVE = (
    image_spec("apgd:mainstay", 8, steps=4, count=30, purpose="steps"),
    image_spec("apgd:mainstay", 8, steps=16, count=30, purpose="steps"),
)
TEXTS = (
    text_spec("words:mainstay", 0.2),
    text_spec("typos:mainstay", 1),
    text_spec("embedding:mainstay", 0.5),
)
EVERYTHING = (*IMAGES, *CURVE, *TEXTS)


def attacked(
    subject: Subject,
    manifest: Manifest,
    specs: Sequence[AttackSpec],
    *,
    label: str = "model",
    surrogates: Sequence[Subject] = (),
    setting: Setting | None = None,
    **other: object,
) -> ModelEvidence:
    """Evidence with its facts, as the command makes it; `other` goes to evaluate_model."""
    used = setting or Setting(manifest, choose_queries(manifest, [subject], ROWS))
    evidence = evaluate_model(Contender(label, subject, tuple(surrogates)), specs, used, **other)
    evidence.facts.update(run_probes(evidence))
    return evidence


def verdicts(
    evidence: ModelEvidence, twin: ModelEvidence | None, *, strict: bool = False
) -> dict[str, Check]:
    """Checks by name."""
    return {verdict.name: verdict for verdict in check(evidence, twin, strict=strict)[0]}


def fired(evidence: ModelEvidence, twin: ModelEvidence | None) -> set[str]:
    """Names of the gates that do not hold."""
    return {name for name, verdict in verdicts(evidence, twin).items() if not verdict.holds}
