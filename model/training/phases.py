"""What the loop demands of a defence's phases and groups, and freezing what a phase does not train."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from model.defences.base import Defence
from model.errors import TrainingError
from model.hashers.base import CrossModalHasher


def check_groups(defence: Defence, hasher: CrossModalHasher) -> None:
    """Refuse a defence whose declaration the loop could not honour.

    Raises:
        TrainingError: a phase trains a group that is not there, two groups share a parameter, a group has
            a parameter of neither the hasher nor the defence (checkpoints would miss it), or no group is
            the hasher.

    """
    groups = defence.groups(hasher)
    if groups.get("hasher") is not hasher:
        raise TrainingError(f"defence {defence.name}: its group 'hasher' must be the hasher")
    for phase in defence.phases:
        missing = sorted(set(phase.trains) - groups.keys())
        if missing:
            raise TrainingError(
                f"defence {defence.name}: phase {phase.name!r} trains {', '.join(missing)}, "
                f"groups are {', '.join(sorted(groups))}"
            )
    ours = {id(p) for module in (hasher, defence) for p in module.parameters()}
    owner: dict[int, str] = {}
    for name, module in groups.items():
        for parameter in module.parameters():
            other = owner.setdefault(id(parameter), name)
            if other != name:
                raise TrainingError(f"defence {defence.name}: groups {other} and {name} share a parameter")
            if id(parameter) not in ours:
                raise TrainingError(f"defence {defence.name}: group {name} is not part of the defence")


@contextmanager
def frozen_except(groups: Mapping[str, nn.Module], trains: Sequence[str]) -> Iterator[None]:
    """Within the block only the named groups' parameters require gradients; afterwards as before.

    Gradients with respect to inputs flow through frozen groups all the same, so a generator can be
    trained through a frozen hasher at less cost.
    """
    others = [p for name, module in groups.items() if name not in trains for p in module.parameters()]
    frozen = [p for p in others if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
