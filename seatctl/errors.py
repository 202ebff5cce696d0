"""What can go wrong, in words a person can act on. Standard library only.

The docstring of each error is its default message. Each leaf knows its `code`, the word that
scripts read in `--json`, and its `exit_code`; the numbers are the table in the guide "scripting".
"""

from __future__ import annotations

from typing import TypeVar


class SeatctlError(Exception):
    """An unexpected error occurred."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default_message())

    @classmethod
    def default_message(cls) -> str:
        return " ".join((cls.__doc__ or cls.code).split())


class DamagedDocument(SeatctlError):
    """A stored document does not have the shape that it needs to be changed safely."""

    code = "damaged_document"


class Contention(SeatctlError):
    """Other writers kept winning the race for this event. Nothing was changed; try again."""

    code = "contention"


class StaleRead(Contention):
    """What was read changed before it could be used. Nothing was changed; try again.

    A transaction that raises it is rolled back and starts over."""

    @classmethod
    def default_message(cls) -> str:
        return Contention.default_message()


T = TypeVar("T")


def ensure_changed(written: T | None) -> T:
    """What a compare-and-set wrote. Raises StaleRead if it wrote nothing: another writer was faster."""
    if not written:
        raise StaleRead
    return written


class CursorLost(SeatctlError):
    """The server dropped a cursor or a snapshot while it was being read: it was restarted, or its cache is
    full. Try again."""

    code = "cursor_lost"


class HistoryLost(SeatctlError):
    """Changes were missed: the server's oplog no longer has them."""

    code = "history_lost"


class CachePressure(SeatctlError):
    """The server rolled the transaction back because its cache is full. Nothing was changed; give the
    server more cache, or use a smaller --batch-size."""

    code = "cache_pressure"


class WriteRefused(SeatctlError):
    """The database refused a document. Nothing was changed."""

    code = "write_refused"


class ItemsLeft(SeatctlError):
    """Some items could not be processed; the rest are done."""

    code = "items_left"


class Usage(SeatctlError):
    """The command line is invalid."""

    code = "usage"
    exit_code = 2


class Refused(SeatctlError):
    """The request was understood and refused. Nothing was changed."""

    code = "refused"
    exit_code = 3


class SoldOut(Refused):
    """The event does not have that many seats left."""

    code = "sold_out"


class Closed(Refused):
    """Sales of this event are closed."""

    code = "closed"


class SeatsHeld(Refused):
    """Locks hold more seats than that."""

    code = "seats_held"


class RefundDue(Refused):
    """The payment cannot be honoured; a refund is due."""

    code = "refund_due"


class WrongState(Refused):
    """The document is not in a state that allows this."""

    code = "wrong_state"


class DeadlinePassed(Refused):
    """The deadline has passed."""

    code = "deadline_passed"


class KeyReused(Refused):
    """This idempotency key was used before, with other parameters."""

    code = "key_reused"


class FutureRefused(Refused):
    """A run in the future would expire locks before their deadline; add --force if that is what you want."""

    code = "future_refused"


class CountedByDay(Refused):
    """This event counts its seats per day, which seatctl does not support."""

    code = "counted_by_day"


class NotFound(SeatctlError):
    """There is no document with this id."""

    code = "not_found"
    exit_code = 4


class Unhealthy(SeatctlError):
    """Something is wrong."""

    code = "unhealthy"
    exit_code = 5


class Unreachable(SeatctlError):
    """The database cannot be reached; try again."""

    code = "unreachable"
    exit_code = 10


class OutcomeUnknown(Unreachable):
    """A majority of the replica set did not answer, so it is not known whether the change was made;
    repeat the command, with the same --key if it has one."""

    code = "outcome_unknown"


class Misconfigured(SeatctlError):
    """seatctl does not know which database to use."""

    code = "configuration"
    exit_code = 11


class Interrupted(SeatctlError):
    """Interrupted."""

    code = "interrupted"

    def __init__(self, signal_number: int, message: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
