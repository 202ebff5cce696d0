"""`refund`, and what makes a refund due or withdraws it: money that has to go back (invariant 12)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from seatctl.domain.documents import Booking, Refund, RefundId, SeatLock, mapping_in
from seatctl.domain.rules import REBOOK_KEY
from seatctl.domain.states import BookingStatus, RefundCause, RefundStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.validation import text
from seatctl.domain.words import count, ref_option, shorten
from seatctl.errors import DamagedDocument, RefundDue, Refused, WrongState, ensure_changed
from seatctl.mongo.store import Store
from seatctl.services.by_id import booking_of, not_found


class Payment(NamedTuple):
    """A payment that cannot be honoured: for which booking, how many seats, why, and what it is called; and
    whether the seats are held still, so that more time would let it count."""

    booking: Booking
    seats: int
    cause: RefundCause
    ref: str | None
    seats_are_held: bool = False


class RefundResult(NamedTuple):
    """The refund, and whether this call changed it."""

    refund: Refund
    changed: bool


def refuse(tx: Store, payment: Payment, reason: str, now: datetime) -> Refused:
    """Record once that a payment has to go back; returns what to raise when that is committed."""
    booking, seats, cause, ref, seats_are_held = payment
    if ref is None:  # the payment whose reference became known later
        ref = booking.payment_ref
    again = _rebooked(tx, booking)
    if again is not None and ref in (None, again.payment_ref):
        return WrongState(f"{reason}; it was rebooked with this payment, nothing is due")
    # A payment goes back once, whatever for: one that was cancelled is not late, too.
    same = _of_payment(booking, tx.refunds.of_booking(booking.id), ref)
    if not same and cause is RefundCause.LATE_PAYMENT and _paid_once(tx, booking, ref):
        return WrongState(f"{reason}; it was paid, and cancelled without a refund")
    if same:
        refund = next((one for one in same if one.status is RefundStatus.DUE), same[-1])
        nameless, refund = refund, _named(tx, refund, ref, now)
        if refund is not nameless:
            event, after = refund.event, {"paymentRef": ref}
            tx.operations.record("pay", now, event, booking=booking.id, refund=refund, after=after)
    else:
        # Whatever makes the payment count after all writes the booking, too: only one of them is true.
        ensure_changed(tx.bookings.stamp(booking, "paymentRefusedAt", now))
        refund = tx.refunds.record(booking, seats, cause, ref, now)
        ids, after = (booking.event, booking.lock, booking.id), {"refund": refund.status.value}
        tx.operations.record("pay", now, *ids, refund=refund, after=after)
    if refund.status is not RefundStatus.DUE:
        other = "; another payment needs a --ref of its own" if ref is None else ""
        return WrongState(f"{reason}; {_how_it_ended(refund)}{other}")
    seats_paid = f" ({count(refund.seats, 'seat')})" if refund.seats else ""
    if again is not None and again.payment_ref is not None:
        way_out = f". It was rebooked as {again.id}, paid as {shorten(again.payment_ref)!r}"
    else:
        way_out = _way_out(booking, refund.payment_ref, seats_are_held=seats_are_held)
    return RefundDue(f"{reason}; a refund is due: {refund.id}{seats_paid}{way_out}")


def _of_payment(booking: Booking, refunds: Sequence[Refund], ref: str | None) -> list[Refund]:
    """Those of a booking's refunds that are of one payment. One without a reference is whichever payment was
    recorded before; one that was recorded without it is, while it is due, the one that is named now."""
    if ref is None:
        return [*refunds]
    named = [refund for refund in refunds if refund.payment_ref == ref]
    if named or booking.payment_ref is not None:
        return named
    return [one for one in refunds if one.payment_ref is None and one.status is RefundStatus.DUE]


def _named(tx: Store, refund: Refund, ref: str | None, now: datetime) -> Refund:
    """A refund with its payment's reference, if that is known only now."""
    if ref is None or refund.payment_ref is not None:
        return refund
    return ensure_changed(tx.refunds.set_payment(refund.id, ref, now))


def _rebooked(tx: Store, booking: Booking) -> Booking | None:
    """The booking that was made of this one again."""
    lock = tx.locks.by_key(booking.event, booking.user, f"{REBOOK_KEY}{booking.id}")
    return booking_of(tx, lock.id) if isinstance(lock, SeatLock) else None


def _paid_once(tx: Store, booking: Booking, ref: str | None) -> bool:
    """Whether this payment paid for the booking before an operator cancelled it."""
    if booking.status is not BookingStatus.CANCELLED or booking.payment_ref != ref:
        return False
    before = (mapping_in(operation.get("before")) for operation in tx.operations.concerning([booking.id]))
    return any(one.get("status") == BookingStatus.CONFIRMED.value for one in before)


