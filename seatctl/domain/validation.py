"""What a caller may ask for: texts, numbers and times, checked. Everything here raises Usage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from seatctl.domain.documents import CLOSING
from seatctl.domain.rules import LONGEST_TTL, MAX_SEATS, MAX_TEXT, REBOOK_KEY
from seatctl.domain.timespec import PastTime, resolve, resolve_past, to_milliseconds
from seatctl.domain.words import is_text
from seatctl.errors import Usage

RESERVED_KEYS = (CLOSING, REBOOK_KEY)


def seat_count(seats: int) -> int:
    if not 1 <= seats <= MAX_SEATS:
        raise Usage(f"seats must be a whole number from 1 to {MAX_SEATS:,}, not {seats}")
    return seats


def text(what: str, value: str, longest: int = MAX_TEXT, *, lines: bool = False) -> str:
    """`value` without surrounding space, if it can stand in a table and in a log line."""
    value = value.strip()
    if not value:
        raise Usage(f"{what} must not be empty")
    if len(value) > longest:
        raise Usage(f"{what} has {len(value):,} characters; at most {longest:,} are allowed")
    if not all(is_text(character) or (lines and character in "\n\t") for character in value):
        raise Usage(f"{what} must not contain control characters")
    return value


def payment_ref(value: str | None) -> str | None:
    return None if value is None else text("ref", value)


def idempotency_key(value: str | None) -> str | None:
    """A key as a caller chooses it, if one does: not one of those that seatctl makes."""
    if value is None:
        return None
    key = text("key", value)
    if key.startswith(RESERVED_KEYS):
        raise Usage(
            f"a key must not begin with {' or '.join(RESERVED_KEYS)}: such keys are reserved for seatctl"
        )
    return key


def ttl(what: str, duration: timedelta) -> timedelta:
    """How long a lock or a payment may take."""
    if not timedelta() < duration <= LONGEST_TTL:
        raise Usage(f"{what} must be longer than zero and at most {LONGEST_TTL.days} days")
    return duration


def moment(what: str, time: datetime | timedelta, now: datetime) -> datetime:
    """A point in time, given as such or as how long from now."""
    try:
        return to_milliseconds(resolve(time, now))
    except OverflowError:
        raise Usage(f"{what} is too far in the future") from None


class ListRequest(NamedTuple):
    """Which part of a list: at most `limit` documents (0: all), made at or after `since` and before `until`
    (a run: started then), with these `fields` only."""

    limit: int = 0
    since: PastTime | None = None
    until: PastTime | None = None
    fields: Sequence[str] | None = None

    def bounds(self, now: datetime) -> tuple[datetime | None, datetime | None]:
        """`since` and `until` when the server's clock says `now`. Raises Usage where they leave no time."""
        since, until = (
            None if time is None else resolve_past(time, now) for time in (self.since, self.until)
        )
        if since is not None and until is not None and since >= until:
            raise Usage("--since must be before --until")
        return since, until


ALL = ListRequest()
