"""The pool on which use cases run: bounded waiting, this request's context, no waiters left behind."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgi_correlation_id import correlation_id

from service.api.workers import Workers
from service.application.errors import Unavailable


def test_a_call_runs_on_its_own_thread_with_the_context_of_the_request() -> None:
    async def story() -> tuple[str | None, str]:
        correlation_id.set("request-7")
        return await Workers(1, 5.0).run(lambda: (correlation_id.get(), threading.current_thread().name))

    request_id, thread = asyncio.run(story())
    assert request_id == "request-7"
    assert thread.startswith("hashguard-request")


def test_what_a_call_raises_arrives() -> None:
    def broken() -> None:
        raise ValueError("wanted that")

    with pytest.raises(ValueError, match="wanted that"):
        asyncio.run(Workers(1, 5.0).run(broken))


def test_a_call_that_takes_too_long_is_unavailable_and_those_behind_it_wait_no_longer() -> None:
    async def story() -> None:
        workers, release = Workers(1, 0.1), threading.Event()
        slow = asyncio.create_task(workers.run(release.wait, 10.0))
        behind = asyncio.create_task(workers.run(int, 1))
        results = await asyncio.gather(slow, behind, return_exceptions=True)
        assert [getattr(result, "code", None) for result in results] == ["timeout", "timeout"]
        assert all(isinstance(result, Unavailable) for result in results)
        release.set()
        assert await workers.run(int, 3) == 3
        workers.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            await workers.run(int, 4)

    asyncio.run(story())
