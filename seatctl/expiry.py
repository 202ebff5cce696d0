"""The two sweeps: give back what nobody paid for.

A sweep reads candidates ordered by event, plans a batch, and has `inventory` carry it out. What
changed in between is planned again; what is broken is set aside and never stops the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from seatctl.errors import Contention, WriteRefused
from seatctl.inventory import (
    ATTEMPTS,
    Cause,
    Claim,
    GivenBack,
    SetAside,
    StartOver,
    Terms,
    give_back,
    hold_of,
    prospect,
    sound,
)
from seatctl.model import BookingStatus, Document, Id, LockStatus, describe, lock_flaw, seats_of
from seatctl.store import CandidatesLost, is_object_id

if TYPE_CHECKING:
    from seatctl.store import Store

log = logging.getLogger(__name__)

BATCH = 5_000
"""Locks in one transaction: 0.2 s of work here, far below MongoDB's limit of 60 s."""
LARGEST_BATCH = 10_000

Plan = tuple[list[Claim], list[SetAside]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What sets one sweep apart from the other: its candidates and what is to be done to them."""

    read: Callable[[datetime, Id | None], Iterator[Document]]
    read_again: Callable[[Iterable[Id]], dict[Id, Document]]
    plan: Callable[[Sequence[Document]], Plan]
    status: str
    deadline: str

    def still_overdue(self, document: Document, at: datetime) -> bool:
        deadline = document.get(self.deadline)
        return document.get("status") == self.status and not (
            isinstance(deadline, datetime) and deadline >= at
        )


def lock_sweep(store: Store) -> Sweep:
    """ACTIVE locks past their deadline that no live booking keeps (invariant 4)."""

    def plan(locks: Sequence[Document]) -> Plan:
        kept = {booking["seatLockId"] for booking in store.live_bookings_of([lock["_id"] for lock in locks])}
        claims, aside = [], []
        for lock in locks:
            if lock["_id"] in kept:
                continue
            if flaw := id_flaw(lock) or lock_flaw(lock):
                aside.append(SetAside("lock", lock["_id"], flaw, Cause.DAMAGED))
            else:
                claims.append(Claim(hold_of(lock)))
        return claims, aside

    return Sweep(store.overdue_locks, store.locks_by_id, plan, LockStatus.ACTIVE, "expiresAt")


def booking_sweep(store: Store) -> Sweep:
    """PAYMENT_PENDING bookings past their deadline, with the locks that still hold their seats."""

    def plan(bookings: Sequence[Document]) -> Plan:
        claims, aside = [], []
        dated = [booking for booking in bookings if isinstance(booking.get("paymentExpiresAt"), datetime)]
        ids = {booking["_id"] for booking in dated}
        lock_ids = [booking.get("seatLockId") for booking in dated]
        locks = store.locks_by_id(lock_ids)
        # A lock with another booking that is alive (a foreign fault) must keep its seats.
        kept = {live["seatLockId"] for live in store.live_bookings_of(lock_ids) if live["_id"] not in ids}
        for booking in bookings:
            lock = locks.get(booking.get("seatLockId"))
            if flaw := id_flaw(booking) or _booking_flaw(booking, lock):
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
        "paymentExpiresAt",
    )


def id_flaw(document: Document) -> str | None:
    """Why a document cannot be found again by those that refer to it, or None."""
    return None if is_object_id(document["_id"]) else f"_id is {describe(document['_id'])}, not an ObjectId"


def _booking_flaw(booking: Document, lock: Document | None) -> str | None:
    if not isinstance(booking.get("paymentExpiresAt"), datetime):
        return f"paymentExpiresAt is {describe(booking.get('paymentExpiresAt'))}, not a date"
    if lock is None or lock.get("status") == LockStatus.EXPIRED:
        return None
    if lock.get("status") == LockStatus.CONSUMED:
        return f"its lock {lock['_id']} is CONSUMED: somebody may have paid"
    if lock.get("status") != LockStatus.ACTIVE:
        return f"its lock {lock['_id']} has the unknown status {describe(lock.get('status'))}"
    if seats_of(lock) is None:
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
) -> Iterator[GivenBack]:
    """Give back what was overdue at `terms.overdue_at`, one outcome for each batch of at most
    `batch_size` items. Stop reading it and the sweep ends between two transactions.

    `dry_run` yields what would be done and writes nothing.
    """
    assert terms.overdue_at is not None
    for _ in range(ATTEMPTS):
        candidates = kind.read(terms.overdue_at, event_id)
        try:
            while batch := list(islice(candidates, batch_size)):
                log.info("read %d candidates with a deadline before %s", len(batch), terms.overdue_at)
                yield _give_back_batch(store, kind, batch, terms, dry_run)
        except CandidatesLost:
            # What is done is no candidate any more. A dry run has done nothing and would count twice.
            if dry_run:
                break
        else:
            return
    raise Contention("the server kept dropping the list of what is overdue; try again")


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
    store: Store, kind: Sweep, candidates: list[Document], terms: Terms, dry_run: bool
) -> GivenBack:
    assert terms.overdue_at is not None
    for attempt in range(ATTEMPTS):
        claims, aside = kind.plan(candidates)
        if attempt or dry_run:  # at first, the condition on the counters is enough
            claims, unsound = sound(store, claims)
            aside += unsound
        try:
            done = prospect(claims) if dry_run or not claims else give_back(store, claims, terms)
        except StartOver:
            fresh = kind.read_again([document["_id"] for document in candidates])
            candidates = [
                document for document in fresh.values() if kind.still_overdue(document, terms.overdue_at)
            ]
            continue
        except WriteRefused as refusal:
            return _give_back_parts(store, kind, candidates, terms, refusal)
        done.set_aside += aside
        return done
    raise Contention


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
        done.add(_give_back_batch(store, kind, part, terms, dry_run=False))
    return done
