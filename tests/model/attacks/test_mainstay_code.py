"""The mainstay code against a loop written from the formula, and against all codes there are."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hashers import seeded

from model.attacks.mainstay import mainstay_codes, mainstay_weights, psi, signs


def by_loop(y, codes, labels):
    """p, n and the mainstay of one query, item by item as section 2 of the design has it."""
    p, n = [], []
    for z in labels.tolist():
        shared = sum(a * b for a, b in zip(y.tolist(), z, strict=True))
        norms = (sum(a * a for a in y.tolist()) * sum(b * b for b in z)) ** 0.5
        p.append(shared / norms if shared else 0.0)
        n.append(0.0 if shared else 1.0)
    p = [v / sum(p) if sum(p) else 0.0 for v in p]
    n = [v / sum(n) if sum(n) else 0.0 for v in n]
    sums = [
        sum((a - b) * row[k] for a, b, row in zip(p, n, codes.tolist(), strict=True))
        for k in range(codes.shape[1])
    ]
    return p, n, sums


def all_codes(bits: int) -> torch.Tensor:
    return torch.tensor(list(product((-1.0, 1.0), repeat=bits)))


def agrees_with_brute_force(labels, codes, code_labels):
    """The best psi over {-1, +1}^K is psi of the mainstay code, for every query."""
    found = psi(mainstay_codes(labels, codes, code_labels), labels, codes, code_labels)
    everything = all_codes(codes.shape[1])
    for row, y in enumerate(labels):
        best = psi(everything, y.expand(len(everything), -1), codes, code_labels).max()
        torch.testing.assert_close(found[row], best, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 5, 12])
def test_no_code_beats_the_mainstay(bits):
    generator = seeded(bits)
    codes = signs(torch.randn(30, bits, generator=generator))
    labels = (torch.rand(34, 4, generator=generator) < 0.4).float()
    agrees_with_brute_force(labels[30:], codes, labels[:30])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), bits=st.integers(1, 8), items=st.integers(1, 12), classes=st.integers(1, 4))
def test_no_code_beats_the_mainstay_whatever_the_labels(data, bits, items, classes):
    def table(rows, columns):
        row = st.lists(st.booleans(), min_size=columns, max_size=columns)
        return torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)), dtype=torch.float32)

    agrees_with_brute_force(table(2, classes), 2 * table(items, bits) - 1, table(items, classes))


def test_weights_and_code_are_those_of_the_formula():
    generator = seeded(3)
    codes = signs(torch.randn(25, 16, generator=generator))
    labels = (torch.rand(25, 5, generator=generator) < 0.4).float()
    queries = (torch.rand(6, 5, generator=generator) < 0.4).float()
    p, n = mainstay_weights(queries, labels)
    m = mainstay_codes(queries, codes, labels)
    for row, y in enumerate(queries):
        p_loop, n_loop, sums = by_loop(y, codes, labels)
        torch.testing.assert_close(p[row], torch.tensor(p_loop))
        torch.testing.assert_close(n[row], torch.tensor(n_loop))
        for k, total in enumerate(sums):
            if abs(total) > 1e-6:
                assert m[row, k] == (1 if total > 0 else -1)


def test_empty_sets_contribute_nothing():
    codes = signs(torch.randn(8, 6, generator=seeded(0)))
    everyone, nobody = torch.ones(8, 2), torch.zeros(8, 2)
    query = torch.ones(1, 2)
    p, n = mainstay_weights(query, everyone)
    assert n.sum() == 0
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))
    assert torch.equal(mainstay_codes(query, codes, everyone)[0], signs(codes.sum(0)))
    p, n = mainstay_weights(query, nobody)
    assert p.sum() == 0
    assert torch.equal(mainstay_codes(query, codes, nobody)[0], signs(-codes.sum(0)))


def test_a_bit_whose_weights_balance_is_plus_one():
    codes = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    assert torch.equal(mainstay_codes(torch.ones(1, 1), codes, torch.ones(2, 1)), torch.ones(1, 2))
    assert torch.equal(signs(torch.tensor([0.0, -0.0, -1.0])), torch.tensor([1.0, 1.0, -1.0]))
    assert torch.equal(signs(torch.tensor([0, -3])), torch.tensor([1.0, -1.0]))


def test_both_modalities_count_alike():
    """An item twice in the reference set (image and text) weighs as once with the mean of its codes."""
    generator = seeded(9)
    image, text = (signs(torch.randn(10, 8, generator=generator)) for _ in range(2))
    labels = (torch.rand(10, 3, generator=generator) < 0.5).float()
    both = psi(torch.ones(10, 8), labels, torch.cat([image, text]), labels.repeat(2, 1))
    torch.testing.assert_close(both, psi(torch.ones(10, 8), labels, (image + text) / 2, labels))
