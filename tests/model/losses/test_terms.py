"""Each loss term against its formula written out in loops, and its gradient against finite differences."""

import math

import numpy as np
import pytest
import torch

from model.losses.balance import bit_balance, bit_decorrelation
from model.losses.pairwise import PairwiseLikelihood, balance
from model.losses.proxy import ProxyLikelihood
from model.losses.quantisation import quantisation, straight_through
from model.losses.ranking import smooth_average_precision
from model.losses.similarity import shared_label


@pytest.fixture
def draw():
    """Seeded doubles: codes, multi-hot labels and presence masks."""
    generator = torch.Generator().manual_seed(5)

    def make(*shape, kind="code"):
        values = torch.rand(*shape, generator=generator, dtype=torch.float64)
        if kind == "code":
            return (values * 1.9 - 0.95).requires_grad_()
        return (values < 0.5).double()

    return make


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_shared_label_is_a_shared_label(draw):
    a, b = draw(6, 4, kind="mask"), draw(5, 4, kind="mask")
    for i, j in ((i, j) for i in range(6) for j in range(5)):
        in_common = any(x == y == 1 for x, y in zip(a[i].tolist(), b[j].tolist(), strict=True))
        assert shared_label(a, b)[i, j] == float(in_common)
    assert torch.equal(shared_label(a), shared_label(a, a))


def test_an_item_without_labels_is_relevant_to_nobody():
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert shared_label(labels).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_pairwise_likelihood_against_loops(draw):
    loss = PairwiseLikelihood(scale=7.0, offset=-1.5).double()
    u, v = draw(4, 6), draw(3, 6)
    relevant, counted = draw(4, 3, kind="mask"), draw(4, 3, kind="mask")
    total = weight = 0.0
    for i in range(4):
        for j in range(3):
            phi = 7.0 * float(u[i].detach() @ v[j].detach()) / 6 - 1.5
            each = math.log(1 + math.exp(phi)) - float(relevant[i, j]) * phi
            total += each * float(counted[i, j])
            weight += float(counted[i, j])
    assert loss(u, v, relevant, counted).item() == pytest.approx(total / weight, rel=1e-6)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, relevant, counted), (u, v))


def test_pairwise_likelihood_of_no_pairs_is_zero(draw):
    loss = PairwiseLikelihood(10.0, -3.0).double()
    assert loss(draw(2, 4), draw(2, 4), torch.ones(2, 2).double(), torch.zeros(2, 2).double()).item() == 0.0


def test_pairwise_likelihood_of_binary_codes_is_that_of_their_signs(draw):
    u, v = draw(4, 6), draw(3, 6)
    relevant, counted = draw(4, 3, kind="mask"), draw(4, 3, kind="mask")
    signs = [torch.where(each.detach() >= 0, 1.0, -1.0).double() for each in (u, v)]
    plain = PairwiseLikelihood(7.0, -1.5).double()
    whole = PairwiseLikelihood(7.0, -1.5, binary=1.0).double()
    half = PairwiseLikelihood(7.0, -1.5, binary=0.5).double()
    on_signs, on_relaxed = plain(*signs, relevant, counted), plain(u, v, relevant, counted)
    assert whole(u, v, relevant, counted).item() == pytest.approx(on_signs.item())
    both = (on_signs.item() + on_relaxed.item()) / 2
    assert half(u, v, relevant, counted).item() == pytest.approx(both)
    whole(u, v, relevant, counted).backward()
    assert u.grad is not None
    assert u.grad.abs().sum() > 0


def test_straight_through_is_the_sign_with_the_gradient_of_the_identity():
    h = torch.tensor([-0.3, 0.0, 0.8], requires_grad=True)
    codes = straight_through(h)
    assert codes.tolist() == [-1.0, 1.0, 1.0]
    (codes * torch.tensor([2.0, 3.0, 4.0])).sum().backward()
    assert h.grad.tolist() == [2.0, 3.0, 4.0]


def test_balanced_pairs_weigh_half_and_half(draw):
    u, v = draw(4, 6), draw(5, 6)
    relevant, counted = draw(4, 5, kind="mask"), draw(4, 5, kind="mask")
    losses = {True: [], False: []}
    for i in range(4):
        for j in range(5):
            if counted[i, j]:
                phi = 3.0 * float(u[i].detach() @ v[j].detach()) / 6 - 1.0
                each = math.log(1 + math.exp(phi)) - float(relevant[i, j]) * phi
                losses[bool(relevant[i, j])].append(each)
    wanted = np.mean(losses[True]) / 2 + np.mean(losses[False]) / 2
    loss = PairwiseLikelihood(3.0, -1.0, balanced=True).double()
    assert loss(u, v, relevant, counted).item() == pytest.approx(wanted, rel=1e-6)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, relevant, counted), (u, v))


def test_balance_with_one_kind_of_pairs_counts_that_kind():
    ones = torch.ones(2, 2)
    assert balance(ones, ones).sum().item() == pytest.approx(0.5)
    loss = PairwiseLikelihood(3.0, -1.0, balanced=True)
    plain = PairwiseLikelihood(3.0, -1.0)
    u = torch.tensor([[0.5, 0.5], [-0.5, 0.5]])
    assert loss(u, u, ones, ones).item() == pytest.approx(plain(u, u, ones, ones).item())


