"""The queue among the commands of one host. It saves work; that nothing rests on it is for the races."""

import multiprocessing
import os
import signal
import tempfile
from datetime import timedelta

import pytest
from conftest import open_store
from pymongo import monitoring

from seatctl import booking, turns

spawn = multiprocessing.get_context("spawn")
DAYS = timedelta(days=30)


def hold(key, held, done):
    with turns.turn(key):
        held.set()
        done.wait(60)


@pytest.fixture
def holder():
    """A process that has the turn for "one", and the event that makes it give it up."""
    held, done = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=("one", held, done))
    process.start()
    assert held.wait(60)
    yield process, done
    done.set()
    process.kill()
    process.join()


def free(key):
    """Whether the turn can be had at once."""
    slot = turns._open(key)
    try:
        return turns._take_at_once(slot)
    finally:
        os.close(slot)


def test_one_at_a_time(holder):
    """Who has the turn for an event keeps others of this host waiting until it is done."""
    process, done = holder

    assert not free("one")
    done.set()
    with turns.turn("one"):
        process.join()
        assert not free("one")
    assert free("one")


def test_a_killed_holder(holder):
    """The turn of a process that was killed passes on."""
    process, _ = holder
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    assert free("one")


def test_a_stopped_holder(holder, monkeypatch):
    """A holder that does not move holds nobody up for ever."""
    process, _ = holder
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    os.kill(process.pid, signal.SIGSTOP)

    with turns.turn("one"):
        assert not free("one")
    os.kill(process.pid, signal.SIGCONT)


def test_no_place_for_a_queue(monkeypatch, tmp_path):
    """Where the queue cannot be had, everybody goes on without it."""
    nowhere = tmp_path / "file"
    nowhere.touch()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(nowhere))

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
