"""Alembic migrations of the catalog; `service/catalog/schema.py` runs them at start."""
