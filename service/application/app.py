"""The use cases joined to one object with a life: start, drain, close."""

from __future__ import annotations

from dataclasses import dataclass

from service.application.batching import ModelThread
from service.application.follower import Follower
from service.application.health import Health
from service.application.ingest import Items
from service.application.keyring import Keyring
from service.application.models import Models
from service.application.ports import Closable
from service.application.reindex import Reindexing
from service.application.search import Retrieval
from service.application.ticker import Ticker


@dataclass(frozen=True)
class Application:
    """Everything a transport (HTTP, command line) needs; every call is synchronous and thread-safe."""

    retrieval: Retrieval
    items: Items
    reindexing: Reindexing
    models: Models
    keyring: Keyring
    health: Health
    follower: Follower
    thread: ModelThread
    tickers: tuple[Ticker, ...]
    catalog: Closable

    def start(self) -> None:
        """Load and warm what is live, then start the threads.

        A home without a generation starts as well: it is not ready, and says why.
        """
        self.follower.tick()
        self.health.probe()
        self.items.collect_blobs()
        for ticker in self.tickers:
            ticker.start()

    def drain(self) -> None:
        """Report not ready and refuse new model work with `Unavailable`; what waits is finished."""
        self.health.drain()
        self.thread.drain()

    def close(self) -> None:
        """Stop the threads and this process's workers, and close the catalog; may be called twice."""
        self.drain()
        for ticker in self.tickers:
            ticker.stop()
        self.reindexing.close()
        self.thread.close()
        self.keyring.flush()
        self.catalog.close()
