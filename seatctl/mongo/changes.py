"""The database's stream of changes to events, locks and bookings. What they mean, `domain/changes.py` says.

One stream for the three collections, so that they come in one order with one token. The server sends few
fields of each: documents of other programs have 8 MB. It looks up the document of an update itself
(`updateLookup`), which its update does not name the event of. Measured: 0.07 ms more for a lock, and 5 ms for
an event of 8 MB, whose update takes 17 ms; without it, each lock would be a question over the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from seatctl.domain.changes import Change, Write
from seatctl.domain.documents import EventId, Kind
from seatctl.errors import HistoryLost, Misconfigured, OutcomeUnknown, Unreachable
from seatctl.mongo.document import Document
from seatctl.mongo.failures import code_of, translate

if TYPE_CHECKING:
    from pymongo.change_stream import DatabaseChangeStream

    from seatctl.mongo.store import Store

AWAIT_MS = 1_000
"""How long the server waits for a change before it says that there is none."""
ANSWER = 15.0
"""Seconds after which the server is taken for lost."""
BATCH = 500
"""Changes in one answer: 2.5 s of lookups at 5 ms each."""

FIELDS = ("event", "eventId", "seatLockId", "seats", "status", "availableSeats")
WRITTEN = ("status", "oldStatus", "seats", "availableSeats")

HISTORY_LOST = 286
UNKNOWN_TOKEN = frozenset({9, 15, 260, 280})
"""FailedToParse, Overflow, InvalidResumeToken, and ChangeStreamFatalError: the token was not found."""
MALFORMED = re.compile("KeyString format error|Resume Token does not|Bad resume token", re.IGNORECASE)
STARTING = frozenset({133, 134, 13436})
"""A server that is starting: FailedToSatisfyReadPreference, ReadConcernMajorityNotAvailableYet,
NotPrimaryOrSecondary."""


def changes(store: Store, event: EventId | None, token: str | None) -> Iterator[Change | str]:
    """The changes after this token, or from now on, of one event or of all, and again and again a token of
    where the stream is: first of all, and whenever it has nothing to say. One whose event cannot be told,
    because the document is gone, is one of every event.

    Raises Unreachable when the stream breaks off, HistoryLost when the server no longer has what comes after
    the token, Misconfigured for a token that it does not know, and when the database is dropped.
    """
    kinds = {store.events.name: Kind.EVENT, store.locks.name: Kind.LOCK, store.bookings.name: Kind.BOOKING}
    try:
        with store.deployment.time_limit(ANSWER):
            stream = store.database.watch(
                _pipeline([*kinds], event),
                full_document="updateLookup",
                max_await_time_ms=AWAIT_MS,
                batch_size=BATCH,
                start_after=None if token is None else {"_data": token},
            )
        with stream:
            yield _token(stream.resume_token)
            while stream.alive:
                yield _next(store, stream, kinds)
    except PyMongoError as error:
        raise _in_words(error, token) from error
    raise Misconfigured(f"database {store.name} was dropped")


def _next(store: Store, stream: DatabaseChangeStream[Document], kinds: Mapping[str, Kind]) -> Change | str:
    with store.deployment.time_limit(ANSWER):
        found = stream.try_next()
    return _token(stream.resume_token) if found is None else _change(found, kinds)


def _pipeline(collections: list[str], event: EventId | None) -> list[Document]:
    of_interest = {"ns.coll": {"$in": collections}, "operationType": {"$in": [*Write]}}
    names = {"$map": {"input": {"$objectToArray": "$updateDescription.updatedFields"}, "in": "$$this.k"}}
    shown: Document = dict.fromkeys(("operationType", "ns.coll", "documentKey._id", "wallTime"), 1)
    shown |= {f"fullDocument.{name}": 1 for name in FIELDS}
    shown |= {f"updateDescription.updatedFields.{name}": 1 for name in WRITTEN}
    shown |= {"updateDescription.removedFields": 1, "updateDescription.truncatedArrays.field": 1}
    pipeline: list[Document] = [{"$match": of_interest}, {"$project": {**shown, "changed": names}}]
    if event is not None:
        fields = ("documentKey._id", "fullDocument.eventId", "fullDocument.event")
        of_event: list[Document] = [{field: {"$eq": event}} for field in fields]
        is_gone = {"ns.coll": {"$ne": collections[0]}, "fullDocument": None}
        pipeline.append({"$match": {"$or": [*of_event, is_gone]}})
    return pipeline


def _change(found: Document, kinds: Mapping[str, Kind]) -> Change:
    write, document = Write(found["operationType"]), found.get("fullDocument")
    update = found.get("updateDescription", {})
    removed = frozenset(update.get("removedFields", ()))
    truncated = {array["field"] for array in update.get("truncatedArrays", ())}
    written = update.get("updatedFields", {}) if write is Write.UPDATED else document or {}
    at: datetime = found["wallTime"]
    return Change(
        token=_token(found["_id"]),
        at=at.astimezone(UTC),
        kind=kinds[found["ns"]["coll"]],
        id=found["documentKey"]["_id"],
        write=write,
        written=written,
        changed=removed | truncated | frozenset(found.get("changed") or ()),
        removed=removed,
        document=document,
    )


def _token(token: Mapping[str, Any] | None) -> str:
    assert token is not None  # servers since 4.2 send one with each answer
    return str(token["_data"])


def _in_words(error: Exception, token: str | None) -> Exception:
    code, reason = code_of(error), translate(error)
    if code == HISTORY_LOST:
        return HistoryLost()
    if token is not None and (code in UNKNOWN_TOKEN or MALFORMED.search(str(error))):
        return Misconfigured(
            "the stored token does not belong to this database; delete the file that holds it to "
            "start from now"
        )
    resumable = isinstance(error, OperationFailure) and error.has_error_label("ResumableChangeStreamError")
    if isinstance(reason, OutcomeUnknown):  # of a write it would be
        return Unreachable("the primary of the replica set changed; try again")
    return Unreachable(str(reason)) if resumable or code in STARTING else reason
