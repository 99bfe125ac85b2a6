"""Gates on how strong the attacks were: would others have found more (evaluation.md, gates 1 to 7, 11).

A defence that hides its gradient shows here: an attack that knows less, tries less or may do less then beats
the one that should be better. Sources: Carlini et al. 1902.06705 (sections 4 and 5), Athalye et al.
1802.00420 (section 3), AutoAttack 2003.01690; the numbers are the project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from model.attacks.registry import BLACK_BOX
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.scoring import MAIN_PROTOCOL, Rows
from model.evaluation.verdicts import (
    Check,
    LeftOut,
    Verdict,
    View,
    budget_name,
    effort,
    grouped,
    in_points,
    is_headline,
    same_budget,
)

SLACK = 0.005
"""What a weaker attack may seem better by: half a point, noise of finitely many queries and bits."""
CONVERGED = 0.01
CONVERGED_STRICT = 0.005
GRADIENT_FREE = 0.01
ENOUGH_QUERIES = 200
WORKS = 0.95
WORKS_EPS = 16 / 255


def one_step(view: View) -> Verdict:
    """Single-step is not stronger than multi-step, for the same aim and budget."""
    name = "one-step"
    pairs = [
        (weak, strong)
        for weak in view.white_box
        if weak.spec.method == "fgsm"
        for strong in view.white_box
        if strong.spec.method != "fgsm"
        and strong.spec.purpose != "steps"
        and strong.spec.aim == weak.spec.aim
        and same_budget(weak, strong)
        and len(view.shared(weak, strong))
    ]
    if not pairs:
        return LeftOut(
            name, "no single-step attack was run beside a multi-step one of the same aim and budget"
        )
    return _compared(view, name, "single step", pairs)


def transfer(view: View) -> Verdict:
    """An attack made on another model is not stronger than the one made on this model."""
    return _not_stronger(view, "transfer", ("transfer",))


def random(view: View) -> Verdict:
    """Random points of the budget are not stronger than following the gradient."""
    return _not_stronger(view, "random", ("noise",))


def convergence(view: View) -> Verdict:
    """Attacks with doubled steps and restarts lower the mean of minima by less than a point.

    Half a point when strict. The mean of minima over the budget's suite is the figure that is claimed, so it
    is what must have converged; what the doubling did to each attack alone is among the figures. An attack
    that grows weaker by the limit with more effort is broken and fails too.
    """
    name, limit = "convergence", CONVERGED_STRICT if view.strict else CONVERGED
    pairs = [
        (base, more)
        for more in view.white_box
        if more.spec.purpose == "convergence"
        for base in [_base_of(view, more)]
        if base is not None
    ]
    if not pairs:
        return LeftOut(name, "no attack was run a second time with more steps and restarts")
    figures: dict[str, Any] = {}
    rises = []
    for base, more in pairs:
        rows = view.shared(base, more)
        few, many = (view.above_chance(view.mean(unit, rows), rows) for unit in (base, more))
        rises.append(many - few)
        figures[_title(more)] = {
            "points": in_points(many - few),
            "queries": len(rows),
            "effort": [effort(base), effort(more)],
        }
    drops = [_converged(view, units, figures) for units in _by_ball([more for _, more in pairs])]
    said = (
        f"doubled steps and restarts lower the worst case by {in_points(max(drops))} points "
        f"(limit {in_points(limit)})"
    )
    if max(rises) >= limit:
        said = f"an attack is {in_points(max(rises))} points weaker with more steps and restarts; {said}"
    return Check(name, max(*drops, *rises) < limit, said, figures)


def more_steps(view: View) -> Verdict:
    """Along the curve over steps, more never help the defence (a point of slack: rows are few there)."""
    name = "more-steps"
    curves = grouped(
        (unit for unit in view.white_box if unit.spec.purpose == "steps"),
        lambda unit: (unit.spec.name, unit.spec.norm, unit.spec.eps, unit.spec.restarts),
    )
    curves = {key: units for key, units in curves.items() if len(units) > 1 and len(view.shared(*units))}
    if not curves:
        return LeftOut(name, "no curve over steps was run")
    figures, worst = {}, 0.0
    for units in curves.values():
        units.sort(key=lambda unit: unit.spec.steps)
        rows = view.shared(*units)
        values = [view.above_chance(view.mean(unit, rows), rows) for unit in units]
        figures[_title(units[0])] = {
            str(u.spec.steps): in_points(v) for u, v in zip(units, values, strict=True)
        }
        worst = max([worst, *(later - former for former, later in pairwise(values))])
    said = (
        f"mAP rises by at most {in_points(worst)} points when steps are added (limit {in_points(CONVERGED)})"
    )
    return Check(name, worst < CONVERGED, said, figures)


def monotone(view: View) -> Verdict:
    """A larger budget never helps the defence, as long as it is above chance."""
    name = "monotone"
    curves = grouped(filter(is_headline, view.white_box), lambda unit: (unit.spec.name, unit.spec.norm))
    curves = {
        key: units
        for key, units in curves.items()
        if len({unit.spec.eps for unit in units}) > 1 and len(view.shared(*units))
    }
    if not curves:
        return LeftOut(name, "no attack was run at several budgets")
    figures, worst, where = {}, 0.0, ""
    for (attack, norm), units in curves.items():
        rows = view.shared(*units)
        curve = _by_budget(view, units, rows)
        figures[f"{attack} {norm}"] = {label: in_points(value) for label, value in curve}
        for (_, former), (label, later) in pairwise([("clean", view.clean(rows)), *curve]):
            rise = view.above_chance(later, rows) - view.above_chance(former, rows)
            if rise > worst:
                worst, where = rise, f" ({attack} at {label})"
    said = f"mAP rises by at most {in_points(worst)} points with the budget{where} (limit {in_points(SLACK)})"
    return Check(name, worst <= SLACK, said, figures)


def unbounded(view: View) -> Verdict:
    """With eps = 1 the attacker owns the picture, and the worst case must be at or below chance."""
    name = "unbounded"
    units = [u for u in view.white_box if u.spec.norm == "linf" and u.spec.eps >= 1.0 - 1e-9]
    if not units:
        return LeftOut(name, "no attack was run with an unbounded budget (eps = 1)")
    rows = view.covered(units)
    worst, chance = view.minima(units, rows), view.chance(rows)
    floor = view.evidence.scores.floor(view.task, MAIN_PROTOCOL, rows)
    figures = {
        "map": in_points(worst),
        "chance": in_points(chance),
        "floor": in_points(floor),
        "above_floor": in_points(worst - floor),
        "queries": len(rows),
    }
    said = (
        f"at eps 1 the worst case is {in_points(worst)}, chance {in_points(chance)}, "
        f"theoretical floor {in_points(floor)} ({in_points(worst - floor):+} points)"
    )
    return Check(name, worst <= chance, said, figures)


def gradient_free(view: View) -> Verdict:
    """Attacks without this model's gradient lower the mean of minima by less than a point."""
    name = "gradient-free"
    groups: list[list[Attacked]] = []
    for unit in view.gradient_free:
        if not any(same_budget(unit, other[0]) for other in groups):
            alike = [u for u in view.gradient_free if same_budget(u, unit)]
            asked = [u for u in alike if u.spec.method in BLACK_BOX and len(view.shared(u))]
            if asked and _white(view, unit):
                groups.append(alike)
    if not groups:
        return LeftOut(name, "no black-box attack was run at a budget of a white-box one")
    figures, worst, fewest = {}, 0.0, ENOUGH_QUERIES
    for units in groups:
        drop, queries, entry = _lowered(view, units)
        figures[budget_name(units[0])] = entry
        worst, fewest = max(worst, drop), min(fewest, queries)
    small = f"; small form: {fewest} queries, {ENOUGH_QUERIES} are wanted" if fewest < ENOUGH_QUERIES else ""
    said = (
        f"black-box, transfer and random attacks lower the worst case by {in_points(worst)} points "
        f"(limit {in_points(GRADIENT_FREE)}){small}"
    )
    return Check(name, worst < GRADIENT_FREE, said, figures)


