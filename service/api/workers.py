"""Runs use cases, which block, on a bounded pool of threads and bounds how long a request waits for one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.application.errors import Unavailable

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """`threads` threads; a call that takes longer than `timeout_s` seconds ends in `Unavailable`.

    A call that timed out while it ran goes on to its end on its thread: Python cannot stop it. The pool
    bounds how many such there can be, and admission bounds how many wait.
    """

    def __init__(self, threads: int, timeout_s: float) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="hashguard-request")
        self._timeout_s = timeout_s

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `call(*args, **kwargs)`, made on a thread with this request's context."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, lambda: context.run(call, *args, **kwargs))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError as error:
            detail = f"The request was not answered within {self._timeout_s:g} seconds."
            raise Unavailable(detail, code="timeout", retry_after_s=5) from error

    def close(self) -> None:
        """Let running calls end, start none that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)
