"""Recipes: what a training run is, read from TOML into frozen dataclasses and checked field by field.

A recipe has everything that decides the result but the data, the code length, the defence's name and the
device. The resolved recipe, defaults included, is stored in the artefact's manifest, and its digest keeps
a checkpoint from being continued under another one.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from model.errors import RecipeError, UnknownName
from model.hashers.options import option, read_options
from model.losses.objective import LossSettings

PRECISIONS = ("auto", "fp32", "bf16")
TEXTS = ("sample", "first", "joined")
SELECTIONS = ("best", "last")


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    """RecipeError unless the value is one of the allowed words."""
    if value not in allowed:
        raise RecipeError(f"{where}: wanted one of {', '.join(allowed)}, got {value!r}")


@dataclass(frozen=True)
class DataSettings:
    """``[data]``: what is held out, which text stands for an item, where decoded images live."""

    validation: float = option(0.05, low=0.0, high=0.5)
    """Share of the train split held out for model selection and calibration, by a hash of the id."""
    texts: str = "sample"
    """``sample``: one of the item's texts each epoch; ``first``: the first; ``joined``: all in a row."""
    memory_mb: int = option(2048, low=0, high=1_000_000)
    """Decoded images stay in memory up to this; above it they are decoded again each epoch by workers."""
    pseudo_labels: int = option(24, low=2, high=1000)
    """Clusters of texts that stand in for labels where the data has none."""
    workers: int = option(2, low=0, high=128)
    """Decoding processes when images do not fit in memory."""

    def __post_init__(self) -> None:
        _one_of(self.texts, TEXTS, "data.texts")


@dataclass(frozen=True)
class AugmentSettings:
    """``[augment]``: what a training example may look like beyond what is stored. All off: 0."""

    crop_padding: int = option(4, low=0, high=512)
    """Images are padded by this many repeated border pixels and cropped back at a random place."""
    flip: float = option(0.5, low=0.0, high=1.0)
    """Chance of a left-right mirror image."""
    brightness: float = option(0.0, low=0.0, high=1.0)
    """Pixels are scaled by 1 plus or minus at most this."""
    contrast: float = option(0.0, low=0.0, high=1.0)
    """Distances from the image's mean are scaled by 1 plus or minus at most this."""
    saturation: float = option(0.0, low=0.0, high=1.0)
    """Distances of the channels from their mean are scaled by 1 plus or minus at most this."""
    erase: float = option(0.0, low=0.0, high=1.0)
    """Chance that a rectangle is blanked."""
    erase_area: float = option(0.25, low=0.01, high=1.0)
    """Largest share of the image that such a rectangle has."""
    token_dropout: float = option(0.1, low=0.0, high=0.9)
    """Chance that a token is replaced by the unknown token."""
    text_edits: float = option(0.0, low=0.0, high=1.0)
    """Chance that a text gets as many words changed as a text attack may change: typing errors, other words
    (model/training/edits.py). Such a text has no tokens dropped."""
    text_tries: int = option(1, low=1, high=64)
    """Such edits of one text that are tried; the one is kept whose code is farthest from the text's."""
    text_typos: float = option(0.5, low=0.0, high=1.0)
    """Chance that a changed word is mistyped; else it becomes another word of the corpus."""
    wordnet: str = ""
    """WordNet's folder; with one a changed word of a label is mistyped or becomes a synonym, nothing else."""

    def __post_init__(self) -> None:
        if self.wordnet and not self.text_edits:
            raise RecipeError("augment.wordnet: a WordNet serves edited texts, but text_edits is 0")


@dataclass(frozen=True)
class OptimiserSettings:
    """``[optimiser]``: AdamW (Loshchilov, Hutter, ICLR 2019), averaged weights, clipping."""

    rate: float = option(3e-3, low=1e-8, high=1.0)
    """Learning rate at its height."""
    rates: dict[str, float] = field(default_factory=dict)
    """Factors on the rate by the beginning of a parameter's name, the longest match counts:
    ``{"image.backbone" = 0.1}``; 0 freezes. A name that no parameter has is an error."""
    weight_decay: float = option(0.02, low=0.0, high=10.0)
    """For weight matrices only; vectors (biases, norms) and the objective's own parameters have none."""
    beta1: float = option(0.9, low=0.0, high=0.9999)
    beta2: float = option(0.98, low=0.0, high=0.99999)
    clip: float = option(5.0, low=0.0, high=1e6)
    """Largest gradient norm of a phase; 0 for no clipping."""
    average: float = option(0.99, low=0.0, high=0.999999)
    """Decay of the exponential moving average of the hasher, which is what is kept; 0 for none."""

    def __post_init__(self) -> None:
        for prefix, factor in self.rates.items():
            # Tables of numbers arrive unchecked: read_options looks at a table's type only.
            if type(factor) not in (int, float) or not 0 <= factor <= 1000:
                raise RecipeError(f"optimiser.rates.{prefix}: wanted a number from 0 to 1000, got {factor!r}")


