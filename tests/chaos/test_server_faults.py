"""Faults on the server and on the way to it: every command and job still does its work once.

MongoDB's own fail points refuse commands, close connections and hold answers back; a proxy loses
the answer to a command that was carried out, which no fail point does. A command that fails is
sent again, as its exit code says; on a server without transactions `recover` then mends the rest.
"""

from __future__ import annotations

import signal
import socket
import struct
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import pymongo.common
import pytest
from conftest import EPOCH, Clock
from pymongo import MongoClient
from race import complaints, expire_bookings, expire_locks, recover_once
from servers import Server
from terminal import Shell

from seatctl.domain.model import PAYMENT_TTL, Id
from seatctl.errors import SeatctlError, WrongState
from seatctl.mongo import store as store_module
from seatctl.mongo.client import Deployment, connect, explain
from seatctl.mongo.store import Store
from seatctl.services import sales as booking
from seatctl.services.audit import find_all
from seatctl.services.expiry import lock_sweep, sweep
from seatctl.services.seats import Terms

if TYPE_CHECKING:
    from pymongo.database import Database

pytestmark = pytest.mark.slow

DATABASE = "faults"
VICTIM = "victim"
"""The application name of the client that meets the fault; the test's own client never does."""
SOCKET_TIMEOUT_MS = 150
LOOK_AT_ONCE = "&serverMonitoringMode=poll"
"""With MIN_HEARTBEAT_INTERVAL below: after an error the driver looks at the server again at once,
not half a second later."""

Act = Callable[[Store, Id], Any]


@dataclass(frozen=True)
class Command:
    """A command or job: what comes before it, what it does, and what it leaves, on an event with
    10 seats; `sends` are its commands to a server with transactions."""

    prepare: Act
    act: Act
    leaves: tuple[int, dict[str, int], dict[str, int]]
    sends: tuple[str, ...]


def lock_two(store: Store, event: Id) -> Id:
    return booking.lock(store, event, "buyer", 2, key="key").document["_id"]


def book_two(store: Store, event: Id) -> Id:
    return booking.confirm(store, lock_two(store, event)).document["_id"]


COMMANDS = {
    "lock": Command(
        prepare=lambda _store, event: event,
        act=lock_two,
        leaves=(8, {"ACTIVE": 1}, {}),
        sends=("find", "createIndexes", "findAndModify", "insert", "commitTransaction"),
    ),
    "confirm": Command(
        prepare=lock_two,
        act=booking.confirm,
        leaves=(8, {"ACTIVE": 1}, {"PAYMENT_PENDING": 1}),
        sends=("createIndexes", "find", "update", "insert", "commitTransaction"),
    ),
    "pay": Command(
        prepare=book_two,
        act=booking.pay,
        leaves=(8, {"CONSUMED": 1}, {"CONFIRMED": 1}),
        sends=("find", "update", "commitTransaction"),
    ),
    "fail": Command(
        prepare=book_two,
        act=booking.fail,
        leaves=(10, {"EXPIRED": 1}, {"FAILED": 1}),
        sends=("find", "update", "commitTransaction"),
    ),
    "release": Command(
        prepare=lock_two,
        act=booking.release,
        leaves=(10, {"EXPIRED": 1}, {}),
        sends=("find", "update", "commitTransaction"),
    ),
    "expire-locks": Command(
        prepare=lock_two,
        act=lambda store, _lock: expire_locks(store, EPOCH + PAYMENT_TTL),
        leaves=(10, {"EXPIRED": 1}, {}),
        sends=("find", "update", "commitTransaction", "insert"),
    ),
    "expire-bookings": Command(
        prepare=book_two,
        act=lambda store, _booking: expire_bookings(store, EPOCH + 2 * PAYMENT_TTL),
        leaves=(10, {"EXPIRED": 1}, {"EXPIRED": 1}),
        sends=("find", "update", "commitTransaction", "insert"),
    ),
    "recover": Command(
        prepare=lambda store, event: leave_half_done(store, lock_two(store, event)),
        act=lambda store, _lock: recover_once(store),
        leaves=(10, {"EXPIRED": 1}, {"FAILED": 1}),
        sends=("find", "aggregate", "update", "commitTransaction", "insert"),
    ),
}
JOBS = ("expire-locks", "expire-bookings", "recover")

FAULTS: dict[str, dict[str, Any]] = {
    "write conflict": {"errorCode": 112, "errorLabels": ["TransientTransactionError"]},
    "not the primary": {"errorCode": 10107},
    "connection closed": {"closeConnection": True},
    "answer too late": {"blockConnection": True, "blockTimeMS": 2 * SOCKET_TIMEOUT_MS},
    "applied, write concern unsure": {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}},
}


