"""Average precision itself, smoothed so that it has a gradient."""

import torch
from torch import Tensor


def smooth_average_precision(u: Tensor, v: Tensor, relevant: Tensor, counted: Tensor, tau: float) -> Tensor:
    """One minus the mean smoothed AP of queries ``u`` over the database ``v``.

    Smooth-AP (Brown et al., ECCV 2020, eq. 6): the indicator "j is ranked above i" becomes
    ``sigmoid((s_j - s_i) / tau)`` with ``s = <u, v> / K``. Costs n * m^2 of memory: for batches only.

    Args:
        u: (n, K) queries' relaxed codes.
        v: (m, K) database's relaxed codes.
        relevant: (n, m) in {0, 1}.
        counted: (n, m) in {0, 1}; a pair at 0 is as if the item were not in that query's database.
        tau: temperature on the similarity's axis of [-1, 1], > 0.

    Returns:
        Scalar in [0, 1]; 0 when no query has a relevant item.

    """
    similarity = u @ v.T / u.shape[1]
    above = torch.sigmoid((similarity[:, None, :] - similarity[:, :, None]) / tau) * counted[:, None, :]
    own = 1 - torch.eye(v.shape[0], dtype=u.dtype, device=u.device)
    above = above * own
    hits = relevant * counted
    rank = 1 + above.sum(2)
    rank_among_hits = 1 + (above * hits[:, None, :]).sum(2)
    total = hits.sum(1)
    precision = (hits * rank_among_hits / rank).sum(1) / total.clamp(min=1)
    answered = (total > 0).to(u.dtype)
    return ((1 - precision) * answered).sum() / answered.sum().clamp(min=1)
