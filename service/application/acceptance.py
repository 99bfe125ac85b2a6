"""Whether a generation that was written may be served: whole, able to find what it holds, and good enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.application.errors import ServiceError
from service.application.life_cycle_ports import GenerationRepository
from service.application.ports import CodeArray, GenerationStore, Reach, SearchIndex
from service.application.quality import NotMeasured, QualityCheck, falls_below
from service.application.types import Generation, Quality, Side, Validation


class BuildFailed(ServiceError):
    """A generation that cannot be built, does not hold what it should, or is worse than it may be."""

    code = "build_failed"


@dataclass(frozen=True)
class Sample:
    """Of what was written: codes of each side (the canaries), and ids of items to measure the quality on.

    `sides` are those that the model can encode.
    """

    codes: Mapping[Side, CodeArray]
    ids: Sequence[str]
    sides: frozenset[str]


@dataclass(frozen=True)
class Acceptance:
    """Examines generations."""

    generations: GenerationRepository
    store: GenerationStore
    quality: QualityCheck

    def examine(self, generation: Generation, sample: Sample, floor: float | None) -> Validation:
        """Read back what was written, find the canaries at distance 0, measure beside the live model.

        Raises `BuildFailed` when the generation does not hold what it should; `refusal` says if it is bad.
        """
        for side, index in self.store.load(generation).items():
            wanted = generation.image_count if side == "image" else generation.text_count
            _check_index(side, index, wanted, sample.codes[side])
        found = Validation(
            image_count=generation.image_count,
            text_count=generation.text_count,
            canaries=sum(len(codes) for codes in sample.codes.values()),
        )
        try:
            return replace(found, quality=self._measure(generation, sample, floor))
        except NotMeasured as error:
            return replace(found, note=f"the quality was not measured: {error}")

    def _measure(self, generation: Generation, sample: Sample, floor: float | None) -> Quality:
        live = self.generations.live()
        if live is None:
            raise NotMeasured("there is no live model to compare with")
        if live.model_digest == generation.model_digest:
            raise NotMeasured("the live generation is of the same model")
        lost = [] if floor is None else self.quality.lost_sides(generation, live, sample.sides)
        if lost:
            raise BuildFailed(
                f"the quality floor cannot be kept: {generation.model_name}/{generation.model_version} does "
                f"not encode {' or '.join(lost)}s, which the live model does",
                code="quality_floor",
            )
        return self.quality.compare(generation, live, sample.ids, floor)


def refusal(validation: Validation) -> str | None:
    """Why the generation is too bad to be served, with the figures; None when it is not."""
    quality = validation.quality
    worse = [] if quality is None else falls_below(quality)
    if quality is None or not worse:
        return None
    figures = "; ".join(f"{task.task} {task.map:.3f}, live {task.live_map:.3f}" for task in worse)
    return (
        f"{quality.model} finds worse than the live {quality.live_model}: mAP {figures} ({quality.queries} "
        f"queries, {quality.items} items of the corpus, by {quality.relevance}); the quality floor allows "
        f"{quality.floor:g} less"
    )


def _check_index(side: Side, index: SearchIndex, wanted: int, canaries: CodeArray) -> None:
    if len(index) != wanted:
        raise BuildFailed(f"the {side} index should hold {wanted} codes, it holds {len(index)}")
    for code in canaries:
        nearest = index.search(code.tobytes(), Reach(k=1))
        if not nearest or nearest[0].distance:
            raise BuildFailed(f"the {side} index does not find a code that it holds: {nearest}")
