"""Drawn pictures with captions, and runs that train on them in seconds, for the tests of defences."""

from contextlib import nullcontext

import torch
from torch.nn import functional as F

from model.data.text import TokenizerOptions, train_codec
from model.defences.base import Batch, DefenceContext, StepState
from model.defences.registry import read_defence
from model.hashers.create import create_hasher
from model.hashers.registry import build_hasher
from model.losses.objective import LossSettings
from model.training.batches import Feed, Sides
from model.training.config import from_table
from model.training.corpus import Corpus
from model.training.distributed import World
from model.training.images import ImagesInMemory
from model.training.loop import Trainer
from model.training.randomness import lent_randomness
from model.training.tokens import TokenTable

CPU = torch.device("cpu")
BITS, CLASSES, SIDE, COUNT = 16, 4, 16, 160
WORDS = ("furry quiet cat", "fast metal car", "wooden wet boat", "tall leafy tree")
ARCHITECTURE = {
    "image": {"kind": "residual_cnn", "size": SIDE, "stem": 8, "widths": [12], "pools": [0, 1], "hidden": 16},
    "text": {"kind": "conv", "max_length": 8, "dim": 8, "width": 8, "layers": 1, "hidden": 16},
}
RESOLVED = {**ARCHITECTURE, "text": {**ARCHITECTURE["text"], "vocabulary_size": 20}}
TABLE = {
    "architecture": ARCHITECTURE,
    "augment": {"crop_padding": 0, "flip": 0.0, "token_dropout": 0.0},
    "loss": {"inter": 1.0, "intra": 1.0},
    "optimiser": {"rate": 0.01, "average": 0.0},
    "schedule": {"epochs": 2, "batch": 32, "validate_every": 100, "select": "last"},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_hasher(architecture=RESOLVED, seed=0):
    with lent_randomness(CPU, seed, "hasher"):
        return build_hasher(architecture, BITS).train()


def make_state(step=0, total=10, seed=0, **more):
    return StepState("hash", step, total, seeded(seed), lambda rows: rows, nullcontext, **more)


def make_batch(n=8, has_image=None, has_text=None, seed=0):
    g = seeded(seed)
    tokens = torch.randint(1, 20, (n, 6), generator=g)
    tokens[1::2, 4:] = 0
    return Batch(
        images=torch.rand(n, SIDE, SIDE, 3, generator=g).permute(0, 3, 1, 2),
        tokens=tokens,
        labels=torch.eye(CLASSES)[torch.arange(n) % CLASSES],
        has_image=torch.ones(n) if has_image is None else torch.tensor(has_image),
        has_text=torch.ones(n) if has_text is None else torch.tensor(has_text),
        items=torch.arange(n),
    )


def make_context(**more):
    return DefenceContext(BITS, torch.eye(CLASSES).repeat(5, 1), LossSettings(), **more)


def make_defence(name, table=None, context=None):
    entry, settings = read_defence(name, table or {})
    with lent_randomness(CPU, 0, "defence"):
        return entry.build(settings, context or make_context()).train()


def draw_corpus(count=COUNT, seed=1, gaps=False):
    """Corpus and pictures: a faint pattern per label; with ``gaps`` some items lack a modality."""
    g = seeded(seed)
    patterns = F.interpolate(torch.rand(CLASSES, 3, 4, 4, generator=seeded(0)), (SIDE, SIDE), mode="bilinear")
    main = torch.randint(0, CLASSES, (count,), generator=g)
    noise = 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=g)
    pictures = (0.5 + 0.4 * (patterns[main] - 0.5) + noise).clamp(0, 1)
    pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    corpus = Corpus(
        ids=tuple(map(str, range(count))),
        texts=tuple(() if gaps and i % 7 == 3 else (f"a {WORDS[m]}",) for i, m in enumerate(main.tolist())),
        images=tuple(None if gaps and i % 5 == 2 else f"{i}.png" for i in range(count)),
        labels=torch.eye(CLASSES)[main],
        label_names=tuple("abcd"),
        label_source="manifest",
        trained=torch.arange(count),
        held_out=torch.arange(0),
    )
    return corpus, pixels


def make_trainer(defence="none", table=None, world=None, gaps=False, **changes):
    """A run of the tiny recipe; ``table`` is the defence's, ``changes`` replace parts of the recipe."""
    recipe = from_table({**TABLE, **changes, "defence": table or {}})
    corpus, pixels = draw_corpus(gaps=gaps)
    texts = [text for each in corpus.texts for text in each]
    codec = train_codec(texts, TokenizerOptions(kind="bpe", size=120), 8)
    created = create_hasher(recipe.architecture, BITS, texts, seeded(recipe.seed))
    sides = Sides(ImagesInMemory(pixels), TokenTable(codec, corpus.texts, recipe.data.texts, recipe.seed))
    context = DefenceContext(BITS, corpus.labels, recipe.loss, codec.to_json(), SIDE)
    built = make_defence(defence, table, context)
    world = world or World(0, 1, CPU)
    return Trainer(recipe, created.hasher, built, Feed(recipe, corpus, sides, world), lambda _: {})


class Until:
    """A watcher that keeps what it is told and stops after a step."""

    def __init__(self, step=None):
        self.step = step
        self.terms = []
        self.records = []

    def after_step(self, trainer, terms, rate):
        self.terms.append(terms)
        return trainer.step == self.step

    def after_epoch(self, trainer, record):
        self.records.append(record)
