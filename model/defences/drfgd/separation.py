"""Part (a): train the dual-branch encoders and the shared classifier, on benign and attacked inputs.

All terms are means over the rows of one modality; docs/method.md has the equations.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.branches import SemanticEncoders, disagreement
from model.defences.drfgd.settings import DrfgdSettings
from model.defences.drfgd.views import View
from model.losses.independence import bernoulli_divergence, dependence, label_residual

SMALL_SCORE = 1e-3
"""Added to scores before their logarithm: below it a score is as good as none."""


def separation_terms(
    encoders: SemanticEncoders, view: View, wrong: Tensor | None, settings: DrfgdSettings
) -> dict[str, Tensor]:
    """Weighted terms by name of one modality.

    wrong: (r, C) multi-hot labels that the attack made of the items; needed for the term `vulnerable`.
    """
    n, s = len(view.x), settings
    both = torch.cat([view.x, view.attacked])
    mask = None if view.mask is None else view.mask.repeat(2, 1)
    robust, vulnerable = encoders.branches(view.side, both, mask)
    terms = {}
    says, fears = encoders.classifier(robust), encoders.classifier(vulnerable)
    if s.robust:
        terms["robust"] = s.robust * label_likelihood(says, view.labels.repeat(2, 1))
    if s.consistency:
        teacher, pupil = says[:n].detach(), says[n:]
        terms["consistency"] = s.consistency * bernoulli_divergence(teacher, pupil).mean()
    if s.vulnerable and wrong is not None:
        terms["vulnerable"] = s.vulnerable * label_likelihood(fears, torch.cat([view.labels, wrong]))
    if s.contrast:
        scores = disagreement(says, fears)
        terms["contrast"] = s.contrast * contrast(scores[:n], scores[n:])
    if s.separation:
        parts = [label_residual(z, view.labels.repeat(2, 1)) for z in (robust, vulnerable)]
        terms["separation"] = s.separation * dependence(*parts)
    if s.invariance:
        terms["invariance"] = s.invariance * dependence(robust[n:], view.pooled())
    if s.correlation:
        terms["correlation"] = s.correlation * (1 - dependence(robust[:n], view.centres))
    return terms


def label_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of labels (n, C) in {0, 1}: summed over labels, mean over rows."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(1).mean()


def contrast(benign: Tensor, attacked: Tensor) -> Tensor:
    """Mean of log(1 + e * benign / attacked) over pairs of scores (n,) > 0 of the same items. Ours.

    A logistic ranking loss on the scores' logarithms with margin 1: it falls as soon as an attacked input's
    score is e times its benign one's, whatever the size of either.
    """
    apart = torch.log(benign + SMALL_SCORE) - torch.log(attacked + SMALL_SCORE)
    return F.softplus(apart + 1).mean()


def attacked_labels(
    codes: Tensor, labels: Tensor, centres: Tensor, candidates: Tensor, *, foreign: bool
) -> Tensor:
    """What an attack made of items: of the candidates the label set whose centre is nearest to the code.

    Args:
        codes: (r, K) attacked codes; their signs count.
        labels: (r, C), the items' own.
        centres: (m, K) -1/+1, the candidates' centre codes.
        candidates: (m, C), the candidates' label sets.
        foreign: only candidates that share no label with the item, as far as there are any.

    Returns:
        (r, C). The first of equally near candidates.

    """
    closeness = torch.where(codes >= 0, 1.0, -1.0) @ centres.T
    if foreign:
        apart = labels @ candidates.T <= 0
        apart = apart | ~apart.any(1, keepdim=True)
        closeness = closeness.masked_fill(~apart, float("-inf"))
    return candidates[closeness.argmax(1)]
