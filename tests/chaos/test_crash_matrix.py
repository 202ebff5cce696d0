"""Every command and job is killed before and after each command that it sends to the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from crash import (
    AFTER,
    BEFORE,
    READS,
    Command,
    Death,
    Life,
    Place,
    picture,
    reap,
    run,
    settle,
    sold_twice,
    violations,
)

from seatctl.domain.model import QUIET, JobType
from seatctl.errors import Refused, WrongState
from seatctl.services import audit as findings
from seatctl.services import jobs as joblog
from seatctl.services import recovery
from seatctl.services import sales as booking
from seatctl.services.expiry import booking_sweep, lock_sweep, sweep
from seatctl.services.seats import Terms

if TYPE_CHECKING:
    from conftest import Clock

    from seatctl.mongo.store import Store

pytestmark = pytest.mark.slow

HOURS = timedelta(hours=3)
COLLECTIONS = ("events", "seatLocks", "bookings")
Ids = dict[str, Any]


# --- what is killed --------------------------------------------------------------------------------


def create_event(store: Store, _ids: Ids) -> None:
    booking.create_event(store, "new", 5, timedelta(days=1))


def lock(store: Store, ids: Ids) -> None:
    booking.lock(store, ids["event"], "buyer", 2)


def lock_with_key(store: Store, ids: Ids) -> None:
    booking.lock(store, ids["event"], "buyer", 2, key="once")


def confirm(store: Store, ids: Ids) -> None:
    booking.confirm(store, ids["lock"])


def pay(store: Store, ids: Ids) -> None:
    booking.pay(store, ids["booking"])


def fail(store: Store, ids: Ids) -> None:
    booking.fail(store, ids["booking"])


def release(store: Store, ids: Ids) -> None:
    booking.release(store, ids["lock"])


def expire_locks(store: Store, _ids: Ids) -> None:
    _expire(store, JobType.LOCK_EXPIRY, lock_sweep(store))


def expire_bookings(store: Store, _ids: Ids) -> None:
    _expire(store, JobType.BOOKING_EXPIRY, booking_sweep(store))


def _expire(store: Store, job: JobType, kind: Any) -> None:
    terms = Terms(store.now(), overdue_at=store.now())

    def work(current: joblog.Run) -> None:
        for batch in sweep(store, kind, terms, batch_size=3):
            current.record(batch)

    joblog.run(store, job, work)


def recover(store: Store, _ids: Ids) -> None:
    joblog.run(store, JobType.RECOVERY, lambda current: recovery.recover(store, current, batch_size=3))


# --- the state in which it is killed ---------------------------------------------------------------


def quiet_event(store: Store, _clock: Clock, free: int = 10) -> Ids:
    """An event with `free` seats, beside what others have bought, confirmed and locked."""
    event = booking.create_event(store, "concert", free + 6, HOURS).document["_id"]
    bought = booking.lock(store, event, "bought", 1).document["_id"]
    booking.pay(store, booking.confirm(store, bought).document["_id"])
    waiting = booking.lock(store, event, "waiting", 2).document["_id"]
    booking.confirm(store, waiting, payment_ttl=HOURS)
    booking.lock(store, event, "locked", 3, key="once", ttl=HOURS)
    return {"event": event}


def with_lock(store: Store, clock: Clock) -> Ids:
    ids = quiet_event(store, clock)
    return ids | {"lock": booking.lock(store, ids["event"], "buyer", 2).document["_id"]}


def with_booking(store: Store, clock: Clock) -> Ids:
    ids = with_lock(store, clock)
    return ids | {"booking": booking.confirm(store, ids["lock"]).document["_id"]}


def sold_out_by_overdue(store: Store, clock: Clock) -> Ids:
    ids = quiet_event(store, clock, free=4)
    for user in ("late 1", "late 2"):
        booking.lock(store, ids["event"], user, 1)
    unpaid = booking.lock(store, ids["event"], "unpaid", 2).document["_id"]
    booking.confirm(store, unpaid)
    clock.advance(minutes=16)
    return ids


def overdue_on_two_events(store: Store, clock: Clock) -> Ids:
    """Overdue locks and bookings, and a lock past its deadline that a live booking keeps."""
    ids = quiet_event(store, clock)
    second = booking.create_event(store, "second", 9, HOURS).document["_id"]
    for event in (ids["event"], second):
        for user in ("late 1", "late 2"):
            booking.lock(store, event, user, 1)
            unpaid = booking.lock(store, event, f"unpaid {user}", 1).document["_id"]
            booking.confirm(store, unpaid)
    kept = booking.lock(store, second, "kept", 1).document
    booking.confirm(store, kept["_id"], payment_ttl=HOURS)
    store.database.seatLocks.update_one({"_id": kept["_id"]}, {"$set": {"expiresAt": kept["expiresAt"]}})
    clock.advance(minutes=16)
    return ids


def in_disorder(store: Store, clock: Clock) -> Ids:
    """One of each finding that recovery repairs, beside what is overdue."""
    ids = overdue_on_two_events(store, clock)
    event = booking.create_event(store, "in disorder", 40, HOURS).document["_id"]
    _pair(store, event, "unsettled", "ACTIVE", "CONFIRMED")
    _pair(store, event, "lost", "EXPIRED", "CONFIRMED")
    _pair(store, event, "failed", "ACTIVE", "FAILED")
    _pair(store, event, "unpaid", "ACTIVE", "EXPIRED")
    _pair(store, event, "without seats", "EXPIRED", "PAYMENT_PENDING")
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": -6}})  # three hold two each
    tight = booking.create_event(store, "sold out but for drift", 2, HOURS).document["_id"]
    _pair(store, tight, "lost, counter too low", "EXPIRED", "CONFIRMED")
    store.database.events.update_one({"_id": tight}, {"$set": {"availableSeats": 1}})
    drifted = booking.create_event(store, "drifted", 10, HOURS).document["_id"]
    booking.lock(store, drifted, "locked", 3, key="drifted", ttl=HOURS)
    store.database.events.update_one({"_id": drifted}, {"$set": {"availableSeats": 4}})
    _pair(store, ObjectId(), "orphan", "ACTIVE", "PAYMENT_PENDING")
    clock.advance(minutes=2)
    return ids


def _pair(store: Store, event: Any, user: str, lock_status: str, booking_status: str) -> None:
    now, later = store.now(), store.now() + HOURS
    stamps = {"createdAt": now, "updatedAt": now}
    owner = {"_id": ObjectId(), "eventId": event, "userId": user, "seats": 2}
    store.database.seatLocks.insert_one({**owner, "status": lock_status, "expiresAt": later, **stamps})
    store.database.bookings.insert_one(
        {"event": event, "user": user, "seatLockId": owner["_id"], "status": booking_status}
        | {"paymentExpiresAt": later, **stamps}
    )


@dataclass(frozen=True)
class Scenario:
    """A command, the state in which it meets its end, and what a retry may be told when the killed
    one had already done it."""

    command: Command
    prepare: Callable[[Store, Clock], Ids]
    refusal: type[Refused] | None = None
    idempotent: bool = True

    @property
    def orders(self) -> list[Callable[[Stage], list[str]]]:
        """What comes first after the death; a job's retry is its next run."""
        job = self.command in (expire_locks, expire_bookings, recover)
        return [retry_then_recover] if job else [recover_then_retry, retry_then_recover]


