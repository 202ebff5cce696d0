"""The store of a dry run: it writes nothing, and what recovery reads to look again is as if all that
was planned so far had been done. So a plan is what the same code then does.

Keeps the seats by event, and what recovery would change by document; of what the sweeps would expire
it keeps no list, so that a plan for a million locks fits into memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from seatctl.domain.model import HOLDING, LIVE, BookingStatus, Document, Id, counter_flaw, is_key, seats_of
from seatctl.mongo import schema
from seatctl.mongo.store import Store
from seatctl.services.seats import Claim, GivenBack, prospect

if TYPE_CHECKING:
    from pymongo.collection import Collection

    from seatctl.mongo.store import Session

T = TypeVar("T")


class Rehearsal(Store):
    """A `Store` whose writes are only remembered."""

    @classmethod
    def of(cls, store: Store) -> Self:
        """A rehearsal on this store, which may be one already."""
        return store if isinstance(store, cls) else cls(store)

    def __init__(self, store: Store) -> None:
        super().__init__(store.deployment)
        self._held: Counter[Id] = Counter()
        """Seats that locks would hold more (or less) than they do, by event."""
        self._counted: Counter[str] = Counter()
        """Seats that counters would have more (or less) than they do, by event: buyers go on."""
        self._planned: defaultdict[tuple[str, str], Document] = defaultdict(dict)
        """Fields as they would be, by collection and id."""

    def carry_out(self, claims: Sequence[Claim], *, counted: bool) -> GivenBack:
        """What carrying out these claims of a sweep changes, from now on taken as done. Unless they are
        `counted`, no counter takes their seats."""
        done = prospect(claims)
        self._held.subtract(done.seats)
        if counted:
            self._add(done.seats)
        for claim in claims:
            if claim.hold is None:  # leaves its lock to another booking, which may be next
                self._planned[schema.BOOKINGS, str(claim.booking)]["status"] = BookingStatus.EXPIRED
        return done

    def _add(self, seats: Mapping[Id, int]) -> None:
        for event_id, more in seats.items():
            self._counted[str(event_id)] += more

    def _as_planned(self, collection: str, document: Document) -> Document:
        planned = {**document, **self._planned.get((collection, str(document["_id"])), {})}
        if collection == schema.EVENTS and (more := self._counted[str(document["_id"])]):
            planned["availableSeats"] += more
        return planned

    # --- reading what was planned ------------------------------------------------------------------

    def event(self, event_id: Id, session: Session = None) -> Document | None:
        event = super().event(event_id, session)
        return event and self._as_planned(schema.EVENTS, event)

    def events_by_id(self, event_ids: Iterable[Id], session: Session = None) -> dict[Id, Document]:
        found = super().events_by_id(event_ids, session)
        return {event_id: self._as_planned(schema.EVENTS, event) for event_id, event in found.items()}

    def all_counters(self, session: Session = None) -> Iterator[Document]:
        return (self._as_planned(schema.EVENTS, event) for event in super().all_counters(session))

    def held_by_event(self, session: Session = None, event_id: Id | None = None) -> dict[Id, tuple[int, int]]:
        held = super().held_by_event(session, event_id)
        for event in self._held if event_id is None else {event_id} & self._held.keys():
            seats, unreadable = held.get(event, (0, 0))
            held[event] = seats + self._held[event], unreadable
        return held

    def lock(self, lock_id: Id, session: Session = None) -> Document | None:
        lock = super().lock(lock_id, session)
        return lock and self._as_planned(schema.LOCKS, lock)

    def live_bookings_of(self, lock_ids: Sequence[Id], session: Session = None) -> list[Document]:
        found = super().live_bookings_of(lock_ids, session)
        return [booking for booking in found if self._planned_status(booking) in LIVE]

    def _planned_status(self, booking: Document) -> str:
        """That of a booking that is alive, be it for a list of states, unless it was planned to end."""
        planned = self._planned.get((schema.BOOKINGS, str(booking["_id"])), {})
        return str(planned.get("status", BookingStatus.CONFIRMED))

    # --- planning instead of writing ---------------------------------------------------------------

    def transact(self, work: Callable[[Session], T], event: Id = None) -> T:  # noqa: ARG002
        return work(None)

    def claim_event(self, event_id: Id, now: datetime, session: Session) -> Document | None:  # noqa: ARG002
        return self.event(event_id)

    def retake_seats(self, event_id: Id, seats: int, now: datetime, session: Session) -> Document | None:  # noqa: ARG002
        event = self.event(event_id)
        if event is None or not _fits(event, 0) or event["availableSeats"] < seats:
            return None
        self._add({event_id: -seats})
        return event

    def add_seats(self, events_by_seats: Mapping[int, Sequence[Id]], now: datetime, session: Session) -> int:  # noqa: ARG002
        changes = [(event_id, seats) for seats, ids in events_by_seats.items() for event_id in ids]
        return sum(self.add_seats_to(event_id, seats, now) is not None for event_id, seats in changes)

    def add_seats_to(self, event_id: Id, seats: int, now: datetime) -> Document | None:  # noqa: ARG002
        event = self.event(event_id)
        if event is None or not _fits(event, seats):
            return None
        self._add({event_id: seats})
        return event

    def close_bookings(
        self,
        booking_ids: Sequence[Id],
        status: BookingStatus,
        now: datetime,
        *,
        overdue_at: datetime | None,
        session: Session,
    ) -> int:
        assert overdue_at is None, "the sweeps' own claims are carried out at once"
        waiting = BookingStatus.PAYMENT_PENDING
        return sum(self.move_booking(booking, waiting, status, now, session) for booking in booking_ids)

    def _change(
        self,
        collection: Collection[Document],
        where: Document,
        changes: Document,
        session: Session,  # noqa: ARG002
    ) -> bool:
        stored = collection.find_one({"_id": where["_id"]})
        if stored is None:
            return False
        document = self._as_planned(collection.name, stored)
        if any(document.get(field) != _operand(condition) for field, condition in where.items()):
            return False
        # Whether a neighbour is at work is told by the stamps as they are.
        planned = {field: value for field, value in changes.items() if field != "updatedAt"}
        if "availableSeats" in planned:
            self._add({document["_id"]: planned.pop("availableSeats") - document["availableSeats"]})
        self._planned[collection.name, str(document["_id"])] |= planned
        event_id = document.get("eventId")
        if collection.name == schema.LOCKS and is_key(event_id):
            holds = (changes["status"] in HOLDING) - (document.get("status") in HOLDING)
            self._held[event_id] += holds * (seats_of(document) or 0)
        return True

    def _insert(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a dry run writes nothing")

    def expire_locks(self, *_: Any, **__: Any) -> int:
        raise AssertionError("the sweeps' own claims are carried out at once")


def _operand(condition: Any) -> Any:
    """The value that a field must be equal to; the conditions of recovery are no others."""
    return condition["$eq"] if isinstance(condition, dict) else condition


def _fits(event: Document, seats: int) -> bool:
    return not counter_flaw(event) and event["availableSeats"] + seats <= event["totalSeats"]
