"""`recover`: everything the sweeps would do, then each finding repaired, then the counters.

Every repair looks again and is a compare-and-set, so recovery may run beside buyers and beside
itself. What needs a person is reported and left alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING

from seatctl.domain.model import (
    QUIET,
    BookingStatus,
    Document,
    Id,
    LockStatus,
    counter_flaw,
    reference_flaw,
    seats_of,
)
from seatctl.services.audit import (
    REPAIRABLE,
    Fault,
    Finding,
    counters,
    expected_seats,
    indexes,
    judge_counter,
    look,
    once,
)
from seatctl.services.expiry import BATCH, booking_sweep, lock_sweep, sweep
from seatctl.services.rehearsal import Rehearsal
from seatctl.services.seats import (
    Cause,
    Claim,
    GivenBack,
    StartOver,
    Terms,
    again,
    attempts,
    give_back,
    give_up_locks,
    hold_of,
    sound,
)

if TYPE_CHECKING:
    from seatctl.mongo.store import Session, Store
    from seatctl.services.jobs import Run

log = logging.getLogger(__name__)

PLANNED, DONE, LEFT = (
    "planned",
    "corrected",
    "left for the next run: the event was changed within the last minute",
)
LOOKS = 10
"""How often recovery looks at a counter before it leaves that for the next run."""

SWEPT = (
    Fault.SEATS_NOT_RETURNED,
    Fault.BOOKING_WITHOUT_SEATS,
    Fault.ORPHAN_LOCK,
    Fault.ORPHAN_BOOKING,
    Fault.OTHER_EVENT,
    Fault.DAMAGED_LOCK,
    Fault.DAMAGED_BOOKING,
)
"""What may be no finding any more once the sweeps are through: something overdue is part of it."""

NEEDS_PERSON, OVERSOLD = "needs a person", "oversold: the event no longer has the seats; needs a person"


class Unchanged(Exception):
    """A second look found nothing that may be repaired; rolls the look back. `outcome` says why, and
    is empty when nothing is wrong any more."""

    def __init__(self, outcome: str = "") -> None:
        super().__init__(outcome)
        self.outcome = outcome


def recover(store: Store, run: Run, *, batch_size: int = BATCH) -> None:
    """Heal what a crash, a race or a foreign hand left; `run` receives what was found and done.
    With `run.dry_run`, only what would be done."""
    if run.dry_run:
        store = Rehearsal(store)
    now = store.now()
    terms = Terms(now, overdue_at=now)
    busy: set[Id] = set()
    for kind in (booking_sweep(store), lock_sweep(store)):
        for batch in sweep(store, kind, terms, batch_size=batch_size, dry_run=run.dry_run, go_on=run.go_on):
            _let_go(store, run, batch, terms)
            busy |= batch.busy
            run.record(batch)
        run.checkpoint()
    disagreeing, miscounted = look(store)
    # Seats come back before anybody needs them again.
    for finding in sorted(once(disagreeing), key=lambda finding: finding.fault is Fault.LOST_LOCK):
        if run.dry_run and _is_swept(store, finding, now):
            continue
        _treat(store, run, finding, terms, busy)
    if disagreeing:
        miscounted = list(counters(store))
    for finding in once(chain(miscounted, indexes(store)), but=disagreeing):
        _treat(store, run, finding, terms, busy)


def _is_swept(store: Store, finding: Finding, now: datetime) -> bool:
    """Whether a sweep, of which this run only planned what it would do, deals with this."""
    if finding.fault not in SWEPT:
        return False
    lock = store.lock(finding.lock)
    bookings = store.bookings_of_locks([finding.lock])
    if not bookings and (odd := store.booking(finding.booking)):  # it names no possible lock
        bookings = [odd]
    claims = booking_sweep(store).overdue_claims(bookings, now)
    claims += lock_sweep(store).overdue_claims([lock] if lock else [], now)
    if finding.booking is not None and finding.fault is not Fault.SEATS_NOT_RETURNED:
        return any(claim.booking == finding.booking for claim in claims)
    return any(claim.hold is not None and claim.hold.lock == finding.lock for claim in claims)


def _let_go(store: Store, run: Run, batch: GivenBack, terms: Terms) -> None:
    """Expire also what the sweep set aside because no counter can take the seats: the event is
    unknown, or its counter never went down. Only recovery may: it looks at the counters next."""
    mine = [
        item for item in batch.set_aside if item.cause in (Cause.UNKNOWN_EVENT, Cause.COUNTER) and item.claim
    ]
    claims = [item.claim for item in mine if item.claim is not None]
    if isinstance(store, Rehearsal):
        done = store.carry_out(claims, counted=False)
    else:
        done = give_up_locks(store, claims, terms)
    batch.set_aside = [item for item in batch.set_aside if item not in mine]
    batch.locks += done.locks
    batch.bookings += done.bookings
    for item in mine:
        orphan = Fault.ORPHAN_LOCK if item.kind == "lock" else Fault.ORPHAN_BOOKING
        fault = orphan if item.cause is Cause.UNKNOWN_EVENT else Fault.COUNTER_DRIFT
        _note(run, fault.value, str(item), "expired, no counter raised")


def _treat(store: Store, run: Run, finding: Finding, terms: Terms, busy: set[Id]) -> None:
    """Repair one finding, or say why not."""
    run.checkpoint()
    repairable = finding.fault in REPAIRABLE
    outcome = _repair(store, run, finding, terms, busy) if repairable else NEEDS_PERSON
    if outcome in (NEEDS_PERSON, OVERSOLD):
        run.unresolved += 1
    if outcome == LEFT:
        run.left.add(str(finding.event))
    if outcome:
        _note(run, finding.fault.value, finding.message, outcome, finding.as_document())


def _note(run: Run, fault: str, message: str, outcome: str, document: Document | None = None) -> None:
    if run.dry_run and outcome not in (LEFT, NEEDS_PERSON, OVERSOLD):
        outcome = PLANNED
    log.info("%s: %s", message, outcome)
    run.steps.append({**(document or {"fault": fault, "message": message}), "outcome": outcome})


def _repair(store: Store, run: Run, finding: Finding, terms: Terms, busy: set[Id]) -> str:
    """Repair one finding after a second look. Returns what was done, or "" when somebody else was
    faster and nothing is wrong any more."""
    match finding.fault:
        case Fault.UNSETTLED_LOCK:
            changed = store.move_lock(
                finding.lock, LockStatus.ACTIVE, LockStatus.CONSUMED, terms.now, by_job=True
            )
            run.repairs += changed
            return "lock CONSUMED" if changed else ""
        case Fault.LOST_LOCK:
            return _take_again(store, run, finding, terms, busy)
        case Fault.SEATS_NOT_RETURNED:
            return _return_seats(store, run, finding, terms, busy)
        case Fault.BOOKING_WITHOUT_SEATS | Fault.ORPHAN_BOOKING:
            changed = store.move_booking(
                finding.booking, BookingStatus.PAYMENT_PENDING, BookingStatus.EXPIRED, terms.now
            )
            run.bookings += changed
            seats = _return_seats(store, run, finding, terms, busy) if changed else ""
            return ", ".join(filter(None, ("booking EXPIRED" if changed else "", seats)))
        case Fault.ORPHAN_LOCK:
            return _end_orphan(store, run, finding, terms)
        case Fault.COUNTER_DRIFT:
            return _reconcile(store, run, finding.event, terms, busy)[0]
    raise AssertionError(finding.fault)


def _take_again(store: Store, run: Run, finding: Finding, terms: Terms, busy: set[Id]) -> str:
    """A paid booking whose lock gave its seats back: take them again, if the event still has them."""
    lock = store.lock(finding.lock)
    if lock is None or lock.get("status") != LockStatus.EXPIRED:
        return ""
    if seats_of(lock) is None:
        return NEEDS_PERSON

    def take() -> bool:
        return store.transact(lambda session: _consume_again(store, lock, terms, busy, session))

    try:
        taken = take()
        if not taken:  # the seats are there and the counter is too low
            outcome, drift = _reconcile(store, run, lock["eventId"], terms, busy)
            if outcome in (LEFT, NEEDS_PERSON):
                return outcome
            if drift:
                _note(run, drift.fault.value, drift.message, outcome, drift.as_document())
            taken = take()
    except Unchanged as look:
        return look.outcome
    if not taken:
        return LEFT
    run.repairs += 1
    return f"{seats_of(lock)} seats taken again, lock CONSUMED"


def _consume_again(store: Store, lock: Document, terms: Terms, busy: set[Id], session: Session) -> bool:
    """Counter down, then EXPIRED → CONSUMED; False when the counter is lower than the seats that are
    there. Raises Unchanged when the event has no longer the seats, or the lock is EXPIRED no more."""
    event_id, seats = lock.get("eventId"), seats_of(lock) or 0
    event = store.claim_event(event_id, terms.now, session) if store.transactions else store.event(event_id)
    if event is None or counter_flaw(event):
        raise Unchanged(NEEDS_PERSON)
    # The locks decide, not the counter: it may be wrong, and is set right only after the pairs.
    held, unreadable = store.held_by_event(session, event_id).get(event_id, (0, 0))
    if unreadable or expected_seats(event, held) < seats:
        raise Unchanged(OVERSOLD)
    before = store.retake_seats(event_id, seats, terms.now, session)
    if before is None:
        return False
    met = GivenBack()
    met.note_neighbour(before, -seats, terms)
    busy |= met.busy
    if not store.move_lock(
        lock["_id"], LockStatus.EXPIRED, LockStatus.CONSUMED, terms.now, by_job=True, session=session
    ):
        if not store.transactions:
            store.add_seats_to(event_id, seats, terms.now)
        raise Unchanged
    return True


def _return_seats(store: Store, run: Run, finding: Finding, terms: Terms, busy: set[Id]) -> str:
    """A booking that ended while its lock still holds the seats: give them back."""
    chosen = replace(terms, overdue_at=None)

    def attempt() -> GivenBack:
        lock = store.lock(finding.lock)
        if lock is None or lock.get("status") != LockStatus.ACTIVE or store.live_bookings_of([lock["_id"]]):
            raise Unchanged
        if reference_flaw(lock, "eventId"):
            raise Unchanged  # an orphan, and treated as such
        if seats_of(lock) is None:
            raise Unchanged(NEEDS_PERSON)
        claims, unsound = sound(store, [Claim(hold_of(lock))])
        if unsound:
            return give_up_locks(store, [item.claim for item in unsound if item.claim], chosen)
        return give_back(store, claims, chosen)

    try:
        done = again(attempt)
    except Unchanged as look:
        return look.outcome
    busy |= done.busy
    run.record(done)
    return f"lock EXPIRED, {done.seats.total()} seats back" if done.locks else ""


def _end_orphan(store: Store, run: Run, finding: Finding, terms: Terms) -> str:
    """A lock of no event, with the bookings that wait for it: of whatever event those are, no payment
    could be for seats. Each booking goes before its lock, the last one together with it."""
    chosen = replace(terms, overdue_at=None)

    def attempt() -> str:
        lock = store.lock(finding.lock)
        if lock is None or lock.get("status") == LockStatus.EXPIRED:
            raise Unchanged
        live = store.live_bookings_of([lock["_id"]])
        # Also one with a list for a status may be paid.
        paid = any(booking["status"] != BookingStatus.PAYMENT_PENDING for booking in live)
        if paid or lock.get("status") != LockStatus.ACTIVE:  # perhaps by an earlier repair of this run
            raise Unchanged(NEEDS_PERSON)
        waiting = [booking["_id"] for booking in live]
        *before, last = waiting or [None]
        claims = [*(Claim(None, booking) for booking in before), Claim(hold_of(lock), last)]
        done = give_up_locks(store, claims, chosen)
        run.record(done)
        if not done.locks:
            raise StartOver
        return f" with booking {', '.join(map(str, waiting))}" if waiting else ""

    try:
        return f"lock EXPIRED{again(attempt)}, its event does not exist"
    except Unchanged as look:
        return look.outcome


def _reconcile(
    store: Store, run: Run, event_id: Id, terms: Terms, busy: set[Id]
) -> tuple[str, Finding | None]:
    """As `_reconcile_now`, but complain of no counter that is only low until a buyer's command, which is
    over in milliseconds, has written its lock."""
    outcome, finding = LEFT, None
    for _ in islice(attempts(), LOOKS):
        outcome, finding = _reconcile_now(store, run, event_id, terms, busy)
        if outcome != LEFT:
            break
    return outcome, finding


def _reconcile_now(
    store: Store, run: Run, event_id: Id, terms: Terms, busy: set[Id]
) -> tuple[str, Finding | None]:
    """Set one counter to what invariant 1 says, never across a change made meanwhile: within a
    transaction the event is written first, so that nobody else's seats can move; without one, only
    if nobody else touched the event for QUIET, and only if it is still as it was read.

    Returns what was done about what a second look found, or ("", None) if that was nothing.
    """
    finding: Finding | None = None

    def work(session: Session) -> None:
        nonlocal finding
        event = (
            store.claim_event(event_id, terms.now, session) if store.transactions else store.event(event_id)
        )
        held = store.held_by_event(session, event_id).get(event_id, (0, 0))
        finding = judge_counter(store, event, held, session) if event else None
        if not event or not finding:
            raise Unchanged
        if finding.fault is not Fault.COUNTER_DRIFT:
            raise Unchanged(NEEDS_PERSON)
        if not store.transactions and not _may_correct(store, event, terms, busy):
            raise Unchanged(LEFT)
        if not store.swap_counter(event, expected_seats(event, held[0]), terms.now, session):
            raise StartOver

    try:
        again(lambda: store.transact(work))
    except Unchanged as look:
        return look.outcome, finding
    run.repairs += 1
    return DONE, finding


def _may_correct(store: Store, event: Document, terms: Terms, busy: set[Id]) -> bool:
    """Whether no half-done command can be at work on this event. One that takes seats stamps the
    event before its lock appears; one that gives them back stamps the lock before the event."""
    current = store.now()
    return is_quiet(event, current, terms, busy) and not store.lock_changed_since(
        event["_id"], current - QUIET, terms.now
    )


def is_quiet(event: Document, current: datetime, terms: Terms, busy: set[Id]) -> bool:
    """Whether nobody but this run changed an event for QUIET, so that no half-done lock command can
    be waiting to insert its lock. What this run left is as it left it."""
    event_id, changed = event["_id"], event.get("updatedAt")
    if event_id in busy:
        return False
    ours = event_id in terms.left and terms.left[event_id] == event.get("availableSeats")
    return ours or not isinstance(changed, datetime) or changed <= current - QUIET
