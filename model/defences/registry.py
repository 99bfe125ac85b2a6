"""Names of defences. A new one is a file beside this and one entry here; the tests run over the registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.defences.base import Defence, DefenceContext
from model.defences.drfgd.defence import Drfgd
from model.defences.drfgd.settings import DrfgdSettings
from model.defences.none import NoneSettings, Undefended
from model.defences.saat import Saat, SaatSettings
from model.errors import UnknownName
from model.hashers.options import read_options


@dataclass(frozen=True)
class DefenceEntry:
    """How to read a defence's ``[defence]`` table and how to build it."""

    settings: type[Any]
    build: Callable[[Any, DefenceContext], Defence]


DEFENCES: dict[str, DefenceEntry] = {
    Undefended.name: DefenceEntry(NoneSettings, Undefended),
    Saat.name: DefenceEntry(SaatSettings, Saat),
    Drfgd.name: DefenceEntry(DrfgdSettings, Drfgd),
}


def read_defence(name: str, table: Mapping[str, Any]) -> tuple[DefenceEntry, Any]:
    """The entry of a defence and its checked settings.

    Raises:
        RecipeError: the table holds something not allowed.
        UnknownName: no such defence.

    """
    if name not in DEFENCES:
        raise UnknownName("defence", name, DEFENCES)
    entry = DEFENCES[name]
    return entry, read_options(entry.settings, table, "defence")
