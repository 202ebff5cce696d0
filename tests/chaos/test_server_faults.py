"""Faults of the server and on the way to it: every command and job still does its work once.

A command that fails is sent again, as its exit code says.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import scene
from conftest import EPOCH, Clock
from faults import (
    COMMANDS,
    DATABASE,
    JOBS,
    VICTIM,
    Bench,
    fail_point,
    insist,
    look_again_at_once,
    operations,
    server_with_fail_points,
    start_with_an_event,
    state_of,
)
from oracle import violations
from pymongo import monitoring
from race import complaints, expire_locks
from scene import run_expire_bookings
from terminal import Shell, here

from seatctl.errors import CursorLost
from seatctl.mongo import collection
from seatctl.services import expiry, jobs
from seatctl.services.expiry import run_sweep
from seatctl.services.jobs import JobOptions
from seatctl.services.seats import seats_of
from seatctl.services.sweeps import LockSweep, SweepClearance, SweepRun
from seatctl.services.verify import verify

if TYPE_CHECKING:
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


SOCKET_TIMEOUT_MS = 150
HOUR = timedelta(hours=1)

FAULTS: dict[str, dict[str, Any]] = {
    "write conflict": {"errorCode": 112, "errorLabels": ["TransientTransactionError"]},
    "not the primary": {"errorCode": 10107},
    "connection closed": {"closeConnection": True},
    "answer too late": {"blockConnection": True, "blockTimeMS": 2 * SOCKET_TIMEOUT_MS},
    "snapshot gone": {"errorCode": 246},
    "applied, write concern unsure": {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}},
}


def possible(name: str, command: str, fault: str) -> bool:
    """Whether a server can answer so: conflicts and commit doubts belong to transactions, and snapshots to
    them and to clearance and `verify`, which alone aggregate."""
    if fault == "applied, write concern unsure":
        return command == "commitTransaction"
    if fault == "snapshot gone":
        return command == "aggregate"
    if fault == "write conflict":
        log_entry = name in JOBS and command == "insert"
        return command in ("findAndModify", "update", "insert", "commitTransaction") and not log_entry
    return True


CASES = [
    pytest.param(name, command, fault, id=f"{name}, {command}: {fault}")
    for name, it in COMMANDS.items()
    for command in it.sends
    for fault in FAULTS
    if possible(name, command, fault)
]


class Sent(monitoring.CommandListener):
    """What is sent meanwhile."""

    def __init__(self) -> None:
        self.commands: list[Any] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append(event.command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def names(self) -> set[str]:
        return {next(iter(command)) for command in self.commands}


@contextmanager
def what_is_sent() -> Iterator[Sent]:
    """By clients that are made within."""
    sent = Sent()
    monitoring.register(sent)
    try:
        yield sent
    finally:
        monitoring._LISTENERS.command_listeners.remove(sent)


def victim_of(bench: Bench, fault: str) -> Store:
    """Only where an answer has to come too late may a slow machine be told from a fault."""
    return bench.victim(f"&socketTimeoutMS={SOCKET_TIMEOUT_MS}" if fault == "answer too late" else "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_names_every_command_that_is_sent(bench: Bench, name: str) -> None:
    ours = bench.store()
    it = COMMANDS[name]
    subject = it.prepare(ours, start_with_an_event(ours))
    with what_is_sent() as sent:
        victim = bench.victim()
        sent.commands.clear()
        it.act(victim, subject)
    assert sent.names() - {"hello", "ping"} == set(it.sends)


# --- fail points -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "command", "fault"), CASES)
def test_one_fault_is_not_noticed_and_the_work_is_done_once(
    bench: Bench, name: str, command: str, fault: str
) -> None:
    """The driver or the transaction tries again, but for a collection, which is created once in a database's
    life: then the command asks for another try."""
    ours, victim = bench.store(), victim_of(bench, fault)
    it = COMMANDS[name]
    event = start_with_an_event(ours)
    subject = it.prepare(ours, event)
    with fail_point(ours, [command], FAULTS[fault]):
        errors = insist(it.act, victim, subject)
    # A slow machine may answer too late more often than we asked for.
    assert errors == [] or fault == "answer too late" or (command == "create" and len(errors) == 1)
    assert state_of(ours, event) == it.leaves
    assert violations(ours.database) == []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "fault", ["not the primary", "connection closed", "answer too late", "applied, write concern unsure"]
)
def test_fault_after_fault_ends_in_the_work_done_once(bench: Bench, name: str, fault: str) -> None:
    """Three in a row are more than the driver tries again; whatever is reported asks for another try."""
    ours, victim = bench.store(), victim_of(bench, fault)
    it = COMMANDS[name]
    event = start_with_an_event(ours)
    subject = it.prepare(ours, event)
    sends = [command for command in it.sends if possible(name, command, fault)]
    with fail_point(ours, sends, FAULTS[fault], 3):
        insist(it.act, victim, subject)
    assert state_of(ours, event) == it.leaves
    assert violations(ours.database) == []


# --- cache pressure --------------------------------------------------------------------------------

TOO_LARGE_FOR_THE_CACHE = {"errorCode": 388}


def leave_overdue(store: Store, locks: int) -> Any:
    """An event with 10 seats, some of them in overdue locks of one seat each."""
    event = start_with_an_event(store)
    for _ in range(locks):
        scene.insert_lock(store, event)
    scene.add(store, event, -locks)
    return event


@pytest.mark.parametrize("complete", [False, True])
def test_a_guard_rules_out_a_second_booking_only_once_it_is_built(bench: Bench, complete: bool) -> None:
    """MongoDB lists an index while it builds it: until then two bookings may name one lock, and a live one
    keeps it."""
    ours = bench.store()
    event = start_with_an_event(ours)
    bookings, admin = ours.database.bookings, ours.deployment.client.admin
    lock = scene.insert_lock(ours, event)
    scene.add(ours, event, -1)
    scene.insert_booking(ours, event, lock, due=-HOUR)
    hang = {"configureFailPoint": "hangAfterStartingIndexBuild"}
    admin.command(hang, mode="off" if complete else "alwaysOn")
    with ThreadPoolExecutor() as pool:
        building = pool.submit(bookings.create_index, "seatLockId", unique=True)
        try:
            while "seatLockId_1" not in bookings.index_information():
                time.sleep(0.01)
            if not complete:
                scene.insert_booking(ours, event, lock, due=HOUR)
            run_expire_bookings(ours)
        finally:
            admin.command(hang, mode="off")
        assert (building.exception() is None) is complete
    assert state_of(ours, event)[1] == {"EXPIRED" if complete else "ACTIVE": 1}


@pytest.mark.parametrize(("times", "batches"), [(1, [4, 4]), (2, [2, 2, 4]), (3, [1, 1, 2, 4])])
def test_a_batch_that_the_cache_cannot_take_is_halved(bench: Bench, times: int, batches: list[int]) -> None:
    """Until it fits; each half is a transaction of its own, and none of it is an error."""
    ours = bench.store()
    event = leave_overdue(ours, 8)
    with what_is_sent() as sent, fail_point(ours, ["update"], TOO_LARGE_FOR_THE_CACHE, times):
        run = expire_locks(bench.victim())
    expired = [
        len(it["updates"][0]["q"]["_id"]["$in"]) for it in sent.commands if it.get("update") == "seatLocks"
    ]
    assert expired == batches
    assert complaints([run]) == []
    assert run["details"]["seatsRestored"] == 8
    assert state_of(ours, event) == (10, {"EXPIRED": 8}, {})
    assert violations(ours.database) == []


def test_a_single_item_that_the_cache_cannot_take_is_skipped_and_named(bench: Bench) -> None:
    ours, victim = bench.store(), bench.victim()
    event = leave_overdue(ours, 3)
    with fail_point(ours, ["update"], TOO_LARGE_FOR_THE_CACHE, None):
        run = expire_locks(victim)
    assert run["details"]["setAsideCount"] == 3
    assert {item["id"] for item in run["details"]["setAside"]} == set(ours.database.seatLocks.distinct("_id"))
    assert "its cache is full" in complaints([run])[0]
    assert state_of(ours, event) == (7, {"ACTIVE": 3}, {})
    assert complaints([expire_locks(victim)]) == []
    assert state_of(ours, event) == (10, {"EXPIRED": 3}, {})
    assert violations(ours.database) == []


@pytest.mark.parametrize("code", [112, 365])
def test_cache_pressure_that_passes_is_not_noticed(bench: Bench, code: int) -> None:
    """A transaction that was rolled back for want of cache starts over like one that lost to a writer."""
    ours, victim = bench.store(), bench.victim()
    event = leave_overdue(ours, 8)
    rolled_back = {"errorCode": code, "errorLabels": ["TransientTransactionError"]}
    with fail_point(ours, ["update"], rolled_back, 3):
        run = expire_locks(victim)
    assert complaints([run]) == []
    assert state_of(ours, event) == (10, {"EXPIRED": 8}, {})


# --- a full disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "at"),
    [
        ("create-event X --seats 5 --date +30d", "insert"),
        ("lock {event} --user u --seats 1", "findAndModify"),
        ("expire-locks --as-of 2027-01-02 --force", "update"),
        ("init", "createIndexes"),
    ],
)
def test_a_full_disk_is_named_where_the_server_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, at: str
) -> None:
    """One that has no space left for its journal says nothing any more."""
    ours = bench.store()
    event = leave_overdue(ours, 1)
    uri = bench.server.uri.replace("/?", f"/{DATABASE}?") + f"&appName={VICTIM}"
    monkeypatch.setenv("SEATCTL_URI", uri)
    with fail_point(ours, [at], {"errorCode": 14031}, None):
        told = here(capsys, *command.format(event=event).split(), "--json")
    assert (told.code, told.error["code"]) == (10, "unreachable")
    assert "is full; free space on the server" in told.error["message"]
    assert violations(ours.database) == []


# --- cursors that are lost -------------------------------------------------------------------------


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cursors that come back to the server for more in the middle of a sweep."""
    monkeypatch.setattr(collection, "CURSOR_BATCH", 3)


