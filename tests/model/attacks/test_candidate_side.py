"""Raising and sinking an item of the database for given queries."""

import pytest
import torch
from tiny_hashers import seeded

from model.attacks.anchors import hamming
from model.attacks.base import Target
from model.attacks.candidate import Raise, Sink, candidate_target, expected_ranks
from model.attacks.iterative import apgd
from model.attacks.mainstay import signs
from model.attacks.threat import Threat
from model.attacks.victims import ImageModel
from model.errors import DataError

THREAT = Threat("linf", 24 / 255)


@pytest.fixture
def scene(undefended, queries):
    """Items to poison (images), three text queries each, and the rest of the database."""
    texts = undefended.text_codes(undefended.world)
    wanted = texts[torch.arange(3 * len(queries.images)).view(-1, 3) % len(texts)]
    return undefended, queries.images, wanted, undefended.codes(undefended.world)


def ranks_after(attack, scene, queries_of, database):
    trained, images, _, _ = scene
    target = candidate_target(queries_of, database, attack.objective.place)
    outcome = attack(ImageModel(trained.hasher), images, target, generator=seeded(0))
    with torch.no_grad():
        after = signs(trained.hasher.image_tower()(outcome.x_adv))
        before = signs(trained.hasher.image_tower()(images))
    return expected_ranks(before, queries_of, database), expected_ranks(after, queries_of, database)


def test_an_item_rises_for_a_query_of_another_class(scene):
    _, _, wanted, database = scene
    attack = apgd(THREAT, Raise(place=5), steps=30)
    before, after = ranks_after(attack, scene, wanted[:, :1], database)
    assert after.mean() < 0.5 * before.mean()


def test_an_item_rises_for_several_queries_at_once(scene):
    _, _, wanted, database = scene
    before, after = ranks_after(apgd(THREAT, Raise(), steps=30), scene, wanted, database)
    assert after.mean() < 0.9 * before.mean()


def test_an_item_sinks_for_the_queries_it_fits(scene):
    trained, images, _, database = scene
    with torch.no_grad():
        own = signs(trained.hasher.image_tower()(images)).unsqueeze(1)
    before, after = ranks_after(apgd(THREAT, Sink(place=100), steps=30), scene, own, database)
    assert after.mean() > 2 * before.mean()


def test_radii_are_the_distance_of_the_wanted_place():
    database = signs(torch.randn(50, 16, generator=seeded(0)))
    queries = signs(torch.randn(2, 3, 16, generator=seeded(1)))
    target = candidate_target(queries, database, 7)
    assert target.radii is not None
    for row in range(2):
        expected = hamming(queries[row], database).sort(1).values[:, 6]
        assert torch.equal(target.radii[row], expected)
    assert torch.equal(target.rows(slice(1, 2)).radii, target.radii[1:2])


def test_objectives_count_bits_from_the_wanted_place():
    code = torch.ones(1, 4)
    target = Target(-torch.ones(1, 1, 4), torch.ones(1, 1), torch.tensor([[1.0]]))
    torch.testing.assert_close(Raise()(code, target), torch.tensor([-3 / 4]))
    torch.testing.assert_close(Raise()(-code, target), torch.tensor([1 / 4]))
    torch.testing.assert_close(Sink()(-code, target), torch.tensor([-1 / 4]))
    torch.testing.assert_close(Sink()(code, target), torch.tensor([(1 + 0.1 * 2) / 4]))


def test_expected_ranks_split_ties():
    query = torch.ones(1, 1, 4)
    database = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, 1], [-1, -1, -1, -1]])
    assert expected_ranks(torch.tensor([[-1.0, 1, 1, 1]]), query, database).tolist() == [[3.0]]


@pytest.mark.parametrize("place", [0, 51])
def test_a_place_outside_the_database_is_refused(place):
    with pytest.raises(DataError, match="wanted 1 to 50"):
        candidate_target(torch.ones(1, 1, 8), torch.ones(50, 8), place)


def test_a_target_without_radii_is_refused():
    with pytest.raises(DataError, match="radii"):
        Raise()(torch.ones(1, 4), Target.single(torch.ones(1, 4)))
