"""The two sweeps: give back what nobody paid for.

A sweep reads candidates ordered by event, plans a batch, and has `inventory` carry it out. What
changed in between is planned again; what is broken is set aside and never stops the rest.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from seatctl.domain.model import (
    BookingStatus,
    Document,
    Id,
    LockStatus,
    describe,
    lock_flaw,
    reference_flaw,
    seats_of,
    states_of,
)
from seatctl.domain.timespec import format_time
from seatctl.errors import Contention, WriteRefused
from seatctl.mongo.store import ReadLost, ids_in, is_object_id
from seatctl.services.rehearsal import Rehearsal
from seatctl.services.seats import (
    ATTEMPTS,
    Cause,
    Claim,
    GivenBack,
    SetAside,
    StartOver,
    Terms,
    attempts,
    give_back,
    hold_of,
    sound,
)

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

log = logging.getLogger(__name__)

BATCH = 5_000
"""Locks in one transaction: 0.2 s of work here, far below MongoDB's limit of 60 s."""
LARGEST_BATCH = 10_000

BUSY, BUSY_BATCH = timedelta(seconds=2), 150
"""For so long after somebody's change an event counts as busy; its buyers wait for a batch of so many.

Four buyers on two cores, whose p99 is 13 ms without a sweep: with 250 in a batch 70 ms, and 20,000 locks
take twice as long as in quiet; with 125 it is 48 ms and 2.8 times, with 60 it is 32 ms and 4.5 times."""

WORKERS = 2
"""Batches in flight: while the server works on one, the next is read, planned and begun."""

