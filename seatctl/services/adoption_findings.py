"""What `adopt` found in a database, and the words for it: what it means, what to switch off in the other
program, what will be done. Reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seatctl.domain.documents import EventId
from seatctl.domain.rules import LISTED
from seatctl.domain.settings import DeletingIndex, Settings
from seatctl.domain.words import and_more, count
from seatctl.mongo.inspection import Keys
from seatctl.services.violations import Violation, first_of_each


class Choice(NamedTuple):
    """A collection that seatctl takes for something, and why."""

    purpose: str
    collection: str
    documents: int
    why: str


class StateCount(NamedTuple):
    """How many documents of a collection are in a state, and whether seatctl knows it."""

    collection: str
    status: str
    number: int
    known: bool


class SoldTwice(NamedTuple):
    """An event that sold more seats than it has, or has them on sale again, counting bookings whose locks are
    gone."""

    event: EventId
    total: int
    available: int
    held: int
    without_lock: int

    @property
    def gone(self) -> int:
        """Seats that are sold or locked."""
        return self.held + self.without_lock

    def __str__(self) -> str:
        again = self.gone + self.available - self.total
        on_sale = f", and {again} of them are on sale again" if self.gone <= self.total else ""
        return (
            f"event {self.event}: {self.gone} of {count(self.total, 'seat')} are sold or locked{on_sale}; "
            f"locks hold {self.held}, bookings whose locks are gone have {self.without_lock}"
        )


class Advice(NamedTuple):
    """What to do in the other program, and what happens otherwise."""

    what: str
    otherwise: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What `adopt` found, and the settings that it would write."""

    database: str
    settings: Settings
    choices: Sequence[Choice]
    states: Sequence[StateCount]
    ttl_indexes: Sequence[DeletingIndex]
    validators: Sequence[str]
    collations: Sequence[str]
    """Collections that do not compare texts exactly."""
    by_day: Sequence[tuple[EventId, str]]
    users: tuple[int, int]
    keys: Keys
    labelled: int
    missing_locks: int
    """Live bookings whose locks do not exist."""
    sold_twice: Sequence[SoldTwice]
    violations: Sequence[Violation]
    missing: Sequence[str]
    """The collections and indexes that it creates."""

    @property
    def unknown_states(self) -> list[StateCount]:
        return [state for state in self.states if not state.known]

    @property
    def inconsistent(self) -> bool:
        return bool(self.sold_twice or self.unknown_states or self.violations)

    @property
    def advice(self) -> list[Advice]:
        lines = list(SWITCH_OFF)
        if self.by_day:
            lines.append(KEEP_BY_DAY)
        if self.ttl_indexes or self.settings.ttl_indexes:
            lines.append(TAKE_OUT_TTL)
        return lines

    @property
    def remarks(self) -> list[str]:
        """What else was found, and what seatctl makes of it, a sentence each."""
        return [*self._of_documents(), *self._of_indexes(), *self._of_the_kinds_of_events()]

    def _of_documents(self) -> list[str]:
        ids, others = self.users
        must = "seatctl takes only ObjectIds" if self.settings.object_id_users else "seatctl takes any text"
        without = f"{count(self.keys.missing, 'lock')} without one" if self.keys.missing else "on every lock"
        unique = "a unique index" if self.keys.unique else "no unique index"
        labels = "writes them too" if self.settings.seat_labels else "writes none"
        named = f"{count(ids, 'lock or booking', 'locks and bookings')} with an ObjectId"
        return [
            f"users: {named}, {others} with something else; {must}",
            f"keys: {without}; {unique}; seatctl always writes one",
            f"seat labels: on {count(self.labelled, 'booking')}; seatctl {labels}",
        ]

    def _of_indexes(self) -> list[str]:
        lines = [
            f"TTL index {index}: MongoDB deletes documents after {index.seconds} s, whatever their status"
            for index in self.ttl_indexes
        ]
        if self.missing_locks:
            lines.append(
                f"missing locks: {count(self.missing_locks, 'live booking')} without one; no counter of "
                "those events is raised until the locks are restored (`seatctl help adopt`)"
            )
        if self.collations:
            lines.append(
                f"collation: {', '.join(self.collations)} can confuse users or keys, such as ann and Ann; "
                "seatctl compares them exactly"
            )
        there = ", ".join(self.validators)
        return [*lines, f"validators: on {there}; they stay as they are" if there else "validators: none"]

    def _of_the_kinds_of_events(self) -> list[str]:
        if not self.by_day:
            return ["events counted per day: none"]
        named = ", ".join(f"{name} ({event})" for event, name in self.by_day[:3])
        named += and_more(len(self.by_day), 3)
        return [f"events counted per day, which seatctl leaves alone, like their locks: {named}"]

    @property
    def plan(self) -> list[str]:
        """What `adopt` does, a sentence each."""
        return [
            "write these findings to seatctlSettings, which every command reads",
            *(f"make the TTL index {index} harmless (collMod to 68 years)" for index in self.ttl_indexes),
            *(f"create {name}" for name in self.missing),
            "change no event, no lock and no booking; install no validator and no unique index",
        ]

    def as_document(self) -> dict[str, object]:
        settings = self.settings
        return {
            "database": self.database,
            "collections": [choice._asdict() for choice in self.choices],
            "states": [state._asdict() for state in self.states],
            "ttlIndexes": [index._asdict() for index in self.ttl_indexes],
            "validators": list(self.validators),
            "eventsByDay": [{"event": event, "name": name} for event, name in self.by_day[:LISTED]],
            "eventsByDayCount": len(self.by_day),
            "objectIdUsers": settings.object_id_users,
            "seatLabels": settings.seat_labels,
            "graceSeconds": settings.grace.total_seconds(),
            "liveBookingsWithoutLock": self.missing_locks,
            "soldTwice": [sold._asdict() | {"message": str(sold)} for sold in self.sold_twice[:LISTED]],
            "soldTwiceCount": len(self.sold_twice),
            "findings": [violation.as_document() for violation in self.violations[:LISTED]],
            "findingsCount": len(self.violations),
            "findingsByFault": [
                {"fault": first.fault.value, "number": number, "first": first.message}
                for first, number in first_of_each(self.violations)
            ],
            "remarks": self.remarks,
            "switchOff": [advice._asdict() for advice in self.advice],
            "plan": self.plan,
        }


SWITCH_OFF = (
    Advice(
        "its job that expires locks",
        "it may expire a lock whose buyer is paying, and sell those seats again; and it may fail as a whole, "
        "without a retry, whenever seatctl or a buyer changes one of its documents first",
    ),
    Advice(
        "its job that expires bookings",
        "both programs do the same work and occasionally roll each other back",
    ),
    Advice(
        "its recovery at start-up",
        "it recomputes each counter from the locks that it finds: if locks are missing, sold seats go on "
        "sale again",
    ),
    Advice(
        "a job that deletes past events, if there is one",
        "until it has deleted all of them, the rest is reported as orphaned",
    ),
)
KEEP_BY_DAY = Advice(
    "keep on: the job that returns the seats of events counted per day",
    "seatctl leaves those events alone, so nothing else returns their overdue seats",
)
TAKE_OUT_TTL = Advice(
    "the TTL index in its source, when it is next changed",
    "if it creates the collection again, the index is back, and MongoDB deletes locks",
)
