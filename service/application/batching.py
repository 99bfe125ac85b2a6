"""One model thread behind a bounded queue, which joins waiting inputs to batches.

The thread takes the oldest input and runs it with those of the same kind (same model, same side).
While inputs come in company it waits at most `max_delay_s` for more; one that comes alone is run at once,
so a single client does not pay for batching. When the queue is full a caller is told at once to come back
later; an input that waited beyond its deadline is not run. A batch that fails is run again one by one, so
that one bad input harms nobody else.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import structlog

from service.application.encoding import without_scores
from service.application.errors import InvalidInput, ServiceError, Unavailable
from service.application.ports import CodeArray, Encoder, RgbImage
from service.application.types import Examined, Side

_GRACE_S = 0.5  # a caller waits this much beyond the deadline for the thread to say so itself

Work: TypeAlias = Callable[[Sequence[Any]], Sequence[Any] | CodeArray]
"""Inputs to one result each: the rows of an array of codes, or whatever else."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchingOptions:
    """How inputs are joined: batch size, waiting time, length of the queue, time until an answer.

    `max_decodes` images are decoded at once: each may take 100 MiB while it is.
    """

    max_batch: int
    max_delay_s: float
    max_queue: int
    deadline_s: float
    max_decodes: int = 4


@dataclass(frozen=True)
class _Entry:
    key: Hashable
    work: Work
    value: Any
    arrived: float
    deadline: float
    result: Future[Any] = field(default_factory=Future)


