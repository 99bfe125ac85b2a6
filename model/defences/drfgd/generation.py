"""Part (b): what is generated from what, and the terms that train generator and discriminator.

The hashers rest meanwhile: gradients pass through them to what was generated and go no further.
"""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from model.branches import SemanticEncoders
from model.defences.base import SMALLEST, StepState
from model.defences.drfgd.discriminators import critic_hinge, maker_hinge
from model.defences.drfgd.settings import DrfgdSettings
from model.defences.drfgd.views import View, resting
from model.hashers.base import CrossModalHasher


@dataclass(frozen=True, eq=False)
class Reading:
    """What the encoders say of a view's r rows, without a graph, each (r, width).

    robust: z_r of the benign input. vulnerable: z_v of it. attacked: z_v of the attacked input.
    """

    robust: Tensor
    vulnerable: Tensor
    attacked: Tensor


@dataclass(frozen=True, eq=False)
class Made:
    """What was generated for the first rows of a view.

    view: those rows. x: generated inputs, like `view.x`. robust, vulnerable: the z_r and z_v put in.
    """

    view: View
    x: Tensor
    robust: Tensor
    vulnerable: Tensor

    def perturbed(self) -> Tensor:
        """`x` with each item's own perturbation added: images stay in [0, 1]."""
        moved = self.x + (self.view.attacked - self.view.x)
        return moved.clamp(0, 1) if self.view.mask is None else moved


@torch.no_grad()
def read(encoders: SemanticEncoders, view: View) -> Reading:
    """Both inputs of a view through its encoder."""
    mask = None if view.mask is None else view.mask.repeat(2, 1)
    robust, vulnerable = encoders.branches(view.side, torch.cat([view.x, view.attacked]), mask)
    n = len(view.x)
    return Reading(robust[:n], vulnerable[:n], vulnerable[n:])


def make(
    network: nn.Module,
    view: View,
    reading: Reading,
    across: Tensor,
    settings: DrfgdSettings,
    generator: Generator,
) -> Made:
    """Generate for the first `share` of a view's rows.

    Which of them start from the attacked input, take the z_v of another item under attack, and are guided
    by z_r of the other modality, is drawn anew. across: (r, width), that z_r, NaN rows where it is absent.
    """
    s = settings
    count = min(max(ceil(s.share * len(view.x)), SMALLEST), len(view.x))
    head = view.head(count)
    device = view.x.device
    attacked, recombined, crossed = torch.rand(3, count, 1, generator=generator, device=device) < (
        torch.tensor([s.from_attacked, s.recombined, s.cross_guided], device=device).view(3, 1, 1)
    )
    others = torch.randperm(len(view.x), generator=generator, device=device)[:count]
    vulnerable = torch.where(recombined, reading.attacked[others], reading.vulnerable[:count])
    guided = crossed & ~across[:count].isnan()
    robust = torch.where(guided, across[:count], reading.robust[:count])
    start = torch.where(attacked.view(-1, *[1] * (view.x.dim() - 1)), head.attacked, head.x)
    return Made(head, network(start, robust, vulnerable, head.mask), robust, vulnerable)


def generation_terms(
    made: Made,
    encoders: SemanticEncoders,
    critic: nn.Module,
    hasher: CrossModalHasher,
    settings: DrfgdSettings,
    state: StepState,
) -> dict[str, Tensor]:
    """Weighted terms of the generator of one modality; critic, encoders and hasher take no gradient."""
    s, view = settings, made.view
    terms = code_terms(made, hasher, s, state)
    if s.reconstruction:
        terms["reconstruction"] = s.reconstruction * _distance(made) / max(s.reach, 1e-6)
    if s.keeping or s.recombination:
        robust, vulnerable = encoders.branches(view.side, made.x, view.mask)
        if s.keeping:
            terms["keeping"] = s.keeping * (1 - F.cosine_similarity(robust, made.robust)).mean()
        if s.recombination:
            likeness = F.cosine_similarity(vulnerable, made.vulnerable)
            terms["recombination"] = s.recombination * (1 - likeness).mean()
    if s.realism:
        terms["realism"] = s.realism * maker_hinge(critic(made.x, view.mask))
    return terms


def code_terms(
    made: Made, hasher: CrossModalHasher, settings: DrfgdSettings, state: StepState
) -> dict[str, Tensor]:
    """The terms that read the code of what was generated, from one pass of the resting hasher."""
    s, view, n = settings, made.view, len(made.x)
    if not any((s.alignment, s.alignment_across, s.hardness, s.resilience)):
        return {}
    seen = torch.cat([made.x, made.perturbed()]) if s.resilience else made.x
    with resting(hasher, {view.side: view}):
        codes = view.code(hasher, seen, state)
    terms = {}
    to_centre = F.cosine_similarity(codes[:n], view.centres)
    if s.alignment:
        terms["alignment"] = s.alignment * torch.relu(s.alignment_floor - to_centre).mean()
    if s.hardness:
        terms["hardness"] = s.hardness * to_centre.mean()
    if s.alignment_across:
        known = (view.partner != 0).any(1).float()
        short = torch.relu(s.alignment_floor - F.cosine_similarity(codes[:n], view.partner)) * known
        terms["alignment_across"] = s.alignment_across * short.sum() / known.sum().clamp(min=1)
    if s.resilience:
        terms["resilience"] = s.resilience * (codes[n:] - codes[:n]).square().mean()
    return terms


def critic_terms(made: Made, critic: nn.Module, settings: DrfgdSettings) -> dict[str, Tensor]:
    """The discriminator's weighted term: benign inputs of the batch against what was generated."""
    view = made.view
    loss = critic_hinge(critic(view.x, view.mask), critic(made.x.detach(), view.mask))
    return {"critic": settings.realism * loss}


def _distance(made: Made) -> Tensor:
    """Mean absolute distance to the benign input, over pixels or over tokens' numbers."""
    apart = (made.x - made.view.x).abs()
    if made.view.mask is None:
        return apart.mean()
    keep = made.view.mask.unsqueeze(-1).to(apart.dtype)
    return (apart * keep).sum() / (keep.sum() * apart.shape[2]).clamp(min=1)
