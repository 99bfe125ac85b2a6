"""Switches that every defence can use: consistency, adversarial hash loss, distillation, perturbed weights.

Each is off at 0. Averaged weights are `optimiser.average` of the recipe and stronger augmentation is its
`[augment]` table: they belong to every recipe and are not repeated here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.defences.base import Batch, DefenceContext, StepState
from model.defences.perturbation import perturb
from model.defences.teacher import Teacher
from model.errors import RecipeError
from model.hashers.base import CrossModalHasher
from model.hashers.options import option
from model.losses.objective import Codes, HashObjective


@dataclass(frozen=True)
class ExtrasSettings:
    """``[defence.extras]``: weights of the switches; 0 is off."""

    consistency: float = option(0.0, low=0.0, high=1e4)
    """Mean squared difference between attacked and benign relaxed codes (after TRADES)."""
    consistency_stop: bool = True
    """Whether only the attacked code is pulled; else both meet, as in TRADES."""
    attacked_hash: float = option(0.0, low=0.0, high=1e4)
    """The hash objective with attacked images against benign texts, and the reverse, half each."""
    teacher: str = ""
    """Folder of a clean model's artefact, or ``average``: the run's own averaged weights."""
    distil_clean: float = option(0.0, low=0.0, high=1e4)
    """Mean squared difference between benign codes and the teacher's."""
    distil_attacked: float = option(0.0, low=0.0, high=1e4)
    """Mean squared difference between attacked codes and the teacher's of the benign input."""
    distil_relations: float = option(0.0, low=0.0, high=1e4)
    """Mean squared difference between attacked-to-benign similarities and the teacher's benign ones."""
    weight_perturbation: float = option(0.0, low=0.0, high=1.0)
    """Size of adversarial weight perturbation relative to each layer's own norm (0.005 in the paper)."""
    weight_perturbation_from: float = option(0.0, low=0.0, high=1.0)
    """Share of the run before which weights are not perturbed."""

    def __post_init__(self) -> None:
        if self.distils and not self.teacher:
            raise RecipeError("extras.teacher: distillation wants a folder or 'average', got none")
        if self.teacher and not self.distils:
            raise RecipeError(f"extras.teacher: got {self.teacher!r}, but every distil_* weight is 0")

    @property
    def distils(self) -> bool:
        """Whether anything is learnt from a teacher."""
        return max(self.distil_clean, self.distil_attacked, self.distil_relations) > 0


class Extras(nn.Module):
    """The switches of one run. Has no parameters; a teacher is no part of the checkpoint."""

    def __init__(self, settings: ExtrasSettings, context: DefenceContext) -> None:
        """Read the teacher, if there is one. Raises RecipeError, ArtefactError."""
        super().__init__()
        self.settings = settings
        self.teacher = Teacher.named(settings.teacher, context) if settings.teacher else None

    def perturb(self, hasher: CrossModalHasher, state: StepState, loss: Callable[[], Tensor]) -> None:
        """Until the phase's backward pass is over, move the hasher's weights to where ``loss`` is higher.

        Call it after the attack and before the losses' own forward passes. ``loss`` runs the hasher and
        gives a scalar. Does nothing when switched off.
        """
        s = self.settings
        if s.weight_perturbation and state.progress >= s.weight_perturbation_from:
            perturb(hasher, state, loss, s.weight_perturbation)

    def terms(
        self, batch: Batch, state: StepState, benign: Codes, attacked: Codes, objective: HashObjective
    ) -> dict[str, Tensor]:
        """Weighted scalar terms by name; those switched off are left out. Codes are of the global batch."""
        s = self.settings
        terms = {}
        if s.consistency:
            terms["consistency"] = s.consistency * difference(attacked, benign, stop=s.consistency_stop)
        if s.attacked_hash:
            terms["attacked_hash"] = s.attacked_hash * crossed(benign, attacked, objective)
        if self.teacher is not None:
            taught = self.teacher.codes(batch, state)
            for name, weight, codes in (
                ("distil_clean", s.distil_clean, benign),
                ("distil_attacked", s.distil_attacked, attacked),
            ):
                if weight:
                    terms[name] = weight * difference(codes, taught)
            if s.distil_relations:
                terms["distil_relations"] = s.distil_relations * relations(attacked, benign, taught)
        return terms


def difference(codes: Codes, goal: Codes, *, stop: bool = True) -> Tensor:
    """Mean squared difference per bit of relaxed codes, both modalities added up.

    TRADES (Zhang et al., ICML 2019, eq. 5) with the squared distance of codes in place of the divergence of
    class probabilities. With ``stop`` the goal is a constant.
    """
    total = codes.image.new_zeros(())
    for h, g, has in ((codes.image, goal.image, codes.has_image), (codes.text, goal.text, codes.has_text)):
        each = (h - (g.detach() if stop else g)).square().mean(1)
        total = total + (each * has).sum() / has.sum().clamp(min=1)
    return total


def crossed(benign: Codes, attacked: Codes, objective: HashObjective) -> Tensor:
    """The hash objective where one modality was attacked and the other was not, both ways, half each.

    It is what retrieval under attack is: an attacked query against a benign database.
    """
    pairs = (
        Codes(attacked.image, benign.text, benign.has_image, benign.has_text, benign.labels),
        Codes(benign.image, attacked.text, benign.has_image, benign.has_text, benign.labels),
    )
    terms = [term for codes in pairs for term in objective(codes).values()]
    return 0.5 * torch.stack(terms).sum()


def relations(attacked: Codes, benign: Codes, taught: Codes) -> Tensor:
    """Mean squared error of cosine-like similarities <u, v> / K of attacked to benign codes of the batch.

    Relational distillation (Park et al., CVPR 2019) over all four pairings of modalities; the teacher may
    use its own code space.
    """
    total, bits = benign.image.new_zeros(()), benign.image.shape[1]
    ours = ((attacked.image, benign.image), (attacked.text, benign.text))
    theirs, present = (taught.image, taught.text), (benign.has_image, benign.has_text)
    for i, (query, _) in enumerate(ours):
        for j, (_, database) in enumerate(ours):
            weights = present[i][:, None] * present[j][None, :]
            gap = (query @ database.T - theirs[i] @ theirs[j].T) / bits
            total = total + 0.25 * (gap.square() * weights).sum() / weights.sum().clamp(min=1)
    return total
