"""A progress bar for long jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

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
        self._what, self._count, self._done = what, count, 0

    def advance(self, items: int) -> None:
        """Another batch of so many items is done."""
        second_batch = self._done > 0
        self._done += items
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif second_batch and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.add_task(self._what, total=self._done + self._count(), completed=self._done)
            self._bar.start()

    def stop(self) -> None:
        """Remove the bar. May be called at any time, also twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> progress.Progress:
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Speed(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Speed(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # or what is printed meanwhile would be on stderr
        redirect_stderr=False,
    )
