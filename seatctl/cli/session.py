"""What the lines of one batch share. Knows no command."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seatctl.cli.invocation import Invocation
    from seatctl.mongo.client import Deployment
    from seatctl.mongo.store import Store
    from seatctl.mongo.target import Target

GOOD_FOR = 1.0
"""Seconds."""


class Session:
    """What the command lines of one batch share: its connections, and the options of `batch` itself."""

    def __init__(self, batch: Invocation) -> None:
        self.batch = batch
        self.made: object = None
        """The id that the last line made."""
        self._reached: dict[tuple[str, str | None], Deployment] = {}
        self._warnings: set[str] = set()
        self._checked: dict[Target, tuple[float, Store]] = {}

    def reach(self, uri: str, database: str | None, default_database: str) -> Deployment:
        """As `connect`, once for all lines."""
        from seatctl.mongo.client import connect

        if (uri, database) not in self._reached:
            self._reached[uri, database] = connect(uri, database, default_database)
        return self._reached[uri, database]

    def known_store(self, target: Target) -> Store | None:
        """A database that a line opened and checked a moment ago. A command alone relies for longer on what
        it checked at its start; asking each time would make a line half as fast."""
        checked, store = self._checked.get(target, (0.0, None))
        return store if time.monotonic() - checked < GOOD_FOR else None

    def keep(self, target: Target, store: Store) -> None:
        self._checked[target] = time.monotonic(), store

    def unheard(self, warnings: Sequence[str]) -> list[str]:
        """Those that no line gave yet."""
        new = [warning for warning in warnings if warning not in self._warnings]
        self._warnings.update(new)
        return new

    def forget(self) -> None:
        """Check each database again: a line may have changed what it is."""
        self._checked.clear()
