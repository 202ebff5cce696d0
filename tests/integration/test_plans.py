"""Each query that runs often reads by an index, and hardly a document that it does not want.

The services run on a database full of what is over and done with. The driver tells of each query just
before it is sent; it is explained there and then, on the documents that it will meet.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from conftest import EPOCH, examined
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from scene import (
    Document,
    Id,
    confirm,
    lock,
    run_expire_bookings,
    run_expire_locks,
    run_recover,
)

from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus
from seatctl.domain.validation import ListRequest
from seatctl.mongo import schema
from seatctl.mongo.client import Deployment
from seatctl.mongo.store import Store
from seatctl.services import expiry, health, lists, payments, sales
from seatctl.services.sweeps import BookingSweep, LockSweep
from seatctl.services.verify import verify

if TYPE_CHECKING:
    from pymongo.database import Database
    from servers import Server

OLD, OPEN, OVERDUE = 20_000, 2_000, 6_000
"""Documents in each collection that no query here is about; locks that are alive; locks of a backlog,
which make more than one batch."""
EVENTS, USERS = 100, 5_000
SEATS = 1_000_000
SECOND, MINUTE, HOUR, DECADE = (timedelta(seconds=n) for n in (1, 60, 3_600, 315_360_000))
BOUND = 1.1


# --- what a query reads ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How the server carries out one command, and what that takes."""

    command: str
    stages: tuple[str, ...]
    examined: int
    wanted: int
    keys: int

    @property
    def flaw(self) -> str | None:
        """Why this reads too much, or None."""
        if "COLLSCAN" in self.stages and self.examined > 1:  # one document: is there any?
            return f"{self.command} scans the collection"
        if self.examined > BOUND * self.wanted:
            return f"{self.command} examines {self.examined:,} documents for {self.wanted:,}"
        return None


def explain(database: Database[Document], sent: Mapping[str, Any]) -> Plan:
    """Have the server carry out a command as far as that changes nothing, and tell how."""
    command = {name: value for name, value in sent.items() if name not in OF_THE_SESSION and name[0] != "$"}
    answer = database.command("explain", command, verbosity="executionStats")
    kind, collection = next(iter(command.items()))
    if kind == "aggregate":  # returns groups
        matched = command["pipeline"][0].get("$match", {})
        wanted = database[collection].count_documents(matched)
        if any("$lookup" in stage for stage in command["pipeline"]):
            wanted *= 2  # and the documents that those name
    elif kind == "find":
        wanted = answer["executionStats"]["nReturned"]
    else:
        wanted = sum(_values("nMatched", answer["executionStats"]))
    return Plan(
        f"{kind} {collection}",
        tuple(stage for plan in _values("winningPlan", answer) for stage in _values("stage", plan)),
        sum(_values("totalDocsExamined", answer)),
        wanted,
        sum(_values("totalKeysExamined", answer)),
    )


def _values(name: str, tree: Any) -> Iterator[Any]:
    """All values under this name, however deep: each version of MongoDB nests them otherwise."""
    if isinstance(tree, dict):
        yield from (tree[name],) if name in tree else ()
        tree = list(tree.values())
    for branch in tree if isinstance(tree, list) else ():
        yield from _values(name, branch)


OF_THE_SESSION = {"lsid", "txnNumber", "autocommit", "startTransaction", "readConcern", "writeConcern"}
NO_QUERIES = {
    "connectionStatus",
    "insert",
    "getMore",
    "createIndexes",
    "listIndexes",
    "listCollections",
    "commitTransaction",
    "abortTransaction",
    "endSessions",
    "explain",
}


