"""The learning rate's way through a run."""

import math


def rate_factor(step: int, total: int, warm_up: float, floor: float) -> float:
    """Share of the full rate at ``step`` (from 0) of ``total``.

    Rises linearly over the first ``warm_up`` share of the steps, then falls along a half cosine
    (Loshchilov, Hutter, "SGDR", ICLR 2017, without restarts) to ``floor``. Never 0 at step 0.
    """
    rising = math.ceil(warm_up * total)
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising) / max(total - 1 - rising, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
