"""Stored codes of both modalities, and the mainstay over them against a slow oracle."""

import dataclasses
import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import BITS, CLASSES, Until, make_batch, make_hasher, make_state, make_trainer, seeded

from model.attacks.mainstay import psi
from model.defences.centres import StoredCodes
from model.defences.encoding import encode
from model.losses.objective import Codes


def slow_mainstay(label, codes, labels):
    """The definition, item by item: cosine-weighted positives against uniform negatives, per bit."""
    positive, negative = [], []
    for code, other in zip(codes, labels, strict=True):
        shared = sum(a * b for a, b in zip(label, other, strict=True))
        if shared:
            positive.append((shared / math.sqrt(sum(label) * sum(other)), code))
        else:
            negative.append((1.0, code))
    total = [0.0] * len(codes[0])
    for sign, group in ((1, positive), (-1, negative)):
        weight = sum(w for w, _ in group)
        for w, code in group:
            for k, bit in enumerate(code):
                total[k] += sign * w / weight * bit
    return total


@given(st.integers(0, 2**31 - 1), st.integers(2, 9), st.integers(1, 5))
def test_the_mainstay_is_over_both_modalities_and_skips_what_is_absent(seed, n, classes):
    g = seeded(seed)
    labels = (torch.rand(n, classes, generator=g) < 0.5).float()
    labels[:, 0] += (labels.sum(1) == 0).float()
    has_image, has_text = ((torch.rand(n, generator=g) < 0.7).float() for _ in range(2))
    image, text = (torch.randn(n, 8, generator=g) for _ in range(2))
    stored = StoredCodes(labels, 8)
    batch = dataclasses.replace(make_batch(n), labels=labels, items=torch.arange(n))
    codes = Codes(image * has_image[:, None], text * has_text[:, None], has_image, has_text, labels)
    stored.store(batch, codes, make_state())
    rows, their = [], []
    for h, has in ((image, has_image), (text, has_text)):
        rows += [[1.0 if v >= 0 else -1.0 for v in h[i].tolist()] for i in range(n) if has[i]]
        their += [labels[i].tolist() for i in range(n) if has[i]]
    found = stored.mainstay(labels)
    for i in range(n):
        if not rows:
            assert (found == 1).all()
            continue
        slow = torch.tensor(slow_mainstay(labels[i].tolist(), rows, their))
        decided = slow.abs() > 1e-5
        assert torch.equal(found[i][decided], slow.sign()[decided])
    if rows:
        best = psi(found, labels, torch.tensor(rows), torch.tensor(their))
        other = psi(-found, labels, torch.tensor(rows), torch.tensor(their))
        assert (best >= other - 1e-5).all()


def test_codes_are_refreshed_item_by_item():
    stored = StoredCodes(torch.eye(CLASSES).repeat(2, 1), BITS)
    batch = dataclasses.replace(make_batch(2), items=torch.tensor([6, 1]))
    h = torch.randn(2, BITS, generator=seeded(1))
    ones, none = torch.ones(2), torch.zeros(2)
    stored.store(batch, Codes(h, torch.zeros_like(h), ones, none, batch.labels), make_state())
    assert torch.equal(stored.codes[0, [6, 1]].float(), h.sign())
    assert stored.codes[0].any(1).nonzero().flatten().tolist() == [1, 6]
    assert not stored.codes[1].any()
    stored.store(batch, Codes(-h, h, torch.tensor([1.0, 0]), ones, batch.labels), make_state())
    assert torch.equal(stored.codes[0, 6].float(), -h[0].sign())
    assert torch.equal(stored.codes[0, 1].float(), h[1].sign())
    assert torch.equal(stored.codes[1, [6, 1]].float(), h.sign())


def test_a_code_of_zero_is_plus_one():
    stored = StoredCodes(torch.eye(2), 4)
    batch, h = make_batch(2), torch.zeros(2, 4)
    stored.store(batch, Codes(h, h, torch.ones(2), torch.ones(2), torch.eye(2)), make_state())
    assert (stored.codes == 1).all()


def test_the_first_pass_takes_the_batchs_own_codes_without_a_trace():
    hasher, batch, state = make_hasher(), make_batch(), make_state()
    stored = StoredCodes(torch.eye(CLASSES).repeat(3, 1), BITS)
    assert len(stored.reference()[0]) == 0
    before = {name: t.clone() for name, t in hasher.state_dict().items()}
    stored.prime(hasher, batch, state)
    assert all(torch.equal(t, before[name]) for name, t in hasher.state_dict().items())
    assert hasher.training
    codes, labels = stored.reference()
    assert codes.shape == (16, BITS)
    assert torch.equal(labels, batch.labels.repeat(2, 1))
    hasher.eval()
    with torch.no_grad():
        assert torch.equal(codes[:8], torch.where(encode(hasher, batch, state).image >= 0, 1.0, -1.0))
        hasher.image.hash[-1].bias.neg_().sub_(1)
        kept = stored.codes.clone()
    stored.prime(hasher, batch, state)  # only once
    assert torch.equal(stored.codes, kept)


def test_a_run_fills_and_keeps_them():
    trainer = make_trainer("saat", {"inner": {"steps": 1}}, gaps=True)
    trainer.run(Until(5))  # an epoch of five steps sees every item once
    filled = trainer.defence.stored.codes.any(2)
    assert torch.equal(filled[0], trainer.feed.has_image)
    assert torch.equal(filled[1], trainer.feed.has_text)
    again = make_trainer("saat", {"inner": {"steps": 1}}, gaps=True)
    again.restore(trainer.snapshot())
    assert torch.equal(again.defence.stored.codes, trainer.defence.stored.codes)
