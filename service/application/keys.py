"""API keys: what they look like, and how they are made, listed and revoked.

A key is `hg_<id>_<secret>`: 12 hexadecimal digits by which it is looked up and named in logs, and 256 random
bits. The catalog keeps its SHA-256. A fast hash is right here: slow, salted ones (bcrypt, Argon2) make up
for passwords that can be guessed, and there is no guessing among 2^256 keys; they would only let a flood of
bad keys eat the processor. `service/application/keyring.py` checks keys.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.application.errors import InvalidInput, NotFound
from service.application.ports import Clock
from service.application.types import ApiKey, Scope

MOST_KEYS = 1000
"""Keys that are not revoked, at most: every replica holds them in memory and reads them once a second."""

NAME_CHARS = 200
"""Longest name of a key."""

_ID_BYTES = 6
_SECRET_BYTES = 32
_SHAPE = re.compile(r"hg_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_ID = re.compile(r"[0-9a-f]{12}")


class KeyRepository(Protocol):
    """API keys; every method is one transaction."""

    def add(self, key: ApiKey, most: int) -> None:
        """Store a key; `Conflict` when `most` keys that are not revoked are there already."""
        ...

    def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        ...

    def in_force(self) -> list[ApiKey]:
        """The keys that are not revoked; expired ones are among them."""
        ...

    def revoke(self, key_id: str, at: datetime) -> ApiKey | None:
        """Revoke a key, unless it is; the key as it is now, None when there is none of this id."""
        ...

    def touch(self, used: Mapping[str, datetime]) -> None:
        """Record when keys were last used; an earlier time than the recorded one changes nothing."""
        ...


@dataclass(frozen=True)
class ShownKey:
    """A key as a caller shows it; the digest is all that is kept of the secret."""

    id: str
    digest: str


def read_key(text: str) -> ShownKey | None:
    """A text as a key, or None when it does not have the shape of one."""
    found = _SHAPE.fullmatch(text)
    return None if found is None else ShownKey(found[1], digest_of(text))


def digest_of(key: str) -> str:
    """SHA-256 of the whole key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_id_of(text: str) -> str:
    """The id in a text that is an id or a whole key; `InvalidInput`, without the text, when it is neither."""
    shown = read_key(text)
    if shown is not None:
        return shown.id
    if _ID.fullmatch(text) is None:
        raise InvalidInput("wanted the id of a key (12 hexadecimal digits), or the key itself")
    return text


@dataclass(frozen=True)
class Keys:
    """Making, listing and revoking."""

    repository: KeyRepository
    clock: Clock

    def create(self, name: str, scopes: Iterable[Scope], expires: datetime | None) -> tuple[ApiKey, str]:
        """A new key and its text, which cannot be had again.

        Raises:
            InvalidInput: a name that is empty, too long or not printable, no scope, or an end in the past.
            Conflict: there are `MOST_KEYS` keys that are not revoked.
        """
        now = self.clock()
        wanted = frozenset(scopes)
        if not 1 <= len(name) <= NAME_CHARS or not name.isprintable():
            raise InvalidInput(f"the name of a key is 1 to {NAME_CHARS} printable characters, got {name!r}")
        if not wanted:
            raise InvalidInput(f"a key needs at least one scope of {', '.join(Scope)}")
        if expires is not None and expires <= now:
            raise InvalidInput(f"a key must expire in the future, got {expires.isoformat()}")
        key_id = secrets.token_hex(_ID_BYTES)
        text = f"hg_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = ApiKey(key_id, name, digest_of(text), wanted, now, expires)
        self.repository.add(key, MOST_KEYS)
        return key, text

    def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        return self.repository.all()

    def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key for good; nothing changes when it was revoked before. Raises `NotFound`."""
        key = self.repository.revoke(key_id, self.clock())
        if key is None:
            raise NotFound(f"there is no key {key_id}")
        return key

    def count_valid(self) -> int:
        """Number of keys that are good now."""
        now = self.clock()
        return sum(key.state(now) == "valid" for key in self.repository.in_force())
