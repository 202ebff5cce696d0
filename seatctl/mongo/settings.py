"""The one document of `seatctlSettings`: what `adopt` decided, for every host and every cron line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from seatctl.domain.settings import NOT_ADOPTED, DeletingIndex, Settings
from seatctl.errors import Misconfigured
from seatctl.mongo.document import Document

if TYPE_CHECKING:
    from pymongo.database import Database

SETTINGS = "seatctlSettings"
ONLY: Document = {"_id": "adopt"}


def read(database: Database[Document]) -> Settings:
    """The settings, or those of a database that was never adopted. Raises Misconfigured where an edit made
    them unreadable: to go on without them could sell seats twice."""
    found = database[SETTINGS].find_one(ONLY)
    if found is None:
        return NOT_ADOPTED
    try:
        return _of_document(found)
    except (KeyError, TypeError, ValueError) as error:
        raise Misconfigured(
            f"the settings in {database.name}.{SETTINGS} cannot be read ({type(error).__name__}: {error}); "
            "restore them from a backup, or remove the document and run `seatctl adopt` again"
        ) from error


def _of_document(found: Document) -> Settings:
    locks, adopted_at, ttl_indexes = found["locksCollection"], found["adoptedAt"], found["ttlIndexes"]
    if not (isinstance(locks, str) and locks and isinstance(adopted_at, datetime)):
        raise TypeError("locksCollection or adoptedAt")
    return Settings(
        locks=locks,
        grace=timedelta(seconds=found["graceSeconds"]),
        object_id_users=bool(found["objectIdUsers"]),
        seat_labels=bool(found["seatLabels"]),
        adopted_at=adopted_at.astimezone(UTC),
        ttl_indexes=tuple(
            DeletingIndex(index["collection"], index["name"], int(index["seconds"])) for index in ttl_indexes
        ),
        created=tuple(map(str, found["created"])),
    )


def write(database: Database[Document], settings: Settings) -> None:
    """Store them in place of those that are there."""
    database[SETTINGS].replace_one(ONLY, as_document(settings), upsert=True)


def remove(database: Database[Document]) -> None:
    database[SETTINGS].drop()


def as_document(settings: Settings) -> Document:
    return {
        "locksCollection": settings.locks,
        "graceSeconds": settings.grace.total_seconds(),
        "objectIdUsers": settings.object_id_users,
        "seatLabels": settings.seat_labels,
        "adoptedAt": settings.adopted_at,
        "ttlIndexes": [index._asdict() for index in settings.ttl_indexes],
        "created": list(settings.created),
    }
