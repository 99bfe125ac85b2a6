"""`hashguard reindex`: asks a running service to rebuild its index, and shows how far it is."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from service.commands.console import JsonOption, fail, note, progress_bar, say, show_json
from service.commands.options import KeyFileOption, KeyOption, key_headers

POLL_S = 0.5
"""Seconds between two looks at the job."""

MANIFEST = "manifest.json"
FINAL = frozenset({"done", "failed", "cancelled"})


def reindex(
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    model: Annotated[
        str, typer.Option(help="latest, NAME/VERSION, or the folder that `train` has printed.")
    ] = "latest",
    activate: Annotated[bool, typer.Option(help="Serve the new index when it is done.")] = True,
    quality_floor: Annotated[
        float | None,
        typer.Option(help="Refuse a model whose mAP is lower than the live one's by more, 0 to 1."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end; the status is 1 when it failed.")] = True,
    key: KeyOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the index of a running service, with the same or another model."""
    with httpx.Client(base_url=url, timeout=30.0, headers=key_headers(key, key_file)) as client:
        body = {"model": _label(model), "activate": activate, "quality_floor": quality_floor}
        once = {"Idempotency-Key": uuid.uuid4().hex}
        job = _call(client, "POST", "/v1/admin/reindex", json=body, headers=once)
        if wait:
            job = _follow(client, job, as_json)
    for one in (job.get("validation") or {}).get("left_out", ()):
        note(f"{one['count']} items are not in it ({one['reason']}): {', '.join(one['ids'])}")
    if as_json:
        show_json(job)
    elif wait and job["phase"] == "done":
        say(f"generation {job['generation']} is built{' and live' if activate else ''}")
    elif not wait:
        say(f"job {job['id']} is {job['phase']}")
    if wait and job["phase"] != "done":
        fail(f"the job {job['phase']}: {job['error'] or 'no reason given'}")


def _label(model: str) -> str:
    """`NAME/VERSION` of a model's folder; what is no folder of one is given back as it is."""
    folder = Path(model)
    return f"{folder.parent.name}/{folder.name}" if (folder / MANIFEST).is_file() else model


def _follow(client: httpx.Client, job: dict[str, Any], quiet: bool) -> dict[str, Any]:
    try:
        with progress_bar(job["phase"], job["total"] or None, quiet) as bar:
            while job["phase"] not in FINAL:
                time.sleep(POLL_S)
                job = _call(client, "GET", f"/v1/admin/jobs/{job['id']}")
                bar.at(job["done"], job["total"] or None, job["phase"])
    except KeyboardInterrupt:
        note(f"no longer watching; job {job['id']} goes on (DELETE /v1/admin/jobs/{job['id']} cancels it)")
        raise
    return job


def _call(client: httpx.Client, method: str, path: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401
    """The JSON answer of a call; ends the command with one line when there is none."""
    try:
        response = client.request(method, path, **request)
    except httpx.HTTPError as error:
        fail(f"no answer from {client.base_url}: {error}")
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        fail(f"{client.base_url} answered {response.status_code} with something that is no JSON object")
    if response.is_error:
        hint = " Give it with --key-file or HASHGUARD_API_KEY." if response.status_code == 401 else ""
        fail(
            f"the service answered {response.status_code}: {document.get('detail', 'no reason given')}{hint}"
        )
    return document