class ModelThread:
    """The one thread that runs models; `run` may be called from any thread."""

    def __init__(self, options: BatchingOptions) -> None:
        self.options = options
        self.decoding = threading.BoundedSemaphore(options.max_decodes)
        self._queue: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._refusal: str | None = None
        self._stopping = False
        self._company = False
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Number of inputs that wait."""
        return len(self._queue)

    def run(self, key: Hashable, work: Work, values: Sequence[Any]) -> CodeArray:
        """Packed codes (n, bits / 8) of the values; as `each`."""
        return np.stack(self.each(key, work, values))

    def each(self, key: Hashable, work: Work, values: Sequence[Any]) -> list[Any]:
        """Run `work` on the values, joined with others of the same key; what it makes of each, in order.

        Long inputs go in pieces of one batch. Raises `Unavailable` (`overloaded`, `deadline`, `draining`),
        `InvalidInput` (`not_encodable`) or the `ServiceError` that `work` raises.
        """
        step = self.options.max_batch
        pieces = (values[start : start + step] for start in range(0, len(values), step))
        return [result for piece in pieces for result in self._run_part(key, work, piece)]

    def drain(self) -> None:
        """Refuse new inputs from now on; those that wait are still run."""
        self._refuse("the service is shutting down")

    def close(self) -> None:
        """Run what waits, then stop; may be called twice. A model that hangs is not waited for."""
        self._refuse("the service is shut down")
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout=self.options.deadline_s)

    def _refuse(self, why: str) -> None:
        with self._changed:
            self._refusal = why

    def _run_part(self, key: Hashable, work: Work, values: Sequence[Any]) -> list[Any]:
        now = time.monotonic()
        deadline = now + self.options.deadline_s
        entries = [_Entry(key, work, value, now, deadline) for value in values]
        self._admit(entries)
        try:
            return [
                entry.result.result(timeout=max(0.0, deadline - time.monotonic()) + _GRACE_S)
                for entry in entries
            ]
        except TimeoutError as error:
            raise _too_late() from error

    def _admit(self, entries: Sequence[_Entry]) -> None:
        with self._changed:
            if self._refusal is not None:
                raise Unavailable(self._refusal, code="draining", retry_after_s=5)
            if len(self._queue) + len(entries) > self.options.max_queue:
                raise Unavailable(
                    f"{len(self._queue)} inputs wait for the model, room is for {self.options.max_queue}",
                    code="overloaded",
                )
            self._queue.extend(entries)
            self._changed.notify_all()

    def _loop(self) -> None:
        while (batch := self._next_batch()) is not None:
            now = time.monotonic()
            late = [entry for entry in batch if entry.deadline < now]
            for entry in late:
                entry.result.set_exception(_too_late())
            ready = [entry for entry in batch if entry.deadline >= now]
            if ready:
                _answer(ready)

    def _next_batch(self) -> list[_Entry] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            if not self._queue:
                return None
            oldest = self._queue[0]
            self._changed.wait_for(
                lambda: self._stopping or self._waiting(oldest.key) >= self.options.max_batch,
                timeout=self._patience(oldest),
            )
            taken: list[_Entry] = []
            left: deque[_Entry] = deque()
            for entry in self._queue:
                fits = entry.key == oldest.key and len(taken) < self.options.max_batch
                (taken if fits else left).append(entry)
            self._queue = left
            self._company = len(taken) > 1
            return taken

    def _patience(self, oldest: _Entry) -> float:
        """Seconds to wait for more: none when the last batch had one input and one is here now."""
        if not self._company and len(self._queue) == 1:
            return 0.0
        return max(0.0, oldest.arrived + self.options.max_delay_s - time.monotonic())

    def _waiting(self, key: Hashable) -> int:
        return sum(entry.key == key for entry in self._queue)


def _answer(entries: Sequence[_Entry]) -> None:
    try:
        results = entries[0].work([entry.value for entry in entries])
    except Exception as error:  # noqa: BLE001 - whatever a model raises, the thread must live on
        if len(entries) == 1:
            entries[0].result.set_exception(_explained(error))
            return
        _log.warning("batch_failed", size=len(entries), error=repr(error))
        for entry in entries:
            _answer([entry])
        return
    for entry, result in zip(entries, results, strict=True):
        entry.result.set_result(result)


def _explained(error: Exception) -> ServiceError:
    """What the caller hears of a failure on one input; the whole of it goes to the log."""
    if isinstance(error, ServiceError):
        return error
    _log.error("input_failed", exc_info=error)
    if isinstance(error, MemoryError):
        return Unavailable("the model ran out of memory", code="out_of_memory", retry_after_s=5)
    return InvalidInput("the model cannot encode this input", code="not_encodable")


def _too_late() -> Unavailable:
    return Unavailable("the model did not answer in time", code="deadline", retry_after_s=2)


class BatchingEncoder:
    """An `Encoder` whose model work goes through the model thread; decoding stays with the caller."""

    def __init__(self, encoder: Encoder, thread: ModelThread) -> None:
        self._encoder = encoder
        self._thread = thread
        self.bits = encoder.bits
        self.model_name = encoder.model_name
        self.model_version = encoder.model_version
        self.digest = encoder.digest
        self.preprocessing_digest = encoder.preprocessing_digest
        self.modalities = encoder.modalities
        self.calibration: Mapping[str, Sequence[float]] | None = encoder.calibration
        self.score_thresholds: Mapping[Side, Mapping[float, float]] | None = encoder.score_thresholds

    def decode(self, data: bytes) -> RgbImage:
        """Image bytes to uint8 RGB (S, S, 3), in the calling thread, a few at a time.

        Raises `Unavailable` when no turn came in time.
        """
        turn = self._thread.decoding
        if not turn.acquire(timeout=self._thread.options.deadline_s):
            raise Unavailable("too many images wait to be decoded", code="overloaded", retry_after_s=2)
        try:
            return self._encoder.decode(data)
        finally:
            turn.release()

    def encode_images(self, images: Sequence[RgbImage]) -> CodeArray:
        """Decoded images to packed codes."""
        return self._thread.run((self.digest, "image"), self._encoder.encode_images, images)

    def encode_texts(self, texts: Sequence[str]) -> CodeArray:
        """Texts to packed codes."""
        return self._thread.run((self.digest, "text"), self._encoder.encode_texts, texts)

    def examine_images(self, images: Sequence[RgbImage]) -> list[Examined]:
        """Decoded images to packed codes and attack scores, in one go; without a score as `encode_images`."""
        if "image" not in (self.score_thresholds or {}):
            return without_scores(self.encode_images(images))
        return self._thread.each((self.digest, "image", "score"), self._encoder.examine_images, images)

    def examine_texts(self, texts: Sequence[str]) -> list[Examined]:
        """Texts to packed codes and attack scores, in one go; without a score as `encode_texts`."""
        if "text" not in (self.score_thresholds or {}):
            return without_scores(self.encode_texts(texts))
        return self._thread.each((self.digest, "text", "score"), self._encoder.examine_texts, texts)
