"""Sizes of a change: SSIM against another library's, ruler sizes against their definitions."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure as other_ssim

from model.errors import DataError
from model.evaluation.perception import sizes, ssim


def pictures(n, side=24, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.01, 0.1, 0.5])
def test_ssim_agrees_with_torchmetrics(strength):
    x = pictures(3)
    y = (x + strength * (pictures(3, seed=1) - 0.5)).clamp(0, 1)
    _, places = other_ssim(
        y.double(), x.double(), data_range=1.0, kernel_size=11, sigma=1.5, return_full_image=True
    )
    inner = places[..., 5:-5, 5:-5]  # theirs also counts the border, where the window hangs over
    np.testing.assert_allclose(ssim(x, y), inner.flatten(1).mean(1), atol=1e-9)


def test_equal_pictures_are_alike_and_inverted_ones_are_not():
    x = pictures(2)
    np.testing.assert_allclose(ssim(x, x), 1.0)
    assert float(ssim(x, 1 - x).max()) < 0


def test_small_pictures_have_a_smaller_window():
    x = pictures(2, side=5)
    assert ssim(x, x).tolist() == pytest.approx([1, 1])


def test_sizes_are_those_of_the_change():
    x = torch.zeros(2, 3, 12, 12)
    y = x.clone()
    y[1, 0, 0, :4] = 0.5
    found = sizes(y, x)
    assert found["linf"].tolist() == [0.0, 0.5]
    assert found["l2"].tolist() == [0.0, 1.0]
    assert found["ssim"][0] == pytest.approx(1)
    assert found["ssim"][1] < 1


def test_unlike_shapes_are_refused():
    with pytest.raises(DataError, match="wanted two batches"):
        ssim(pictures(1), pictures(2))