SCENARIOS = {
    "create_event": Scenario(create_event, quiet_event, idempotent=False),
    "lock": Scenario(lock, quiet_event, idempotent=False),
    "lock with key": Scenario(lock_with_key, quiet_event),
    "lock on sold-out event": Scenario(lock_with_key, sold_out_by_overdue),
    "confirm": Scenario(confirm, with_lock),
    "pay": Scenario(pay, with_booking),
    "pay --failed": Scenario(fail, with_booking),
    "release": Scenario(release, with_lock, refusal=WrongState),
    "expire-locks": Scenario(expire_locks, overdue_on_two_events),
    "expire-bookings": Scenario(expire_bookings, overdue_on_two_events),
    "recover": Scenario(recover, in_disorder),
}


# --- the matrix ------------------------------------------------------------------------------------


class Stage:
    """One scenario on one deployment: its first state, to which every case returns."""

    def __init__(self, scenario: Scenario, store: Store, clock: Clock, uri: str) -> None:
        self.scenario, self.store, self.clock, self.uri = scenario, store, clock, uri
        self.ids = scenario.prepare(store, clock)
        self.start = clock.time
        self.documents = {name: list(store.database[name].find()) for name in COLLECTIONS}
        self.others = self._others()
        self.was_whole = not violations(store.database)

    def reset(self) -> None:
        self.clock.time = self.start
        for name, documents in self.documents.items():
            self.store.database[name].delete_many({})
            self.store.database[name].insert_many(documents)

    def kill(self, death: Death | None) -> Life:
        place = Place(self.uri, self.store.database.name, self.store.transactions, self.clock.time)
        life = run(place, self.scenario.command, self.ids, death)
        reap(self.store.deployment.client, life)
        settle(self.store.database)
        return life

    def retry(self) -> bool:
        """Whether the command succeeded, or had already been done."""
        try:
            self.scenario.command(self.store, self.ids)
        except Refused as refusal:
            return isinstance(refusal, self.scenario.refusal or ())
        return True

    def recover(self) -> None:
        if not self.store.transactions:  # there recovery leaves counters alone that just moved
            self.clock.advance(seconds=QUIET.total_seconds() + 1)
        recover(self.store, self.ids)

    def problems(self) -> list[str]:
        """Whatever is wrong now: by a plain look, by seatctl's own, and with what others own."""
        found = violations(self.store.database)
        found += [finding.message for finding in findings.find_all(self.store)]
        if self._others() != self.others:
            found.append("what others had locked, confirmed or bought has changed")
        return found

    def undisturbed(self, times: int) -> Any:
        self.reset()
        for _ in range(times):
            self.retry()
        self.recover()
        return picture(self.store.database)

    def _others(self) -> list[Any]:
        """All documents of the buyers beside the command."""
        mine = {"$in": ["bought", "waiting", "locked"]}
        database = self.store.database
        return [*database.seatLocks.find({"userId": mine}), *database.bookings.find({"user": mine})]


