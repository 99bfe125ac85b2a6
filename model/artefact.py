"""A trained model as a directory: `<models>/<name>/<version>/`, manifest written last, never unpickled.

    manifest.json        what it is, and the SHA-256 of every other file
    model.safetensors    weights of both towers
    tokenizer.json       (a model that reads texts)
    calibration.json     P(relevant | distance) per task
    score.safetensors    (only with an attack score)
    README.md            model card
    robustness.json      (when an evaluation was recorded; then evidence.json locks it and the new card)

A directory is written beside its place under a hidden name, fsynced and renamed, so that a version is there
whole or not at all. The digest of a model is the SHA-256 of its manifest.json, which covers what training
wrote and never changes; what is recorded later is model/artefact_evidence.py's.
This module imports no torch: listing and verifying models must not wait for it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.artefact_checks import (
    CALIBRATION,
    MAX_JSON_BYTES,
    NAME,
    README,
    ROBUSTNESS,
    SCORE,
    VERSION,
    check_calibration,
    check_manifest,
    read_object,
)
from model.artefact_evidence import entry_of, read_entry, read_evidence, write_evidence
from model.artefact_parts import NO_PREPROCESSING, ArtefactParts, contents, describe
from model.artefact_readme import known_to_break_at, model_card_text
from model.durable import folders, read_file, sync_folder, write_file
from model.errors import ArtefactError, RecipeError
from model.preprocessing import Preprocessing, read_preprocessing
from model.robustness import Robustness, read_robustness, robustness_bytes

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ModelCard:
    """A manifest that was read and checked; `digest` identifies the model (SHA-256 of manifest.json)."""

    folder: Path
    digest: str
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the model; with `version` the address of the artefact."""
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        """Version within the name: "1", "2", ..."""
        return str(self.manifest["version"])

    @property
    def bits(self) -> int:
        """Length K of its codes."""
        return int(self.manifest["bits"])

    @property
    def created(self) -> str:
        """When it was written, ISO 8601 in UTC."""
        return str(self.manifest["created"])

    @property
    def modalities(self) -> frozenset[str]:
        """Which of "image" and "text" it has a tower for."""
        return frozenset(self.manifest["architecture"])

    @property
    def has_score(self) -> bool:
        """Whether it has an attack score."""
        return SCORE in self.manifest["files"]

    def public(self) -> dict[str, Any]:
        """The manifest with the digest, without the list of files."""
        shown = {name: value for name, value in self.manifest.items() if name != "files"}
        return {**shown, "digest": self.digest, "modalities": sorted(self.modalities)}


@dataclass(frozen=True)
class Artefact:
    """A verified artefact: the card, and the content of the files that were asked for."""

    card: ModelCard
    files: Mapping[str, bytes]

    def preprocessing(self) -> Preprocessing | None:
        """How its images are prepared; None for a model without them. Raises ArtefactError."""
        where, table = f"{self.card.folder}: {MANIFEST}", self.card.manifest["preprocessing"]
        digest = self.card.manifest["preprocessing_digest"]
        try:
            found = None if table is None else read_preprocessing(table)
        except RecipeError as error:
            raise ArtefactError(f"{where}: {error}") from error
        wanted = NO_PREPROCESSING if found is None else found.digest()
        if digest != wanted:
            raise ArtefactError(f"{where}: preprocessing_digest: wanted {wanted}, got {digest}")
        return found

    def calibration(self) -> dict[str, tuple[float, ...]]:
        """P(relevant | distance) per task, K + 1 values each; empty when not calibrated."""
        where = f"{self.card.folder}: {CALIBRATION}"
        return check_calibration(read_object(self.files[CALIBRATION], where), self.card.bits, where)

    def robustness(self) -> Robustness | None:
        """The figures of the recorded evaluation, None when there is none. Raises ArtefactError."""
        data, where = self.files.get(ROBUSTNESS), f"{self.card.folder}: {ROBUSTNESS}"
        return None if data is None else read_robustness(data, self.card.digest, where)


