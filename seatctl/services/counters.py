"""Setting a counter to what invariant 1 says: total seats less those that its locks hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from seatctl.domain.documents import Event, EventId, Unreadable
from seatctl.domain.rules import TOUCHED
from seatctl.domain.states import Fault
from seatctl.errors import StaleRead
from seatctl.mongo.audit import HeldSeats, some
from seatctl.mongo.store import Store
from seatctl.services.clearance import Clearance
from seatctl.services.violations import Violation, in_doubt, judge_counter

LOOKS = 5
"""Looks at a drift while it has to last."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a look within a transaction found, and whether the counter was set right."""

    violation: Violation | None
    corrected: bool = False


def correct(
    store: Store, event_id: EventId, now: datetime, at_most: int, reason_against: str | None = None
) -> Correction:
    """Set one counter right, never across a change made meanwhile: the event is written first, so that nobody
    else's seats can move before the commit.

    Raises the counter by `at_most` seats, and not at all where seats of a document that cannot be read may be
    among them, or where there is a `reason_against` (invariant 11). Lowers it at once.
    """
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _correct_within(tx, event_id, now, at_most, reason_against)
    return result


def _correct_within(
    tx: Store, event_id: EventId, now: datetime, at_most: int, reason_against: str | None
) -> Correction:
    event = tx.events.touch(event_id, now)
    held = tx.audit.held_seats(some([event_id])).get(event_id, HeldSeats())
    if event is None or isinstance(event, Unreadable) or held.unreadable:
        return Correction(None)
    drift = judge_counter(event, held.seats)
    if drift is None or drift.fault is not Fault.COUNTER_DRIFT:
        return Correction(drift)
    expected = event.total - held.seats
    if expected > event.available:
        if reason := reason_against or _reason_against_raising(tx, event_id):
            return Correction(in_doubt(drift, reason))
        expected = min(expected, event.available + at_most)
        if expected <= event.available:
            return Correction(None)
    if not tx.events.set_counter(event, expected, now):
        raise StaleRead
    return Correction(drift, corrected=True)


def _reason_against_raising(tx: Store, event_id: EventId) -> str | None:
    """What a counter that is too low may be too low for."""
    if doubt := Clearance(tx).doubts([event_id]).get(event_id):
        return str(doubt)
    odd = [booking for booking, _ in tx.bookings.naming_oddly(some([event_id]))]
    if unreadable := next(iter([*odd, *tx.bookings.unreadable(some([event_id]))]), None):
        return str(unreadable)
    return None


def lasting_drifts(
    store: Store, event_ids: Iterable[EventId], settle: timedelta, go_on: Callable[[], bool]
) -> dict[EventId, int]:
    """By how many seats each of these counters is too low, as the smallest of several looks over the time
    `settle`: another program without transactions may be between its two writes. One look is enough where
    nobody changed the event within the last minute."""
    drifts, touched = _drifts(store, event_ids)
    for _ in range(LOOKS if touched else 0):
        if not go_on():
            break
        time.sleep(settle.total_seconds() / LOOKS)
        again, _ = _drifts(store, touched)
        for event_id in touched:
            drifts[event_id] = min(drifts[event_id], again.get(event_id, 0))
    return drifts


def _drifts(store: Store, event_ids: Iterable[EventId]) -> tuple[dict[EventId, int], list[EventId]]:
    """How far each counter is too low now, and which of the events were changed within the last minute."""
    scope, now = some(event_ids), store.now()
    drifts: dict[EventId, int] = {}
    touched: list[EventId] = []
    with store.snapshot() as at:
        held = at.audit.held_seats(scope)
        for event_id, event in at.audit.events(scope).items():
            if isinstance(event, Event):
                drifts[event_id] = event.total - held.get(event_id, HeldSeats()).seats - event.available
                if event.updated_at is not None and event.updated_at > now - TOUCHED:
                    touched.append(event_id)
    return drifts, touched
