"""SAAT: its objective by hand, what training with it changes, continuation, several processes."""

import socket

import pytest
import torch
from tiny_training import (
    CPU,
    RESOLVED,
    Until,
    make_batch,
    make_defence,
    make_hasher,
    make_state,
    make_trainer,
)
from torch import distributed as dist
from torch import multiprocessing

from model.attacks.mainstay import signs
from model.defences.encoding import encode, encode_attacked, encode_together
from model.defences.inner import InnerAttack, InnerSettings
from model.defences.registry import read_defence
from model.errors import RecipeError
from model.training.config import load_recipe, shipped
from model.training.distributed import World
from model.training.randomness import lent_randomness

BUDGET = {"eps_image": 8 / 255, "eps_text": 0.3}
QUICK = {"inner": {"steps": 1, "eps_text": 0.3}}


def run_losses(defence, hasher, batch, state):
    with lent_randomness(CPU, 0, "dropout"):
        return defence.losses(hasher, batch, state)


def test_the_terms_are_the_papers():
    defence = make_defence("saat", {**QUICK, "attack": 3.0, "attack_quantisation": 0.5})
    hasher, batch = make_hasher().eval(), make_batch()  # evaluation mode: passes can be repeated by hand
    terms = run_losses(defence, hasher, batch, make_state())
    benign = encode(hasher, batch, make_state())
    assert torch.equal(defence.stored.codes[0, :8].float(), signs(benign.image))
    anchors = defence.stored.mainstay(batch.labels)
    made = defence.inner(hasher, batch, anchors, make_state())
    attacked = encode_attacked(hasher, batch, made, make_state())
    distance = sum(-(h * anchors).sum(1).mean() / 16 for h in (attacked.image, attacked.text))
    blur = sum((h - signs(h)).square().mean() for h in (attacked.image, attacked.text))
    assert terms["mainstay"].item() == pytest.approx(3 * distance.item(), abs=1e-5)
    assert terms["attacked_quantisation"].item() == pytest.approx(0.5 * blur.item(), abs=1e-5)
    for name, term in defence.objective(benign).items():
        assert terms[name].item() == pytest.approx(term.item(), abs=1e-5)


def test_before_the_attack_begins_it_is_the_undefended_loss():
    defence = make_defence("saat", {"inner": {"begin": 0.5}})
    terms = run_losses(defence, make_hasher(), make_batch(), make_state(4))
    assert "mainstay" not in terms
    assert defence.stored.codes[:, :8].any()
    assert "mainstay" in run_losses(defence, make_hasher(), make_batch(), make_state(5))


def test_each_weight_changes_the_gradient_and_zero_is_none():
    gradients = {}
    for name, table in {
        "plain": {"attack": 0.0, "attack_quantisation": 0.0},
        "attack": {"attack": 1.0, "attack_quantisation": 0.0},
        "quantised": {"attack": 0.0, "attack_quantisation": 1.0},
    }.items():
        defence, hasher = make_defence("saat", {**QUICK, **table}), make_hasher()
        terms = run_losses(defence, hasher, make_batch(), make_state())
        assert ("attacked_quantisation" in terms) == (name == "quantised")
        torch.stack(list(terms.values())).sum().backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in hasher.parameters()])
    assert not torch.equal(gradients["plain"], gradients["attack"])
    assert not torch.equal(gradients["plain"], gradients["quantised"])


def test_both_modalities_are_defended_and_the_embedding_table_learns_too():
    defence, hasher = make_defence("saat", QUICK), make_hasher()
    terms = run_losses(defence, hasher, make_batch(), make_state())
    terms["mainstay"].backward()
    assert hasher.text.table.weight.grad.abs().sum() > 0
    assert hasher.image.stem[0].weight.grad.abs().sum() > 0


def test_benign_and_attacked_inputs_can_share_their_batch_statistics():
    hasher, batch = make_hasher(), make_batch(6, has_image=[1.0, 1, 0, 1, 1, 1])
    made = InnerAttack(InnerSettings(**QUICK["inner"]))(hasher, batch, torch.ones(6, 16), make_state())
    with lent_randomness(CPU, 0, "dropout"), torch.no_grad():
        hasher.eval()
        apart = encode(hasher, batch, make_state()), encode_attacked(hasher, batch, made, make_state())
        for ours, theirs in zip(encode_together(hasher, batch, made, make_state()), apart, strict=True):
            assert torch.allclose(ours.image, theirs.image, atol=1e-5)
            assert torch.allclose(ours.text, theirs.text, atol=1e-5)
            assert not ours.image[2].any()
        hasher.train()
        shared = encode_together(hasher, batch, made, make_state())[0]
        assert not torch.allclose(shared.image, encode(hasher, batch, make_state()).image, atol=1e-3)


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("together", [True, False])
def test_a_model_of_one_tower_is_defended(side, together):
    extras = {"consistency": 1.0, "attacked_hash": 1.0, "weight_perturbation": 0.01}
    defence = make_defence("saat", {**QUICK, "together": together, "extras": extras})
    hasher = make_hasher({side: RESOLVED[side]})
    state = make_state()
    with state.held:
        terms = run_losses(defence, hasher, make_batch(), state)
        assert all(torch.isfinite(term) for term in terms.values())
        terms["mainstay"].backward()
    assert any(p.grad.abs().sum() > 0 for p in hasher.parameters() if p.grad is not None)
    assert defence.stored.codes[("text", "image").index(side)].abs().sum() == 0