def save_artefact(models: Path, name: str, parts: ArtefactParts) -> Path:
    """Write the next version of `name` under `models` and return its folder.

    Writers of the same name at the same time get different versions; a writer that dies leaves only a
    hidden folder. Raises ArtefactError for a bad name or parts that would not be read back.
    """
    if not NAME.fullmatch(name):
        raise ArtefactError(f"name: wanted {NAME.pattern}, got {name!r}")
    home = models / name
    home.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".writing-", dir=home))
    try:
        return _publish(home, draft, name, parts)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(home: Path, draft: Path, name: str, parts: ArtefactParts) -> Path:
    files = contents(parts)
    for file, data in files.items():
        write_file(draft / file, data)
    draft.chmod(0o755)  # mkdtemp's is 0700; another account may serve what this one trained
    created = datetime.now(UTC).isoformat(timespec="seconds")
    version = _next_version(home)
    while True:
        manifest = describe(name, str(version), created, parts)
        card_text = model_card_text(manifest, None).encode()
        write_file(draft / README, card_text)
        manifest["files"] = {
            file: entry_of(data) for file, data in sorted({**files, README: card_text}.items())
        }
        check_manifest(manifest, name)
        write_file(draft / MANIFEST, (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode())
        sync_folder(draft)
        try:
            draft.rename(home / str(version))  # fails on a folder that has something in it
        except OSError:
            if not (home / str(version)).exists():
                raise
            version += 1
            continue
        sync_folder(home)
        return home / str(version)


def _next_version(home: Path) -> int:
    return max((int(name) for name in folders(home, VERSION)), default=0) + 1


def read_card(folder: Path) -> ModelCard:
    """Read and check the manifest alone; raises ArtefactError."""
    data = read_file(folder / MANIFEST, MAX_JSON_BYTES)
    where = f"{folder}: {MANIFEST}"
    manifest = read_object(data, where)
    check_manifest(manifest, where)
    return ModelCard(folder, hashlib.sha256(data).hexdigest(), manifest)


def open_artefact(folder: Path, *, score: bool = False) -> Artefact:
    """Read every file once, compare size and SHA-256 with the manifest, and only then hand them out.

    The attack score's weights are verified only with `score`. Raises ArtefactError naming the file, what
    was wanted and what came.
    """
    card = read_card(folder)
    return Artefact(card, {**_trained(card, score=score), **_described(card)})


def _trained(card: ModelCard, *, score: bool) -> dict[str, bytes]:
    """What codes depend on (and the attack score), as the manifest locks it. Raises ArtefactError."""
    left = {README} if score else {README, SCORE}
    entries = card.manifest["files"]
    return {
        name: read_entry(card.folder / name, entry) for name, entry in entries.items() if name not in left
    }


def _described(card: ModelCard) -> dict[str, bytes]:
    """The model card, and robustness.json when figures were recorded. Raises ArtefactError."""
    return read_evidence(card.folder, card.digest, card.manifest["files"][README])


def verify(folder: Path) -> ModelCard:
    """Check every file of an artefact against its manifest, and the JSON files' content (ArtefactError)."""
    artefact = open_artefact(folder, score=True)
    artefact.preprocessing()
    artefact.calibration()
    artefact.robustness()
    return artefact.card


def record_robustness(folder: Path, robustness: Robustness) -> ModelCard:
    """Put the figures of an evaluation and a model card that tells them into an artefact, in one step.

    The model stays what it was, its digest too. Raises ArtefactError for another model than the evaluated
    one and for a damaged one, OSError.
    """
    card = read_card(folder)
    if card.digest != robustness.model.digest:
        raise ArtefactError(
            f"{folder}: wanted the evaluated model, digest {robustness.model.digest}, got "
            f"{card.name}/{card.version} with the digest {card.digest}"
        )
    _trained(card, score=True)
    text = model_card_text(card.manifest, robustness).encode()
    write_evidence(folder, card.digest, {ROBUSTNESS: robustness_bytes(robustness), README: text})
    return card


def carry_robustness(source: Path, target: Path) -> bool:
    """Bring what was recorded of a model to a copy without a record; whether something was written there.

    What is recorded in the copy already stays: somebody evaluated it there.
    Raises ArtefactError when the two are different models or the source is damaged, OSError.
    """
    card, other = read_card(source), read_card(target)
    if card.digest != other.digest:
        raise ArtefactError(f"{target}: wanted the model {card.digest}, got {other.digest}")
    found = _described(card)
    if Artefact(card, found).robustness() is None or ROBUSTNESS in _described(other):
        return False
    write_evidence(target, card.digest, found)
    return True


def scan_models(models: Path) -> tuple[list[ModelCard], list[ArtefactError]]:
    """All readable cards under `models`, by name and version, and the errors of the others.

    Folders that are no version (half-written ones among them) are not looked at.
    """
    cards: list[ModelCard] = []
    errors: list[ArtefactError] = []
    for name in sorted(folders(models, NAME)):
        for version in sorted(folders(models / name, VERSION), key=int):
            folder = models / name / version
            try:
                card = read_card(folder)
                if (card.name, card.version) != (name, version):
                    got = f"{card.name}/{card.version}"
                    raise ArtefactError(f"{folder}: wanted the model {name}/{version}, got {got}")  # noqa: TRY301
                cards.append(card)
            except ArtefactError as error:
                errors.append(error)
    return cards, errors


def list_models(models: Path) -> list[ModelCard]:
    """The readable cards of `scan_models`."""
    return scan_models(models)[0]


def find_model(models: Path, wanted: str) -> ModelCard:
    """The card of "name/version", of the newest version of "name", or of the "latest" model of all.

    Newest is by the time that the manifest records, then by version. Raises ArtefactError.
    """
    cards = list_models(models)
    name, _, version = wanted.partition("/")
    found = [
        card for card in cards if wanted == "latest" or (card.name == name and version in ("", card.version))
    ]
    if not found:
        known = ", ".join(f"{card.name}/{card.version}" for card in cards) or "none"
        raise ArtefactError(f"{models}: wanted the model {wanted!r}; there: {known}")
    return max(found, key=lambda card: (card.created, int(card.version)))


def list_cards(models: Path) -> list[dict[str, Any]]:
    """`ModelCard.public` of every readable model."""
    return [card.public() for card in list_models(models)]


def full_card(card: ModelCard) -> dict[str, Any]:
    """The public card with the recorded figures (or None), the line that says where it breaks, and the text.

    Reads no weights. Raises ArtefactError.
    """
    artefact = Artefact(card, _described(card))
    found = artefact.robustness()
    return {
        **card.public(),
        "known_to_break_at": known_to_break_at(card.manifest, found),
        "robustness": None if found is None else found.model_dump(),
        "readme": artefact.files[README].decode("utf-8", "replace"),
    }
