"""A host that gives a command little: the code is true, and there is one line at most."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import scene
from conftest import open_store
from stories import new_event, new_shell, one_line
from terminal import Shell

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
