"""What commands answer where a person could read more, or less, into it than was done."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from conftest import open_store
from stories import new_event, new_lock, new_shell

if TYPE_CHECKING:
    from pathlib import Path

    from terminal import Shell

    from seatctl.mongo.store import Store

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    return new_shell(database_uri, tmp_path)


@pytest.fixture
def store(shell: Shell) -> Store:
    return open_store(shell.env["SEATCTL_URI"])


def test_an_extension_that_gives_less_than_there_is_says_what_to_type(shell: Shell, store: Store) -> None:
    event = new_event(store, "Gala", 9)
    lock = shell.new_id("lock", str(event), "--user", "ada", "--seats", "2", "--ttl", "25m")
    said = shell.ok("extend", lock, "--for", "10m").stdout

    found = re.fullmatch(
        rf"Lock {lock} has 24m\d+s left, until ({TIME}), which is later; nothing changed\. --for counts from "
        rf"now; for 10m more: `seatctl (extend {lock} --until ({TIME}))`\.\n",
        said,
    )
    assert found, said
    before, command, after = found.groups()
    assert datetime.fromisoformat(after) - datetime.fromisoformat(before) == timedelta(minutes=10)
    assert f"expires at {after}" in shell.ok(*command.split()).stdout
    assert "which is later; nothing changed.\n" in shell.ok("extend", lock, "--until", "+5m").stdout


def test_so_does_an_extension_of_all_of_an_event(shell: Shell, store: Store) -> None:
    event = new_event(store, "Gala", 9)
    new_lock(store, event, "ada")
    all_of = ("extend", "--event", str(event), "--status", "active")
    shell.ok(*all_of, "--for", "2h")
    said = shell.ok(*all_of, "--for", "1h").stdout

    assert re.search(r"Extended 0 locks to .*\. Later deadlines, up to .*, are unchanged\.", said)
    command = said.rpartition("`seatctl ")[2].removesuffix("`.\n")
    assert "Extended 1 lock to " in shell.ok(*command.split()).stdout


def test_a_plan_names_no_id_that_will_not_exist(shell: Shell, store: Store) -> None:
    event = new_event(store, "Gala", 9)
    booking = shell.new_id("confirm", str(new_lock(store, event, "ada").id))
    shell.ok("pay", booking, "--failed")
    refused = shell("pay", booking)
    refund = re.search("a refund is due: ([0-9a-f]{24})", refused.stderr)
    assert refund
    plan = shell.ok("rebook", booking, "--dry-run").stdout

    assert re.findall("[0-9a-f]{24}", plan) == [booking, refund[1]]
    assert f"refund {refund[1]} would be withdrawn" in plan
    for line in (
        f"rebook {booking}",
        f"block {event} --seats 2",
        "expire-locks",
        "expire-bookings",
        "recover",
    ):
        assert "_id" not in shell.ok(*line.split(), "--dry-run", "--json").json


def test_the_headings_of_a_table_are_names_of_its_columns(shell: Shell, store: Store) -> None:
    new_event(store, "Gala", 9)
    rows = shell.ok("events", "--columns", "Name, date,available", "--json").json
    assert list(rows[0]) == ["name", "eventDate", "availableSeats"]
    rows = shell.ok("jobs", "--columns", "seats returned,status", "--format", "csv").stdout
    assert rows == "details.seatsRestored,status\r\n"
    refused = shell("events", "--columns", "filled")
    assert (refused.code, "there is no column 'filled'" in refused.stderr) == (2, True)


def test_changes_of_no_event_are_not_waited_for(shell: Shell, store: Store) -> None:
    lock = new_lock(store, new_event(store, "Gala", 9), "ada").id
    refused = shell("follow", "--event", str(lock))
    assert (refused.code, refused.stdout) == (4, "")
    assert f"there is no event {lock}; that is the id of a lock" in refused.stderr


def test_an_event_that_is_moved_into_the_past_is_warned_of(shell: Shell, store: Store) -> None:
    event = new_event(store, "Gala", 9)
    moved = shell.ok("edit-event", str(event), "--date", "2020-01-01")
    assert moved.stderr == "seatctl: warning: the date of this event is past: 2020-01-01T00:00:00Z\n"
    assert "`seatctl resize` changes the number" in shell("edit-event", str(event), "--seats", "5").stderr


def test_a_guide_has_no_background_of_its_own(shell: Shell) -> None:
    """It would be a black box on a light terminal."""
    shown = shell.with_env(TERM="xterm").tty("help", "scripting").stdout
    assert "\x1b[1;36m" in shown
    assert not re.search(r"\x1b\[(?:[\d;]*;)?4\d[;m]", shown)