def test_a_sweep_whose_cursor_is_killed_after_each_batch_reads_its_list_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lock is expired once."""
    small_batches(monkeypatch)
    store = bench.store()
    event = leave_overdue(store, 10)
    returned = killed = 0
    run = SweepRun(LockSweep(), EPOCH, EPOCH, SweepClearance(store), batch_size=2)
    for batch in run_sweep(store, run):
        returned += seats_of(batch.returning).total()
        killed += kill_cursors(store)
    assert killed > 0
    assert returned == 10
    assert state_of(store, event) == (10, {"EXPIRED": 10}, {})
    assert violations(store.database) == []


def kill_cursors(store: Store) -> int:
    """Kill every idle cursor on the locks; returns how many."""
    idle = operations(
        store,
        {"idleCursors": True, "allUsers": True},
        {"type": "idleCursor", "ns": f"{store.name}.seatLocks"},
    )
    cursors = [operation["cursor"]["cursorId"] for operation in idle]
    if cursors:
        store.database.command("killCursors", "seatLocks", cursors=cursors)
    return len(cursors)


LOST_CURSORS = {"cursor not found": {"errorCode": 43}, "cursor killed": {"errorCode": 237}}


@pytest.mark.parametrize("fault", [*LOST_CURSORS, "connection closed", "not the primary"])
def test_a_sweep_that_cannot_read_on_reads_its_list_again_or_asks_for_another_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A lost cursor is nobody's business; a lost connection fails the run. Each lock is expired once."""
    small_batches(monkeypatch)
    ours, victim = bench.store(), bench.victim()
    event = leave_overdue(ours, 10)

    def run(store: Store, _event: Any) -> None:
        expire_locks(store, batch_size=2)

    with fail_point(ours, ["getMore"], {**FAULTS, **LOST_CURSORS}[fault], 2):
        errors = insist(run, victim, event)
    assert (errors == []) == (fault in LOST_CURSORS)
    runs = list(ours.database.jobLogs.find())
    assert sum(entry["details"]["seatsRestored"] for entry in runs) == 10
    assert len(complaints(runs)) == len(errors)
    assert state_of(ours, event) == (10, {"EXPIRED": 10}, {})
    assert violations(ours.database) == []


