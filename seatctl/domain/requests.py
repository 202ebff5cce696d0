"""What a caller may ask for: texts, numbers and times, checked. Everything here raises Usage."""

from __future__ import annotations

from datetime import datetime, timedelta

from seatctl.domain.rules import MAX_SEATS, MAX_TEXT
from seatctl.domain.timespec import LONGEST, is_text, resolve, to_milliseconds
from seatctl.errors import Usage


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


def ttl(what: str, duration: timedelta) -> timedelta:
    """How long a lock or a payment may take."""
    if not timedelta() < duration <= LONGEST:
        raise Usage(f"{what} must be longer than zero and at most {LONGEST.days} days")
    return duration


def moment(what: str, time: datetime | timedelta, now: datetime) -> datetime:
    """A point in time, given as such or as how long from now."""
    try:
        return to_milliseconds(resolve(time, now))
    except OverflowError:
        raise Usage(f"{what} is too far in the future") from None
