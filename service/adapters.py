"""The model and index packages behind the ports of the use cases; used by `service/wiring.py` alone.

Here bits are packed (`index/codes.py` owns their order) and errors of the two packages become errors of
the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from index.claims import Claim, claim, is_remote, sweep_claims
from index.codes import pack
from index.core import BinaryIndex, Hit, SearchOptions
from index.errors import CorruptIndex, EngineUnavailable, HashIndexError, UnknownOption, Unsupported
from index.registry import backend, create
from index.store import (
    Meta,
    connection,
    delete_generation,
    load_generation,
    read_meta,
    sweep,
    write_generation,
)
from model.artefact import ModelCard, find_model, full_card, list_models
from model.errors import ArtefactError, ImageError, MissingTower, ModelError
from model.inference import Encoder
from service.application.encoding import without_scores
from service.application.errors import InvalidInput, NotFound, TooLarge, Unavailable, UnsupportedMedia
from service.application.ports import CodeArray, ModelRef, Neighbour, Reach, RgbImage, SearchIndex
from service.application.ports import Encoder as EncoderPort
from service.application.types import SIDES, Examined, Generation, Side

_IMAGE_ERRORS: Mapping[str, type[InvalidInput]] = {
    "unsupported_image": UnsupportedMedia,
    "animated_image": UnsupportedMedia,
    "too_many_pixels": TooLarge,
}

_log = structlog.get_logger(__name__)


class PackedEncoder:
    """A model's `Encoder` as the use cases know it: packed codes, errors of the service.

    With `scores` its queries get attack scores on the sides that have one. A score is a by-product: when it
    cannot be computed the query goes without.
    """

    def __init__(self, encoder: Encoder, *, scores: bool = False) -> None:
        self._encoder = encoder
        self.bits = encoder.bits
        self.model_name = encoder.model_name
        self.model_version = encoder.model_version
        self.digest = encoder.digest
        self.preprocessing_digest = encoder.preprocessing_digest
        self.modalities = encoder.modalities
        self.calibration: Mapping[str, Sequence[float]] | None = encoder.calibration
        found = encoder.score_thresholds
        thresholds: dict[Side, Mapping[float, float]] = {side: found[side] for side in SIDES if side in found}
        self.score_thresholds = thresholds if scores else None

    def decode(self, data: bytes) -> RgbImage:
        """Image bytes to uint8 RGB (S, S, 3). Raises `InvalidInput` or a subclass, the model's code kept."""
        with _image_errors():
            return self._encoder.decode(data)

    def encode_images(self, images: Sequence[RgbImage]) -> CodeArray:
        """Decoded images to packed codes (n, bits / 8)."""
        return pack(self._encoder.encode_images(images))

    def encode_texts(self, texts: Sequence[str]) -> CodeArray:
        """Texts to packed codes (n, bits / 8)."""
        return pack(self._encoder.encode_texts(texts))

    def examine_images(self, images: Sequence[RgbImage]) -> list[Examined]:
        """Decoded images to packed codes and attack scores."""
        examined = without_scores(self.encode_images(images))
        return self._scored("image", examined, lambda: self._encoder.score_images(images))

    def examine_texts(self, texts: Sequence[str]) -> list[Examined]:
        """Texts to packed codes and attack scores."""
        examined = without_scores(self.encode_texts(texts))
        return self._scored("text", examined, lambda: self._encoder.score_texts(texts))

    def _scored(
        self, side: Side, examined: list[Examined], scores: Callable[[], NDArray[np.float64]]
    ) -> list[Examined]:
        if side not in (self.score_thresholds or {}):
            return examined
        try:
            found = scores()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the query its answer
            _log.error("attack_score_failed", side=side, exc_info=error)
            return examined
        return [
            replace(one, score=float(score)) if np.isfinite(score) else one
            for one, score in zip(examined, found, strict=True)
        ]


