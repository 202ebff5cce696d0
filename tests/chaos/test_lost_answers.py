"""Answers that are lost: the server has done the work, and nobody is told.

A proxy loses the answer to a command that was carried out, which no fail point does; and a commit whose
outcome nobody can tell is exit 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import scene
from crash import settle
from faults import (
    COMMANDS,
    DATABASE,
    JOBS,
    VICTIM,
    Bench,
    Command,
    fail_point,
    insist,
    look_again_at_once,
    roll_back_what_is_open,
    server_with_fail_points,
    start_with_an_event,
    state_of,
)
from oracle import violations
from proxy import Proxy
from terminal import here

from seatctl.errors import OutcomeUnknown
from seatctl.mongo import transactions
from seatctl.services import expiry

if TYPE_CHECKING:
    from conftest import Clock
    from servers import Server

    from seatctl.mongo.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faulty_server() -> Iterator[Server]:
    with server_with_fail_points() as server:
        yield server


@pytest.fixture
def bench(faulty_server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    look_again_at_once(monkeypatch)
    with closing(Bench(faulty_server, clock)) as bench:
        yield bench


@pytest.fixture
def proxy(bench: Bench) -> Iterator[Proxy]:
    proxy = Proxy(bench.server)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_answer_from_the_server_is_lost_is_done_once(
    bench: Bench, proxy: Proxy, name: str
) -> None:
    """Whichever write was carried out and its answer lost, nobody notices: the driver or the transaction
    asks again, and the work is done once."""
    ours, victim = bench.store(), bench.store(proxy.uri)
    it = COMMANDS[name]
    lost = []
    writes = {"findAndModify", "insert", "update", "commitTransaction"} & set(it.sends)
    for command in sorted(writes):
        number = 0
        while lose_answer(ours, victim, proxy, it, command, number):
            lost.append((command, number))
            number += 1
    print(f"answers lost: {lost}")
    assert {command for command, _ in lost} == writes


def lose_answer(ours: Store, victim: Store, proxy: Proxy, it: Command, command: str, number: int) -> bool:
    """Lose that answer in an emptied database; False when the command never sent that many."""
    event = start_with_an_event(ours)
    subject = it.prepare(ours, event)
    proxy.at(command, number)
    it.act(victim, subject)
    proxy.target = None
    assert state_of(ours, event) == it.leaves, (command, number)
    assert violations(ours.database) == []
    return proxy.met.is_set()


# --- a commit whose outcome nobody can tell --------------------------------------------------------

APPLIED = {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}}
UNANSWERED = {"closeConnection": True}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", [APPLIED, UNANSWERED], ids=["applied", "not applied"])
def test_a_commit_of_unknown_outcome_is_told_and_the_command_is_done_once_when_it_is_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, fault: dict[str, Any]
) -> None:
    ours, victim = bench.store(), bench.victim()
    it = COMMANDS[name]
    event = start_with_an_event(ours)
    subject = it.prepare(ours, event)
    before = state_of(ours, event)
    with monkeypatch.context() as impatient, fail_point(ours, ["commitTransaction"], fault, None):
        impatient.setattr(transactions, "PATIENCE", 0)
        impatient.setattr(expiry, "BATCH_PATIENCE", 0)
        with pytest.raises(OutcomeUnknown):
            it.act(victim, subject)
    roll_back_what_is_open(ours)
    settle(ours.database)
    assert state_of(ours, event) == (it.leaves if fault is APPLIED else before)
    runs = list(ours.database.jobLogs.find())
    assert [run["status"] for run in runs] == (["FAILED"] if name in JOBS else [])
    if name == "release" and fault is APPLIED:
        return  # a lock is released once, and whoever repeats it is told
    assert insist(it.act, victim, subject) == []
    assert state_of(ours, event) == it.leaves
    assert violations(ours.database) == []


def test_an_unknown_outcome_is_exit_10_and_the_same_key_gets_the_lock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = bench.store()
    event = start_with_an_event(ours)
    uri = bench.server.uri.replace("/?", f"/{DATABASE}?") + f"&appName={VICTIM}"
    monkeypatch.setenv("SEATCTL_URI", uri)
    command = ("lock", str(event), "--user", "ada", "--seats", "2", "--key", "k", "--json")
    with monkeypatch.context() as impatient, fail_point(ours, ["commitTransaction"], APPLIED, None):
        impatient.setattr(transactions, "PATIENCE", 0)
        told = here(capsys, *command)
    assert told.code == 10
    assert told.error["code"] == "outcome_unknown"
    assert told.error["exitCode"] == 10
    assert "repeat the command" in told.error["message"]
    again = here(capsys, *command)
    assert again.code == 0
    assert [str(lock["_id"]) for lock in ours.database.seatLocks.find()] == [again.json["_id"]]
    assert scene.event_of(ours, event)["availableSeats"] == 8


def test_a_sweep_that_ends_with_an_unknown_outcome_is_exit_10_and_its_next_run_does_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three batches on three events, the first commit stays without an answer that anybody can use."""
    ours = bench.store()
    start_with_an_event(ours)
    events = [scene.create(ours, 10) for _ in range(3)]
    for event in events:
        scene.insert_lock(ours, event, 2)
        scene.add(ours, event, -2)
    uri = bench.server.uri.replace("/?", f"/{DATABASE}?") + f"&appName={VICTIM}"
    monkeypatch.setenv("SEATCTL_URI", uri)
    sweep = ("expire-locks", "--as-of", "2027-01-02", "--force", "--batch-size", "1", "--json")
    with monkeypatch.context() as impatient, fail_point(ours, ["commitTransaction"], APPLIED):
        impatient.setattr(transactions, "PATIENCE", 0)
        impatient.setattr(expiry, "BATCH_PATIENCE", 0)
        told = here(capsys, *sweep)
    assert told.code == 10
    assert told.error["code"] == "outcome_unknown"
    (run,) = ours.database.jobLogs.find()
    assert run["status"] == "FAILED"
    assert "repeat the command" in run["error"]
    assert here(capsys, *sweep).code == 0
    assert [scene.event_of(ours, event)["availableSeats"] for event in events] == [10, 10, 10]
    assert violations(ours.database) == []
