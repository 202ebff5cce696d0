"""`cancel-event`: an event is off. Its sales stop, then everything of it ends in batches, and what was paid
has to go back.

The first transaction closes and cancels the event; from then on nothing of it is sold. In each further one
the seats that it ends go straight into the event's block: none is ever available, so no counter is raised and
no clearance is needed. A run that is interrupted or killed goes on when the command is repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from seatctl.domain.documents import (
    BookingId,
    EventId,
    Kind,
    LockId,
    Refund,
    RefundId,
    StoredDocument,
    Unreadable,
)
from seatctl.domain.rules import BATCH, LISTED
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.words import and_more, count, shorten
from seatctl.errors import CachePressure, Contention, CursorLost, Usage, WriteRefused
from seatctl.mongo.aggregations import scope_of
from seatctl.mongo.collection import chunks
from seatctl.mongo.store import Store
from seatctl.services.by_id import get_event, stored_event
from seatctl.services.closing import block_available, take_off_sale
from seatctl.services.event_cancellation_batch import CancellationBatch, end_batch, plan_bookings, plan_locks
from seatctl.services.expiry import BATCH_PATIENCE, CURSOR_RETRIES
from seatctl.services.jobs import SILENT, Progress
from seatctl.services.signals import Stop, listening
from seatctl.services.sweeps import SkippedItem

log = logging.getLogger(__name__)

COMMAND = "cancel-event"
LISTS = BookingStatus.PAYMENT_PENDING, BookingStatus.CONFIRMED
"""In the order in which a booking goes through them: one that is paid meanwhile is on the second list, and
beside one that waits a paid one still shows that their lock was sold to somebody."""


class CancelEventRequest(NamedTuple):
    """An event to cancel, and its name once more, so that it is not another one."""

    event: EventId
    name: str
    dry_run: bool = False
    batch_size: int = BATCH


@dataclass(slots=True)
class CancelEventResult:
    """What cancelling an event did, or in a dry run would do."""

    event: StoredDocument
    already: bool
    """Whether the event was cancelled before."""
    bookings: int = 0
    locks: int = 0
    """Those that ended, also with their bookings."""
    seats: int = 0
    refunds: int = 0
    """Those that this run recorded or increased."""
    increased: int = 0
    due: int = 0
    """All that are due for the event then."""
    owed: list[StoredDocument] = field(default_factory=list)
    """Of those the oldest, and one more than are listed if there are more."""
    skipped: list[SkippedItem] = field(default_factory=list)

    @property
    def done(self) -> str:
        """How far it is, in words."""
        return f"{count(self.bookings, 'booking')} and {count(self.locks, 'lock')}"

    @property
    def error(self) -> str | None:
        """Why it is no success, or None."""
        if not self.skipped:
            return None
        return f"skipped {self.skipped[0]}{and_more(len(self.skipped))}"

    def as_document(self) -> StoredDocument:
        return {
            **self.event,
            "cancellation": {
                "bookings": self.bookings,
                "locks": self.locks,
                "seats": self.seats,
                "refunds": self.refunds,
                "refundsIncreased": self.increased,
                "refundsDue": self.due,
                "owed": self.owed[:LISTED],
                "skippedCount": len(self.skipped),
                "skipped": [item.as_document() for item in self.skipped[:LISTED]],
            },
        }


def cancel_event(store: Store, request: CancelEventRequest, progress: Progress = SILENT) -> CancelEventResult:
    """Stop the sales of an event for good, and end all its bookings and locks. Again: goes on where it
    stopped. What cannot be read, or may be paid, is skipped and named.

    Raises Usage for another name, NotFound, DamagedDocument, CountedByDay, Interrupted (invariants 1, 3, 5,
    11, 12 and 14).
    """
    for attempt in store.transaction_attempts(dry_run=request.dry_run):
        with attempt as tx:
            result = _close_within(tx, request)
    run = _Run(store, request, result, progress)
    with listening() as stop:
        run.end_everything(stop)
        stop.check(f"interrupted after {result.done}; run the same command again to continue")
    if not request.dry_run:
        result.event = store.events.stored(request.event) or result.event
    run.say_who_is_owed()
    return result


def _close_within(tx: Store, request: CancelEventRequest) -> CancelEventResult:
    event, now = get_event(tx, request.event), tx.now()
    if request.name.strip() != event.name.strip():
        raise Usage(
            f"event {event.id} is called {shorten(event.name)!r}, not {shorten(request.name)!r}: nothing was "
            "changed"
        )
    if event.cancelled_at is not None:
        return CancelEventResult(stored_event(tx, event.id), already=True)
    cancelled, seats = take_off_sale(tx, event, now, cancel=True)
    before = {"cancelledAt": None, "availableSeats": event.available}
    after = {"cancelledAt": now, "availableSeats": cancelled["availableSeats"]}
    tx.operations.record(COMMAND, now, event.id, before=before, after=after)
    log.info("event %s is cancelled, %s taken off sale", event.id, count(seats, "seat"))
    return CancelEventResult(cancelled, already=False)


@dataclass(slots=True)
class _Run:
    """One run of the command after the event was cancelled."""

    store: Store
    request: CancelEventRequest
    result: CancelEventResult
    progress: Progress
    protected: dict[LockId, Unreadable] = field(default_factory=dict)
    """Locks that a booking names by something that is no ObjectId."""
    kept: set[LockId] = field(default_factory=set)
    """Locks that were confirmed behind this pass: it takes another one."""
    ended: set[BookingId] = field(default_factory=set)
    """In a dry run, bookings that would have ended by then, if another one names their lock."""
    advanced: int = 0
    planned: dict[RefundId, Refund] = field(default_factory=dict)
    """In a dry run, refunds as they would be: all that increase, and as many new ones as are listed."""

    def end_everything(self, stop: Stop) -> None:
        """Pass after pass until one ends nothing: a buyer may have confirmed a lock behind the first."""
        self.progress.start("bookings and locks", self._count)
        failures = 0
        try:
            while stop.go_on():
                before, kept = self.result.done, self.kept
                self.kept = set()
                try:
                    self._pass(stop)
                except CursorLost:
                    failures += 1
                    if failures == CURSOR_RETRIES or self.request.dry_run:
                        raise
                    continue
                if self.request.dry_run or (before == self.result.done and self.kept <= kept):
                    break
        finally:
            self.progress.stop()
        if not self.request.dry_run:
            for attempt in self.store.transaction_attempts():
                with attempt as tx:
                    now = tx.now()
                    if seats := block_available(tx, self.request.event, now):
                        tx.operations.record(COMMAND, now, self.request.event, after={"seatsBlocked": seats})

    def say_who_is_owed(self) -> None:
        """Put what is due into the result, and in a dry run what would be, the oldest first."""
        result, refunds = self.result, self.store.refunds
        due = islice(refunds.due_of_event(self.request.event), LISTED + 1)
        planned = dict(self.planned)
        shown = [planned.pop(refund.id, refund) for refund in due]
        result.owed = [refund.stored for refund in [*shown, *planned.values()][: LISTED + 1]]
        result.due = refunds.count_due_of(self.request.event)
        if self.request.dry_run:
            result.due += result.refunds - result.increased

    def _count(self) -> int:
        """What is left: a booking that waits goes with its ACTIVE lock, and the event's block stays. A dry
        run ends nothing of what is counted."""
        paid = self.store.bookings.count_of(self.request.event, BookingStatus.CONFIRMED)
        locks = self.store.locks.count_of(self.request.event, LockStatus.ACTIVE)
        left = paid + locks - len(self.store.locks.of_closing(self.request.event))
        return left - (self.advanced if self.request.dry_run else 0)

    def _pass(self, stop: Stop) -> None:
        scope = scope_of([self.request.event])
        self.result.skipped = []
        self.protected = self.store.bookings.protecting_by_text(scope)
        for status in LISTS:
            self._in_batches(stop, Kind.BOOKING, self.store.bookings.ids_of(self.request.event, status))
        self._in_batches(stop, Kind.LOCK, self.store.locks.ids_of(self.request.event, LockStatus.ACTIVE))
        for unreadable in (*self.store.bookings.unreadable(scope), *self.store.locks.unreadable(scope)):
            self._skip(unreadable.kind, unreadable.id, unreadable.reason)
        self._name_sold_without_booking()

    def _in_batches(self, stop: Stop, kind: Kind, ids: Iterable[object]) -> None:
        for batch in chunks(ids, self.request.batch_size):
            if not stop.go_on():
                return
            self._end(kind, batch)

    def _end(self, kind: Kind, ids: Sequence[object]) -> None:
        """One transaction, or where the server or another writer does not let it pass, two for the halves."""
        try:
            self._end_at_once(kind, ids)
        except (WriteRefused, CachePressure, Contention) as error:
            if len(ids) == 1:
                self._skip(kind, ids[0], str(error))
                return
            middle = len(ids) // 2
            self._end(kind, ids[:middle])
            self._end(kind, ids[middle:])

    def _end_at_once(self, kind: Kind, ids: Sequence[object]) -> None:
        for attempt in self.store.transaction_attempts(BATCH_PATIENCE, dry_run=self.request.dry_run):
            with attempt as tx:
                batch = self._plan(tx, kind, ids)
                if batch.bookings or batch.locks:
                    end_batch(tx, self.request.event, batch)
                planned = self._plan_refunds(tx, batch) if self.request.dry_run else []
        if self.request.dry_run:
            self.planned |= {refund.id: refund for refund in planned}
            self.ended.update(batch.beside_others)
        result = self.result
        result.increased += batch.increased
        result.bookings += len(batch.bookings)
        result.locks += len(batch.locks)
        result.seats += batch.seats
        result.refunds += len(batch.paid)
        result.skipped += batch.skipped
        self.kept.update(() if self.request.dry_run else batch.kept)
        log.info("%s ended so far", result.done)
        ended = len(batch.bookings if kind is Kind.BOOKING else batch.locks)
        self.advanced += ended
        self.progress.advance(ended)

    def _plan_refunds(self, tx: Store, batch: CancellationBatch) -> list[Refund]:
        wanted = max(LISTED + 1 - len(self.planned), 0)
        increased = [booking.id for booking in batch.paid if booking.seats_cancelled]
        return tx.refunds.due_of_bookings([*increased, *(booking.id for booking in batch.paid[:wanted])])

    def _plan(self, tx: Store, kind: Kind, ids: Sequence[object]) -> CancellationBatch:
        if kind is Kind.BOOKING:
            booking_ids = [BookingId(each) for each in ids]
            return plan_bookings(tx, self.request.event, booking_ids, self.protected, self.ended)
        return plan_locks(tx, self.request.event, [LockId(each) for each in ids], self.protected)

    def _name_sold_without_booking(self) -> None:
        """CONSUMED locks that no booking was paid for: someone may have paid, and a person must say."""
        for lock_ids in chunks(self.store.locks.ids_of(self.request.event, LockStatus.CONSUMED), BATCH):
            booked = {lock_id for lock_id, _ in self.store.bookings.protecting(lock_ids)}
            for lock_id in lock_ids:
                if lock_id not in booked:
                    reason = "it is CONSUMED without a booking: `seatctl explain consumed_without_booking`"
                    self._skip(Kind.LOCK, lock_id, reason)

    def _skip(self, kind: Kind, item: object, reason: str) -> None:
        self.result.skipped.append(SkippedItem(kind, item, reason))
