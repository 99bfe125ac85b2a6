"""Each switch alone: its weight changes what is learnt, zero is bit for bit none, and what it computes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from artefact_for_teaching import save_teacher
from tiny_training import (
    BITS,
    CPU,
    SIDE,
    Until,
    make_batch,
    make_context,
    make_defence,
    make_hasher,
    make_state,
    make_trainer,
    seeded,
)

from model.defences.encoding import encode
from model.defences.extras import Extras, ExtrasSettings, crossed, difference, relations
from model.defences.perturbation import perturb
from model.defences.teacher import Teacher
from model.errors import ArtefactError, RecipeError
from model.losses.objective import Codes, HashObjective, LossSettings
from model.training.config import from_table
from model.training.fit import _shareable
from model.training.randomness import lent_randomness

SWITCHES = (
    {"consistency": 1.0},
    {"consistency": 1.0, "consistency_stop": False},
    {"attacked_hash": 1.0},
    {"distil_clean": 1.0, "teacher": "average"},
    {"distil_attacked": 1.0, "teacher": "average"},
    {"distil_relations": 1.0, "teacher": "average"},
    {"weight_perturbation": 0.02},
)


def weights_after(table, steps=2):
    trainer = make_trainer("saat", table, optimiser={"rate": 0.01, "average": 0.9})
    trainer.run(Until(steps))
    return torch.cat([p.detach().flatten() for p in trainer.hasher.parameters()])


@pytest.fixture(scope="module")
def plain():
    return weights_after({"inner": {"steps": 1}})


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda s: "-".join(s))
def test_a_switch_changes_the_weights(plain, switch):
    changed = weights_after({"inner": {"steps": 1}, "extras": switch})
    assert torch.isfinite(changed).all()
    assert not torch.equal(plain, changed)


def test_switched_off_is_bit_for_bit_none(plain):
    off = {field.name: 0.0 for field in dataclasses.fields(ExtrasSettings) if field.type in (float, "float")}
    assert len(off) == 7
    assert torch.equal(plain, weights_after({"inner": {"steps": 1}, "extras": off}))
    later = {"weight_perturbation": 0.02, "weight_perturbation_from": 0.9}
    assert torch.equal(plain, weights_after({"inner": {"steps": 1}, "extras": later}))


def some_codes(seed, has_text=None):
    g = seeded(seed)
    image, text = (torch.tanh(torch.randn(6, BITS, generator=g)) for _ in range(2))
    has = torch.ones(6) if has_text is None else torch.tensor(has_text)
    labels = torch.eye(3).repeat(2, 1)
    return Codes(image.requires_grad_(), (text * has[:, None]).requires_grad_(), torch.ones(6), has, labels)


def test_differences_are_means_over_what_is_there():
    a, b = (some_codes(seed, [1.0, 0, 1, 1, 0, 1]) for seed in (1, 2))
    there = [0, 2, 3, 5]
    by_hand = (a.image - b.image).square().mean() + (a.text - b.text)[there].square().mean()
    assert difference(a, b).item() == pytest.approx(by_hand.item(), rel=1e-5)
    difference(a, b).backward()
    assert a.image.grad is not None
    assert b.image.grad is None
    difference(a, b, stop=False).backward()
    assert b.image.grad.abs().sum() > 0


def test_relations_are_those_of_all_four_pairings():
    a, b, t = some_codes(1), some_codes(2), some_codes(3)
    total = 0.0
    for i in range(6):
        for j in range(6):
            for query, taught in ((a.image, t.image), (a.text, t.text)):
                for database, known in ((b.image, t.image), (b.text, t.text)):
                    gap = (query[i] @ database[j] - taught[i] @ known[j]) / BITS
                    total += gap.item() ** 2 / 36 / 4
    assert relations(a, b, t).item() == pytest.approx(total, rel=1e-4)
    turned = [dataclasses.replace(c, image=c.image.flip(1), text=c.text.flip(1)) for c in (t, t)]
    assert relations(*turned, t).item() == pytest.approx(0, abs=1e-9)  # another code space is as good


def test_the_adversarial_hash_loss_pairs_attacked_with_benign():
    objective = HashObjective(
        LossSettings(intra=0.0, proxy=0.0, quantisation=0.0), torch.full((3,), 0.3), BITS
    )
    benign, attacked = some_codes(1), some_codes(2)
    half = dataclasses.replace(benign, image=attacked.image), dataclasses.replace(benign, text=attacked.text)
    by_hand = sum(objective(codes)["inter"] for codes in half) / 2
    assert crossed(benign, attacked, objective).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_weights_are_perturbed_up_the_loss_until_the_backward_pass_is_over():
    hasher, batch, state = make_hasher(), make_batch(), make_state()
    before = {name: t.clone() for name, t in hasher.state_dict().items()}
    goal = torch.ones(8, BITS)

    def loss():
        with lent_randomness(CPU, 0, "dropout"):
            return -(encode(hasher, batch, make_state()).image * goal).mean()

    lower = loss().item()
    hasher.load_state_dict(before)  # that pass moved running statistics
    with state.held:
        perturb(hasher, state, loss, 0.05)
        for name, parameter in hasher.named_parameters():
            moved = (parameter - before[name]).norm()
            # Bodies of residual blocks have no gradient at first: they end in a norm of weight 0.
            moves = parameter.ndim > 1 and name.startswith("image") and "body" not in name
            assert moved.item() == pytest.approx(0.05 * before[name].norm().item() if moves else 0, rel=1e-3)
        weights = dict(hasher.named_parameters())
        kept = {name: t for name, t in hasher.state_dict().items() if name not in weights}
        assert all(torch.equal(t, before[name]) for name, t in kept.items())
        higher = loss()
        higher.backward()  # the graph is of the moved weights, and still whole
    assert higher.item() > lower + 0.01
    assert all(torch.equal(p, before[name]) for name, p in hasher.named_parameters())


def test_weights_come_back_when_a_pass_fails():
    trainer = make_trainer("saat", {"inner": {"steps": 1}, "extras": {"weight_perturbation": 0.5}})
    before = [p.detach().clone() for p in trainer.hasher.parameters()]

    def fails(*_):
        raise KeyError("as if memory ran out")

    trainer.defence.extras.terms = fails
    with pytest.raises(KeyError):
        trainer.run(Until(1))
    assert all(torch.equal(p, kept) for p, kept in zip(trainer.hasher.parameters(), before, strict=True))


def test_a_teacher_of_ones_own_average_needs_an_average():
    batch, average = make_batch(), make_hasher(seed=4).eval()
    teacher = Teacher.named("average", make_context())
    assert torch.equal(
        teacher.codes(batch, make_state(average=average)).image, average.hash_image(batch.images)
    )
    with pytest.raises(RecipeError, match="keeps none"):
        teacher.codes(batch, make_state())


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """An artefact's folder, its hasher and its tokenizer."""
    return save_teacher(tmp_path_factory.mktemp("models"))