@dataclass(frozen=True)
class ScheduleSettings:
    """``[schedule]``: how long, in which portions, at which pace."""

    epochs: int = option(12, low=1, high=100_000)
    batch: int = option(128, low=2, high=1_000_000)
    """Items per step over all processes together."""
    warm_up: float = option(0.1, low=0.0, high=0.9)
    """Share of all steps in which the rate rises from 0; then it falls along a half cosine."""
    floor: float = option(0.001, low=0.0, high=1.0)
    """Share of the rate that is left at the end."""
    small_side: int = option(0, low=0, high=1024)
    """Pixels of a side that images are reduced to in the run's first epochs; 0 for the model's own side.
    Progressive resizing, as in the ImageNet runs of Wong, Rice, Kolter (ICLR 2020, arXiv 2001.03994)."""
    small_until: float = option(0.5, low=0.0, high=1.0)
    """Share of the epochs in which they are reduced, when ``small_side`` is set."""
    validate_every: int = option(1, low=1, high=100_000)
    """Epochs between two looks at the held-out part; the last epoch is always looked at."""
    select: str = "best"
    """``best``: the epoch with the highest held-out mAP; ``last``: the last one."""

    def __post_init__(self) -> None:
        _one_of(self.select, SELECTIONS, "schedule.select")


@dataclass(frozen=True)
class Recipe:
    """A whole training recipe; see the tables' own classes."""

    name: str = "recipe"
    seed: int = option(0, low=0, high=2**31 - 1)
    precision: str = "auto"
    """``auto``: bfloat16 autocast on a GPU, float32 on a CPU; ``fp32``; ``bf16``: everywhere."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """The towers, as model/hashers/create.py takes them; checked there."""
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    defence: dict[str, Any] = field(default_factory=dict)
    """The chosen defence's own table; checked by the defence."""

    def __post_init__(self) -> None:
        _one_of(self.precision, PRECISIONS, "precision")

    def with_changes(self, *, seed: int | None = None, epochs: int | None = None) -> "Recipe":
        """The recipe with the command line's seed and epochs, checked like the file's; None keeps."""
        table = to_table(self)
        if seed is not None:
            table["seed"] = seed
        if epochs is not None:
            table["schedule"]["epochs"] = epochs
        return from_table(table)

    def with_wordnet(self, folder: str) -> "Recipe":
        """The recipe with the synonyms of labels' words taken from ``folder``, for edited texts."""
        return replace(self, augment=replace(self.augment, wordnet=folder))

    def with_source(self, source: str) -> "Recipe":
        """The recipe with the pretrained image backbone taken from ``source`` (hub name or folder)."""
        image = self.architecture.get("image")
        if not isinstance(image, Mapping) or "source" not in image:
            raise RecipeError("a backbone was given, but the recipe's image tower has no `source` to replace")
        return replace(self, architecture={**self.architecture, "image": {**image, "source": source}})


TABLES: dict[str, type[Any]] = {
    "data": DataSettings,
    "augment": AugmentSettings,
    "loss": LossSettings,
    "optimiser": OptimiserSettings,
    "schedule": ScheduleSettings,
}


def from_table(raw: Mapping[str, Any]) -> Recipe:
    """The recipe of a parsed TOML or JSON table.

    Raises:
        RecipeError: an unknown key (the known ones are named), a wrong type, a value out of range.

    """
    top = {key: value for key, value in raw.items() if key not in TABLES}
    parts = {key: read_options(kind, raw[key], key) for key, kind in TABLES.items() if key in raw}
    return replace(read_options(Recipe, top, "recipe"), **parts)


def to_table(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain JSON; `from_table` gives the same recipe back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return plain


def digest(recipe: Recipe) -> str:
    """SHA-256 (hex) of the resolved recipe in canonical JSON."""
    return hashlib.sha256(json.dumps(to_table(recipe), sort_keys=True).encode()).hexdigest()


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with the package, sorted."""
    folder = resources.files("model.training").joinpath("recipes")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_recipe(what: str, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by the name of a shipped one or by the path of a TOML file.

    A name without ``.toml`` and without a path separator is a shipped one; anything else is a file.
    The recipe's ``name`` is the file's stem unless the file says otherwise. ``changes`` are applied in their
    order, as "defence.inner.steps=5": a dotted key, whose last part may be new, and a TOML value.

    Raises:
        UnknownName: no such shipped recipe.
        RecipeError: the file cannot be read, is no TOML, or holds something that is not allowed; a change
            is none.

    """
    path = Path(what)
    try:
        if what == path.name and path.suffix != ".toml":
            if what not in shipped():
                raise UnknownName("recipe", what, shipped())
            text = resources.files("model.training").joinpath("recipes", f"{what}.toml").read_text("utf-8")
        else:
            text = path.read_text("utf-8")
        raw = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {what}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {what}: no TOML: {error}") from error
    for change in changes:
        _apply(raw, change)
    return from_table({"name": path.stem, **raw})


def _apply(table: dict[str, Any], change: str) -> None:
    """Set one value of a recipe's table; raises RecipeError."""
    try:
        wanted = tomllib.loads(change)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"wanted KEY=VALUE with a TOML value, got {change[:200]!r}: {error}") from error
    if len(wanted) != 1:
        raise RecipeError(f"wanted one KEY=VALUE, got {change[:200]!r}")
    _merge(table, wanted, change)


def _merge(table: dict[str, Any], wanted: Mapping[str, Any], change: str) -> None:
    """Put the values of `wanted` into `table`, tables into tables."""
    for key, value in wanted.items():
        inner = table.get(key)
        if isinstance(value, dict):
            if not isinstance(inner, dict | None):
                raise RecipeError(f"{change[:200]!r}: {key} is no table of the recipe, it is {inner!r}")
            _merge(table.setdefault(key, {}), value, change)
        else:
            table[key] = value
