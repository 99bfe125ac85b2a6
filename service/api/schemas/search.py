"""Bodies and answers of searches and encodings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from service.api.schemas.base import Answer, Base64Bytes, Body, ItemId, MetadataMember, Problem, Scalar
from service.application.types import (
    Condition,
    EncodeAnswer,
    Filter,
    Operator,
    Query,
    SearchAnswer,
    SearchHit,
    Side,
)

_OPERATORS: tuple[Operator, ...] = ("eq", "in", "gt", "gte", "lt", "lte")

Text = Annotated[str, Field(min_length=1, examples=["two red circles left of a blue square"])]


class ConditionBody(Body):
    """A test on one metadata key, with exactly one operator."""

    key: Annotated[str, Field(min_length=1, examples=["source"])]
    eq: Scalar = None
    in_: Annotated[list[Scalar] | None, Field(alias="in")] = None
    gt: Scalar = None
    gte: Scalar = None
    lt: Scalar = None
    lte: Scalar = None

    @model_validator(mode="after")
    def _one_operator(self) -> ConditionBody:
        given = self.model_fields_set - {"key"}
        if len(given) != 1 or self.operand()[1] is None:
            raise PydanticCustomError("one_operator", "Exactly one of eq, in, gt, gte, lt, lte is needed")
        return self

    def operand(self) -> tuple[Operator, Any]:
        """The operator and its value."""
        values = {"in": self.in_} | {name: getattr(self, name) for name in _OPERATORS if name != "in"}
        return next(((name, values[name]) for name in _OPERATORS if values[name] is not None), ("eq", None))

    def condition(self) -> Condition:
        """As the use cases take it."""
        operator, value = self.operand()
        return Condition(self.key, operator, tuple(value) if isinstance(value, list) else value)


class FilterBody(Body):
    """All of `must`, at least one of `should` (when there are any), none of `must_not`."""

    must: list[ConditionBody] = Field(default_factory=list)
    should: list[ConditionBody] = Field(default_factory=list)
    must_not: list[ConditionBody] = Field(default_factory=list)

    def filter(self) -> Filter:
        """As the use cases take it."""
        return Filter(
            must=tuple(member.condition() for member in self.must),
            should=tuple(member.condition() for member in self.should),
            must_not=tuple(member.condition() for member in self.must_not),
        )


class SearchOptions(Body):
    """What all searches take besides the query itself."""

    k: Annotated[int, Field(ge=1, le=1000, description="Hits wanted.")] = 10
    max_distance: Annotated[
        int | None, Field(ge=0, le=256, description="Largest Hamming distance of a hit, in bits.")
    ] = None
    filter: Annotated[FilterBody | None, Field(description="Tests on the metadata of hits.")] = None
    cursor: Annotated[str | None, Field(max_length=4096, description="`next_cursor` of the page before.")] = (
        None
    )

    def query(
        self,
        to: Side,
        *,
        image: bytes | None = None,
        text: str | None = None,
        item: tuple[str, Side] | None = None,
    ) -> Query:
        """A query for one of image, text and item on the side `to`."""
        conditions = self.filter.filter() if self.filter is not None else Filter()
        return Query(
            to=to,
            image=image,
            text=text,
            item=item,
            k=self.k,
            max_distance=self.max_distance,
            filter=conditions,
            cursor=self.cursor,
        )


class TextSearch(SearchOptions):
    """A search by text."""

    text: Text


class ItemSearch(SearchOptions):
    """A search for what is like one side of an item of the corpus."""

    id: ItemId
    from_: Annotated[Side, Field(alias="from", description="The side of the item to search by.")]
    to: Annotated[Side, Field(description="The side of the hits to compare with.")]


class BatchQuery(SearchOptions):
    """One query of a batch: exactly one of `text`, `image` (base64) and `id` (with `from`)."""

    to: Side
    text: Text | None = None
    image: Base64Bytes | None = None
    id: ItemId | None = None
    from_: Annotated[Side | None, Field(alias="from")] = None

    @model_validator(mode="after")
    def _one_subject(self) -> BatchQuery:
        if sum(subject is not None for subject in (self.text, self.image, self.id)) != 1:
            raise PydanticCustomError("one_subject", "Exactly one of text, image and id is needed")
        if (self.id is None) != (self.from_ is None):
            raise PydanticCustomError("from_with_id", "id and from go together")
        return self

    def as_query(self) -> Query:
        """As the use cases take it."""
        if self.id is not None and self.from_ is not None:
            return self.query(self.to, item=(self.id, self.from_))
        return self.query(self.to, text=self.text, image=self.image)


class BatchSearch(Body):
    """Many queries; a query that does not fit has its problem in its place, the others are answered."""

    queries: Annotated[list[SkipValidation[BatchQuery]], Field(min_length=1)]


class TextBody(Body):
    """A text to encode."""

    text: Text


class Hit(Answer):
    """One hit."""

    id: str = Field(examples=["scene-0001"])
    distance: int = Field(description="Hamming distance, in bits.", examples=[7])
    similarity: float = Field(description="1 - distance / bits.", examples=[0.890625])
    match: float | None = Field(
        description="Calibrated probability that the hit is relevant; null without calibration.",
        examples=[0.93],
    )
    text: str | None = Field(examples=["two red circles left of a blue square"])
    image_url: str | None = Field(examples=["/v1/items/scene-0001/image"])
    metadata: dict[str, MetadataMember] = Field(examples=[{"source": "sample"}])

    @classmethod
    def of(cls, hit: SearchHit) -> Hit:
        """From the use case's value."""
        return cls(
            id=hit.id,
            distance=hit.distance,
            similarity=hit.similarity,
            match=hit.match,
            text=hit.text,
            image_url=hit.image_url,
            metadata=dict(hit.metadata),
        )


