"""The inner attack: inside its balls, worth its cost, without a trace, and watched for overfitting."""

import pytest
import torch
from tiny_training import (
    BITS,
    CPU,
    RESOLVED,
    make_batch,
    make_hasher,
    make_state,
    make_trainer,
    seeded,
)
from torch import nn

from model.attacks.base import Target
from model.attacks.iterative import pgd
from model.attacks.mainstay import signs
from model.attacks.objectives import Mainstay
from model.attacks.relaxation import Relaxation
from model.attacks.threat import Threat
from model.attacks.victims import ImageModel
from model.defences.inner import AIMS, CHECKED_STEPS, METHODS, InnerAttack, InnerSettings
from model.errors import RecipeError
from model.hashers.base import CrossModalHasher, ImageTower
from model.training.randomness import lent_randomness

EPS_IMAGE, EPS_TEXT = 16 / 255, 0.4


def make_attack(**changes):
    return InnerAttack(InnerSettings(**{"eps_image": EPS_IMAGE, "eps_text": EPS_TEXT, **changes}))


def some_anchors(n=8):
    return signs(torch.randn(n, BITS, generator=seeded(4)))


def embedded(hasher, batch):
    return hasher.text.embed(batch.tokens).detach()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", AIMS)
def test_adversaries_are_inside_their_balls_and_leave_no_trace(method, objective):
    hasher, batch = make_hasher(), make_batch()
    before = {name: t.clone() for name, t in hasher.state_dict().items()}
    made = make_attack(method=method, objective=objective)(hasher, batch, some_anchors(), make_state(3))
    assert (made.images - batch.images).abs().amax().item() == pytest.approx(EPS_IMAGE, abs=1e-5)
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    moved = (made.embeddings - embedded(hasher, batch)).abs()
    assert moved.max().item() == pytest.approx(EPS_TEXT * hasher.text.embedding_rms(), rel=1e-4)
    assert torch.equal(made.mask, batch.tokens != 0)
    assert not moved[~made.mask].any()
    assert not made.images.requires_grad
    assert not made.embeddings.requires_grad
    assert made.images.is_contiguous(memory_format=torch.channels_last)  # what keeps convolutions fast
    assert all(torch.equal(t, before[name]) for name, t in hasher.state_dict().items())
    assert all(part.training for part in hasher.modules())
    assert all(p.requires_grad and p.grad is None for p in hasher.parameters())


def objectives_of(hasher, made, anchors, training):
    hasher.train(training)
    with torch.no_grad(), lent_randomness(CPU, 0, "dropout"):
        codes = hasher.hash_image(made.images), hasher.hash_embeddings(made.embeddings, made.mask)
    hasher.train()
    return [float(-(h * anchors).mean()) for h in codes]


@pytest.mark.parametrize("changes", [{}, {"method": "single-step"}, {"training_norms": True}])
def test_the_attack_raises_what_it_maximises_in_both_modalities(changes):
    hasher, batch, anchors = make_hasher(), make_batch(32), some_anchors(32)
    made = make_attack(**changes)(hasher, batch, anchors, make_state())
    noise = make_attack(steps=1, step=1e-6)(hasher, batch, anchors, make_state())
    mode = changes.get("training_norms", False)
    reached, before = (objectives_of(hasher, each, anchors, mode) for each in (made, noise))
    for attacked, drawn in zip(reached, before, strict=True):
        assert attacked > drawn + 0.004


def test_it_is_the_evaluations_own_loop_without_its_first_and_last_look():
    hasher, batch, anchors = make_hasher(), make_batch(), some_anchors()
    made = make_attack(steps=4)(hasher, batch, anchors, make_state(seed=5))
    plan = pgd(Threat("linf", EPS_IMAGE), Mainstay(), steps=4, relaxation=Relaxation("tanh"))
    points = []

    def looking(x):
        points.append(x.detach())
        return ImageModel(hasher)(x)

    looking.module = hasher.image
    plan(looking, batch.images, Target.single(anchors), generator=seeded(5))
    assert torch.allclose(points[-1], made.images, atol=1e-6)


def test_absent_modalities_and_absent_towers_are_left_alone():
    batch = make_batch(6, has_image=[1.0, 0, 1, 0, 1, 1], has_text=[0.0, 0, 0, 0, 0, 1])
    hasher, anchors = make_hasher(), some_anchors(6)
    made = make_attack()(hasher, batch, anchors, make_state())
    changed = (made.images != batch.images).flatten(1).any(1)
    assert changed.tolist() == [True, False, True, False, True, True]
    assert torch.equal(made.embeddings, embedded(hasher, batch))  # a single row cannot be trained on
    alone = make_hasher({"image": RESOLVED["image"]})
    assert make_attack()(alone, batch, anchors, make_state()).embeddings.shape == (6, 6, 0)
    texts = make_hasher({"text": RESOLVED["text"]})
    assert torch.equal(
        make_attack()(texts, make_batch(), some_anchors(), make_state()).images, make_batch().images
    )


