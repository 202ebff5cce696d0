"""`adopt`: work beside another program on its database. Look first, tell a person what was found, and with
consent write the settings that every command reads. Never changes an event, a lock or a booking.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from seatctl.domain.documents import Event, EventId
from seatctl.domain.settings import GRACE, DeletingIndex, Settings
from seatctl.domain.states import BookingStatus, Fault, LockStatus
from seatctl.domain.words import count
from seatctl.errors import Misconfigured
from seatctl.mongo import schema
from seatctl.mongo.aggregations import HeldSeats, scope_of
from seatctl.mongo.inspection import Deletion, Inspection
from seatctl.mongo.store import MadeByAdopt, Store
from seatctl.services.adoption_findings import Choice, Findings, SoldTwice, StateCount
from seatctl.services.verify import verify
from seatctl.services.violations import Violation

SOLD_TWICE = (Fault.OVERBOOKED, Fault.LOST_LOCK, Fault.SEVERAL_BOOKINGS, Fault.CONFIRMED_WITHOUT_LOCK)
"""Faults by which seats may be sold twice: named first."""


def inspect(store: Store, locks_collection: str | None = None) -> Findings:
    """Look at the whole database. Raises Misconfigured where it would be a guess what is what."""
    names = store.collections()
    for needed in (schema.EVENTS, schema.BOOKINGS):
        _check_there(store, names, needed)
    locks, why = _choose_locks(store, names, locks_collection)
    inspection = Inspection(store.database, locks)
    ttl_indexes = store.with_settings(Settings(locks)).aggregations.deleting_indexes()
    live, missing_locks = inspection.live_bookings()
    may_be_gone = store.settings.adopted or bool(ttl_indexes)
    _check_locks(inspection, locks, live, missing_locks, may_be_gone=may_be_gone)
    users, labelled = inspection.users(), inspection.labelled_bookings()
    settings = _settings(store, locks, ttl_indexes, users, labelled)
    adopted = store.with_settings(settings)
    sizes = adopted.sizes()
    choices = [
        Choice("events", schema.EVENTS, sizes[schema.EVENTS], "matched by name"),
        Choice("locks", locks, sizes[schema.LOCKS], why),
        Choice("bookings", schema.BOOKINGS, sizes[schema.BOOKINGS], "matched by name"),
    ]
    missing = adopted.missing()
    return Findings(
        database=store.name,
        settings=replace(settings, created=(*settings.created, *missing)),
        choices=choices,
        states=_states(inspection, locks),
        ttl_indexes=ttl_indexes,
        validators=inspection.validated(),
        collations=[name for name, _ in adopted.aggregations.collations()],
        by_day=inspection.events_by_day(),
        users=users,
        keys=inspection.keys(),
        labelled=labelled,
        missing_locks=missing_locks,
        sold_twice=_sold_twice(adopted, inspection.seats_without_lock()),
        violations=_violations(adopted),
        missing=missing,
    )


def _check_there(store: Store, names: list[str], needed: str) -> None:
    if needed not in names:
        like = store.spelled_differently(needed, names)
        hint = (
            f"; there is {', '.join(like)}, but seatctl does not accept another name for it" if like else ""
        )
        raise Misconfigured(
            f"database {store.name} has no collection {needed}{hint}. There is nothing to adopt: is this "
            "the right database, and has the other program run on it?"
        )


def _choose_locks(store: Store, names: list[str], wanted: str | None) -> tuple[str, str]:
    """The collection of the locks, and why it is that one."""
    if wanted is not None:
        if wanted not in names:
            raise Misconfigured(f"database {store.name} has no collection {wanted}")
        return wanted, "named by --locks-collection"
    like = [name for name in names if name.lower().replace("_", "") == schema.LOCKS.lower()]
    filled = [name for name in like if not store.is_empty(name)]
    if len(filled) == 1:
        return filled[0], "the only candidate with documents"
    if len(like) == 1:
        return like[0], "the only candidate"
    if like:
        raise Misconfigured(
            f"database {store.name} has several collections for locks: {', '.join(filled or like)}. Name "
            "the one that the other program uses with --locks-collection; empty or rename the others"
        )
    inspection = Inspection(store.database, schema.LOCKS)
    shaped = [name for name in names if inspection.looks_like_locks(name)]
    hint = f"; the documents in {', '.join(shaped)} look like locks" if shaped else ""
    raise Misconfigured(
        f"database {store.name} has no collection with a name like seatLocks{hint}. Name the collection "
        "of the locks with --locks-collection"
    )


def _check_locks(inspection: Inspection, locks: str, live: int, missing: int, *, may_be_gone: bool) -> None:
    """Raises Misconfigured where these are not the locks that the bookings name. Once adopted they are, even
    if all of them are gone."""
    if unreadable := inspection.unreadable_sample():
        raise Misconfigured(f"the documents in {locks} are not locks that seatctl can read: {unreadable}")
    if live and missing == live and not may_be_gone:
        raise Misconfigured(
            f"none of {count(live, 'live booking')} names a lock in {locks}: the locks are "
            "elsewhere, or were lost. Name their collection with --locks-collection, or restore them"
        )


def _settings(
    store: Store, locks: str, ttl_indexes: list[DeletingIndex], users: tuple[int, int], labelled: int
) -> Settings:
    """What to write. Repeated, what it made before stays on record, for `--undo`."""
    before = store.settings
    if before.adopted and before.locks != locks:
        raise Misconfigured(
            f"database {store.name} is adopted with its locks in {before.locks}; undo that first with "
            "`seatctl adopt --undo`"
        )
    known = {(index.collection, index.name) for index in before.ttl_indexes}
    new = [index for index in ttl_indexes if (index.collection, index.name) not in known]
    ids, others = users
    return Settings(
        locks=locks,
        grace=GRACE,
        # A program that casts users to ObjectIds cannot read a text, and one that does not can read both.
        object_id_users=ids > 0 or not others,
        seat_labels=labelled > 0,
        adopted_at=before.adopted_at or store.now(),
        ttl_indexes=(*before.ttl_indexes, *new),
        created=before.created,
    )


def _states(inspection: Inspection, locks: str) -> list[StateCount]:
    return [
        StateCount(collection, status, number, status in known)
        for collection, known in ((locks, set(LockStatus)), (schema.BOOKINGS, set(BookingStatus)))
        for status, number in inspection.states(collection).items()
    ]


def _sold_twice(store: Store, without_lock: dict[EventId, int]) -> list[SoldTwice]:
    """Events that sold more than they have, or will. Where locks are missing only the bookings tell."""
    scope = scope_of(without_lock)
    events, held = store.aggregations.events(scope), store.aggregations.held_seats(scope)
    found = [
        SoldTwice(
            event_id,
            event.total,
            event.available,
            held.get(event_id, HeldSeats()).seats,
            without_lock[event_id],
        )
        for event_id, event in events.items()
        if isinstance(event, Event)
    ]
    return [sold for sold in found if sold.gone + sold.available > sold.total]


def _violations(store: Store) -> list[Violation]:
    """What is wrong already, but for what `adopt` itself deals with; seats sold twice first."""
    found = [
        violation
        for violation in verify(store)
        if violation.fault is not Fault.TTL_INDEX and not violation.accepted
    ]
    found.sort(key=lambda violation: violation.fault not in SOLD_TWICE)
    return found


def adopt(store: Store, findings: Findings) -> None:
    """Carry it out. The settings come first: they say how each later step is undone."""
    store.write_settings(findings.settings)
    adopted = store.with_settings(findings.settings)
    adopted.neutralise(findings.ttl_indexes)
    adopted.init()


class Undo(NamedTuple):
    """What `--undo` takes back, and what MongoDB then deletes."""

    made: MadeByAdopt
    adopted_at: datetime
    deletions: list[Deletion]

    @property
    def warning(self) -> str | None:
        """What a person has to know before it is done, and after."""
        if not self.deletions:
            return None
        now = ", ".join(
            f"{count(each.documents, 'document')} of {each.collection}, {each.in_use} of them with sold or "
            "locked seats"
            for each in self.deletions
        )
        return (
            f"because of the TTL index, MongoDB then deletes {now} within a minute, and later every document "
            "whose time is over, whatever its status. They cannot be brought back; running `seatctl adopt` "
            "again stops it"
        )

    def sentences(self, *, done: bool) -> list[str]:
        """What would be done, or is done."""
        deletes = "deletes" if done else "would delete"
        settings = f"removed the settings of {self.adopted_at:%Y-%m-%d %H:%M} UTC"
        return [
            *(f"{index} {deletes} after {index.seconds} s again" for index in self.made.harmless),
            *(f"removed {name}" if done else f"{name} would be removed" for name in self.made.removable),
            *(f"{name} is kept: it has entries" for name in self.made.kept),
            settings if done else "the settings would be removed",
        ]


def plan_undo(store: Store) -> Undo | None:
    """What of the adoption can be taken back; None where there was none."""
    settings, made = store.settings, store.made_by_adopt()
    if settings.adopted_at is None:
        return None
    inspection, now = Inspection(store.database, settings.locks), store.now()
    return Undo(made, settings.adopted_at, [inspection.would_delete(index, now) for index in made.harmless])


def undo(store: Store, plan: Undo) -> None:
    """Carry it out. The settings go last: they say what there is to undo."""
    store.remove_made(plan.made)
    store.remove_settings()
