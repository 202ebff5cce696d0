"""Setting a counter to what invariant 1 says: total seats less those that its locks hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from seatctl.domain.documents import Event, EventId, SeatLock, Unreadable
from seatctl.domain.rules import TOUCHED
from seatctl.domain.states import ENDED_LOCK, BookingStatus, Fault
from seatctl.errors import StaleRead
from seatctl.mongo.aggregations import HeldSeats, scope_of
from seatctl.mongo.store import Store
from seatctl.services.clearance import Clearance, booked_locks, has_ended_paid_lock
from seatctl.services.expiry import BATCH_PATIENCE
from seatctl.services.violations import Violation, counter_in_doubt, judge_counter

READINGS = 5
"""Looks at a drift while it has to last."""


class Correction(NamedTuple):
    """What a look within a transaction found, and whether the counter was set right."""

    violation: Violation | None
    corrected: bool = False


def correct(
    store: Store, event_id: EventId, now: datetime, at_most: int, reason_against: str | None = None
) -> Correction:
    """Set one counter right, never across a change made meanwhile: locks and counter are read at one point in
    time, and whoever moves seats after it writes the event, too, so that one of the two starts over.

    Raises the counter by `at_most` seats, and not at all where seats of a document that cannot be read may be
    among them, or where there is a `reason_against` (invariant 11). Lowers it at once, to 0 where locks hold
    more seats than there are.
    """
    for attempt in store.transaction_attempts(BATCH_PATIENCE):
        with attempt as tx:
            result = _correct_within(tx, event_id, now, at_most, reason_against)
    return result


def _correct_within(
    tx: Store, event_id: EventId, now: datetime, at_most: int, reason_against: str | None
) -> Correction:
    event = tx.events.get(event_id)
    held = tx.aggregations.held_by(event_id)
    if event is None or isinstance(event, Unreadable) or held.unreadable:
        return Correction(None)
    drift = judge_counter(event, held.seats)
    if drift is None:
        return Correction(None)
    overbooked = drift.fault is Fault.OVERBOOKED
    expected = min(event.available, 0) if overbooked else event.total - held.seats
    if expected > event.available:
        if reason := reason_against or reason_against_raising(tx, event_id):
            return Correction(counter_in_doubt(drift, reason))
        expected = min(expected, event.available + at_most)
        if expected <= event.available:
            return Correction(None)
    if expected != event.available and not tx.events.set_counter(event, expected, now):
        raise StaleRead
    # An overbooked event sells nothing more, and is for a person to settle.
    return Correction(drift, corrected=not overbooked)


def reason_against_raising(tx: Store, event_id: EventId) -> str | None:
    """Why this counter must not be raised although it is too low, or None."""
    if doubt := Clearance(tx).doubt(event_id):
        return str(doubt)
    paid = booked_locks(tx, event_id, BookingStatus.CONFIRMED)
    lost = any(not isinstance(lock, SeatLock) or lock.status in ENDED_LOCK for lock in paid)
    if lost or has_ended_paid_lock(tx, event_id):
        return "a paid booking has lost its seats"
    # Recovery ends a booking whose lock has ended, and does not if it cannot read that lock.
    for lock in booked_locks(tx, event_id, BookingStatus.PAYMENT_PENDING):
        if isinstance(lock, Unreadable):
            return f"a booking waits for its payment, and its {lock}"
    malformed = [booking for booking, _ in tx.bookings.with_malformed_lock_id(scope_of([event_id]))]
    if unreadable := next(iter([*malformed, *tx.bookings.unreadable(scope_of([event_id]))]), None):
        return str(unreadable)
    return None


class Drift(NamedTuple):
    """By how many seats a counter is too low, and whether its event was changed within a minute."""

    event: EventId
    seats: int
    touched: bool


def drifts_of(store: Store, event_ids: Iterable[EventId]) -> list[Drift]:
    """How far the counters of those of these events that can be read are too low now (or too high, if less
    than 0)."""
    scope, touched_after = scope_of(event_ids), store.now() - TOUCHED
    held, events = store.read_snapshot(
        lambda at: (at.aggregations.held_seats(scope), at.aggregations.events(scope)), "the counters"
    )
    return [
        Drift(
            event.id,
            event.total - held.get(event.id, HeldSeats()).seats - event.available,
            event.updated_at is not None and event.updated_at > touched_after,
        )
        for event in events.values()
        if isinstance(event, Event)
    ]


def stable_drifts(
    store: Store, drifts: Sequence[Drift], settle: timedelta, go_on: Callable[[], bool]
) -> list[Drift]:
    """The drifts that last, each the smallest of several looks over the time `settle`: another program
    without transactions may be between its two writes. Where nobody changed the event within the last
    minute, there is no such program, and the first look is enough."""
    smallest = {drift.event: drift for drift in drifts}
    touched = [drift.event for drift in drifts if drift.touched]
    for _ in range(READINGS if touched else 0):
        if not go_on():
            break
        time.sleep(settle.total_seconds() / READINGS)
        for drift in drifts_of(store, touched):
            if drift.seats < smallest[drift.event].seats:
                smallest[drift.event] = drift
    return [drift for drift in smallest.values() if drift.seats > 0]
