"""A tiny DRFGD: hasher, batch, state, and a defence whose settings a test may change."""

from contextlib import nullcontext

import torch

from model.defences.base import Batch, DefenceContext, StepState
from model.defences.drfgd.defence import Drfgd
from model.defences.drfgd.settings import DrfgdSettings
from model.defences.drfgd.views import make_views
from model.hashers.registry import build_hasher
from model.losses.objective import LossSettings
from model.training.phases import frozen_except
from model.training.randomness import lent_randomness

BITS, CLASSES, SIDE, WIDTH = 16, 4, 16, 8
ARCHITECTURE = {
    "image": {"kind": "residual_cnn", "size": SIDE, "stem": 4, "widths": [6], "pools": [1], "hidden": 8},
    "text": {"kind": "conv", "vocabulary_size": 20, "dim": 6, "width": 4, "layers": 1, "hidden": 8},
}
SMALL = {"width": WIDTH, "image_channels": 4, "text_channels": 6, "inner": {"steps": 1, "eps_text": 0.5}}
CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def num(tensor):
    """The number that a tensor of one entry holds."""
    return tensor.detach().item()


def make_hasher(architecture=ARCHITECTURE, seed=0):
    with lent_randomness(CPU, seed, "hasher"):
        return build_hasher(architecture, BITS).train()


def make_state(phase="hash", step=0, seed=0):
    return StepState(phase, step, 10, seeded(seed), lambda rows: rows, nullcontext)


def make_batch(n=8, has_image=None, has_text=None, seed=0):
    g = seeded(seed)
    labels = torch.eye(CLASSES)[torch.arange(n) % CLASSES]
    labels[0, 1] = 1.0  # one item with two labels
    tokens = torch.randint(1, 20, (n, 5), generator=g)
    tokens[1, 3:] = 0
    return Batch(
        images=torch.rand(n, 3, SIDE, SIDE, generator=g),
        tokens=tokens,
        labels=labels,
        has_image=torch.ones(n) if has_image is None else torch.tensor(has_image),
        has_text=torch.ones(n) if has_text is None else torch.tensor(has_text),
        items=torch.arange(n),
    )


def make_defence(context=None, **changes):
    """A defence of the small sizes; `changes` are settings."""
    context = context or DefenceContext(
        BITS, torch.eye(CLASSES).repeat(5, 1), LossSettings(), embedding_width=6
    )
    with lent_randomness(CPU, 0, "defence"):
        return Drfgd(DrfgdSettings(**{**SMALL, **changes}), context).train()


def run_phase(defence, hasher, batch, phase, step=0):
    """The terms of a phase as the loop asks for them, and their gradients put in place."""
    trains = next(each.trains for each in defence.phases if each.name == phase)
    groups = defence.groups(hasher)
    for module in groups.values():
        module.zero_grad()
    with frozen_except(groups, trains), lent_randomness(CPU, 0, phase):
        terms = defence.losses(hasher, batch, make_state(phase, step))
        torch.stack(list(terms.values())).sum().backward()
    return terms


def make_side(defence, hasher, batch, side="image"):
    """The view of one side, attacked."""
    state = make_state()
    defence.stored.prime(hasher, batch, state)
    centres = defence.stored.mainstay(batch.labels)
    adversaries = defence.inner(hasher, batch, centres, state)
    return make_views(hasher, batch, adversaries, centres, defence.stored)[side]
