"""Jobs and idempotency keys, in SQL."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, update

from service.application.errors import Conflict
from service.application.ports import Clock
from service.application.types import (
    FINAL_PHASES,
    Job,
    JobKind,
    JobPhase,
    LeftOut,
    Quality,
    TaskQuality,
    Validation,
)
from service.catalog.database import Database
from service.catalog.generations import move_alias
from service.catalog.tables import IdempotencyRow, JobRow

_FINAL = sorted(FINAL_PHASES)
_ALONE = {JobKind.REINDEX, JobKind.CATCH_UP}  # one of these at a time: each removes what it finds unneeded
_HIDDEN = {"cancel", "heartbeat"}
_TABLE = JobRow.__table__
_COLUMNS = [column for column in _TABLE.columns if column.name not in _HIDDEN]


class SqlJobs:
    """`JobRepository` on a database; `clock` gives the time (UTC)."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        kind: JobKind,
        model: str,
        activate: bool,
        key: str | None,
        keep_key: timedelta,
        generation_id: str | None = None,
        quality_floor: float | None = None,
    ) -> tuple[Job, bool]:
        """A new job and True, or the job that the idempotency key made before and False.

        Raises `Conflict` when one is active beside which it cannot run, or when the key was used for
        something else.
        """
        request = json.dumps([kind, model, activate, generation_id, quality_floor])
        now = self._clock()
        with self._database.write() as connection:
            connection.execute(delete(IdempotencyRow).where(IdempotencyRow.expires <= now))
            if key is not None and (earlier := _by_key(connection, key, request)) is not None:
                return earlier, False
            _refuse_second(connection, kind)
            job_id = uuid.uuid4().hex
            connection.execute(
                insert(JobRow).values(
                    id=job_id, kind=kind, phase=JobPhase.QUEUED, done=0, total=0, model=model,
                    activate=activate, cancel=False, created=now, heartbeat=now,
                    generation_id=generation_id, quality_floor=quality_floor,
                )
            )  # fmt: skip
            if key is not None:
                connection.execute(
                    insert(IdempotencyRow).values(
                        key=key, request=request, job_id=job_id, expires=now + keep_key
                    )
                )
            return _get(connection, job_id), True

    def get(self, job_id: str) -> Job | None:
        """One job, or None."""
        with self._database.read() as connection:
            return _find(connection, job_id)

    def recent(self, limit: int) -> list[Job]:
        """Jobs, newest first."""
        query = select(*_COLUMNS).order_by(_TABLE.c.created.desc(), _TABLE.c.id).limit(limit)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def active(self) -> list[str]:
        """Ids of the jobs that are not final."""
        with self._database.read() as connection:
            return list(connection.execute(select(JobRow.id).where(JobRow.phase.not_in(_FINAL))).scalars())

    def advance(self, job_id: str, **changes: object) -> bool:
        """Change an active job and beat its heart; False (nothing changed) when it is final already.

        The times that go with a phase (`started`, `finished`) are set here.
        """
        with self._database.write() as connection:
            return self._advance(connection, job_id, changes)

    def swap(self, job_id: str, generation_id: str) -> bool:
        """Move the alias on behalf of an active job, in one transaction; False when the job is final."""
        with self._database.write() as connection:
            if not self._advance(connection, job_id, {"phase": JobPhase.SWAPPING}):
                return False
            move_alias(connection, generation_id)
        return True

    def end(self, job_id: str, phase: JobPhase, error: str | None = None) -> JobPhase | None:
        """End an active job: `done` when the alias was moved on its behalf, else as said; None when final.

        Only `swap` puts a job into `swapping`, in the transaction that moves the alias: whatever becomes of
        the worker after that, what the job was for has happened.
        """
        with self._database.write() as connection:
            ended = self._end(connection, JobRow.id == job_id, phase, error)
        return ended.get(job_id)

    def beat(self, job_id: str) -> bool:
        """Record that the worker is alive; True when the job was asked to stop or is final."""
        with self._database.write() as connection:
            alive = self._advance(connection, job_id, {})
            asked = connection.execute(select(JobRow.cancel).where(JobRow.id == job_id)).scalar_one_or_none()
        return not alive or bool(asked)

    def request_cancel(self, job_id: str) -> Job | None:
        """Ask an active job to stop; the job as it is now, or None when unknown."""
        with self._database.write() as connection:
            active = (JobRow.id == job_id) & JobRow.phase.not_in(_FINAL)
            connection.execute(update(JobRow).where(active).values(cancel=True))
            return _find(connection, job_id)

    def fail_silent(self, silent_for: timedelta, reason: str) -> list[str]:
        """End, as `end` does, the active jobs whose worker was silent for so long; those that failed."""
        silent = JobRow.heartbeat < self._clock() - silent_for
        active = JobRow.phase.not_in(_FINAL) & silent
        with self._database.read() as connection:
            if connection.execute(select(JobRow.id).where(active).limit(1)).first() is None:
                return []
        with self._database.write() as connection:
            ended = self._end(connection, silent, JobPhase.FAILED, reason)
        return [job_id for job_id, phase in ended.items() if phase is JobPhase.FAILED]

    def _end(
        self, connection: Connection, which: ColumnElement[bool], phase: JobPhase, error: str | None
    ) -> dict[str, JobPhase]:
        """End the active jobs among `which`; the phase that each came to."""
        query = select(JobRow.id, JobRow.phase).where(which, JobRow.phase.not_in(_FINAL))
        ended = {
            row.id: JobPhase.DONE if row.phase == JobPhase.SWAPPING else phase
            for row in connection.execute(query)
        }
        for job_id, came_to in ended.items():
            reason = error if came_to is phase else None
            self._advance(connection, job_id, {"phase": came_to, "error": reason, "eta_s": None})
        return ended

    def _advance(self, connection: Connection, job_id: str, changes: dict[str, Any]) -> bool:
        now = self._clock()
        values = {**changes, "heartbeat": now}
        if isinstance(validation := values.get("validation"), Validation):
            values["validation"] = asdict(validation)
        phase = changes.get("phase")
        if phase == JobPhase.ENCODING:
            values["started"] = now
        if phase in FINAL_PHASES:
            values["finished"] = now
        active = (JobRow.id == job_id) & JobRow.phase.not_in(_FINAL)
        return connection.execute(update(JobRow).where(active).values(**values)).rowcount == 1


