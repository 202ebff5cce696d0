"""What may happen to a lock or a booking. Every rule that depends on time takes `now` as an argument."""

from __future__ import annotations

from datetime import datetime, timedelta

from seatctl.domain.documents import Booking, Event, LockId, SeatLock, Unreadable
from seatctl.domain.states import ENDED_BOOKING, BookingStatus, LockStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count, ref_option, shorten
from seatctl.errors import Closed, DeadlinePassed, KeyReused, RefundDue, WrongState

MAX_SEATS = 1_000_000
LARGEST_NUMBER = 2**31 - 1
"""No number of seats is larger: the sum over a whole batch must fit into MongoDB's integers."""
MAX_TEXT = 200
MAX_DESCRIPTION = 10_000
LOCK_TTL = timedelta(minutes=10)
PAYMENT_TTL = timedelta(minutes=15)
LONGEST_TTL = timedelta(days=365)
FAR = timedelta(days=366)
"""A deadline that is further away than this is a mistake: seatctl sets none like it, and nobody notices what
it holds."""
RETENTION = timedelta(days=30)
SETTLE = timedelta(seconds=5)
"""How long a drift must last before recovery raises a counter by it: another program without
transactions may be between its two writes."""
TOUCHED = timedelta(minutes=1)
"""An event that nobody changed for so long has no such writer, and needs no wait."""
REBOOK_KEY = "rebook-"
"""How the key of a lock begins that was made for a booking that had ended."""
BATCH, LARGEST_BATCH = 5_000, 10_000
"""Items in one transaction: 5,000 are 0.2 s of work, far below MongoDB's limit of 60 s."""

LISTED = 100
"""Items that are named in one report; their number is always complete."""


def check_same_request(lock: SeatLock, seats: int, returned: int = 0) -> None:
    """A key stands for one request: the same number of seats again, with those that the buyer `returned`
    since, or KeyReused."""
    if lock.seats + returned != seats:
        raise KeyReused(
            f"key {shorten(lock.key or '')!r} already locked {count(lock.seats, 'seat')} for this user and "
            f"event (lock {lock.id}); use a new key to lock {count(seats, 'seat')}"
        )


def check_not_cancelled(event: Event) -> None:
    """A cancelled event sells nothing, also not to those who hold a lock."""
    if event.cancelled_at is not None:
        raise Closed(
            f"event {event.id} was cancelled at {format_time(event.cancelled_at)}; it no longer sells seats"
        )


def check_on_sale(event: Event) -> None:
    """Seats are taken only while an event is neither closed nor cancelled."""
    check_not_cancelled(event)
    if event.closed_at is not None:
        raise Closed(
            f"sales of event {event.id} were closed at {format_time(event.closed_at)}; "
            f"`seatctl reopen {event.id}` starts them again"
        )


def check_reopenable(event: Event) -> None:
    """A cancelled event has told its buyers so."""
    if event.cancelled_at is not None:
        raise Closed(
            f"event {event.id} was cancelled at {format_time(event.cancelled_at)} and cannot be reopened; "
            "create another one"
        )


def check_unblockable(lock: SeatLock) -> None:
    """Only a block is unblocked, and that of a closed event only with it."""
    if not lock.is_block:
        raise WrongState(
            f"lock {lock.id} is not a block; `seatctl release {lock.id}` returns a buyer's seats"
        )
    if lock.is_of_closing and lock.status is LockStatus.ACTIVE:
        raise WrongState(
            f"block {lock.id} holds the seats of event {lock.event}, which is closed; "
            f"`seatctl reopen {lock.event}` returns them"
        )


def check_no_booking(block: SeatLock, booking: tuple[LockId, Booking | Unreadable] | None) -> None:
    """A block that another program made a booking for is a buyer's lock."""
    if booking is not None:
        raise WrongState(f"block {block.id} has booking {booking[1].id}; cancel the booking first")


def check_no_block(lock: SeatLock) -> None:
    """A block is for no buyer: it has no booking and no deadline."""
    if lock.is_block and lock.status is LockStatus.ACTIVE:
        ends_it = f"reopen {lock.event}" if lock.is_of_closing else f"unblock {lock.id}"
        raise WrongState(
            f"lock {lock.id} is a block: it has no buyer and no deadline; `seatctl {ends_it}` returns "
            "its seats"
        )


def check_confirmable(lock: SeatLock, now: datetime) -> None:
    """Only a buyer's ACTIVE lock before its deadline becomes a booking (invariant 6)."""
    check_no_block(lock)
    if lock.status is not LockStatus.ACTIVE:
        raise WrongState(
            f"lock {lock.id} is {lock.status}; only an ACTIVE lock can be confirmed{_after_the_end(lock)}"
        )
    if lock.deadline <= now:
        raise DeadlinePassed(
            f"the deadline of lock {lock.id} passed at {format_time(lock.deadline)}; lock the seats again"
        )


