"""What a change of a document is called, and how the stream of changes survives a lost database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from memory import new_store

from seatctl.domain.changes import BEGINNINGS, KNOWN, Change, Meaning, Write, meaning
from seatctl.domain.documents import Kind
from seatctl.errors import CursorLost, HistoryLost, Misconfigured, Unreachable
from seatctl.services import following

AT = datetime(2027, 1, 1, tzinfo=UTC)
UNKNOWN = {"status": "ON_FIRE"}


def change(kind: Kind, write: Write = Write.UPDATED, removed: tuple[str, ...] = (), **written: Any) -> Change:
    names = frozenset([*written, *removed]) if write is Write.UPDATED else frozenset()
    return Change("aa", AT, kind, 1, write, written, names, frozenset(removed), {"eventId": 7, "seats": 2})


@pytest.mark.parametrize(
    ("changed", "what", "states"),
    [
        (change(Kind.LOCK, Write.CREATED, status="ACTIVE"), "lock_created", (None, "ACTIVE")),
        (change(Kind.LOCK, status="CONSUMED"), "lock_consumed", ("ACTIVE", "CONSUMED")),
        (change(Kind.LOCK, status="EXPIRED"), "lock_expired", ("ACTIVE", "EXPIRED")),
        (change(Kind.LOCK, status="CANCELLED"), "lock_cancelled", (None, "CANCELLED")),
        (change(Kind.LOCK, status="CONSUMED", oldStatus="EXPIRED"), "lock_consumed", ("EXPIRED", "CONSUMED")),
        (change(Kind.LOCK, status="ACTIVE"), "lock_changed", (None, "ACTIVE")),
        (change(Kind.LOCK, status="ON_FIRE"), "lock_changed", (None, "ON_FIRE")),
        (change(Kind.LOCK, status=3), "lock_changed", (None, None)),
        (change(Kind.LOCK, expiresAt=AT), "lock_changed", (None, None)),
        (change(Kind.LOCK, Write.REPLACED, status="EXPIRED"), "lock_expired", (None, "EXPIRED")),
        (change(Kind.LOCK, Write.DELETED), "lock_deleted", (None, None)),
        (change(Kind.BOOKING, Write.CREATED, status="INITIATED"), "booking_created", (None, "INITIATED")),
        (change(Kind.BOOKING, status="PAYMENT_PENDING"), "booking_changed", (None, "PAYMENT_PENDING")),
        (change(Kind.BOOKING, status="CONFIRMED"), "booking_confirmed", ("PAYMENT_PENDING", "CONFIRMED")),
        (change(Kind.BOOKING, status="FAILED"), "booking_failed", ("PAYMENT_PENDING", "FAILED")),
        (change(Kind.BOOKING, status="EXPIRED"), "booking_expired", ("PAYMENT_PENDING", "EXPIRED")),
        (change(Kind.BOOKING, status="CANCELLED"), "booking_cancelled", (None, "CANCELLED")),
        (change(Kind.EVENT, Write.CREATED), "event_created", (None, None)),
        (change(Kind.EVENT, availableSeats=3, updatedAt=AT), "seats_changed", (None, None)),
        (change(Kind.EVENT, **{"dailySeats.2027-01-01.available": 3}), "seats_changed", (None, None)),
        (change(Kind.EVENT, availableSeats=3, totalSeats=9), "event_changed", (None, None)),
        (change(Kind.EVENT, name="Gala"), "event_changed", (None, None)),
        (change(Kind.EVENT, closedAt=AT, availableSeats=0), "event_closed", (None, None)),
        (change(Kind.EVENT, cancelledAt=AT, closedAt=AT), "event_cancelled", (None, None)),
        (change(Kind.EVENT, removed=("closedAt",), availableSeats=5), "event_reopened", (None, None)),
        (change(Kind.EVENT, Write.REPLACED), "event_changed", (None, None)),
        (change(Kind.EVENT, Write.DELETED), "event_deleted", (None, None)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_change_has_a_word_and_the_states_that_are_known(
    changed: Change, what: str, states: tuple[str | None, str | None]
) -> None:
    assert meaning(changed) == Meaning(what, *states)


@pytest.mark.parametrize("kind", [Kind.EVENT, Kind.LOCK, Kind.BOOKING])
def test_what_changes_only_bookkeeping_has_no_line(kind: Kind) -> None:
    assert meaning(change(kind, updatedAt=AT, __v=3)) is None


@pytest.mark.parametrize("kind", KNOWN)
def test_each_state_that_a_document_can_come_to_has_a_word_of_its_own(kind: Kind) -> None:
    words = {meaning(change(kind, status=state)).what for state in KNOWN[kind] - BEGINNINGS}
    assert len(words) == len(KNOWN[kind] - BEGINNINGS)
    assert f"{kind}_changed" not in words


# --- lost and found -------------------------------------------------------------------------------------


class Streams:
    """In place of the database's stream: what each stream brings, and with which token it was asked for."""

    def __init__(self, *streams: list[Change | str | Exception]) -> None:
        self.streams, self.tokens = list(streams), list[str | None]()

    def __call__(self, _store: object, _event: object, token: str | None) -> Iterator[Change | str]:
        self.tokens.append(token)
        for item in self.streams.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item


def steps(streams: Streams, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> list[following.Step]:
    """All of them until the first error that ends them."""
    monkeypatch.setattr(following, "changes", streams)
    stream = following.follow(new_store(lambda: AT), None, "00", pauses.append)
    found = []
    with suppress(Misconfigured):
        while True:
            found.append(next(stream))
    return found


def test_a_lost_stream_goes_on_after_the_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (change(Kind.EVENT, name=name)._replace(token=name) for name in ("a1", "a2"))
    streams = Streams(["00", first, Unreachable()], [second, "a3", CursorLost()], [Misconfigured()])
    told = steps(streams, monkeypatch, [])

    assert streams.tokens == ["00", "a1", "a3"]
    assert [step.token for step in told if step.line] == ["a1", "a2"]
    assert [type(step.lost) for step in told if step.lost] == [Unreachable, CursorLost]


def test_pauses_double_up_to_a_bound_and_begin_anew_once_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Change | str | Exception] = [Unreachable()]
    streams = Streams(["00", *lost], *[lost] * 7, ["01", *lost], [Misconfigured()])
    pauses: list[float] = []
    steps(streams, monkeypatch, pauses)

    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 8, 8, 0.25]


@pytest.mark.parametrize("error", [Unreachable(), HistoryLost(), Misconfigured()])
def test_what_cannot_begin_ends_at_once(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "changes", Streams([error]))
    with pytest.raises(type(error)):
        next(following.follow(new_store(lambda: AT)))


def test_lines_about_seats_are_kept_in_mind_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "REMEMBERED", 3)
    lines = following.Lines(new_store(lambda: AT))
    for number in range(9):
        lines.of(change(Kind.LOCK, Write.CREATED, status="ACTIVE", seats=number)._replace(id=number))
    assert list(lines._seats.values()) == [6, 7, 8]
