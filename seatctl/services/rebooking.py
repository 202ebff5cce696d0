"""`rebook`: the sale of an ended booking after all, whose seats came back before its payment was known."""

from __future__ import annotations

from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import Booking, BookingId, Refund, SeatLock
from seatctl.domain.states import BookingStatus, LockStatus, RefundCause
from seatctl.domain.timespec import to_milliseconds
from seatctl.domain.validation import payment_ref
from seatctl.errors import WrongState, ensure_changed
from seatctl.mongo.store import Store
from seatctl.services.by_id import bookings_of, get_booking, get_event, lock_of, readable
from seatctl.services.events import too_few_seats
from seatctl.services.expiry import before_and_after_return
from seatctl.services.refunds import find_due_refund, reduce_refund
from seatctl.services.seats import log_counter


class RebookRequest(NamedTuple):
    """A booking that has ended, to sell its seats after all; `ref` names the payment."""

    booking: BookingId
    ref: str | None = None
    dry_run: bool = False


class RebookResult(NamedTuple):
    """The new booking and its lock; whether this call made them; how many seats the event has left; and the
    refund that is not due any more, or for fewer seats."""

    booking: Booking
    lock: SeatLock
    created: bool
    available: int | None = None
    refund: Refund | None = None


def rebook(store: Store, request: RebookRequest) -> RebookResult:
    """Sell the seats of an ended booking after all: a CONSUMED lock and a CONFIRMED booking, and no refund is
    due for them any more. Again: the same booking. On an event with too few seats left, what is overdue
    there is returned first (invariants 5, 6 and 12).

    Raises Usage, NotFound, WrongState, Closed, SoldOut, DamagedDocument, CountedByDay.
    """
    request = request._replace(ref=payment_ref(request.ref))
    event_id = get_booking(store, request.booking).event
    for returned in before_and_after_return(store, event_id, dry_run=request.dry_run):
        for attempt in store.transaction_attempts(dry_run=request.dry_run):
            with attempt as tx:
                if returned:
                    tx.events.add_seats(returned, tx.now())
                result = _rebook_within(tx, request)
        if result is not None:
            if result.available is not None and not request.dry_run:
                log_counter(event_id, result.available, -result.lock.seats)
            return result
    lock = lock_of(store, get_booking(store, request.booking))
    raise too_few_seats(store, event_id, 0 if lock is None else lock.seats)


def _rebook_within(tx: Store, request: RebookRequest) -> RebookResult | None:
    """None when the event has too few seats."""
    old = get_booking(tx, request.booking)
    key = f"{rules.REBOOK_KEY}{old.id}"
    # Of the transaction's snapshot: whoever rebooks it at once writes the event too, and one starts over.
    if (made := tx.locks.by_key(old.event, old.user, key)) is not None:
        return _rebooked_before(tx, old, readable(made), request.ref)
    lock = rules.check_rebookable(old, lock_of(tx, old), tx.now(), request.ref)
    paid = find_due_refund(old, tx.refunds.of_booking(old.id), request.ref)
    rules.check_on_sale(get_event(tx, old.event))
    event = tx.events.take_seats(old.event, lock.seats)
    if event is None:
        return None
    now = tx.now()
    deadline = to_milliseconds(now + rules.LOCK_TTL)  # of no meaning for a sold lock, and never missing
    sold = tx.locks.insert(event.id, old.user, lock.seats, deadline, key, now, LockStatus.CONSUMED)
    ref = request.ref if paid is None else request.ref or paid.payment_ref
    new = tx.bookings.insert(sold, deadline, now, BookingStatus.CONFIRMED, ref)
    kept = None if paid is None else reduce_refund(tx, paid, _seats_due(paid, old, lock), now, ref)
    # A payment for the old booking that is refused at once writes it, too, and one of them starts over.
    ensure_changed(tx.bookings.stamp(old, "rebookedAt", now))
    after = {"status": new.status.value, "seats": sold.seats}
    tx.operations.record("rebook", now, event.id, sold.id, new.id, refund=kept, others=[old.id], after=after)
    return RebookResult(new, sold, created=True, available=event.available, refund=kept)


def _seats_due(paid: Refund, old: Booking, lock: SeatLock) -> int:
    """How many seats of a refund are for those of the lock, and not for others that the buyer returned
    before. Where those were returned without a refund it says too few: what is too much then stays due, and a
    person sees it."""
    earlier = old.seats_cancelled if paid.cause is RefundCause.CANCELLED else 0
    return min(lock.seats, max(0, paid.seats - earlier))


def _rebooked_before(tx: Store, old: Booking, lock: SeatLock, ref: str | None) -> RebookResult:
    """The same booking again, whose payment may only be known now."""
    booking = next(iter(bookings_of(tx, lock.id)), None)
    if booking is None or booking.status is not BookingStatus.CONFIRMED:
        state = f"booking {booking.id}, which is {booking.status}" if booking else f"lock {lock.id}"
        way_out = f"; `seatctl rebook {booking.id}`" if booking else ""
        raise WrongState(f"booking {old.id} was rebooked as {state}{way_out}")
    if ref is None or booking.payment_ref is not None:
        return RebookResult(booking, lock, created=False)
    now, paid = tx.now(), find_due_refund(old, tx.refunds.of_booking(old.id), ref)
    named = ensure_changed(tx.bookings.set_payment(booking, ref, now))
    ensure_changed(tx.bookings.stamp(old, "rebookedAt", now))
    kept = None if paid is None else reduce_refund(tx, paid, _seats_due(paid, old, lock), now, ref)
    after = {"paymentRef": ref}
    tx.operations.record(
        "rebook", now, old.event, lock.id, named.id, refund=kept, others=[old.id], after=after
    )
    return RebookResult(named, lock, created=False, refund=kept)