@dataclass
class Explainer(CommandListener):
    """Explains each query of a client just before it is sent. The driver prints and swallows what a
    listener raises, so that all went well shows only in the numbers."""

    database: Database[Document]
    sent: int = 0
    plans: list[Plan] = field(default_factory=list)

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in NO_QUERIES:
            self.sent += 1
            self.plans.append(explain(self.database, event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def explained(self, action: Action, world: World) -> list[Plan]:
        """Do it; returns the plan of each query that it sent."""
        self.sent, self.plans = 0, []
        action(world)
        assert len(self.plans) == self.sent, "a query could not be explained; the driver printed why"
        return self.plans


# --- a database with a past ------------------------------------------------------------------------


def lock_of(
    event: ObjectId, number: int, status: LockStatus, deadline: datetime, lock_id: ObjectId
) -> Document:
    return {
        "_id": lock_id,
        "eventId": event,
        "userId": f"user{number % USERS}",
        "seats": 1,
        "status": status.value,
        "expiresAt": deadline,
        "idempotencyKey": str(lock_id),
        "createdAt": EPOCH,
        "updatedAt": EPOCH,
    }


def booking_of(lock: Document, status: BookingStatus) -> Document:
    return {
        "_id": ObjectId(),
        "event": lock["eventId"],
        "user": lock["userId"],
        "seatLockId": lock["_id"],
        "status": status.value,
        "paymentExpiresAt": lock["expiresAt"],
        "createdAt": EPOCH,
        "updatedAt": EPOCH,
    }


def event_of(event: ObjectId) -> Document:
    times = dict.fromkeys(("eventDate", "createdAt", "updatedAt"), EPOCH)
    return {"_id": event, "name": "Concert", "totalSeats": SEATS, "availableSeats": SEATS // 2, **times}


def run_of(number: int) -> Document:
    return {
        "jobType": list(JobType)[number % 3].value,
        "executedAt": EPOCH - number * MINUTE,
        "status": (JobStatus.SUCCESS if number % 50 else JobStatus.FAILED).value,
        "details": {"recordsProcessed": 0, "seatsRestored": 0, "duration": 4},
    }


SETTLED = (
    (LockStatus.CONSUMED, BookingStatus.CONFIRMED),
    (LockStatus.EXPIRED, BookingStatus.FAILED),
    (LockStatus.EXPIRED, BookingStatus.EXPIRED),
)


def load(database: Database[Document], old: int) -> list[ObjectId]:
    """Insert events, `old` settled locks, bookings and runs, and what is alive; returns the events."""
    events = [ObjectId() for _ in range(EVENTS)]
    locks, bookings = [], []
    for number in range(old):
        held, settled = SETTLED[number % 3]
        deadline = EPOCH - HOUR - number * SECOND
        # The newest of all: a walk from the newest on must pass them to come to what is alive.
        newest = ObjectId(f"ff{number:022x}")
        locks.append(lock_of(events[number % EVENTS], number, held, deadline, newest))
        bookings.append(booking_of(locks[-1], settled) | {"_id": newest})
    for number in range(OPEN):
        locks.append(lock_of(events[number % EVENTS], number, LockStatus.ACTIVE, EPOCH + HOUR, ObjectId()))
        if number % 3:
            bookings.append(booking_of(locks[-1], BookingStatus.PAYMENT_PENDING))
    database[schema.EVENTS].insert_many(map(event_of, events))
    database[schema.LOCKS].insert_many(locks)
    database[schema.BOOKINGS].insert_many(bookings)
    database[schema.JOB_LOGS].insert_many(map(run_of, range(old)))
    return events


@dataclass(frozen=True)
class World:
    """A database with a past, a store on it whose queries are explained, and a way around that."""

    store: Store
    explainer: Explainer
    database: Database[Document]
    events: Iterator[ObjectId]
    """Without end, so that each case works on events of its own, which have a past like the others."""
    backlog: int = OVERDUE

    def add(self, locks: int, due: timedelta, *, booked: bool = False, events: int = 1) -> Document:
        """Insert ACTIVE locks, `booked` with bookings that wait for payment, that run out at `due`
        from now; returns the first one."""
        mine = list(islice(self.events, events))
        made = [
            lock_of(mine[n % events], n, LockStatus.ACTIVE, EPOCH + due, ObjectId()) for n in range(locks)
        ]
        self.database[schema.LOCKS].insert_many(made)
        if booked:
            pending = [booking_of(lock, BookingStatus.PAYMENT_PENDING) for lock in made]
            self.database[schema.BOOKINGS].insert_many(pending)
        return made[0]

    def event(self) -> Id:
        return next(self.events)

    def lock(self) -> Id:
        return self.add(1, HOUR)["_id"]

    def booked_lock(self) -> Id:
        return self.add(1, HOUR, booked=True)["_id"]

    def booking(self) -> Id:
        return self.database[schema.BOOKINGS].find_one({"seatLockId": self.booked_lock()})["_id"]


@contextmanager
def open_world(server: Server, old: int, backlog: int = OVERDUE, *, indexed: bool) -> Iterator[World]:
    name = f"test_{uuid.uuid4().hex}"
    with server.client() as plain:
        events = load(plain[name], old)
        if indexed:
            Store(Deployment(plain, name)).init(DECADE)
        explainer = Explainer(plain[name])
        with MongoClient[Document](server.uri, tz_aware=True, event_listeners=[explainer]) as client:
            store = Store(Deployment(client, name, clock=lambda: EPOCH))
            yield World(store, explainer, plain[name], cycle(events), backlog)
        plain.drop_database(name)


@pytest.fixture(scope="module")
def world(replica: Server) -> Iterator[World]:
    """A big database as `init` leaves it."""
    with open_world(replica, OLD, indexed=True) as world:
        yield world


@pytest.fixture
def bare_world(replica: Server) -> Iterator[World]:
    """The same with no index but those on `_id`; much smaller."""
    with open_world(replica, 1_000, 100, indexed=False) as world:
        yield world


# --- what runs often -------------------------------------------------------------------------------

Action = Callable[[World], object]


def same_key_again(world: World) -> None:
    event = world.event()
    assert lock(world.store, event, key="once") == lock(world.store, event, key="once")


def overdue_locks(world: World) -> None:
    world.add(world.backlog, -HOUR, events=50)
    assert run_expire_locks(world.store, dry_run=True).locks >= world.backlog
    assert run_expire_locks(world.store).locks >= world.backlog


def overdue_bookings(world: World) -> None:
    world.add(world.backlog, -HOUR, booked=True, events=50)
    assert run_expire_bookings(world.store, dry_run=True).bookings >= world.backlog
    assert run_expire_bookings(world.store).bookings >= world.backlog


def sold_out(world: World) -> None:
    """What `lock` does on a sold-out event before it decides."""
    for booked in (False, True):
        event = world.add(50, -HOUR, booked=booked)["eventId"]
        assert len(expiry.return_overdue(world.store, event).endings) >= 50


def read_again(world: World) -> None:
    """What a sweep does about a batch in which something has changed."""
    later, sweeps = EPOCH + 2 * HOUR, (LockSweep(), BookingSweep())
    batches = []
    for sweep in sweeps:
        event = world.add(1_000, HOUR, booked=True)["eventId"]
        batches.append(list(sweep.documents(world.store).overdue(later, event)))
    world.explainer.sent, world.explainer.plans = 0, []
    for sweep, items in zip(sweeps, batches, strict=True):
        ids = [item.id for item in items]
        again = list(sweep.documents(world.store).still_overdue(ids, later))
        assert len(again) == len(ids) >= 1_000


def job_runs(world: World) -> None:
    """What `health` asks about the jobs."""
    for job in JobType:
        health._job(world.store, job, EPOCH, health.WINDOW)


def backlog(world: World) -> None:
    """What `health` asks about the sweeps."""
    world.add(world.backlog, -HOUR, booked=True, events=50)
    for sweep in (LockSweep(), BookingSweep()):
        health._backlog(world.store, sweep, EPOCH)


def audit(world: World) -> None:
    """All of `verify`, on events with a past."""
    assert {violation.fault for violation in verify(world.store)} == {"counter_drift"}


def recovery(world: World) -> None:
    """What `recover` reads where there is nothing to repair but a counter."""
    assert run_recover(world.store, dry_run=True).steps


def listing(read: Callable[..., Iterator[Any]], *filters: Any, limit: int = 50) -> Action:
    return lambda world: [*read(world.store, *filters, ListRequest(limit))] and None


def listing_of_event(read: Callable[..., Iterator[Any]]) -> Action:
    return lambda world: [*read(world.store, world.event())] and None


EVENT, LOCK, BOOKING, RUN = (f"find {name}" for name in schema.collections_of()[:4])
SET_EVENTS, SET_LOCKS, SET_BOOKINGS = (f"update {name}" for name in schema.collections_of()[:3])
SUM_EVENTS, SUM_LOCKS, SUM_BOOKINGS, SUM_RUNS = (f"aggregate {name}" for name in schema.collections_of()[:4])
ONE_EVENT, ONE_LOCK, ONE_BOOKING = (f"findAndModify {name}" for name in schema.collections_of()[:3])
CLEARANCE = {SUM_EVENTS, SUM_LOCKS, SUM_BOOKINGS}

BY_ID = {
    "lock": (lambda world: lock(world.store, world.event()), {ONE_EVENT}),
    "read again": (read_again, {LOCK, BOOKING}),
    "pay": (
        lambda world: payments.pay(world.store, world.booking()),
        {EVENT, BOOKING, LOCK, ONE_BOOKING, ONE_LOCK},
    ),
    "locks": (listing(lists.locks, None, None, None), {LOCK}),
    "bookings": (listing(lists.bookings, None, None, None), {BOOKING}),
}
BY_AN_INDEX_OF_OURS = {
    "key look-up": (same_key_again, {LOCK, ONE_EVENT}),
    "confirm": (lambda world: confirm(world.store, world.lock()), {EVENT, LOCK, BOOKING, ONE_LOCK}),
    "confirm again": (lambda world: confirm(world.store, world.booked_lock()), {LOCK, BOOKING}),
    "pay --failed": (
        lambda world: payments.fail_payment(world.store, world.booking()),
        {BOOKING, LOCK, SET_EVENTS, ONE_BOOKING, ONE_LOCK, *CLEARANCE},
    ),
    "release": (
        lambda world: sales.release(world.store, world.lock()),
        {LOCK, BOOKING, SET_EVENTS, ONE_LOCK, *CLEARANCE},
    ),
    "expire-locks": (overdue_locks, {LOCK, BOOKING, SET_EVENTS, SET_LOCKS, *CLEARANCE}),
    "expire-bookings": (overdue_bookings, {BOOKING, LOCK, SET_EVENTS, SET_BOOKINGS, SET_LOCKS, *CLEARANCE}),
    "nothing due": (lambda world: run_expire_locks(world.store, as_of=EPOCH - DECADE), {LOCK}),
    "nothing to pay": (lambda world: run_expire_bookings(world.store, as_of=EPOCH - DECADE), {BOOKING}),
    "sold out": (sold_out, {LOCK, BOOKING, SET_EVENTS, SET_LOCKS, SET_BOOKINGS, *CLEARANCE}),
    "health: job runs": (job_runs, {RUN, SUM_RUNS}),
    "health: backlog": (backlog, {LOCK, BOOKING, *CLEARANCE}),
    "verify": (audit, {EVENT, LOCK, BOOKING, SUM_LOCKS, SUM_BOOKINGS}),
    "recover --dry-run": (recovery, {EVENT, LOCK, BOOKING, SUM_LOCKS, SUM_BOOKINGS}),
    "jobs": (listing(lists.job_runs, None, None), {RUN}),
    "jobs --type": (listing(lists.job_runs, JobType.RECOVERY, None), {RUN}),
    "jobs --status success": (listing(lists.job_runs, None, JobStatus.SUCCESS), {RUN}),
    "jobs --status failed": (listing(lists.job_runs, None, JobStatus.FAILED), {RUN}),
    "jobs --type --status": (listing(lists.job_runs, JobType.RECOVERY, JobStatus.FAILED), {RUN}),
    "jobs --since": (
        lambda world: [*lists.job_runs(world.store, request=ListRequest(50, HOUR))] and None,
        {RUN},
    ),
    "jobs --summary": (
        lambda world: lists.summarize(world.store, list(JobType), timedelta(days=1)),
        {SUM_RUNS},
    ),
    "locks --event": (listing_of_event(lists.locks), {LOCK}),
    "bookings --event": (listing_of_event(lists.bookings), {BOOKING}),
}
CASES = BY_ID | BY_AN_INDEX_OF_OURS
"""What to do, and queries that must be among those it sends.

Left out, because no index makes them read less, or none that is worth its price:
- a compare-and-set that comes too late: it examines the document that it names and changes none;
- lists of locks or bookings by user: an index for them would cost every write of every sweep more than a
  person saves who asks for such a list now and then;
- the newest few of an event's many bookings, for the same reason: all of them are read;
- lists with several filters, but for the runs of a job by outcome: one of the filters finds, the others
  choose from that, and an index for each combination would cost every write;
- what is about every event (`events --sort fullest`, the totals of `health`).
"""


@pytest.mark.parametrize(("action", "sends"), CASES.values(), ids=CASES)
def test_reads_what_it_wants(world: World, action: Action, sends: set[str]) -> None:
    """Each of its queries uses an index and examines at most a tenth more documents than it wants,
    whatever is over and done with around them."""
    plans = world.explainer.explained(action, world)

    assert sends <= {plan.command for plan in plans}
    assert [plan.flaw for plan in plans if plan.flaw] == []


def test_a_compare_and_set_of_many_locks_reads_no_others(world: World) -> None:
    """Left to itself the planner takes the index on the state, and reads the keys of all that are ACTIVE."""
    world.add(5_000, HOUR, events=50)
    first = world.database[schema.LOCKS].find({"status": "ACTIVE"}, {"_id": 1}).sort("eventId").limit(500)
    ids, locks = [lock["_id"] for lock in first], world.store.locks

    (plan,) = world.explainer.explained(
        lambda _: locks.extend_all(ids, EPOCH, EPOCH, overdue=True),  # moves none
        world,
    )

    assert plan.wanted == len(ids) == 500
    assert plan.keys <= 2 * len(ids)


def test_a_missing_index_is_noticed(bare_world: World) -> None:
    """Without our indexes the same check finds fault with each case but those that go by `_id`."""
    found = {
        name: [plan.flaw for plan in bare_world.explainer.explained(action, bare_world)]
        for name, (action, _) in CASES.items()
    }

    assert {name for name, flaws in found.items() if not any(flaws)} == set(BY_ID)
    assert found["jobs"] == ["find jobLogs scans the collection"]


def test_an_index_that_finds_too_much_is_noticed(bare_world: World) -> None:
    """It is not enough that there is an index: most of what it finds must be wanted."""
    bare_world.database[schema.JOB_LOGS].create_index([("executedAt", -1)])
    action, _ = CASES["jobs --type --status"]

    (plan,) = bare_world.explainer.explained(action, bare_world)

    assert plan.flaw == "find jobLogs examines 1,000 documents for 7"


# --- a long job log ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_log(replica: Server) -> Iterator[Store]:
    """A job log of 20,000 runs, one a minute; few failed, and long ago, and recovery ran once."""
    name = f"test_{uuid.uuid4().hex}"
    with replica.client() as client:
        store = Store(Deployment(client, name, clock=lambda: EPOCH))
        store.init()
        store.database.jobLogs.insert_many(
            {
                "jobType": "RECOVERY" if number == 9_000 else ("LOCK_EXPIRY", "BOOKING_EXPIRY")[number % 2],
                "executedAt": EPOCH - number * MINUTE,
                "status": "FAILED" if number in (15_000, 16_001) else "SUCCESS",
                "details": {"recordsProcessed": 1, "seatsRestored": 1, "duration": 3},
            }
            for number in range(20_000)
        )
        yield store
        client.drop_database(name)


@pytest.mark.parametrize(
    "asked",
    [
        (None, None, None),
        (None, JobStatus.FAILED, None),
        (JobType.RECOVERY, None, None),
        (JobType.LOCK_EXPIRY, JobStatus.FAILED, None),
        (None, None, 2 * MINUTE),
        (None, JobStatus.SUCCESS, 2 * MINUTE),
    ],
    ids=str,
)
def test_a_long_job_log_is_not_read_for_a_list(long_log: Store, asked: tuple[Any, Any, Any]) -> None:
    """Whatever `jobs` is asked for, the server examines the runs that it returns and no others."""
    with examined(long_log, "jobLogs") as documents:
        job, status, since = asked
        found = list(lists.job_runs(long_log, job, status, ListRequest(5, since)))

    assert 1 <= len(found) <= documents() <= len(found) + 1


def test_a_long_job_log_is_not_read_for_a_summary(long_log: Store) -> None:
    """Summing up an hour reads that hour; telling what `verify` looked at reads no run at all."""
    with examined(long_log, "jobLogs") as documents:
        rows = lists.summarize(long_log, list(JobType), HOUR)
        long_log.sizes()

    assert sum(int(str(row["runs"])) for row in rows) == documents() == 61