def leave_half_done(store: Store, lock: Id) -> Id:
    """A failed payment that crashed before it touched the lock."""
    booked = booking.confirm(store, lock).document["_id"]
    store.database.bookings.update_one({"_id": booked}, {"$set": {"status": "FAILED"}})
    return lock


def possible(name: str, command: str, fault: str) -> bool:
    """Whether a server can answer so: conflicts and commit doubts belong to transactions."""
    if fault == "applied, write concern unsure":
        return command == "commitTransaction"
    if fault == "write conflict":
        log_entry = name in JOBS and command == "insert"
        return command not in ("find", "aggregate", "createIndexes") and not log_entry
    return True


CASES = [
    pytest.param(name, command, fault, id=f"{name}, {command}: {fault}")
    for name, it in COMMANDS.items()
    for command in it.sends
    for fault in FAULTS
    if possible(name, command, fault)
]


@pytest.fixture(scope="module")
def replica() -> Iterator[Server]:
    yield from faulty(Server(options=("--setParameter", "enableTestCommands=1")))


@pytest.fixture(scope="module")
def standalone() -> Iterator[Server]:
    yield from faulty(Server(replica_set=None, options=("--setParameter", "enableTestCommands=1")))


def faulty(server: Server) -> Iterator[Server]:
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _look_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """See LOOK_AT_ONCE."""
    monkeypatch.setattr(pymongo.common, "MIN_HEARTBEAT_INTERVAL", 0.02)


@dataclass
class Scene:
    """A database under the test's clock, seen by two clients: the one that meets faults, and ours."""

    server: Server
    clock: Clock
    clients: list[MongoClient] = field(default_factory=list)

    def store(self, uri: str) -> Store:
        deployment = connect(uri, None, DATABASE)
        self.clients.append(deployment.client)
        transactions = self.server.replica_set is not None
        return Store(Deployment(deployment.client, DATABASE, transactions=transactions, clock=self.clock))

    @property
    def victim_options(self) -> str:
        return f"&appName={VICTIM}&socketTimeoutMS={SOCKET_TIMEOUT_MS}{LOOK_AT_ONCE}"

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture
def scene(replica: Server, clock: Clock) -> Iterator[Scene]:
    scene = Scene(replica, clock)
    yield scene
    scene.close()


@pytest.fixture(params=["replica", "standalone"])
def any_scene(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Scene]:
    scene = Scene(request.getfixturevalue(request.param), clock)
    yield scene
    scene.close()


@contextmanager
def fail_point(store: Store, times: int, commands: list[str], fault: dict[str, Any]) -> Iterator[None]:
    """The next `times` of these commands from the victim meet the fault, or the test is void."""
    admin = store.deployment.client.admin
    data = {"failCommands": commands, "appName": VICTIM, **fault}
    before = admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)["count"]
    try:
        yield
    finally:
        after = admin.command("configureFailPoint", "failCommand", mode="off")["count"]
    assert after - before == times


def insist(act: Act, store: Store, subject: Id) -> list[SeatctlError]:
    """Do it until it is done; returns the errors on the way, which all must ask for another try."""
    errors: list[SeatctlError] = []
    while True:
        try:
            act(store, subject)
        except WrongState:
            # A lock is released once; the first try did it and its answer was lost.
            assert act is booking.release
            assert errors
        except Exception as error:  # noqa: BLE001 - judged right here
            errors.append(explain(error))
            assert errors[-1].exit_code in (1, 10), errors
            assert len(errors) < 10
            continue
        return errors


def start_with_an_event(store: Store) -> Id:
    """Empty the collections, and put an event with 10 seats there. A fresh database would cost half
    a second for its files."""
    for collection in store.database.list_collection_names():
        store.database[collection].delete_many({})
    return booking.create_event(store, "a sale", 10, EPOCH).document["_id"]


def state_of(store: Store, event: Id) -> tuple[int, dict[str, int], dict[str, int]]:
    """Seats available, locks by status, bookings by status."""
    database = store.database
    found = store.event(event)
    assert found
    statuses = [
        Counter(it["status"] for it in kind.find()) for kind in (database.seatLocks, database.bookings)
    ]
    return found["availableSeats"], dict(statuses[0]), dict(statuses[1])


