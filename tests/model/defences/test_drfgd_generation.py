"""Part (b): generators, discriminators, what is generated from what, and each term of theirs."""

from dataclasses import replace

import pytest
import torch
from drfgd_made import (
    BITS,
    WIDTH,
    make_batch,
    make_defence,
    make_hasher,
    make_side,
    make_state,
    num,
    run_phase,
    seeded,
)
from torch.nn import functional as F

from model.defences.drfgd.discriminators import (
    ImageDiscriminator,
    TextDiscriminator,
    critic_hinge,
    maker_hinge,
)
from model.defences.drfgd.generation import code_terms, generation_terms, make, read
from model.defences.drfgd.generators import ImageGenerator, TextGenerator

TERMS = (
    "reconstruction",
    "alignment",
    "alignment_across",
    "hardness",
    "keeping",
    "recombination",
    "realism",
    "resilience",
)
ONLY = dict.fromkeys(TERMS, 0.0)
LOUD = {"alignment_floor": 1.0, "share": 1.0}


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed))


def awake(network, scale=1.0):
    """A generator whose last layer says something."""
    torch.nn.init.normal_(network.leave.weight, std=scale, generator=seeded(5))
    return network


@pytest.mark.parametrize("shape", [(3, 3, 16, 16), (3, 3, 21, 30)])
def test_pictures_stay_pictures_within_reach(shape):
    network, x = awake(ImageGenerator(4, WIDTH, 0.25)), rand(*shape)
    made = network(x, rand(3, WIDTH), rand(3, WIDTH))
    assert made.shape == x.shape
    assert float(made.detach().min()) >= 0
    assert float(made.detach().max()) <= 1
    moved = (made - x).detach().abs().max()
    assert 0.05 < float(moved) <= 0.25 + 1e-6


def test_a_fresh_generator_is_nearly_the_identity_and_has_a_slope():
    network, x = ImageGenerator(4, WIDTH, 0.25), rand(3, 3, 16, 16)
    made = network(x, rand(3, WIDTH), rand(3, WIDTH))
    assert num((made - x).abs().mean()) < 0.02
    made.square().mean().backward()
    assert float(network.leave.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("which", ["robust", "vulnerable"])
def test_both_components_reach_the_picture(which):
    network, x = awake(ImageGenerator(4, WIDTH, 0.25)), rand(2, 3, 16, 16)
    z = {"robust": rand(2, WIDTH), "vulnerable": rand(2, WIDTH, seed=1)}
    other = {**z, which: rand(2, WIDTH, seed=2)}
    assert not torch.allclose(network(x, **z), network(x, **other))


def test_texts_keep_their_padding_and_ignore_it():
    network, x = awake(TextGenerator(6, 5, WIDTH, 0.5)), rand(2, 4, 6)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    z = rand(2, WIDTH), rand(2, WIDTH, seed=1)
    made = network(x, *z, mask)
    assert torch.equal(made[1, 1:], x[1, 1:])
    assert not torch.allclose(made[1, 0], x[1, 0])
    changed = torch.where(mask.unsqueeze(-1), x, x + 5)
    assert torch.allclose(network(changed, *z, mask)[mask], made[mask])
    assert num((made - x).abs().max()) <= 0.5 + 1e-6


def test_the_hinge_is_the_hinge():
    real, made = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.5])
    assert float(critic_hinge(real, made)) == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1.5) / 2)
    assert float(maker_hinge(made)) == pytest.approx(1.25)


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_critic_has_slope_one_at_most_and_learns_to_tell(side):
    x = rand(24, 3, 16, 16) if side == "image" else rand(24, 5, 6)
    mask = None if side == "image" else torch.ones(24, 5, dtype=torch.bool)
    critic = ImageDiscriminator(4) if side == "image" else TextDiscriminator(6, 8)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.02)
    made = x * 0.5
    first = num(critic_hinge(critic(x, mask), critic(made, mask)))
    for _ in range(60):
        optimiser.zero_grad()
        loss = critic_hinge(critic(x, mask), critic(made, mask))
        loss.backward()
        optimiser.step()
    assert num(loss) < first - 0.1
    for layer in critic.modules():
        if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d):
            assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) < 1.1


def set_up(side="image", **changes):
    defence = make_defence(**{**LOUD, **changes})
    hasher, batch = make_hasher(), make_batch()
    awake(defence.generators[side], 0.3)
    view = make_side(defence, hasher, batch, side)
    return defence, hasher, view


def made_by(defence, view, across=None, seed=0):
    across = torch.full((len(view.x), WIDTH), float("nan")) if across is None else across
    reading = read(defence.encoders, view)
    network = defence.generators[view.side]
    return make(network, view, reading, across, defence.settings, seeded(seed)), reading


def index_of(rows, pool):
    """For each row its position in the pool, -1 where it is not there."""
    same = (rows[:, None] == pool[None]).all(2)
    return torch.where(same.any(1), same.float().argmax(1), -1).tolist()


@pytest.mark.parametrize("side", ["image", "text"])
def test_all_recombined_means_another_items_attacked_component(side):
    defence, _, view = set_up(side, recombined=1.0, cross_guided=0.0)
    made, reading = made_by(defence, view)
    order = index_of(made.vulnerable, reading.attacked)
    assert sorted(order) == list(range(8))
    assert order != list(range(8))
    assert torch.equal(made.robust, reading.robust)


def test_nothing_recombined_means_ones_own_benign_component():
    defence, _, view = set_up(recombined=0.0)
    made, reading = made_by(defence, view)
    assert torch.equal(made.vulnerable, reading.vulnerable)


