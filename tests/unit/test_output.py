"""How results look: whole in a pipe, fitting in a terminal, and never reading data as markup."""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId
from bson.decimal128 import Decimal128

from seatctl.domain.states import BookingStatus, JobStatus, LockStatus
from seatctl.domain.words import count
from seatctl.output import console, formats, tables
from seatctl.output import progress as progress_bar
from seatctl.output.health import health_parts
from seatctl.output.progress import Progress

ID = ObjectId("65f000000000000000000001")
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> Terminal:
    """Make stdout a terminal of that width. No fixture: capturing would replace it again."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return terminal


def event(**fields: Any) -> dict[str, Any]:
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


def list_of(collection: str, documents: list[dict[str, Any]], title: str | None = None) -> Any:
    return tables.list_table(documents, tables.LISTS[collection], title)


# --- words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 seats"), (1, "1 seat"), (2, "2 seats"), (9_999, "9999 seats"), (10_000, "10,000 seats")],
)
def test_one_is_singular_and_five_digits_have_a_separator(number: int, words: str) -> None:
    assert count(number, "seat") == words


def test_an_irregular_plural_is_given() -> None:
    assert [count(number, "index", "indexes") for number in (1, 2)] == ["1 index", "2 indexes"]


# --- values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (ID, "65f000000000000000000001"),
        (NOON, "2027-01-01T12:00:00Z"),
        (float("nan"), None),
        (float("-inf"), None),
        (1e300, 1e300),
        (Decimal128("2"), "2"),
        ({"a": [ID, (NOON,)], 1: None}, {"a": [str(ID), ["2027-01-01T12:00:00Z"]], "1": None}),
        ([1, 1.5, True, "x"], [1, 1.5, True, "x"]),
        ({"seats": 2.0}, {"seats": 2}),
    ],
)
def test_every_stored_value_has_a_form_in_json(value: object, plain: object) -> None:
    assert repr(formats.plain(value)) == repr(plain)
    json.dumps(formats.plain(value), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (NOON.replace(microsecond=5000), "2027-01-01T12:00:00Z"),
        ({"a": ID}, '{"a": "65f000000000000000000001"}'),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("ä 😀", "ä 😀"),
        ("right\u202eleft", "right\\u202eleft"),
        (12_345, "12345"),
        (5.0, "5"),
        (-0.5, "-0.5"),
    ],
)
def test_every_value_is_one_line_of_text_that_no_terminal_obeys(value: object, text: str) -> None:
    assert formats.text(value) == text


@pytest.mark.parametrize(
    ("value", "number"), [(2, 2), (2.0, 2), (2.5, None), (True, None), ("2", None), (float("inf"), None)]
)
def test_a_whole_number_may_be_stored_as_a_float(value: object, number: int | None) -> None:
    assert formats.whole_number(value) == number


def test_json_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    formats.print_json({"name": "ä", "id": ID})
    printed = capsys.readouterr().out

    assert json.loads(printed) == {"name": "ä", "id": str(ID)}
    assert printed.count("\n") == 1


def test_json_in_a_terminal_is_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    formats.print_json([{"a": 1}])

    assert json.loads(terminal.getvalue()) == [{"a": 1}]
    assert terminal.getvalue().count("\n") > 3


def test_json_escapes_what_the_encoding_cannot_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    formats.print_json("ä")

    assert json.loads(written.getvalue()) == "ä"


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_list_is_one_json_document(capsys: pytest.CaptureFixture[str], number: int) -> None:
    documents = [{"_id": n} for n in range(number)]
    formats.print_json_list(iter(documents))

    assert json.loads(capsys.readouterr().out) == documents


@pytest.mark.parametrize("print_list", [formats.print_json_list, formats.print_ids])
def test_a_list_is_printed_as_it_is_read(capsys: pytest.CaptureFixture[str], print_list: Any) -> None:
    def documents() -> Iterator[dict[str, object]]:
        yield {"_id": "first"}
        assert "first" in capsys.readouterr().out
        yield {"_id": "second"}

    print_list(documents())

    assert "second" in capsys.readouterr().out


def test_ids_are_printed_one_a_line_whatever_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    formats.print_ids([{"_id": ID}, {"_id": "a\nb"}])

    assert capsys.readouterr().out == f"{ID}\na\\nb\n"


# --- printing --------------------------------------------------------------------------------------------


def test_a_pipe_gets_the_table_at_its_natural_width(capsys: pytest.CaptureFixture[str]) -> None:
    """No colour, no wrapping, no id cut, no trailing space."""
    console.show(list_of("events", [event(name="x" * 300)], "Events"), "a line  ")
    printed = capsys.readouterr().out

    assert str(ID) in printed
    assert "x" * 300 in printed
    assert "\x1b" not in printed
    assert all(line == line.rstrip() for line in printed.splitlines())
    assert printed.endswith("a line\n")


def test_a_terminal_gets_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    console.show(list_of("seatLocks", [{"_id": ID, "status": "ACTIVE", "eventId": ID}]))

    assert "\x1b[36mACTIVE" in terminal.getvalue()


@pytest.mark.parametrize("columns", [20, 40, 80, 500])
def test_no_id_is_ever_cut(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """However narrow the window is, every id is there, folded at worst, and no line is too long."""
    terminal = use_terminal(monkeypatch, columns)
    monkeypatch.setenv("NO_COLOR", "1")
    console.show(list_of("bookings", [{"_id": ID, "event": ID, "seatLockId": ID, "user": ID}]))
    lines = re.sub(r"\x1b\[\d*m", "", terminal.getvalue()).splitlines()

    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    folded = "".join(line.split("│")[-2].strip() if columns < 80 else line for line in lines if "│" in line)
    assert folded.count(str(ID)) == 4


def screen_of(monkeypatch: pytest.MonkeyPatch, columns: int, *parts: Any) -> list[str]:
    """The lines of a window, without colours."""
    terminal = use_terminal(monkeypatch, columns)
    console.show(*parts)
    return re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()


RUN = {
    "_id": ID,
    "jobType": "BOOKING_EXPIRY",
    "executedAt": NOON,
    "status": "SUCCESS",
    "details": {"recordsProcessed": 12_345, "seatsRestored": 3, "duration": 12},
    "host": "db1",
}
TOTALS = {
    "jobType": "BOOKING_EXPIRY",
    "runs": 1_440,
    "successRate": 1.0,
    "recordsProcessed": 12_345,
    "seatsRestored": 9,
    "medianDuration": 10,
    "worstDuration": 1_000,
}


@pytest.mark.parametrize("columns", [60, 79, 80, 100, 119, 120, 160])
def test_no_word_of_a_table_is_broken_and_no_line_is_too_long(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Where the words have no room side by side, each row is a card."""
    shown = screen_of(
        monkeypatch,
        columns,
        tables.list_of(
            "jobLogs", [RUN, {**RUN, "status": "FAILED", "error": "skipped 2 locks that cannot be read"}]
        ),
        tables.list_of("events", [event(name="A name of 20 letters")]),
        tables.list_of("seatLocks", [{"_id": ID, "eventId": ID, "status": "CONSUMED", "expiresAt": NOON}]),
        tables.list_table([TOTALS], tables.SUMMARY),
    )

    assert max(map(len, shown)) <= columns
    words = {word for line in shown for word in line.split()}
    assert {"BOOKING_EXPIRY", "SUCCESS", "CONSUMED", "2027-01-01T12:00:00Z", "12,345", str(ID)} <= words


