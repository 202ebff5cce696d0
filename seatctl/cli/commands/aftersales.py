"""Commands that set a sale right afterwards: rebook, refund, relock."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import OPERATE, DryRun, PaymentRef, flag, id_of, option, parse_seats
from seatctl.domain.documents import BookingId, Refund, RefundId
from seatctl.domain.states import BookingStatus, RefundStatus
from seatctl.domain.words import count, format_number
from seatctl.errors import Usage

commands = typer.Typer()
operate = partial(command, commands, panel=OPERATE, changes=True)
"""Registers a command that changes something by an operator's decision."""


@operate("rebook", example="seatctl rebook BOOKING_ID --ref pi_3QK")
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
    if dry_run and result.created:
        call.tell_plan(booking.stored, sentence)
    else:
        call.tell(booking.stored, sentence, quiet=booking.id)


def _kept(refund: Refund | None, *, dry_run: bool) -> str:
    """What became of the refund that was due."""
    if refund is None:
        return "; no refund was due"
    if refund.status is RefundStatus.DUE:
        stays = "would stay" if dry_run else "stays"
        return f"; refund {refund.id} {stays} due for {count(refund.seats, 'seat')}"
    return f"; refund {refund.id} {'would be' if dry_run else 'is'} withdrawn"


@operate("refund", example="seatctl refund REFUND_ID --ref re_1Nx")
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


@operate("relock", example="seatctl relock BOOKING_ID")
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
