"""What one operator's command does: create an event, lock, confirm, pay, fail, release.

Each function is one command, safe to call again after a crash or a lost answer. Rules come from
`model`, moves of seats from `inventory`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from seatctl.domain.model import (
    LIVE,
    LOCK_TTL,
    MAX_DESCRIPTION,
    MAX_SEATS,
    MAX_TEXT,
    PAYMENT_TTL,
    BookingStatus,
    Document,
    Id,
    LockStatus,
    check_confirmable,
    check_failable,
    check_payable,
    check_releasable,
    check_same_request,
    counter_flaw,
    lock_flaw,
    seats_of,
    whole,
)
from seatctl.domain.timespec import LONGEST, is_printable, resolve, to_milliseconds
from seatctl.errors import DamagedDocument, NotFound, SoldOut, Usage, WriteRefused, WrongState
from seatctl.mongo.store import BookingTaken, KeyTaken, new_id, object_id, user_id
from seatctl.services.expiry import reclaim
from seatctl.services.seats import Claim, StartOver, Terms, again, attempts, give_back, hold_of, sound, take

if TYPE_CHECKING:
    from seatctl.mongo.store import Session, Store

log = logging.getLogger(__name__)

LOOKS_FOR_A_KEY = 40
"""Within some four seconds."""
LOOKS_WHEN_SOLD_OUT = 10
"""Within some twenty milliseconds."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command's result: the document it is about, whether this call changed anything (False: an
    earlier call had), and how many seats the event has left where the command knows."""

    document: Document
    changed: bool = True
    available: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to lock seats, checked."""

    event: Id
    user: Id
    seats: int
    key: str | None
    ttl: timedelta

    def lock(self, now: datetime) -> Document:
        """The lock to store for it at the server's `now`."""
        document = {
            "_id": new_id(),
            "eventId": self.event,
            "userId": self.user,
            "seats": self.seats,
            "status": LockStatus.ACTIVE.value,
            "expiresAt": to_milliseconds(now + self.ttl),
            "createdAt": now,
            "updatedAt": now,
        }
        return document if self.key is None else {**document, "idempotencyKey": self.key}


def create_event(
    store: Store, name: str, seats: int, date: datetime | timedelta, description: str | None = None
) -> Done:
    """A new event with all its `seats` available. `date` is UTC, or how long from now.
    Raises Usage for a name or number that makes no sense."""
    now = store.now()
    event = {
        "_id": new_id(),
        "name": _text("name", name),
        "eventDate": _moment("date", date, now),
        "totalSeats": _seats(seats),
        "availableSeats": seats,
        "createdAt": now,
        "updatedAt": now,
    }
    if description is not None:
        event["description"] = _text("description", description, MAX_DESCRIPTION, lines=True)
    store.insert_event(event)
    return Done(event, available=seats)


def lock(
    store: Store,
    event: Id,
    user: str,
    seats: int,
    *,
    key: str | None = None,
    ttl: timedelta = LOCK_TTL,
) -> Done:
    """Take `seats` of an event for `user` until now + `ttl`.

    On an event with too few seats left, what is overdue there is given back first (invariant 6).
    With a `key`, the same request again returns the same lock. Raises Usage, NotFound, SoldOut,
    KeyReused, DamagedDocument.
    """
    wanted = Wanted(
        event=object_id(event),
        user=user_id(_text("user", user)),
        seats=_seats(seats),
        key=None if key is None else _text("key", key),
        ttl=_ttl(ttl),
    )
    if earlier := _locked_before(store, wanted):
        return earlier
    if wanted.key is not None:
        store.ensure_one_lock_per_key()
    for _ in islice(attempts(), LOOKS_FOR_A_KEY):
        try:
            document, available = _take(store, wanted) or _take_again(store, wanted)
            _tell_counter(wanted.event, available, -seats)
            return Done(document, available=available)
        except KeyTaken:
            # Perhaps by a lock that the primary has and a majority has not, yet or for ever.
            if earlier := _locked_before(store, wanted):
                return earlier
        except SoldOut:
            if earlier := _locked_meanwhile(store, wanted):
                return earlier
            raise
    raise WriteRefused("the database already holds such a lock")


def _locked_before(store: Store, wanted: Wanted) -> Done | None:
    """The lock that this request's key got before, if any. Raises KeyReused."""
    if wanted.key is None:
        return None
    earlier = store.lock_by_key(wanted.event, wanted.user, wanted.key)
    if earlier is None:
        return None
    check_same_request(earlier, wanted.seats, wanted.key)
    return Done(earlier, changed=False)


def _locked_meanwhile(store: Store, wanted: Wanted) -> Done | None:
    """The lock that the same request, sent at the same time, got for the last seats. Without
    transactions the seats are gone a moment before their lock is there."""
    looks = 1 if wanted.key is None or store.transactions else LOOKS_WHEN_SOLD_OUT
    for _ in islice(attempts(), looks):
        if earlier := _locked_before(store, wanted):
            return earlier
    return None


