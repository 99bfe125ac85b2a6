"""Jobs and idempotency keys, in SQL."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from service.application.errors import Conflict
from service.application.ports import Clock
from service.application.types import FINAL_PHASES, Job, JobKind, JobPhase
from service.catalog.database import Database
from service.catalog.generations import move_alias
from service.catalog.tables import IdempotencyRow, JobRow

_FINAL = sorted(FINAL_PHASES)
_HIDDEN = {"cancel", "heartbeat"}
_TABLE = JobRow.__table__
_COLUMNS = [column for column in _TABLE.columns if column.name not in _HIDDEN]


class SqlJobs:
    """`JobRepository` on a database; `clock` gives the time (UTC)."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(
        self, kind: JobKind, model: str, activate: bool, key: str | None, keep_key: timedelta
    ) -> tuple[Job, bool]:
        """A new job and True, or the job that the idempotency key made before and False.

        Raises `Conflict` when one of the kind is active, or when the key was used for something else.
        """
        request = json.dumps([kind, model, activate])
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
        """Fail the active jobs whose worker has not been heard of for so long; their ids."""
        now = self._clock()
        silent = JobRow.phase.not_in(_FINAL) & (JobRow.heartbeat < now - silent_for)
        with self._database.read() as connection:
            if connection.execute(select(JobRow.id).where(silent).limit(1)).first() is None:
                return []
        with self._database.write() as connection:
            ids = list(connection.execute(select(JobRow.id).where(silent)).scalars())
            connection.execute(
                update(JobRow)
                .where(JobRow.id.in_(ids))
                .values(phase=JobPhase.FAILED, error=reason, finished=now)
            )
        return ids

    def _advance(self, connection: Connection, job_id: str, changes: dict[str, Any]) -> bool:
        now = self._clock()
        values = {**changes, "heartbeat": now}
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
    active = select(JobRow.id).where(JobRow.kind == kind, JobRow.phase.not_in(_FINAL)).limit(1)
    running = connection.execute(active).scalar_one_or_none()
    if running is not None:
        raise Conflict(f"a {kind} job is running already: {running}", code="job_running")


def _find(connection: Connection, job_id: str) -> Job | None:
    row = connection.execute(select(*_COLUMNS).where(_TABLE.c.id == job_id)).one_or_none()
    return None if row is None else _job(row)


def _get(connection: Connection, job_id: str) -> Job:
    return _job(connection.execute(select(*_COLUMNS).where(_TABLE.c.id == job_id)).one())


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    return Job(**values | {"kind": JobKind(row.kind), "phase": JobPhase(row.phase)})
