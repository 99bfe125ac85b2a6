"""The doctor's checks of what lies in a home folder; each gives a line, or raises what is wrong.

A home that is not there yet is sound: it is made at the first start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from model.artefact import scan_models, verify
from model.errors import ArtefactError
from service.application.serving import unscored_sides
from service.commands.home import opened
from service.settings import Settings


def catalog(settings: Settings) -> str:
    """The catalog opens and has the schema of this version."""
    if not settings.home.is_dir():
        return "none yet"
    with opened(settings) as parts:
        count = parts.catalog.items.count()
        live = parts.catalog.generations.live()
    return f"{count} items, live generation {live.id if live else 'none'}"


def models(settings: Settings) -> str:
    """Every artefact matches its digests."""
    cards, errors = scan_models(settings.models_folder)
    if errors:
        raise errors[0]
    for card in cards:
        verify(card.folder)
    return ", ".join(f"{card.name}/{card.version}" for card in cards) or "none yet"


def generations(settings: Settings) -> str:
    """Every generation loads, digests checked."""
    if not settings.home.is_dir():
        return "none yet"
    with opened(settings) as parts:
        kept = parts.catalog.generations.all()
        for generation in kept:
            parts.store.load(generation)
    return f"{len(kept)} sound" if kept else "none yet"


def blobs(settings: Settings) -> str:
    """The image of a first few items can be read, digest checked."""
    if not settings.home.is_dir():
        return "none yet"
    with opened(settings) as parts:
        found = {item.image_digest for item in parts.catalog.items.page(None, 100)}
        digests = [digest for digest in found if digest is not None]
        for digest in digests:
            parts.blobs.read(digest)
    return f"{len(digests)} images read"


def attack_score(settings: Settings) -> str:
    """The live model gives the attack scores that are asked for, on every side that it reads."""
    if settings.attack_score == "off":
        return "off"
    if not settings.home.is_dir():
        return "on; no model yet"
    with opened(settings) as parts:
        live = parts.catalog.generations.live()
        if live is None:
            return "on; no live generation yet"
        encoder = parts.shelf.load(live.model_name, live.model_version)
    label = f"{live.model_name}/{live.model_version}"
    missing = " and ".join(f"{side}s" for side in unscored_sides(encoder))
    if missing:
        raise ArtefactError(f"wanted an attack score for {missing}, {label} has none: queries go without")
    return f"on, from {label}"


CHECKS: Mapping[str, Callable[[Settings], str]] = {
    "catalog": catalog,
    "models": models,
    "attack score": attack_score,
    "generations": generations,
    "blobs": blobs,
}