def _way_out(booking: Booking, ref: str | None, *, seats_are_held: bool) -> str:
    """How the buyer may get the seats after all."""
    match booking.status:
        case BookingStatus.PAYMENT_PENDING if seats_are_held:
            longer = f"`seatctl extend {booking.id} --for 10m --overdue`"
            pay = f"`seatctl pay {booking.id}{ref_option(ref)}`"
            return f". While the seats are held, {longer} gives more time to pay, then {pay} counts"
        case BookingStatus.EXPIRED | BookingStatus.FAILED | BookingStatus.CANCELLED:
            return f". `seatctl rebook {booking.id}{ref_option(ref)}` rebooks the seats if they are free"
    return ""


def _how_it_ended(refund: Refund) -> str:
    when = refund.stored.get("doneAt")
    at = f" at {format_time(when)}" if isinstance(when, datetime) else ""
    if refund.status is RefundStatus.WITHDRAWN:
        return f"its refund {refund.id} was withdrawn{at}; `seatctl history {refund.id}` says why"
    return f"its refund {refund.id} was paid{at} (reference {shorten(str(refund.stored.get('doneRef')))!r})"


def withdraw_late(tx: Store, booking: Booking, ref: str | None, seats: int, now: datetime) -> Refund | None:
    """A payment that was refused as late counts after all, for so many seats: the one of this reference, or,
    without one, the only one that was. Raises WrongState where several were, or the money is back."""
    refunds = tx.refunds.of_booking(booking.id)
    late = [refund for refund in refunds if refund.cause is RefundCause.LATE_PAYMENT]
    refund = find_due_refund(booking, late, ref)
    return None if refund is None else reduce_refund(tx, refund, seats, now, ref)


def find_due_refund(booking: Booking, refunds: Sequence[Refund], ref: str | None) -> Refund | None:
    """The refund that is due of the payment by this reference, or, without one, the only one. Raises
    WrongState where the money is back already, or where several are due."""
    same = _of_payment(booking, refunds, ref)
    due = [refund for refund in same if refund.status is RefundStatus.DUE]
    done = [refund for refund in same if refund.status is RefundStatus.DONE]
    if len(due) > 1:
        raise WrongState(_several(due))
    if not due and done:
        raise WrongState(f"booking {booking.id}: {_how_it_ended(done[-1])}")
    return due[0] if due else None


def _several(due: Sequence[Refund]) -> str:
    refs = ", ".join(sorted(repr(refund.payment_ref or "") for refund in due))
    nameless = next((refund for refund in due if refund.payment_ref is None), None)
    way_out = f"; if '' is one of the others, `seatctl refund {nameless.id} --withdraw`" if nameless else ""
    several = f"booking {due[0].booking} has several refunds due"
    return f"{several}; --ref says which payment counts: {refs}{way_out}"


def reduce_refund(tx: Store, refund: Refund, seats: int, now: datetime, ref: str | None) -> Refund:
    """So many of a refund's seats are sold after all: it is due for the others, or withdrawn. It takes over
    the payment's reference, if that is known only now."""
    refund = _named(tx, refund, ref, now)
    if refund.seats > seats:
        return tx.refunds.change_seats(refund, refund.seats - seats, now)
    return ensure_changed(tx.refunds.finish(refund.id, RefundStatus.WITHDRAWN, now, None))


def mark_done(store: Store, refund_id: RefundId, ref: str) -> RefundResult:
    """Record that the money went back, and what that payment is called. Again: once. Raises Usage, NotFound,
    WrongState where it went back by another payment or is not due."""
    return _settle(store, refund_id, RefundStatus.DONE, text("ref", ref))


def withdraw(store: Store, refund_id: RefundId) -> RefundResult:
    """Record a person's decision that a refund is not owed. Again: once. Raises NotFound, WrongState where
    the money went back."""
    return _settle(store, refund_id, RefundStatus.WITHDRAWN, None)


def _settle(store: Store, refund_id: RefundId, to: RefundStatus, ref: str | None) -> RefundResult:
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _settle_within(tx, refund_id, to, ref)
    return result


def _settle_within(tx: Store, refund_id: RefundId, to: RefundStatus, ref: str | None) -> RefundResult:
    found = tx.refunds.get(refund_id)
    if found is None:
        if tx.refunds.stored(refund_id) is not None:
            raise DamagedDocument(f"refund {refund_id} cannot be read; `seatctl show {refund_id}`")
        raise not_found(tx, "refund", refund_id)
    if found.status is to and found.stored.get("doneRef") == ref:
        return RefundResult(found, changed=False)
    if found.status is not RefundStatus.DUE:
        raise WrongState(f"booking {found.booking}: {_how_it_ended(found)}")
    now = tx.now()
    settled = ensure_changed(tx.refunds.finish(refund_id, to, now, ref))
    before, after = {"status": found.status.value}, {"status": to.value}
    if ref is not None:
        after["doneRef"] = ref
    ids = settled.event, None, settled.booking
    tx.operations.record("refund", now, *ids, refund=settled, before=before, after=after)
    return RefundResult(settled, changed=True)
