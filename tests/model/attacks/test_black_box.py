"""What attackers without gradients see, and what they make of it; transfer; random noise."""

import pytest
import torch
from tiny_hashers import seeded, train_tiny

from model.attacks.anchors import hamming
from model.attacks.base import Target
from model.attacks.blackbox import CodeFeedback, NoiseAttack, RankFeedback
from model.attacks.iterative import apgd
from model.attacks.mainstay import signs
from model.attacks.nes import NESAttack
from model.attacks.objectives import Mainstay, OwnCode
from model.attacks.square import SquareAttack
from model.attacks.threat import Threat
from model.attacks.transfer import Surrogate, transfer
from model.attacks.victims import EmbeddingModel, ImageModel
from model.errors import DataError, RecipeError

THREAT = Threat("linf", 24 / 255)


def own(trained, images):
    with torch.no_grad():
        return Target.single(signs(trained.hasher.image_tower()(images)))


def codes(trained, images):
    with torch.no_grad():
        return signs(trained.hasher.image_tower()(images))


def listed(query, gallery, k):
    return sorted(range(len(gallery)), key=lambda i: (float(hamming(query, gallery)[0, i]), i))[:k]


def test_ranks_tell_nothing_but_the_order_of_ids():
    """The feedback equals one computed from the two lists of ids alone, ties by row."""
    generator = seeded(0)
    gallery = signs(torch.randn(60, 16, generator=generator))
    clean, other = torch.randn(5, 16, generator=generator), torch.randn(5, 16, generator=generator)
    score = RankFeedback(gallery, 10).open(clean, Target.single(signs(clean)))
    gains = 1 / torch.log2(torch.arange(2, 12).float())
    torch.testing.assert_close(score(clean), torch.zeros(5), atol=1e-6, rtol=0)
    for row in range(5):
        before = listed(signs(clean[row : row + 1]), gallery, 10)
        after = listed(signs(other[row : row + 1]), gallery, 10)
        kept = sum(
            min(gains[r], gains[after.index(item)]) * gains[r]
            for r, item in enumerate(before)
            if item in after
        )
        torch.testing.assert_close(score(other)[row], 1 - kept / gains.square().sum())
    torch.testing.assert_close(score(other), score(other * 100))  # the relaxed code does not show


def test_codes_are_all_that_code_feedback_reads(undefended, queries):
    target = own(undefended, queries.images)
    score = CodeFeedback(OwnCode()).open(target.anchor, target)
    z = torch.randn(16, 32, generator=seeded(0))
    assert torch.equal(score(z), score(z.sign() * 0.001))


def test_lists_change_under_the_decision_only_attack(undefended, queries):
    gallery = undefended.codes(undefended.world)
    attack = SquareAttack(THREAT, OwnCode(), RankFeedback(gallery, 20), queries=150)
    found = attack(
        ImageModel(undefended.hasher), queries.images, own(undefended, queries.images), generator=seeded(0)
    )
    assert found.value.mean() > 0.2
    assert found.loss.mean() > found.clean_loss.mean()
    assert (found.curve[0, 1:] >= found.curve[0, :-1]).all()


def test_gradients_beat_searches_which_beat_noise(undefended, queries):
    model, target = ImageModel(undefended.hasher), own(undefended, queries.images)
    aim = OwnCode()
    losses = [
        attack(model, queries.images, target, generator=seeded(0)).loss.mean()
        for attack in (
            NoiseAttack(THREAT, aim),
            NoiseAttack(THREAT, aim, 20),
            SquareAttack(THREAT, aim, CodeFeedback(aim), 200),
            apgd(THREAT, aim, steps=15),
        )
    ]
    assert losses == sorted(losses)


def test_one_draw_of_noise_is_that_draw(undefended, queries):
    model, target = ImageModel(undefended.hasher), own(undefended, queries.images)
    found = NoiseAttack(THREAT, OwnCode())(model, queries.images, target, generator=seeded(4))
    assert torch.equal(found.x_adv, THREAT.draw(queries.images, seeded(4)))
    many = NoiseAttack(THREAT, OwnCode(), 5)(model, queries.images, target, generator=seeded(4))
    assert (many.value >= found.value).all()


def test_nes_works_on_embedded_texts_and_keeps_padding(undefended, queries):
    tokens = undefended.codec.encode([*queries.texts[:6], "cat"])
    model, x = EmbeddingModel.of(undefended.hasher, tokens)
    with torch.no_grad():
        target = Target.single(signs(model(x)))
    threat = Threat("linf", 1.0, -100.0, 100.0)
    found = NESAttack(threat, OwnCode(), CodeFeedback(OwnCode()), 300)(model, x, target, generator=seeded(0))
    assert found.loss.mean() > found.clean_loss.mean()


def test_squares_need_images(undefended, queries):
    model, x = EmbeddingModel.of(undefended.hasher, undefended.codec.encode(queries.texts))
    attack = SquareAttack(THREAT, OwnCode(), CodeFeedback(OwnCode()), 10)
    with pytest.raises(DataError, match="squares need images"):
        attack(model, x, Target.single(torch.ones(16, 32)), generator=seeded(0))


@pytest.mark.parametrize("area", [0.0, 1.5])
def test_a_square_of_no_area_is_refused(area):
    with pytest.raises(RecipeError, match="area"):
        SquareAttack(THREAT, OwnCode(), CodeFeedback(OwnCode()), 10, area)


def test_transfer_helps_and_stays_behind_white_box(undefended, queries):
    surrogate = train_tiny(31, epochs=5)
    attack = apgd(THREAT, Mainstay(), steps=15)
    known = undefended.knowledge(queries)
    aim = attack.objective.target(known, generator=seeded(0))
    theirs = attack.objective.target(surrogate.knowledge(queries), generator=seeded(0))
    pair = Surrogate(ImageModel(surrogate.hasher), theirs)
    victim = ImageModel(undefended.hasher)
    moved = transfer(attack, [pair], victim, queries.images, aim, generator=seeded(0))
    direct = attack(victim, queries.images, aim, generator=seeded(0))
    assert moved.clean_loss.mean() < moved.loss.mean() < direct.loss.mean()
    torch.testing.assert_close(moved.loss, attack.objective(codes(undefended, moved.x_adv), aim))
    assert (moved.queries == 2).all()
    two = transfer(attack, [pair, pair], victim, queries.images, aim, generator=seeded(0))
    assert (two.value >= moved.value).all()


def test_transfer_without_a_surrogate_is_refused(undefended, queries):
    with pytest.raises(DataError, match="at least one surrogate"):
        transfer(
            apgd(THREAT, OwnCode()),
            [],
            ImageModel(undefended.hasher),
            queries.images,
            own(undefended, queries.images),
            generator=seeded(0),
        )
