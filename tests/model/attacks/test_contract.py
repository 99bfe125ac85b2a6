"""One contract for every attack in the registry: registering is enough to be tested."""

from functools import cache

import pytest
import torch
from tiny_hashers import Trained, World, seeded
from torch import Tensor

from model.attacks.base import Attack, AttackOutcome, Objective, Target
from model.attacks.batches import Batching, attack_in_batches
from model.attacks.mainstay import signs
from model.attacks.registry import METHODS, OBJECTIVES, WHITE_BOX, Effort, build_attack
from model.attacks.threat import Threat
from model.attacks.victims import ImageModel
from model.errors import RecipeError, UnknownName

LINF = Threat("linf", 16 / 255)
L2 = Threat("l2", 1.5)
THREATS = {"linf": LINF, "l2": L2}
# Enough for each method to get somewhere on the tiny model.
EFFORTS = {"fgsm": {}, "pgd": {"steps": 6}, "apgd": {"steps": 8}, "noise": {"queries": 8}}
QUERIES = 60


@cache
def gallery_of(trained: Trained) -> Tensor:
    return trained.codes(trained.world)


def make(method: str, aim: str, trained: Trained, threat: Threat = LINF, **effort: int) -> Attack:
    wanted = EFFORTS.get(method, {"queries": QUERIES}) | effort
    return build_attack(f"{method}:{aim}", threat, Effort(gallery=gallery_of(trained), **wanted))


def run(attack: Attack, trained: Trained, world: World, seed: int = 3) -> AttackOutcome:
    target = aim_of(attack.objective, trained, world)
    return attack(ImageModel(trained.hasher), world.images, target, generator=seeded(seed))


def aim_of(objective: Objective, trained: Trained, world: World) -> Target:
    return objective.target(trained.knowledge(world), generator=seeded(11))


def rows(world: World, index: Tensor | slice) -> World:
    return World(world.images[index], [], world.labels[index])


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


@pytest.fixture(params=OBJECTIVES)
def aim(request) -> str:
    return request.param


@pytest.fixture(params=THREATS)
def threat(request) -> Threat:
    return THREATS[request.param]


def test_every_attack_stays_in_ball_and_range(method, threat, undefended, queries):
    attack = make(method, "mainstay", undefended, threat)
    outcome = run(attack, undefended, queries)
    assert outcome.x_adv.shape == queries.images.shape
    assert threat.contains(outcome.x_adv, queries.images).all()
    assert (outcome.x_adv != queries.images).any()


@pytest.mark.parametrize("method", ["fgsm", "pgd", "apgd"])
def test_every_objective_is_improved_over_clean_and_stays_in_the_ball(method, aim, undefended, queries):
    attack = make(method, aim, undefended)
    outcome = run(attack, undefended, queries)
    assert attack.name == f"{method}:{aim}"
    assert attack.threat is LINF
    assert attack.objective is OBJECTIVES[aim]
    assert LINF.contains(outcome.x_adv, queries.images).all()
    assert outcome.loss.mean() > outcome.clean_loss.mean()
    assert outcome.never_a_gradient == 0.0


def test_every_method_improves_its_objective(method, threat, undefended, queries):
    outcome = run(make(method, "own-code", undefended, threat), undefended, queries)
    assert outcome.loss.mean() > outcome.clean_loss.mean()


def test_reported_losses_are_those_of_the_codes(method, undefended, queries):
    attack = make(method, "sdha", undefended)
    target = aim_of(attack.objective, undefended, queries)
    outcome = run(attack, undefended, queries)
    for x, reported in ((queries.images, outcome.clean_loss), (outcome.x_adv, outcome.loss)):
        with torch.no_grad():
            codes = signs(undefended.hasher.image_tower()(x))
        torch.testing.assert_close(attack.objective(codes, target), reported, atol=1e-6, rtol=0)


