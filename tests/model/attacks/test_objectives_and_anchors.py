"""What the objectives aim at, each against its definition written out."""

from dataclasses import replace

import pytest
import torch
from tiny_hashers import seeded

from model.attacks.anchors import hamming, neighbour_mean, prototype_codes, ranked_mean, voted_codes
from model.attacks.base import Target
from model.attacks.knowledge import Knowledge, choose_goals, draw_rows, shared_labels
from model.attacks.mainstay import mainstay_codes, psi, signs
from model.attacks.objectives import (
    CrossModal,
    Mainstay,
    OwnCode,
    PointToPoint,
    Prototype,
    Smart,
    TargetedMainstay,
    Voting,
    away,
    goal_codes,
)
from model.attacks.registry import CANDIDATE, OBJECTIVES, TARGETED, UNTARGETED
from model.errors import DataError

BITS = 16


@pytest.fixture
def known() -> Knowledge:
    generator = seeded(4)
    labels = torch.eye(4)[torch.randint(0, 4, (40,), generator=generator)]
    codes = signs(torch.randn(40, BITS, generator=generator))
    queries = torch.eye(4)
    return Knowledge(
        clean=codes[:4],
        labels=queries,
        codes=codes,
        code_labels=labels,
        paired=codes[4:8],
        other_side=codes[20:],
        goals=queries.roll(1, 0),
    )


def test_away_is_the_capped_mean_over_the_set():
    h = torch.tanh(torch.randn(3, BITS, generator=seeded(0)))
    codes = signs(torch.randn(3, 5, BITS, generator=seeded(1)))
    weights = torch.rand(3, 5, generator=seeded(2))
    target = Target(codes, weights / weights.sum(1, keepdim=True))
    for margin in (0.2, 0.5, 1.0):
        each = (-h.unsqueeze(1) * codes).clamp(max=margin).mean(2)
        torch.testing.assert_close(away(h, target.anchor, margin), (each * target.weights).sum(1))


def test_own_code_aims_at_the_clean_code(known):
    aim = OwnCode()
    target = aim.target(known, generator=seeded(0))
    torch.testing.assert_close(aim(known.clean, target), -torch.ones(4))
    torch.testing.assert_close(aim(-known.clean, target), torch.full((4,), 0.5))


def test_a_bit_past_hags_threshold_pulls_no_more():
    h = torch.tensor([[0.6, -0.2]], requires_grad=True)
    OwnCode()(h, Target.single(torch.tensor([[-1.0, -1.0]]))).sum().backward()
    assert h.grad is not None
    assert h.grad.tolist() == [[0.0, 0.5]]


def test_mainstay_drives_the_distance_from_the_mainstay_code(known):
    target = Mainstay().target(known, generator=seeded(0))
    m = mainstay_codes(known.labels, known.codes, known.code_labels)
    torch.testing.assert_close(Mainstay()(-m, target), torch.ones(4))
    # Its opposite is the floor: no code is worse for the query.
    assert (
        psi(-m, known.labels, known.codes, known.code_labels)
        < psi(m, known.labels, known.codes, known.code_labels)
    ).all()


def test_sdha_weighs_relevant_items_by_rank(known):
    target = Smart().target(known, generator=seeded(0))
    for row in range(4):
        relevant = torch.nonzero(known.relevant()[row]).flatten()
        distance = hamming(known.clean[row : row + 1], known.codes[relevant])[0]
        total, weights = torch.zeros(BITS), 0.0
        for value in distance.unique():
            ties = relevant[distance == value]
            before = int((distance < value).sum())
            weight = sum(1 / (before + 1 + i) for i in range(len(ties))) / len(ties)
            total += weight * known.codes[ties].sum(0)
            weights += weight * len(ties)
        torch.testing.assert_close(target.anchor[row], total / weights)


def test_sdha_does_not_depend_on_the_order_of_the_reference_set(known):
    order = torch.randperm(40, generator=seeded(1))
    mixed = replace(known, codes=known.codes[order], code_labels=known.code_labels[order])
    one, other = (Smart().target(k, generator=seeded(0)).anchor for k in (known, mixed))
    torch.testing.assert_close(one, other)


def test_sdha_without_relevant_items_leaves_the_own_code(known):
    lonely = replace(known, code_labels=torch.zeros(40, 4))
    assert torch.equal(Smart().target(lonely, generator=seeded(0)).anchor, known.clean)
    assert ranked_mean(known.clean, known.codes, lonely.relevant()).isnan().all()
    assert ranked_mean(known.clean[:0], known.codes, lonely.relevant()[:0]).shape == (0, BITS)


def test_cross_modal_aims_at_the_partner_and_its_neighbours(known):
    target = CrossModal(neighbours=3).target(known, generator=seeded(0))
    assert known.paired is not None
    assert known.other_side is not None
    near = neighbour_mean(known.paired, known.other_side, 3)
    torch.testing.assert_close(target.anchor, (known.paired + near) / 2)
    alone = CrossModal().target(replace(known, other_side=None), generator=seeded(0))
    assert torch.equal(alone.anchor, known.paired)


