"""Durations and points in time as people type them.

The reader's "now" is never the host's clock: a relative time stays a `timedelta` until
`resolve` meets the database server's clock (invariant 10).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from seatctl.domain.words import shorten

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\d{1,9}[dhms])+", re.ASCII)
_PART = re.compile(r"(\d+)([dhms])", re.ASCII)
LONGEST = timedelta(days=3650)


class Day(StrEnum):
    """A day that has begun, in UTC."""

    TODAY = "today"
    YESTERDAY = "yesterday"


_DAYS = {day.value: day for day in Day}

PastTime: TypeAlias = datetime | timedelta | Day
"""A point in time, how long ago it was, or the beginning of a day."""


def parse_duration(text: str) -> timedelta:
    """`90s`, `10m`, `1h30m`, `2d` as a positive timedelta.

    Raises ValueError, with what to type instead, for anything else: no unit, zero, a sign,
    a unit given twice, more than ten years.
    """
    text = text.strip()
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{shorten(text)!r} is not a duration; write 90s, 10m or 1h30m")
    parts = [(int(part[1]), part[2]) for part in _PART.finditer(text)]
    if len({unit for _, unit in parts}) != len(parts):
        raise ValueError(f"{shorten(text)!r} names a unit twice; write 90s, 10m or 1h30m")
    duration = timedelta(seconds=sum(number * _UNITS[unit] for number, unit in parts))
    if not duration:
        raise ValueError("a duration must be longer than zero")
    if duration > LONGEST:
        raise ValueError(f"{shorten(text)!r} is longer than {LONGEST.days} days")
    return duration


def parse_time(text: str) -> datetime | timedelta:
    """ISO 8601 as an aware UTC datetime in whole milliseconds (no zone means UTC), or `+11m`
    as a timedelta from now. Raises ValueError with what to type instead."""
    text = text.strip()
    if text.startswith("+"):
        return parse_duration(text[1:])
    if (moment := _parse_iso(text)) is None:
        raise ValueError(f"{shorten(text)!r} is not a time; write 2027-05-01T19:30Z, 2027-05-01 or +11m")
    return moment


def parse_past(text: str) -> PastTime:
    """ISO 8601, `today`, `yesterday`, or `90m`: so long ago. Raises ValueError with what to type instead."""
    text = text.strip()
    if day := _DAYS.get(text.lower()):
        return day
    if _DURATION.fullmatch(text):
        return parse_duration(text)
    if (moment := _parse_iso(text)) is None:
        raise ValueError(
            f"{shorten(text)!r} is not a time; write 2027-05-01T19:30Z, 2027-05-01, today, yesterday, or 90m "
            "(meaning 90 minutes ago)"
        )
    return moment


def _parse_iso(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return to_milliseconds(moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def resolve(time: datetime | timedelta, now: datetime) -> datetime:
    """The point in time that `time` means when the server's clock says `now`."""
    return now + time if isinstance(time, timedelta) else time


def resolve_past(time: PastTime, now: datetime) -> datetime:
    """The point in time that `time` means when the server's clock says `now`."""
    if isinstance(time, Day):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight if time is Day.TODAY else midnight - timedelta(days=1)
    return now - time if isinstance(time, timedelta) else time


def to_milliseconds(moment: datetime) -> datetime:
    """`moment` as BSON can store it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`, milliseconds only where there are any."""
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds") + "Z"


def format_duration(duration: timedelta) -> str:
    """The two largest units, as `parse_duration` reads them: `1h30m`, `45s`, `0s`."""
    seconds = int(abs(duration).total_seconds())
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
