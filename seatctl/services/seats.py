"""The only place where seats change hands: take them with a lock, give them back at most once.

Two forms of each step. With transactions the event's counter is the first write, so that a sweep
does not starve behind buyers, and anything unexpected rolls everything back. Without them the
order of the writes makes a crash leave seats unsold, never sold twice: counter down before the
lock appears, lock out before the counter goes up. `recover` repairs what such a crash left.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from seatctl.domain.model import (
    QUIET,
    BookingStatus,
    Document,
    Id,
    LockStatus,
    counter_flaw,
    seats_of,
    whole,
    whole_number,
)
from seatctl.errors import Contention, WriteRefused
from seatctl.mongo.store import KeyTaken

if TYPE_CHECKING:
    from seatctl.mongo.store import Session, Store

T = TypeVar("T")
ATTEMPTS = 100


class StartOver(Exception):
    """What was read has changed. Nothing was written; read again."""


class Cause(Enum):
    """Why an item was set aside."""

    DAMAGED = auto()
    UNKNOWN_EVENT = auto()
    COUNTER = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Hold:
    """A lock that holds seats, as it was read."""

    lock: Id
    event: Id
    seats: int
    as_read: tuple[tuple[str, Any], ...] = ()
    """The fields that tell whether anybody touched the lock since: `confirm` moves both."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing to expire: a lock, or a booking with the lock whose seats it holds, if any."""

    hold: Hold | None
    booking: Id | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """An item that a program must not touch: which, why, and the claim on it where one is sound."""

    kind: str
    id: Id
    reason: str
    cause: Cause
    claim: Claim | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions under which claims are carried out.

    `now` stamps the changes (server clock). `overdue_at` demands that deadlines are before it;
    None demands nothing. `by_job` records the old status on the locks.
    """

    now: datetime
    booking_status: BookingStatus = BookingStatus.EXPIRED
    overdue_at: datetime | None = None
    by_job: bool = True
    left: dict[Id, Any] = field(default_factory=dict, compare=False)
    """Without transactions: the counters that this run changed, as it left them."""


@dataclass(slots=True)
class GivenBack:
    """What happened: counts, seats by event, items set aside; and, where there are no
    transactions, the events that somebody else had changed within QUIET before we did."""

    locks: int = 0
    bookings: int = 0
    seats: Counter[Id] = field(default_factory=Counter)
    set_aside: list[SetAside] = field(default_factory=list)
    busy: set[Id] = field(default_factory=set)

    def note_neighbour(self, before: Document, seats: int, terms: Terms) -> None:
        """Remember an event that was not quiet when this run added `seats` (or took them, if less
        than none) to what its counter was `before`."""
        event_id, available = before["_id"], before["availableSeats"]
        changed = before.get("updatedAt")
        ours = event_id in terms.left and terms.left[event_id] == available
        if not ours and isinstance(changed, datetime) and changed > terms.now - QUIET:
            self.busy.add(event_id)
        terms.left[event_id] = available + seats

    def add(self, other: GivenBack) -> None:
        self.locks += other.locks
        self.bookings += other.bookings
        self.seats.update(other.seats)
        self.set_aside += other.set_aside
        self.busy |= other.busy


def hold_of(lock: Document) -> Hold:
    """The hold of a lock whose `seats` is sound."""
    as_read = (("expiresAt", lock.get("expiresAt")), ("updatedAt", lock.get("updatedAt")))
    return Hold(lock["_id"], lock.get("eventId"), seats_of(lock) or 0, as_read)


def again(attempt: Callable[[], T]) -> T:
    """What `attempt` returns, tried again whenever it finds that what it had read has changed.
    Raises Contention when that does not end."""
    for _ in attempts():
        try:
            return attempt()
        except StartOver:
            continue
    raise AssertionError


def attempts() -> Iterator[int]:
    """Numbers the attempts, a little longer apart each time; raises Contention after the last.

    A transaction meets what another one committed before a majority has it; reads outside see it
    only afterwards, so reading again at once can read the same for as long as replication lags.
    """
    for attempt in range(ATTEMPTS):
        yield attempt
        time.sleep(min(0.001 * 1.2**attempt, 0.25) * random.uniform(0.5, 1))  # noqa: S311 - jitter
    raise Contention


# --- taking seats --------------------------------------------------------------------------------


def take(
    store: Store, event_id: Id, seats: int, make_lock: Callable[[datetime], Document]
) -> tuple[Document, int] | None:
    """Take seats of the event and insert a lock that holds them; returns it with the seats still
    available, or None when the event has too few. `make_lock` builds the document for the server's now,
    and cannot fail.

    Raises KeyTaken, with nothing changed, when a lock with the same key exists.
    """

    def work(session: Session) -> tuple[Document, int] | None:
        event = store.take_seats(event_id, seats, session)
        if event is None:
            return None
        now = event["updatedAt"]
        lock = make_lock(now)
        try:
            store.insert_lock(lock, session)
        except (KeyTaken, WriteRefused):
            if not store.transactions:
                store.add_seats_to(event_id, seats, now)
            raise
        return lock, whole(event["availableSeats"])

    return store.transact(work, event_id)


# --- giving seats back ---------------------------------------------------------------------------


def give_back(store: Store, claims: Sequence[Claim], terms: Terms) -> GivenBack:
    """Expire the claimed locks, close the claimed bookings and raise the counters: each claim
    wholly or not at all, each lock's seats at most once (invariant 3).

    With transactions: raises StartOver, with nothing changed, when any claim no longer holds or
    any counter cannot take its seats; `sound` tells which. Without: passes over those.
    """
    if store.transactions:
        events = {claim.hold.event for claim in claims if claim.hold is not None}
        only = events.pop() if len(events) == 1 else None
        return store.transact(lambda session: _give_back_at_once(store, claims, terms, session), only)
    return _give_back_in_order(store, claims, terms)


def _give_back_at_once(store: Store, claims: Sequence[Claim], terms: Terms, session: Session) -> GivenBack:
    done = prospect(claims)
    events_by_seats: dict[int, list[Id]] = defaultdict(list)
    for event, seats in done.seats.items():
        events_by_seats[seats].append(event)
    if store.add_seats(events_by_seats, terms.now, session) != len(done.seats):
        raise StartOver
    if terms.overdue_at is None:  # no sweep, but a claim or two that somebody chose
        carried_out = [_carry_out(store, claim, terms, session) for claim in claims]
        if sum(sum(counts) for counts in carried_out) != done.bookings + done.locks:
            raise StartOver
        return done
    if done.bookings:
        bookings = [claim.booking for claim in claims if claim.booking is not None]
        closed = store.close_bookings(
            bookings, terms.booking_status, terms.now, overdue_at=terms.overdue_at, session=session
        )
        if closed != done.bookings:
            raise StartOver
    if done.locks:
        # Of a booking, the booking's deadline rules; its lock's own may be anything.
        overdue_at = None if done.bookings else terms.overdue_at
        locks = [claim.hold.lock for claim in claims if claim.hold is not None]
        expired = store.expire_locks(
            locks, terms.now, overdue_at=overdue_at, by_job=terms.by_job, session=session
        )
        if expired != done.locks:
            raise StartOver
        # A sweep as of now is safe by the deadline that `confirm` moved beyond it; one as of the
        # future (--force) may reach beyond that, too.
        if not done.bookings and terms.overdue_at > terms.now and store.live_bookings_of(locks, session):
            raise StartOver
    return done


def _give_back_in_order(store: Store, claims: Sequence[Claim], terms: Terms) -> GivenBack:
    done = GivenBack()
    # Recovery elsewhere tells by the stamps whether somebody is at work: keep them fresh.
    if (now := store.now()) - terms.now > QUIET / 2:
        terms = replace(terms, now=now)
    claims, done.set_aside = sound(store, claims)
    for claim in claims:
        try:
            closed, expired = _carry_out(store, claim, terms, None)
        except WriteRefused as refusal:
            done.set_aside.append(set_aside(claim, str(refusal), Cause.REFUSED))
            continue
        done.bookings += closed
        done.locks += expired
        if expired and claim.hold is not None:
            before = store.add_seats_to(claim.hold.event, claim.hold.seats, terms.now)
            if before is not None:
                done.seats[claim.hold.event] += claim.hold.seats
                done.note_neighbour(before, claim.hold.seats, terms)
    return done


def give_up_locks(store: Store, claims: Iterable[Claim], terms: Terms) -> GivenBack:
    """Expire locks and bookings whose event has no counter that could take the seats: the event is
    unknown, or the counter never went down for them. Leaves the counter to recovery."""
    done = GivenBack()
    for claim in claims:
        closed, expired = store.transact(partial(_carry_out, store, claim, terms))
        done.bookings += closed
        done.locks += expired
    return done


def _carry_out(store: Store, claim: Claim, terms: Terms, session: Session) -> tuple[int, int]:
    """Close one claim's booking, then expire its lock; returns how many of each. A booking that is
    no longer as it was read keeps its lock; so does a deadline that moved (`confirm` moves it)."""
    closed = 0
    if claim.booking is not None:
        closed = store.close_bookings(
            [claim.booking], terms.booking_status, terms.now, overdue_at=terms.overdue_at, session=session
        )
        if not closed:
            return 0, 0
    if claim.hold is None:
        return closed, 0
    expired = store.move_lock(
        claim.hold.lock,
        LockStatus.ACTIVE,
        LockStatus.EXPIRED,
        terms.now,
        by_job=terms.by_job,
        where={} if closed else dict(claim.hold.as_read),
        session=session,
    )
    return closed, int(expired)


def prospect(claims: Sequence[Claim]) -> GivenBack:
    """What carrying out these claims changes, if each of them still holds."""
    done = GivenBack()
    for claim in claims:
        done.bookings += claim.booking is not None
        if claim.hold is not None:
            done.locks += 1
            done.seats[claim.hold.event] += claim.hold.seats
    return done


def sound(store: Store, claims: Sequence[Claim]) -> tuple[list[Claim], list[SetAside]]:
    """Part the claims whose event can take the seats from those whose event cannot."""
    seats = prospect(claims).seats
    events = store.events_by_id(seats)
    problems: dict[Id, tuple[Cause, str]] = {}
    for event_id, returned in seats.items():
        event = events.get(event_id)
        if event is None:
            problems[event_id] = Cause.UNKNOWN_EVENT, f"its event {event_id} does not exist"
        elif problem := _counter_problem(event, returned):
            problems[event_id] = Cause.COUNTER, f"event {event_id}: {problem}"
    if any(cause is Cause.COUNTER for cause, _ in problems.values()):
        # Somebody may have given these seats back between reading the locks and the counters.
        disputed = [c.hold.lock for c in claims if c.hold is not None and c.hold.event in problems]
        now_read = store.locks_by_id(disputed)
        if any(now_read.get(lock, {}).get("status") != LockStatus.ACTIVE for lock in disputed):
            raise StartOver
    good: list[Claim] = []
    aside: list[SetAside] = []
    for claim in claims:
        if claim.hold is None or claim.hold.event not in problems:
            good.append(claim)
            continue
        cause, reason = problems[claim.hold.event]
        aside.append(set_aside(claim, reason, cause))
    return good, aside


def set_aside(claim: Claim, reason: str, cause: Cause) -> SetAside:
    """A claim that was not carried out, under the name of its booking, or else of its lock."""
    if claim.booking is not None:
        return SetAside("booking", claim.booking, reason, cause, claim)
    assert claim.hold is not None
    return SetAside("lock", claim.hold.lock, reason, cause, claim)


def _counter_problem(event: Document, returned: int) -> str | None:
    if flaw := counter_flaw(event):
        return flaw
    available, total = whole_number(event["availableSeats"]), whole_number(event["totalSeats"])
    assert available is not None
    assert total is not None
    if available + returned > total:
        return f"{returned} seats back on {available} would make more than its {total}; run `seatctl recover`"
    return None
