"""The generic loop: bit-for-bit continuation, several phases, what stops a run."""

import dataclasses

import pytest
import torch
from torch import nn

from model.data.manifest import read_manifest
from model.defences.base import Defence, DefenceContext, Phase
from model.defences.encoding import encode
from model.defences.none import NoneSettings, Undefended
from model.errors import RecipeError, TrainingError
from model.hashers.create import create_hasher
from model.losses.objective import LossSettings
from model.preprocessing import Preprocessing
from model.training.batches import Feed, Sides
from model.training.config import from_table
from model.training.corpus import load_corpus
from model.training.distributed import World
from model.training.images import ImagesInMemory
from model.training.loop import Trainer
from model.training.optimisers import build_optimisers
from model.training.randomness import lent_randomness
from model.training.tokens import TokenTable
from model.training.validation import HeldOut

CPU = torch.device("cpu")


def quiet(done, total):
    """No display."""


class Until:
    """A watcher that stops after a step."""

    def __init__(self, step=None):
        self.step = step
        self.rates = []
        self.records = []

    def after_step(self, trainer, terms, rate):
        self.rates.append(rate)
        return trainer.step == self.step

    def after_epoch(self, trainer, record):
        self.records.append(record)


class Adversary(Defence):
    """Three modules in three groups, two phases, a buffer: the shape of a generative defence."""

    name = "adversary"
    phases = (Phase("generate", ("generator", "judge")), Phase("hash", ("hasher", "objective")))

    def __init__(self, context):
        super().__init__()
        self.objective = Undefended(NoneSettings(), context)
        self.generator = nn.Conv2d(3, 3, 1)
        self.judge = nn.Linear(16, 1)
        self.register_buffer("stored", torch.zeros(len(context.labels), 16))
        self.seen = []

    def groups(self, hasher):
        return {
            "hasher": hasher,
            "generator": self.generator,
            "judge": self.judge,
            "objective": self.objective,
        }

    def losses(self, hasher, batch, state):
        trainable = {
            name: all(p.requires_grad for p in m.parameters()) for name, m in self.groups(hasher).items()
        }
        self.seen.append((state.phase, state.step, trainable))
        made = dataclasses.replace(batch, images=torch.sigmoid(self.generator(batch.images)))
        codes = encode(hasher, made, state)
        if state.phase == "generate":
            noise = torch.rand(len(codes.image), 16, generator=state.generator)
            return {
                "judged": self.judge(codes.image + 0.01 * noise).square().mean(),
                "kept": codes.image.mean(),
            }
        with torch.no_grad():
            self.stored[batch.items] = codes.image.sign()
        return self.objective.losses(hasher, batch, state)


def make_trainer(folder, recipe, build=None):
    corpus = load_corpus(read_manifest(folder), recipe, (True, True), [].append)
    generator = torch.Generator().manual_seed(recipe.seed)
    created = create_hasher(recipe.architecture, 16, corpus.training_texts(), generator)
    images = ImagesInMemory.decode(corpus.images, Preprocessing(size=16), quiet)
    sides = Sides(images, TokenTable(created.codec, corpus.texts, recipe.data.texts, recipe.seed))
    context = DefenceContext(16, corpus.labels[corpus.trained], LossSettings())
    with lent_randomness(CPU, recipe.seed, "defence weights"):
        defence = build(context) if build else Undefended(NoneSettings(), context)
    feed = Feed(recipe, corpus, sides, World(0, 1, CPU))
    return Trainer(recipe, created.hasher, defence, feed, HeldOut(corpus, sides, CPU).score)


def everything(trainer):
    """All tensors and counters of a run, to be compared exactly."""
    taken = trainer.snapshot()
    flat = {f"{owner}/{name}": t for owner, part in taken.tensors.items() for name, t in part.items()}
    for group, optimiser in taken.optimisers.items():
        for number, state in optimiser["state"].items():
            flat |= {f"optimiser/{group}/{number}/{name}": t for name, t in state.items()}
    return flat, taken.counters


def assert_same(one, two):
    (tensors, counters), (others, other_counters) = everything(one), everything(two)
    assert counters == other_counters
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("stop", [6, 7, 1])
@pytest.mark.parametrize("build", [None, Adversary])
def test_continuing_is_the_same_as_never_stopping(folder, recipe, build, stop):
    straight = make_trainer(folder, recipe, build)
    assert straight.run(Until())
    interrupted = make_trainer(folder, recipe, build)
    assert not interrupted.run(Until(stop))
    torch.rand(17)  # a continued process has another history of randomness
    continued = make_trainer(folder, recipe, build)
    continued.restore(interrupted.snapshot())
    assert continued.step == stop
    assert continued.run(Until())
    assert_same(straight, continued)


def test_a_run_learns_and_keeps_the_best_epoch(folder, tiny):
    trainer = make_trainer(folder, from_table({**tiny, "schedule": {"epochs": 12, "batch": 16}}))
    watcher = Until()
    trainer.run(watcher)
    first, last = watcher.records[0]["losses"], watcher.records[-1]["losses"]
    assert sum(last.values()) < 0.7 * sum(first.values())
    scores = [r["held_out"]["image-to-text"] + r["held_out"]["text-to-image"] for r in watcher.records]
    assert trainer.best_epoch == 1 + scores.index(max(scores))
    kept = trainer.selected().state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in trainer.best.items())
    assert max(scores) / 2 > 0.7  # chance is 0.67: with three colours and two shapes most pairs share a label
    assert max(watcher.rates) == pytest.approx(0.01)


