"""Commands that sell: lock, confirm, pay, release, extend."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import (
    DryRun,
    EventArgument,
    LockArgument,
    PaymentRef,
    Seats,
    any_id,
    choice,
    duration,
    flag,
    id_of,
    key_of,
    option,
    parse_id,
    parse_moment,
    parse_user,
)
from seatctl.domain.documents import BookingId, EventId, LockId, SeatLock, UserId
from seatctl.domain.rules import LOCK_TTL, PAYMENT_TTL
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.timespec import format_duration, format_time, parse_duration
from seatctl.domain.words import count, format_number, not_raised
from seatctl.errors import ItemsLeft, Usage
from seatctl.output import formats

if TYPE_CHECKING:
    from seatctl.services.extension import ExtendAllRequest, ExtendResult


@command("lock", example="seatctl lock EVENT_ID --user ada --seats 2 --key order-1017")
def lock(
    call: Invocation,
    event: EventArgument,
    user: Annotated[UserId, option("--user USER", parse_user, "Who the seats are for.")],
    seats: Seats,
    key: Annotated[str | None, key_of("lock")] = None,
    ttl: Annotated[timedelta, duration("How long the seats stay locked.", LOCK_TTL)] = LOCK_TTL,
) -> None:
    """Lock seats for a buyer until a deadline."""
    from seatctl.services import sales

    request = sales.LockRequest(event=event, user=user, seats=seats, key=key, ttl=ttl)
    result = sales.lock(call.store(), request)
    locked = result.lock
    what = f"{count(locked.seats, 'seat')} until {_time(locked.expires_at)}"
    if result.available is None:
        sentence = f"This key already locked {what} (unchanged); the lock is {locked.status}."
    else:
        sentence = f"Locked {what}; {format_number(result.available)} left."
    call.tell(locked.stored, f"{sentence} Lock {locked.id}.", quiet=locked.id)


@command("confirm", example="seatctl confirm LOCK_ID --payment-ttl 15m", takes_reason=True)
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
            "--sold", "The seats are paid for: create a paid booking. Also for a CONSUMED lock that has none."
        ),
    ] = False,
    ref: PaymentRef = None,
) -> None:
    """Turn a lock into a booking.

    The booking awaits payment; with --sold it is already paid."""
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
    from seatctl.services import payments

    if payment_ttl is not None:
        raise Usage("--sold records a sale that is paid; leave out --payment-ttl")
    result = payments.record_sale(call.store(), lock_id, ref)
    booking = result.booking
    sentence = f"This lock already has booking {booking.id}, which is {booking.status}."
    if result.created:
        sentence = f"Booking {booking.id} is {booking.status}: {count(result.lock.seats, 'seat')} sold."
    call.tell(booking.stored, sentence, quiet=booking.id)


@command("pay", example="seatctl pay BOOKING_ID --ref pi_3QK", takes_reason=True)
def pay(
    call: Invocation,
    booking_id: Annotated[BookingId, id_of("booking", "bookings", BookingStatus.PAYMENT_PENDING)],
    failed: Annotated[bool, flag("--failed", "The payment failed: return the seats.")] = False,
    ref: PaymentRef = None,
) -> None:
    """Record a booking's payment as made or failed.

    A late or a second payment is refused with exit code 3 (refund_due), and is then listed in
    `seatctl refunds`."""
    from seatctl.services import payments

    if failed and ref is not None:
        raise Usage("a payment that failed has no --ref")
    store = call.store()
    result = payments.fail_payment(store, booking_id) if failed else payments.pay(store, booking_id, ref)
    booking = result.booking
    already = "" if result.changed else " already"
    seats = "" if result.ended is None else f"; {_returned(result.ended, result.doubt)}"
    sentence = f"Booking {booking.id} is{already} {booking.status}{seats}."
    call.tell(booking.stored, f"{sentence}{not_raised(result.doubt)}", quiet=booking.id)


@command("release", example="seatctl release LOCK_ID", takes_reason=True)
def release(call: Invocation, lock_id: LockArgument) -> None:
    """Return the seats of a lock before its deadline."""
    from seatctl.services import sales

    store = call.store()
    if grace := store.settings.grace:
        call.note(f"another program may be confirming this lock; waiting {format_duration(grace)} to be sure")
    lock, doubt = sales.release(store, lock_id)
    sentence = f"Lock {lock.id} is {lock.status}; {_returned(lock, doubt)}."
    call.tell(lock.stored, f"{sentence}{not_raised(doubt)}", quiet=lock.id)


def _returned(lock: SeatLock, doubt: object) -> str:
    return f"{count(lock.seats, 'seat') if doubt is None else 'no seats'} returned"


def _time(deadline: datetime | None) -> str:
    return format_time(deadline) if deadline else "an unknown time"


@command("extend", example="seatctl extend LOCK_ID --for 30m", takes_reason=True)
def extend(
    call: Invocation,
    document_id: Annotated[Any, any_id("The id of a lock or booking.", "[ID]")] = None,
    time: Annotated[
        timedelta | None, option("--for DURATION", parse_duration, "New deadline, counted from now.")
    ] = None,
    until: Annotated[
        Any,  # a datetime, a timedelta or None, but Typer knows no unions
        option("--until TIME", parse_moment, "The new deadline: ISO 8601 (no zone = UTC) or +30m."),
    ] = None,
    overdue: Annotated[
        bool, flag("--overdue", "Also if the deadline has passed, as long as the seats are still held.")
    ] = False,
    event: Annotated[
        EventId | None,
        option("--event ID", parse_id, "Instead of an ID: all locks or all bookings of this event."),
    ] = None,
    status: Annotated[
        Literal["active", "payment_pending"] | None,
        choice("With --event: all locks (active) or all bookings (payment_pending)."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Extend the deadlines of locks and bookings.

    Takes one ID, or --event and --status for all those of an event. A booking's lock moves with it. A
    deadline never becomes earlier."""
    from seatctl.services import extension

    if (time is None) == (until is None):
        raise Usage("give either --for DURATION or --until TIME")
    target: datetime | timedelta = until if time is None else time
    if (event is None) != (status is None) or (event is None) == (document_id is None):
        raise Usage("give one ID, or --event and --status for all those of an event")
    if event is None or status is None:
        request = extension.ExtendRequest(document_id, target, overdue=overdue, dry_run=dry_run)
        _tell_extended(call, extension.extend(call.store(), request), document_id, time, dry_run=dry_run)
    else:
        wanted = BookingStatus.PAYMENT_PENDING if status == "payment_pending" else LockStatus.ACTIVE
        _extend_all(call, extension.ExtendAllRequest(event, wanted, target, overdue, dry_run))


