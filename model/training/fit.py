"""From a manifest folder and a recipe to a model artefact: the steps of `hashguard train` in order."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from model.artefact import save_artefact
from model.artefact_checks import NAME
from model.artefact_parts import ArtefactParts
from model.attacks.wordnet import read_thesaurus
from model.data.manifest import Manifest, read_manifest
from model.data.text import TextCodec
from model.defences.base import Defence, DefenceContext
from model.defences.registry import read_defence
from model.errors import ArtefactError, DataError, RecipeError
from model.hashers.base import CrossModalHasher
from model.hashers.create import Created, create_hasher
from model.hashers.registry import BITS
from model.preprocessing import Preprocessing
from model.training.batches import Feed, Sides
from model.training.calibration import calibration_table
from model.training.checkpoint import Identity, load_checkpoint
from model.training.config import Recipe, to_table
from model.training.corpus import Corpus, load_corpus
from model.training.display import Display
from model.training.distributed import World
from model.training.edits import EditedTexts, Editor
from model.training.images import open_images
from model.training.loop import Trainer
from model.training.observer import Observer
from model.training.randomness import lent_randomness, make_generator
from model.training.runs import RUNS, RunFolder
from model.training.scoring import calibrated_score
from model.training.stopping import Stopped, StopWish
from model.training.tokens import TokenTable
from model.training.validation import PROTOCOL, HeldOut, task_pairs


@dataclass(frozen=True)
class Order:
    """What a user asked for. `recipe` is complete; `name` is the model's; `models` the folder of models."""

    data: Path
    models: Path
    name: str
    bits: int
    defence: str
    recipe: Recipe
    resume: bool = False
    previous: bool = False


@dataclass(frozen=True)
class Outcome:
    """The artefact's folder and the held-out scores by task (empty when nothing is held out)."""

    folder: Path
    scores: dict[str, float]
    epoch: int
    seconds: float


@dataclass(frozen=True)
class _Prepared:
    """Everything a run has before its first step."""

    manifest: Manifest
    corpus: Corpus
    created: Created
    defence: Defence
    preprocessing: Preprocessing | None
    sides: Sides
    feed: Feed


def fit(order: Order, world: World, display: Display, wish: StopWish) -> Outcome | None:
    """Train and write the artefact; None in every process but the first.

    Raises:
        RecipeError, UnknownName: something in the order that cannot be.
        DataError: the data cannot be trained on.
        CheckpointError: nothing to continue from, a damaged checkpoint, or a full disk.
        Stopped: the wish was heard; it says whether there is a checkpoint to continue from.

    """
    began = time.monotonic()
    check_order(order)
    run = RunFolder(order.models / RUNS / order.name)
    prepared = _prepare(order, world, display, run, wish)
    held_out = HeldOut(prepared.corpus, prepared.sides, world.device)
    identity = Identity(to_table(order.recipe), prepared.manifest.fingerprint, order.bits, order.defence)
    with lent_randomness(world.device, order.recipe.seed, "trainer"):
        trainer = Trainer(
            order.recipe, prepared.created.hasher, prepared.defence, prepared.feed, held_out.score
        )
    if order.resume:
        trainer.restore(load_checkpoint(run.checkpoints, identity, previous=order.previous))
        display.say(f"continuing at step {trainer.step} of {trainer.total} (epoch {trainer.epoch + 1})")
    observer = Observer(run, identity, world, display, wish)
    try:
        finished = trainer.run(observer)
    finally:
        observer.close()
    if not finished:
        where = f"stopped at step {trainer.step} of {trainer.total}"
        raise Stopped(observer.signum, where, resumable=True)
    if not world.leads:
        return None
    folder, scores = _publish(order, prepared, trainer, held_out)
    run.finish()
    return Outcome(folder, scores, trainer.best_epoch, time.monotonic() - began)


