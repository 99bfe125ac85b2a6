"""A thread that does something again and again until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)


class Ticker:
    """Calls `action` every `interval_s` seconds; a failing call is logged and the next one comes anyway."""

    def __init__(self, name: str, interval_s: float, action: Callable[[], None]) -> None:
        self._name = name
        self._interval_s = interval_s
        self._action = action
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; the first call comes after one interval."""
        self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the call under way and stop; nothing happens when it does not run."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _loop(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._action()
            except Exception:  # noqa: BLE001 - the next tick may succeed; the thread must live
                _log.exception("tick_failed", ticker=self._name)
