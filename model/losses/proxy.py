"""One learnt centre per label, shared by all modalities."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ProxyLikelihood(nn.Module):
    """Multi-label likelihood of an item's labels given the cosines of its code to the labels' centres.

    ``logit_c = exp(a) * cos(h, p_c) + b_c`` and a binary cross-entropy summed over the labels. Learnt
    centres in the manner of Proxy-NCA (Movshovitz-Attias et al., ICCV 2017) and of the central
    similarity of CSQ (Yuan et al., CVPR 2020), with the sigmoid instead of the softmax because items
    carry several labels; scale and per-label offset are ours. The centres belong to both modalities:
    this is the term that pulls an image and a text with the same labels to the same place even when
    they never meet in a batch.
    """

    def __init__(self, prior: Tensor, bits: int, scale: float) -> None:
        """Centres from a unit normal; offsets from how often each label occurs.

        Args:
            prior: (C,) share of training items with each label, in [0, 1].
            bits: code length K.
            scale: first value of ``exp(a)``, > 0.

        """
        super().__init__()
        share = prior.float().clamp(1e-4, 0.99)
        self.centres = nn.Parameter(torch.randn(len(prior), bits))
        # The mean cosine to a centre is near 0, so the offset starts below the label's log-odds.
        self.offsets = nn.Parameter(torch.log(share / (1 - share)) - 2.0)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, h: Tensor, labels: Tensor, present: Tensor) -> Tensor:
        """Mean over the rows that are present; 0 when none is.

        Args:
            h: (n, K) relaxed codes in (-1, 1).
            labels: (n, C) multi-hot.
            present: (n,) in {0, 1}: whether the row's modality exists.

        """
        cosines = F.normalize(h, dim=1) @ F.normalize(self.centres, dim=1).T
        logits = self.log_scale.exp() * cosines + self.offsets
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(1)
        return (each * present).sum() / present.sum().clamp(min=1)