def _take(store: Store, wanted: Wanted) -> tuple[Document, int] | None:
    return take(store, wanted.event, wanted.seats, wanted.lock)


def _take_again(store: Store, wanted: Wanted) -> tuple[Document, int]:
    """Take the seats once what is overdue on the event is given back (invariant 6).
    Raises NotFound, DamagedDocument, SoldOut."""
    _check_event(store, wanted.event)
    given_back = reclaim(store, wanted.event)
    log.info("too few seats left; gave back %d overdue ones first", given_back.seats.total())
    taken = _take(store, wanted)
    if taken is None:
        left = max(0, whole(_check_event(store, wanted.event)["availableSeats"]))
        raise SoldOut(f"event {wanted.event} has {left} seats left, {wanted.seats} asked")
    return taken


def confirm(store: Store, lock_id: Id, *, payment_ttl: timedelta = PAYMENT_TTL) -> Done:
    """Turn a lock into a booking that waits for its payment until now + `payment_ttl`.

    Again: the same booking. Raises Usage, NotFound, WrongState, DeadlinePassed, DamagedDocument.
    """
    lock_id = object_id(lock_id)
    _ensure_one_booking(store)

    def work(session: Session) -> Done:
        now = store.now()
        held = _found(store, "lock", lock_id, store.lock(lock_id, session))
        if booking := store.booking_of_lock(lock_id, session):
            if booking.get("status") in LIVE:
                return Done(booking, changed=False)
            raise WrongState(f"lock {lock_id} had booking {booking['_id']}, which is {booking.get('status')}")
        check_confirmable(held, now)
        deadline = _moment("payment-ttl", payment_ttl, now)
        booking = {
            "_id": new_id(),
            "event": held.get("eventId"),
            "user": held.get("userId"),
            "seatLockId": lock_id,
            "status": BookingStatus.PAYMENT_PENDING.value,
            "paymentExpiresAt": deadline,
            "createdAt": now,
            "updatedAt": now,
        }
        try:
            # Without transactions, the booking before the lock: a release that read no booking
            # then finds the deadline moved, and a sweep finds the booking.
            if not store.transactions:
                store.insert_booking(booking, session)
            if not store.extend_lock(lock_id, deadline, now, session):
                if not store.transactions:
                    store.move_booking(
                        booking["_id"], BookingStatus.PAYMENT_PENDING, BookingStatus.EXPIRED, now
                    )
                raise StartOver
            if store.transactions:
                store.insert_booking(booking, session)
        except BookingTaken:
            raise StartOver from None
        return Done(booking)

    done = again(lambda: store.transact(work))
    log.info("lock %s has booking %s, which is %s", lock_id, done.document["_id"], done.document["status"])
    return done


def _ensure_one_booking(store: Store) -> None:
    try:
        store.ensure_one_booking_per_lock()
    except WriteRefused:  # some lock has several bookings already, by another hand
        if not store.transactions:  # with them, the write on the lock excludes a second booking
            raise


def pay(store: Store, booking_id: Id) -> Done:
    """Record that a booking was paid: booking CONFIRMED, lock CONSUMED. Again: one payment.

    Raises NotFound, and WrongState or DeadlinePassed, saying that a refund is due, when the
    payment comes too late (invariant 7).
    """
    booking_id = object_id(booking_id)

    def work(session: Session) -> Done:
        now = store.now()
        booking = _found(store, "booking", booking_id, store.booking(booking_id, session))
        lock_id = booking.get("seatLockId")
        held = store.lock(lock_id, session)
        if held is not None and held.get("status") == LockStatus.CONSUMED:
            # Without transactions, perhaps by the same payment since the first look.
            booking = _found(store, "booking", booking_id, store.booking(booking_id, session))
        if booking.get("status") == BookingStatus.CONFIRMED:
            # Finishes what a crash between the two writes below left half done.
            store.move_lock(lock_id, LockStatus.ACTIVE, LockStatus.CONSUMED, now, session=session)
            return Done(booking, changed=False)
        check_payable(booking, held, now)
        if not store.confirm_booking(booking_id, now, session):
            raise StartOver
        if not store.move_lock(lock_id, LockStatus.ACTIVE, LockStatus.CONSUMED, now, session=session):
            held = None if store.transactions else store.lock(lock_id)
            if held is None or held.get("status") != LockStatus.CONSUMED:
                if not store.transactions:
                    store.move_booking(booking_id, BookingStatus.CONFIRMED, BookingStatus.EXPIRED, now)
                raise StartOver
            # Else the same payment sent twice, or recovery, has finished what the line above began.
        return Done({**booking, "status": BookingStatus.CONFIRMED.value, "updatedAt": now})

    done = again(lambda: store.transact(work))
    log.info("booking %s is CONFIRMED, its lock CONSUMED: the seats are sold", booking_id)
    return done