def test_a_list_fits_the_window_that_it_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events with a name of 20 characters and runs that all succeeded fit 120 columns, the summary 80."""
    events = tables.list_of("events", [event(name="A name of 20 letters")])
    summary = tables.list_table([TOTALS], tables.SUMMARY)

    assert len(screen_of(monkeypatch, 120, events)) == 5
    assert len(screen_of(monkeypatch, 120, tables.list_of("jobLogs", [RUN]))) == 5
    assert len(screen_of(monkeypatch, 80, summary)) == 6, "one of its headings has two lines"


def columns_at(
    monkeypatch: pytest.MonkeyPatch, columns: int, name: str, *documents: dict[str, Any]
) -> set[str]:
    """The headings of a list, in a window that is so wide."""
    shown = screen_of(monkeypatch, columns, tables.list_of(name, documents, now=NOON))
    rows = [line.split("│")[1:-1] for line in itertools.takewhile(lambda line: line[0] != "├", shown[1:])]
    return {" ".join(filter(None, map(str.strip, words))) for words in zip(*rows, strict=True)}


def test_a_narrow_window_keeps_the_columns_that_tell_rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    due = {"_id": ID, "bookingId": ID, "eventId": ID, "userId": "ada", "seats": 2, "cause": "LATE_PAYMENT"}
    due |= {"paymentRef": "card-7731", "status": "DUE", "dueAt": NOON}
    assert "status" in columns_at(monkeypatch, 80, "refunds", due, {**due, "status": "WITHDRAWN"})
    assert columns_at(monkeypatch, 80, "refunds", due) == {"id", "user", "seats", "payment", "due since"}
    assert columns_at(monkeypatch, 80, "jobLogs", RUN) == {"id", "job", "started", "seats returned"}
    failed = {**RUN, "status": "FAILED"}
    assert "status" in columns_at(monkeypatch, 80, "jobLogs", RUN, failed)
    block = {"_id": ID, "eventId": ID, "userId": "seatctl", "status": "ACTIVE", "kind": "BLOCK", "seats": 5}
    assert "kind" in columns_at(monkeypatch, 80, "seatLocks", block, open_lock(timedelta(minutes=9)))


def test_a_long_line_is_wrapped_between_words_and_a_command_in_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = "  cause    " + "word " * 9 + "`seatctl show 65f000000000000000000001`"
    shown = screen_of(monkeypatch, 42, line)

    assert " ".join(shown).split() == line.split()
    assert all(part.startswith(" " * 11) for part in shown[1:])
    assert any("`seatctl show 65f000000000000000000001`" in part for part in shown)
    assert all(len(part) <= 42 or part.lstrip().startswith("`") for part in shown)
    command = "    seatctl confirm 65f000000000000000000001 --sold --ref REF"
    assert screen_of(monkeypatch, 42, command) == [command], "left to the terminal, so that it can be copied"


def test_data_is_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(list_of("events", [event(name="[red]x[/red] :smile:")]), "[bold]line[/bold]")
    printed = capsys.readouterr().out

    assert "[red]x[/red] :smile:" in printed
    assert "[bold]line[/bold]" in printed


def open_lock(left: timedelta, **fields: Any) -> dict[str, Any]:
    lock = {
        "_id": ID,
        "eventId": ID,
        "userId": "ada",
        "seats": 2,
        "status": "ACTIVE",
        "expiresAt": NOON + left,
    }
    return {**lock, "idempotencyKey": "seatctl-65f000000000000000000001", **fields}


def test_what_is_left_until_a_deadline_is_beside_it_while_it_matters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the server's time, of what is open; a block has no deadline."""
    left = timedelta(minutes=9, seconds=57)
    locks = [
        open_lock(left),
        open_lock(-timedelta(seconds=20)),
        open_lock(left, status="CONSUMED"),
        open_lock(left, kind="BLOCK", expiresAt=datetime(9999, 12, 31, tzinfo=UTC)),
    ]
    pending = {"_id": ID, "status": "PAYMENT_PENDING", "paymentExpiresAt": NOON, "seatsOfLock": 3}
    console.show(
        tables.list_of("seatLocks", locks, now=NOON), tables.list_of("bookings", [pending], now=NOON)
    )
    printed = capsys.readouterr().out

    assert printed.count(" left ") == 3, "two headings and one lock"
    assert re.search(r"12:09:57Z │ 9m57s left ", printed)
    assert re.search(r"11:59:40Z │ overdue 20s ", printed)
    assert re.search(r"│ +3 │ PAYMENT_PENDING │ 2027-01-01T12:00:00Z │ overdue 0s", printed)
    assert "9999" not in printed


