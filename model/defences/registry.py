"""Names of defences. A new one is a file beside this and one entry here; the tests run over the registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.defences.base import Defence, DefenceContext
from model.defences.none import NoneSettings, Undefended
from model.errors import RecipeError, UnknownName
from model.hashers.options import read_options


@dataclass(frozen=True)
class DefenceEntry:
    """How to read a defence's ``[defence]`` table and how to build it."""

    settings: type[Any]
    build: Callable[[Any, DefenceContext], Defence]


DEFENCES: dict[str, DefenceEntry] = {
    Undefended.name: DefenceEntry(NoneSettings, Undefended),
}

ANNOUNCED = frozenset({"saat", "drfgd"})
"""Names that the command line's contract has and this version does not."""


def read_defence(name: str, table: Mapping[str, Any]) -> tuple[DefenceEntry, Any]:
    """The entry of a defence and its checked settings.

    Raises:
        RecipeError: the name is announced but not there yet, or the table holds something not allowed.
        UnknownName: no such defence.

    """
    if name not in DEFENCES:
        if name in ANNOUNCED:
            raise RecipeError(f"defence {name!r} is not there yet; known: {', '.join(sorted(DEFENCES))}")
        raise UnknownName("defence", name, DEFENCES)
    entry = DEFENCES[name]
    return entry, read_options(entry.settings, table, "defence")
