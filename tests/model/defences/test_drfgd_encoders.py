"""Part (a): dual-branch encoders, the labels that an attack made, and each term alone."""

import math
from dataclasses import replace

import pytest
import torch
from drfgd_made import make_batch, make_defence, make_hasher, make_side, num, seeded

from model.branches import BranchSizes, SemanticEncoders, disagreement
from model.defences.drfgd.separation import attacked_labels, label_likelihood, separation_terms
from model.losses.independence import dependence, label_residual

SIZES = BranchSizes(width=8, labels=4, image=4, text=6, embedding=6)
TERMS = ("robust", "vulnerable", "consistency", "contrast", "separation", "invariance", "correlation")
ONLY = dict.fromkeys(TERMS, 0.0)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed))


@pytest.mark.parametrize("shape", [(5, 3, 64, 64), (5, 3, 33, 20)])
def test_a_picture_is_encoded_on_its_own(shape):
    encoders = SemanticEncoders(SIZES)
    x = rand(*shape)
    robust, vulnerable = encoders.branches("image", x)
    assert robust.shape == vulnerable.shape == (5, 8)
    assert not torch.allclose(robust, vulnerable)
    assert torch.allclose(encoders.branches("image", x[2:3])[0], robust[2:3], atol=1e-5)


def test_padding_of_a_text_leaves_no_trace():
    encoders = SemanticEncoders(SIZES)
    x, mask = rand(2, 5, 6), torch.tensor([[True] * 5, [True, True, False, False, False]])
    whole = encoders.branches("text", x, mask)
    changed = torch.where(mask.unsqueeze(-1), x, torch.full_like(x, 9.0))
    longer = torch.cat([changed, rand(2, 3, 6)], dim=1)
    again = encoders.branches("text", longer, torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1))
    for one, other in zip(whole, again, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_side_that_is_not_there_is_refused():
    encoders = SemanticEncoders(BranchSizes(width=8, labels=4, image=4, text=0, embedding=0))
    with pytest.raises(KeyError, match="text"):
        encoders.branches("text", rand(2, 5, 6))


def test_disagreement_is_jeffreys_divergence():
    a, b = torch.randn(6, 3, generator=seeded()), torch.randn(6, 3, generator=seeded(1))
    p, q = (torch.distributions.Bernoulli(logits=each) for each in (a, b))
    kl = torch.distributions.kl_divergence
    assert torch.allclose(disagreement(a, b), (kl(p, q) + kl(q, p)).sum(1), atol=1e-5)
    assert torch.equal(disagreement(a, a), torch.zeros(6))


@pytest.mark.parametrize("foreign", [False, True])
def test_the_attack_made_the_nearest_label_set(foreign):
    g = seeded(3)
    codes, centres = torch.randn(20, 16, generator=g), torch.randn(12, 16, generator=g).sign()
    labels = torch.eye(4)[torch.arange(20) % 4]
    candidates = (torch.rand(12, 4, generator=g) < 0.4).float()
    found = attacked_labels(codes, labels, centres, candidates, foreign=foreign)
    for code, own, got in zip(codes, labels, found, strict=True):
        best, chosen = 99, None
        for centre, candidate in zip(centres, candidates, strict=True):
            distance = int(((code >= 0) != (centre >= 0)).sum())
            if distance < best and not (foreign and bool((own * candidate).sum() > 0)):
                best, chosen = distance, candidate
        assert torch.equal(got, chosen)


def test_where_everything_is_akin_the_nearest_of_all_is_taken():
    labels, centres = torch.ones(1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = attacked_labels(torch.tensor([[-0.5, -2.0]]), labels, centres, candidates, foreign=True)
    assert found.tolist() == [[0.0, 1.0]]


@pytest.fixture(scope="module")
def made():
    defence, hasher, batch = make_defence(), make_hasher(), make_batch()
    return {side: make_side(defence, hasher, batch, side) for side in ("image", "text")}


def terms_of(view, **weights):
    defence = make_defence(**{**ONLY, **weights})
    wrong = view.labels.roll(1, 0)
    return defence.encoders, separation_terms(defence.encoders, view, wrong, defence.settings)


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("name", TERMS)
def test_each_term_stands_alone_scales_with_its_weight_and_trains(made, side, name):
    encoders, once = terms_of(made[side], **{name: 1.0})
    assert set(once) == {name}
    once[name].backward()
    slopes = [p.grad for p in encoders.side(side).parameters() if p.grad is not None]
    assert any(num(g.abs().sum()) > 0 for g in slopes)
    _, twice = terms_of(made[side], **{name: 2.0})
    assert num(twice[name]) == pytest.approx(2 * num(once[name]), rel=1e-5)


def test_without_weights_there_are_no_terms(made):
    assert terms_of(made["image"])[1] == {}


def test_the_terms_are_what_they_say(made):
    view = made["image"]
    encoders, terms = terms_of(view, **dict.fromkeys(TERMS, 1.0))
    clean, dirty = encoders.branches("image", view.x), encoders.branches("image", view.attacked)
    read, wrong = encoders.classifier, view.labels.roll(1, 0)
    robust = (
        label_likelihood(read(clean[0]), view.labels) + label_likelihood(read(dirty[0]), view.labels)
    ) / 2
    caught = (label_likelihood(read(clean[1]), view.labels) + label_likelihood(read(dirty[1]), wrong)) / 2
    assert num(terms["robust"]) == pytest.approx(num(robust), rel=1e-5)
    assert num(terms["vulnerable"]) == pytest.approx(num(caught), rel=1e-5)
    gap = [disagreement(read(robust), read(vulnerable)) for robust, vulnerable in (clean, dirty)]
    ratio = (gap[0] + 1e-3) / (gap[1] + 1e-3)
    assert num(terms["contrast"]) == pytest.approx(num(torch.log(1 + math.e * ratio).mean()), rel=1e-4)
    pooled = torch.nn.functional.adaptive_avg_pool2d(view.attacked - view.x, 8).flatten(1)
    assert num(terms["invariance"]) == pytest.approx(num(dependence(dirty[0], pooled)), rel=1e-3)
    assert num(terms["correlation"]) == pytest.approx(1 - num(dependence(clean[0], view.centres)), rel=1e-3)
    rows = view.labels.repeat(2, 1)
    parts = [label_residual(torch.cat(pair), rows) for pair in zip(clean, dirty, strict=True)]
    assert num(terms["separation"]) == pytest.approx(num(dependence(*parts)), rel=1e-3)


def test_the_branches_learn_to_disagree_on_attacked_inputs_only(made):
    checks = 0.3 * (torch.arange(16) % 2)
    view = replace(made["image"], attacked=(made["image"].x + checks).clamp(0, 1))
    defence = make_defence()
    wrong = view.labels.roll(1, 0)
    optimiser = torch.optim.Adam(defence.encoders.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        terms = separation_terms(defence.encoders, view, wrong, defence.settings)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    scores = defence.encoders.score
    assert num(scores("image", view.attacked).mean()) > 3 * num(scores("image", view.x).mean())


def test_a_fresh_classifier_says_how_often_labels_occur():
    encoders = SemanticEncoders(SIZES)
    encoders.start_from(torch.tensor([0.5, 0.1, 0.0, 1.0]))
    said = torch.sigmoid(encoders.classifier(torch.zeros(1, 8)))[0]
    assert torch.allclose(said, torch.tensor([0.5, 0.1, 1e-4, 0.99]), atol=1e-6)
