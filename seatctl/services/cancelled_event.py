"""What cancelling an event did, or in a dry run would do."""

from __future__ import annotations

from dataclasses import dataclass, field

from seatctl.domain.documents import Kind, StoredDocument
from seatctl.domain.rules import LISTED
from seatctl.domain.words import and_more, count
from seatctl.services.sweeps import SkippedItem


@dataclass(slots=True)
class Cancellation:
    """What was done, or in a dry run would be."""

    event: StoredDocument
    already: bool
    """Whether the event was cancelled before."""
    bookings: int = 0
    locks: int = 0
    """Those that ended, also with their bookings."""
    seats: int = 0
    refunds: int = 0
    """Those that this run recorded or increased."""
    increased: int = 0
    due: int = 0
    """All that are due for the event then."""
    owed: list[StoredDocument] = field(default_factory=list)
    """Of those the oldest, and one more than are listed if there are more."""
    skipped: int = 0
    skipped_items: list[SkippedItem] = field(default_factory=list)

    @property
    def done(self) -> str:
        """How far it is, in words."""
        return f"{count(self.bookings, 'booking')} and {count(self.locks, 'lock')}"

    @property
    def error(self) -> str | None:
        """Why it is no success, or None."""
        if not self.skipped:
            return None
        return f"skipped {self.skipped_items[0]}{and_more(self.skipped)}"

    def skip(self, kind: Kind, item: object, reason: str) -> None:
        self.skipped += 1
        if len(self.skipped_items) < LISTED:
            self.skipped_items.append(SkippedItem(kind, item, reason))

    def as_document(self) -> StoredDocument:
        return {
            **self.event,
            "cancellation": {
                "bookings": self.bookings,
                "locks": self.locks,
                "seats": self.seats,
                "refunds": self.refunds,
                "refundsIncreased": self.increased,
                "refundsDue": self.due,
                "owed": self.owed[:LISTED],
                "skippedCount": self.skipped,
                "skipped": [item.as_document() for item in self.skipped_items],
            },
        }
