"""What the host does to a command: a wrong clock, and little of what it needs. The exit code is true, and
there is one line at most."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import scene
from bson import ObjectId
from conftest import open_store
from proxy import Proxy
from stories import new_event, new_lock, new_shell, one_line
from terminal import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

SHIFTED = """
import sys, time
right, shift = time.time, float(sys.argv.pop(1))
time.time = lambda: right() + shift
from seatctl.cli.app import main
main()
"""
"""The program on a host whose clock is wrong by so many seconds."""
SOON = """
from seatctl.mongo import transactions
transactions.TIME_LIMIT, transactions.PATIENCE, transactions.STATEMENTS = 1.5, 1.0, 1.0
transactions.SLOW_ATTEMPT = 0.2
from seatctl.cli.app import main
main()
"""
"""The program with a second for the statements of a transaction."""
SCARCE = """
import sys, threading
start, left = threading.Thread.start, int(sys.argv.pop(1))
def scarce(thread):
    global left
    left -= 1
    if left < 0:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = scarce
from seatctl.cli.app import main
main()
"""
"""The program on a host that lets it start so many threads, as `ulimit -u` does for any user but root."""


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    return new_shell(database_uri, tmp_path)


# --- the clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [timedelta(hours=1), timedelta(hours=-1), timedelta(days=-20_000)])
def test_the_clock_of_the_host_decides_nothing(shell: Shell, shift: timedelta) -> None:
    """Neither what is overdue, nor a deadline, nor the time that an id carries."""
    store = open_store(shell.env["SEATCTL_URI"])
    event = new_event(store, "Gala", 9)
    overdue, open_one = (
        scene.insert_lock(store, event, due=due) for due in (-timedelta(minutes=1), timedelta(minutes=1))
    )
    scene.add(store, event, -2)
    wrong = Shell(shell.env, (sys.executable, "-c", SHIFTED, str(shift.total_seconds())))
    began = store.now()
    made = wrong.new_id("lock", str(event), "--user", "ada", "--seats", "1", "--ttl", "10m")
    lock = scene.lock_of(store, ObjectId(made))
    for job in ("expire-locks", "expire-bookings", "recover", "verify"):
        wrong.ok(job)
    ended = store.now()

    assert began <= lock["expiresAt"] - timedelta(minutes=10) <= ended
    assert began - timedelta(seconds=1) <= lock["_id"].generation_time <= ended
    assert [scene.lock_of(store, each)["status"] for each in (overdue, open_one)] == ["EXPIRED", "ACTIVE"]
    assert all(began <= run["executedAt"] <= ended for run in store.database.jobLogs.find())
    store.deployment.close()


# --- the network -------------------------------------------------------------------------------------


@pytest.fixture
def proxy(replica: Server) -> Iterator[Proxy]:
    proxy = Proxy(replica)
    yield proxy
    proxy.close()


def behind(proxy: Proxy, shell: Shell, *program: str) -> Shell:
    database = shell.env["SEATCTL_URI"].partition("?")[0].rpartition("/")[2]
    through = shell.with_env(SEATCTL_URI=proxy.uri.replace("/?", f"/{database}?"))
    return Shell(through.env, program or through.program)


def test_a_command_is_done_although_each_answer_takes_long(shell: Shell, proxy: Proxy) -> None:
    event = new_event(open_store(shell.env["SEATCTL_URI"]), "Gala", 9)
    proxy.delay = 0.05
    lock = ("lock", str(event), "--user", "ada", "--seats", "1", "--key", "k")
    assert behind(proxy, shell).new_id(*lock) == shell.new_id(*lock)


def test_a_command_that_a_slow_network_ends_says_how_slow_it_is(shell: Shell, proxy: Proxy) -> None:
    """And not that the server was slow, or has no room."""
    store = open_store(shell.env["SEATCTL_URI"])
    lock = new_lock(store, new_event(store, "Gala", 9), "ada").id
    proxy.delay = 0.15
    ended = behind(proxy, shell, sys.executable, "-c", SOON)("release", str(lock))
    assert ended.code == 10
    assert re.search(r" is too far away: each answer takes 0\.\d s; check the network", one_line(ended))
    assert scene.lock_of(store, lock)["status"] == "ACTIVE"


# --- limits ------------------------------------------------------------------------------------------


def with_threads(shell: Shell, number: int) -> Shell:
    return Shell(shell.env, (sys.executable, "-c", SCARCE, str(number)))


def test_without_a_thread_a_command_does_nothing_and_says_what_is_missing(shell: Shell) -> None:
    store = open_store(shell.env["SEATCTL_URI"])
    event = new_event(store, "Gala", 9)
    refused = with_threads(shell, 0)("lock", str(event), "--user", "ada", "--seats", "1")
    assert refused.code == 1
    assert "too few threads" in one_line(refused)
    assert scene.event_of(store, event)["availableSeats"] == 9


def test_with_few_threads_a_lock_is_made_and_nothing_else_is_said(shell: Shell) -> None:
    """The driver has none then to measure how far away the server is."""
    store = open_store(shell.env["SEATCTL_URI"])
    event = new_event(store, "Gala", 9)
    done = with_threads(shell, 2)("lock", str(event), "--user", "ada", "--seats", "1", "-q")
    assert (done.code, done.stderr) == (0, "")
    assert scene.event_of(store, event)["availableSeats"] == 8


def test_a_sweep_without_threads_for_its_batches_says_so_and_the_next_run_does_the_rest(shell: Shell) -> None:
    store = open_store(shell.env["SEATCTL_URI"])
    events = [new_event(store, f"Event {number}", 9) for number in range(4)]
    for event in events:
        scene.insert_lock(store, event)
        scene.add(store, event, -1)
    refused = with_threads(shell, 3)("expire-locks", "--batch-size", "1")
    assert refused.code == 1
    assert "too few threads" in one_line(refused)
    shell.ok("expire-locks")
    assert [scene.event_of(store, event)["availableSeats"] for event in events] == [9, 9, 9, 9]