Plan = tuple[list[Claim], list[SetAside]]
Wait = Callable[[], object] | None
Work = Callable[[Wait], GivenBack]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What sets one sweep apart from the other: its candidates and what is to be done to them."""

    read: Callable[[datetime, Id | None], Iterator[Document]]
    read_again: Callable[[Iterable[Id]], dict[Id, Document]]
    plan: Callable[[Sequence[Document]], Plan]
    status: str
    event: str
    deadline: str
    plans_ahead: Callable[[], bool]
    """Whether a batch may be planned while others are in flight."""

    def overdue_claims(self, documents: Sequence[Document], at: datetime) -> list[Claim]:
        """What the sweep would carry out of these documents, if its event can take it."""
        return self.plan([document for document in documents if self.still_overdue(document, at)])[0]

    def still_overdue(self, document: Document, at: datetime) -> bool:
        deadline = document.get(self.deadline)
        return self.status in states_of(document) and not (isinstance(deadline, datetime) and deadline >= at)


def lock_sweep(store: Store) -> Sweep:
    """ACTIVE locks past their deadline that no live booking keeps (invariant 4)."""

    def plan(locks: Sequence[Document]) -> Plan:
        ids = [lock["_id"] for lock in locks if is_object_id(lock["_id"])]
        kept = {kept for booking in store.live_bookings_of(ids) for kept in ids_in(booking["seatLockId"])}
        claims, aside = [], []
        for lock in locks:
            if flaw := id_flaw(lock):
                aside.append(SetAside("lock", lock["_id"], flaw, Cause.DAMAGED))
            elif lock["_id"] in kept:
                continue
            elif flaw := lock_flaw(lock):
                aside.append(SetAside("lock", lock["_id"], flaw, Cause.DAMAGED))
            else:
                claims.append(Claim(hold_of(lock)))
        return claims, aside

    return Sweep(
        store.overdue_locks,
        store.locks_by_id,
        plan,
        LockStatus.ACTIVE,
        "eventId",
        "expiresAt",
        plans_ahead=lambda: True,
    )


def booking_sweep(store: Store) -> Sweep:
    """PAYMENT_PENDING bookings past their deadline, with the locks that still hold their seats."""

    def plan(bookings: Sequence[Document]) -> Plan:
        claims, aside = [], []
        usable = [booking for booking in bookings if not booking_flaw(booking)]
        ids = {str(booking["_id"]) for booking in usable}
        lock_ids = [booking.get("seatLockId") for booking in usable]
        locks = store.locks_by_id(lock_ids)
        # A lock with another booking that is alive (a foreign fault) must keep its seats.
        others = [live for live in store.live_bookings_of(lock_ids) if str(live["_id"]) not in ids]
        kept = {kept for live in others for kept in ids_in(live["seatLockId"])}
        for booking in bookings:
            flaw = booking_flaw(booking)
            lock = None if flaw else locks.get(booking.get("seatLockId"))
            if flaw := flaw or _pair_flaw(lock):
                aside.append(SetAside("booking", booking["_id"], flaw, Cause.DAMAGED))
            elif lock is None or lock["status"] == LockStatus.EXPIRED or lock["_id"] in kept:
                claims.append(Claim(None, booking["_id"]))
            else:
                claims.append(Claim(hold_of(lock), booking["_id"]))
                kept.add(lock["_id"])
        return claims, aside

    return Sweep(
        store.overdue_bookings,
        store.bookings_by_id,
        plan,
        BookingStatus.PAYMENT_PENDING,
        "event",
        "paymentExpiresAt",
        plans_ahead=store.has_one_booking_per_lock,  # else the other may be in the batch before
    )


def id_flaw(document: Document) -> str | None:
    """Why a document cannot be found again by those that refer to it, or None."""
    return None if is_object_id(document["_id"]) else f"_id is {describe(document['_id'])}, not an ObjectId"


def booking_flaw(booking: Document) -> str | None:
    """Why a booking cannot be expired by a program, or None when it can."""
    deadline = booking.get("paymentExpiresAt")
    if not isinstance(deadline, datetime):
        return f"paymentExpiresAt is {describe(deadline)}, not a date"
    return id_flaw(booking) or reference_flaw(booking, "seatLockId")


def _pair_flaw(lock: Document | None) -> str | None:
    """Why a waiting booking with this lock cannot be expired, or None when it can."""
    if lock is None or lock.get("status") == LockStatus.EXPIRED:
        return None
    if lock.get("status") == LockStatus.CONSUMED:
        return f"its lock {lock['_id']} is CONSUMED: somebody may have paid"
    if lock.get("status") != LockStatus.ACTIVE:
        return f"its lock {lock['_id']} has the unknown status {describe(lock.get('status'))}"
    if seats_of(lock) is None or reference_flaw(lock, "eventId"):
        return f"its lock {lock['_id']}: {lock_flaw(lock)}"
    return None


def sweep(
    store: Store,
    kind: Sweep,
    terms: Terms,
    *,
    event_id: Id | None = None,
    batch_size: int = BATCH,
    dry_run: bool = False,
    go_on: Callable[[], bool] = lambda: True,
) -> Iterator[GivenBack]:
    """Give back what was overdue at `terms.overdue_at`, one outcome for each batch of at most
    `batch_size` items. Once `go_on()` is false no batch is begun, and those in flight are yielded.

    `dry_run` yields what would be done and writes nothing; on a `Rehearsal`, what follows sees it.
    """
    assert terms.overdue_at is not None
    if dry_run:
        store = Rehearsal.of(store)
    for _ in range(ATTEMPTS):
        try:
            batches = _batches(store, kind, terms, event_id, batch_size, go_on)
            # In a plan, each batch depends on what the one before it has planned.
            yield from (work(None) for work in batches) if dry_run else _side_by_side(batches)
        except ReadLost:
            # What is done is no candidate any more. A dry run has done nothing and would count twice.
            if dry_run:
                break
        else:
            return
    raise Contention("the server kept dropping the list of what is overdue; try again")


def _batches(
    store: Store,
    kind: Sweep,
    terms: Terms,
    event_id: Id | None,
    batch_size: int,
    go_on: Callable[[], bool],
) -> Iterator[Work]:
    """The work on each batch of candidates. Given the batch before, if that is still in flight, work
    that shares an event with it waits for it: they would only abort each other."""
    assert terms.overdue_at is not None
    last_event: Id = object()
    for batch in _portions(store, kind, terms, event_id, batch_size):
        if not go_on():
            return
        log.info("read %d candidates with a deadline before %s", len(batch), format_time(terms.overdue_at))
        shares = batch[0].get(kind.event) == last_event
        last_event = batch[-1].get(kind.event)

        def work(before: Wait, batch: list[Document] = batch, shares: bool = shares) -> GivenBack:
            waits = before is not None and (shares or not kind.plans_ahead())
            return _give_back_batch(store, kind, batch, terms, before if waits else None)

        yield work


def _portions(
    store: Store, kind: Sweep, terms: Terms, event_id: Id | None, size: int
) -> Iterator[list[Document]]:
    """Candidates in batches of at most `size`: of whole events where that is possible, so that two in
    flight share none, and few at a time of an event that somebody is buying from."""
    assert terms.overdue_at is not None
    candidates = kind.read(terms.overdue_at, event_id)
    left: list[Document] = []
    while batch := [*left, *islice(candidates, size - len(left))]:
        first, last = (batch[end].get(kind.event) for end in (0, -1))
        whole = len(batch) if len(batch) < size or first == last else _first_of(last, batch, kind.event)
        batch, left = batch[:whole], batch[whole:]
        many = first == last and len(batch) > BUSY_BATCH and store.transactions
        if many and _is_busy(store.event(first), terms.now):
            yield from (batch[start : start + BUSY_BATCH] for start in range(0, len(batch), BUSY_BATCH))
        else:
            yield batch


def _first_of(event: Id, batch: list[Document], field: str) -> int:
    return next(index for index, document in enumerate(batch) if document.get(field) == event)


def _is_busy(event: Document | None, now: datetime) -> bool:
    """Whether somebody else has changed this event in the last moment."""
    changed = event and event.get("updatedAt")
    return isinstance(changed, datetime) and changed > now - BUSY and changed != now


def _side_by_side(batches: Iterator[Work]) -> Iterator[GivenBack]:
    """Do the batches, WORKERS at a time once there are several, in order. When one fails, those that
    are in flight still end and are yielded before its error is raised."""
    first = list(islice(batches, 2))
    if len(first) < 2:
        yield from (work(None) for work in first)
        return
    from concurrent.futures import Future, ThreadPoolExecutor, wait

    in_flight: deque[Future[GivenBack]] = deque()
    failure: Exception | None = None
    with ThreadPoolExecutor(WORKERS) as pool:
        batches = chain(first, batches)
        while True:
            try:
                work = None if failure else next(batches, None)
            except Exception as error:  # noqa: BLE001 - raised below
                work, failure = None, error
            if work is not None:
                before = partial(wait, [in_flight[-1]]) if in_flight else None
                in_flight.append(pool.submit(work, before))
            if not in_flight:
                break
            if work is None or len(in_flight) > WORKERS:
                try:
                    done = in_flight.popleft().result()
                except Exception as error:  # noqa: BLE001 - raised below
                    failure = failure or error
                else:
                    yield done
    if failure:
        raise failure


def reclaim(store: Store, event_id: Id) -> GivenBack:
    """Give back whatever is overdue on one event (invariant 6)."""
    now = store.now()
    terms = Terms(now, overdue_at=now)
    done = GivenBack()
    for kind in (booking_sweep(store), lock_sweep(store)):
        for batch in sweep(store, kind, terms, event_id=event_id):
            done.add(batch)
    return done


def _give_back_batch(
    store: Store, kind: Sweep, candidates: list[Document], terms: Terms, before: Wait = None
) -> GivenBack:
    assert terms.overdue_at is not None
    for attempt in attempts():
        if before is not None and not kind.plans_ahead():
            before()
        claims, aside = kind.plan(candidates)
        if before is not None:
            before()
        try:
            # At first, the condition on the counters is enough.
            if attempt or isinstance(store, Rehearsal):
                claims, unsound = sound(store, claims)
                aside += unsound
            if isinstance(store, Rehearsal):
                done = store.carry_out(claims, counted=True)
            else:
                done = give_back(store, claims, terms) if claims else GivenBack()
        except StartOver:
            odd = [document for document in candidates if id_flaw(document)]
            fresh = kind.read_again([document["_id"] for document in candidates if not id_flaw(document)])
            candidates = odd + [
                document for document in fresh.values() if kind.still_overdue(document, terms.overdue_at)
            ]
            continue
        except WriteRefused as refusal:
            return _give_back_parts(store, kind, candidates, terms, refusal)
        done.set_aside += aside
        return done
    raise AssertionError


def _give_back_parts(
    store: Store, kind: Sweep, candidates: list[Document], terms: Terms, refusal: WriteRefused
) -> GivenBack:
    """A validator refused one of these: find it by halves, and do the rest."""
    if len(candidates) == 1:
        item = "lock" if kind.status == LockStatus.ACTIVE else "booking"
        return GivenBack(set_aside=[SetAside(item, candidates[0]["_id"], str(refusal), Cause.REFUSED)])
    middle = len(candidates) // 2
    done = GivenBack()
    for part in (candidates[:middle], candidates[middle:]):
        done.add(_give_back_batch(store, kind, part, terms))
    return done
