"""How results look: whole in a pipe, fitting in a terminal, and never reading data as markup."""

import io
import json
import sys
from datetime import UTC, datetime

import pytest
from bson import ObjectId
from rich.console import Console

from seatctl.domain.model import BookingStatus, JobStatus, LockStatus
from seatctl.output import tables as output
from seatctl.services.audit import Fault, Finding

ID = ObjectId("65f000000000000000000001")
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


class Screen(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def terminal(monkeypatch, columns=80):
    """Make standard output a terminal of that width. No fixture: capturing would replace it again."""
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return screen


def event(**fields):
    return {
        "_id": ID,
        "name": "Concert",
        "eventDate": NOON,
        "availableSeats": 5,
        "locked": 2,
        "sold": 3,
        "totalSeats": 10,
        **fields,
    }


# --- values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (ID, "65f000000000000000000001"),
        (NOON, "2027-01-01T12:00:00Z"),
        (float("nan"), None),
        (float("-inf"), None),
        ({"a": [ID, (NOON,)], 1: None}, {"a": [str(ID), ["2027-01-01T12:00:00Z"]], "1": None}),
        ([1, 1.5, True, "x"], [1, 1.5, True, "x"]),
        ({"seats": 2.0}, {"seats": 2}),
    ],
)
def test_plain(value, plain):
    """Ids are hex strings, times ISO 8601 with Z, and everything else something that JSON has."""
    assert repr(output.plain(value)) == repr(plain)
    json.dumps(output.plain(value), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (NOON.replace(microsecond=5000), "2027-01-01T12:00:00Z"),
        ({"a": ID}, '{"a": "65f000000000000000000001"}'),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("ä 😀", "ä 😀"),
        ("right\u202eleft", "right\\u202eleft"),
        (5, "5"),
        (5.0, "5"),
        (-0.5, "-0.5"),
    ],
)
def test_text(value, text):
    """A value fits in a line; what does not print is shown as an escape."""
    assert output.text(value) == text


def test_json_in_a_pipe(capsys):
    """JSON is exactly one document, on one line."""
    output.print_json({"name": "ä", "id": ID})
    told = capsys.readouterr().out

    assert json.loads(told) == {"name": "ä", "id": str(ID)}
    assert told.count("\n") == 1


def test_json_in_a_terminal(monkeypatch):
    """A person gets it indented."""
    screen = terminal(monkeypatch)
    output.print_json([{"a": 1}])

    assert json.loads(screen.getvalue()) == [{"a": 1}]
    assert screen.getvalue().count("\n") > 3


def test_json_for_a_narrow_encoding(monkeypatch):
    """Where the output cannot carry a letter, JSON carries its escape."""
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    output.print_json("ä")
    narrow.flush()

    assert json.loads(narrow.buffer.getvalue()) == "ä"


def test_ids(capsys):
    """Ids stand alone, one a line, whatever they are."""
    output.print_ids([{"_id": ID}, {"_id": "a\nb"}])

    assert capsys.readouterr().out == f"{ID}\na\\nb\n"


# --- tables --------------------------------------------------------------------------------------------


def test_table_in_a_pipe(capsys):
    """A pipe gets the table at its natural width: no colour, no wrapping, no id cut, no trailing space."""
    output.show(output.events_table([event(name="x" * 300)], title="Events"), "a line  ")
    told = capsys.readouterr().out

    assert str(ID) in told
    assert "x" * 300 in told
    assert "\x1b" not in told
    assert all(line == line.rstrip() for line in told.splitlines())
    assert told.endswith("a line\n")


def test_table_in_a_terminal(monkeypatch):
    """A terminal gets colour and a table no wider than its window."""
    screen = terminal(monkeypatch)
    output.show(output.locks_table([{"_id": ID, "status": "ACTIVE", "eventId": ID}]))
    told = screen.getvalue()

    assert "\x1b[" in told
    assert "ACTIVE" in told


@pytest.mark.parametrize("columns", [20, 40, 80, 500])
def test_no_id_is_ever_cut(monkeypatch, columns):
    """However narrow the window, every id stands there whole, folded at worst."""
    screen = terminal(monkeypatch, columns)
    monkeypatch.setenv("NO_COLOR", "1")
    output.show(output.bookings_table([{"_id": ID, "event": ID, "seatLockId": ID, "user": ID}]))
    digits = "".join(letter for letter in screen.getvalue() if letter.isdigit())

    assert "…" not in screen.getvalue()
    assert digits.count("65000000000000000000001") == 4 or columns == 20
    assert digits.count("65") == 4


def test_data_is_no_markup(capsys):
    """Brackets and emoji codes in a name are shown as they are."""
    output.show(output.events_table([event(name="[red]x[/red] :smile:")]))

    assert "[red]x[/red] :smile:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "bar"),
    [
        ({"sold": 0, "locked": 0}, "············   0%"),
        ({"sold": 10, "locked": 0}, "████████████ 100%"),
        ({"sold": 5, "locked": 5}, "██████▒▒▒▒▒▒ 100%"),
        ({"sold": 0, "locked": 1, "totalSeats": 1000}, "▒···········   0%"),
        ({"sold": 99, "locked": 99}, "████████████ 1980%"),
        ({"totalSeats": "many"}, "?"),
    ],
)
def test_bar(fields, bar, monkeypatch):
    """How full an event is shows at a glance; the first seat sold is seen, and bad numbers break nothing."""
    monkeypatch.setattr(sys, "stdout", Screen())

    assert output.bar(event(**fields)).plain == bar


