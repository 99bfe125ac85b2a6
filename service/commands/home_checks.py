"""The doctor's checks of what lies in a home folder; each gives a line and what it found, or raises.

A home that is not there yet is sound: it is made at the first start. No check makes a catalog, since a new
one knows nothing of what lies there. What ends a check early is a finding beside those that came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from model.artefact import list_models
from model.errors import ArtefactError
from service.application.errors import ServiceError
from service.application.findings import DOUBTS, Fault, Finding, mended
from service.application.ports import Encoder
from service.application.serving import unscored_sides
from service.catalog.catalog import catalog_exists
from service.commands.console import progress_bar
from service.commands.home import doubts, no_catalog, opened, remains
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

_NONE_YET = "none yet"
_UNSEEN = "not looked at: there is no catalog"
_NO_CATALOG = (
    "restore it from a back-up, or set HASHGUARD_CATALOG_URL to the one that the service uses; "
    "a home that was never served gets one when the service starts"
)
_DOUBTFUL = "first the catalog: while it is in doubt, nothing is mended by what it says"


def catalog(settings: Settings, extent: Extent) -> Found:
    """The catalog opens, has the schema of this version, and is sound; no job lacks its worker."""
    if _is_empty(settings):
        return _NONE_YET, []
    if not catalog_exists(settings.database_url()):
        return "", [Finding(Fault.CATALOG_MISSING, "catalog", no_catalog(settings), _NO_CATALOG)]
    with opened(settings, existing=True) as parts:
        quick = extent.quick and not extent.repair
        found = _gathered("catalog", build_catalog_inspection(parts).find(quick))
        if not any(finding.fault in DOUBTS for finding in found):
            found += _gathered("catalog", doubts(parts, extent.grace))
        findings = _mended(found, extent)
        if any(finding.open for finding in findings):
            return "", findings
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
    if without := _without_catalog(settings):
        return without, []
    with opened(settings, existing=True) as parts:
        inspection = build_generation_inspection(parts, extent.grace)
        findings = _mended(_gathered("generations", inspection.find()), extent)
        kept = [] if any(finding.open for finding in findings) else parts.catalog.generations.all()
    return f"{len(kept)} sound" if kept else _NONE_YET, findings


def blobs(settings: Settings, extent: Extent) -> Found:
    """Every image can be read and decoded, every blob is somebody's; with `quick`: the first can be read."""
    if without := _without_catalog(settings):
        return without, []
    seen = 0

    def watch(done: int) -> None:
        nonlocal seen
        seen = done
        bar.at(done)

    with opened(settings, existing=True) as parts, progress_bar("reading images", None) as bar:
        inspection = build_blob_inspection(parts, extent.grace)
        found = inspection.glance(watch) if extent.quick else inspection.find(_decoder(parts), watch)
        findings = _mended(_gathered("blobs", found), extent)
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
    if not catalog_exists(settings.database_url()):
        return "on; no live generation yet", []
    with opened(settings, existing=True) as parts:
        live = parts.catalog.generations.live()
        if live is None:
            return "on; no live generation yet", []
        encoder = parts.shelf.load(live.model_name, live.model_version)
    label = f"{live.model_name}/{live.model_version}"
    missing = " and ".join(f"{side}s" for side in unscored_sides(encoder))
    if missing:
        raise ArtefactError(f"wanted an attack score for {missing}, {label} has none: queries go without")
    return f"on, from {label}", []


def _is_empty(settings: Settings) -> bool:
    """Whether there is no home yet, or one with nothing in it that a catalog would know."""
    there = settings.home.is_dir()
    return not there or not (catalog_exists(settings.database_url()) or remains(settings))


def _without_catalog(settings: Settings) -> str:
    """What a check says that has no catalog to go by; an empty text when there is one."""
    if _is_empty(settings):
        return _NONE_YET
    return "" if catalog_exists(settings.database_url()) else _UNSEEN


def _gathered(check: str, findings: Iterable[Finding]) -> list[Finding]:
    """All that is found, and whatever error ended that as the last finding."""
    gathered: list[Finding] = []
    try:
        for finding in findings:
            gathered.append(finding)  # noqa: PERF402 - those before an error are kept
    except Exception as error:  # noqa: BLE001 - the doctor reports whatever it meets
        reason = f"{type(error).__name__}: {error}"
        gathered.append(Finding(Fault.CHECK_ENDED, check, f"it could not go on: {reason}", "mend that first"))
    return gathered


def _mended(findings: list[Finding], extent: Extent) -> list[Finding]:
    """The findings, mended if they are to be and the catalog can be believed."""
    if extent.doubtful:
        return [replace(one, mend=None, next_step=_DOUBTFUL) if one.mend else one for one in findings]
    return [_tried(one) for one in findings] if extent.repair else findings


def _tried(finding: Finding) -> Finding:
    """A finding after its repair; whatever that raises is told, and does not end the others."""
    try:
        return mended([finding])[0]
    except Exception as error:  # noqa: BLE001 - the doctor reports whatever it meets
        reason = f"{type(error).__name__}: {error}"
        return replace(finding, next_step=f"the repair failed: {reason}; {finding.next_step}")


CHECKS: Mapping[str, Callable[[Settings, Extent], Found]] = {
    "catalog": catalog,
    "models": models,
    "attack score": attack_score,
    "generations": generations,
    "blobs": blobs,
}
