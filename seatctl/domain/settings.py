"""What `adopt` decided about a database that another program writes to as well."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

GRACE = timedelta(seconds=10)
"""How long after its deadline a lock is left alone on an adopted database: another program's `confirm` reads
the lock, on its own host's clock, and writes only the booking."""


class DeletingIndex(NamedTuple):
    """A TTL index on events, locks or bookings, and after how many seconds it deletes."""

    collection: str
    name: str
    seconds: int

    def __str__(self) -> str:
        return f"{self.collection}.{self.name}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How seatctl works on one database. Without `adopt` all is as here."""

    locks: str = "seatLocks"
    """The collection of the locks."""
    grace: timedelta = timedelta(0)
    object_id_users: bool = False
    """Users must be ObjectIds."""
    seat_labels: bool = False
    """Bookings carry `seats`, a label for each seat."""
    adopted_at: datetime | None = None
    ttl_indexes: tuple[DeletingIndex, ...] = ()
    """Those that were made harmless, as they were before."""
    created: tuple[str, ...] = ()
    """Collections and indexes that `adopt` created, as `collection` or `collection.index`."""

    @property
    def adopted(self) -> bool:
        return self.adopted_at is not None


NOT_ADOPTED = Settings()
