"""Alembic's entry: migrates over the connection that `service/catalog/schema.py` hands it."""

from __future__ import annotations

from alembic import context

from service.catalog.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