# --- fail points -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "command", "fault"), CASES)
def test_one_fault(scene: Scene, name: str, command: str, fault: str) -> None:
    """One fault on the way is not even noticed where the driver or the transaction tries again,
    and whatever is reported instead asks for another try; the work is done once."""
    ours = scene.store(scene.server.uri)
    victim = scene.store(scene.server.uri + scene.victim_options)
    it = COMMANDS[name]
    event = start_with_an_event(ours)
    subject = it.prepare(ours, event)
    with fail_point(ours, 1, [command], FAULTS[fault]):
        errors = insist(it.act, victim, subject)
    # A slow machine may answer too late more often than we asked for.
    assert errors == [] or command == "createIndexes" or fault == "answer too late"
    assert state_of(ours, event) == it.leaves
    assert find_all(ours) == []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "write conflict"])
def test_fault_after_fault(scene: Scene, name: str, fault: str) -> None:
    """Three faults in a row, more than the driver tries again, still end in the work done once."""
    ours = scene.store(scene.server.uri)
    victim = scene.store(scene.server.uri + scene.victim_options)
    it = COMMANDS[name]
    event = start_with_an_event(ours)
    subject = it.prepare(ours, event)
    sends = [command for command in it.sends if possible(name, command, fault)]
    with fail_point(ours, 3, sends, FAULTS[fault]):
        insist(it.act, victim, subject)
    assert state_of(ours, event) == it.leaves
    assert find_all(ours) == []


# --- answers that are lost -------------------------------------------------------------------------


class LossyProxy:
    """Passes messages on between clients and a server, and loses the answer to one command: the
    server has carried it out, and the connection closes before its word gets through."""

    OP_MSG = 2013

    def __init__(self, server: Server) -> None:
        self.server = server
        self.path = server.directory / f"{uuid.uuid4().hex[:8]}.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.target: tuple[str, int] | None = None
        """The command whose answer is lost, and how many of it pass before."""
        self.seen: Counter[str] = Counter()
        self.lost = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"mongodb://{quote_plus(str(self.path))}/?directConnection=true{LOOK_AT_ONCE}"

    def lose(self, command: str, number: int) -> None:
        """Lose the answer to the next `command` after `number` others of it."""
        self.seen.clear()
        self.target = command, number

    def close(self) -> None:
        self.listener.close()
        Path(self.path).unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                upstream = socket.socket(socket.AF_UNIX)
                upstream.connect(self.server.host)
                doomed: set[int] = set()
                for source, sink, look in (
                    (client, upstream, self._note_request),
                    (upstream, client, self._is_doomed),
                ):
                    threading.Thread(
                        target=self._pass_on, args=(source, sink, look, doomed), daemon=True
                    ).start()

    def _pass_on(
        self,
        source: socket.socket,
        sink: socket.socket,
        look: Callable[[bytes, set[int]], bool],
        doomed: set[int],
    ) -> None:
        with suppress(OSError, struct.error), source, sink:
            while not look(message := _read_message(source), doomed):
                sink.sendall(message)
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)

    def _note_request(self, message: bytes, doomed: set[int]) -> bool:
        _, request, _, code = struct.unpack_from("<iiii", message)
        if code == self.OP_MSG:
            command = message[26 : message.index(b"\0", 26)].decode()  # the first key of the first section
            if self.target == (command, self.seen[command]):
                doomed.add(request)
                self.target = None
            self.seen[command] += 1
        return False

    def _is_doomed(self, message: bytes, doomed: set[int]) -> bool:
        answered = struct.unpack_from("<iii", message)[2] in doomed
        self.lost |= answered
        return answered


def _read_message(source: socket.socket) -> bytes:
    head = _read(source, 4)
    return head + _read(source, struct.unpack("<i", head)[0] - 4)


