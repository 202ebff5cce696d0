"""Commands on a booking after its sale: cancel, rebook, refund, relock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import DryRun, PaymentRef, flag, id_of, option, parse_seats, parse_total
from seatctl.domain.documents import BookingId, Refund, RefundId
from seatctl.domain.states import BookingStatus, RefundStatus
from seatctl.domain.words import count, format_number, not_raised
from seatctl.errors import Usage

if TYPE_CHECKING:
    from seatctl.services.cancellation import CancelResult


@command("cancel", example="seatctl cancel BOOKING_ID --reason refunded", takes_reason=True)
def cancel(
    call: Invocation,
    document_id: Annotated[BookingId, id_of("booking", "bookings", BookingStatus.CONFIRMED)],
    seats: Annotated[
        int | None,
        option(
            "--seats N",
            parse_total,
            "Bring the number of cancelled seats to N; the booking keeps the rest.",
        ),
    ] = None,
    no_refund: Annotated[bool, flag("--no-refund", "Do not record a refund.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Cancel a booking, paid or not, and return its seats.

    If it was paid, `seatctl refunds` lists the refund that is due. With the id of a lock that is CONSUMED
    without a paid booking: return its seats."""
    from seatctl.services import cancellation

    request = cancellation.CancelRequest(document_id, seats, not no_refund, dry_run)
    result = cancellation.cancel(call.store(), request)
    shown = result.booking or result.lock
    assert shown is not None
    call.tell(shown.stored, _cancelled(result, seats, dry_run=dry_run), quiet=shown.id)


def _cancelled(result: CancelResult, seats: int | None, *, dry_run: bool) -> str:
    """What `cancel` did, or would do."""
    booking, lock = result.booking, result.lock
    name = f"booking {booking.id}" if booking is not None else f"lock {lock.id if lock else ''}"
    if not result.changed:
        if seats is not None:
            return f"{name.capitalize()} already has {count(seats, 'seat')} cancelled (unchanged)."
        return f"{name.capitalize()} is already CANCELLED (unchanged)."
    done = f"{'Would cancel' if dry_run else 'Cancelled'} "
    parts = []
    if seats is None or lock is None or not result.seats:
        done += name
        parts.append(f"{count(result.seats, 'seat')} returned" if result.seats else "no seats returned")
    else:
        done += f"{count(result.seats, 'seat')} of {name}, which keeps {lock.seats}"
    if lock is None:
        parts.append("its lock is missing")
    if result.available is not None:
        parts.append(f"{format_number(result.available)} available")
    if result.refund is not None:
        parts.append(f"refund {'would be ' if dry_run else ''}due ({_refund_in_words(result.refund)})")
    elif booking is not None and booking.payment_ref is not None:
        parts.append("no refund")
    return f"{done}: {', '.join(parts)}.{not_raised(result.doubt)}"


def _refund_in_words(refund: Refund) -> str:
    seats = count(refund.seats, "seat") if refund.seats else "an unknown number of seats"
    return f"{refund.id}, {seats}"


@command("rebook", example="seatctl rebook BOOKING_ID --ref pi_3QK", takes_reason=True)
def rebook(
    call: Invocation,
    booking_id: Annotated[BookingId, id_of("booking", "bookings", BookingStatus.EXPIRED)],
    ref: PaymentRef = None,
    dry_run: DryRun = False,
) -> None:
    """Rebook an ended booking, if its seats are still free.

    For a late payment: creates a new, paid booking, and withdraws the refund."""
    from seatctl.services import rebooking

    result = rebooking.rebook(call.store(), rebooking.RebookRequest(booking_id, ref, dry_run))
    booking = result.booking
    if not result.created:
        sentence = f"Booking {booking_id} was already rebooked as {booking.id} (unchanged)."
    else:
        is_sold = f"Booking {booking.id} is CONFIRMED"
        sentence = f"Booking {booking_id} would be rebooked" if dry_run else is_sold
        sentence += f": {count(result.lock.seats, 'seat')} sold"
        if result.available is not None:
            sentence += f", {format_number(result.available)} left"
        sentence += f"{_kept(result.refund, dry_run=dry_run)}."
    call.tell(booking.stored, sentence, quiet=booking.id, planned=dry_run and result.created)


def _kept(refund: Refund | None, *, dry_run: bool) -> str:
    """What became of the refund that was due."""
    if refund is None:
        return "; no refund was due"
    if refund.status is RefundStatus.DUE:
        stays = "would stay" if dry_run else "stays"
        return f"; refund {refund.id} {stays} due for {count(refund.seats, 'seat')}"
    return f"; refund {refund.id} {'would be' if dry_run else 'is'} withdrawn"


@command("refund", example="seatctl refund REFUND_ID --ref re_1Nx", takes_reason=True)
def refund(
    call: Invocation,
    refund_id: Annotated[RefundId, id_of("refund", "refunds", RefundStatus.DUE)],
    ref: Annotated[
        str | None, option("--ref REF", str, "The refund was paid: the provider's reference.")
    ] = None,
    withdraw: Annotated[bool, flag("--withdraw", "The refund is not owed; say why with --reason.")] = False,
) -> None:
    """Record that a refund was paid, or that it is not owed."""
    from seatctl.services import refunds

    if withdraw == (ref is not None):
        raise Usage("give --ref REF if the refund was paid, or --withdraw if it is not owed")
    store = call.store()
    result = refunds.withdraw(store, refund_id) if ref is None else refunds.mark_done(store, refund_id, ref)
    done = result.refund
    sentence = f"Refund {done.id} of booking {done.booking} is {done.status}"
    call.tell(done.stored, f"{sentence}{'.' if result.changed else ' already (unchanged).'}", quiet=done.id)


@command("relock", example="seatctl relock BOOKING_ID", takes_reason=True)
def relock(
    call: Invocation,
    booking_id: Annotated[BookingId, id_of("booking", "bookings")],
    seats: Annotated[
        int | None, option("--seats N", parse_seats, "How many seats it had, if its lock is gone.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Give a booking a lock of its own, with its seats.

    For a booking whose lock is missing, is shared with another booking, or holds seats of another event
    (`seatctl explain confirmed_without_lock`, `several_bookings`, `other_event`)."""
    from seatctl.services.relocking import relock

    result = relock(call.store(writes=False), booking_id, seats, dry_run=dry_run)
    booking, lock, left = result.booking, result.lock, result.left
    if lock is None:
        sentence = f"Booking {booking.id} is {booking.status} and needs no lock."
    elif not result.changed:
        sentence = f"Booking {booking.id} already has a lock of its own, {lock.id}, which is {lock.status}."
    else:
        has = "would have a lock" if dry_run else f"has lock {lock.id}"
        sentence = f"Booking {booking.id} {has} with {count(lock.seats, 'seat')}, {lock.status}."
        if left is not None:
            sentence += f" Its former lock {left.id} is {left.status}."
    call.tell(booking.stored, sentence, quiet=booking.id)