def test_an_overdue_lock_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, 200)
    console.show(tables.list_of("seatLocks", [open_lock(-timedelta(seconds=20))], now=NOON))

    assert "\x1b[1;31mACTIVE" in terminal.getvalue()
    assert "\x1b[1;31moverdue 20s" in terminal.getvalue()


@pytest.mark.parametrize(
    ("columns", "hidden", "time"),
    [
        (160, [], "12:09:57Z"),
        (120, ["key"], "12:09:57Z"),
        (80, ["event", "expires", "key"], "9m57s left"),
        (40, [], "12:09:57Z"),
    ],
)
def test_a_narrow_list_leaves_out_what_is_least_needed_and_then_is_cards(
    columns: int, hidden: list[str], time: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards have all of it again; in a table no id and no time is ever broken."""
    terminal = use_terminal(monkeypatch, columns)
    lock = open_lock(timedelta(minutes=9, seconds=57))
    left_out = console.show(tables.list_of("seatLocks", [lock], now=NOON))
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()

    assert sorted(left_out) == hidden
    assert max(map(len, lines)) <= columns
    assert time in "\n".join(lines)
    assert str(ID) in "\n".join(lines)


def test_seconds_go_before_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = open_lock(timedelta(minutes=9, seconds=57), userId="ada")
    lock.pop("idempotencyKey")
    for columns, shown in ((115, "T12:09:57Z"), (112, "T12:09Z")):
        assert shown in "".join(
            screen_of(monkeypatch, columns, tables.list_of("seatLocks", [lock], now=NOON))
        )


@pytest.mark.parametrize("columns", [40, 44])
def test_cards_have_no_lines_where_an_id_needs_the_room(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {key: item for key, item in RUN.items() if key != "host"}
    shown = screen_of(monkeypatch, columns, tables.list_of("jobLogs", [run]))

    assert any(str(ID) in line for line in shown)
    assert max(map(len, shown)) <= columns


# --- tables ----------------------------------------------------------------------------------------------


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
def test_a_bar_shows_how_full_an_event_is(
    fields: dict[str, Any], bar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seat sold can be seen, and numbers that are none break nothing."""
    monkeypatch.setattr(sys, "stdout", Terminal())

    assert tables.occupancy(event(**fields), 12).plain == bar


def test_a_cancelled_event_is_not_full() -> None:
    """All its seats are in a block."""
    assert tables.occupancy(event(locked=10, cancelledAt=NOON)).plain == ""


def test_the_bar_is_ascii_where_blocks_cannot_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))

    assert tables.occupancy(event(sold=5, locked=2), 12).plain == "######+++...  70%"
    assert tables.occupancy(event(sold=5, locked=2)).plain == "###+.  70%"


