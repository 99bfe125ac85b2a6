"""The part of the composition root that needs the catalog only: it loads neither torch nor Faiss.

`service/wiring.py` builds on it; commands that touch nothing else (`hashguard keys`) start quickly.
"""

from __future__ import annotations

from datetime import UTC, datetime

from service.application.keyring import Keyring
from service.application.keys import Keys
from service.catalog.catalog import SqlCatalog, open_catalog
from service.settings import Settings


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


def build_catalog(settings: Settings) -> SqlCatalog:
    """Open the catalog and bring its schema up to date. Raises what `open_catalog` does."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return open_catalog(settings.database_url(), utc_now)


def build_keys(catalog: SqlCatalog) -> Keys:
    """Makes, lists and revokes API keys."""
    return Keys(catalog.keys, utc_now)


def build_keyring(catalog: SqlCatalog) -> Keyring:
    """Checks API keys."""
    return Keyring(catalog.keys, utc_now)