def test_budgets_rise_after_the_attack_begins():
    attack = make_attack(begin=0.2, ramp=0.4)
    strengths = [attack.strength(make_state(step)) for step in range(10)]
    assert strengths == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert [attack.active(make_state(step)) for step in (0, 1, 2, 9)] == [False, False, True, True]
    hasher, batch = make_hasher(), make_batch()
    half = attack(hasher, batch, some_anchors(), make_state(4))
    assert (half.images - batch.images).abs().max().item() == pytest.approx(EPS_IMAGE / 2, abs=1e-5)
    nothing = attack(hasher, batch, some_anchors(), make_state(2))
    assert torch.equal(nothing.images, batch.images)
    assert not make_attack(eps_image=0.0, eps_text=0.0).active(make_state())


def test_one_modality_can_be_left_undefended():
    hasher, batch = make_hasher(), make_batch()
    made = make_attack(eps_text=0.0)(hasher, batch, some_anchors(), make_state())
    assert torch.equal(made.embeddings, embedded(hasher, batch))
    assert not torch.equal(made.images, batch.images)


def test_randomness_is_the_states_alone():
    hasher, batch, attack = make_hasher(), make_batch(), make_attack(objective="mixed")
    one, same, other = (attack(hasher, batch, some_anchors(), make_state(seed=s)) for s in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.embeddings, same.embeddings)
    assert not torch.equal(one.images, other.images)
    still = make_attack(random_start=False)
    first, second = (still(hasher, batch, some_anchors(), make_state(seed=s)) for s in (1, 2))
    assert torch.equal(first.images, second.images)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "magic"},
        {"objective": "cross-modal"},
        {"relaxation": "sigmoid"},
    ],
)
def test_unknown_words_are_refused(values):
    (name,) = values
    with pytest.raises(RecipeError, match=rf"inner\.{name}: wanted one of .*, got '{values[name]}'"):
        InnerSettings(**values)


class Rippled(ImageTower):
    """Climbs away from the middle grey, but a step of 1.25 eps lands in a valley, as after overfitting.

    Its logits fall with |x - 1/2| up to half of eps and rise again beyond.
    """

    def __init__(self):
        super().__init__(BITS, 3, 0)
        nn.init.constant_(self.hash.weight, 1.0)
        nn.init.constant_(self.hash.bias, 0.3)

    def features(self, x):
        away = (x - 0.5).abs().mean((2, 3)) / EPS_IMAGE
        return torch.where(away < 0.6, -away, away - 1.2)


def smooth_and_rippled():
    return make_hasher({"image": RESOLVED["image"]}), CrossModalHasher(Rippled(), None)


def test_catastrophic_overfitting_is_noticed_and_answered_with_more_steps():
    smooth, rippled = smooth_and_rippled()
    batch = make_batch(16)
    batch.images.fill_(0.5 + EPS_IMAGE / 20)  # at 0.5 itself there is no slope
    anchors = torch.ones(16, BITS)
    settings = {"method": "single-step", "random_start": False, "check_every": 10}
    attack = make_attack(**settings)
    state = make_state(20, 100)
    attack(rippled, batch, anchors, state)
    assert state.figures["inner_gap_image"] > 0.15
    assert state.figures["inner_steps"] == attack.steps() == 2
    attack(rippled, batch, anchors, make_state(21, 100))  # between two looks nothing happens
    assert attack.steps() == 2
    assert attack.state_dict()["answered"] == 1  # what a checkpoint keeps
    calm = make_attack(**settings)
    calm(smooth, batch, anchors, make_state(20, 100))
    assert calm.steps() == 1
    for _ in range(2 * CHECKED_STEPS):
        attack.answered += 1
    assert attack.steps() == CHECKED_STEPS


def test_a_short_pgd_is_looked_at_when_that_is_wanted():
    _, rippled = smooth_and_rippled()
    batch, anchors = make_batch(16), torch.ones(16, BITS)
    batch.images.fill_(0.5 + EPS_IMAGE / 20)
    attack = make_attack(method="pgd", steps=1, random_start=False, check_every=10, check_pgd=True)
    state = make_state(20, 100)
    attack(rippled, batch, anchors, state)
    assert state.figures["inner_gap_image"] > 0.15
    assert state.figures["inner_steps"] == attack.steps() == 2
    attack.answered += 2 * CHECKED_STEPS
    assert attack.steps() == CHECKED_STEPS
    long = make_attack(method="pgd", steps=CHECKED_STEPS + 5, check_pgd=True)
    long.answered += 3
    assert long.steps() == CHECKED_STEPS + 5, "never fewer than the recipe says"


def test_looking_can_be_switched_off_and_is_not_for_pgd():
    _, rippled = smooth_and_rippled()
    batch, anchors = make_batch(16), torch.ones(16, BITS)
    for changes in ({"method": "single-step", "check_every": 0}, {"method": "pgd"}):
        attack, state = make_attack(**changes), make_state(0)
        attack(rippled, batch, anchors, state)
        assert state.figures == {}
        assert attack.answered == 0


def test_figures_reach_the_epochs_record_and_survive_a_checkpoint():
    table = {"inner": {"method": "single-step", "check_every": 5}}
    from_start, again = make_trainer("saat", table), make_trainer("saat", table)
    watcher_records = []

    class Watcher:
        def after_step(self, trainer, terms, rate):
            assert "inner_steps" not in terms
            return trainer.step == 7

        def after_epoch(self, trainer, record):
            watcher_records.append(record)

    from_start.run(Watcher())
    assert set(watcher_records[0]["figures"]) == {"inner_gap_image", "inner_gap_text", "inner_steps"}
    again.restore(from_start.snapshot())
    assert again.figures == from_start.figures
