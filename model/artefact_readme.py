"""The model card (README.md of an artefact) from its manifest and robustness figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from model.robustness import PROTOCOLS, Robustness, WorstCase, breaking_point

SIDES = {"image": "pictures", "text": "texts"}


def model_card_text(manifest: Mapping[str, Any], robustness: Robustness | None) -> str:
    """Markdown with a YAML header, as the Hugging Face hub reads it; a function of its arguments."""
    image, text = (manifest["architecture"].get(side) for side in ("image", "text"))
    data = manifest["training_data"]
    rows = [
        ("bits", manifest["bits"]),
        ("image tower", _tower(image)),
        ("text tower", _tower(text)),
        ("defence", manifest["defence"].get("name", "none")),
        ("training data (fingerprint)", data.get("fingerprint", "not recorded")),
        ("labels", len(manifest["label_names"])),
        ("seed", manifest["seed"]),
        ("code version", manifest["code_version"]),
        ("created", manifest["created"]),
    ]
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    return f"""---
library_name: hashguard
tags: [image-text-retrieval, hashing]
---
# {manifest["name"]} version {manifest["version"]}

Binary codes of {manifest["bits"]} bits for images and texts in one Hamming space.

**Known to break at:** {known_to_break_at(manifest, robustness)}

| | |
|---|---|
{table}

## Robustness

{_robustness(robustness)}

## Scores

```json
{json.dumps(manifest["scores"], indent=2, sort_keys=True)}
```

Distances order hits; `calibration.json` turns them into probabilities of relevance on data like the training
data. The codes say nothing about inputs unlike it, and must not be used to identify people.
"""


def known_to_break_at(manifest: Mapping[str, Any], robustness: Robustness | None) -> str:
    """One line: for pictures and for texts, the smallest evaluated budget at which the model is broken.

    Broken means a worst case at or below chance, or at half of the clean mAP or less (`breaking_point`), on
    the main task, over train + database. Where no evaluated budget breaks it, the largest one is named.
    """
    defence = str(manifest["defence"].get("name", "none"))
    if robustness is None:
        if defence == "none":
            return (
                "not evaluated. This model is not defended: expect changes that no eye sees (8/255 per pixel"
                " and less) to choose the answer."
            )
        trained = f"It was trained with the defence {_cell(defence)}"
        return f"not evaluated. {trained}; no figure stands behind that here."
    state = "Not defended" if defence == "none" else f"Defence {_cell(defence)}"
    told = [f"{SIDES[side]}: {_side(robustness.headline(side))}" for side in sorted(manifest["architecture"])]
    return f"{'; '.join(told)}. {state}."


def _side(groups: Sequence[Sequence[WorstCase]]) -> str:
    return ", ".join(_norm(cases) for cases in groups) if groups else "not evaluated"


def _norm(cases: Sequence[WorstCase]) -> str:
    """What is known of one norm's budgets, which come smallest first."""
    found = breaking_point(cases)
    if found is None:
        largest = f"{_budget(cases[-1])} ({_figures(cases[-1])}), more was not tried"
        several = f"at none of the {len(cases)} evaluated budgets, the largest was"
        return f"{several if len(cases) > 1 else 'not at the only evaluated budget,'} {largest}"
    smaller = [case for case in cases if case.eps < found.eps]
    gap = f"not at {_budget(smaller[-1])}, nothing between" if smaller else "nothing smaller"
    return f"{_budget(found)} ({_figures(found)}; {gap} was tried)"


def _figures(case: WorstCase) -> str:
    mean = f"{case.task} mAP {case.clean_map:.3f} clean, {case.map:.3f} attacked"
    return f"{mean}, chance {case.chance:.3f}"


def _budget(case: WorstCase) -> str:
    """The budget in words."""
    size = f"{255 * case.eps:.3g}/255" if case.norm == "linf" else f"{case.eps:.3g}"
    return {
        "linf": f"{size} per pixel",
        "l2": f"L2 {size}",
        "words": f"{100 * case.eps:.3g} % of the words replaced",
        "typos": "a typing error in 20 % of the words",
        "text": f"{100 * case.eps:.3g} % of the words replaced or mistyped",
        "embedding": f"{size} RMS in embedding space (no client can send this)",
    }[case.norm]


def _robustness(found: Robustness | None) -> str:
    """The section's body: a table of the worst cases, and the conditions under which they were measured."""
    if found is None:
        return (
            "Not evaluated: no figure of an attack on this model is recorded (`hashguard evaluate --record`)."
        )
    rows = [_row(case, found) for side in SIDES for case in found.main_cases(side)]
    gates = f"{found.gates.judged} gates of honesty were judged and hold"
    if found.gates.not_judged:
        gates += f"; not judged: {', '.join(_cell(gate.name) for gate in found.gates.not_judged)}"
    counts = ", ".join(f"{_cell(name)} {count}" for name, count in found.data.counts.items())
    attacks = ", ".join(dict.fromkeys(_cell(attack.attack) for attack in found.attacks))
    data = f"{_cell(found.data.name)} ({counts}), {found.data.queries} queries"
    return f"""\
Worst case per query over all attacks within a budget, then the mean over queries, as mAP with its 95 %
interval over train + database; in the last column over the database only.

| task | budget | clean | worst case | 95 % | chance | strict |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

- Data: {data}, split {found.data.split_digest[:12]}.
- Attacks (profile {_cell(found.profile)}, seed {found.seed}): {attacks}.
- {gates}.
- Broken means at or below chance, or at half of the clean mAP or less. Budgets that are not listed, and
  attacks that were not run, may break it sooner; `robustness.json` has the threat model and all figures."""


def _row(case: WorstCase, found: Robustness) -> str:
    strict = [
        f"{other.map:.3f}"
        for other in found.worst_case
        if other.protocol == PROTOCOLS[1]
        and (other.task, other.norm, other.eps) == (case.task, case.norm, case.eps)
    ]
    cells = [
        case.task,
        _budget(case),
        f"{case.clean_map:.3f}",
        f"{case.map:.3f}",
        f"{case.lo:.3f} to {case.hi:.3f}",
        f"{case.chance:.3f}",
        *(strict or ["not measured"]),
    ]
    return f"| {' | '.join(cells)} |"


def _tower(table: Mapping[str, Any] | None) -> str:
    if table is None:
        return "none"
    source = table.get("source")
    return f"{table.get('kind')} ({source})" if source else str(table.get("kind"))


def _cell(value: object) -> str:
    """On one line, with nothing in it that a page or a table could take for more than text."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