def attacked_agreement(trainer):
    """Mean agreement of attacked image and text codes with their mainstay, by an attack of ten steps."""
    hasher, defence = trainer.hasher.eval(), trainer.defence
    strong = InnerAttack(InnerSettings(**BUDGET, steps=10))
    found = []
    for batch in trainer.feed.epoch(0):
        stored = defence.stored.mainstay(batch.labels)
        made = strong(hasher, batch, stored, make_state())
        with torch.no_grad():
            codes = encode_attacked(hasher, batch, made, make_state())
        found.append([float((signs(h) * stored).mean()) for h in (codes.image, codes.text)])
    return torch.tensor(found).mean(0)


def test_attacked_codes_stay_nearer_to_their_mainstay_than_the_undefended_twins():
    """The twin is the same defence without its terms: it stores codes too, and its weights are undefended."""
    schedule = {"epochs": 8, "batch": 32, "validate_every": 100, "select": "last"}
    agreement = {}
    for name, table in {
        "undefended": {"inner": {"begin": 1.0}},
        "saat": {"attack": 5.0, "inner": {**BUDGET, "steps": 2}},
    }.items():
        trainer = make_trainer("saat", table, schedule=schedule)
        watcher = Until()
        assert trainer.run(watcher)
        assert ("mainstay" in watcher.terms[-1]) == (name == "saat")
        agreement[name] = attacked_agreement(trainer)
    assert (agreement["saat"] > agreement["undefended"] + 0.1).all(), agreement


def assert_same(one, two):
    for owner, part in one.snapshot().tensors.items():
        for name, tensor in part.items():
            assert torch.equal(tensor, two.snapshot().tensors[owner][name]), (owner, name)


@pytest.mark.parametrize(
    "table",
    [
        QUICK,
        {
            "together": True,
            "inner": {"method": "single-step", "objective": "mixed", "check_every": 2, "ramp": 0.5},
            "extras": {"weight_perturbation": 0.01, "teacher": "average", "distil_attacked": 1.0},
        },
    ],
)
def test_continuing_is_the_same_as_never_stopping(table):
    straight, interrupted, continued = (make_trainer("saat", table, gaps=True) for _ in range(3))
    assert straight.run(Until())
    assert not interrupted.run(Until(3))
    torch.rand(5)  # a continued process has another history of randomness
    continued.restore(interrupted.snapshot())
    assert continued.run(Until())
    assert_same(straight, continued)


def _member(rank, port, answers):
    """One of two processes of one run."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    table = {**QUICK, "extras": {"weight_perturbation": 0.01, "attacked_hash": 1.0}}
    trainer = make_trainer("saat", table, World(rank, 2, CPU), gaps=True)
    watcher = Until(6)
    trainer.run(watcher)
    weights = torch.cat([p.detach().flatten() for p in trainer.hasher.parameters()])
    answers.put((rank, weights.tolist(), trainer.defence.stored.codes.tolist(), watcher.terms[-1]))
    dist.destroy_process_group()


def test_two_processes_agree_on_weights_codes_and_losses():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    members = [context.Process(target=_member, args=(rank, port, answers)) for rank in (0, 1)]
    for member in members:
        member.start()
    (_, *first), (_, *second) = sorted((answers.get() for _ in members), key=lambda answer: answer[0])
    for member in members:
        member.join(60)
        assert member.exitcode == 0
    assert first == second
    assert torch.isfinite(torch.tensor(first[0])).all()
    assert torch.tensor(first[1]).any(2).float().mean() > 0.7


def test_what_is_defended_against_is_told():
    threat = make_defence("saat", {"inner": {"eps_image": 0.03, "eps_text": 0.1}}).threat()
    assert (threat["norm"], threat["eps_image"], threat["eps_text"]) == ("linf", 0.03, 0.1)
    assert make_defence("none").threat() is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"lambda": 1.0}, "unknown lambda; known: attack"),
        ({"attack": -1.0}, r"defence\.attack"),
        ({"inner": {"eps_image": 8.0}}, r"defence\.inner\.eps_image: wanted 0.0 to 1.0, got 8.0"),
        ({"inner": {"epsilon": 0.1}}, r"defence\.inner: unknown epsilon"),
        ({"inner": 3}, r"defence\.inner: wanted dict, got 3"),
        ({"extras": {"awp": 1.0}}, r"defence\.extras: unknown awp"),
        ({"extras": {"distil_clean": 1.0}}, "wants a folder or 'average', got none"),
        ({"extras": {"teacher": "average"}}, "every distil_"),
    ],
)
def test_refusals_name_the_key(table, said):
    with pytest.raises(RecipeError, match=said):
        read_defence("saat", table)


@pytest.mark.parametrize("name", [each for each in shipped() if each.startswith("saat")])
def test_shipped_recipes_are_read_by_the_defence(name):
    recipe = load_recipe(name)
    _, settings = read_defence("saat", recipe.defence)
    assert settings.attack > 0
    assert settings.inner_settings().eps_image > 0
    assert settings.inner_settings().eps_text > 0