@pytest.mark.parametrize(("share", "count"), [(0.5, 4), (0.3, 3), (0.01, 2), (1.0, 8)])
def test_the_share_of_the_items_is_generated(share, count):
    defence, _, view = set_up(share=share)
    made, _ = made_by(defence, view)
    assert len(made.x) == len(made.view.x) == count
    assert torch.equal(made.view.rows, torch.arange(count))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_generation_starts_from_the_benign_or_the_attacked_input(share):
    defence, _, view = set_up(from_attacked=share)
    defence.generators["image"].reach = 0.0
    made, _ = made_by(defence, view)
    assert torch.allclose(made.x, view.attacked if share else view.x)


def test_the_other_modality_guides_where_it_is_there():
    defence, _, view = set_up(cross_guided=1.0)
    across = rand(8, WIDTH)
    across[3] = float("nan")
    made, reading = made_by(defence, view, across)
    assert torch.equal(made.robust[0], across[0])
    assert torch.equal(made.robust[3], reading.robust[3])
    assert bool(made.x.isfinite().all())


def test_the_same_generator_gives_the_same_and_another_another():
    defence, _, view = set_up()
    first, again, other = (made_by(defence, view, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_the_own_perturbation_is_added_and_clipped():
    defence, _, view = set_up()
    made, _ = made_by(defence, view)
    wanted = (made.x + view.attacked - view.x).clamp(0, 1)
    assert torch.allclose(made.perturbed(), wanted, atol=1e-6)
    assert not torch.allclose(made.perturbed(), made.x, atol=1e-3)


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("name", TERMS)
def test_each_term_stands_alone_and_reaches_the_generator(side, name):
    defence, hasher, view = set_up(side, **{**ONLY, name: 1.0})
    made, _ = made_by(defence, view)
    args = (made, defence.encoders, defence.critics[side], hasher, defence.settings, make_state())
    terms = generation_terms(*args)
    assert set(terms) == {name}
    terms[name].backward()
    slopes = [p.grad for p in defence.generators[side].parameters() if p.grad is not None]
    assert any(float(g.abs().sum()) > 0 for g in slopes)
    doubled = replace(defence.settings, **{name: 2.0})
    again = generation_terms(*args[:4], doubled, args[5])
    if name != "realism":  # a spectral norm goes on estimating at each use
        assert num(again[name]) == pytest.approx(2 * num(terms[name]), rel=1e-5)


def test_the_terms_are_what_they_say():
    floor = 0.4
    defence, hasher, view = set_up(**dict.fromkeys(TERMS, 1.0), alignment_floor=floor)
    partner = torch.randn(8, BITS, generator=seeded(1)).sign()
    partner[2] = 0  # nothing stored
    view = replace(view, partner=partner)
    made, _ = made_by(defence, view)
    critic = defence.critics["image"].eval()
    terms = generation_terms(made, defence.encoders, critic, hasher, defence.settings, make_state())
    hasher.eval()
    h, moved = hasher.hash_image(made.x), hasher.hash_image(made.perturbed())
    to_centre = F.cosine_similarity(h, view.centres)
    to_partner = F.cosine_similarity(h, partner)
    known = [i for i in range(8) if i != 2]
    robust, vulnerable = defence.encoders.branches("image", made.x)
    wanted = {
        "reconstruction": (made.x - view.x).abs().mean() / defence.settings.reach,
        "alignment": (floor - to_centre).clamp(min=0).mean(),
        "alignment_across": (floor - to_partner[known]).clamp(min=0).mean(),
        "hardness": to_centre.mean(),
        "keeping": 1 - F.cosine_similarity(robust, made.robust).mean(),
        "recombination": 1 - F.cosine_similarity(vulnerable, made.vulnerable).mean(),
        "realism": -critic(made.x).mean(),
        "resilience": (moved - h).square().mean(),
    }
    assert {name: num(term) for name, term in terms.items()} == pytest.approx(
        {name: num(term) for name, term in wanted.items()}, rel=1e-4, abs=1e-6
    )


def test_no_term_on_codes_means_no_pass_of_the_hasher():
    defence, hasher, view = set_up(**ONLY)
    made, _ = made_by(defence, view)
    hasher.image.register_forward_hook(lambda *_: pytest.fail("the hasher ran"))
    assert code_terms(made, hasher, defence.settings, make_state()) == {}


def test_the_hashers_rest_while_the_generator_learns():
    defence, hasher, batch = make_defence(alignment_floor=1.0), make_hasher(), make_batch()
    before = {name: t.clone() for name, t in hasher.state_dict().items()}
    run_phase(defence, hasher, batch, "generate")
    assert all(p.grad is None for p in (*hasher.parameters(), *defence.encoders.parameters()))
    assert all(p.grad is None for p in (*defence.critics.parameters(), *defence.objective.parameters()))
    for side in ("image", "text"):
        assert any(float(p.grad.abs().sum()) > 0 for p in defence.generators[side].parameters())
    assert all(torch.equal(t, before[name]) for name, t in hasher.state_dict().items())
    assert all(part.training for part in hasher.modules())


def test_the_judge_trains_the_critics_alone():
    defence, hasher, batch = make_defence(), make_hasher(), make_batch()
    terms = run_phase(defence, hasher, batch, "judge")
    assert set(terms) == {"generate.critic"}
    for side in ("image", "text"):
        assert any(p.grad is not None for p in defence.critics[side].parameters())
    assert all(p.grad is None for p in (*hasher.parameters(), *defence.generators.parameters()))


def test_a_trained_generator_obeys_the_alignment():
    defence, hasher, view = set_up(**{**ONLY, "alignment": 1.0}, reach=1.0)
    optimiser = torch.optim.Adam(defence.generators.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        made, _ = made_by(defence, view)
        loss = code_terms(made, hasher, defence.settings, make_state())["alignment"]
        loss.backward()
        optimiser.step()
        losses.append(num(loss))
    assert losses[-1] < losses[0] - 0.2
