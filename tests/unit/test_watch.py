"""The live dashboard, as a person sees it in windows of every size."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo.errors import AutoReconnect
from rich.console import Console
from rich.live import Live

from seatctl.ops import watch
from seatctl.ops.watch import Snapshot
from seatctl.services.health import Glance

if TYPE_CHECKING:
    from terminal import Shell

ID = re.compile(r"\b[0-9a-f]{24}\b")
NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
LONG = "An event whose name is longer than any window that anybody has on a desk or a wall"
EVENTS = [ObjectId(f"65f00000000000000000000{n}") for n in range(2)]
Found = dict[str, list[dict[str, Any]]]


def documents() -> Found:
    """Two events, locks and bookings of several states, and a run of a job."""
    events = [
        {"name": name, "eventDate": NOW, "availableSeats": 79, "locked": 14, "sold": 7, "totalSeats": 100}
        for name in ("Spring gala ☃", LONG)
    ]
    run = {
        "jobType": "RECOVERY",
        "status": "SUCCESS",
        "executedAt": NOW - timedelta(seconds=40),
        "details": {"recordsProcessed": 12_345, "seatsRestored": 3, "duration": 5},
        "host": "db1",
    }
    active = {"status": "ACTIVE", "expiresAt": NOW + timedelta(minutes=9, seconds=30), "seats": 7}
    locks = [
        {**active, "userId": "buyer 2", "eventId": EVENTS[0]},
        {**active, "status": "CONSUMED", "userId": "buyer 1", "eventId": EVENTS[1]},
    ]
    pending = {"status": "PAYMENT_PENDING", "user": "buyer 1", "event": EVENTS[0]}
    bookings = [
        {**pending, "paymentExpiresAt": NOW + timedelta(minutes=14)},
        {**pending, "paymentExpiresAt": NOW - timedelta(minutes=2)},
    ]
    found: Found = {"events": events, "jobLogs": [run], "seatLocks": locks, "bookings": bookings}
    for listed in found.values():
        for document in listed:
            document["_id"] = ObjectId()
    return found


def lines_of(found: Mapping[str, Sequence[Mapping[str, Any]]], width: int, height: int) -> list[str]:
    """The lines of a window of that size."""
    names = {EVENTS[0]: "Spring gala ☃", EVENTS[1]: LONG}
    snapshot = Snapshot("event_booking_db", NOW, found, names, Glance(False, 3, 1))
    screen = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    screen.print(watch.render(snapshot, width, height, "every 2s"))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


@pytest.fixture(autouse=True)
def _stdout_prints_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch.tables, "stdout_is_utf8", lambda: True)


# --- what is shown --------------------------------------------------------------------------------------


def test_a_window_of_80_by_24_has_all_sections_on_whole_lines() -> None:
    lines = lines_of(documents(), 80, 24)

    assert len(lines) == 24
    assert {len(line) for line in lines} == {80}
    headings = [line.split("  ")[0] for line in lines if re.match(r"event|job run|lock|booking", line)]
    assert headings == ["event", "job run", "lock", "booking"]
    assert re.match(r"Spring gala ☃ +█▒▒\S+ +21% +79 +14 +7 +$", lines[1])
    assert re.match(r"An event whose name \S+.*… ", lines[2])
    shown = "\n".join(lines)
    assert re.search(r"^RECOVERY +SUCCESS +40s ago +12,345 +3 ", shown, re.MULTILINE)
    assert re.search(r"^ACTIVE +9m30s left +7 +buyer 2 +Spring gala ☃ +$", shown, re.MULTILINE)
    assert re.search(r"^CONSUMED {10,}7", shown, re.MULTILINE), "no deadline counts for a sold lock"
    assert re.search(r"^PAYMENT_PENDING +14m left +buyer 1 ", shown, re.MULTILINE)
    assert re.search(r"^PAYMENT_PENDING +overdue 2m +buyer 1 ", shown, re.MULTILINE)
    assert not ID.search(shown), "an id has no room here, and is never cut"
    assert lines[-1].startswith("Ctrl-C to quit  every 2s  jobs NOT ok, overdue: 3 locks, 1 booking (see")


def test_a_wide_window_has_whole_ids_and_names() -> None:
    shown = "\n".join(lines_of(documents(), 190, 50))

    assert len(ID.findall(shown)) == 2 + 1 + 2 + 2
    assert LONG in shown


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (50, ["event", "available", "locked", "sold"]),
        (100, ["event", "date", "filled", "available", "locked", "sold", "total"]),
        (130, ["id", "event", "date", "filled", "available", "locked", "sold", "total"]),
    ],
)
def test_a_window_shows_the_columns_it_has_room_for(width: int, columns: list[str]) -> None:
    assert lines_of(documents(), width, 24)[0].split() == columns


def test_a_small_window_keeps_the_numbers_of_the_events_then_the_jobs() -> None:
    lines = lines_of(documents(), 50, 10)

    assert [len(line) for line in lines] == [50] * 10
    assert re.match(r"event +available +locked +sold +$", lines[0])
    assert lines[4].startswith("job run")
    assert not [line for line in lines if line.startswith("lock ")]


@pytest.mark.parametrize("width", [10, 80, 200])
def test_documents_of_any_shape_are_shown(width: int) -> None:
    odd: Found = {
        "events": [{"_id": 1, "totalSeats": "many"}],
        "jobLogs": [{"_id": {"a": 1}, "executedAt": "yesterday", "error": 7, "details": [1]}],
        "seatLocks": [
            {"_id": 1, "status": "ACTIVE", "eventId": [1], "expiresAt": "soon"},
            {"_id": 2, "status": ["ACTIVE"], "eventId": ObjectId("65f0000000000000000000ff")},
        ],
        "bookings": [{"_id": 1, "status": "PAYMENT_PENDING", "paymentExpiresAt": NOW}],
    }
    shown = "\n".join(lines_of(odd, width, 24))

    if width >= 80:
        assert "yesterday" in shown
        assert re.search(r"^(1 +)?ACTIVE +soon .*\[1\]", shown, re.MULTILINE)
        assert "65f0000000000000000000ff" in shown, "an event without a name is shown by its id"
        assert "overdue 0s" in shown


@pytest.mark.parametrize(
    ("lines", "needs", "rows"),
    [
        (23, (50, 50, 50, 50), (4, 4, 4, 3)),
        (23, (1, 3, 50, 50), (1, 3, 6, 5)),
        (23, (0, 0, 0, 50), (1, 1, 1, 12)),
        (49, (2, 3, 4, 5), (2, 3, 4, 5)),
        (9, (50, 50, 50, 50), (3, 2)),
        (7, (50, 50, 50, 50), (5,)),
        (1, (50, 50, 50, 50), (1,)),
    ],
)
def test_sections_share_the_lines_of_the_window(
    lines: int, needs: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    """What one does not need the others get, and the last sections go first."""
    found = {name: [{}] * need for name, need in zip(watch.SECTIONS, needs, strict=True)}
    shared = watch.share_lines(lines, found)

    assert shared == dict(zip(watch.SECTIONS, rows, strict=False))
    assert sum(shared.values()) + 2 * len(shared) <= max(lines, 3)


# --- reading and the loop ---------------------------------------------------------------------------------


def fake_database(monkeypatch: pytest.MonkeyPatch, found: Found) -> Any:
    """A store whose lists are `found`, and which knows the name of one event."""
    for function, collection in {
        "events": "events",
        "locks": "seatLocks",
        "bookings": "bookings",
        "job_runs": "jobLogs",
    }.items():
        listed = found[collection]

        def first(
            *given: Any, request: Any = None, listed: Any = listed, overdue: bool = False, **_: Any
        ) -> Any:
            shown = [document for document in listed if document is listed[-1]] if overdue else listed
            return iter(shown[: (request or given[-1]).limit])

        monkeypatch.setattr(watch.lists, function, first)
    monkeypatch.setattr(watch.health, "glance", lambda *_: Glance(True, 0, 0))
    names = {EVENTS[0]: "Spring gala"}

    def names_of(ids: Any) -> dict[object, str]:
        return {event: names[event] for event in ids if event in names}

    deployment = SimpleNamespace(time_limit=lambda _seconds: contextlib.nullcontext())
    events = SimpleNamespace(names=names_of)
    return SimpleNamespace(name="event_booking_db", now=lambda: NOW, events=events, deployment=deployment)


def test_a_snapshot_has_each_list_and_the_names_of_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    found = documents()
    found["seatLocks"][1]["eventId"] = [1]  # no key of a dictionary
    snapshot = watch.read(fake_database(monkeypatch, found), 1)

    first = {name: listed[:1] for name, listed in found.items()}
    overdue = {name: found[name][-1:] for name in ("seatLocks", "bookings")}
    assert snapshot.documents == {**first, **overdue}, "the last ones are overdue"
    assert snapshot.names == {EVENTS[0]: "Spring gala"}
    assert (snapshot.database, snapshot.now) == ("event_booking_db", NOW)
    assert watch.read(fake_database(monkeypatch, found), 9).names == {EVENTS[0]: "Spring gala"}


def test_it_reads_again_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes in the database is on the next screen, and the terminal is left as it was."""
    found = documents()
    store = fake_database(monkeypatch, found)
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt
        assert "Brand new" not in terminal.getvalue()
        found["events"][0]["name"] = "Brand new"

    monkeypatch.setattr(watch, "sleep", sleep)
    watch.watch(store, timedelta(seconds=5))

    assert waited == [5, 5]
    assert "Brand new" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[?25h\x1b[?1049l")


def test_ctrl_c_in_the_middle_of_a_redraw_leaves_the_terminal_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rich then writes nothing more: it waits for the end of the redraw."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")

    def interrupted(screen: Live, *_: object, **__: object) -> None:
        screen.console._enter_buffer()
        raise KeyboardInterrupt

    monkeypatch.setattr(Live, "update", interrupted)
    watch.watch(fake_database(monkeypatch, documents()), timedelta(seconds=2))

    assert terminal.getvalue().endswith("\x1b[?25h\x1b[?1049l")


def test_a_lost_database_leaves_the_last_screen_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status line says so. Before there is any screen, and for any other error, `watch` ends."""
    found = documents()
    store = fake_database(monkeypatch, found)
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    pictures: list[str] = []

    def fail(error: Exception) -> Any:
        raise error

    def sleep(_seconds: float) -> None:
        pictures.append(terminal.getvalue())
        terminal.seek(0)
        terminal.truncate()
        now = [lambda: fail(AutoReconnect("gone")), lambda: NOW, lambda: fail(ValueError("a bug"))]
        store.now = now[len(pictures) - 1]

    monkeypatch.setattr(watch, "sleep", sleep)
    with pytest.raises(ValueError, match="a bug"):
        watch.watch(store, timedelta(seconds=2))

    lost = ["connection lost, retrying  numbers of" in picture for picture in pictures]
    assert lost == [False, True, False]
    assert all("Spring gala" in picture for picture in pictures)
    store.now = lambda: fail(AutoReconnect("gone"))
    with pytest.raises(AutoReconnect):
        watch.watch(store, timedelta(seconds=2))


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    from terminal import Shell

    shell = Shell({"SEATCTL_URI": database_uri, "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8"})
    shell.ok("init")
    return shell


def test_ctrl_c_is_success_and_leaves_the_terminal_as_it_was(shell: Shell) -> None:
    shell.ok("create-event", "Spring gala ☃", "--seats", "100", "--date", "+9d")
    with shell.screen("watch", columns=80, lines=24) as screen:
        lines = screen.picture("Ctrl-C to quit")
        screen.type("\x03")
        ended = screen.end()

    assert len(lines) == 24
    assert re.match(r"Spring gala ☃ +·+ +0% +100 +0 +0 +$", lines[1])
    assert ended.code == 0
    assert ended.stdout.endswith("\x1b[?25h\x1b[?1049l")


def test_a_killed_server_is_on_the_screen_before_the_driver_gives_up(tmp_path: Path) -> None:
    """The driver would wait for another primary for 40 s, twice."""
    from servers import Server
    from terminal import Shell

    server = Server().start()
    try:
        uri = server.uri.replace("/?", "/shop?")
        shell = Shell({"SEATCTL_URI": uri, "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8"})
        shell.ok("create-event", "Gala", "--seats", "100", "--date", "+9d")
        with shell.screen("watch", columns=120, lines=24) as screen:
            screen.picture("every 2s")
            server.kill()
            assert "Gala" in "".join(screen.picture("connection lost, retrying"))
            server.start()
            screen.shown = b""
            screen.picture("every 2s")
            screen.type("\x03")
            assert screen.end().code == 0
    finally:
        server.stop()


@pytest.mark.parametrize("where", ["pipe", "dumb terminal"])
def test_it_refuses_where_it_cannot_draw(shell: Shell, where: str) -> None:
    """Without a terminal and in one that cannot move its cursor: a usage error."""
    if where == "dumb terminal":
        result = shell.with_env(TERM="dumb").tty("watch")
        message = result.stdout
    else:
        result = shell("watch")
        message = result.stderr

    assert result.code == 2
    assert "watch needs a terminal" in message