def context_for(taught, **changes):
    fields = {"tokenizer": taught.tokenizer, "image_size": SIDE, **changes}
    return make_context(**fields)


def test_a_teacher_from_an_artefact_gives_its_codes_and_stays_out_of_the_checkpoint(taught):
    settings = ExtrasSettings(distil_attacked=1.0, teacher=str(taught.folder))
    extras = Extras(settings, context_for(taught))
    assert list(extras.parameters()) == []
    assert extras.state_dict() == {}
    batch, state = make_batch(), make_state()
    batch = dataclasses.replace(batch, tokens=batch.tokens.clamp(max=taught.hasher.text.vocabulary_size - 1))
    goal = encode(taught.hasher, batch, state)
    student = encode(make_hasher(seed=9), batch, state)
    terms = extras.terms(batch, state, student, student, make_defence("none").objective)
    assert list(terms) == ["distil_attacked"]
    assert terms["distil_attacked"].item() == pytest.approx(difference(student, goal).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": "{}"}, "tokenizer"),
        ({"tokenizer": None}, "tokenizer"),
        ({"image_size": 32}, "image size: wanted the run's, 32, got 16"),
    ],
)
def test_a_teacher_that_reads_something_else_is_refused(taught, changes, said):
    with pytest.raises(RecipeError, match=said):
        Teacher.named(str(taught.folder), context_for(taught, **changes))


def test_a_teacher_of_another_length_or_of_nothing_is_refused(taught, tmp_path):
    longer = dataclasses.replace(context_for(taught), bits=32)
    with pytest.raises(RecipeError, match="code length: wanted the run's, 32, got 16"):
        Teacher.named(str(taught.folder), longer)
    with pytest.raises(ArtefactError):
        Teacher.named(str(tmp_path / "nobody"), context_for(taught))


def test_the_teachers_path_stays_out_of_the_manifest(taught):
    table = {"extras": {"teacher": str(taught.folder), "distil_clean": 1.0}}
    told = _shareable(from_table({"defence": table}))["defence"]["extras"]["teacher"]
    assert told == "teacher/1"
    assert str(taught.folder.parent.parent) not in json.dumps(told)
    own = {"extras": {"teacher": "average", "distil_clean": 1.0}}
    assert _shareable(from_table({"defence": own}))["defence"] == own


def test_averaged_weights_are_kept_for_every_defence():
    """The one switch that is not here: `optimiser.average`, of the loop."""
    trainer = make_trainer("saat", {"inner": {"steps": 1}}, optimiser={"rate": 0.01, "average": 0.9})
    trainer.run(Until(3))
    mine, kept = trainer.hasher.state_dict(), trainer.average.model.state_dict()
    assert not np.allclose(mine["image.stem.0.weight"], kept["image.stem.0.weight"])
