"""`follow`: the stream of changes as lines for mailers and webhooks. It survives a lost database."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from seatctl.domain.changes import Change, Meaning, meaning
from seatctl.domain.documents import EventId, Kind, StoredDocument
from seatctl.errors import CursorLost, SeatctlError, Unreachable
from seatctl.mongo.changes import changes
from seatctl.mongo.failures import translate
from seatctl.mongo.store import Store
from seatctl.services.by_id import not_found

log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_LONGEST = 0.25, 8.0
"""Seconds between two attempts to reach the database again; the pause doubles."""
REMEMBERED = 10_000
"""Locks whose seats are kept in mind for the bookings that come after them."""


class Step(NamedTuple):
    """How far the stream is, and what happened, if anything did."""

    token: str | None
    line: StoredDocument | None = None
    lost: SeatctlError | None = None
    """Why there is no connection, at each attempt that failed; the next step without it means that there is
    one again."""


def follow(
    store: Store,
    event: EventId | None = None,
    token: str | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Step]:
    """What happens after `token`, or from now on, to one event or to all, without an end. While there is
    nothing, a step comes about each second. Whoever is given a line twice, after a stop, was given it before;
    nothing is left out (at least once).

    Raises NotFound for what is no event, HistoryLost, Misconfigured, and Unreachable when the database could
    not be reached at the start.
    """
    if event is not None and store.events.stored(event) is None:
        raise not_found(store, "event", event)
    lines, backoff, begun = Lines(store), BACKOFF_FIRST, False
    while True:
        try:
            for change in changes(store, event, token):
                if isinstance(change, str):
                    token, line = change, None
                else:
                    line, token = lines.of(change), change.token
                begun, backoff = True, BACKOFF_FIRST
                yield Step(token, line)
        except Exception as error:
            reason = translate(error)
            if not (begun and isinstance(reason, Unreachable | CursorLost)):
                raise
            log.info("%s; trying again in %.2f s", reason, backoff)
            yield Step(token, lost=reason)
        pause(backoff)
        backoff = min(2 * backoff, BACKOFF_LONGEST)


class Lines:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._seats: dict[str, object] = {}

    def of(self, change: Change) -> StoredDocument | None:
        """The line of a change; None for one that needs none."""
        if change.kind is Kind.LOCK:
            self._remember(change)
        meant = meaning(change)
        return None if meant is None else self._line(change, meant)

    def _line(self, change: Change, meant: Meaning) -> StoredDocument:
        document = change.document or {}
        line: dict[str, object] = {"at": change.at, "what": meant.what}
        if change.kind is Kind.EVENT:
            line |= {"event": change.id}
            seats = change.written.get("availableSeats")
        elif change.kind is Kind.LOCK:
            line |= {"event": document.get("eventId"), "lock": change.id}
            seats = self._seats_of(change.id)
        else:
            lock = document.get("seatLockId")
            line |= {"event": document.get("event"), "lock": lock, "booking": change.id}
            seats = None if lock is None else self._seats_of(lock)
        return {**line, "from": meant.before, "to": meant.after, "seats": seats, "token": change.token}

    def _remember(self, change: Change) -> None:
        seats = change.written.get("seats", (change.document or {}).get("seats"))
        if seats is not None:
            self._seats.pop(str(change.id), None)
            self._seats[str(change.id)] = seats
        if len(self._seats) > REMEMBERED:
            del self._seats[next(iter(self._seats))]

    def _seats_of(self, lock: object) -> object:
        """A booking has no number of seats: its lock has. seatctl writes both in one transaction, so that
        it was most often seen just before."""
        seen = self._seats.get(str(lock))
        return self._store.locks.seats_of(lock) if seen is None else seen
