"""The doctor's checks of what lies in a home folder; each gives a line and what it found, or raises.

A home that is not there yet is sound: it is made at the first start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from model.artefact import list_models
from model.errors import ArtefactError
from service.application.errors import ServiceError
from service.application.findings import Finding, mended
from service.application.ports import Encoder
from service.application.serving import unscored_sides
from service.commands.console import progress_bar
from service.commands.home import opened
from service.commands.inspecting import Extent
from service.inspection_wiring import (
    StoredModels,
    build_blob_inspection,
    build_catalog_inspection,
    build_generation_inspection,
)
from service.settings import Settings
from service.wiring import Parts

Found = tuple[str, list[Finding]]


def catalog(settings: Settings, extent: Extent) -> Found:
    """The catalog opens, has the schema of this version, and is sound; no job lacks its worker."""
    if not settings.home.is_dir():
        return "none yet", []
    with opened(settings) as parts:
        findings = _mended(list(build_catalog_inspection(parts).find()), extent)
        count = parts.catalog.items.count()
        live = parts.catalog.generations.live()
    return f"{count} items, live generation {live.id if live else 'none'}", findings


def models(settings: Settings, _extent: Extent) -> Found:
    """Every artefact matches its digests."""
    troubles = StoredModels(settings.models_folder).troubles()
    if troubles:
        raise ArtefactError("; ".join(troubles.values()))
    labels = [f"{card.name}/{card.version}" for card in list_models(settings.models_folder)]
    return ", ".join(labels) or "none yet", []


def generations(settings: Settings, extent: Extent) -> Found:
    """Every generation loads, digests checked, and holds what the catalog says; nothing is left behind."""
    if not settings.home.is_dir():
        return "none yet", []
    with opened(settings) as parts:
        findings = _mended(list(build_generation_inspection(parts, extent.grace).find()), extent)
        kept = parts.catalog.generations.all()
    return f"{len(kept)} sound" if kept else "none yet", findings


def blobs(settings: Settings, extent: Extent) -> Found:
    """Every image can be read and decoded, every blob is somebody's; with `quick`: the first can be read."""
    if not settings.home.is_dir():
        return "none yet", []
    seen = 0

    def watch(done: int) -> None:
        nonlocal seen
        seen = done
        bar.at(done)

    with opened(settings) as parts, progress_bar("reading images", None) as bar:
        inspection = build_blob_inspection(parts, extent.grace)
        if extent.quick:
            found = list(inspection.glance(watch))
        else:
            found = list(inspection.find(_decoder(parts), watch))
        findings = _mended(found, extent)
    return f"{seen} images read", findings


def _decoder(parts: Parts) -> Encoder | None:
    """The live model, which says what can be decoded; without it nothing is."""
    live = parts.catalog.generations.live()
    try:
        return None if live is None else parts.shelf.load(live.model_name, live.model_version)
    except ServiceError:
        return None  # another check says what is wrong with it


def attack_score(settings: Settings, _extent: Extent) -> Found:
    """The live model gives the attack scores that are asked for, on every side that it reads."""
    if settings.attack_score == "off":
        return "off", []
    if not settings.home.is_dir():
        return "on; no model yet", []
    with opened(settings) as parts:
        live = parts.catalog.generations.live()
        if live is None:
            return "on; no live generation yet", []
        encoder = parts.shelf.load(live.model_name, live.model_version)
    label = f"{live.model_name}/{live.model_version}"
    missing = " and ".join(f"{side}s" for side in unscored_sides(encoder))
    if missing:
        raise ArtefactError(f"wanted an attack score for {missing}, {label} has none: queries go without")
    return f"on, from {label}", []


def _mended(findings: list[Finding], extent: Extent) -> list[Finding]:
    return mended(findings) if extent.repair else findings


CHECKS: Mapping[str, Callable[[Settings, Extent], Found]] = {
    "catalog": catalog,
    "models": models,
    "attack score": attack_score,
    "generations": generations,
    "blobs": blobs,
}