def test_bar_in_ascii(monkeypatch):
    """Where blocks cannot be printed, letters do."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))

    assert output.bar(event(sold=5, locked=2)).plain == "######+++...  70%"


@pytest.mark.parametrize("collection", ["events", "seatLocks", "bookings", "jobLogs"])
def test_bare_documents(capsys, collection):
    """A document of another program that lacks every field is a row like any other."""
    output.show(output.TABLES[collection]([{"_id": ID}]))

    assert str(ID) in capsys.readouterr().out


def test_jobs_table(capsys):
    """A run is shown with what it did; details that are none break nothing."""
    details = {"recordsProcessed": 12_345, "seatsRestored": 7, "duration": 3}
    runs = [{"_id": ID, "status": "FAILED", "error": "why", "details": details}, {"_id": ID, "details": "x"}]
    output.show(output.jobs_table(runs))
    told = capsys.readouterr().out

    assert "12345" in told
    assert "why" in told


def test_every_status_has_its_style():
    """No state is left without a colour of its own."""
    assert {*LockStatus, *BookingStatus, *JobStatus} == set(output.STYLES)


def test_document_table(capsys):
    """One document is shown a field a line, and what a job found one item a line."""
    run = {"_id": ID, "details": {"findings": [{"fault": "x"}, {"fault": "y"}], "duration": 5, "none": []}}
    output.show(output.document_table(run, "job run"))
    told = capsys.readouterr().out

    assert told.count("details.findings") == 2
    assert '{"fault": "y"}' in told
    assert told.startswith("job run\n")


def test_findings_table(capsys):
    """What is wrong is shown with what to do about it, or what was done."""
    found = Finding(Fault.COUNTER_DRIFT, "message", event=ID).as_document()
    output.show(output.findings_table([found, {**found, "outcome": "corrected"}]))
    told = capsys.readouterr().out

    assert "seatctl recover" in told
    assert "corrected" in told


def test_checks_table(capsys):
    """A number that is not as promised is called wrong."""
    output.show(output.checks_table([("seats", 100, 100), ("locks", 5, 4)]))
    told = capsys.readouterr().out

    assert (told.count("ok"), told.count("WRONG")) == (1, 1)


def test_summary_table(capsys):
    """A job that never ran has no success rate."""
    row = {"recordsProcessed": 0, "seatsRestored": 0, "medianDuration": None, "worstDuration": None}
    rows = [
        {**row, "jobType": "RECOVERY", "runs": 0, "successRate": None},
        {**row, "jobType": "LOCK_EXPIRY", "runs": 3, "successRate": 2 / 3},
    ]
    output.show(output.summary_table(rows))

    assert "66.7%" in capsys.readouterr().out


@pytest.mark.parametrize("healthy", [True, False])
def test_health_tables(capsys, healthy):
    """Health starts with the verdict and ends with what is wrong."""
    job = {"runs": 1, "statuses": {"SUCCESS": 1}, "lastRun": NOON, "lastStatus": None, "lastSuccess": None}
    state = {
        "healthy": healthy,
        "jobs": {"RECOVERY": job},
        "backlog": {
            "overdueLocks": 0,
            "oldestLockSeconds": 0,
            "overdueBookings": 1234,
            "oldestBookingSeconds": 3661,
        },
        "inventory": {
            "events": 1,
            "totalSeats": 10,
            "availableSeats": 5,
            "lockedSeats": 2,
            "soldSeats": 3,
            "inconsistentEvents": [] if healthy else [ID],
        },
        "problems": [] if healthy else ["LOCK_EXPIRY has never run"],
        "warnings": ["clocks differ"],
    }
    output.show(*output.health_tables(state))
    told = capsys.readouterr().out

    assert told.startswith("healthy" if healthy else "NOT healthy")
    assert "1,234, the oldest for 1h1m" in told
    assert "never ran" in told
    assert ("problem: LOCK_EXPIRY has never run" in told) is not healthy
    assert "warning: clocks differ" in told


# --- screens that move -----------------------------------------------------------------------------------


def test_live(monkeypatch):
    """A live screen is redrawn on demand, knows its size, and keeps its last line."""
    told = terminal(monkeypatch)
    monkeypatch.setenv("LINES", "30")
    with output.live() as (screen, size):
        screen.update(output.full_screen([output.checks_table([])], "the end\n"), refresh=True)
        assert size() == (80, 30)
    assert "promised" in told.getvalue()
    assert "the end\\n" in told.getvalue()


@pytest.mark.parametrize(
    ("width", "columns"), [(20, ["name"]), (80, ["name", "seats"]), (130, ["id", "name", "seats"])]
)
def test_glance_table(width, columns):
    """A window gets the columns that are worth their place in it."""
    made = output.glance_table({"id": 130, "name": 0, "seats #": 80}, [(ID, "x", 1)], width)

    assert [column.header for column in made.columns] == columns


def test_progress(monkeypatch):
    """A bar appears with the second batch, counts what is left, and vanishes at the end."""
    error = Screen()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setenv("TERM", "xterm")
    counted = []
    progress = output.Progress("locks", lambda: counted.append(1) or 50)
    progress.advance(10)
    assert error.getvalue() == ""

    progress.advance(20)
    progress.advance(20)
    progress.close()
    assert "locks" in error.getvalue()
    assert counted == [1]


def test_progress_of_a_short_job():
    """A job of one batch shows nothing and counts nothing."""
    progress = output.Progress("locks", lambda: pytest.fail("counted for nothing"))
    progress.advance(10)
    progress.close()


def test_console_width():
    """Outside a terminal nothing limits a line."""
    assert isinstance(output.console(), Console)
    assert output.console().width == output.ANY_WIDTH
