"""Logs: one JSON object a line, with the request id, from our loggers and everybody else's."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from asgi_correlation_id import correlation_id

from service.api.logs import configure_logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_our_lines_and_foreign_lines_are_json_with_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", as_json=True)
    token = correlation_id.set("request-9")
    try:
        structlog.get_logger("hashguard.test").info("ours", items=3)
        logging.getLogger("someone.else").warning("theirs %s", 4)
    finally:
        correlation_id.reset(token)
    ours, theirs = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (ours["event"], ours["items"], ours["request_id"], ours["level"]) == (
        "ours",
        3,
        "request-9",
        "info",
    )
    assert (theirs["event"], theirs["request_id"], theirs["logger"]) == (
        "theirs 4",
        "request-9",
        "someone.else",
    )
    assert ours["timestamp"].endswith("Z")


def test_a_stack_trace_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", as_json=True)
    try:
        raise ValueError("the reason")
    except ValueError:
        structlog.get_logger("hashguard.test").exception("failed")
    line = json.loads(capsys.readouterr().err)
    assert "the reason" in line["exception"]
    assert "request_id" not in line


def test_the_level_is_kept_and_people_may_have_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("warning", as_json=False)
    structlog.get_logger("hashguard.test").info("too quiet")
    structlog.get_logger("hashguard.test").warning("loud enough")
    printed = capsys.readouterr().err
    assert "loud enough" in printed
    assert "too quiet" not in printed
