"""The one loop: against a loop written out, with models that hide their gradient, and its step rules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_hashers import seeded
from torch import nn

from model.attacks.base import CodeCriterion, Target
from model.attacks.iterative import apgd, fgsm, pgd
from model.attacks.mainstay import signs
from model.attacks.objectives import Mainstay, OwnCode
from model.attacks.relaxation import KINDS, Relaxation
from model.attacks.steps import AdaptiveStep, checkpoints
from model.attacks.threat import Threat
from model.attacks.victims import Expectation, ImageModel, StraightThrough, frozen
from model.errors import RecipeError

THREAT = Threat("linf", 8 / 255)
TANH = Relaxation("tanh")


def own(trained, images):
    with torch.no_grad():
        return Target.single(signs(trained.hasher.image_tower()(images)))


def test_pgd_is_the_textbook_loop(undefended, queries):
    x, target = queries.images, own(undefended, queries.images)
    tower, aim, steps = undefended.hasher.image_tower(), OwnCode(1.0), 5
    attack = pgd(THREAT, aim, steps=steps, step=0.25, relaxation=TANH)
    found = attack(tower, x, target, generator=seeded(1))
    point = THREAT.draw(x, seeded(1))
    tried = [x]
    for _ in range(steps):
        tried.append(point)
        variable = point.clone().requires_grad_(True)
        aim(torch.tanh(tower(variable)), target).sum().backward()
        step = point + 0.25 * THREAT.eps * variable.grad.sign()
        point = (x + (step - x).clamp(-THREAT.eps, THREAT.eps)).clamp(0, 1)
    tried.append(point)
    tower.zero_grad()
    with torch.no_grad():
        values = torch.stack([CodeCriterion(aim)(tower(p), target) for p in tried])
    best = torch.stack(tried)[values.argmax(0), torch.arange(len(x))]
    torch.testing.assert_close(found.x_adv, best)
    torch.testing.assert_close(found.value, values.amax(0), atol=1e-5, rtol=1e-5)
    assert found.curve.shape == (1, steps + 1, len(x))


def test_fgsm_is_one_step_of_the_whole_budget(undefended, queries):
    x, target = queries.images, own(undefended, queries.images)
    found = fgsm(THREAT, OwnCode(1.0))(ImageModel(undefended.hasher), x, target, generator=seeded(0))
    moved = (found.x_adv - x).abs()
    inner = (x > THREAT.eps) & (x < 1 - THREAT.eps) & (moved > 0)
    torch.testing.assert_close(moved[inner], torch.full_like(moved[inner], THREAT.eps), atol=1e-6, rtol=0)


def test_a_saturated_model_cannot_hide_its_gradient(undefended, queries):
    """Logits a thousand times larger give the same codes; only differentiating tanh itself stands still."""
    x, target = queries.images, own(undefended, queries.images)

    def saturated(images):
        return 1000 * undefended.hasher.image_tower()(images)

    losses = {}
    for kind in KINDS:
        attack = pgd(THREAT, OwnCode(), steps=8, relaxation=Relaxation(kind))
        outcome = attack(saturated, x, target, generator=seeded(0))
        losses[kind] = float(outcome.loss.mean())
        assert outcome.saturated.mean() > 0.9
        assert (outcome.never_a_gradient > 0.5) == (kind in ("tanh", "annealed"))
    plain = pgd(THREAT, OwnCode(), steps=8)(undefended.hasher.image_tower(), x, target, generator=seeded(0))
    assert losses["sharpened"] == pytest.approx(float(plain.loss.mean()), abs=0.02)
    assert losses["sharpened"] > losses["tanh"] + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_relaxations_keep_the_signs(kind):
    logits = torch.randn(5, 16, generator=seeded(0)) * 7
    for progress in (0.0, 0.5, 1.0):
        assert torch.equal(Relaxation(kind)(logits, progress) >= 0, logits >= 0)
    assert torch.isfinite(Relaxation(kind)(torch.zeros(1, 16), 0.0)).all()


class Broken(nn.Module):
    """A tower behind a sign: right codes, no gradient."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, x):
        return torch.sign(self.tower(x))


