"""HSIC and its kin against slow definitions."""

import numpy as np
import pytest
import torch
from drfgd_made import num, seeded

from model.losses.independence import (
    bernoulli_divergence,
    dependence,
    gaussian_kernel,
    hsic,
    label_residual,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def textbook(k, l):
    """tr(K H L H) / (n - 1)^2 by explicit matrices in NumPy."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ h @ l @ h) / (n - 1) ** 2


def test_hsic_is_the_textbook_one():
    x, y = draw(9, 3), draw(9, 5, seed=1)
    k, l = gaussian_kernel(x), gaussian_kernel(y)
    assert num(hsic(k, l)) == pytest.approx(textbook(k.numpy(), l.numpy()), rel=1e-12)
    linear = x @ x.T
    assert num(hsic(linear, y @ y.T)) == pytest.approx(textbook(linear.numpy(), (y @ y.T).numpy()))


def test_the_linear_form_is_the_norm_of_the_cross_covariance():
    x, y = draw(20, 3), draw(20, 2, seed=1)
    covariance = (x - x.mean(0)).T @ (y - y.mean(0)) / 19
    assert num(hsic(x @ x.T, y @ y.T)) == pytest.approx(num(covariance.square().sum()))


def test_the_kernel_is_gaussian_with_the_median_distance():
    x = draw(5, 2)
    apart = [num((x[i] - x[j]).square().sum()) for i in range(5) for j in range(5) if i != j]
    wanted = np.exp(-num((x[1] - x[3]).square().sum()) / num(torch.tensor(apart).median()))
    assert num(gaussian_kernel(x)[1, 3]) == pytest.approx(wanted)


def test_dependence_is_one_of_itself_at_any_scale_and_low_of_noise():
    x, noise = draw(200, 3), draw(200, 3, seed=1)
    assert num(dependence(x, 7 * x + 2)) == pytest.approx(1.0)
    hidden = x.square() + 0.1 * noise  # uncorrelated, yet dependent
    assert num(dependence(x, hidden)) > 3 * num(dependence(x, noise))
    assert 0 <= num(dependence(x, noise)) < 0.1


@pytest.mark.parametrize("n", [1, 2, 6])
def test_what_does_not_vary_depends_on_nothing_and_has_finite_slopes(n):
    x = draw(n, 3).requires_grad_(True)
    value = dependence(x, torch.ones(n, 2, dtype=torch.float64))
    value.backward()
    assert num(value) == pytest.approx(0.0, abs=1e-6)
    assert bool(x.grad.isfinite().all())


def test_rows_that_coincide_have_finite_slopes():
    x = torch.cat([draw(3, 2), draw(3, 2)]).requires_grad_(True)
    dependence(x, draw(6, 2, seed=1)).backward()
    assert bool(x.grad.isfinite().all())


def test_minimising_dependence_makes_independent():
    x, y = draw(64, 2), draw(64, 2)
    moved = y.clone().requires_grad_(True)
    before = num(dependence(x, moved))
    optimiser = torch.optim.Adam([moved], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        dependence(x, moved).backward()
        optimiser.step()
    assert num(dependence(x, moved)) < 0.3 * before


def test_the_residual_of_single_labels_is_without_the_class_mean():
    labels = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 2, 2, 2])]
    z = draw(6, 4)
    wanted = z.clone()
    for c in range(3):
        rows = labels[:, c] > 0
        wanted[rows] -= z[rows].mean(0)
    assert torch.allclose(label_residual(z, labels), wanted)
    explained = labels @ draw(3, 4, seed=2)
    assert torch.allclose(label_residual(explained, labels), torch.zeros(6, 4, dtype=torch.float64))


def test_a_row_without_labels_loses_the_mean_of_all():
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    z = draw(3, 2).float()
    assert torch.allclose(label_residual(z, labels)[2], z[2] - z.mean(0), atol=1e-6)


def test_the_divergence_is_that_of_independent_bernoullis():
    a, b = draw(4, 3), draw(4, 3, seed=1)
    p, q = (torch.distributions.Bernoulli(logits=each) for each in (a, b))
    wanted = torch.distributions.kl_divergence(p, q).sum(1)
    assert torch.allclose(bernoulli_divergence(a, b), wanted)
    assert torch.allclose(bernoulli_divergence(a, a), torch.zeros(4, dtype=torch.float64))
    assert bool(bernoulli_divergence(60 * a, -60 * a).isfinite().all())
