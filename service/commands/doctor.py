"""`hashguard doctor`: checks this installation and a home folder, one line for each check.

Libraries are imported by name inside their check: a doctor that cannot start because a library is broken
would be no help. What needs them all (`service/commands/home_checks.py`) is loaded only when they are sound.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from service.application.findings import DOUBTS, Finding
from service.commands.console import FAILED, JsonOption, show_json, show_table
from service.commands.inspecting import (
    GRACE_H,
    Extent,
    GraceOption,
    RepairOption,
    documents,
    show_findings,
)
from service.commands.options import HomeOption, settings_with
from service.settings import Settings

LEAST_FREE_BYTES = 1024**3
"""Disk space below which an index build may fail."""


Found = tuple[str, list[Finding]]
"""What a check says when it finds nothing, and what it finds."""


@dataclass(frozen=True)
class Check:
    """What one check found; `ok` when nothing of it is open (any more)."""

    name: str
    ok: bool
    detail: str
    findings: tuple[Finding, ...] = ()


def doctor(
    home: HomeOption = None,
    repair: RepairOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="Read the first 100 images only.")] = False,
    grace: GraceOption = GRACE_H,
    as_json: JsonOption = False,
) -> None:
    """Check Python, libraries, disk, catalog, models, index generations and images.

    Status 0 when nothing is wrong (any more), 1 when something is.
    """
    settings = settings_with(home=home)
    checks = list(examine(settings, Extent(timedelta(hours=grace), quick, repair)))
    findings = [finding for check in checks for finding in check.findings]
    ok = all(check.ok for check in checks)
    if as_json:
        lines = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
        show_json({"ok": ok, "checks": lines, "findings": documents(findings)})
    else:
        rows = [("ok" if check.ok else "PROBLEM", check.name, check.detail) for check in checks]
        show_table(f"home {settings.home}", ("", "check", "found"), rows)
        show_findings(findings)
    if not ok:
        raise typer.Exit(FAILED)


def examine(settings: Settings, extent: Extent) -> Iterator[Check]:
    """All checks, in the order in which one is of use to the next; they mend if they are to.

    Once the catalog is in doubt, nothing is mended by what it says.
    """
    libraries = [_attempt("python", _python), _attempt("torch", _torch), _attempt("faiss", _faiss)]
    yield from libraries
    yield _attempt("home", lambda: _writable(settings.home))
    yield _attempt("disk", lambda: _space(settings.home))
    if not all(check.ok for check in libraries):
        return
    checks: dict[str, Callable[[Settings, Extent], Found]]
    checks = import_module("service.commands.home_checks").CHECKS
    for name, check in checks.items():
        done = _inspect(name, partial(check, settings, extent))
        yield done
        if name == "catalog" and _is_doubtful(done):
            extent = replace(extent, doubtful=True)


def _is_doubtful(catalog: Check) -> bool:
    """Whether the check of the catalog could not be made, or found it to be damaged, none or another one."""
    failed = not catalog.ok and not catalog.findings
    return failed or any(finding.open and finding.fault in DOUBTS for finding in catalog.findings)


def _attempt(name: str, check: Callable[[], str]) -> Check:
    """Run a check that gives a line, or raises what is wrong."""
    return _inspect(name, lambda: (check(), []))


def _inspect(name: str, check: Callable[[], Found]) -> Check:
    """Run a check; whatever it raises is a problem that is told, not one that ends the others."""
    try:
        detail, findings = check()
    except Exception as error:  # noqa: BLE001 - the doctor reports whatever it meets
        return Check(name, False, f"{type(error).__name__}: {error}")
    still = [finding for finding in findings if finding.open]
    detail = f"{len(still)} found, see below; the first is {still[0].line()}" if still else detail
    return Check(name, not still, detail, tuple(findings))


def _python() -> str:
    return f"{platform.python_version()} on {platform.machine()}, {sys.executable}"


def _torch() -> str:
    torch = import_module("torch")
    total = float(torch.ones(3).sum())
    if total != 3.0:
        raise RuntimeError(f"1 + 1 + 1 is 3, torch says {total}")
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"{torch.__version__}, {devices} GPUs"


def _faiss() -> str:
    faiss = import_module("faiss")
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return f"{faiss.__version__}, {gpus} GPUs"


def _writable(home: Path) -> str:
    place = _existing(home)
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{place} is not writable")
    return "writable" if place == home else f"not there yet; {place} is writable"


def _space(home: Path) -> str:
    free = shutil.disk_usage(_existing(home)).free
    if free < LEAST_FREE_BYTES:
        raise OSError(f"{free / 1024**2:.0f} MiB free, wanted {LEAST_FREE_BYTES / 1024**2:.0f} MiB or more")
    return f"{free / 1024**3:.1f} GiB free"


def _existing(home: Path) -> Path:
    """The home folder, or the nearest folder above it that exists."""
    absolute = home.absolute()
    found = next(folder for folder in (absolute, *absolute.parents) if folder.exists())
    return home if found == absolute else found