def _read(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise ConnectionResetError
        parts += part
    return bytes(parts)


@pytest.fixture
def proxy(any_scene: Scene) -> Iterator[LossyProxy]:
    proxy = LossyProxy(any_scene.server)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_answer_is_lost_once(any_scene: Scene, proxy: LossyProxy, clock: Clock, name: str) -> None:
    """Whichever write was carried out and its answer lost, the command sent again does its work
    once; where there are no transactions, together with `recover`."""
    ours, victim = any_scene.store(any_scene.server.uri), any_scene.store(proxy.uri)
    it = COMMANDS[name]
    lost = []
    for command in ("createIndexes", "findAndModify", "insert", "update", "commitTransaction"):
        number = 0
        while lose_answer(ours, victim, proxy, clock, it, command, number):
            lost.append((command, number))
            number += 1
    print(f"answers lost: {lost}")
    assert {command for command, _ in lost} & {"findAndModify", "update"}
    assert ("commitTransaction", 0) in lost or not ours.transactions


def lose_answer(
    ours: Store, victim: Store, proxy: LossyProxy, clock: Clock, it: Command, command: str, number: int
) -> bool:
    """Lose that answer in a fresh database; False when the command never sent that many."""
    clock.time = EPOCH
    event = start_with_an_event(ours)
    subject = it.prepare(ours, event)
    proxy.lost = False
    proxy.lose(command, number)
    errors = insist(it.act, victim, subject)
    proxy.target = None
    if not proxy.lost:
        return False
    if ours.transactions:
        assert errors == [] or command == "createIndexes"
    else:
        clock.advance(minutes=2)
        assert complaints([recover_once(ours)]) == []
    assert state_of(ours, event) == it.leaves, (command, number)
    assert find_all(ours) == []
    return True


# --- cursors that are lost -------------------------------------------------------------------------


def leave_overdue(store: Store) -> Id:
    """An event with 10 seats, each of them in a lock of its own."""
    event = start_with_an_event(store)
    for _ in range(10):
        booking.lock(store, event, "buyer", 1)
    return event


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cursors that come back to the server for more in the middle of a sweep."""
    monkeypatch.setattr(store_module, "CURSOR_BATCH", 3)


def test_cursor_killed_mid_sweep(any_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """When somebody kills the sweep's cursor after each batch, each lock is still expired once."""
    small_batches(monkeypatch)
    store = any_scene.store(any_scene.server.uri)
    event = leave_overdue(store)
    overdue_at = EPOCH + timedelta(hours=1)
    restored = killed = 0
    for batch in sweep(store, lock_sweep(store), Terms(EPOCH, overdue_at=overdue_at), batch_size=2):
        restored += batch.seats.total()
        killed += kill_cursors(store)
    assert killed > 0
    assert restored == 10
    assert state_of(store, event) == (10, {"EXPIRED": 10}, {})
    assert find_all(store) == []


def kill_cursors(store: Store) -> int:
    """Kill every idle cursor on the locks; returns how many."""
    client = store.deployment.client
    idle = client.admin.aggregate(
        [
            {"$currentOp": {"idleCursors": True, "allUsers": True}},
            {"$match": {"type": "idleCursor", "ns": f"{store.database.name}.seatLocks"}},
        ]
    )
    cursors = [operation["cursor"]["cursorId"] for operation in idle]
    if cursors:
        store.database.command("killCursors", "seatLocks", cursors=cursors)
    return len(cursors)


@pytest.mark.parametrize("fault", ["cursor not found", "connection closed", "not the primary"])
def test_reading_on_fails_mid_sweep(scene: Scene, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """When the server cannot read on, the sweep starts over or fails and is run again, and each
    lock is expired once."""
    small_batches(monkeypatch)
    ours = scene.store(scene.server.uri)
    victim = scene.store(scene.server.uri + scene.victim_options)
    event = leave_overdue(ours)
    faults = {**FAULTS, "cursor not found": {"errorCode": 43}}

    def run(store: Store, _event: Id) -> None:
        expire_locks(store, EPOCH + timedelta(hours=1), 2)

    with fail_point(ours, 2, ["getMore"], faults[fault]):
        errors = insist(run, victim, event)
    assert (errors == []) == (fault == "cursor not found")
    runs = list(ours.database.jobLogs.find())
    assert sum(entry["details"]["seatsRestored"] for entry in runs) == 10
    assert len(complaints(runs)) == len(errors)
    assert state_of(ours, event) == (10, {"EXPIRED": 10}, {})
    assert find_all(ours) == []


# --- a server that hangs ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["find", "aggregate"])
def test_verify_leaves_a_hung_server(
    scene: Scene, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM while `verify` waits for answers that do not come ends it: no thread of it waits
    on, though the server goes on holding them back."""
    ours = scene.store(scene.server.uri)
    start_with_an_event(ours)
    admin = ours.deployment.client.admin
    uri = scene.server.uri.replace("/?", f"/{DATABASE}?") + f"&appName={VICTIM}"
    held = {"failCommands": [command], "appName": VICTIM, "blockConnection": True, "blockTimeMS": 600_000}
    before = admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=held)["count"]
    try:
        with Shell({"HOME": str(tmp_path), "SEATCTL_URI": uri}).started("verify") as process:
            entered = {"timesEntered": before + 1, "maxTimeMS": 60_000}
            admin.command("waitForFailPoint", "failCommand", **entered)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
    finally:
        end_what_is_held(admin)
        admin.command("configureFailPoint", "failCommand", mode="off")
    assert 128 + number == process.returncode
    assert len(said.splitlines()) == 1
    assert said.startswith("seatctl: ")


def end_what_is_held(admin: Database[Any]) -> None:
    """End the victim's commands on the server: a fail point that holds any cannot be switched off."""
    for operation in admin.aggregate([{"$currentOp": {}}, {"$match": {"appName": VICTIM}}]):
        admin.command("killOp", op=operation["opid"])
