"""Compares the codes of an index with those of the catalog: both come in the order of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.application.bulk_ports import CodedContent
from service.application.findings import some
from service.application.ports import CodeArray

_NAMED = 5


@dataclass
class Differences:
    """Ids by what is wrong with them.

    `missing` in the index; `extra` there, without an item; `differ`: catalog and index have another code, or
    the catalog's has not as many bytes as it should; `lost`: the catalog has the item and no code for it;
    `bare`: as the last two, of items without content to encode again, so that a code may be the only one.
    """

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)

    def without(self, ids: set[str]) -> Differences:
        """Those that do not concern certain ids."""
        return Differences(*([one for one in found if one not in ids] for found in self.kinds().values()))

    def knowing(self, items: Mapping[str, bool]) -> Differences:
        """The same, where of each item that the catalog has is known whether it has content to encode."""
        lost = [one for one in self.extra if items.get(one) is True]
        bare = [one for one in self.extra if items.get(one) is False]
        extra = [one for one in self.extra if one not in items]
        return replace(self, extra=extra, lost=lost, bare=[*self.bare, *bare])

    @property
    def doubt(self) -> list[str]:
        """Those whose code is to be made anew before an index is built from the catalog."""
        return [*self.differ, *self.lost]

    def __bool__(self) -> bool:
        return any(self.kinds().values())

    def __str__(self) -> str:
        return "; ".join(
            f"{some(len(ids), ids[:_NAMED])} {kind}" for kind, ids in self.kinds().items() if ids
        )

    def kinds(self) -> dict[str, list[str]]:
        """The ids by a name of what is wrong."""
        return {
            "not in the index": self.missing,
            "in the index only": self.extra,
            "with another code than the index has": self.differ,
            "in the index, without a code in the catalog": self.lost,
            "with another code than the index has, or none, and nothing to encode again": self.bare,
        }


def compare(ids: Sequence[str], codes: CodeArray, pages: Iterable[Sequence[CodedContent]]) -> Differences:
    """What an index (n ids in order, packed codes (n, bits / 8)) and the catalog's pages say differently."""
    found, at = Differences(), 0
    for page in pages:
        for row in page:
            while at < len(ids) and ids[at] < row.id:
                found.extra.append(ids[at])
                at += 1
            there = at < len(ids) and ids[at] == row.id
            wide = len(row.code) == codes.shape[1]
            if not wide or (there and codes[at].tobytes() != row.code):
                (found.bare if row.content is None else found.differ).append(row.id)
            elif not there:
                found.missing.append(row.id)
            at += there
    found.extra.extend(ids[at:])
    return found