def check_order(order: Order) -> None:
    """Refuse what can be known to fail before any data is read.

    Raises:
        RecipeError, UnknownName: bits, the defence or the model's name cannot be.

    """
    if order.bits not in BITS:
        raise RecipeError(f"bits: wanted a multiple of 8 from 16 to 256, got {order.bits}")
    if not NAME.fullmatch(order.name):
        raise RecipeError(f"name: wanted {NAME.pattern}, got {order.name!r}")
    if order.previous and not order.resume:
        raise RecipeError("--previous says which checkpoint --resume takes; it needs --resume")
    read_defence(order.defence, order.recipe.defence)
    for side, table in order.recipe.architecture.items():
        if isinstance(table, dict) and table.get("kind") == "features":
            raise RecipeError(
                f"architecture.{side}: a manifest folder holds no precomputed features to train on"
            )


def _prepare(order: Order, world: World, display: Display, run: RunFolder, wish: StopWish) -> _Prepared:
    """Read the data, make or rebuild the hasher, decode the images."""
    recipe = order.recipe
    manifest = read_manifest(order.data)
    architecture = recipe.architecture
    wants = (architecture.get("image") is not None, architecture.get("text") is not None)
    corpus = load_corpus(manifest, recipe, wants, display.say)
    if order.resume:
        created = run.recreate(order.bits)
    else:
        created = _create(order, corpus, display, world, run)
    preprocessing = _preprocessing(created)
    feed_sides = _sides(
        recipe, corpus, created.codec, preprocessing, _ticker(display, wish, resumable=order.resume)
    )
    feed = Feed(recipe, corpus, feed_sides, world)
    entry, settings = read_defence(order.defence, recipe.defence)
    context = DefenceContext(
        bits=order.bits,
        labels=corpus.labels[corpus.trained],
        loss=recipe.loss,
        tokenizer=created.codec.to_json() if created.codec is not None else None,
        image_size=preprocessing.size if preprocessing is not None else None,
        embedding_width=created.hasher.text.embedding_width if created.hasher.text is not None else None,
    )
    with lent_randomness(torch.device("cpu"), recipe.seed, "defence weights"):
        defence = entry.build(settings, context)
    display.say(
        f"{len(corpus.trained)} items to train on, {len(corpus.held_out)} held out, "
        f"{len(corpus.label_names)} labels; {feed.steps * recipe.schedule.epochs} steps "
        f"of {feed.batch_size} on {world.device}, {world.size} process(es)"
    )
    return _Prepared(manifest, corpus, created, defence, preprocessing, feed_sides, feed)


def _create(order: Order, corpus: Corpus, display: Display, world: World, run: RunFolder) -> Created:
    """A fresh hasher; the first process writes the run's folder."""
    generator = make_generator("cpu", order.recipe.seed, "hasher weights")
    texts = corpus.training_texts()
    if order.recipe.architecture.get("text") is not None and not texts:
        raise DataError(
            "the recipe has a text tower, but no train item has a text; leave out architecture.text"
        )
    created = create_hasher(order.recipe.architecture, order.bits, texts, generator)
    if world.leads:
        moved = run.begin(created)
        if moved is not None:
            display.say(f"an unfinished run of this name was there; it is now {moved}")
    world.wait()
    return created


def _preprocessing(created: Created) -> Preprocessing | None:
    """How images are decoded for the image tower; None without one."""
    if created.hasher.image is None:
        return None
    return Preprocessing(size=int(created.architecture["image"]["size"]))


def _sides(
    recipe: Recipe,
    corpus: Corpus,
    codec: TextCodec | None,
    preprocessing: Preprocessing | None,
    tick: Callable[[int, int], None],
) -> Sides:
    """Decoded images and token ids, as far as the model has towers for them."""
    data = recipe.data
    images, edits = None, _edits(recipe, corpus, codec)
    if preprocessing is not None:
        if not any(corpus.images):
            raise DataError("the recipe has an image tower, but no train item has an image")
        images = open_images(corpus.images, preprocessing, data.memory_mb, data.workers, tick)
    tokens = TokenTable(codec, corpus.texts, data.texts, recipe.seed) if codec is not None else None
    return Sides(images, tokens, edits)


