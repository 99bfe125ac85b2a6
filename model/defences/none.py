"""No defence: the hashing objective on clean examples, the baseline that every defence is measured from."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from model.defences.base import Batch, Defence, DefenceContext, StepState
from model.defences.encoding import encode
from model.hashers.base import CrossModalHasher
from model.losses.objective import HashObjective


@dataclass(frozen=True)
class NoneSettings:
    """The recipe's ``[defence]`` table for ``none``: it has no keys."""


class Undefended(Defence):
    """The terms of `HashObjective` on the batch as it is."""

    name: ClassVar[str] = "none"

    def __init__(self, settings: NoneSettings, context: DefenceContext) -> None:
        """Build the objective for the training items' labels."""
        super().__init__()
        self.settings = settings
        self.objective = HashObjective(context.loss, context.labels.mean(0), context.bits)

    def losses(self, hasher: CrossModalHasher, batch: Batch, state: StepState) -> dict[str, Tensor]:
        """The weighted terms of the hashing objective."""
        terms: dict[str, Tensor] = self.objective(encode(hasher, batch, state))
        return terms