def test_a_generator_seed_decides_the_result(method, undefended, queries):
    attack = make(method, "mainstay", undefended)
    first, again = run(attack, undefended, queries, 5), run(attack, undefended, queries, 5)
    assert torch.equal(first.x_adv, again.x_adv)
    assert torch.equal(first.curve, again.curve)
    if method != "fgsm":
        assert not torch.equal(first.x_adv, run(attack, undefended, queries, 6).x_adv)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(method, training, undefended, queries):
    tower = undefended.hasher.image_tower()
    attack = make(method, "own-code", undefended)
    target = aim_of(attack.objective, undefended, queries)
    tower.train(training)
    tower.stem.eval()  # a partly frozen model, as in fine-tuning
    some = next(tower.parameters())
    some.requires_grad_(False)
    before = {name: value.clone() for name, value in undefended.hasher.state_dict().items()}
    modes = [part.training for part in tower.modules()]
    wanted = [p.requires_grad for p in tower.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in tower.parameters()]
    try:
        torch.manual_seed(0)
        state = torch.get_rng_state()
        attack(ImageModel(undefended.hasher), queries.images, target, generator=seeded(3))
        assert torch.equal(torch.get_rng_state(), state)  # no attack touches the global generator
        assert [part.training for part in tower.modules()] == modes
        assert [p.requires_grad for p in tower.parameters()] == wanted
        for p, grad in zip(tower.parameters(), grads, strict=True):
            assert (p.grad is None) == (grad is None)
            assert grad is None or torch.equal(p.grad, grad)
        after = undefended.hasher.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    finally:
        some.requires_grad_(True)
        undefended.hasher.eval()


def test_nothing_is_allowed_at_eps_zero(method, threat, undefended, queries):
    attack = make(method, "mainstay", undefended, Threat(threat.norm, 0.0))
    outcome = run(attack, undefended, queries)
    assert torch.equal(outcome.x_adv, queries.images)
    torch.testing.assert_close(outcome.loss, outcome.clean_loss)


def test_one_query_is_a_batch(method, threat, undefended, queries):
    one = rows(queries, slice(0, 1))
    target = aim_of(OBJECTIVES["own-code"], undefended, queries).rows(slice(0, 1))
    attack = make(method, "own-code", undefended, threat)
    outcome = attack(ImageModel(undefended.hasher), one.images, target, generator=seeded(0))
    assert outcome.x_adv.shape == one.images.shape
    assert len(outcome.value) == len(outcome.queries) == 1
    assert outcome.curve.shape[2] == 1


def test_no_query_is_a_batch_too(method, undefended, queries):
    none = rows(queries, slice(0, 0))
    target = aim_of(OBJECTIVES["own-code"], undefended, queries).rows(slice(0, 0))
    attack = make(method, "own-code", undefended)
    outcome = attack_in_batches(
        attack, ImageModel(undefended.hasher), none.images, target, generator=seeded(0)
    )
    assert len(outcome.x_adv) == len(outcome.loss) == 0


def test_without_randomness_a_query_does_not_depend_on_its_neighbours(undefended, queries):
    attack = make("fgsm", "mainstay", undefended)
    order = torch.randperm(len(queries.images), generator=seeded(2))
    target = aim_of(attack.objective, undefended, queries)
    model = ImageModel(undefended.hasher)
    straight = attack(model, queries.images, target, generator=seeded(0))
    mixed = attack(model, queries.images[order], target.rows(order), generator=seeded(0))
    assert torch.equal(straight.x_adv[order], mixed.x_adv)


def test_what_a_method_spends_is_counted(method, undefended, queries):
    calls = 0
    module = undefended.hasher.image_tower()

    def counted(*_: object) -> None:
        nonlocal calls
        calls += 1

    attack = make(method, "own-code", undefended)
    target = aim_of(attack.objective, undefended, queries)
    hook = module.register_forward_hook(counted)
    try:
        outcome = attack(ImageModel(undefended.hasher), queries.images, target, generator=seeded(0))
    finally:
        hook.remove()
    # The evaluator's last look at what a black-box search ends with is not the attacker's query.
    own = calls - (method in ("square", "nes", "ranks"))
    assert (outcome.queries == own).all()
    assert (outcome.backward > 0).all() == (method in WHITE_BOX)
    if method in ("square", "ranks", "nes"):
        assert own <= QUERIES
    if method in ("square", "ranks"):
        assert own == QUERIES


@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_restarts_never_make_it_worse(method, threat, undefended, queries):
    one = run(make(method, "mainstay", undefended, threat), undefended, queries)
    three = run(make(method, "mainstay", undefended, threat, restarts=3), undefended, queries)
    assert (three.value >= one.value).all()
    assert three.value.mean() > one.value.mean()
    assert three.curve.shape[0] == 3
    assert torch.equal(three.curve[0], one.curve[0])


@pytest.mark.parametrize(("method", "few", "many"), [("pgd", 3, 24), ("apgd", 6, 40)])
def test_more_steps_are_no_worse_on_average(method, few, many, defended, queries):
    short = run(make(method, "mainstay", defended, steps=few), defended, queries)
    long = run(make(method, "mainstay", defended, steps=many), defended, queries)
    assert long.loss.mean() >= short.loss.mean()