def test_neighbours_are_the_nearest():
    codes = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, -1]])
    torch.testing.assert_close(neighbour_mean(torch.ones(1, 4), codes, 2), torch.tensor([[1.0, 1, 1, 0]]))
    torch.testing.assert_close(neighbour_mean(torch.ones(1, 4), codes, 9), codes.mean(0, keepdim=True))


@pytest.mark.parametrize("aim", [PointToPoint(), Voting(), Prototype(), TargetedMainstay()])
def test_targeted_aims_come_near_the_goal_and_not_the_query(aim, undefended, queries):
    """On a trained model: what they aim at is nearer to the goal's items than to the query's own."""
    known = undefended.knowledge(queries)
    code = aim.target(known, generator=seeded(0)).anchor
    distance = hamming(code, known.codes)
    goals = shared_labels(known.wanted_goals(), known.code_labels)
    for row in range(len(code)):
        assert distance[row][goals[row]].mean() < distance[row][known.relevant()[row]].mean()
    torch.testing.assert_close(aim(code, Target.single(code)), torch.ones(len(code)))


def test_the_prototype_lowers_the_pairwise_likelihood(known):
    similar = known.relevant()

    def loss(p):
        theta = p @ known.codes.T / 2
        terms = torch.nn.functional.softplus(theta) - similar * theta
        sides = [(terms * side).sum(1) / side.sum(1) for side in (similar, ~similar)]
        return sides[0] + sides[1]

    found = prototype_codes(known.codes, similar, 50)
    votes = voted_codes(known.codes.expand(4, -1, -1) * similar.unsqueeze(2))
    assert loss(found).mean() <= loss(votes).mean()
    assert set(found.unique().tolist()) <= {-1.0, 1.0}


def test_votes_are_bitwise_and_ties_are_plus_one():
    codes = torch.tensor([[[1.0, 1, -1], [1, -1, -1]]])
    assert voted_codes(codes).tolist() == [[1, 1, -1]]


def test_goals_share_no_label_with_the_query(known):
    goals = choose_goals(known.labels, known.code_labels, generator=seeded(0))
    assert not shared_labels(known.labels, goals).diagonal().any()
    again = choose_goals(known.labels, known.code_labels, generator=seeded(0))
    assert torch.equal(goals, again)


def test_goal_items_carry_the_goal(known):
    codes = goal_codes(known, 60, seeded(0))
    assert codes.shape == (4, 60, BITS)
    for row in range(4):
        allowed = known.codes[shared_labels(known.wanted_goals(), known.code_labels)[row]]
        assert all((code == allowed).all(1).any() for code in codes[row])


def test_rows_are_drawn_without_repeats_as_long_as_they_last():
    allowed = torch.tensor([[True, False, True, True], [False, False, True, False]])
    picked = draw_rows(allowed, 3, seeded(0))
    assert sorted(picked[0].tolist()) == [0, 2, 3]
    assert picked[1].tolist() == [2, 2, 2]
    many = draw_rows(torch.ones(3000, 4, dtype=torch.bool), 1, seeded(1))
    assert torch.bincount(many.flatten()).min() > 600


def test_suites_name_every_objective_once():
    assert sorted([*UNTARGETED, *TARGETED, *CANDIDATE]) == sorted(OBJECTIVES)
    assert set(UNTARGETED) == {"own-code", "sdha", "mainstay", "cross-modal"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(3, 4)}, "labels"),
        ({"code_labels": torch.zeros(40, 3)}, "code_labels"),
        ({"codes": torch.zeros(40, 8)}, "codes"),
        ({"paired": torch.zeros(5, BITS)}, "paired"),
        ({"other_side": torch.zeros(5, 3)}, "other_side"),
        ({"goals": torch.zeros(4, 5)}, "goals"),
    ],
)
def test_knowledge_of_wrong_shape_is_refused(known, change, message):
    with pytest.raises(DataError, match=f"{message}: wanted shape"):
        replace(known, **change)


def test_aims_say_what_knowledge_they_lack(known):
    bare = replace(known, paired=None, goals=None)
    for name in ("cross-modal", "raise", "sink"):
        with pytest.raises(DataError, match="paired"):
            OBJECTIVES[name].target(bare, generator=seeded(0))
    for name in TARGETED:
        with pytest.raises(DataError, match="goals"):
            OBJECTIVES[name].target(bare, generator=seeded(0))


def test_goals_that_cannot_be_are_refused(known):
    with pytest.raises(DataError, match="query 0 has none"):
        choose_goals(known.labels, torch.ones(5, 4), generator=seeded(0))
    with pytest.raises(DataError, match="no reference item has a goal label of query 0"):
        PointToPoint().target(replace(known, code_labels=torch.zeros(40, 4)), generator=seeded(0))