@pytest.mark.parametrize("collection", ["events", "seatLocks", "bookings", "jobLogs"])
def test_a_document_without_any_field_is_a_row(capsys: pytest.CaptureFixture[str], collection: str) -> None:
    console.show(list_of(collection, [{"_id": ID}]))

    assert str(ID) in capsys.readouterr().out


def test_a_job_run_is_shown_with_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers have separators; details that are none break nothing."""
    details = {"recordsProcessed": 12_345, "seatsRestored": 7, "duration": 3}
    runs = [{"_id": ID, "status": "FAILED", "error": "why", "details": details}, {"_id": ID, "details": "x"}]
    console.show(list_of("jobLogs", runs))
    printed = capsys.readouterr().out

    assert "12,345" in printed
    assert "why" in printed


def test_every_state_has_a_style() -> None:
    assert {*LockStatus, *BookingStatus, *JobStatus} <= set(tables.STYLES)


def test_a_document_is_shown_one_field_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """And the lists in its details one item a line."""
    run = {"_id": ID, "details": {"steps": [{"fault": "x"}, {"fault": "y"}], "duration": 5, "none": []}}
    console.show(tables.document_table(run, "job run"))
    printed = capsys.readouterr().out

    assert printed.count("details.steps") == 2
    assert '{"fault": "y"}' in printed
    assert "details.none" in printed
    assert printed.startswith("job run\n")


def test_a_violation_is_shown_with_its_remedy_or_its_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    violation = {"fault": "counter_drift", "message": "message", "remedy": "seatctl recover"}
    console.show(tables.list_table([violation], tables.LISTS["violations"]))
    left = {**violation, "remedy": "seatctl show 1", "outcome": "needs a person"}
    console.show(tables.list_table([{**violation, "outcome": "corrected"}, left], tables.REPAIRS))
    first, second = capsys.readouterr().out.split("╯\n", 1)

    assert "what to do" in first
    assert "seatctl recover" in first
    assert "corrected" in second
    assert "seatctl recover" not in second
    assert "needs a person; seatctl show 1" in second


def test_a_value_that_is_not_as_expected_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(tables.checks_table([("seats", 100, 100), ("healthy", True, False)]))
    printed = capsys.readouterr().out

    rows = [line.replace("│", " ").split() for line in printed.splitlines() if line.startswith("│")]
    assert rows[1:] == [["seats", "100", "100", "ok"], ["healthy", "yes", "no", "WRONG"]]


def test_a_job_that_never_ran_has_no_success_rate(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"recordsProcessed": 0, "seatsRestored": 0, "medianDuration": None, "worstDuration": None}
    rows = [
        {**row, "jobType": "RECOVERY", "runs": 0, "successRate": None},
        {**row, "jobType": "LOCK_EXPIRY", "runs": 3, "successRate": 2 / 3},
    ]
    console.show(tables.list_table(rows, tables.SUMMARY))
    printed = capsys.readouterr().out

    assert "66.7%" in printed
    assert printed.count("%") == 1


def health_state(**changes: Any) -> dict[str, Any]:
    job = {
        "runs": 3,
        "statuses": {"SUCCESS": 1_440},
        "lastRun": NOON,
        "lastStatus": "SUCCESS",
        "ageSeconds": 60,
    }
    return {
        "healthy": True,
        "maxAgeSeconds": 180,
        "jobs": {"BOOKING_EXPIRY": {**job, "lastSuccess": NOON}},
        "backlog": {
            "overdueLocks": 0,
            "oldestLockSeconds": 0,
            "overdueBookings": 12_345,
            "oldestBookingSeconds": 3661,
        },
        "refunds": {"due": 2, "oldestSeconds": 90_000},
        "inventory": {
            "events": 1,
            "totalSeats": 10,
            "availableSeats": 5,
            "lockedSeats": 2,
            "soldSeats": 3,
            "inconsistentEvents": [],
            "inconsistentEventsCount": 0,
        },
        "problems": [],
        "warnings": ["clocks differ"],
        **changes,
    }


def test_health_starts_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(*health_parts(health_state()))
    printed = capsys.readouterr().out

    assert printed.startswith("healthy\n")
    assert "12,345, the oldest for 1h1m" in printed
    assert "2, the oldest for 1d1h" in printed
    assert "last success" not in printed, "every last run succeeded"
    assert max(map(len, printed.splitlines())) <= 80
    assert "problem" not in printed
    assert printed.splitlines()[1] == "warning: clocks differ", "what is wrong comes before the tables"


def test_health_shows_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    never = {
        "runs": 0,
        "statuses": {},
        "lastRun": None,
        "lastStatus": None,
        "lastSuccess": None,
        "ageSeconds": None,
    }
    failed = {"runs": 1, "statuses": {"FAILED": 1}, "lastRun": NOON, "lastStatus": "FAILED", "ageSeconds": 9}
    jobs = {"RECOVERY": never, "LOCK_EXPIRY": {**failed, "lastSuccess": None}}
    inventory = {
        **health_state()["inventory"],
        "inconsistentEvents": [ID, "b"],
        "inconsistentEventsCount": 5,
    }
    wrong = health_state(healthy=False, jobs=jobs, inventory=inventory, problems=["never\nran"])
    console.show(*health_parts(wrong))
    printed = capsys.readouterr().out

    assert printed.startswith("NOT healthy\n")
    assert "never ran" in printed
    assert "last success" in printed
    assert f" {ID} │\n" in printed
    assert "and 3 others" in printed
    assert printed.splitlines()[1] == "problem: never\\nran"


def test_a_job_that_has_not_run_is_not_green(monkeypatch: pytest.MonkeyPatch) -> None:
    [job] = health_state()["jobs"].values()
    never = {**job, "lastRun": None, "lastStatus": None, "ageSeconds": None}
    jobs = {"LOCK_EXPIRY": never, "BOOKING_EXPIRY": {**job, "ageSeconds": 181}, "RECOVERY": job}
    never["lastSuccess"] = None
    terminal = use_terminal(monkeypatch, 200)
    console.show(*health_parts(health_state(jobs=jobs)))
    rows = {
        line.replace("│", " ").split()[0]: line
        for line in terminal.getvalue().splitlines()
        if "_EXP" in line or "RECOV" in line
    }

    green = {job: bool(re.search(r"\x1b\[32mSUCCESS", row)) for job, row in rows.items()}
    assert green == {"LOCK_EXPIRY": False, "BOOKING_EXPIRY": False, "RECOVERY": True}
    assert "SUCCESS, too old" in rows["BOOKING_EXPIRY"]


# --- a live screen -----------------------------------------------------------------------------------------


def test_a_live_screen_is_drawn_on_demand_and_knows_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("LINES", "30")
    with console.live_screen() as screen:
        screen.update(console.full_screen([tables.checks_table([])], "the end\n"), refresh=True)
        assert screen.console.size == (80, 30)

    assert "expected" in terminal.getvalue()
    assert "the end\\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[?25h\x1b[?1049l"), "the terminal is left as it was"


def test_a_section_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(tables.live_table(["name"], []))

    assert "none" in capsys.readouterr().out


# --- progress -----------------------------------------------------------------------------------------


def terminal_on_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return terminal


def counting_fails() -> int:
    pytest.fail("counted without need")


def test_the_bar_appears_with_the_second_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts once what is left, and vanishes at the end."""
    stderr, counted = terminal_on_stderr(monkeypatch), Counter[str]()

    def left() -> int:
        counted["queries"] += 1
        return 50

    progress = Progress()
    progress.start("[locks]", left)
    progress.advance(10)
    assert stderr.getvalue() == ""

    progress.advance(20)
    progress.advance(50)
    progress.stop()
    progress.stop()
    shown = stderr.getvalue()

    assert "[locks]" in shown
    assert "80 of 80, " in shown
    assert "/s, 0s left" in shown
    assert shown.endswith("\x1b[2K"), "the line of the bar is erased"
    assert counted["queries"] == 1


