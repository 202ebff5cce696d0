"""The options that all lists have: formats, columns, times."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bson import ObjectId
from conftest import edit, examined, open_store
from stories import insert_overdue, new_event, new_lock, new_shell, one_line, open_database
from terminal import Result, Shell, here

from seatctl.output import tables

if TYPE_CHECKING:
    from seatctl.domain.documents import EventId

Call = Callable[..., Result]
LISTS = {
    "events": "events",
    "locks": "seatLocks",
    "bookings": "bookings",
    "jobs": "jobLogs",
    "history": "history",
    "verify": "violations",
}


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    return new_shell(database_uri, tmp_path)


@pytest.fixture
def call(shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """The program in this process, on an empty database."""
    monkeypatch.setenv("SEATCTL_URI", shell.env["SEATCTL_URI"])
    return lambda line: here(capsys, *line.split(" "))


@pytest.fixture
def gala(shell: Shell) -> EventId:
    store = open_store(shell.env["SEATCTL_URI"])
    event = new_event(store, "Gala", 9)
    edit(store, "events", event, name='Gala "=1+1", late\nnight')
    new_lock(store, event, "ada")
    store.deployment.close()
    return event


@pytest.mark.parametrize("command", LISTS)
def test_each_list_comes_in_each_format_with_the_same_documents(
    command: str, call: Call, shell: Shell
) -> None:
    with open_database(shell.env["SEATCTL_URI"]) as database:
        insert_overdue(database, 3, available=90)
        database.bookings.insert_many([{"status": "odd"}] * 1)
        database.jobLogs.insert_one({"jobType": "RECOVERY"})
        database.operations.insert_one({"at": datetime(2027, 1, 1, tzinfo=UTC), "command": "pay"})
    shown = call(f"{command} --json").json
    documents = shown["findings"] if command == "verify" else shown
    assert documents

    lines = call(f"{command} --format ndjson").stdout.splitlines()
    assert [json.loads(line) for line in lines] == documents
    rows = list(csv.DictReader(io.StringIO(call(f"{command} --format csv").stdout, newline="")))
    assert len(rows) == len(documents)
    assert tuple(rows[0]) == tables.columns_of(LISTS[command])
    if command not in ("verify", "history"):
        ids = [document["_id"] for document in documents]
        assert [row["_id"] for row in rows] == ids
        assert call(f"{command} --format ids").stdout.split() == call(f"{command} -q").stdout.split() == ids
    assert call(f"{command} --format json").stdout == call(f"{command} --json").stdout
    assert call(f"{command} --format table").stdout == call(command).stdout


def test_the_ids_of_verify_are_those_of_the_documents_that_are_wrong(call: Call, shell: Shell) -> None:
    with open_database(shell.env["SEATCTL_URI"]) as database:
        event = insert_overdue(database, 3, available=90)
        lock = database.seatLocks.insert_one({"eventId": ObjectId(event), "status": "odd"}).inserted_id
    result = call("verify --format ids")
    assert (result.code, set(result.stdout.split())) == (5, {str(lock)})
    assert call("verify -q").stdout == ""


@pytest.mark.parametrize("command", LISTS)
def test_an_unknown_column_is_a_usage_error_that_names_the_known_ones(command: str, call: Call) -> None:
    result = call(f"{command} --columns nonsense")
    assert (result.code, result.stdout) == (2, "")
    assert all(column in one_line(result) for column in ("nonsense", *tables.columns_of(LISTS[command])))
    assert call(f"{command} --columns ,").code == 2
    assert call(f"{command} --format xml").code == 2


@pytest.mark.parametrize("command", LISTS)
def test_all_known_columns_can_be_asked_for(command: str, call: Call) -> None:
    columns = tables.columns_of(LISTS[command])
    result = call(f"{command} --format csv --columns {','.join(columns)}")
    assert (result.code, result.stdout) == (0, ",".join(columns) + "\r\n")


@pytest.mark.parametrize(
    "line",
    [
        "events --json --format csv",
        "events -q --format json",
        "events --format ids --columns name",
        "events --since today --until yesterday",
        "events --since soon",
        "events --since +1h",
        "locks --overdue --status expired",
        "bookings --overdue --status confirmed",
        "jobs --summary --format csv",
        "jobs --summary --columns host",
        "jobs --summary --until today",
        "jobs --type nonsense",
    ],
)
def test_options_that_contradict_each_other_or_say_nothing_are_usage_errors(line: str, call: Call) -> None:
    result = call(line)
    assert (result.code, result.stdout) == (2, ""), result


def test_an_error_is_json_for_whoever_asked_for_json(call: Call) -> None:
    for form in ("--json", "--format json", "--format=ndjson"):
        assert call(f"locks --event {'a' * 24} {form}").error["code"] == "not_found"
    assert one_line(call(f"locks --event {'a' * 24} --format csv"))


def test_a_name_of_any_letters_is_one_harmless_cell(call: Call, gala: EventId) -> None:
    [row] = csv.DictReader(io.StringIO(call("events --format csv").stdout, newline=""))
    assert (row["_id"], row["name"], row["locked"]) == (str(gala), 'Gala "=1+1", late\nnight', "1")


def test_a_user_is_found_with_space_around_as_lock_takes_one(call: Call, gala: EventId, shell: Shell) -> None:
    assert gala
    assert len(shell.ok("locks", "--user", " ada ", "-q").stdout.split()) == 1
    assert call("locks --user bob").stdout == ""


def test_jobs_are_known_by_their_commands(call: Call) -> None:
    for command in ("expire-locks", "expire-bookings", "recover"):
        call(f"{command} -q")
    for command, job in (
        ("recover", "RECOVERY"),
        ("EXPIRE-LOCKS", "LOCK_EXPIRY"),
        ("lock_expiry", "LOCK_EXPIRY"),
    ):
        assert [run["jobType"] for run in call(f"jobs --type {command} --json").json] == [job]
    [row] = call("jobs --summary --type recover --json").json
    assert row["runs"] == 1


def test_a_table_of_jobs_folds_what_did_nothing_and_its_limit_counts_lines(call: Call, shell: Shell) -> None:
    details = {"recordsProcessed": 0, "seatsRestored": 0}
    run = {"jobType": "LOCK_EXPIRY", "status": "SUCCESS", "details": details}
    with open_database(shell.env["SEATCTL_URI"]) as database:
        for minute in range(6):
            started = datetime(2027, 1, 1, 10, minute, tzinfo=UTC)
            busy = {"details": {**details, "recordsProcessed": 1}} if minute == 3 else {}
            database.jobLogs.insert_one({**run, **busy, "executedAt": started})
    shown = call("jobs")
    assert "2 runs with nothing to do, 10:04–10:05" in shown.stdout  # noqa: RUF001
    assert "3 runs with nothing to do, 10:00–10:02" in shown.stdout  # noqa: RUF001
    assert shown.stdout.count("LOCK_EXPIRY") == 1
    assert one_line(call("jobs --limit 2")) == "2 rows shown; --limit 0 shows all"
    assert call("jobs --all").stdout.count("LOCK_EXPIRY") == 6
    assert call("jobs --columns jobType").stdout.count("LOCK_EXPIRY") == 6
    assert len(call("jobs --json").json) == len(call("jobs -q").stdout.split()) == 6


def test_only_what_was_made_in_a_time_is_listed(call: Call, gala: EventId) -> None:
    assert call("events --since 1h -q").stdout.split() == [str(gala)]
    assert call("events --until 1h").stderr.startswith("seatctl: nothing to show in database ")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    assert call(f"locks --since yesterday --until {tomorrow} -q").stdout.count("\n") == 1


@pytest.mark.parametrize("form", ["table", "json", "ndjson", "csv", "ids"])
def test_a_list_ends_when_its_reader_has_left(form: str, shell: Shell) -> None:
    """It does not read the other 20,000 events, nor add up their locks. JSON is one line."""
    head = "head -c 1" if form == "json" else "head -1"
    with open_database(shell.env["SEATCTL_URI"]) as database:
        database.events.insert_many([{"name": "x", "totalSeats": 1} for _ in range(20_000)])
    store = open_store(shell.env["SEATCTL_URI"])
    with examined(store, "events") as documents:
        ended = shell.pipeline(f"set -o pipefail; seatctl events --limit 0 --format {form} | {head}")
        assert (ended.code, ended.stderr) == (0, "")
        assert documents() <= 11_000
    store.deployment.close()
