"""Validators: the database's own last word, whoever writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.words import shorten
from seatctl.mongo.document import Document
from seatctl.mongo.schema import BOOKINGS, EVENTS, EXACT, LOCKS, Setup, modify, state

if TYPE_CHECKING:
    from pymongo.database import Database

_NUMBER = ["int", "long", "double"]
_OUR_TITLE = "seatctl: "


def _validator(title: str, properties: Document, *rules: Document) -> Document:
    shape = {"title": _OUR_TITLE + title, "required": sorted(properties), "properties": properties}
    return {"$and": [{"$jsonSchema": shape}, *({"$expr": rule} for rule in rules)]}


VALIDATORS: dict[str, Document] = {
    EVENTS: _validator(
        "seats available are at least 0 and at most all",
        {
            "totalSeats": {"bsonType": _NUMBER, "minimum": 1},
            "availableSeats": {"bsonType": _NUMBER, "minimum": 0},
        },
        {"$lte": ["$availableSeats", "$totalSeats"]},
    ),
    LOCKS: _validator(
        "a lock has seats and is in a known state",
        {
            "seats": {"bsonType": _NUMBER, "minimum": 1},
            "status": {"enum": [status.value for status in LockStatus]},
        },
    ),
    BOOKINGS: _validator(
        "a booking is in a known state", {"status": {"enum": [status.value for status in BookingStatus]}}
    ),
}
"""Invariant 2 and the states, for every writer: another program, a person, a bug of ours. At level
`moderate`, so that a document that is wrong already can still be changed, and so repaired."""


def validators(database: Database[Document]) -> dict[str, Document]:
    """The validators that are there, by collection."""
    found = {each["name"]: each.get("options", {}).get("validator") for each in database.list_collections()}
    return {name: validator for name, validator in found.items() if validator}


def _wanted_validators(locks: str) -> dict[str, Document]:
    return {locks if name == LOCKS else name: validator for name, validator in VALIDATORS.items()}


def missing_validators(database: Database[Document], locks: str = LOCKS) -> list[str]:
    """Collections without a validator, or with an old one of ours, as `collection.validator`. One
    that another program installed is theirs."""
    there = validators(database)
    return [
        f"{name}.validator"
        for name, validator in _wanted_validators(locks).items()
        if name not in there or (there[name] != validator and _OUR_TITLE in str(there[name]))
    ]


def create_validators(database: Database[Document], locks: str = LOCKS) -> Setup:
    """Install the validators that `missing_validators` names. The collections must exist. One that would
    refuse a state that is there is left out: a program writes it, and would fail."""
    done = Setup(missing_validators(database, locks), [])
    known: dict[str, Sequence[str]] = {locks: list(LockStatus), BOOKINGS: list(BookingStatus)}
    for name, validator in _wanted_validators(locks).items():
        if f"{name}.validator" not in done.created:
            continue
        unknown = (
            database[name].find_one({"status": {"$nin": known[name]}}, collation=EXACT)
            if name in known
            else None
        )
        if unknown is None:
            modify(database, name, validator=validator, validationLevel="moderate")
            continue
        done.created.remove(f"{name}.validator")
        done.left_out.append(
            f"{name} has a document with the unknown status {shorten(repr(unknown.get('status')), 40)} "
            f"({unknown['_id']}), which the validator would reject, so it is not installed"
        )
    return done


def own_validators(database: Database[Document], locks: str = LOCKS) -> list[str]:
    there = validators(database)
    return [name for name in state(locks) if _OUR_TITLE in str(there.get(name, ""))]


def remove_validators(database: Database[Document], locks: str = LOCKS) -> list[str]:
    """Take our own validators away; returns them."""
    ours = own_validators(database, locks)
    for name in ours:
        modify(database, name, validator={}, validationLevel="strict")
    return [f"{name}.validator" for name in ours]