def _edits(recipe: Recipe, corpus: Corpus, codec: TextCodec | None) -> EditedTexts | None:
    """What edits training texts, if the recipe wants that."""
    settings = recipe.augment
    if codec is None or not settings.text_edits:
        return None
    thesaurus = read_thesaurus(Path(settings.wordnet)) if settings.wordnet else None
    editor = Editor.of(corpus.training_texts(), corpus.label_names, settings.text_typos, thesaurus)
    return EditedTexts(codec, editor, settings.text_edits, settings.text_tries)


def _ticker(display: Display, wish: StopWish, *, resumable: bool) -> Callable[[int, int], None]:
    """Shows how far decoding is, and stops it when somebody wants that."""

    def tick(done: int, total: int) -> None:
        display.progress("decoding images", done, total)
        if wish:
            raise Stopped(wish.signum, "stopped while decoding images", resumable=resumable)

    return tick


def _publish(
    order: Order, prepared: _Prepared, trainer: Trainer, held_out: HeldOut
) -> tuple[Path, dict[str, float]]:
    """Calibrate the selected weights and write the artefact."""
    chosen: CrossModalHasher = trainer.selected()
    scores = held_out.score(chosen)
    calibration = calibration_table(task_pairs(held_out.encode(chosen)), order.bits)
    corpus, codec = prepared.corpus, prepared.created.codec
    parts = ArtefactParts(
        architecture=prepared.created.architecture,
        bits=order.bits,
        tensors={name: t.detach().cpu().numpy() for name, t in chosen.state_dict().items()},
        preprocessing=prepared.preprocessing,
        tokenizer=codec.to_json() if codec is not None else None,
        label_names=corpus.label_names,
        training_data={
            "fingerprint": prepared.manifest.fingerprint,
            "items": len(corpus.trained),
            "held_out": len(corpus.held_out),
            "labels": corpus.label_source,
        },
        defence={"name": order.defence, "recipe": _shareable(order.recipe)},
        seed=order.recipe.seed,
        code_version=code_version(),
        scores={
            "clean": {
                "protocol": PROTOCOL,
                "items": len(corpus.held_out),
                "epoch": trainer.best_epoch,
                "map": scores,
            },
            "robust": None,
        },
        calibration=calibration,
        threat=prepared.defence.threat(),
        score_tensors=calibrated_score(prepared.defence.score_encoders(), chosen, corpus, prepared.sides),
    )
    try:
        return save_artefact(order.models, order.name, parts), scores
    except OSError as error:
        raise ArtefactError(
            f"cannot write the model below {order.models}: {error.strerror or error}; "
            "the last checkpoint is there, --resume writes it again"
        ) from error


def _shareable(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe without this machine's folders in it."""
    plain = to_table(recipe)
    for table in plain["architecture"].values():
        if isinstance(table, dict) and "source" in table and Path(str(table["source"])).is_dir():
            table["source"] = Path(str(table["source"])).name
    if plain["augment"]["wordnet"]:
        plain["augment"]["wordnet"] = "WordNet"
    extras = plain["defence"].get("extras", {})
    if Path(str(extras.get("teacher", ""))).parts[1:]:  # an artefact's folder: its name and version are told
        extras["teacher"] = "/".join(Path(extras["teacher"]).parts[-2:]).lstrip("/")
    return plain


def code_version() -> str:
    """Version of the installed distribution; "unknown" when the code runs without being installed."""
    try:
        return version("hashguard")
    except PackageNotFoundError:
        return "unknown"


def default_name(data: Path, defence: str, bits: int) -> str:
    """A model's name from its data folder, defence and code length: ``fashion-none-64``."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in data.resolve().name)
    stem = stem.lstrip("._-")[:40] or hashlib.sha256(str(data).encode()).hexdigest()[:8]
    return f"{stem}-{defence}-{bits}"