@pytest.mark.parametrize("method", ["square", "nes", "noise"])
def test_more_queries_are_no_worse_on_average(method, undefended, queries):
    short = run(make(method, "own-code", undefended, queries=50), undefended, queries)
    long = run(make(method, "own-code", undefended, queries=400), undefended, queries)
    assert long.loss.mean() >= short.loss.mean()


def test_multi_step_beats_single_step_and_noise(undefended, defended, queries):
    for trained in (undefended, defended):
        losses = [
            run(make(m, "mainstay", trained), trained, queries).loss.mean()
            for m in ("noise", "fgsm", "pgd", "apgd")
        ]
        assert losses[0] < losses[1] <= max(losses[2:])


def test_a_larger_ball_is_no_worse(threat, defended, queries):
    losses = [
        run(
            make("apgd", "mainstay", defended, Threat(threat.norm, threat.eps * f)), defended, queries
        ).loss.mean()
        for f in (0.25, 0.5, 1.0, 2.0)
    ]
    assert losses == sorted(losses)


def test_adversarial_training_pays(undefended, defended, queries):
    """The tiny defended model is one: otherwise the tests on it would say nothing."""
    rise = [(run(make("apgd", "own-code", t), t, queries).loss - -1.0).mean() for t in (undefended, defended)]
    assert rise[1] < 0.6 * rise[0]


def test_batches_join_to_the_whole(undefended, queries):
    attack = make("apgd", "mainstay", undefended)
    target = aim_of(attack.objective, undefended, queries)
    done: list[tuple[int, int]] = []
    whole = attack_in_batches(
        attack,
        ImageModel(undefended.hasher),
        queries.images,
        target,
        generator=seeded(0),
        batching=Batching(10, progress=lambda *p: done.append(p)),
    )
    assert done == [(10, 16), (16, 16)]
    assert whole.x_adv.shape == queries.images.shape
    assert whole.curve.shape == (1, 9, 16)
    assert whole.loss.mean() > whole.clean_loss.mean()
    best = whole.best_curve
    assert (best[:, 1:] >= best[:, :-1]).all()


def test_a_batch_gets_its_own_criterion(undefended, queries):
    attack = make("pgd", "mainstay", undefended)
    target = aim_of(attack.objective, undefended, queries)
    seen: list[slice] = []

    def criterion_of(part: slice):
        seen.append(part)
        return lambda logits, _: -logits[:, 0]

    outcome = attack_in_batches(
        attack,
        ImageModel(undefended.hasher),
        queries.images,
        target,
        generator=seeded(0),
        batching=Batching(12, criterion_of),
    )
    assert seen == [slice(0, 12), slice(12, 16)]
    with torch.no_grad():
        logits = undefended.hasher.image_tower()(outcome.x_adv)
    torch.testing.assert_close(outcome.value, -logits[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["square", "nes", "ranks"])
def test_a_search_keeps_the_best_by_a_criterion_that_is_given(method, undefended, queries):
    attack = make(method, "mainstay", undefended)
    target = aim_of(attack.objective, undefended, queries)
    outcome = attack(
        ImageModel(undefended.hasher),
        queries.images,
        target,
        generator=seeded(0),
        criterion=lambda logits, _: -logits[:, 0],
    )
    with torch.no_grad():
        clean = undefended.hasher.image_tower()(queries.images)
    assert (outcome.value >= -clean[:, 0] - 1e-5).all()


@pytest.mark.parametrize("name", ["pgd:nothing", "nothing:mainstay", "", "apgd:"])
def test_unknown_names_are_refused(name):
    with pytest.raises(UnknownName, match="known:"):
        build_attack(name, LINF)


def test_an_objective_alone_means_apgd():
    assert build_attack("mainstay", LINF).name == "apgd:mainstay"


@pytest.mark.parametrize(
    ("name", "effort"),
    [
        ("pgd:mainstay", Effort(steps=0)),
        ("apgd:mainstay", Effort(restarts=0)),
        ("pgd:mainstay", Effort(step=-1.0)),
        ("square:mainstay", Effort(queries=1)),
        ("nes:mainstay", Effort(queries=41)),
        ("noise:mainstay", Effort(queries=0)),
        ("ranks:mainstay", Effort()),
    ],
)
def test_efforts_that_make_no_sense_are_refused(name, effort):
    with pytest.raises(RecipeError, match="got"):
        build_attack(name, LINF, effort)
