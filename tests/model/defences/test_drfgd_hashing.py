"""Part (c) and the whole: hash terms, phases, switches, what is left alone, and continuing bit for bit."""

import dataclasses

import pytest
import torch
from drfgd_made import (
    ARCHITECTURE,
    BITS,
    CLASSES,
    CPU,
    SMALL,
    make_batch,
    make_defence,
    make_hasher,
    make_side,
    make_state,
    num,
    run_phase,
    seeded,
)

from model.data.text import TokenizerOptions, train_codec
from model.defences.base import DefenceContext
from model.defences.drfgd.defence import Drfgd
from model.defences.drfgd.generation import Made, read
from model.defences.drfgd.hashing import across, encode_generated, guidance_term, hashing_terms
from model.defences.drfgd.settings import DrfgdSettings
from model.defences.registry import read_defence
from model.errors import RecipeError, TrainingError
from model.losses.independence import dependence
from model.losses.objective import Codes, HashObjective, LossSettings
from model.training.batches import Feed, Sides
from model.training.config import from_table, load_recipe
from model.training.corpus import Corpus
from model.training.distributed import World
from model.training.images import ImagesInMemory
from model.training.loop import Trainer
from model.training.randomness import lent_randomness
from model.training.tokens import TokenTable

HASH = ("adversarial", "generated", "centre", "agreement", "cross", "guidance")
PARTS = {
    "separate": (
        "robust",
        "vulnerable",
        "consistency",
        "contrast",
        "separation",
        "invariance",
        "correlation",
    ),
    "generate": (
        "reconstruction",
        "alignment",
        "alignment_across",
        "hardness",
        "keeping",
        "recombination",
        "realism",
        "resilience",
    ),
    "hash": HASH,
}


def make_codes(seed, n=6, has_text=None):
    image, text = (torch.tanh(torch.randn(n, BITS, generator=seeded(seed + i))) for i in range(2))
    has = torch.ones(n)
    labels = torch.eye(CLASSES)[torch.arange(n) % CLASSES]
    return Codes(image, text, has, has if has_text is None else torch.tensor(has_text), labels)


def make_objective():
    with lent_randomness(CPU, 0, "objective"):
        return HashObjective(LossSettings(), torch.full((CLASSES,), 0.25), BITS)


def test_the_terms_are_what_they_say():
    benign, attacked, generated = make_codes(0), make_codes(2), make_codes(4, has_text=[1.0] * 3 + [0.0] * 3)
    objective, mainstay = make_objective(), torch.randn(6, BITS, generator=seeded(9)).sign()
    settings = DrfgdSettings(adversarial=2.0, generated=3.0, centre=1.0, agreement=1.0, cross=1.0)
    terms = hashing_terms(benign, attacked, generated, objective, mainstay, settings)
    sums = [num(sum(objective(codes).values())) for codes in (attacked, generated)]
    assert num(terms["adversarial"]) == pytest.approx(2 * sums[0])
    assert num(terms["generated"]) == pytest.approx(3 * sums[1])
    apart = [
        [(getattr(c, side) - getattr(benign, side)).square()[:count].mean() for side, count in sides]
        for c, sides in ((attacked, (("image", 6), ("text", 6))), (generated, (("image", 6), ("text", 3))))
    ]
    assert num(terms["agreement"]) == pytest.approx(num(sum(sum(pair) for pair in apart)) / 2, rel=1e-5)
    away = [
        [-(getattr(c, side) * mainstay)[:count].mean() for side, count in sides]
        for c, sides in ((attacked, (("image", 6), ("text", 6))), (generated, (("image", 6), ("text", 3))))
    ]
    assert num(terms["centre"]) == pytest.approx(num(sum(sum(pair) for pair in away)) / 2, rel=1e-5)
    relevant = (benign.labels @ benign.labels.T > 0).float()
    everyone = torch.ones(6, 6)
    pairs = [
        objective.pair(attacked.image, benign.text, relevant, everyone),
        objective.pair(attacked.text, benign.image, relevant, everyone),
    ]
    assert num(terms["cross"]) == pytest.approx(num(sum(pairs)) / 2)


def test_cross_pairs_only_what_is_there():
    benign, attacked = make_codes(0, has_text=[1.0, 1.0, 0.0, 1.0, 1.0, 0.0]), make_codes(2)
    spoiled = dataclasses.replace(benign, text=benign.text.clone())
    spoiled.text[2] = 0.9
    objective = make_objective()
    assert num(across(benign, attacked, objective)) == pytest.approx(
        num(across(spoiled, attacked, objective))
    )


