"""The automatic gates: a robustness figure counts only when all of them hold (algorithms.md, section 6).

A gate judges evidence that is there. What was not run is left out with its reason, never counted as holding;
only the undefended twin is demanded: without it nothing shows that the attack works at all.
"""

from __future__ import annotations

from collections.abc import Callable

from model.evaluation.evidence import ModelEvidence
from model.evaluation.gates_conduct import CONDUCT
from model.evaluation.gates_strength import (
    convergence,
    gradient_free,
    monotone,
    more_steps,
    one_step,
    random,
    transfer,
    unbounded,
    works_on_twin,
)
from model.evaluation.verdicts import Check, LeftOut, Verdict, View

STRENGTH: tuple[Callable[[View], Verdict], ...] = (
    one_step,
    convergence,
    more_steps,
    monotone,
    unbounded,
    gradient_free,
    transfer,
    random,
)
"""Gates that compare attacks on images; a model that reads none has none of them."""

GATES = tuple(gate.__name__.replace("_", "-") for gate in (*CONDUCT, *STRENGTH, works_on_twin))
"""Names of all gates, in the order of their checks."""


def check(
    evidence: ModelEvidence, twin: ModelEvidence | None, *, strict: bool
) -> tuple[list[Check], list[str]]:
    """(checks, "name: reason" of the gates that could not be judged) of one model.

    twin: the undefended model of the same architecture and bits, which may be `evidence` itself; None lets
    the gate "works-on-twin" fail. strict: the numbers of the full profile.
    """
    view = View(evidence, strict)
    verdicts: list[Verdict] = [gate(view) for gate in CONDUCT]
    if view.task and len(view.counted):
        verdicts += [gate(view) for gate in STRENGTH]
        verdicts.append(works_on_twin(twin))
    elif view.task:
        verdicts.append(LeftOut("strength", "no evaluated query has a relevant item to retrieve"))
    checks = [verdict for verdict in verdicts if isinstance(verdict, Check)]
    return checks, [str(verdict) for verdict in verdicts if not isinstance(verdict, Check)]