def works_on_twin(twin: ModelEvidence | None) -> Verdict:
    """At 16/255 the attack takes the undefended twin (nearly) all the way from clean to chance."""
    name = "works-on-twin"
    if twin is None:
        said = (
            "wanted an undefended twin (same architecture and bits) to show that the attack works, got none"
        )
        return Check(name, holds=False, detail=said)
    view = View(twin)
    units = [u for u in view.white_box if is_headline(u) and abs(u.spec.eps - WORKS_EPS) < 1e-9]
    units = [u for u in units if u.spec.norm == "linf"]
    if not units:
        return LeftOut(name, f"the twin {twin.label} was not attacked at 16/255")
    best = min(units, key=view.mean)
    rows = view.shared(best)
    clean, chance, attacked = view.clean(rows), view.chance(rows), view.mean(best, rows)
    reached = (clean - attacked) / (clean - chance) if clean > chance else 0.0
    figures = {
        "twin": twin.label,
        "attack": best.spec.name,
        "clean": in_points(clean),
        "attacked": in_points(attacked),
        "chance": in_points(chance),
        "reached": round(reached, 4),
    }
    said = (
        f"{best.spec.name} at 16/255 takes the undefended {twin.label} from {in_points(clean)} to "
        f"{in_points(attacked)} (chance {in_points(chance)}): {reached:.2f} of the way, wanted {WORKS}"
    )
    return Check(name, reached >= WORKS, said, figures)