def check_confirmed_before(booking: Booking, now: datetime) -> None:
    """`confirm` again returns the same booking while it is live: paid, or still in time to be paid."""
    if booking.status is BookingStatus.CONFIRMED:
        return
    if booking.status is not BookingStatus.PAYMENT_PENDING:
        raise WrongState(f"lock {booking.lock} already has booking {booking.id}, which is {booking.status}")
    if booking.deadline <= now:
        raise DeadlinePassed(
            f"booking {booking.id} of lock {booking.lock} had to be paid by {format_time(booking.deadline)}; "
            "lock the seats again"
        )


def payment_deadline(lock: SeatLock, ttl: timedelta | None, now: datetime) -> datetime:
    """When a booking of this lock has to be paid: now + `ttl`, or by default never before the lock's own
    deadline."""
    return max(now + PAYMENT_TTL, lock.deadline) if ttl is None else now + ttl


def check_releasable(lock: SeatLock, booking: Booking | None) -> None:
    """Only a buyer's ACTIVE lock without a booking is returned before its deadline."""
    check_no_block(lock)
    if lock.status is not LockStatus.ACTIVE:
        only = "only an ACTIVE lock can be released"
        raise WrongState(f"lock {lock.id} is {lock.status}; {only}{_after_the_end(lock, booking)}")
    if booking is not None:
        pending = booking.status is BookingStatus.PAYMENT_PENDING
        way_out = f"`seatctl pay {booking.id} --failed` ends it" if pending else "run `seatctl recover`"
        raise WrongState(f"lock {lock.id} has booking {booking.id}, which is {booking.status}; {way_out}")


def check_payable(booking: Booking, lock: SeatLock | None, now: datetime, ref: str | None = None) -> None:
    """A payment settles a pending booking before its deadline whose lock still holds the seats. One that
    comes too late is refused, and a refund is due (invariants 6 and 7)."""
    if booking.status in ENDED_BOOKING:
        raise RefundDue(f"booking {booking.id} is {booking.status} and its seats were returned")
    if booking.status is not BookingStatus.PAYMENT_PENDING:
        raise RefundDue(f"booking {booking.id} is {booking.status}, not PAYMENT_PENDING")
    if booking.deadline <= now:
        raise RefundDue(f"booking {booking.id} had to be paid by {format_time(booking.deadline)}")
    if lock is not None and lock.status is LockStatus.CONSUMED:
        raise RefundDue(
            f"lock {lock.id} of booking {booking.id} is already CONSUMED; if this payment bought it, "
            f"`seatctl confirm {lock.id} --sold{ref_option(ref)}` records that"
        )
    if lock is None or lock.status is not LockStatus.ACTIVE:
        raise RefundDue(
            f"the lock of booking {booking.id} is {lock.status if lock else 'missing'}, so its seats are "
            "not held"
        )


def check_extendable(lock: SeatLock, booking: Booking | None, now: datetime, *, overdue: bool) -> None:
    """Only the deadline of what waits moves: of an ACTIVE lock, or of its booking that waits for the payment.
    One that has passed, only where that is wanted (invariant 6)."""
    check_no_block(lock)
    if booking is not None and booking.status is not BookingStatus.PAYMENT_PENDING:
        raise WrongState(f"booking {booking.id} is {booking.status}{_end_of_booking(booking)}")
    if lock.status is not LockStatus.ACTIVE:
        whose = "" if booking is None else f"booking {booking.id} has no seats: "
        only = "only an ACTIVE lock can be extended"
        raise WrongState(f"{whose}lock {lock.id} is {lock.status}; {only}{_after_the_end(lock)}")
    deadline = (booking or lock).deadline
    if not overdue and deadline <= now:
        what = f"lock {lock.id}" if booking is None else f"booking {booking.id}"
        raise DeadlinePassed(
            f"the deadline of {what} passed at {format_time(deadline)}; its seats are still held; add "
            "--overdue to extend it"
        )


def _after_the_end(lock: SeatLock, booking: Booking | None = None) -> str:
    """What is left to do with a lock that is not ACTIVE any more, and with its booking."""
    if lock.status is not LockStatus.CONSUMED:
        return f"; its seats were returned, and `seatctl lock {lock.event}` takes new seats"
    if booking is not None and booking.status is BookingStatus.CONFIRMED:
        return f"; `seatctl cancel {booking.id}` returns the seats of its booking"
    paid = f"if the seats were paid for, `seatctl confirm {lock.id} --sold` records that"
    return f"; {paid}, and if not, `seatctl cancel {lock.id}` returns them"


def _end_of_booking(booking: Booking) -> str:
    """What is left to do with a booking that waits no more."""
    if booking.status is BookingStatus.CONFIRMED:
        return "; it no longer has a deadline"
    return f"; `seatctl rebook {booking.id}` sells its seats again" if booking.status in ENDED_BOOKING else ""


def check_cancellable(booking: Booking) -> None:
    """Only a live booking is cancelled; what has ended has returned its seats already."""
    if booking.status in (BookingStatus.EXPIRED, BookingStatus.FAILED):
        raise WrongState(f"booking {booking.id} is {booking.status} and its seats were returned")
    if booking.status is BookingStatus.INITIATED:
        raise WrongState(f"booking {booking.id} is INITIATED by another program and holds no seats")


