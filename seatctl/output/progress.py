"""A progress bar for long jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from seatctl.domain.timespec import format_duration
from seatctl.domain.words import format_number

if TYPE_CHECKING:
    from rich import progress


class Progress:
    """How far a job is, as a bar on stderr. It appears with the second batch, and only in a terminal:
    short jobs and pipes see nothing of it. Implements the protocol of services/jobs.py."""

    _bar: progress.Progress | None = None

    def start(self, what: str, count: Callable[[], int]) -> None:
        """Begin another stage. `count` is how many of `what` are left when it is called, which happens
        once and only if the bar appears: it costs a query."""
        self.stop()
        self._what, self._count, self._done, self._total = what, count, 0, 0
        self._began = time.monotonic()

    def advance(self, items: int) -> None:
        """Another batch of so many items is done."""
        second_batch = self._done > 0
        self._done += items
        if self._bar is None and second_batch and sys.stderr.isatty():
            self._total = self._done + self._count()
            self._bar = _bar()
            self._bar.add_task(self._what, total=self._total, numbers="")
        if self._bar is not None:
            # More may have come since they were counted.
            self._total = max(self._total, self._done)
            task = self._bar.task_ids[0]
            self._bar.update(task, total=self._total, completed=self._done, numbers=self._numbers())
            self._bar.start()  # once, with the first numbers

    def stop(self) -> None:
        """Remove the bar. May be called at any time, also twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _numbers(self) -> str:
        """`20,000 of 60,000, 3,632/s, 11s left`."""
        speed = self._done / max(time.monotonic() - self._began, 0.001)
        left = format_duration(timedelta(seconds=(self._total - self._done) / speed))
        return f"{format_number(self._done)} of {format_number(self._total)}, {speed:,.0f}/s, {left} left"


def _bar() -> progress.Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[numbers]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # or what is printed meanwhile would be on stderr
        redirect_stderr=False,
    )
