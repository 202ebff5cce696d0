"""Commands that sell: lock, confirm, pay, release."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import (
    OPERATE,
    EventArgument,
    LockArgument,
    PaymentRef,
    Seats,
    duration,
    flag,
    id_of,
    option,
    parse_user,
)
from seatctl.domain.documents import BookingId, LockId, UserId
from seatctl.domain.rules import LOCK_TTL, PAYMENT_TTL
from seatctl.domain.states import BookingStatus
from seatctl.domain.timespec import format_duration, format_time
from seatctl.domain.words import count, format_number
from seatctl.errors import Usage

commands = typer.Typer()


@command(
    commands, "lock", panel=OPERATE, example="seatctl lock EVENT_ID --user ada --seats 2 --key order-1017"
)
def lock(
    call: Invocation,
    event: EventArgument,
    user: Annotated[UserId, option("--user USER", parse_user, "Who the seats are for.")],
    seats: Seats,
    key: Annotated[
        str | None,
        option("--key KEY", str, "Idempotency key: the same request again returns the same lock."),
    ] = None,
    ttl: Annotated[timedelta, duration("How long the seats stay locked.", LOCK_TTL)] = LOCK_TTL,
) -> None:
    """Lock seats for a buyer until a deadline."""
    from seatctl.services import sales

    request = sales.LockRequest(event=event, user=user, seats=seats, key=key, ttl=ttl)
    result = sales.lock(call.store(), request)
    locked = result.lock
    what = f"{count(locked.seats, 'seat')} until {_time(locked.expires_at)}"
    if not result.created:
        sentence = f"This key already locked {what} (unchanged); the lock is {locked.status}."
    elif result.available is None:
        sentence = f"Locked {what}."
    else:
        sentence = f"Locked {what}; {format_number(result.available)} left."
    call.tell(locked.stored, f"{sentence} Lock {locked.id}.", quiet=locked.id)


@command(
    commands, "confirm", panel=OPERATE, changes=True, example="seatctl confirm LOCK_ID --payment-ttl 15m"
)
def confirm(
    call: Invocation,
    lock_id: LockArgument,
    payment_ttl: Annotated[
        timedelta | None,
        duration(
            "How long to wait for the payment.",
            f"{format_duration(PAYMENT_TTL)}, but not before the lock's own deadline",
        ),
    ] = None,
    sold: Annotated[
        bool,
        flag(
            "--sold", "The seats are paid: make a paid booking at once. Also for a CONSUMED lock without one."
        ),
    ] = False,
    ref: PaymentRef = None,
) -> None:
    """Turn a lock into a booking.

    It waits for its payment; with --sold it is paid already."""
    from seatctl.services import sales

    if sold:
        _record_sale(call, lock_id, payment_ttl, ref)
        return
    if ref is not None:
        raise Usage("--ref is for --sold; `seatctl pay BOOKING_ID --ref REF` records a payment")
    result = sales.confirm(call.store(), sales.ConfirmRequest(lock=lock_id, payment_ttl=payment_ttl))
    booking, deadline = result.booking, _time(result.booking.payment_expires_at)
    sentence = f"Booking {booking.id} must be paid by {deadline}."
    if result.shortened:
        sentence += " That is earlier than the lock's own deadline was."
    if not result.created:
        sentence = f"This lock already has booking {booking.id}, which is {booking.status}"
        is_pending = booking.status is BookingStatus.PAYMENT_PENDING
        sentence += f", to be paid by {deadline} (unchanged)." if is_pending else "."
    call.tell(booking.stored, sentence, quiet=booking.id)


def _record_sale(call: Invocation, lock_id: LockId, payment_ttl: timedelta | None, ref: str | None) -> None:
    from seatctl.services import rebooking

    if payment_ttl is not None:
        raise Usage("--sold records a sale that is paid; leave out --payment-ttl")
    result = rebooking.record_sale(call.store(), lock_id, ref)
    booking = result.booking
    sentence = f"This lock already has booking {booking.id}, which is {booking.status}."
    if result.created:
        sentence = f"Booking {booking.id} is {booking.status}: {count(result.lock.seats, 'seat')} sold."
    call.tell(booking.stored, sentence, quiet=booking.id)


@command(commands, "pay", panel=OPERATE, changes=True, example="seatctl pay BOOKING_ID --ref pi_3QK")
def pay(
    call: Invocation,
    booking_id: Annotated[BookingId, id_of("booking", "bookings", BookingStatus.PAYMENT_PENDING)],
    failed: Annotated[bool, flag("--failed", "The payment failed: return the seats.")] = False,
    ref: PaymentRef = None,
) -> None:
    """Record the payment of a booking: paid, or failed.

    A payment that comes too late, or a second one, is refused with exit code 3 (refund_due), and is then
    listed in `seatctl refunds`."""
    from seatctl.services import sales

    if failed and ref is not None:
        raise Usage("a payment that failed has no --ref")
    store = call.store()
    result = sales.fail_payment(store, booking_id) if failed else sales.pay(store, booking_id, ref)
    booking = result.booking
    already = "" if result.changed else " already"
    seats = f"; {count(result.returned.seats, 'seat')} returned" if result.returned else ""
    call.tell(booking.stored, f"Booking {booking.id} is{already} {booking.status}{seats}.", quiet=booking.id)


@command(commands, "release", panel=OPERATE, changes=True, example="seatctl release LOCK_ID")
def release(call: Invocation, lock_id: LockArgument) -> None:
    """Return the seats of a lock before its deadline."""
    from seatctl.services import sales

    lock = sales.release(call.store(), lock_id)
    sentence = f"Lock {lock.id} is {lock.status}; {count(lock.seats, 'seat')} returned."
    call.tell(lock.stored, sentence, quiet=lock.id)


def _time(deadline: datetime | None) -> str:
    return format_time(deadline) if deadline else "an unknown time"