def test_a_defence_without_gradient_is_reported_and_its_surrogate_attacked(undefended, queries):
    x, target = queries.images, own(undefended, queries.images)
    tower = undefended.hasher.image_tower()
    blind = pgd(THREAT, OwnCode(), steps=5)(Broken(tower), x, target, generator=seeded(0))
    assert blind.never_a_gradient == 1.0
    cut = pgd(THREAT, OwnCode(), steps=2)(lambda v: tower(v.detach()), x, target, generator=seeded(0))
    assert cut.never_a_gradient == 1.0
    adaptive = StraightThrough(Broken(tower), tower)
    seen = pgd(THREAT, OwnCode(), steps=5)(adaptive, x, target, generator=seeded(0))
    assert seen.never_a_gradient == 0.0
    assert seen.loss.mean() > blind.loss.mean() + 0.1
    torch.testing.assert_close(adaptive(x), torch.sign(tower(x)), atol=1e-5, rtol=0)


def test_a_gradient_of_nans_is_no_direction(undefended, queries):
    target = own(undefended, queries.images)
    tower = undefended.hasher.image_tower()

    def poisoned(x):
        z = tower(x)
        return z + (0 * z).sqrt().sum(1, keepdim=True) * 0  # slope inf * 0

    outcome = pgd(THREAT, OwnCode(), steps=2)(poisoned, queries.images, target, generator=seeded(0))
    assert THREAT.contains(outcome.x_adv, queries.images).all()
    assert torch.isfinite(outcome.x_adv).all()


def test_a_random_defence_is_averaged_over_draws(undefended, queries):
    x, target = queries.images, own(undefended, queries.images)
    tower, generator = undefended.hasher.image_tower(), seeded(3)

    def noisy(images):
        return tower(images + 0.3 * torch.randn(images.shape, generator=generator))

    means = []
    for model_fn in (noisy, Expectation(noisy, 12)):
        made = pgd(THREAT, OwnCode(), steps=6)(model_fn, x, target, generator=seeded(0))
        with torch.no_grad():
            fresh = [OwnCode()(signs(noisy(made.x_adv)), target).mean() for _ in range(10)]
        means.append(float(torch.stack(fresh).mean()))
    assert means[1] > means[0]
    assert isinstance(Expectation(noisy, 2).module, nn.Identity)
    assert Expectation(tower).module is tower


def test_frozen_restores_what_an_error_interrupts(undefended):
    tower = undefended.hasher.image_tower()
    tower.train()
    with pytest.raises(KeyError), frozen(ImageModel(undefended.hasher)):
        assert not tower.training
        assert not any(p.requires_grad for p in tower.parameters())
        raise KeyError
    assert tower.training
    assert all(p.requires_grad for p in tower.parameters())
    tower.eval()
    both = StraightThrough(tower, lambda x: x)
    assert list(both.module.children()) == [tower]


def test_one_loop_serves_training_too(undefended, queries):
    """The inner step of adversarial training calls the same attack; the outer gradient flows as ever."""
    made = pgd(THREAT, Mainstay(), steps=2)(
        ImageModel(undefended.hasher), queries.images, own(undefended, queries.images), generator=seeded(0)
    )
    assert not made.x_adv.requires_grad
    undefended.hasher.hash_image(made.x_adv).sum().backward()
    grads = [p.grad for p in undefended.hasher.image_tower().parameters()]
    assert all(grad is not None for grad in grads)
    undefended.hasher.zero_grad(set_to_none=True)


