"""Who is evaluated against what: labels, undefended twins and surrogates of the models of one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.artefact import ModelCard
from model.attacks.subjects import Subject
from model.errors import ModelError
from model.evaluation.specs import AttackSpec

UNDEFENDED = "none"
TWIN_EPS = 16 / 255


class UsageError(ModelError):
    """A command line that cannot be meant; ends with exit status 2."""


@dataclass(frozen=True, eq=False)
class Cast:
    """The models of a report by role. twin, surrogates: those given by name, not evaluated themselves."""

    subjects: tuple[Subject, ...]
    twin: Subject | None = None
    surrogates: tuple[Subject, ...] = ()

    def __post_init__(self) -> None:
        digests = [subject.digest for subject in self.subjects]
        if len(set(digests)) != len(digests):
            raise UsageError("wanted different models, got one twice")
        if self.twin is None:
            return
        defended = [subject for subject in self.subjects if defence_of(subject.card) != UNDEFENDED]
        if not any(is_twin(self.twin.card, subject.card) for subject in defended):
            raise UsageError(
                f"--twin: wanted an undefended model of the architecture and bits of a defended one, got "
                f"{address(self.twin.card)} (defence {defence_of(self.twin.card)!r}, {self.twin.card.bits} "
                "bits)"
            )

    @property
    def everyone(self) -> list[Subject]:
        """All models that must be able to read the queries."""
        return [*self.subjects, *([self.twin] if self.twin else []), *self.surrogates]

    def labels(self) -> list[str]:
        """Names of the evaluated models, "name/version", with digits of the digest where two are alike."""
        names = [address(subject.card) for subject in self.subjects]
        return [
            name if names.count(name) == 1 else f"{name} ({subject.digest[:8]})"
            for name, subject in zip(names, self.subjects, strict=True)
        ]

    def twin_of(self, subject: Subject) -> Subject | None:
        """The undefended model that shows that the attack works: itself, the given or an evaluated one."""
        if defence_of(subject.card) == UNDEFENDED:
            return subject
        known = [*([self.twin] if self.twin else []), *self.subjects]
        return next((other for other in known if is_twin(other.card, subject.card)), None)

    def surrogates_of(self, subject: Subject) -> tuple[Subject, ...]:
        """The models to transfer from: the given ones, else the other evaluated ones and the twin.

        Never the model itself, and only models that read pictures.
        """
        known = self.surrogates or (*self.subjects, *([self.twin] if self.twin else []))
        found = {other.digest: other for other in known if other.preprocessing is not None}
        found.pop(subject.digest, None)
        return tuple(found.values())


def defence_of(card: ModelCard) -> str:
    """The name of a model's defence."""
    return str(card.manifest["defence"].get("name", UNDEFENDED))


def is_twin(twin: ModelCard, card: ModelCard) -> bool:
    """Whether `twin` is the undefended model of the same architecture and bits."""
    same = twin.bits == card.bits and twin.manifest["architecture"] == card.manifest["architecture"]
    return same and defence_of(twin) == UNDEFENDED


def address(card: ModelCard) -> str:
    """As "name/version"."""
    return f"{card.name}/{card.version}"


def twin_specs(specs: Sequence[AttackSpec]) -> list[AttackSpec]:
    """What a twin that is not evaluated itself is attacked with: the suite at the gate's budget."""
    return [
        spec
        for spec in specs
        if spec.purpose == "suite" and spec.norm == "linf" and abs(spec.eps - TWIN_EPS) < 1e-9
    ]
