"""Milvus as the backend of that name meets it: the client, one collection and its rows, its errors.

Every call has a time limit. The client of one server is shared by all indexes there.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from index.backends.clients import RemoteOptions, import_client
from index.codes import CodeArray
from index.errors import CorruptIndex, EngineUnavailable, UnknownOption
from index.ids import MAX_ID_BYTES

if TYPE_CHECKING:
    from pymilvus import MilvusClient

EXTRA = "milvus"
"""The extra that brings the client library."""
SCHEMES = ("http", "https", "tcp")
KEY, CODE = "key", "code"
MOST = 16_384
"""Results that Milvus gives for one query."""
_POLL_S = 0.02
_LOAD_S = 120.0  # a large collection is loaded once, which may take longer than a call
_CONSISTENCY = "Session"


class Collected:
    """One collection: hexadecimal keys (VARCHAR, primary) and codes (BINARY_VECTOR)."""

    def __init__(self, name: str, options: RemoteOptions) -> None:
        self.name = name
        self._options = options
        self._client = client_of(options)
        self._ready = False

    def create(self, bits: int) -> None:
        """Make the collection and have it loaded; the first use waits for that."""
        milvus = import_client("pymilvus", EXTRA)
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(KEY, milvus.DataType.VARCHAR, is_primary=True, max_length=2 * MAX_ID_BYTES)
        schema.add_field(CODE, milvus.DataType.BINARY_VECTOR, dim=bits)
        index = self._client.prepare_index_params()
        index.add_index(CODE, index_type="BIN_FLAT", metric_type="HAMMING")
        with translated(self._options):
            self._call("create_collection", schema=schema, num_shards=1, consistency_level=_CONSISTENCY)
            self._call("create_index", index, sync=False)
            self._call("load_collection", _async=True)

    def connect(self) -> int:
        """Make an existing collection ready, see everything that was written, and return its bits."""
        with translated(self._options):
            if not self._client.has_collection(self.name, timeout=self._options.timeout_s):
                raise CorruptIndex(f"milvus: wanted the collection {self.name}, got none: it was dropped")
            fields = self._call("describe_collection")["fields"]
            self._call("load_collection", _async=True)
        self.count("Strong")
        return next((int(field["params"]["dim"]) for field in fields if field["name"] == CODE), 0)

    def drop(self) -> None:
        """Drop the collection; nothing happens when it is gone."""
        with translated(self._options):
            self._call("drop_collection")

    def count(self, consistency: str = _CONSISTENCY) -> int:
        """Number of items."""
        with self._loaded():
            [row] = self._call("query", "", ["count(*)"], consistency_level=consistency)
        return int(row["count(*)"])

    def put(self, rows: Sequence[dict[str, Any]]) -> None:
        """Insert or replace rows, all at once."""
        with self._loaded():
            self._call("upsert", list(rows))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the rows with these keys, all at once.

        Unlike an upsert's answer, a deletion's tells no timestamp that a session could wait for, so one
        strong read waits instead; what comes later sees at least as much.
        """
        if keys:
            with self._loaded():
                self._call("delete", ids=list(keys))
            self.count("Strong")

    def rows(self, condition: str) -> list[dict[str, Any]]:
        """Keys and codes of the rows that satisfy an expression, any MOST of them when there are more."""
        with self._loaded():
            found = self._call("query", condition, [KEY, CODE], limit=MOST, consistency_level=_CONSISTENCY)
        return list(found)

    def all(self, size: int) -> Iterator[list[dict[str, Any]]]:
        """All rows, about `size` at a time, in no promised order."""
        few = self.rows(f'{KEY} != ""')  # opening an iterator takes longer than this
        if len(few) < MOST:
            yield few
            return
        with self._loaded():
            found = self._call("query_iterator", size, -1, f'{KEY} != ""', [KEY, CODE])
            while rows := found.next():
                yield list(rows)
            found.close()

    def nearest(
        self, queries: CodeArray, limit: int, low: int, high: int, condition: str = ""
    ) -> list[list[tuple[int, str]]]:
        """For each query up to `limit` (distance, key) from `low` to `high` bits; ties in any order."""
        reach: dict[str, float] = {"radius": high + 1}
        if low:
            reach["range_filter"] = low
        with self._loaded():
            found = self._call(
                "search",
                [query.tobytes() for query in queries],
                condition,
                limit,
                search_params={"metric_type": "HAMMING", "params": reach},
                consistency_level=_CONSISTENCY,
            )
        return [[(int(hit["distance"]), hit["id"]) for hit in hits] for hits in found]

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        """Wait until the collection can be searched, then translate the client's errors."""
        with translated(self._options):
            if not self._ready:
                self._wait()
            yield

    def _wait(self) -> None:
        """Poll: the client's own waiting sleeps half a second at a time."""
        limit = max(_LOAD_S, self._options.timeout_s)
        until = time.monotonic() + limit
        while self._call("get_load_state")["state"].name != "Loaded":
            if time.monotonic() > until:
                raise EngineUnavailable(f"milvus: wanted {self.name} loaded within {limit:g} s, got less")
            time.sleep(_POLL_S)
        self._ready = True

    def _call(self, method: str, *arguments: object, **named: object) -> Any:  # noqa: ANN401 - as many types as methods
        """Call the client about this collection, with the time limit."""
        call = getattr(self._client, method)
        return call(self.name, *arguments, timeout=self._options.timeout_s, **named)


def collections(options: RemoteOptions) -> list[str]:
    """The names of all collections on a server. Raises EngineUnavailable."""
    with translated(options):
        return list(client_of(options).list_collections(timeout=options.timeout_s))


@lru_cache(maxsize=16)
def client_of(options: RemoteOptions) -> "MilvusClient":
    """The client of one server. Raises Unsupported, UnknownOption, EngineUnavailable."""
    milvus = import_client("pymilvus", EXTRA)
    parts = urlsplit(options.url)
    try:
        host, port = parts.hostname, parts.port or 19530
    except ValueError as error:
        raise UnknownOption("milvus: wanted a port from 0 to 65535 in the url, got another") from error
    if not host:
        raise UnknownOption("milvus: wanted a host in the url, got none")
    with translated(options):
        client: MilvusClient = milvus.MilvusClient(
            uri=f"{parts.scheme}://{host}:{port}",
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            db_name=parts.path.strip("/"),
            timeout=options.timeout_s,
        )
    return client


@contextmanager
def translated(options: RemoteOptions) -> Iterator[None]:
    """Turn the client's errors into the index's own."""
    milvus = import_client("pymilvus", EXTRA)
    try:
        yield
    except milvus.MilvusException as error:
        message = str(error.message).splitlines()[0][:300] if error.message else type(error).__name__
        if "collection not found" in message or "can't find collection" in message:
            raise CorruptIndex(f"milvus: wanted the index's collection, got {message}") from error
        raise EngineUnavailable(
            f"milvus: wanted an answer within {options.timeout_s:g} s, got {message}"
        ) from error
