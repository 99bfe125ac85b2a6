"""The registry of defences, the undefended one, and encoding with absent modalities."""

from contextlib import nullcontext

import pytest
import torch

from model.defences.base import Batch, DefenceContext, Phase, StepState
from model.defences.encoding import encode
from model.defences.none import NoneSettings, Undefended
from model.defences.registry import DEFENCES, read_defence
from model.errors import RecipeError, TrainingError, UnknownName
from model.hashers.registry import build_hasher
from model.losses.objective import LossSettings
from model.training.phases import check_groups, frozen_except
from model.training.randomness import lent_randomness

ARCHITECTURE = {
    "image": {"kind": "residual_cnn", "size": 16, "stem": 4, "widths": [6], "pools": [1], "hidden": 8},
    "text": {"kind": "conv", "vocabulary_size": 20, "dim": 4, "width": 4, "layers": 1, "hidden": 8},
}
CONTEXT = DefenceContext(16, torch.eye(4).repeat(3, 1), LossSettings(), embedding_width=4)


def state(phase="hash"):
    generator = torch.Generator().manual_seed(0)
    return StepState(phase, 0, 10, generator, lambda rows: rows, nullcontext)


def batch(n=6, has_image=None, has_text=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Batch(
        images=torch.rand(n, 3, 16, 16, generator=g),
        tokens=torch.randint(1, 20, (n, 5), generator=g),
        labels=torch.eye(4)[torch.arange(n) % 4],
        has_image=torch.ones(n) if has_image is None else torch.tensor(has_image),
        has_text=torch.ones(n) if has_text is None else torch.tensor(has_text),
        items=torch.arange(n),
    )


@pytest.mark.parametrize("name", sorted(DEFENCES))
def test_every_defence_gives_finite_terms_that_reach_the_hasher(name):
    entry, settings = read_defence(name, {})
    defence = entry.build(settings, CONTEXT)
    assert defence.name == name
    hasher = build_hasher(ARCHITECTURE, 16)
    check_groups(defence, hasher)
    for phase in defence.phases:
        terms = defence.losses(hasher, batch(), state(phase.name))
        assert terms
        assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
        torch.stack(list(terms.values())).sum().backward()
    gradients = [p.grad for p in hasher.parameters() if p.grad is not None]
    assert any(g.abs().sum() > 0 for g in gradients)


def test_an_unknown_defence_and_an_unknown_key_are_refused():
    with pytest.raises(UnknownName) as caught:
        read_defence("magic", {})
    assert "none" in caught.value.known
    with pytest.raises(RecipeError, match="strength"):
        read_defence("none", {"strength": 3})


def test_rows_without_a_modality_get_zero_codes_and_leave_no_trace():
    hasher = build_hasher(ARCHITECTURE, 16)
    has = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    first, second = batch(has_image=has), batch(has_image=has)
    second.images[1] = 1.0
    found = []
    for each in (first, second):
        with lent_randomness(torch.device("cpu"), 0, "dropout"):
            found.append(encode(hasher, each, state()))
    one, two = found
    assert torch.equal(one.image[1], torch.zeros(16))
    assert one.has_image.tolist() == has
    assert torch.equal(one.image, two.image)


def test_a_single_row_cannot_be_normalised_and_is_left_out():
    hasher = build_hasher(ARCHITECTURE, 16)
    codes = encode(hasher, batch(has_text=[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), state())
    assert codes.has_text.sum() == 0
    assert not codes.text.any()
    assert codes.image.abs().sum() > 0


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_model_of_one_tower_trains(side):
    hasher = build_hasher({side: ARCHITECTURE[side]}, 16)
    terms = Undefended(NoneSettings(), CONTEXT).losses(hasher, batch(), state())
    assert terms["inter"].item() == 0
    assert terms["intra"].item() > 0


class Broken(Undefended):
    """A defence whose declaration can be spoiled."""

    name = "broken"


@pytest.mark.parametrize("how", ["missing", "shared", "foreign", "no hasher"])
def test_declarations_that_cannot_be_honoured_are_refused(how):
    hasher, other = build_hasher(ARCHITECTURE, 16), torch.nn.Linear(2, 2)
    groups = {
        "missing": lambda d: {"hasher": hasher},
        "shared": lambda d: {"hasher": hasher, "defence": d, "twice": d.objective},
        "foreign": lambda d: {"hasher": hasher, "defence": d, "extra": other},
        "no hasher": lambda d: {"hasher": d, "defence": hasher},
    }[how]
    said = {
        "missing": "trains defence",
        "shared": "share a parameter",
        "foreign": "not part of the defence",
        "no hasher": "must be the hasher",
    }[how]
    defence = Broken(NoneSettings(), CONTEXT)
    defence.groups = lambda _: groups(defence)
    with pytest.raises(TrainingError, match=said):
        check_groups(defence, hasher)


def test_freezing_is_undone_and_lets_input_gradients_through():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    b.bias.requires_grad_(False)
    x = torch.rand(1, 2, requires_grad=True)
    with frozen_except({"a": a, "b": b}, ("b",)):
        a(x).sum().backward()
        assert not a.weight.requires_grad
        assert b.weight.requires_grad
    assert x.grad is not None
    assert a.weight.grad is None
    assert a.weight.requires_grad
    assert not b.bias.requires_grad


def test_a_phase_is_only_a_name_and_groups():
    assert Undefended.phases == (Phase("hash", ("hasher", "defence")),)
