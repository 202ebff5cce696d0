"""The scenarios of the specification as separate commands in a shell, and as `demo`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stories import database_of, insert_overdue, new_shell
from terminal import Shell

from seatctl.domain.states import JobType

if TYPE_CHECKING:
    from servers import Server

IN_11_MINUTES, IN_16_MINUTES = ("--as-of", "+11m", "--force"), ("--as-of", "+16m", "--force")


@pytest.fixture(params=["replica", "embedded"])
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """The program with a replica set or nothing at all configured."""
    home = Shell({"HOME": str(tmp_path)})
    if request.param == "embedded":
        yield home
        home.ok("db", "stop")
        return
    uri: str = request.getfixturevalue("database_uri")
    yield home.with_env(SEATCTL_URI=uri)


def available(shell: Shell, event: str) -> int:
    return shell.ok("show", event, "--json").json["availableSeats"]


def test_the_three_scenarios_and_the_health_check_read_like_this_from_a_shell(any_shell: Shell) -> None:
    """The three scenarios and the health check give the same numbers wherever the data is."""
    shell = any_shell
    event = shell.new_id("create-event", "Lock expiry", "--seats", "100", "--date", "2027-05-01T19:30Z")
    for buyer in range(5):
        shell.ok("lock", event, "--user", f"buyer {buyer}", "--seats", "1")
    assert available(shell, event) == 95
    assert "5 locks expired, 5 seats returned" in shell.ok("expire-locks", *IN_11_MINUTES).stdout
    assert available(shell, event) == 100

    event = shell.new_id("create-event", "Booking expiry", "--seats", "100", "--date", "+30d")
    for buyer in range(3):
        shell.ok("confirm", shell.new_id("lock", event, "--user", f"buyer {buyer}", "--seats", "1"))
    assert available(shell, event) == 97
    assert len(shell.ok("bookings", "--status", "payment_pending", "--json").json) == 3
    entry = shell.ok("expire-bookings", *IN_16_MINUTES, "--json").json
    assert tuple(entry["details"][name] for name in ("bookingsExpired", "locksExpired", "seatsRestored")) == (
        3,
        3,
        3,
    )
    assert available(shell, event) == 100

    with database_of(shell) as database:
        reduced = insert_overdue(database, 7, available=93)
        untouched = insert_overdue(database, 7, available=100)
        entry = shell.ok("recover", "--json").json
        assert entry["details"]["locksExpired"] == 14
        assert 100 == available(shell, reduced) == available(shell, untouched)

        runs = {run["jobType"]: run for run in database.jobLogs.find()}
        assert set(JobType) == set(runs)
        assert {"SUCCESS"} == {run["status"] for run in runs.values()}
        assert database.jobLogs.count_documents({}) == 3
        assert database.seatLocks.count_documents({"status": "EXPIRED", "oldStatus": "ACTIVE"}) == 22
        assert database.bookings.count_documents({"status": "EXPIRED"}) == 3
    health = shell.ok("health", "--json").json
    assert health["healthy"]
    assert {job: facts["runs"] for job, facts in health["jobs"].items()} == {
        "LOCK_EXPIRY": 1,
        "BOOKING_EXPIRY": 1,
        "RECOVERY": 1,
    }
    assert health["inventory"]["inconsistentEvents"] == []
    assert tuple(health["inventory"][name] for name in ("totalSeats", "availableSeats")) == (400, 400)
    shell.ok("verify")


def test_demo_plays_the_scenarios_and_leaves_nothing_behind(
    replica: Server, database_uri: str, tmp_path: Path
) -> None:
    """`demo` shows the scenarios with their numbers, and does not touch the database that is configured."""
    shell = new_shell(database_uri, tmp_path)
    told = shell.ok("demo", "--uri", replica.uri).stdout
    for numbers in ("100 → 95 → 100", "100 → 97 → 100", "93 → 100", "100 → 100, never 107", "\nhealthy\n"):
        assert numbers in told
    assert "WRONG" not in told
    assert "db stop" not in told, "a server that is not ours"
    played = shell.ok("demo", "--uri", replica.uri, "--json").json
    assert played["ok"]
    assert len(played["scenarios"]) == 5
    with database_of(shell) as database:
        assert database.list_collection_names() == ["events"]
        assert database.events.count_documents({}) == 0
        assert not [name for name in database.client.list_database_names() if "seatctl_demo" in name]
