"""Lists in every format: whole, streamed, and harmless to terminals and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from seatctl.output import formats, lists, tables
from seatctl.output.formats import Format

ID = ObjectId("65f000000000000000000001")
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
EVENT = {"_id": ID, "name": "Gala", "eventDate": NOON, "totalSeats": 9, "locked": 2.0, "price": 7}


def as_csv(printed: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(printed, newline="")))


def test_csv_has_the_stored_names_and_values_that_python_reads_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lists.print_list("events", [EVENT, {"_id": ID}], Format.CSV)
    printed = capsys.readouterr().out

    assert printed.split("\r\n")[0] == ",".join(tables.columns_of("events"))
    gala, bare = as_csv(printed)
    assert (gala["_id"], gala["eventDate"], gala["locked"]) == (str(ID), "2027-01-01T12:00:00Z", "2")
    assert set(bare.values()) == {str(ID), ""}
    assert "price" not in gala


@pytest.mark.parametrize("name", ['a "quote"', "a, comma", "two\nlines", " ☃ ", "-", "half-price"])
def test_a_text_is_the_same_after_csv(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lists.print_list("events", [{"name": name}], Format.CSV, ["name"])
    [read] = as_csv(capsys.readouterr().out)
    assert read["name"] == (f"'{name}" if name == "-" else name)


@pytest.mark.parametrize(
    "name",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1+1", "＝1", '=HYPERLINK("x")'],  # noqa: RUF001
)
def test_no_spreadsheet_calculates_a_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lists.print_list("events", [{"name": name}], Format.CSV, ["name"])
    [read] = as_csv(capsys.readouterr().out)
    assert read["name"] == f"'{name}"


def test_a_negative_number_stays_a_number_in_csv(capsys: pytest.CaptureFixture[str]) -> None:
    lists.print_list("events", [{"availableSeats": -3}], Format.CSV, ["availableSeats"])
    assert as_csv(capsys.readouterr().out) == [{"availableSeats": "-3"}]


def test_chosen_columns_come_in_their_order_in_each_format(capsys: pytest.CaptureFixture[str]) -> None:
    run = {"_id": ID, "host": "db1", "details": {"duration": 5, "seatsRestored": 1}}
    columns = ["details.duration", "host"]
    for form in (Format.JSON, Format.NDJSON, Format.CSV, Format.TABLE):
        lists.print_list("jobLogs", [run], form, columns)
    as_json, line, header, row, *table = capsys.readouterr().out.splitlines()

    assert json.loads(as_json) == [{"details.duration": 5, "host": "db1"}]
    assert json.loads(line) == {"details.duration": 5, "host": "db1"}
    assert (header, row) == ("details.duration,host", "5,db1")
    assert [cell.strip() for cell in table[1].split("│")[1:-1]] == ["ms", "host"]


def test_ndjson_is_a_line_for_each_document_with_all_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    lists.print_list("events", [EVENT, EVENT], Format.NDJSON)
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == json.loads(second)
    assert json.loads(first)["price"] == 7


@pytest.mark.parametrize("name", tables.LISTS)
def test_a_list_reads_the_fields_that_it_shows_and_no_others(name: str) -> None:
    """Documents of other programs may be of many megabytes."""
    assert lists.fields_of(name, Format.IDS, None) == ("_id",)
    assert lists.fields_of(name, Format.JSON, None) is None
    assert lists.fields_of(name, Format.JSON, ["message"]) == ["message"]
    shown = lists.fields_of(name, Format.TABLE, None)
    assert shown == lists.fields_of(name, Format.CSV, None)
    assert shown
    assert {field for field in tables.LISTS[name].values() if isinstance(field, str)} <= set(shown)


@pytest.mark.parametrize("form", [Format.JSON, Format.NDJSON, Format.CSV, Format.IDS, Format.TABLE])
def test_a_list_is_printed_while_it_is_read(
    form: Format, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lists, "ROWS_AT_ONCE", 2)
    printed: list[str] = []

    def documents() -> Iterator[dict[str, Any]]:
        for number in range(5):
            printed.append(capsys.readouterr().out)
            yield {"_id": number, "name": f"<{number}>"}

    lists.print_list("events", documents(), form)
    assert "".join(printed[:4])
    printed.append(capsys.readouterr().out)
    assert "4" in printed[-1]


def test_a_long_table_is_several_each_with_its_headings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lists, "ROWS_AT_ONCE", 2)
    assert lists.print_list("bookings", [{"_id": ID}] * 5, Format.TABLE).rows == 5
    printed = capsys.readouterr().out
    assert (printed.count(str(ID)), printed.count("│ id ")) == (5, 3)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("form", [Format.JSON, Format.NDJSON, Format.CSV])
def test_a_terminal_obeys_nothing_that_stands_in_a_document(
    form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the 8-bit control sequence nor marks that turn the text around it."""
    name = "a\x9b31mb\x1b[0m\u202ec\u2066é😀"
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    lists.print_list("events", [{"_id": ID, "name": name}], form, ["name"])
    printed = terminal.getvalue()

    assert not {"\x9b", "\x1b", "\u202e", "\u2066"} & set(printed)
    assert "é😀" in printed
    if form is not Format.CSV:
        shown = json.loads(printed)
        assert (shown[0] if isinstance(shown, list) else shown) == {"name": name}


def test_a_pipe_gets_every_character_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    formats.print_json({"name": "\x9b\u202e"})
    assert "\x9b\u202e" in capsys.readouterr().out


# --- runs that found nothing to do ------------------------------------------------------------------------


def run(minute: int, processed: int = 0, status: str = "SUCCESS", seats: int = 0) -> dict[str, Any]:
    details = {"recordsProcessed": processed, "seatsRestored": seats, "duration": 1}
    started = NOON - timedelta(minutes=minute)
    return {
        "_id": minute,
        "jobType": "LOCK_EXPIRY",
        "executedAt": started,
        "status": status,
        "details": details,
    }


def folded(*runs: dict[str, Any]) -> list[Any]:
    return [row.get("_id", row["jobType"]) for row in lists.fold_idle_runs(runs)]


def test_a_stretch_of_runs_that_did_nothing_is_one_line_with_its_times() -> None:
    busy, failed = run(5, processed=1, seats=1), run(6, status="FAILED")
    runs = [*map(run, range(5)), busy, failed, *map(run, range(7, 9))]
    first, last = "5 runs with nothing to do, 11:56–12:00", "2 runs with nothing to do, 11:52–11:53"  # noqa: RUF001
    assert folded(*runs) == [first, 5, 6, last]
    assert next(lists.fold_idle_runs(runs))["executedAt"] == NOON


def test_a_single_run_stays_as_it_is() -> None:
    assert folded(run(0), run(1, processed=2), run(2)) == [0, 1, 2]


def test_a_stretch_over_several_days_says_which() -> None:
    [words] = folded(run(0), run(60 * 24))
    assert words == "2 runs with nothing to do, 2026-12-31 12:00–2027-01-01 12:00"  # noqa: RUF001


def test_a_stretch_within_one_minute_has_one_time() -> None:
    assert folded(run(0), run(0)) == ["2 runs with nothing to do, 12:00"]


def test_runs_without_a_readable_time_are_folded_without_one() -> None:
    assert folded(run(0), {**run(1), "executedAt": "x"}) == ["2 runs with nothing to do"]