def test_generated_rows_are_encoded_and_the_others_masked():
    defence, hasher, batch = make_defence(), make_hasher().eval(), make_batch(has_text=[1.0] * 5 + [0.0] * 3)
    made, wanted = {}, {}
    for side in ("image", "text"):
        view = make_side(defence, hasher, batch, side).head(3)
        made[side] = Made(view, (view.x + 0.1).clamp(0, 1), view.centres, view.centres)
        with torch.no_grad():
            wanted[side] = view.code(hasher, made[side].perturbed(), make_state())
    carried = {side: torch.ones(3, dtype=torch.bool) for side in made}
    codes = encode_generated(hasher, batch, made, carried, make_state())
    assert codes.has_image.tolist() == codes.has_text.tolist() == [1.0] * 3 + [0.0] * 5
    assert torch.allclose(codes.image[:3], wanted["image"], atol=1e-5)
    assert torch.allclose(codes.text[:3], wanted["text"], atol=1e-5)
    assert not codes.image[3:].any()
    codes.text.sum().backward()
    assert float(hasher.text.table.weight.grad.abs().sum()) > 0


def test_guidance_follows_the_encoders_and_not_the_reverse():
    defence, hasher, batch = make_defence(), make_hasher(), make_batch(has_image=[0.0, 0.0] + [1.0] * 6)
    views = {"image": make_side(defence, hasher, batch, "image")}
    readings = {"image": read(defence.encoders, views["image"])}
    codes = make_codes(0, n=8)
    image = codes.image.requires_grad_(True)
    codes = dataclasses.replace(codes, image=image, has_image=batch.has_image, has_text=torch.zeros(8))
    term = guidance_term(codes, views, readings, torch.zeros(8, 8), make_state())
    assert num(term) == pytest.approx(1 - num(dependence(image[2:], readings["image"].robust)), rel=1e-4)
    term.backward()
    assert not image.grad[:2].any()
    assert all(p.grad is None for p in defence.encoders.parameters())


def whole_step(defence, hasher, batch, step=0):
    """Terms by phase of a step, nothing being updated."""
    return {
        phase.name: run_phase(defence, hasher, batch, phase.name, step)
        for phase in defence.phases
        if defence.due(phase.name, step, 10)
    }


def plain(terms):
    return {name: num(term) for name, term in terms.items()}


@pytest.fixture(scope="module")
def with_everything():
    return {phase: plain(t) for phase, t in whole_step(make_defence(), make_hasher(), make_batch()).items()}


@pytest.mark.parametrize("recipe", ["drfgd", "drfgd_mobilenet_v2"])
def test_the_shipped_weights_are_all_on(with_everything, recipe):
    table = load_recipe(recipe).defence
    _, settings = read_defence("drfgd", table)
    assert min(settings.share, settings.recombined, settings.cross_guided, settings.perturbed) > 0
    for phase, names in PARTS.items():
        for name in names:
            assert table[name] > 0
            prefix = {"separate": "encode.", "generate": "generate.", "hash": ""}[phase]
            assert prefix + name in with_everything[phase]


@pytest.mark.parametrize(("phase", "name"), [(p, n) for p, names in PARTS.items() for n in names])
def test_a_weight_of_zero_takes_out_its_term_and_nothing_else(with_everything, phase, name):
    found = whole_step(make_defence(**{name: 0.0}), make_hasher(), make_batch())
    ours = plain(found[phase])
    prefix = {"separate": "encode.", "generate": "generate.", "hash": ""}[phase]
    assert with_everything[phase].keys() - ours.keys() == {prefix + name}
    if name != "realism":  # the spectral norms' estimates go on with every use
        assert ours == {n: v for n, v in with_everything[phase].items() if n in ours}


def test_without_generation_nothing_is_generated():
    defence = make_defence(share=0.0)
    for network in (*defence.generators.values(), *defence.critics.values()):
        network.register_forward_hook(lambda *_: pytest.fail("it ran"))
    found = whole_step(defence, make_hasher(), make_batch())
    assert set(found) == {"separate", "hash"}
    assert "generated" not in found["hash"]