def test_the_last_epoch_is_kept_when_the_recipe_says_so(folder, tiny):
    schedule = {"epochs": 3, "batch": 16, "select": "last", "validate_every": 2}
    trainer = make_trainer(folder, from_table({**tiny, "schedule": schedule}))
    watcher = Until()
    trainer.run(watcher)
    assert [("held_out" in r) for r in watcher.records] == [False, True, True]
    assert trainer.best_epoch == 3


def test_phases_freeze_train_and_store(folder, recipe):
    trainer = make_trainer(folder, recipe, Adversary)
    before = {name: [p.detach().clone() for p in m.parameters()] for name, m in trainer.groups.items()}
    trainer.run(Until(1))
    assert [(phase, step) for phase, step, _ in trainer.defence.seen] == [("generate", 0), ("hash", 0)]
    generate, hashing = (trainable for _, _, trainable in trainer.defence.seen)
    assert generate == {"hasher": False, "generator": True, "judge": True, "objective": False}
    assert hashing == {"hasher": True, "generator": False, "judge": False, "objective": True}
    for name, parameters in before.items():
        moved = [
            not torch.equal(a, b) for a, b in zip(parameters, trainer.groups[name].parameters(), strict=True)
        ]
        assert any(moved), name
    assert trainer.defence.stored.abs().sum() == 16 * 16
    assert set(trainer.optimisers) == {"hasher", "generator", "judge", "objective"}


def test_a_loss_that_is_not_finite_ends_the_run(folder, recipe):
    class Exploding(Undefended):
        def losses(self, hasher, batch, state):
            terms = super().losses(hasher, batch, state)
            return terms | ({"boom": terms["inter"] / 0.0} if state.step == 2 else {})

    trainer = make_trainer(folder, recipe, lambda context: Exploding(NoneSettings(), context))
    with pytest.raises(TrainingError, match=r"not finite at step 2 .*boom inf"):
        trainer.run(Until())


def test_bfloat16_is_used_when_asked_for(folder, tiny):
    seen = []

    class Looking(Undefended):
        def losses(self, hasher, batch, state):
            with state.autocast():
                seen.append((batch.images.flatten(1) @ batch.images.flatten(1).T).dtype)
            return super().losses(hasher, batch, state)

    def build(context):
        return Looking(NoneSettings(), context)

    for precision in ("auto", "bf16"):
        make_trainer(folder, from_table({**tiny, "precision": precision}), build).run(Until(1))
    assert seen == [torch.float32, torch.bfloat16]


def test_clipping_bounds_the_gradient(folder, tiny):
    norms = []

    class Norms(Until):
        def after_step(self, trainer, terms, rate):
            squares = [p.grad.square().sum() for p in trainer.hasher.parameters() if p.grad is not None]
            norms.append(float(torch.stack(squares).sum().sqrt()))
            return trainer.step == 2

    table = {**tiny, "optimiser": {"clip": 0.01}}
    make_trainer(folder, from_table(table)).run(Norms())
    assert max(norms) <= 0.01 + 1e-6
    norms.clear()
    make_trainer(folder, from_table({**tiny, "optimiser": {"clip": 0.0}})).run(Norms())
    assert max(norms) > 0.01


def test_rates_and_decay_go_by_the_parameters_name(folder, tiny):
    settings = from_table(
        {"optimiser": {"rates": {"image": 0.5, "image.hash": 2.0, "defence": 0.1}}}
    ).optimiser
    trainer = make_trainer(folder, from_table(tiny))
    optimisers = build_optimisers(trainer.groups, settings)
    factor_of = {}
    for optimiser in optimisers.values():
        for part in optimiser.param_groups:
            factor_of |= {id(p): (part["factor"], part["weight_decay"]) for p in part["params"]}
    for name, parameter in trainer.hasher.named_parameters():
        wanted = 2.0 if name.startswith("image.hash") else 0.5 if name.startswith("image") else 1.0
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        assert factor_of[id(parameter)] == (wanted, decay), name
    assert all(factor_of[id(p)] == (0.1, 0.0) for p in trainer.defence.parameters())


def test_a_rate_of_zero_freezes(folder, tiny):
    trainer = make_trainer(
        folder, from_table({**tiny, "optimiser": {"rates": {"image.stem": 0, "text": 0.5}}})
    )
    before = {name: p.detach().clone() for name, p in trainer.hasher.named_parameters()}
    trainer.run(Until(2))
    for name, parameter in trainer.hasher.named_parameters():
        frozen = name.startswith("image.stem")
        assert parameter.requires_grad != frozen
        if frozen:
            assert torch.equal(parameter, before[name])
    assert not torch.equal(trainer.hasher.text.table.weight, before["text.table.weight"])


def test_a_rate_for_nobody_is_refused(folder, tiny):
    with pytest.raises(RecipeError, match=r"begins with image\.backbone"):
        make_trainer(folder, from_table({**tiny, "optimiser": {"rates": {"image.backbone": 0.1}}}))
