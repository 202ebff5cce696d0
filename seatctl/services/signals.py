"""SIGINT and SIGTERM: a request to stop, kept until the job is between two transactions."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

from seatctl.errors import Interrupted

Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None


class Stop:
    """SIGINT or SIGTERM, remembered. Whoever asks twice does not want to wait: after the first signal, what
    handled signals before does so again."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Handler] = {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)

    def leave(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def go_on(self) -> bool:
        """Whether nobody asked to stop."""
        return self.signal is None

    def check(self, progress: str) -> None:
        """Raises Interrupted, saying how far the job is, if it was asked to stop."""
        if self.signal is not None:
            raise Interrupted(self.signal, progress)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.leave()


@contextmanager
def listening() -> Iterator[Stop]:
    """Within, the first signal only asks to stop."""
    stop = Stop()
    stop.listen()
    try:
        yield stop
    finally:
        stop.leave()
