"""SAAT, semantic-aware adversarial training, of both modalities.

Yuan, Zhang, Wang, Wu (IEEE TIFS 18, 2023, doi 10.1109/TIFS.2023.3297791). Inner step: push the code away from
the item's mainstay code, the sign of what the codes of items with its labels have over those without. Outer
step: the hash loss on benign inputs, plus ``attack`` * (-<F(x_adv), m> / K), plus ``attack_quantisation``
times the quantisation of F(x_adv). The paper defends images of an image hasher and starts from a trained
one; ours attacks and defends images and embedded texts, takes the mainstay over the codes of both
modalities, and trains from scratch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from model.defences.base import Batch, Defence, DefenceContext, StepState
from model.defences.centres import StoredCodes
from model.defences.encoding import encode, encode_attacked, encode_together
from model.defences.extras import Extras, ExtrasSettings
from model.defences.inner import Adversaries, InnerAttack, InnerSettings
from model.hashers.base import CrossModalHasher
from model.hashers.options import option, read_options
from model.losses.objective import Codes, HashObjective
from model.losses.quantisation import quantisation


@dataclass(frozen=True)
class SaatSettings:
    """The recipe's ``[defence]`` table for ``saat``."""

    attack: float = option(1.0, low=0.0, high=1e4)
    """Weight of the attacked codes' distance from the mainstay: the paper's lambda."""
    attack_quantisation: float = option(1e-4, low=0.0, high=1e4)
    """Weight of the attacked codes' quantisation: the paper's mu."""
    together: bool = False
    """Whether benign and attacked inputs pass a tower as one batch, with the same batch statistics."""
    inner: dict[str, Any] = field(default_factory=dict)
    """The table of `InnerSettings`."""
    extras: dict[str, Any] = field(default_factory=dict)
    """The table of `ExtrasSettings`."""

    def __post_init__(self) -> None:
        self.inner_settings()
        self.extras_settings()

    def inner_settings(self) -> InnerSettings:
        """The checked inner table; raises RecipeError."""
        return read_options(InnerSettings, self.inner, "defence.inner")

    def extras_settings(self) -> ExtrasSettings:
        """The checked extras table; raises RecipeError."""
        return read_options(ExtrasSettings, self.extras, "defence.extras")


class Saat(Defence):
    """The terms of `HashObjective` on benign codes, and SAAT's on attacked ones."""

    name: ClassVar[str] = "saat"

    def __init__(self, settings: SaatSettings, context: DefenceContext) -> None:
        """Build the parts for the training items' labels. Raises RecipeError, ArtefactError (a teacher)."""
        super().__init__()
        self.settings = settings
        self.objective = HashObjective(context.loss, context.labels.mean(0), context.bits)
        self.stored = StoredCodes(context.labels, context.bits)
        self.inner = InnerAttack(settings.inner_settings())
        self.extras = Extras(settings.extras_settings(), context)

    def threat(self) -> dict[str, Any]:
        """The inner attack's budgets."""
        return self.inner.threat()

    def losses(self, hasher: CrossModalHasher, batch: Batch, state: StepState) -> dict[str, Tensor]:
        """Benign terms, and from where the attack begins those of the attacked codes."""
        if not self.inner.active(state):
            benign = encode(hasher, batch, state)
            self.stored.store(batch, benign, state)
            return dict(self.objective(benign))
        self.stored.prime(hasher, batch, state)
        anchors = self.stored.mainstay(batch.labels)
        made: Adversaries = self.inner(hasher, batch, anchors, state)
        self.extras.perturb(hasher, state, self._hardness(hasher, batch, made, state))
        benign, attacked = self._encode(hasher, batch, made, state)
        self.stored.store(batch, benign, state)
        terms: dict[str, Tensor] = self.objective(benign)
        terms |= self.attacked_terms(attacked)
        return terms | self.extras.terms(batch, state, benign, attacked, self.objective)

    def attacked_terms(self, attacked: Codes) -> dict[str, Tensor]:
        """SAAT's two terms, each the sum over modalities; the mainstay is of the refreshed codes."""
        s = self.settings
        terms = {"mainstay": s.attack * mainstay_distance(attacked, self.stored.mainstay(attacked.labels))}
        if s.attack_quantisation:
            sides = ((attacked.image, attacked.has_image), (attacked.text, attacked.has_text))
            total = torch.stack([quantisation(h, has) for h, has in sides]).sum()
            terms["attacked_quantisation"] = s.attack_quantisation * total
        return terms

    def _encode(
        self, hasher: CrossModalHasher, batch: Batch, made: Adversaries, state: StepState
    ) -> tuple[Codes, Codes]:
        """Benign and attacked codes."""
        if self.settings.together:
            return encode_together(hasher, batch, made, state)
        # The attacked pass comes first, so that running statistics end nearer to the benign ones.
        attacked = encode_attacked(hasher, batch, made, state)
        return encode(hasher, batch, state), attacked

    def _hardness(
        self, hasher: CrossModalHasher, batch: Batch, made: Adversaries, state: StepState
    ) -> Callable[[], Tensor]:
        """What weight perturbation raises: the attacked codes' distance from the mainstay."""

        def loss() -> Tensor:
            attacked = encode_attacked(hasher, batch, made, state)
            return mainstay_distance(attacked, self.stored.mainstay(attacked.labels))

        return loss


def mainstay_distance(codes: Codes, mainstay: Tensor) -> Tensor:
    """Mean of -<h, m> / K over the items that have a modality, both modalities added up: in [-2, 2]."""
    total = mainstay.new_zeros(())
    for h, has in ((codes.image, codes.has_image), (codes.text, codes.has_text)):
        each = -(h * mainstay).mean(1)
        total = total + (each * has).sum() / has.sum().clamp(min=1)
    return total