def test_a_job_of_one_batch_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal_on_stderr(monkeypatch)
    progress = Progress()
    progress.start("locks", counting_fails)
    progress.advance(10)
    progress.stop()

    assert stderr.getvalue() == ""


def test_each_stage_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal_on_stderr(monkeypatch)
    progress = Progress()
    for what in ("bookings", "locks"):
        progress.start(what, lambda: 1)
        progress.advance(1)
        progress.advance(1)
    progress.stop()

    assert "bookings" in stderr.getvalue()
    assert "locks" in stderr.getvalue()
    assert "3 of 3" not in stderr.getvalue(), "the first stage is over"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_bar_says_how_far_it_is_in_one_line(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Also where more came than was counted."""
    stderr = terminal_on_stderr(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    times = iter([0.0, 10.0, 25.0])
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: next(times)))
    progress = Progress()
    progress.start("bookings and locks", lambda: 1_230_000)
    progress.advance(10_000)
    progress.advance(10_000)
    assert "20,000 of 1,250,000, 2,000/s, 10m15s left" in stderr.getvalue()
    progress.advance(1_240_000)
    progress.stop()
    assert "1,260,000 of 1,260,000, 50,400/s, 0s left" in stderr.getvalue()


def test_a_pipe_sees_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    progress = Progress()
    progress.start("locks", counting_fails)
    for _ in range(3):
        progress.advance(10)
    progress.stop()

    assert pipe.getvalue() == ""