@given(steps=st.integers(1, 300))
def test_checkpoints_are_those_of_the_reference_code(steps):
    """AutoAttack counts down: k steps, then k less 3 % of all, at least 6 %; ours follows the paper's p_j."""
    found = sorted(checkpoints(steps))
    shares = [0.22]
    while shares[-1] < 1:
        former = shares[-2] if len(shares) > 1 else 0.0
        shares.append(shares[-1] + max(shares[-1] - former - 0.03, 0.06))
    expected = {-int(-(share * steps) // 1) for share in shares if share < 1}
    assert set(found) == expected
    assert all(1 <= w <= steps for w in found)


def test_apgd_halves_where_progress_stalls_and_goes_back():
    state = AdaptiveStep().begin(torch.zeros(2), 100)
    for step in range(22):
        loss = torch.tensor([float(step + 1), -float(step)])  # the first rises always, the second never
        back = state.update(step, loss)
    assert back is not None
    assert back.tolist() == [False, True]
    assert state.size().tolist() == [2.0, 1.0]
    # The second condition: no new best since a checkpoint at which the length was kept.
    for step in range(22, 41):
        back = state.update(step, torch.tensor([22.0, 0.5 * step]))
    assert back.tolist() == [True, False]
    assert state.size().tolist() == [1.0, 1.0]


def test_apgd_beats_pgd_at_equal_steps_on_the_defended_model(defended, queries):
    x, target = queries.images, own(defended, queries.images)
    threat = Threat("linf", 24 / 255)
    losses = [
        make(threat, OwnCode(1.0), steps=30)(ImageModel(defended.hasher), x, target, generator=seeded(0))
        for make in (pgd, apgd)
    ]
    assert losses[1].value.mean() > losses[0].value.mean() - 0.02


def test_every_second_restart_is_half_as_sharp():
    soft = Relaxation(first=1.0, last=6.0).of_restart(1)
    assert (soft.first, soft.last) == (0.5, 3.0)
    assert Relaxation().of_restart(2) == Relaxation()
    assert TANH.of_restart(1) == TANH


@pytest.mark.parametrize("values", [{"kind": "sigmoid"}, {"first": 0.0}, {"first": 7.0}])
def test_relaxations_that_make_no_sense_are_refused(values):
    with pytest.raises(RecipeError, match="got"):
        Relaxation(**values)


def test_a_push_is_the_last_point_of_the_same_path(undefended, queries):
    x, target = queries.images, own(undefended, queries.images)
    attack = pgd(THREAT, OwnCode(1.0), steps=4, relaxation=TANH)
    points = []

    class Looking(ImageModel):
        def __call__(self, images):
            points.append(images.detach())
            return super().__call__(images)

    attack(Looking(undefended.hasher), x, target, generator=seeded(1))
    last = points[-1]
    points.clear()
    pushed = attack.push(Looking(undefended.hasher), x, target, generator=seeded(1))
    assert len(points) == 4  # a clean look, steps, a last look: this is the steps alone
    torch.testing.assert_close(pushed, last)
    assert not pushed.requires_grad


def test_a_push_in_training_mode_uses_batch_statistics_and_keeps_the_running_ones(undefended, queries):
    x, target = queries.images, own(undefended, queries.images)
    tower = undefended.hasher.image_tower()
    before = {name: t.clone() for name, t in tower.state_dict().items()}
    attack, modes = pgd(THREAT, OwnCode(1.0), steps=2), []

    def looking(images):
        modes.append(tower.training)
        return tower(images)

    looking.module = tower
    tower.train()
    for training in (True, False):
        attack.push(looking, x, target, generator=seeded(1), training=training)
    assert modes == [True, True, False, False]
    assert tower.training
    assert all(torch.equal(t, before[name]) for name, t in tower.state_dict().items())
    assert all(norm.track_running_stats for norm in tower.modules() if isinstance(norm, nn.BatchNorm2d))
    tower.eval()


def test_a_start_at_the_centre_can_be_asked_for(undefended, queries):
    x, target = queries.images, own(undefended, queries.images)
    attack = pgd(THREAT, OwnCode(1.0), steps=1, random_start=False)
    model_fn = ImageModel(undefended.hasher)
    one, two = (attack.push(model_fn, x, target, generator=seeded(s)) for s in (1, 2))
    assert torch.equal(one, two)
