"""Durations and times as people type them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from seatctl.domain.timespec import (
    format_duration,
    format_time,
    parse_duration,
    parse_past,
    parse_time,
    resolve,
    resolve_past,
    to_milliseconds,
)
from seatctl.domain.words import shorten

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172_800),
        (" 1d1h1m1s ", 90_061),
        ("30m1h", 5400),
        ("3650d", 315_360_000),
    ],
)
def test_duration(text, seconds):
    """Numbers with units add up, in any order."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "-5m",
        "+5m",
        "1e9h",
        "1.5h",
        "10 m",
        "m",
        "5M",
        "1m1m",
        "0s",
        "0h0m",
        "3651d",
        "999999999d",
        "9" * 40 + "s",
        "५m",
        "10m\n5",
        "x" * 100,
    ],
)
def test_no_duration(text):
    """Anything else is refused in one short line that says why."""
    with pytest.raises(ValueError, match=r"duration|twice|longer") as refused:
        parse_duration(text)
    assert len(str(refused.value)) < 130
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2027-01-01T12:00", NOON),
        ("2027-01-01T12:00Z", NOON),
        ("2027-01-01 13:00+01:00", NOON),
        ("2027-01-01", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01T12:00:00.123456", NOON.replace(microsecond=123_000)),
        (" +11m ", timedelta(minutes=11)),
    ],
)
def test_time(text, time):
    """ISO 8601, UTC where no zone is said, in whole milliseconds; or how long from now."""
    assert parse_time(text) == time


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2027-13-01", "2027-02-30", "0001-01-01T00:00+14:00", "12:00"]
)
def test_no_time(text):
    """Anything else is refused with what to type instead."""
    with pytest.raises(ValueError, match="is not a time; write"):
        parse_time(text)


@pytest.mark.parametrize("text", ["+", "+-5m", "+5", "++5m"])
def test_no_relative_time(text):
    """What follows the + must be a duration."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_time(text)


def test_resolve():
    """A relative time counts from the server's now, an absolute one is itself."""
    assert resolve(timedelta(minutes=5), NOON) == NOON + timedelta(minutes=5)
    assert resolve(NOON, NOON + timedelta(days=1)) == NOON


def test_time_as_text():
    """Times are written in UTC with Z, milliseconds only where there are any."""
    assert format_time(NOON) == "2027-01-01T12:00:00Z"
    assert format_time(NOON.replace(microsecond=5000)) == "2027-01-01T12:00:00.005Z"
    assert format_time(NOON.astimezone(timezone(timedelta(hours=2)))) == "2027-01-01T12:00:00Z"
    assert to_milliseconds(NOON.replace(microsecond=1999)) == NOON.replace(microsecond=1000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45, "45s"), (-90, "1m30s"), (5400, "1h30m"), (90_061, "1d1h"), (86_401, "1d1s")],
)
def test_duration_as_text(seconds, text):
    """Durations are written with their two largest units."""
    assert format_duration(timedelta(seconds=seconds)) == text


def test_shorten():
    """A text that is too long ends in an ellipsis and has just the length allowed."""
    assert shorten("x" * 60) == "x" * 60
    assert shorten("x" * 61) == "x" * 59 + "…"


# --- times in the past ----------------------------------------------------------------------------------

NOW = datetime(2027, 5, 1, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("today", datetime(2027, 5, 1, tzinfo=UTC)),
        (" Yesterday ", datetime(2027, 4, 30, tzinfo=UTC)),
        ("90m", datetime(2027, 5, 1, 9, tzinfo=UTC)),
        ("2d", datetime(2027, 4, 29, 10, 30, tzinfo=UTC)),
        ("2027-04-01", datetime(2027, 4, 1, tzinfo=UTC)),
        ("2027-04-01T12:00+02:00", datetime(2027, 4, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_past_time_is_a_date_a_day_or_how_long_ago(text: str, moment: datetime) -> None:
    assert resolve_past(parse_past(text), NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "+11m", "-1h", "1x", "tomorrow", "0s"])
def test_what_is_no_past_time_is_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 2027|longer than zero"):
        parse_past(text)
