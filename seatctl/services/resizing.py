"""`resize`: how many seats an event has."""

from __future__ import annotations

import logging
from typing import NamedTuple

from seatctl.domain.documents import Event, EventId, SeatLock, StoredDocument
from seatctl.domain.validation import seat_count
from seatctl.domain.words import count
from seatctl.errors import DamagedDocument, SeatsHeld, ensure_changed
from seatctl.mongo.store import Store
from seatctl.services.by_id import get_event, stored_event
from seatctl.services.clearance import Cause, Clearance
from seatctl.services.closing import set_block
from seatctl.services.expiry import return_overdue
from seatctl.services.seats import refusal, seats_of

log = logging.getLogger(__name__)

CURED = frozenset({Cause.OVERBOOKED, Cause.TOO_HIGH})
"""Doubts about a counter that more seats resolve."""


class ResizeRequest(NamedTuple):
    """An event, and how many seats it has from now on."""

    event: EventId
    seats: int
    dry_run: bool = False


class ResizeResult(NamedTuple):
    """The event; how many seats it had; whether this call changed that; how many are free; and the overdue
    ones that were returned first."""

    event: StoredDocument
    before: int
    changed: bool
    free: int
    closed: bool = False
    """Whether these are off sale, because the event is closed."""
    returned: int = 0


class Plan(NamedTuple):
    """What an event has to give: seats that are available, with those that its closing keeps off sale."""

    held: int
    free: int
    blocks: list[SeatLock]


def resize(store: Store, request: ResizeRequest) -> ResizeResult:
    """Set an event's capacity, and move its counter by the difference. Where too many seats are held, what is
    overdue is returned first. Raises SeatsHeld with the smallest capacity that is possible, Usage, NotFound,
    DamagedDocument, CountedByDay."""
    seat_count(request.seats)
    store.locks.ensure_collection()  # without it, it would not be clear that there are no locks
    try:
        return _resize(store, request)
    except SeatsHeld:
        returned = seats_of(return_overdue(store, request.event, dry_run=request.dry_run).returning)
        if not returned:
            raise
        seats = returned[request.event]
        # In a dry run they are not free yet, so that the plan must count them as such.
        result = _resize(store, request, seats if request.dry_run else 0)
        return result._replace(returned=seats)


def _resize(store: Store, request: ResizeRequest, overdue: int = 0) -> ResizeResult:
    for attempt in store.transaction_attempts(dry_run=request.dry_run):
        with attempt as tx:
            result = _resize_within(tx, request, overdue)
    if result.changed:
        log.info("event %s: %d → %d seats", request.event, result.before, request.seats)
    return result


def _resize_within(tx: Store, request: ResizeRequest, overdue: int) -> ResizeResult:
    event, now = get_event(tx, request.event), tx.now()
    plan = _plan(tx, event, overdue)
    free = _free_then(event, request.seats, plan)
    if event.total == request.seats:
        stored = stored_event(tx, event.id)
        return ResizeResult(stored, event.total, changed=False, free=plan.free, closed=event.is_closed)
    if request.seats > event.total:
        doubt = Clearance(tx).doubt(event.id)
        if doubt is not None and doubt.cause not in CURED:
            raise refusal(f"event {event.id} cannot get more seats", doubt)
    available = 0 if event.is_closed else free
    resized = ensure_changed(tx.events.set_counter(event, available, now, total=request.seats))
    if event.is_closed:
        set_block(tx, event.id, plan.blocks, free, now, tx.operations.id)
    before = {"totalSeats": event.total, "availableSeats": event.available}
    after = {"totalSeats": request.seats, "availableSeats": available}
    tx.operations.record("resize", now, event.id, before=before, after=after)
    return ResizeResult(resized, event.total, changed=True, free=free, closed=event.is_closed)


def _plan(tx: Store, event: Event, overdue: int) -> Plan:
    held = tx.aggregations.held_by(event.id)
    if held.unreadable:
        raise DamagedDocument(
            f"event {event.id}: {count(held.unreadable, 'lock')} cannot be read, so the number of held "
            "seats is unknown; `seatctl verify` says what is wrong"
        )
    blocks = tx.locks.of_closing(event.id) if event.is_closed else []
    off_sale = sum(block.seats for block in blocks) + overdue
    return Plan(held.seats - off_sale, event.available + off_sale, blocks)


def _free_then(event: Event, seats: int, plan: Plan) -> int:
    """How many seats are free with the new capacity: more or fewer by the difference, and never more than
    the locks leave over."""
    if seats < plan.held:
        raise SeatsHeld(
            f"{count(plan.held, 'seat')} of event {event.id} {'is' if plan.held == 1 else 'are'} held; the "
            f"smallest capacity is {plan.held}"
        )
    free = min(plan.free + seats - event.total, seats - plan.held)
    if free < 0:
        raise DamagedDocument(
            f"event {event.id}: its counter is lower than its locks say; run `seatctl recover` first"
        )
    return free
