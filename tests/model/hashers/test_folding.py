"""Rewritten convolution layers are the same function, and come back as they were."""

import pytest
import torch
from torch import nn

from model.hashers.folding import folded_norms, pad_in_convolutions
from model.hashers.hub import make_model

CONFIGS = {
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25, "finegrained_output": False, "output_stride": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}


def backbone(kind):
    torch.manual_seed(0)
    made = make_model({"model_type": kind, **CONFIGS[kind]})
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):  # fresh ones fold into nothing
            part.running_mean.normal_(0.0, 0.2)
            part.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0.0, 0.2)
    return made.eval()


def images(side=33):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def maps(made, x):
    return made(pixel_values=x).last_hidden_state


def slope(made, x):
    x = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(maps(made, x).square().sum(), x)
    return found


def close(got, wanted):
    return (got - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_folding_keeps_the_function_and_its_slope_and_leaves_no_norm(kind):
    made, x = backbone(kind), images()
    values, slopes = maps(made, x).detach(), slope(made, x)
    with folded_norms(made):
        assert not any(isinstance(part, nn.BatchNorm2d) for part in made.modules())
        assert close(maps(made, x).detach(), values)
        assert close(slope(made, x), slopes)


@pytest.mark.parametrize("kind", CONFIGS)
def test_folding_restores_the_very_parts_even_after_an_error(kind):
    made = backbone(kind)
    before = dict(made.named_modules())
    with pytest.raises(RuntimeError, match="meant"), folded_norms(made):
        raise RuntimeError("meant")
    after = dict(made.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is part for name, part in before.items())


def test_norms_in_training_mode_are_not_folded():
    made = backbone("resnet").train()
    before = dict(made.named_modules())
    with folded_norms(made):
        assert dict(made.named_modules()) == before


@pytest.mark.parametrize("side", [32, 33, 47])
@pytest.mark.parametrize("kind", ["mobilenet_v1", "mobilenet_v2"])
def test_padding_within_the_convolution_gives_the_very_same_values(kind, side):
    made, x = backbone(kind), images(side)
    values = maps(made, x)
    pad_in_convolutions(made)
    moved = [part for part in made.modules() if isinstance(part, nn.Conv2d) and part.padding != (0, 0)]
    assert moved
    assert torch.equal(maps(made, x), values)


def test_only_padding_at_stride_1_moves():
    made = backbone("mobilenet_v2")
    pad_in_convolutions(made)
    strided = [part for part in made.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)]
    assert [part.padding for part in strided] == [(0, 0)] * len(strided) != []


def test_padding_of_other_backbones_stays():
    made = backbone("resnet")
    before = [part.padding for part in made.modules() if isinstance(part, nn.Conv2d)]
    pad_in_convolutions(made)
    assert [part.padding for part in made.modules() if isinstance(part, nn.Conv2d)] == before
