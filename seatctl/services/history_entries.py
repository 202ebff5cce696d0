"""One entry of a history: an operator's command, or a run of a job, in a sentence. Never fails on what stands
in a document, of whatever shape that is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from seatctl.domain.documents import StoredDocument, mapping_in
from seatctl.domain.states import BookingStatus, JobStatus, JobType, RefundStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count, shorten
from seatctl.mongo.ids import creation_time

LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)

COMMANDS = {
    "create-event": "event created",
    "confirm": "lock confirmed",
    "confirm --sold": "sale recorded",
    "pay": "payment recorded",
    "pay --failed": "payment failed",
    "release": "lock released",
    "relock": "booking given a lock of its own",
    "extend": "deadline moved",
    "cancel": "booking cancelled",
    "rebook": "rebooked",
    "resize": "capacity changed",
    "edit-event": "event edited",
    "block": "seats taken off sale",
    "unblock": "seats put back on sale",
    "close": "sales closed",
    "reopen": "sales reopened",
    "cancel-event": "event cancelled",
    "refund": "refund paid",
}
"""By command, what a person did with it."""
FIELDS = {"paymentExpiresAt": "to be paid by", "paymentRef": "payment", "doneRef": "paid back as"}
"""By field, what a person calls it, where its own words do not say so."""
JOBS = {
    JobType.LOCK_EXPIRY: "expire-locks",
    JobType.BOOKING_EXPIRY: "expire-bookings",
    JobType.RECOVERY: "recover",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened: when, a sentence, who did it, why if anybody said so, and the ids involved."""

    at: datetime
    what: str
    ids: Mapping[str, object]
    by: str | None = None
    reason: str | None = None

    def as_document(self) -> dict[str, object]:
        return {"at": self.at, "what": self.what, "by": self.by, "reason": self.reason, **self.ids}


def of_operation(entry: StoredDocument, about: object = None) -> Entry:
    """An operator's command: what it did, to which document unless that is what was asked `about`, and the
    fields that it changed."""
    fields = {"event": "eventId", "lock": "lockId", "booking": "bookingId", "refund": "refundId"}
    ids = {kind: entry[field] for kind, field in fields.items() if field in entry}
    before, after = flat(entry.get("before")), flat(entry.get("after"))
    what = _what(entry, before, after)
    parts = [kind for kind in ("booking", "refund") if kind in ids] or [*ids][-1:]
    if named := ", ".join(f"{kind} {ids[kind]}" for kind in parts if ids[kind] != about):
        what += f" ({named})"
    changes = [
        f"{_field_in_words(field)} {in_words(value)}"
        if before.get(field) is None
        else f"{_field_in_words(field)} {in_words(before[field])} → {in_words(value)}"
        for field, value in after.items()
        if before.get(field) != value
    ]
    what += f": {', '.join(changes)}" if changes else ""
    return Entry(
        time_in(entry.get("at")) or LONG_AGO,
        what,
        {**ids, "operation": entry["_id"]},
        by=by_operator(entry),
        reason=reason_of(entry),
    )


def _field_in_words(field: str) -> str:
    """`total seats` of `totalSeats`."""
    return FIELDS.get(field) or re.sub("(?=[A-Z])", " ", field).lower()


def _what(entry: StoredDocument, before: dict[str, object], after: dict[str, object]) -> str:
    """What a command did, in words; what those say is taken out of the fields."""
    command, name = str(entry.get("command")), command_of(entry)
    if name == "pay" and after.get("refund") == RefundStatus.DUE:
        return "payment refused"
    if name == "refund" and after.get("status") == RefundStatus.WITHDRAWN:
        return "refund withdrawn"
    if name == "cancel" and "bookingId" not in entry:
        return "sold lock cancelled"
    if name == "cancel" and "seatsCancelled" in after:
        before.pop("seatsCancelled", None)
        after.pop("seatsCancelled")
        had, has = before.get("seats"), after.pop("seats", None)
        if isinstance(had, int) and isinstance(has, int):
            return f"{had - has} of {seats_in_words(had)} returned"
        return "some seats returned"
    return COMMANDS.get(command) or COMMANDS.get(name, command)