def test_without_encoder_terms_the_encoders_are_not_trained():
    defence = make_defence(**dict.fromkeys(PARTS["separate"], 0.0))
    assert not defence.due("separate", 0, 10)
    assert defence.score_encoders() is None
    assert make_defence().score_encoders() is not None


def test_without_generation_and_guidance_the_encoders_do_not_run_for_the_hashers():
    defence = make_defence(share=0.0, guidance=0.0, **dict.fromkeys(PARTS["separate"], 0.0))
    defence.encoders.register_forward_hook(lambda *_: pytest.fail("they ran"))
    defence.encoders.image.register_forward_hook(lambda *_: pytest.fail("they ran"))
    assert set(whole_step(defence, make_hasher(), make_batch())) == {"hash"}


def test_phases_take_their_turns():
    defence = make_defence(encoder_every=2, generator_every=3)
    turns = {
        phase.name: [step for step in range(7) if defence.due(phase.name, step, 7)]
        for phase in defence.phases
    }
    assert turns == {
        "separate": [0, 2, 4, 6],
        "generate": [0, 3, 6],
        "judge": [0, 3, 6],
        "hash": list(range(7)),
    }


def test_before_the_attack_begins_only_the_hash_loss_runs():
    defence = make_defence(inner={"begin": 0.5})
    assert [defence.due("separate", step, 10) for step in (4, 5)] == [False, True]
    found = whole_step(defence, make_hasher(), make_batch(), step=1)
    assert set(found) == {"hash"}
    assert set(found["hash"]) == {"inter", "intra", "proxy", "quantisation"}
    assert not make_defence(inner={"eps_image": 0.0, "eps_text": 0.0}).due("separate", 0, 10)


def test_the_adversaries_of_a_step_are_made_once():
    defence, calls = make_defence(), []
    defence.inner.register_forward_hook(lambda *_: calls.append(1))
    hasher, batch = make_hasher(), make_batch()
    whole_step(defence, hasher, batch, step=0)
    assert len(calls) == 1
    whole_step(defence, hasher, batch, step=1)
    assert len(calls) == 2


def test_another_batch_of_the_same_step_gets_its_own_adversaries():
    defence, hasher = make_defence(), make_hasher()
    run_phase(defence, hasher, make_batch(), "separate")
    other = dataclasses.replace(make_batch(seed=1), items=torch.arange(8) + 4)
    run_phase(defence, hasher, other, "hash")
    assert bool((defence.stored.codes[0, 8:12] != 0).all())


def test_the_hashers_structure_is_unchanged_and_serving_knows_nothing():
    defence, hasher = make_defence(), make_hasher()
    before = list(hasher.state_dict())
    whole_step(defence, hasher, make_batch())
    assert list(hasher.state_dict()) == before == list(make_hasher().state_dict())
    assert defence.groups(hasher)["hasher"] is hasher
    kept = {id(p) for p in hasher.parameters()}
    assert not kept & {id(p) for p in defence.parameters()}


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_model_of_one_modality_is_defended(side):
    hasher = make_hasher({side: ARCHITECTURE[side]})
    context = DefenceContext(
        BITS, torch.eye(CLASSES).repeat(5, 1), LossSettings(), embedding_width=6 if side == "text" else None
    )
    found = whole_step(make_defence(context), hasher, make_batch())
    assert set(found) == {"separate", "generate", "judge", "hash"}
    assert all(bool(t.isfinite()) for terms in found.values() for t in terms.values())


@pytest.mark.parametrize("missing", [[0.0] * 8, [1.0] + [0.0] * 7, [0.0, 1.0] * 4])
def test_items_without_texts_are_no_hindrance(missing):
    found = whole_step(make_defence(), make_hasher(), make_batch(has_text=missing))
    assert all(bool(t.isfinite()) for terms in found.values() for t in terms.values())


def test_a_batch_with_too_few_of_everything_changes_nothing():
    nobody = [1.0] + [0.0] * 7
    found = whole_step(make_defence(), make_hasher(), make_batch(has_image=nobody, has_text=nobody))
    assert plain(found["separate"]) == {"encode.nothing": 0.0}
    assert plain(found["generate"]) == {"generate.nothing": 0.0}