@pytest.fixture(params=["replica", "standalone"])
def stage(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Callable[[Scenario], Stage]]:
    store = request.getfixturevalue(f"{request.param}_store")
    uri = request.getfixturevalue(request.param).uri
    return lambda scenario: Stage(scenario, store, clock, uri)


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere(
    stage: Callable[[Scenario], Stage], name: str, rounds: Callable[[int, int], int]
) -> None:
    """Killed before or after any of its commands, a command leaves no seat sold twice; recovery
    makes everything whole; trying again does it once; nothing acknowledged is lost."""
    scene = stage(SCENARIOS[name])
    possible = [scene.undisturbed(1), scene.undisturbed(2)]
    if scene.scenario.idempotent:
        assert possible[0] == possible[1]
    scene.reset()
    sent = scene.kill(None).sent
    everywhere = rounds(0, 1)
    cases = [
        (death, order)
        for death in (_deaths if everywhere else _telling_deaths)(sent)
        for order in ((recover_then_retry, retry_then_recover) if everywhere else scene.scenario.orders)
    ]
    failures = [
        f"{death} of {sent}, {order.__name__}: {problem}"
        for death, order in cases
        for problem in _case(scene, death, order, possible)
    ]
    print(f"{len(cases)} deaths of {name}: {sent}")
    assert failures == []


def _deaths(sent: list[str]) -> list[Death]:
    return [Death(number, moment) for number in range(len(sent)) for moment in (BEFORE, AFTER)]


def _telling_deaths(sent: list[str]) -> list[Death]:
    """One for each state that a death can leave: before everything, and after each command that is
    no read. What comes before a command is what was there after the one before it."""
    writes = sum(command not in READS for command in sent)
    return [Death(0, BEFORE)] + [Death(number, AFTER, reads_count=False) for number in range(writes)]


def _case(scene: Stage, death: Death, order: Callable[[Stage], list[str]], possible: list[Any]) -> list[str]:
    scene.reset()
    twice_before = sold_twice(scene.store.database)
    life = scene.kill(death)
    assert life.killed
    problems = [] if sold_twice(scene.store.database) <= twice_before else ["seats could be sold twice"]
    if scene.store.transactions and scene.was_whole:  # nothing is ever half done there
        problems += violations(scene.store.database)
    problems += order(scene)
    if not problems and picture(scene.store.database) not in possible:
        problems.append(f"ended as {picture(scene.store.database) - possible[0]}")
    return problems


def recover_then_retry(scene: Stage) -> list[str]:
    scene.recover()
    problems = scene.problems()
    if not scene.retry():
        problems.append("the retry was refused")
    return problems + scene.problems()


def retry_then_recover(scene: Stage) -> list[str]:
    # Without transactions, seats may be out of sale until recovery, and so the first retry refused.
    succeeded = scene.retry()
    scene.recover()
    problems = scene.problems()
    if not succeeded and (scene.store.transactions or not scene.retry()):
        problems.append("the retry was refused")
    return problems + scene.problems()


def test_every_command_is_killed() -> None:
    """A command or job that nobody put into the matrix is noticed."""
    killed = {scenario.command.__name__ for scenario in SCENARIOS.values()}
    commands = {
        name
        for name, value in vars(booking).items()
        if callable(value) and getattr(value, "__module__", "") == booking.__name__ and name.islower()
    }
    assert {name for name in commands if not name.startswith("_")} <= killed
    jobs = {
        JobType.LOCK_EXPIRY: expire_locks,
        JobType.BOOKING_EXPIRY: expire_bookings,
        JobType.RECOVERY: recover,
    }
    assert {jobs[job].__name__ for job in JobType} <= killed