def command_of(entry: StoredDocument) -> str:
    """The operation's command, without options."""
    return str(entry.get("command")).partition(" ")[0]


def is_sale(entry: StoredDocument) -> bool:
    """Whether it is of a command by which a booking was paid."""
    return mapping_in(entry.get("after")).get("status") == BookingStatus.CONFIRMED.value


def reason_of(entry: StoredDocument) -> str | None:
    reason = entry.get("reason")
    return None if reason is None else str(reason)


def by_operator(entry: StoredDocument) -> str:
    """`ada on box1 as seatctl_operator`, or `ada as root` where she used sudo."""
    actor = mapping_in(entry.get("actor"))
    system, sudo, database = (actor.get(name) for name in ("systemUser", "sudoUser", "databaseUser"))
    who = f"{sudo} as {system}" if sudo else str(system)
    return f"{who} on {entry.get('host')}" + (f", database user {database}" if database else "")


def of_run(run: StoredDocument) -> Entry:
    """A run of a job by its numbers."""
    details = mapping_in(run.get("details"))
    numbers = [(details.get("bookingsExpired"), "booking"), (details.get("locksExpired"), "lock")]
    expired = " and ".join(count(number, what) for number, what in numbers if isinstance(number, int))
    what = f"{expired} expired, {seats_in_words(details.get('seatsRestored'))} returned"
    if isinstance(findings := details.get("findingsCount"), int) and findings:
        what += f", {count(findings, 'violation')} found"
    if run.get("status") == JobStatus.FAILED:
        what += f"; failed: {shorten(str(run.get('error')), 200)}"
    return Entry(time_in(run.get("executedAt")) or LONG_AGO, what, {"run": run["_id"]}, by=by_job(run))


def of_run_on_event(run: StoredDocument, event_id: object) -> Entry:
    details = mapping_in(run.get("details"))
    returned = [
        f"{seats_in_words(each.get('seats'))} returned"
        for each in map(mapping_in, list_in(details.get("seatsByEvent")))
        if each.get("event") == event_id
    ]
    return of_run_on(run, [event_id], returned)


def of_run_on(run: StoredDocument, ids: Sequence[object], did: Sequence[str] = ()) -> Entry:
    """What a run did about the violations that these documents were part of."""
    details = mapping_in(run.get("details"))
    repaired = [
        f"{each.get('fault')}: {each.get('outcome')} ({each.get('message')})"
        for each in map(mapping_in, list_in(details.get("findings")))
        if any(each.get(kind) in ids for kind in ("event", "lock", "booking"))
    ]
    what = "; ".join([*did, *repaired])
    return Entry(time_in(run.get("executedAt")) or LONG_AGO, what, {"run": run["_id"]}, by=by_job(run))


def by_job(run: StoredDocument) -> str:
    kind = str(run.get("jobType"))
    name = JOBS[JobType(kind)] if kind in set(JobType) else kind
    return f"{name} on {run.get('host')}"


# --- values of any shape ---------------------------------------------------------------------------------


def ids_of_lock(lock: StoredDocument) -> dict[str, object]:
    return {"lock": lock["_id"], "event": lock.get("eventId")}


def ids_of_booking(booking: StoredDocument) -> dict[str, object]:
    return {"booking": booking["_id"], "lock": booking.get("seatLockId"), "event": booking.get("event")}


def created(document: StoredDocument) -> datetime:
    """When a document was made; where nothing says so, the second in its id."""
    return time_in(document.get("createdAt")) or creation_time(document["_id"]) or LONG_AGO


def time_in(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


def list_in(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def seats_in_words(number: object) -> str:
    return count(number, "seat") if isinstance(number, int) else f"{in_words(number)} seats"


def flat(value: object, name: str = "") -> dict[str, object]:
    """`{"event": {"seats": 1}}` as `{"event.seats": 1}`."""
    if not isinstance(value, Mapping):
        return {name: value} if name else {}
    found: dict[str, object] = {}
    for key, item in value.items():
        found |= flat(item, f"{name}.{key}" if name else str(key))
    return found


def in_words(value: object) -> str:
    if isinstance(value, datetime):
        return format_time(value.replace(microsecond=0))
    return "none" if value is None else shorten(str(value))