def jpeg_thumbnail(data: bytes, size: int) -> tuple[bytes, str]:
    """A JPEG whose longer side is at most `size`, and its media type. Raises `InvalidInput`."""
    with _image_errors():
        return Encoder.thumbnail(data, size), "image/jpeg"


class DiskModels:
    """The artefacts below `models/<name>/<version>/` as a `ModelShelf`; loads to one device.

    With `scores` the attack score is loaded with every model that has one.
    """

    def __init__(self, folder: Path, device: str, *, scores: bool = False) -> None:
        self._folder = folder
        self._device = device
        self._scores = scores

    def refs(self) -> list[ModelRef]:
        """All readable artefacts, by name, older versions first."""
        return [_ref(card) for card in list_models(self._folder)]

    def card(self, name: str, version: str) -> dict[str, Any]:
        """Manifest (public part), robustness figures and card text. Raises `NotFound`, `Unavailable`."""
        found = self._find(name, version)
        with _model_errors():
            return full_card(found)

    def load(self, name: str, version: str) -> EncoderPort:
        """Verify and load an artefact. Raises `NotFound`, and `Unavailable` when it is damaged."""
        found = self._find(name, version)
        with _model_errors():
            encoder = Encoder.load(found.folder, self._device, score=self._scores and found.has_score)
            return PackedEncoder(encoder, scores=self._scores)

    def _find(self, name: str, version: str) -> ModelCard:
        try:
            return find_model(self._folder, f"{name}/{version}")
        except ArtefactError as error:
            raise NotFound(f"there is no model {name[:80]}/{version[:80]}", code="model_not_found") from error


class ServedIndex:
    """A `BinaryIndex` as a `SearchIndex`; raises `Unavailable` while an engine elsewhere does not answer."""

    def __init__(self, index: BinaryIndex, *, shared: bool, claim: Claim | None = None) -> None:
        """`claim` holds the name of a new table in an engine until a generation refers to it."""
        self.index = index
        self.shared = shared
        self.claim = claim

    @property
    def exact(self) -> bool:
        """True when a search cannot miss a hit."""
        return self.index.exact

    def __len__(self) -> int:
        """Number of ids."""
        with _engine_errors():
            return len(self.index)

    def add(self, ids: Sequence[str], codes: CodeArray) -> None:
        """Insert distinct ids, or replace the codes of those that are there."""
        with _engine_errors():
            self.index.add(ids, codes)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove ids; the number that was there."""
        with _engine_errors():
            return self.index.remove(ids)

    def codes(self) -> tuple[Sequence[str], CodeArray]:
        """All ids in the order of their UTF-8 bytes, and their packed codes (n, bits / 8)."""
        with _engine_errors():
            return self.index.codes()

    def search(self, code: bytes, reach: Reach) -> list[Neighbour]:
        """Nearest ids of one packed code, in the contract's order."""
        after = None if reach.after is None else Hit(reach.after.id, reach.after.distance)
        options = SearchOptions(reach.k, reach.max_distance, after)
        query = np.frombuffer(code, np.uint8)[np.newaxis]
        with _engine_errors():
            hits = self.index.search(query, options, allow=reach.allow)[0]
        return [Neighbour(hit.id, hit.distance) for hit in hits]


