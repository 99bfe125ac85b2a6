"""The weighted objective: which terms it has, how absent modalities are hidden, that it can be trained."""

import dataclasses

import pytest
import torch

from model.losses.objective import Codes, HashObjective, LossSettings
from model.losses.quantisation import quantisation

ALL = LossSettings(balance=0.1, decorrelation=0.1, ranking=0.5)


def batch(n=6, bits=8, labels=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Codes(
        image=torch.rand(n, bits, generator=g) * 1.8 - 0.9,
        text=torch.rand(n, bits, generator=g) * 1.8 - 0.9,
        has_image=torch.ones(n),
        has_text=torch.ones(n),
        labels=(torch.rand(n, labels, generator=g) < 0.5).float(),
    )


def objective(settings=ALL):
    torch.random.default_generator.manual_seed(1)
    return HashObjective(settings, torch.full((3,), 0.4), 8)


def test_terms_are_named_and_a_zero_weight_removes_one():
    codes = batch()
    names = {"inter", "intra", "proxy", "quantisation", "balance", "decorrelation", "ranking"}
    assert set(objective()(codes)) == names
    for name in names:
        assert set(objective(dataclasses.replace(ALL, **{name: 0.0}))(codes)) == names - {name}


def test_weights_scale_their_term():
    codes = batch()
    one = objective(dataclasses.replace(ALL, quantisation=1.0))(codes)["quantisation"]
    three = objective(dataclasses.replace(ALL, quantisation=3.0))(codes)["quantisation"]
    assert three.item() == pytest.approx(3 * one.item())
    direct = quantisation(codes.image, codes.has_image) + quantisation(codes.text, codes.has_text)
    assert one.item() == pytest.approx(direct.item())


@pytest.mark.parametrize("side", ["image", "text"])
def test_an_absent_item_changes_nothing(side):
    codes = batch()
    has = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    hidden = dataclasses.replace(codes, **{f"has_{side}": has})
    moved = getattr(hidden, side).clone()
    moved[2] = 0.77
    other = dataclasses.replace(hidden, **{side: moved})
    first, second = objective()(hidden), objective()(other)
    for name in first:
        assert first[name].item() == pytest.approx(second[name].item(), abs=1e-6), name


def test_image_only_has_no_inter_term_and_is_finite():
    codes = batch()
    alone = dataclasses.replace(codes, text=torch.zeros_like(codes.text), has_text=torch.zeros(6))
    terms = objective()(alone)
    assert terms["inter"].item() == 0
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms["intra"].item() > 0


def test_an_item_is_not_its_own_neighbour_within_a_modality():
    settings = LossSettings(inter=0, proxy=0, quantisation=0, intra=1.0)
    codes = batch(n=1)
    assert objective(settings)(codes)["intra"].item() == 0


def test_gradient_descent_brings_relevant_codes_together():
    labels = torch.eye(2).repeat(4, 1)
    torch.random.default_generator.manual_seed(3)
    h = torch.nn.Parameter(torch.randn(16, 8) * 0.1)
    loss = HashObjective(LossSettings(), labels.mean(0), 8)
    optimiser = torch.optim.Adam([h, *loss.parameters()], lr=0.05)
    for _ in range(150):
        relaxed = torch.tanh(h)
        terms = loss(Codes(relaxed[:8], relaxed[8:], torch.ones(8), torch.ones(8), labels))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    codes = torch.where(h >= 0, 1.0, -1.0)
    distance = (8 - codes[:8] @ codes[8:].T) / 2
    relevant = labels @ labels.T > 0
    assert distance[relevant].max() < distance[~relevant].min()