def test_a_text_tower_of_another_width_is_refused():
    with pytest.raises(TrainingError, match=r"embeddings of width 0, the text tower's have 6"):
        make_defence(DefenceContext(BITS, torch.eye(CLASSES), LossSettings())).groups(make_hasher())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"realism": -1.0}, r"defence\.realism"),
        ({"attacked_labels": "worst"}, "nearest, foreign, got 'worst'"),
        ({"image_channels": 6}, "multiple of 4, got 6"),
        ({"inner": {"steps": 0}}, r"inner\.steps"),
        ({"extras": {"magic": 1.0}}, "unknown magic"),
        ({"magic": 1.0}, "unknown magic"),
    ],
)
def test_a_bad_table_is_refused(table, said):
    with pytest.raises(RecipeError, match=said):
        read_defence("drfgd", table)


def test_the_threat_goes_into_the_manifest():
    assert make_defence(inner={"eps_image": 0.25, "eps_text": 0.5}).threat() == {
        "norm": "linf",
        "eps_image": 0.25,
        "unit_image": "pixels in [0, 1]",
        "eps_text": 0.5,
        "unit_text": "root mean square of the embedding table",
    }


class Until:
    """A watcher that stops after a step."""

    def __init__(self, step=None):
        self.step, self.terms = step, []

    def after_step(self, trainer, terms, rate):
        self.terms.append(set(terms))
        return trainer.step == self.step

    def after_epoch(self, trainer, record):
        pass


def make_trainer(**changes):
    """A run on 24 drawn items, some without a text."""
    words = ["red dog", "blue cat", "green bird", "red cat sleeps"]
    texts = tuple(() if i % 7 == 6 else (words[i % 4], words[(i + 1) % 4]) for i in range(24))
    labels = torch.eye(CLASSES)[torch.arange(24) % CLASSES]
    everyone, nobody = torch.arange(24), torch.zeros(0, dtype=torch.int64)
    names = tuple("abcd")
    ids = tuple(map(str, range(24)))
    corpus = Corpus(ids, texts, ("",) * 24, labels, names, "manifest", everyone, nobody)
    codec = train_codec(corpus.training_texts(), TokenizerOptions(size=40, min_frequency=1), 6)
    text = {**ARCHITECTURE["text"], "vocabulary_size": codec.vocabulary_size}
    pixels = torch.randint(0, 256, (24, 16, 16, 3), generator=seeded(), dtype=torch.uint8)
    sides = Sides(ImagesInMemory(pixels), TokenTable(codec, texts, "sample", 0))
    recipe = from_table({"schedule": {"epochs": 2, "batch": 8}, "optimiser": {"rate": 0.01}})
    context = DefenceContext(BITS, labels, LossSettings(), embedding_width=6)
    with lent_randomness(CPU, 0, "weights"):
        defence = Drfgd(DrfgdSettings(**{**SMALL, **changes}), context)
    hasher = make_hasher({**ARCHITECTURE, "text": text})
    return Trainer(recipe, hasher, defence, Feed(recipe, corpus, sides, World(0, 1, CPU)), lambda _: {})


def everything(trainer):
    taken = trainer.snapshot()
    flat = {f"{owner}/{name}": t for owner, part in taken.tensors.items() for name, t in part.items()}
    for group, optimiser in taken.optimisers.items():
        for number, state in optimiser["state"].items():
            flat |= {f"{group}/{number}/{name}": t for name, t in state.items()}
    return flat, taken.counters


@pytest.mark.parametrize("stop", [1, 4])
def test_continuing_is_the_same_as_never_stopping(stop):
    every = {"encoder_every": 2, "generator_every": 3}
    straight = make_trainer(**every)
    watcher = Until()
    assert straight.run(watcher)
    assert ["generate.critic" in terms for terms in watcher.terms] == [True, False, False] * 2
    interrupted = make_trainer(**every)
    assert not interrupted.run(Until(stop))
    torch.rand(13)
    continued = make_trainer(**every)
    continued.restore(interrupted.snapshot())
    assert continued.run(Until())
    (ours, counters), (theirs, others) = everything(straight), everything(continued)
    assert counters == others
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_every_group_learns_in_a_run():
    trainer = make_trainer()
    before = {name: [p.detach().clone() for p in m.parameters()] for name, m in trainer.groups.items()}
    trainer.run(Until(2))
    for name, parameters in before.items():
        now = trainer.groups[name].parameters()
        assert any(not torch.equal(a, b) for a, b in zip(parameters, now, strict=True)), name
