"""Exceptions of the model package: everything `model` raises on purpose is a `ModelError`.

    ModelError
    ├── DataError          training or evaluation data that cannot be used as asked
    │   └── ManifestError  a manifest folder with bad lines; `.problems` names every one of them
    ├── ImageError         bytes that are no usable picture; `.code` says why
    ├── ArtefactError      a model directory that is missing, damaged, of unknown format, or unlike its digest
    ├── MissingTower       a model without the tower of the side that was asked for
    ├── RecipeError        a training recipe with an unknown key or a value out of range
    ├── TrainingError      a training run that cannot go on
    │   └── CheckpointError  a checkpoint that is missing, damaged, of another run, or cannot be written
    ├── RetrainingError    a retraining that ends without a new model being served, and why
    └── UnknownName        a name no registry has; `.known` lists what it has

Messages state what was wanted and what came. Callers catch the leaf they can answer, or `ModelError`.
"""

from collections.abc import Iterable
from typing import Literal, get_args

ImageFault = Literal["empty_file", "unsupported_image", "broken_image", "too_many_pixels", "animated_image"]
IMAGE_FAULTS: tuple[ImageFault, ...] = get_args(ImageFault)


class ModelError(Exception):
    """Base of all errors that `model` raises on purpose."""


class DataError(ModelError):
    """Training or evaluation data that cannot be used as asked."""


class ManifestError(DataError):
    """A manifest folder with bad lines.

    `problems` holds one sentence per bad line, in line order ("line 3: ..."). The message shows the
    first `SHOWN` and the number of the rest, so that a broken file of a million lines stays readable.
    """

    SHOWN = 20

    def __init__(self, folder: str, problems: Iterable[str]) -> None:
        self.folder = folder
        self.problems = tuple(problems)
        shown = list(self.problems[: self.SHOWN])
        if len(self.problems) > self.SHOWN:
            shown.append(f"... and {len(self.problems) - self.SHOWN} more")
        super().__init__(f"{folder}: {len(self.problems)} problem(s)\n" + "\n".join(shown))

    def __reduce__(self) -> tuple[type["ManifestError"], tuple[str, tuple[str, ...]]]:
        """Rebuild from both arguments, so that the error survives a process boundary."""
        return (type(self), (self.folder, self.problems))


class ImageError(ModelError):
    """Bytes that are no usable picture.

    `code` is one of `IMAGE_FAULTS` and is part of the service's contract with its clients; `detail`
    is a sentence for people.
    """

    def __init__(self, code: ImageFault, detail: str) -> None:
        self.code: ImageFault = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")

    def __reduce__(self) -> tuple[type["ImageError"], tuple[ImageFault, str]]:
        """Rebuild from both arguments: the default would replay `args`, which holds only the message."""
        return (type(self), (self.code, self.detail))


class ArtefactError(ModelError):
    """A model directory that is missing, damaged, of an unknown format, or unlike its digest."""


class MissingTower(ModelError):
    """An image-only or text-only model that was asked for the other side's code."""


class RecipeError(ModelError):
    """A training recipe with an unknown key or a value out of range."""


class TrainingError(ModelError):
    """A training run that cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint that is missing, damaged, of another run, or cannot be written."""


class RetrainingError(ModelError):
    """A retraining that ends without a new model being served: refused by a floor, or by the service."""


class UnknownName(ModelError):
    """A name that no registry has.

    `kind` says what was asked for ("hasher", "defence"), `name` what came, `known` what there is.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(self.known) or 'none'}")

    def __reduce__(self) -> tuple[type["UnknownName"], tuple[str, str, tuple[str, ...]]]:
        """Rebuild from the three arguments, so that the error survives a process boundary."""
        return (type(self), (self.kind, self.name, self.known))
