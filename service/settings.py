"""Settings of the service: one frozen, typed object, and the only reader of the environment.

Every field is `HASHGUARD_<NAME>` in the environment; command-line options are passed as keyword arguments
and win. Units are in the names (`_s` seconds, `_ms` milliseconds, `_bytes`, `_chars`). A secret never has
to stand in the environment: `HASHGUARD_CATALOG_URL_FILE` names a file that holds the URL. `CallerSettings`
are those of commands that call a running service.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_PREFIX = "HASHGUARD_"
_MIB = 1024 * 1024

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """What an operator can choose; raises `pydantic.ValidationError` when a value does not fit."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    # Where things lie.
    home: Path = Path("hashguard-home")
    catalog_url: SecretStr | None = None
    catalog_url_file: Path | None = None
    blobs_url: str | None = None

    # The server.
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    drain_s: Seconds = 20.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = True
    authentication: Literal["auto", "required", "off"] = "auto"
    allow_unauthenticated: bool = False
    allowed_hosts: str = ""
    allowed_origins: str = ""
    request_threads: Annotated[int, Field(ge=1, le=1024)] = 16
    max_requests_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 64
    request_timeout_s: Seconds = 30.0
    body_timeout_s: Seconds = 30.0

    # The model and the index.
    device: str = "auto"
    index_backend: str = "auto"
    index_url: SecretStr | None = None
    index_url_file: Path | None = None
    model_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    model_batch_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    model_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 256
    model_deadline_s: Seconds = 20.0
    image_decodes_at_once: Annotated[int, Field(ge=1, le=256)] = 4
    attack_score: Literal["off", "on"] = "off"

    # What a client may send.
    max_body_bytes: Annotated[int, Field(ge=1024)] = 25 * _MIB
    max_json_bytes: Annotated[int, Field(ge=1024)] = _MIB
    max_batch_bytes: Annotated[int, Field(ge=1024)] = 64 * _MIB
    max_image_bytes: Annotated[int, Field(ge=1024)] = 20 * _MIB
    max_text_chars: Annotated[int, Field(ge=1)] = 10_000
    max_metadata_keys: Annotated[int, Field(ge=0, le=1000)] = 64
    max_metadata_key_chars: Annotated[int, Field(ge=1, le=200)] = 100
    max_metadata_value_chars: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_metadata_list: Annotated[int, Field(ge=0, le=10_000)] = 64
    max_filter_conditions: Annotated[int, Field(ge=1, le=200)] = 32
    max_filter_values: Annotated[int, Field(ge=1, le=1000)] = 256
    max_batch_items: Annotated[int, Field(ge=1, le=100_000)] = 256
    max_batch_queries: Annotated[int, Field(ge=1, le=10_000)] = 100

    # Life cycle.
    follower_poll_s: Seconds = 0.5
    canary_interval_s: Seconds = 10.0
    canary_max_age_s: Seconds = 30.0
    keep_generations: Annotated[int, Field(ge=1, le=100)] = 3
    quality_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    reindex_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    reindex_skips_broken_items: bool = False
    worker_heartbeat_s: Seconds = 2.0
    worker_timeout_s: Seconds = 30.0
    idempotency_hours: Annotated[float, Field(gt=0, le=720)] = 24.0

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.catalog_url is not None and self.catalog_url_file is not None:
            raise ValueError("give catalog_url or catalog_url_file, not both")
        if self.index_url is not None and self.index_url_file is not None:
            raise ValueError("give index_url or index_url_file, not both")
        if self.authentication == "required" and self.allow_unauthenticated:
            raise ValueError("authentication is required and allow_unauthenticated says that it is not")
        if self.worker_timeout_s < 2 * self.worker_heartbeat_s:
            raise ValueError("worker_timeout_s must be at least twice worker_heartbeat_s")
        return self

    @property
    def models_folder(self) -> Path:
        """Folder of the model artefacts, `models/<name>/<version>/`."""
        return self.home / "models"

    @property
    def generations_folder(self) -> Path:
        """Folder of the index generations."""
        return self.home / "generations"

    @property
    def cache_folder(self) -> Path:
        """Folder of what can be made again at any time (thumbnails)."""
        return self.home / "cache"

    @property
    def logs_folder(self) -> Path:
        """Folder of the log files, one for each reindex worker."""
        return self.home / "logs"

    @property
    def asks_nobody(self) -> bool:
        """Whether callers are never asked for a key, wherever the service listens."""
        return self.authentication == "off" or self.allow_unauthenticated

    def host_names(self) -> tuple[str, ...]:
        """The names in `allowed_hosts`."""
        return _words(self.allowed_hosts)

    def origins(self) -> tuple[str, ...]:
        """The origins in `allowed_origins`."""
        return _words(self.allowed_origins)

    def catalog_is_there(self) -> bool:
        """Whether a catalog can be opened without making one; a database by URL counts as there."""
        own = self.catalog_url is None and self.catalog_url_file is None
        return not own or (self.home / "catalog.db").is_file()

    def database_url(self) -> str:
        """SQLAlchemy URL of the catalog: as set, read from its file, or SQLite under the home folder."""
        if self.catalog_url is not None:
            return self.catalog_url.get_secret_value()
        if self.catalog_url_file is not None:
            return self.catalog_url_file.read_text(encoding="utf-8").strip()
        return f"sqlite:///{(self.home / 'catalog.db').absolute()}"

    def engine_url(self) -> str | None:
        """URL of the engine that holds the codes (`pgvector`, `milvus`): as set, or read from its file."""
        if self.index_url is not None:
            return self.index_url.get_secret_value()
        if self.index_url_file is not None:
            return self.index_url_file.read_text(encoding="utf-8").strip()
        return None

    def blob_store_url(self) -> str:
        """URL of the blob store for fsspec: as set, or a folder under the home folder."""
        return self.blobs_url or f"file://{(self.home / 'blobs').absolute()}"

    def child_environment(self) -> dict[str, str]:
        """Environment for a worker process that must see these same settings, whatever made them."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_PREFIX)}
        return inherited | {
            f"{_PREFIX}{name.upper()}": _as_text(value) for name, value in self if value is not None
        }


class CallerSettings(BaseSettings):
    """How a command shows itself to a running service; raises `pydantic.ValidationError`, OSError."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    api_key: SecretStr | None = None
    api_key_file: Path | None = None

    @model_validator(mode="after")
    def _one_key(self) -> CallerSettings:
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give api_key or api_key_file, not both")
        return self

    def key(self) -> str | None:
        """The API key: as set, or read from its file; None when there is none."""
        if self.api_key is not None:
            return self.api_key.get_secret_value().strip()
        if self.api_key_file is not None:
            return self.api_key_file.read_text(encoding="utf-8").strip()
        return None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.absolute())
    return str(value)