def _not_stronger(view: View, name: str, methods: Sequence[str]) -> Verdict:
    """Each unit of `methods` against the strongest single white-box attack of its budget."""
    pairs = []
    for weak in view.gradient_free:
        strong = _white(view, weak)
        if weak.spec.method in methods and strong:
            rows = [view.shared(weak, unit) for unit in strong]
            best = min(range(len(strong)), key=lambda i: view.mean(strong[i], rows[i]))
            pairs.append((weak, strong[best]))
    if not pairs:
        return LeftOut(name, f"no {name} attack was run at a budget of a white-box one")
    return _compared(view, name, name, pairs)


def _compared(view: View, name: str, what: str, pairs: Sequence[tuple[Attacked, Attacked]]) -> Check:
    """The weaker of each pair may not bring mAP lower than the stronger, where the stronger leaves any."""
    figures, worst = {}, -1.0
    for weak, strong in pairs:
        rows = view.shared(weak, strong)
        lead = view.above_chance(view.mean(strong, rows), rows) - view.above_chance(
            view.mean(weak, rows), rows
        )
        won = (
            view.ap(weak, rows) < view.ap(strong, rows) - 0.01
        ).mean()  # NaN, an excluded query, wins nothing
        figures[f"{_title(weak)} {effort(weak)} against {strong.spec.name} {effort(strong)}"] = {
            "points": in_points(lead),
            "queries_won": round(float(won), 4),
            "queries": len(rows),
        }
        worst = max(worst, lead)
    stronger = f"by {in_points(worst)} points stronger" if worst > 0 else "not stronger"
    said = f"{what} is {stronger} than white-box, multi-step (limit {in_points(SLACK)})"
    return Check(name, worst <= SLACK, said, figures)


def _lowered(view: View, units: Sequence[Attacked]) -> tuple[float, int, dict[str, object]]:
    """(largest drop of the mean of minima, black-box queries, figures) at one budget.

    Looked at on the queries that black-box attacks had and on all: noise and transfer are cheap and run on
    every query, so over all of them a black-box attack on a few would count for little.
    """
    white = _white(view, units[0])
    asked = view.covered([unit for unit in units if unit.spec.method in BLACK_BOX])
    drops = []
    for rows in (asked, view.covered(units)):
        before, after = view.minima(white, rows), view.minima([*white, *units], rows)
        drops.append(view.above_chance(before, rows) - view.above_chance(after, rows))
    own = {}
    for unit in units:
        rows = view.shared(unit)
        lost = view.minima(white, rows) - view.minima([*white, unit], rows) if len(rows) else 0.0
        own[f"{unit.spec.name} {effort(unit)} rows {unit.spec.first}+{len(unit)}"] = in_points(lost)
    entry = {
        "points_on_black_box_queries": in_points(drops[0]),
        "points_on_all": in_points(drops[1]),
        "own_rows": own,
        "queries": len(asked),
    }
    return max(drops), len(asked), entry


def _white(view: View, unit: Attacked) -> list[Attacked]:
    """The white-box units of the unit's budget that share queries with it."""
    return [
        other for other in view.white_box if same_budget(other, unit) and len(view.shared(other, unit)) > 0
    ]


def _by_ball(units: Sequence[Attacked]) -> list[list[Attacked]]:
    """The units of each budget."""
    return list(grouped(units, lambda unit: (unit.spec.norm, round(unit.spec.eps, 9))).values())


def _converged(view: View, units: Sequence[Attacked], figures: dict[str, Any]) -> float:
    """How much the units of one budget, run with more effort, lower the mean of minima of its suite."""
    suite = [unit for unit in _white(view, units[0]) if unit.spec.purpose == "suite"]
    rows = view.shared(*units)
    before, after = (view.above_chance(view.minima(some, rows), rows) for some in (suite, [*suite, *units]))
    figures[f"worst case {budget_name(units[0])}"] = {
        "points": in_points(after - before),
        "queries": len(rows),
        "attacks": len(suite),
    }
    return before - after


def _base_of(view: View, more: Attacked) -> Attacked | None:
    """The suite's unit that `more` repeats with more effort."""
    alike = [
        unit
        for unit in view.white_box
        if unit.spec.purpose == "suite"
        and unit.spec.name == more.spec.name
        and same_budget(unit, more)
        and len(view.shared(unit, more))
        and unit.spec.steps * unit.spec.restarts < more.spec.steps * more.spec.restarts
    ]
    return max(alike, key=lambda unit: unit.spec.steps * unit.spec.restarts, default=None)


def _by_budget(view: View, units: Sequence[Attacked], rows: Rows) -> list[tuple[str, float]]:
    """(budget, lowest mAP of the units of that budget), budgets ascending."""
    levels = grouped(sorted(units, key=lambda unit: unit.spec.eps), lambda unit: round(unit.spec.eps, 9))
    return [(budget_name(us[0]), min(view.mean(unit, rows) for unit in us)) for us in levels.values()]


def _title(unit: Attacked) -> str:
    return f"{unit.spec.name} {budget_name(unit)}"
