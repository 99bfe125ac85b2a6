"""One AdamW per group of a defence, with rates and decay by parameter."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from model.errors import RecipeError
from model.training.config import OptimiserSettings

KEPT_GROUP = "hasher"
"""The group whose parameter names stand without a prefix in recipes, and whose matrices decay."""


def build_optimisers(
    groups: Mapping[str, nn.Module], settings: OptimiserSettings
) -> dict[str, torch.optim.AdamW]:
    """Optimisers by group; each parameter group carries its ``factor`` on the rate.

    A factor of 0 freezes: such parameters require no gradient from here on, which saves their backward pass.
    Weight decay is for the hasher's and extra networks' matrices; vectors have none, and neither has the
    group "defence" (label centres and scales are not to shrink).

    Raises:
        RecipeError: a prefix in ``rates`` that no parameter's name begins with.

    """
    unused = set(settings.rates)
    optimisers = {}
    for group, module in groups.items():
        buckets: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            full = name if group == KEPT_GROUP else f"{group}.{name}"
            prefix = max((p for p in settings.rates if full.startswith(p)), key=len, default=None)
            unused.discard(prefix or "")
            factor = 1.0 if prefix is None else float(settings.rates[prefix])
            if factor == 0:
                parameter.requires_grad_(False)
                continue
            decays = parameter.ndim > 1 and group != "defence"
            buckets.setdefault((factor, settings.weight_decay if decays else 0.0), []).append(parameter)
        if buckets:
            optimisers[group] = _adamw(buckets, settings)
    if unused:
        raise RecipeError(f"optimiser.rates: no parameter's name begins with {', '.join(sorted(unused))}")
    return optimisers


def _adamw(
    buckets: Mapping[tuple[float, float], list[nn.Parameter]], settings: OptimiserSettings
) -> torch.optim.AdamW:
    """AdamW over buckets by (factor, weight decay)."""
    parts: list[dict[str, Any]] = [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in buckets.items()
    ]
    return torch.optim.AdamW(parts, lr=settings.rate, betas=(settings.beta1, settings.beta2))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every parameter group's rate to ``rate`` times its factor."""
    for part in optimiser.param_groups:
        part["lr"] = rate * part["factor"]