def _by_key(connection: Connection, key: str, request: str) -> Job | None:
    row = connection.execute(
        select(IdempotencyRow.request, IdempotencyRow.job_id).where(IdempotencyRow.key == key)
    ).one_or_none()
    if row is None:
        return None
    if row.request != request:
        raise Conflict("this Idempotency-Key was used for another request", code="idempotency_key_reused")
    return _get(connection, row.job_id)


def _refuse_second(connection: Connection, kind: JobKind) -> None:
    kinds = _ALONE if kind in _ALONE else {kind}
    active = select(JobRow.id, JobRow.kind).where(JobRow.kind.in_(kinds), JobRow.phase.not_in(_FINAL))
    running = connection.execute(active.limit(1)).one_or_none()
    if running is not None:
        raise Conflict(f"a {running.kind} job is running already: {running.id}", code="job_running")


def _find(connection: Connection, job_id: str) -> Job | None:
    row = connection.execute(select(*_COLUMNS).where(_TABLE.c.id == job_id)).one_or_none()
    return None if row is None else _job(row)


def _get(connection: Connection, job_id: str) -> Job:
    return _job(connection.execute(select(*_COLUMNS).where(_TABLE.c.id == job_id)).one())


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    known = {"kind": JobKind(row.kind), "phase": JobPhase(row.phase)}
    return Job(**values | known | {"validation": _validation(row.validation)})


def _validation(document: dict[str, Any] | None) -> Validation | None:
    if document is None:
        return None
    quality = document["quality"]
    if quality is not None:
        tasks = tuple(TaskQuality(**task) for task in quality["tasks"])
        quality = Quality(**{**quality, "tasks": tasks})
    left_out = tuple(LeftOut(**{**one, "ids": tuple(one["ids"])}) for one in document.get("left_out", ()))
    return Validation(**{**document, "quality": quality, "left_out": left_out})