def test_pairwise_scale_and_offset_are_learnt(draw):
    loss = PairwiseLikelihood(10.0, -3.0).double()
    loss(draw(3, 4), draw(3, 4), torch.eye(3).double(), torch.ones(3, 3).double()).backward()
    assert loss.log_scale.grad is not None
    assert loss.offset.grad is not None
    assert float(loss.offset.grad) != 0


def test_proxy_likelihood_against_loops(draw):
    prior = torch.tensor([0.5, 0.1, 0.0])
    loss = ProxyLikelihood(prior, bits=5, scale=4.0).double()
    h, labels, present = draw(4, 5), draw(4, 3, kind="mask"), torch.tensor([1.0, 0.0, 1.0, 1.0]).double()
    centres, offsets = loss.centres.detach().numpy(), loss.offsets.detach().numpy()
    rows = []
    for i in range(4):
        row = 0.0
        for c in range(3):
            code = h[i].detach().numpy()
            cosine = code @ centres[c] / np.linalg.norm(code) / np.linalg.norm(centres[c])
            p = sigmoid(4.0 * cosine + offsets[c])
            row -= math.log(p) if labels[i, c] else math.log(1 - p)
        rows.append(row)
    wanted = (rows[0] + rows[2] + rows[3]) / 3
    assert loss(h, labels, present).item() == pytest.approx(wanted, rel=1e-6)
    assert torch.autograd.gradcheck(lambda a: loss(a, labels, present), (h,))
    assert offsets == pytest.approx([-2, math.log(0.1 / 0.9) - 2, math.log(1e-4 / (1 - 1e-4)) - 2], abs=1e-5)


def test_proxy_is_low_for_the_own_centre_and_high_for_another():
    loss = ProxyLikelihood(torch.tensor([0.5, 0.5]), bits=8, scale=10.0)
    codes = loss.centres.detach()
    right = loss(codes, torch.eye(2), torch.ones(2))
    wrong = loss(codes, torch.eye(2).flip(0), torch.ones(2))
    assert right < wrong


def test_quantisation_against_loops(draw):
    h = draw(3, 4)
    present = torch.tensor([1.0, 1.0, 0.0]).double()
    wanted = np.mean([(abs(x) - 1) ** 2 for row in h.tolist()[:2] for x in row])
    assert quantisation(h, present).item() == pytest.approx(wanted)
    assert torch.autograd.gradcheck(lambda a: quantisation(a, present), (h,))
    assert quantisation(torch.tensor([[1.0, -1.0]]), torch.ones(1)).item() == 0


def test_balance_and_decorrelation_against_numpy(draw):
    h = draw(6, 4)
    present = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]).double()
    kept = h.detach().numpy()[[0, 1, 3, 4, 5]]
    assert bit_balance(h, present).item() == pytest.approx(np.mean(kept.mean(0) ** 2))
    covariance = np.cov(kept.T, bias=True)
    off = [covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j]
    assert bit_decorrelation(h, present).item() == pytest.approx(np.mean(off))
    assert torch.autograd.gradcheck(lambda a: bit_balance(a, present), (h,))
    assert torch.autograd.gradcheck(lambda a: bit_decorrelation(a, present), (h,))


def test_decorrelation_of_one_bit_and_balance_of_nobody_are_zero():
    assert bit_decorrelation(torch.tensor([[0.5], [-0.2]]), torch.ones(2)).item() == 0
    assert bit_balance(torch.tensor([[0.5], [-0.2]]), torch.zeros(2)).item() == 0


def brute_smooth_ap(u, v, relevant, counted, tau):
    precisions = []
    for q in range(len(u)):
        items = [j for j in range(len(v)) if counted[q, j]]
        hits = [j for j in items if relevant[q, j]]
        if not hits:
            continue
        score = {j: float(u[q].detach() @ v[j].detach()) / u.shape[1] for j in items}
        total = 0.0
        for i in hits:
            rank = 1 + sum(sigmoid((score[j] - score[i]) / tau) for j in items if j != i)
            among = 1 + sum(sigmoid((score[j] - score[i]) / tau) for j in hits if j != i)
            total += among / rank
        precisions.append(1 - total / len(hits))
    return sum(precisions) / len(precisions)


def test_smooth_average_precision_against_loops(draw):
    u, v = draw(4, 6), draw(5, 6)
    relevant, counted = draw(4, 5, kind="mask"), draw(4, 5, kind="mask")
    relevant[0] = 0
    wanted = brute_smooth_ap(u, v, relevant, counted, 0.1)
    assert smooth_average_precision(u, v, relevant, counted, 0.1).item() == pytest.approx(wanted, rel=1e-6)
    assert torch.autograd.gradcheck(
        lambda a, b: smooth_average_precision(a, b, relevant, counted, 0.3), (u, v)
    )


def test_smooth_average_precision_of_a_perfect_order_is_near_zero():
    codes = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    ones = torch.ones(2, 2)
    assert smooth_average_precision(codes, codes, torch.eye(2), ones, 0.05).item() < 1e-6
    assert smooth_average_precision(codes, codes, torch.zeros(2, 2), ones, 0.05).item() == 0