class DiskGenerations:
    """Index generations below one folder as a `GenerationStore`.

    url: where the engine listens that holds the codes of a backend like pgvector or milvus.
    """

    def __init__(self, folder: Path, backend: str, url: str | None = None) -> None:
        self._folder = folder
        self._backend = backend
        self._url = url

    def new_index(self, bits: int) -> SearchIndex:
        """An empty index of the configured backend. Raises `Unavailable` when its engine does not answer."""
        with _engine_errors():
            if not is_remote(self._backend):
                return ServedIndex(create(self._backend, bits), shared=False)
            claims: list[Claim] = []
            index = create(
                self._backend,
                bits,
                announce=lambda table: claims.append(claim(self._folder, self._backend, bits, table)),
                **connection(self._backend, self._url),
            )
            return ServedIndex(index, shared=True, claim=claims[0])

    def write(self, generation: Generation, indexes: Mapping[Side, SearchIndex]) -> None:
        """Persist both indexes; visible all at once or not at all."""
        meta = Meta(
            model_name=generation.model_name,
            model_version=generation.model_version,
            model_digest=generation.model_digest,
            preprocessing_digest=generation.preprocessing_digest,
            bits=generation.bits,
            snapshot_seq=generation.snapshot_seq,
            created=generation.created.isoformat(),
            backend=self._backend,
        )
        image, text = _concrete(indexes["image"]), _concrete(indexes["text"])
        sweep(self._folder, self._url)
        sweep_claims(self._folder, self._url)
        write_generation(self._folder, generation.id, meta, image.index, text.index)
        for one in (image, text):
            if one.claim is not None:
                one.claim.release()
                one.claim = None

    def load(self, generation: Generation) -> dict[Side, SearchIndex]:
        """Load both indexes. Raises `Unavailable`, whose code says why.

        `generation_damaged`: missing, damaged or of another model. `index_unavailable`: its engine does not
        answer. `engine_not_set`: a setting or a client library that it needs is not here.
        """
        try:
            found = load_generation(self._folder / generation.id, generation.model_digest, self._url)
        except EngineUnavailable as error:
            raise Unavailable(str(error), code="index_unavailable", retry_after_s=2) from error
        except (UnknownOption, Unsupported) as error:
            detail = f"index generation {generation.id} cannot be loaded here: {error}"
            raise Unavailable(detail, code="engine_not_set", retry_after_s=60) from error
        except (HashIndexError, OSError) as error:
            raise _damaged(generation.id, f"cannot be loaded: {error}") from error
        shared = backend(found.meta.backend).remote
        return {
            "image": ServedIndex(found.image, shared=shared),
            "text": ServedIndex(found.text, shared=shared),
        }

    def check(self, generation: Generation) -> None:
        """Look at META.json alone. Raises `Unavailable` when it is missing, damaged or of another model."""
        try:
            found = read_meta(self._folder / generation.id).model_digest
        except (HashIndexError, OSError) as error:
            raise _damaged(generation.id, f"cannot be loaded: {error}") from error
        if found != generation.model_digest:
            wanted = generation.model_digest[:12]
            raise _damaged(generation.id, f"is of the model {found[:12]} on disk, wanted {wanted}")

    def delete(self, generation_id: str) -> None:
        """Remove the folder of a generation; nothing happens when it is not there."""
        delete_generation(self._folder, generation_id, self._url)


def _damaged(generation_id: str, detail: str) -> Unavailable:
    return Unavailable(
        f"index generation {generation_id} {detail}", code="generation_damaged", retry_after_s=60
    )


def _ref(card: ModelCard) -> ModelRef:
    return ModelRef(
        name=card.name,
        version=card.version,
        digest=card.digest,
        created=card.created,
        bits=card.bits,
        preprocessing_digest=str(card.manifest["preprocessing_digest"]),
    )


def _concrete(index: SearchIndex) -> ServedIndex:
    if not isinstance(index, ServedIndex):
        raise TypeError(f"wanted an index that this store made, got {type(index).__name__}")
    return index


@contextmanager
def _engine_errors() -> Iterator[None]:
    """An engine elsewhere that does not answer, or has lost an index, is a 503 and no fault of ours."""
    try:
        yield
    except (EngineUnavailable, CorruptIndex) as error:
        raise Unavailable(str(error), code="index_unavailable", retry_after_s=2) from error


@contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise _IMAGE_ERRORS.get(error.code, InvalidInput)(error.detail, code=error.code) from error
    except MissingTower as error:
        raise InvalidInput(str(error), code="unsupported_modality") from error


@contextmanager
def _model_errors() -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise Unavailable(
            f"the model cannot be loaded: {error}", code="model_damaged", retry_after_s=60
        ) from error