class Took(Answer):
    """Where the time went, in milliseconds."""

    decode: float
    encode: float
    search: float
    total: float


class SearchResult(Answer):
    """A page of hits, nearest first (distance, then id by its bytes), and what produced it."""

    hits: list[Hit]
    next_cursor: str | None = Field(description="Where the next page begins; null when this is the last.")
    exact: bool = Field(description="Whether the hits are surely the nearest ones.")
    model_version: str = Field(examples=["sample/1"])
    index_generation: str
    took_ms: Took
    attack_score: float | None = Field(
        description="How far the two branches of the model's encoders disagree on the query, at least 0: the "
        "higher, the more it looks like an attacked one. Advice, never a reason for an answer to differ. "
        "Null unless the attack score is on and the model has one, and for items of the corpus."
    )

    @classmethod
    def of(cls, answer: SearchAnswer) -> SearchResult:
        """From the use case's value."""
        timing = answer.timing
        return cls(
            hits=[Hit.of(hit) for hit in answer.hits],
            next_cursor=answer.next_cursor,
            exact=answer.exact,
            model_version=answer.model_version,
            index_generation=answer.index_generation,
            took_ms=Took(
                decode=round(timing.decode_ms, 3),
                encode=round(timing.encode_ms, 3),
                search=round(timing.search_ms, 3),
                total=round(timing.total_ms, 3),
            ),
            attack_score=answer.attack_score,
        )


class BatchResultEntry(Answer):
    """What became of one query: `answer` when `status` is 200, else `problem`."""

    status: int = Field(examples=[200])
    answer: SearchResult | None = None
    problem: Problem | None = None


class BatchResult(Answer):
    """One entry for each query, in their order."""

    results: list[BatchResultEntry]


class Code(Answer):
    """A binary code."""

    code: str = Field(description="Lower-case hex, bits / 4 digits.", examples=["a3f09b44c1d2e870"])
    bits: int = Field(examples=[64])
    model_version: str = Field(examples=["sample/1"])

    @classmethod
    def of(cls, answer: EncodeAnswer) -> Code:
        """From the use case's value."""
        return cls(code=answer.code, bits=answer.bits, model_version=answer.model_version)
