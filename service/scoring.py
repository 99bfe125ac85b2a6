"""The mean average precision of `model.evaluation.retrieval` behind the port of the use cases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.codes import unpack
from model.evaluation.retrieval import mean_average_precision
from service.application.ports import CodeArray


def packed_map(queries: CodeArray, items: CodeArray, relevance: NDArray[np.bool_], bits: int) -> float:
    """Tie-aware mAP, 0 to 1, of packed codes (q, bits / 8) against (n, bits / 8) with `relevance` (q, n).

    Queries without a relevant item do not count; NaN when none does.
    """
    return mean_average_precision(unpack(queries, bits), unpack(items, bits), relevance).mean
