"""Model cards: what each artefact of this home is, how good it is and what breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.application.ports import ModelShelf


@dataclass(frozen=True)
class Models:
    """Public descriptions of the model artefacts."""

    shelf: ModelShelf

    def cards(self) -> list[dict[str, Any]]:
        """All cards, in the order of names and versions."""
        return [self.shelf.card(ref.name, ref.version) for ref in self.shelf.refs()]

    def card(self, name: str, version: str) -> dict[str, Any]:
        """One card. Raises `NotFound`."""
        return self.shelf.card(name, version)