def fail(store: Store, booking_id: Id) -> Done:
    """Record that a payment failed: booking FAILED, lock EXPIRED, seats back. Again: once.
    Raises NotFound, WrongState, DamagedDocument."""
    booking_id = object_id(booking_id)
    now = store.now()

    def attempt() -> Done:
        booking = _found(store, "booking", booking_id, store.booking(booking_id))
        if booking.get("status") == BookingStatus.FAILED:
            return Done(booking, changed=False)
        check_failable(booking)
        held = store.lock(booking.get("seatLockId"))
        hold = None
        if held is not None and held.get("status") == LockStatus.ACTIVE:
            if seats_of(held) is None:
                raise DamagedDocument(f"lock {held['_id']}: {lock_flaw(held)}")
            # Another booking on the same lock (a foreign fault) that is alive keeps the seats.
            alive = [other["_id"] for other in store.live_bookings_of([held["_id"]])]
            hold = hold_of(held) if alive == [booking_id] else None
        elif held is not None and held.get("status") == LockStatus.CONSUMED:
            raise WrongState(f"the lock of booking {booking_id} is CONSUMED; `seatctl show {booking_id}`")
        terms = Terms(now, booking_status=BookingStatus.FAILED, by_job=False)
        _give_back_one(store, Claim(hold, booking_id), terms)
        return Done({**booking, "status": BookingStatus.FAILED.value, "updatedAt": now})

    return again(attempt)


def release(store: Store, lock_id: Id) -> Done:
    """Give an ACTIVE lock without a booking back early. Raises NotFound, WrongState."""
    lock_id = object_id(lock_id)
    now = store.now()

    def attempt() -> Done:
        held = _found(store, "lock", lock_id, store.lock(lock_id))
        check_releasable(held, store.booking_of_lock(lock_id))
        _give_back_one(store, Claim(hold_of(held)), Terms(now, by_job=False))
        return Done({**held, "status": LockStatus.EXPIRED.value, "updatedAt": now})

    return again(attempt)


def _give_back_one(store: Store, claim: Claim, terms: Terms) -> None:
    """Carry out one claim; raises DamagedDocument when its event cannot take the seats, StartOver
    when the claim no longer holds."""
    try:
        done = give_back(store, [claim], terms)
    except StartOver:
        _, unsound = sound(store, [claim])
        if unsound:
            raise DamagedDocument(str(unsound[0])) from None
        raise
    if done.set_aside:
        raise DamagedDocument(str(done.set_aside[0]))
    if not done.locks + done.bookings:
        raise StartOver
    for event_id, seats in done.seats.items() if log.isEnabledFor(logging.INFO) else ():
        event = store.event(event_id)
        if event and not counter_flaw(event):
            _tell_counter(event_id, whole(event["availableSeats"]), seats)


def _tell_counter(event_id: Id, available: int, change: int) -> None:
    """A counter in the command's story, as it is now and as that makes it before."""
    log.info("event %s: %d → %d seats available (%+d)", event_id, available - change, available, change)


def _check_event(store: Store, event_id: Id) -> Document:
    """The event, if its counter can be read. Raises NotFound, DamagedDocument."""
    event = _found(store, "event", event_id, store.event(event_id))
    if flaw := counter_flaw(event):
        raise DamagedDocument(f"event {event_id}: {flaw}")
    if event["availableSeats"] > event["totalSeats"]:
        raise DamagedDocument(
            f"event {event_id}: {whole(event['availableSeats'])} of {whole(event['totalSeats'])} seats "
            "available; run `seatctl recover`"
        )
    return event


def _found(store: Store, kind: str, wanted: Id, document: Document | None) -> Document:
    if document is not None:
        return document
    found = store.find_anywhere(wanted)
    hint = f"; that is the id of {found[0]}" if found else ""
    raise NotFound(f"there is no {kind} {wanted}{hint}")


def _seats(seats: int) -> int:
    if not 1 <= seats <= MAX_SEATS:
        raise Usage(f"seats must be a whole number from 1 to {MAX_SEATS:,}, not {seats}")
    return seats


def _text(what: str, text: str, longest: int = MAX_TEXT, *, lines: bool = False) -> str:
    """`text` without surrounding space, if it can stand in a table and in a log line."""
    text = text.strip()
    if not text:
        raise Usage(f"{what} must not be empty")
    if len(text) > longest:
        raise Usage(f"{what} has {len(text):,} characters; at most {longest:,} are allowed")
    if not all(is_printable(character) or (lines and character in "\n\t") for character in text):
        raise Usage(f"{what} must not contain control characters")
    return text


def _ttl(ttl: timedelta) -> timedelta:
    if not timedelta() < ttl <= LONGEST:
        raise Usage(f"ttl must be longer than zero and at most {LONGEST.days} days")
    return ttl


def _moment(what: str, time: datetime | timedelta, now: datetime) -> datetime:
    try:
        return to_milliseconds(resolve(time, now))
    except OverflowError:
        raise Usage(f"{what} is too far in the future") from None
