"""What `hashguard doctor` and `hashguard index verify` share: options, findings as rows, the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import typer

from service.application.findings import Finding
from service.commands.console import say, show_table

RepairOption = Annotated[
    bool, typer.Option("--repair", help="Put right what can be; nothing that exists only once is removed.")
]
GraceOption = Annotated[
    float,
    typer.Option(
        "--grace",
        min=0,
        help="Hours that an orphaned image or a generation nobody knows must be old to be one.",
    ),
]
GRACE_H = 24.0


@dataclass(frozen=True)
class Extent:
    """How far an inspection goes: `quick` looks at few images, `repair` mends what it finds.

    `grace` is how old must be what counts as left behind. `doubtful` says that the catalog is not to be
    believed, and that nothing is mended by what it says.
    """

    grace: timedelta
    quick: bool = False
    repair: bool = False
    doubtful: bool = False


def documents(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings for machines; `repaired` is null for what is open."""
    return [
        {
            "fault": finding.fault.value,
            "subject": finding.subject,
            "detail": finding.detail,
            "problem": finding.open,
            "repaired": finding.repaired,
            "next_step": None if finding.repaired else finding.next_step,
        }
        for finding in findings
    ]


def show_findings(findings: Sequence[Finding]) -> None:
    """The findings for people; nothing when there are none."""
    rows = [
        (
            _state(finding),
            finding.fault.value,
            finding.subject,
            finding.detail,
            finding.repaired or finding.next_step,
        )
        for finding in findings
    ]
    if rows:
        show_table("what was found", ("", "fault", "of", "found", "done, or to do"), rows)
        still = sum(finding.open for finding in findings)
        say(f"{len(findings)} found, {still} still open")


def _state(finding: Finding) -> str:
    if finding.repaired is not None:
        return "repaired"
    return "PROBLEM" if finding.open else "note"