def _how_to_add(command: str, time: timedelta | None, deadline: datetime) -> str:
    """How to give so much more time than until a deadline, where --for, which counts from now, gave none."""
    if time is None:
        return ""
    added = f"`{command} --until {format_time(deadline + time)}`"
    return f" --for counts from now; for {format_duration(time)} more: {added}."


def _tell_extended(
    call: Invocation, result: ExtendResult, wanted: object, time: timedelta | None, *, dry_run: bool
) -> None:
    booking, lock, deadline = result.booking, result.lock, format_time(result.deadline)
    what = f"Lock {lock.id}" if booking is None else f"Booking {booking.id}"
    if result.changed:
        # Who wants ten minutes more, and says --for 10m, may get ten minutes from now.
        if booking is None:
            sentence = f"{what} {'would expire' if dry_run else 'expires'} at {deadline}"
        else:
            sentence = f"{what} {'would have to' if dry_run else 'must'} be paid by {deadline}"
        sentence += f" instead of {_time(result.before)}; {count(lock.seats, 'seat')} held."
    elif result.left is None:
        kept = "is already locked until" if booking is None else "must already be paid by"
        sentence = f"{what} {kept} {deadline}; nothing changed."
    else:
        sentence = (
            f"{what} has {format_duration(result.left)} left, until {deadline}, which is later; nothing "
        )
        sentence += f"changed.{_how_to_add(f'seatctl extend {wanted}', time, result.deadline)}"
    shown = lock if booking is None or wanted == lock.id else booking
    call.tell(shown.stored, sentence, quiet=shown.id)


def _extend_all(call: Invocation, request: ExtendAllRequest) -> None:
    from seatctl.services import extension

    result = extension.extend_all(call.store(), request)
    what = "lock" if request.status is LockStatus.ACTIVE else "booking"
    deadline = format_time(result.deadline)
    verb = "Would extend" if request.dry_run else "Extended"
    document = {
        "extended": result.extended,
        "deadline": result.deadline,
        "skipped": [str(item) for item in result.skipped],
        "dryRun": request.dry_run,
    }
    if call.quiet and not call.json:
        formats.print_ids({"_id": one} for one in result.extended)
    else:
        later = ""
        if result.latest is not None:
            command = f"seatctl extend --event {request.event} --status {request.status.lower()}"
            time = request.until if isinstance(request.until, timedelta) else None
            later = f" Later deadlines, up to {format_time(result.latest)}, are unchanged."
            later += _how_to_add(command, time, result.latest)
        call.tell(document, f"{verb} {count(len(result.extended), what)} to {deadline}.{later}")
    for item in result.skipped:
        call.note(f"skipped {item}")
    if result.skipped:
        raise ItemsLeft(f"{count(len(result.skipped), what)} left: {result.skipped[0]}")
