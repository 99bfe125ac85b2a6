"""The candidate side as work units: a picture of the database that is to rise or sink for a query.

Each of the first items of the database for which there is one gets a query: for "raise" one that shares no
label with it, for "sink" one that does. What counts is the item's expected place among all other pictures,
before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attacks.candidate import expected_ranks
from model.attacks.knowledge import Knowledge, draw_rows, shared_labels
from model.attacks.registry import OBJECTIVES
from model.data.manifest import Record
from model.evaluation.encoded import signed
from model.evaluation.evidence import Attacked
from model.evaluation.image_units import attack_pictures
from model.evaluation.scoring import Bits
from model.evaluation.specs import AttackSpec
from model.evaluation.stage import Stage, Tick


def attack_candidates(stage: Stage, spec: AttackSpec, tick: Tick | None = None) -> Attacked:
    """Raise or sink the spec's rows of the pictures that have a query; `extra` holds their places.

    Queries are the texts where the model reads texts, else pictures.
    """
    started = monotonic()
    database = stage.encoded.splits["database"]
    everything, records = database.codes["image"], database.of_side("image")
    allowed = allowed_queries(stage, spec)
    chosen = torch.nonzero(allowed.any(1)).flatten()[spec.first : spec.stop]
    wanted = draw_rows(allowed[chosen], 1, stage.generator_of(f"candidate:{spec.aim}"))[:, 0]
    asking = "text" if "text" in stage.clean else "image"
    queries = signed(stage.clean[asking], stage.subject.device)[wanted]
    places = chosen.cpu().numpy()
    items, clean = [records[place] for place in places], everything[places]
    knowledge = Knowledge(
        clean=signed(clean, stage.subject.device),
        labels=_labels(stage, items),
        codes=signed(everything, stage.subject.device),
        code_labels=_labels(stage, records),
        paired=queries,
    )
    target = OBJECTIVES[spec.aim].target(knowledge, generator=stage.generator(spec))
    unit = attack_pictures(stage, spec, (stage.subject.images(items), target, clean), started, tick)
    ranks = {
        "rank_before": _ranks(everything, places, clean, queries),
        "rank_after": _ranks(everything, places, unit.codes, queries),
    }
    unit.extra.update(ranks, database=len(everything), asking=asking)
    return unit


def allowed_queries(stage: Stage, spec: AttackSpec) -> Tensor:
    """Bool (N, n): the queries that each picture of the database may be attacked for.

    Only rows with one count; which pictures these are is settled by the data, not by what the attack finds.
    """
    items = stage.encoded.splits["database"].of_side("image")
    shared = shared_labels(_labels(stage, items), _labels(stage, stage.setting.queries))
    return shared if spec.aim == "sink" else ~shared


def _ranks(everything: Bits, places: NDArray[np.int64], codes: Bits, queries: Tensor) -> list[float]:
    """Expected place, from 1, of each item among all pictures but itself."""
    found = []
    for row, (place, code) in enumerate(zip(places, codes, strict=True)):
        others = signed(np.delete(everything, place, axis=0), queries.device)
        item, query = signed(code[None], queries.device), queries[row].view(1, 1, -1)
        found.append(round(float(expected_ranks(item, query, others)[0, 0]), 2))
    return found


def _labels(stage: Stage, records: Sequence[Record]) -> Tensor:
    return torch.from_numpy(stage.encoded.labels(records)).float().to(stage.subject.device)
