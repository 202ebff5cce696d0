"""The collection `events`: each event's counter, and the only statements that move it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from seatctl.domain.documents import Event, EventId, StoredDocument, Unreadable
from seatctl.mongo import codec, schema
from seatctl.mongo.collection import Documents, chunks, id_is
from seatctl.mongo.document import Document

EVENTS_PER_QUERY = 10_000
FREE = "seatctlFree"
"""A field of no document."""


class Events(Documents):
    name = schema.EVENTS

    def insert(
        self, name: str, date: datetime, seats: int, description: str | None, key: str | None, now: datetime
    ) -> StoredDocument:
        document = codec.new_event(name, date, seats, description, key, now)
        self._insert(document)
        return document

    def get(self, event_id: EventId) -> Event | Unreadable | None:
        found = self._one(id_is(event_id), codec.EVENT_FIELDS)
        return None if found is None else codec.event(found)

    def by_id(self, event_ids: Iterable[EventId]) -> dict[EventId, Event | Unreadable]:
        """Those of these events that exist."""
        found: dict[EventId, Event | Unreadable] = {}
        for some in chunks(event_ids, EVENTS_PER_QUERY):
            for document in self._find({"_id": {"$in": some}}, codec.EVENT_FIELDS):
                found[EventId(document["_id"])] = codec.event(document)
        return found

    def names(self, event_ids: Iterable[object]) -> dict[object, str]:
        found = self._find({"_id": {"$in": list(event_ids)}}, ("name",))
        return {event["_id"]: str(event.get("name", event["_id"])) for event in found}

    def take_seats(self, event_id: EventId, seats: int) -> Event | None:
        """Counter down, if that many seats are there (invariant 2) and for sale; returns the event as it is
        then, its `updated_at` the server's time of this write, or None."""
        where = {**id_is(event_id), "availableSeats": {"$gte": seats}, **_has_room(0, codec.is_open())}
        change = {"$inc": {"availableSeats": -seats}, **self._deployment.stamp("updatedAt")}
        found = self._compare_and_set(where, change)
        if found is None:
            return None
        event = codec.event(found)
        assert isinstance(event, Event), event  # the condition says the same as the codec
        return event

    def add_seats(self, seats: Mapping[EventId, int], now: datetime) -> int:
        """Counters up, one statement for all events that get the same number of seats.

        Returns how many events took them. One that does not exist, that cannot be read, or that would
        have more seats available than it has, takes none (invariant 2: no clamp).
        """
        events_by_seats: dict[int, list[EventId]] = {}
        for event_id, number in seats.items():
            events_by_seats.setdefault(number, []).append(event_id)
        # Never backwards: a sweep that began long ago must not hide that a buyer is here.
        return sum(
            self._compare_and_set_many(
                {"_id": {"$in": events}, **_has_room(number)},
                {"$inc": {"availableSeats": number}, "$max": {"updatedAt": now}},
            )
            for number, events in events_by_seats.items()
        )

    def set_counter(
        self, event: Event, available: int, now: datetime, total: int | None = None
    ) -> StoredDocument | None:
        """Set a counter, and the capacity if a new one is given, if the event is still as it was read; None
        otherwise. Within a transaction nobody else can then move its seats before the commit."""
        numbers = {"availableSeats": available} | ({} if total is None else {"totalSeats": total})
        return self._compare_and_set(_unchanged(event), {"$set": numbers, "$max": {"updatedAt": now}})

    def describe(self, event_id: EventId, changes: StoredDocument, now: datetime) -> StoredDocument | None:
        """Change what people read of an event."""
        return self._compare_and_set(id_is(event_id), {"$set": {**changes, "updatedAt": now}})

    def close(self, event: Event, now: datetime, *, cancel: bool = False) -> StoredDocument | None:
        """Stop the sales, with nothing left available, if the event is still as it was read; None
        otherwise. A time that is set already stays."""
        times = {"closedAt": event.closed_at or now} | ({"cancelledAt": now} if cancel else {})
        change = {"$set": {**times, "availableSeats": min(event.available, 0)}, "$max": {"updatedAt": now}}
        return self._compare_and_set(_unchanged(event), change)

    def reopen(self, event: Event, seats: int, now: datetime) -> StoredDocument | None:
        """Start the sales again, with so many more seats available, if the event is still as it was read and
        has room for them; None otherwise."""
        where = {**_unchanged(event), **(_has_room(seats) if seats else {})}
        counter = {"$inc": {"availableSeats": seats}} if seats else {}
        return self._compare_and_set(
            where, {"$unset": {"closedAt": ""}, "$max": {"updatedAt": now}, **counter}
        )

    def touch(self, event_id: EventId) -> bool:
        """Write the event where its counter stays: what moves its seats excludes each other by this."""
        return self._compare_and_set(id_is(event_id), self._deployment.stamp("updatedAt")) is not None

    def closed_with_seats(self) -> Iterator[Event]:
        """Closed events that have seats available: those came back since."""
        where = {"closedAt": {"$type": "date"}, "availableSeats": {"$gt": 0}}
        for document in self._find(where, codec.EVENT_FIELDS):
            event = codec.event(document)
            if isinstance(event, Event):
                yield event

    def fullest(
        self, where: Mapping[str, object], limit: int, fields: Iterable[str] | None = None
    ) -> Iterator[StoredDocument]:
        """By the share of their seats that is available, smallest first, cancelled events last; 0 for all.
        What is sorted is small: whole documents are read after it."""
        total = {"$max": [codec.number_or_zero("$totalSeats"), 1]}
        kept = () if fields is None else fields
        free: Document = {"$divide": [codec.number_or_zero("$availableSeats"), total]}
        free = {"$cond": [{"$eq": [{"$type": "$cancelledAt"}, "date"]}, float("inf"), free]}
        pipeline: list[Document] = [
            {"$match": dict(where)},
            {"$project": {**dict.fromkeys(kept, 1), FREE: free}},
            {"$sort": {FREE: 1, "_id": -1}},
            *([{"$limit": limit}] if limit else []),
        ]
        if fields is None:
            found = {"from": self.name, "localField": "_id", "foreignField": "_id", "as": "event"}
            pipeline += [{"$lookup": found}, {"$unwind": "$event"}, {"$replaceRoot": {"newRoot": "$event"}}]
        yield from self._aggregate([*pipeline, {"$unset": FREE}])

    def totals(self) -> tuple[int, int, int]:
        """How many events there are, their seats in all, and their available ones. A value that is no
        number counts as none."""
        sums = {name: {"$sum": codec.number_or_zero(f"${name}")} for name in ("totalSeats", "availableSeats")}
        for group in self._aggregate([{"$group": {"_id": None, "events": {"$sum": 1}, **sums}}]):
            return int(group["events"]), int(group["totalSeats"]), int(group["availableSeats"])
        return 0, 0, 0


def _unchanged(event: Event) -> Document:
    """Conditions: nobody moved its seats, or closed or opened it, since it was read."""
    times = {"closedAt": event.closed_at, "cancelledAt": event.cancelled_at}
    return {
        **id_is(event.id),
        "availableSeats": event.available,
        "totalSeats": event.total,
        **{field: {"$not": {"$type": "date"}} if time is None else time for field, time in times.items()},
    }


def _has_room(seats: int, *conditions: Document) -> Document:
    """Conditions: the event can be read, with so many more seats available it has no more than all, and
    these."""
    fits = {"$and": [{"$lte": [{"$add": ["$availableSeats", seats]}, "$totalSeats"]}, *conditions]}
    numbers = [codec.is_whole("$availableSeats"), codec.is_seat_count("$totalSeats")]
    return {"$expr": {"$cond": [{"$and": [*numbers, codec.counts_the_whole()]}, fits, False]}}
