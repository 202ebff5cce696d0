"""What `seatLocks` and `bookings` have in common: documents of an event that are open until a deadline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Generic, TypeVar

from seatctl.domain.documents import EventId, RunId, StoredDocument, Unreadable
from seatctl.mongo.collection import BY_ID, EVERY, Documents, id_is, status_change
from seatctl.mongo.document import Document

Id = TypeVar("Id")
Status = TypeVar("Status", bound=str)
Read = TypeVar("Read")
Overdue = TypeVar("Overdue")


class ExpiringDocuments(Documents, ABC, Generic[Id, Status, Read, Overdue]):
    """Locks or bookings: what they are once they are read, and what a sweep needs of an overdue one."""

    event_field: str
    deadline_field: str
    fields: tuple[str, ...]
    """What must be read of one, apart from its user."""
    buyer_fields: tuple[str, ...]
    open_status: Status
    """The state that the deadline ends, and the one after it."""
    expired_status: Status
    keeps_old_status = False
    """Whether a job leaves the state before in `oldStatus`."""
    has_deadline: ClassVar[Document] = {}
    """A condition: it is one that has a deadline, if it is open."""

    # --- what differs ----------------------------------------------------------------------------------

    @abstractmethod
    def _read(self, document: Document) -> Read | Unreadable:
        """What is stored, through the codec."""

    @abstractmethod
    def _overdue(self, document: Document) -> Overdue | Unreadable:
        """The same of an overdue one, as a sweep needs it."""

    @abstractmethod
    def _may_count(self) -> Document:
        """A condition: it holds or protects seats, or is in a state that nobody knows."""

    def _at_end(self, _status: Status, _now: datetime) -> Document:
        """What else is written of one that an operator moves to this state."""
        return {}

    # --- reading ---------------------------------------------------------------------------------------

    def get(self, document_id: Id) -> Read | Unreadable | None:
        found = self._one(id_is(document_id))
        return None if found is None else self._read(found)

    def buyers(self, ids: Iterable[Id]) -> dict[Id, StoredDocument]:
        """Whom those of these that exist are for: event, user, and key or lock."""
        return {found["_id"]: found for found in self._find({"_id": {"$in": list(ids)}}, self.buyer_fields)}

    def of_events(self, events: Document, status: Status) -> Iterator[Read | Unreadable]:
        """Those of some events, or of a range of them, that are in one state."""
        return self._all({self.event_field: events, "status": status})

    def due_after(self, events: Document, deadline: datetime) -> Iterator[Read | Unreadable]:
        """The open ones of these events, blocks apart, whose deadline is after this time."""
        return self._all({**self._open_of(events), self.deadline_field: {"$gt": deadline}})

    def ending_before(self, event_id: EventId, deadline: datetime) -> Iterator[Read | Unreadable]:
        """The event's open ones, blocks apart, whose deadline is before this time, or is no date."""
        return self._all({**self._open_of(event_id), self.deadline_field: {"$not": {"$gte": deadline}}})

    def latest_deadline(self, event_id: EventId) -> datetime | None:
        """Of the event's open ones, blocks apart."""
        where = {**self._open_of(event_id), self.deadline_field: {"$type": "date"}}
        latest = next(self.sorted({self.deadline_field: -1}, where, 1, [self.deadline_field]), {})
        moment = latest.get(self.deadline_field)
        return moment if isinstance(moment, datetime) else None

    def unreadable(self, events: Document) -> Iterator[Unreadable]:
        """Those of these events that may hold or protect seats and cannot be read."""
        for read in self._all({self.event_field: events, **self._may_count()}):
            if isinstance(read, Unreadable):
                yield read

    def sorted(
        self,
        order: Mapping[str, int],
        where: Mapping[str, object],
        limit: int,
        fields: Iterable[str] | None = None,
    ) -> Iterator[StoredDocument]:
        """As `Documents.sorted`; those of one event are found on the index that begins with the status."""
        of_event = {"status": EVERY} if self.event_field in where else {}
        return super().sorted(order, {**of_event, **where}, limit, fields)

    def overdue(self, before: datetime, event_id: EventId | None = None) -> Iterator[Overdue | Unreadable]:
        """The open ones whose deadline is before this time, or is no date at all, ordered by event."""
        where: Document = {
            "status": self.open_status,
            # Not `$lt`: that passes over a deadline that is no date, and its seats are lost without a
            # word. On the partial index both forms examine the same keys.
            self.deadline_field: {"$not": {"$gte": before}},
            self.event_field: EVERY if event_id is None else {"$eq": event_id},
        }
        yield from map(self._overdue, self._find(where, self.fields, sort=[(self.event_field, 1)]))

    def still_overdue(self, ids: Sequence[object], before: datetime) -> Iterator[Overdue | Unreadable]:
        """Those of these that are open and overdue still."""
        where = {**self._open_among(ids), self.deadline_field: {"$not": {"$gte": before}}}
        yield from map(self._overdue, self._find(where, self.fields, hint=BY_ID))

    def count_overdue(self, before: datetime) -> int:
        where = {self.event_field: EVERY, "status": self.open_status, self.deadline_field: {"$lt": before}}
        return self._count(where)

    def ids_of(self, event_id: EventId, status: Status) -> Iterator[Id]:
        """Those of an event in one state."""
        for found in self._find({self.event_field: event_id, "status": status}, ("_id",)):
            yield found["_id"]

    def count_of(self, event_id: EventId, status: Status) -> int:
        return self._count({self.event_field: event_id, "status": status})

    def _all(self, where: Document) -> Iterator[Read | Unreadable]:
        yield from map(self._read, self._find(where, self.fields))

    def _open_of(self, events: object) -> Document:
        return {self.event_field: events, "status": self.open_status, **self.has_deadline}

    def _open_among(self, ids: Sequence[object]) -> Document:
        return {"_id": {"$in": ids}, "status": self.open_status}

    # --- changing --------------------------------------------------------------------------------------

    def change(
        self,
        document_id: Id,
        old: Status,
        new: Status,
        now: datetime,
        *,
        by_job: bool = False,
        ended_by: RunId | None = None,
    ) -> Read | None:
        """Compare-and-set of one status; None: another writer was faster."""
        if by_job:
            change = self._by_job(old, new, now, ended_by)
        else:
            change = status_change(new, now, ended_by=ended_by) | self._at_end(new, now)
        return self._changed({**id_is(document_id), "status": old}, change)

    def end_all(self, ids: Sequence[Id], old: Status, new: Status, now: datetime, ended_by: RunId) -> int:
        """Compare-and-set of the status of many that an operator ends; returns how many."""
        if not ids:
            return 0
        change = status_change(new, now, ended_by=ended_by) | self._at_end(new, now)
        return self._compare_and_set_many({"_id": {"$in": ids}, "status": old}, change)

    def expire_overdue(
        self,
        ids: Sequence[Id],
        before: datetime,
        now: datetime,
        ended_by: RunId | None = None,
        seats: int | None = None,
    ) -> int:
        """Expired by a job, those that are open and overdue still, and hold so many `seats` if that is given;
        returns how many."""
        where = {**self._open_among(ids), self.deadline_field: {"$lt": before}}
        if seats is not None:
            where["seats"] = seats
        return self._compare_and_set_many(
            where, self._by_job(self.open_status, self.expired_status, now, ended_by)
        )

    def _by_job(self, old: Status, new: Status, now: datetime, ended_by: RunId | None) -> Document:
        return status_change(new, now, old=old if self.keeps_old_status else None, ended_by=ended_by)

    def extend(
        self, document_id: Id, current: datetime | None, deadline: datetime, now: datetime, *, overdue: bool
    ) -> Read | None:
        """Move the deadline of an open one; None: it has another one by now, or has ended. One that has
        passed by the server's own clock stays, unless `overdue` ones are wanted."""
        where = {**id_is(document_id), "status": self.open_status, self.deadline_field: current}
        change = {"$set": {self.deadline_field: deadline, "updatedAt": now}}
        return self._changed({**where, **({} if overdue else self._in_time())}, change)

    def _in_time(self) -> Document:
        """A condition: the deadline has not passed by the server's own clock."""
        return {"$expr": {"$gt": [f"${self.deadline_field}", self._deployment.now_expression]}}

    def _changed(self, where: Document, changes: Document) -> Read | None:
        """Change the one that is still as `where` says; returns it as it is then, or None."""
        found = self._compare_and_set(where, changes)
        return None if found is None else self._own(found)

    def _own(self, document: Document) -> Read:
        """One that seatctl wrote, or read before it changed it."""
        read = self._read(document)
        assert not isinstance(read, Unreadable)
        return read