def check_seats_to_return(booking: Booking, lock: SeatLock | None, cancelled: int) -> None:
    """Of a live booking whose lock holds its seats, some may be returned, not all: `cancelled` in all."""
    wanted = {
        BookingStatus.PAYMENT_PENDING: LockStatus.ACTIVE,
        BookingStatus.CONFIRMED: LockStatus.CONSUMED,
    }.get(booking.status)
    if wanted is None:
        raise WrongState(f"booking {booking.id} is {booking.status} and has no seats to return")
    if lock is None or lock.status is not wanted:
        state = lock.status if lock else "missing"
        raise WrongState(
            f"booking {booking.id} is {booking.status}, but its lock is {state}; run `seatctl recover`"
        )
    if cancelled < booking.seats_cancelled:
        raise WrongState(
            f"booking {booking.id} already has {count(booking.seats_cancelled, 'seat')} cancelled; "
            "`seatctl lock` takes more seats"
        )
    seats = lock.seats + booking.seats_cancelled
    if cancelled >= seats:
        raise WrongState(
            f"booking {booking.id} has {count(seats, 'seat')}; to cancel all of them, leave out --seats"
        )


def check_sold_without_booking(lock: SeatLock, booking: Booking | None) -> None:
    """Only for a CONSUMED lock without a CONFIRMED booking is there something to decide."""
    if booking is not None and booking.status is BookingStatus.CONFIRMED:
        raise WrongState(f"lock {lock.id} has booking {booking.id}, which is CONFIRMED; cancel the booking")
    check_no_block(lock)
    if lock.status is not LockStatus.CONSUMED:
        release = f"`seatctl release {lock.id}` returns its seats"
        way_out = release if lock.status is LockStatus.ACTIVE else "its seats were returned"
        raise WrongState(f"lock {lock.id} is {lock.status}, not CONSUMED; {way_out}")


def check_holds_seats(lock: SeatLock, booking: Booking | None) -> None:
    """What has ended cannot be sold as it is."""
    if lock.status in (LockStatus.EXPIRED, LockStatus.CANCELLED):
        rebook = "" if booking is None else f"; `seatctl rebook {booking.id}` sells its seats again"
        raise WrongState(f"lock {lock.id} is {lock.status}{rebook or _after_the_end(lock)}")


def check_sellable(lock: SeatLock, booking: Booking | None, now: datetime, ref: str | None) -> None:
    """What an ACTIVE lock holds for a buyer is sold before its deadline, or that of its booking."""
    check_no_block(lock)
    if booking is not None and booking.status is not BookingStatus.PAYMENT_PENDING:
        raise WrongState(
            f"lock {lock.id} has booking {booking.id}, which is {booking.status}; run `seatctl recover`"
        )
    deadline = (booking or lock).deadline
    if deadline <= now:
        what = f"lock {lock.id}" if booking is None else f"booking {booking.id} of lock {lock.id}"
        raise DeadlinePassed(
            f"the deadline of {what} passed at {format_time(deadline)}; its seats are still held: `seatctl "
            f"extend {lock.id} --for 10m --overdue`, then `seatctl confirm {lock.id} --sold{ref_option(ref)}`"
        )


def check_rebookable(
    booking: Booking, lock: SeatLock | None, now: datetime, ref: str | None = None
) -> SeatLock:
    """Only what has ended, and holds no seats any more, is booked again."""
    match booking.status:
        case BookingStatus.CONFIRMED:
            raise WrongState(f"booking {booking.id} is CONFIRMED and its seats are sold")
        case BookingStatus.PAYMENT_PENDING:
            late = booking.deadline <= now
            first = f"`seatctl extend {booking.id} --for 10m --overdue`, then " if late else ""
            pay = f"`seatctl pay {booking.id}{ref_option(ref)}`"
            raise WrongState(f"booking {booking.id} still has its seats; {first}{pay}")
        case BookingStatus.INITIATED:
            raise WrongState(f"booking {booking.id} is INITIATED by another program")
    if lock is None:
        raise WrongState(
            f"lock {booking.lock} of booking {booking.id} is missing, so its number of seats is unknown; "
            f"`seatctl lock {booking.event}` takes new seats"
        )
    if lock.status is LockStatus.ACTIVE:
        raise WrongState(f"lock {lock.id} of booking {booking.id} is still ACTIVE; run `seatctl recover`")
    if lock.status is LockStatus.CONSUMED:
        raise WrongState(
            f"lock {lock.id} of booking {booking.id} is CONSUMED; `seatctl cancel {lock.id}` returns its "
            "seats"
        )
    return lock


def check_failable(booking: Booking, lock: SeatLock | None) -> None:
    """Only a booking that waits for its payment can fail, at any time."""
    if booking.status is not BookingStatus.PAYMENT_PENDING:
        raise WrongState(f"booking {booking.id} is {booking.status}; only a PAYMENT_PENDING booking can fail")
    if lock is not None and lock.status is LockStatus.CONSUMED:
        raise WrongState(
            f"the lock of booking {booking.id} is CONSUMED: someone may have paid; "
            f"`seatctl show {booking.id}`"
        )
