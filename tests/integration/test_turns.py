"""The queue among the commands of one host. It saves work; that nothing rests on it is for the races."""

import os
import signal
import sys
import tempfile
from datetime import timedelta
from subprocess import DEVNULL, PIPE, Popen

import pytest
from conftest import open_store
from pymongo import monitoring

from seatctl.mongo import turns
from seatctl.services import sales as booking

DAYS = timedelta(days=30)
HOLD = "from seatctl.mongo import turns\nwith turns.turn('one'): print('held', flush=True); input()"


@pytest.fixture
def holder():
    """A process that has the turn for "one" until its input ends."""
    with Popen([sys.executable, "-c", HOLD], stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def free(key):
    """Whether the turn can be had at once."""
    slot = turns._open(key)
    try:
        return turns._take_at_once(slot)
    finally:
        os.close(slot)


def test_one_at_a_time(holder):
    """Who has the turn for an event keeps others of this host waiting until it is done."""
    assert not free("one")
    holder.stdin.close()
    with turns.turn("one"):
        holder.wait()
        assert not free("one")
    assert free("one")


def test_a_killed_holder(holder):
    """The turn of a process that was killed passes on."""
    holder.kill()
    holder.wait()

    assert free("one")


def test_a_stopped_holder(holder, monkeypatch):
    """A holder that does not move holds nobody up for ever."""
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    holder.send_signal(signal.SIGSTOP)

    with turns.turn("one"):
        assert not free("one")


def no_directory():
    raise FileNotFoundError("No usable temporary directory found")


@pytest.mark.parametrize("temporary", [lambda: __file__, no_directory])
def test_no_place_for_a_queue(monkeypatch, temporary):
    """Where the queue cannot be had, everybody goes on without it."""
    monkeypatch.setattr(tempfile, "gettempdir", temporary)

    with turns.turn("one"):
        pass


def test_no_event_no_turn():
    """What writes no single event waits for nobody."""
    with turns.turn(None), turns.turn(None):
        pass


class Commits(monitoring.CommandListener):
    def __init__(self):
        self.concerns = []

    def started(self, event):
        if event.command_name == "commitTransaction":
            self.concerns.append(event.command.get("writeConcern", {}).get("w"))

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


def test_acknowledged_by_a_majority(database_uri):
    """The commit within the turn is quick; before anybody is told, a majority has it."""
    commits = Commits()
    monitoring.register(commits)
    try:
        store = open_store(database_uri)
        event = booking.create_event(store, "Concert", 5, DAYS).document["_id"]
        booking.lock(store, event, "buyer", 1)
    finally:
        monitoring._LISTENERS.command_listeners.remove(commits)

    assert commits.concerns == [1, "majority"]