def test_a_sweep_whose_list_is_always_lost_gives_up_and_asks_for_another_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run, which has done nothing of what it read, would count it twice: it gives up at once."""
    small_batches(monkeypatch)
    ours, victim = bench.store(), bench.victim()
    leave_overdue(ours, 10)
    with fail_point(ours, ["getMore"], LOST_CURSORS["cursor not found"], 1), pytest.raises(CursorLost):
        jobs.expire_locks(victim, JobOptions(dry_run=True, batch_size=2))
    monkeypatch.setattr(expiry, "CURSOR_RETRIES", 2)
    with (
        fail_point(ours, ["getMore"], LOST_CURSORS["cursor not found"], 2),
        pytest.raises(CursorLost, match="kept dropping the list"),
    ):
        expire_locks(victim, batch_size=2)
    assert [run["status"] for run in ours.database.jobLogs.find()] == ["FAILED"]
    assert violations(ours.database) == []
    assert complaints([expire_locks(victim, batch_size=2)]) == []
    assert ours.database.seatLocks.count_documents({"status": "EXPIRED"}) == 10


@pytest.mark.parametrize(
    ("command", "code"),
    [("aggregate", 239), ("aggregate", 246), ("getMore", 43), ("getMore", 237), ("getMore", 246)],
)
def test_verify_reads_a_range_again_whose_snapshot_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    """It finds the same, each violation once."""
    small_batches(monkeypatch)
    ours, victim = bench.store(), bench.victim()
    event = leave_overdue(ours, 10)
    scene.add(ours, event, 2)
    for lock in ours.database.seatLocks.find().limit(5):
        scene.insert_booking(ours, event, lock["_id"], "FAILED")
    expected = sorted(violation.message for violation in verify(ours))
    assert len(expected) == 6
    with fail_point(ours, [command], {"errorCode": code}, 2):
        assert sorted(violation.message for violation in verify(victim)) == expected


# --- a server that hangs ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["find", "aggregate"])
def test_verify_leaves_a_server_that_hangs(
    bench: Bench, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM while `verify` waits for answers that do not come ends it: no thread of it waits
    on, though the server goes on holding them back."""
    ours = bench.store()
    start_with_an_event(ours)
    admin = ours.deployment.client.admin
    uri = bench.server.uri.replace("/?", f"/{DATABASE}?") + f"&appName={VICTIM}"
    held = {"failCommands": [command], "appName": VICTIM, "blockConnection": True, "blockTimeMS": 600_000}
    before = admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=held)["count"]
    try:
        with Shell({"HOME": str(tmp_path), "SEATCTL_URI": uri}).started("verify") as process:
            entered = {"timesEntered": before + 1, "maxTimeMS": 60_000}
            admin.command("waitForFailPoint", "failCommand", **entered)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
    finally:
        end_what_is_held(ours)
        admin.command("configureFailPoint", "failCommand", mode="off")
    assert 128 + number == process.returncode
    assert len(said.splitlines()) == 1
    assert said.startswith("seatctl: ")


def end_what_is_held(store: Store) -> None:
    """End the victim's commands on the server: a fail point that holds any cannot be switched off."""
    for operation in operations(store, {}, {"appName": VICTIM}):
        store.deployment.client.admin.command("killOp", op=operation["opid"])
