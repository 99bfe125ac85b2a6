"""How much two representations of the same items depend on each other: HSIC, and what labels do not explain.

HSIC (Gretton, Bousquet, Smola, Schoelkopf, ALT 2005, the biased estimator) is 0 in the limit exactly for
independent variables when its kernels are characteristic, as Gaussian ones are. Its size depends on the
kernels, so terms of a loss use it divided by the two self-dependences: centred kernel alignment
(Cortes, Mohri, Rostamizadeh, JMLR 13, 2012), in [0, 1] whatever the scale and width of the inputs.
"""

import torch
from torch import Tensor

TINY = 1e-12


def gaussian_kernel(x: Tensor) -> Tensor:
    """K (n, n) with K_ij = exp(-|x_i - x_j|^2 / s) of rows x (n, D).

    s is the median squared distance of two different rows, a constant to the gradient.
    """
    squared = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    apart = squared.detach()[others]
    scale = apart.median() if apart.numel() else squared.new_ones(())
    return torch.exp(-squared / scale.clamp(min=TINY))


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741  # the literature's names of the two kernels
    """Biased HSIC tr(K H L H) / (n - 1)^2 of two kernel matrices (n, n), H = I - 1/n; 0 for n < 2."""
    n = len(k)
    return (centred(k) * l).sum() / max(n - 1, 1) ** 2


def centred(k: Tensor) -> Tensor:
    """H K H: rows and columns without their means."""
    rows = k - k.mean(0, keepdim=True)
    return rows - rows.mean(1, keepdim=True)


def dependence(x: Tensor, y: Tensor) -> Tensor:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), in [0, 1], of rows x (n, D) and y (n, E).

    0 when either side does not vary: a constant depends on nothing.
    """
    k, l = gaussian_kernel(x), gaussian_kernel(y)  # noqa: E741
    own = hsic(k, k) * hsic(l, l)
    return hsic(k, l) / own.clamp(min=TINY).sqrt()


def label_residual(z: Tensor, labels: Tensor) -> Tensor:
    """What labels do not explain of z (n, D): each row less the mean of the rows with labels like its own.

    The mean weighs row j by the cosine of the label sets of i and j (n, C multi-hot), which for single
    labels is the class mean. A row without labels loses the mean of all rows.
    """
    norms = labels.norm(dim=1).clamp(min=TINY)
    alike = labels @ labels.T / (norms[:, None] * norms[None, :])
    alike = torch.where(alike.sum(1, keepdim=True) > 0, alike, torch.ones_like(alike))
    return z - (alike / alike.sum(1, keepdim=True)) @ z


def bernoulli_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(p || q) summed over labels (n,), p and q the sigmoids of two logits (n, C)."""
    p = torch.sigmoid(logits)
    log_p, log_q = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(others)
    log_not_p, log_not_q = log_p - logits, log_q - others  # log(1 - sigmoid(a)) = log sigmoid(a) - a
    return (p * (log_p - log_q) + (1 - p) * (log_not_p - log_not_q)).sum(1)
