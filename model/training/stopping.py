"""Ctrl-C and SIGTERM as a wish that the loop answers at the next safe place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from model.errors import ModelError


class Stopped(ModelError):
    """A run was asked to stop.

    `signum` is the signal's number; `resumable` says whether there is a state to continue from.
    """

    def __init__(self, signum: int, where: str, *, resumable: bool) -> None:
        self.signum = signum
        self.resumable = resumable
        super().__init__(where)


class StopWish:
    """Remembers the first signal; a second one acts at once, as if nobody had listened."""

    def __init__(self) -> None:
        self.signum = 0

    def __bool__(self) -> bool:
        """Whether somebody wants the run to stop."""
        return self.signum != 0

    def take(self, signum: int, _frame: FrameType | None) -> None:
        """Signal handler."""
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL if signum != signal.SIGINT else signal.default_int_handler)


@contextmanager
def listening() -> Iterator[StopWish]:
    """A `StopWish` fed by SIGINT and SIGTERM within the block; the former handlers return after it.

    Must be entered in the main thread (Python delivers signals there).
    """
    wish = StopWish()
    before = {signum: signal.signal(signum, wish.take) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
