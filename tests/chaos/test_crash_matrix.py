"""Every command and job is killed before and after each command that it sends to the database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import race
import scene
from bson import ObjectId
from conftest import available, edit
from crash import AFTER, BEFORE, READS, Command, KillPoint, Target, Trace, reap, run, settle, summary
from mongoose import Backend
from oracle import sold_twice, violations

from seatctl.cli.app import program
from seatctl.domain.states import BookingStatus
from seatctl.errors import RefundDue, Refused, WrongState
from seatctl.mongo.store import Store
from seatctl.services import (
    adoption,
    blocks,
    cancellation,
    closing,
    event_cancellation,
    events,
    extension,
    jobs,
    payments,
    rebooking,
    refunds,
    relocking,
    resizing,
    sales,
)
from seatctl.services.blocks import BlockRequest
from seatctl.services.cancellation import CancelRequest
from seatctl.services.event_cancellation import CancelEventRequest
from seatctl.services.events import CreateEventRequest, EditEventRequest
from seatctl.services.extension import ExtendAllRequest, ExtendRequest
from seatctl.services.rebooking import RebookRequest
from seatctl.services.resizing import ResizeRequest
from seatctl.services.verify import verify

if TYPE_CHECKING:
    from conftest import Clock
    from servers import Server

pytestmark = pytest.mark.slow

HOURS = timedelta(hours=3)
MOST = 30
"""Deaths of one scenario, without `--long`: recovery alone has 130 points to die at."""
COLLECTIONS = ("events", "seatLocks", "bookings", "refunds", "operations")
Ids = dict[str, Any]


# --- what is killed --------------------------------------------------------------------------------


def create_event(store: Store, _ids: Ids) -> None:
    scene.create(store, 5, "new")


def lock(store: Store, ids: Ids) -> None:
    scene.lock(store, ids["event"], 2, "buyer")


def lock_with_key(store: Store, ids: Ids) -> None:
    scene.lock(store, ids["event"], 2, "buyer", key="once")


def confirm(store: Store, ids: Ids) -> None:
    scene.confirm(store, ids["lock"])


def pay(store: Store, ids: Ids) -> None:
    payments.pay(store, ids["booking"])


def fail_payment(store: Store, ids: Ids) -> None:
    payments.fail_payment(store, ids["booking"])


def release(store: Store, ids: Ids) -> None:
    sales.release(store, ids["lock"])


def pay_late(store: Store, ids: Ids) -> None:
    with suppress(RefundDue):
        payments.pay(store, ids["booking"], "R")


def pay_again(store: Store, ids: Ids) -> None:
    with suppress(RefundDue):
        payments.pay(store, ids["booking"], "another one")


def extend(store: Store, ids: Ids) -> None:
    extension.extend(store, ExtendRequest(ids["booking"], HOURS))


def extend_all(store: Store, ids: Ids) -> None:
    request = ExtendAllRequest(ids["event"], BookingStatus.PAYMENT_PENDING, 2 * HOURS)
    with patch.object(extension, "EXTENSION_BATCH", 1):
        extension.extend_all(store, request)


def cancel(store: Store, ids: Ids) -> None:
    cancellation.cancel(store, CancelRequest(ids.get("booking", ids.get("sold"))))


def cancel_some(store: Store, ids: Ids) -> None:
    cancellation.cancel(store, CancelRequest(ids["booking"], seats=1))


def rebook(store: Store, ids: Ids) -> None:
    rebooking.rebook(store, RebookRequest(ids["booking"]))


def record_sale(store: Store, ids: Ids) -> None:
    payments.record_sale(store, ids["sold"] if "sold" in ids else ids["lock"], "R")


def mark_done(store: Store, ids: Ids) -> None:
    refunds.mark_done(store, store.refunds.of_booking(ids["booking"])[0].id, "back 1")


def withdraw(store: Store, ids: Ids) -> None:
    refunds.withdraw(store, store.refunds.of_booking(ids["booking"])[0].id)


def relock(store: Store, ids: Ids) -> None:
    relocking.relock(store, ids["booking"], 2)


def create_event_with_key(store: Store, _ids: Ids) -> None:
    events.create_event(store, CreateEventRequest("new", 5, scene.MONTH, key="once"))


def edit_event(store: Store, ids: Ids) -> None:
    events.edit_event(store, EditEventRequest(ids["event"], description="in the garden"))


def resize(store: Store, ids: Ids) -> None:
    resizing.resize(store, ResizeRequest(ids["event"], ids.get("seats", 30)))


def block(store: Store, ids: Ids) -> None:
    blocks.block(store, BlockRequest(ids["event"], 2, "once"))


def unblock(store: Store, ids: Ids) -> None:
    blocks.unblock(store, ids["block"])


def close(store: Store, ids: Ids) -> None:
    closing.close(store, ids["event"])


def reopen(store: Store, ids: Ids) -> None:
    closing.reopen(store, ids["event"])


def cancel_event(store: Store, ids: Ids) -> None:
    event_cancellation.cancel_event(store, CancelEventRequest(ids["off"], "off", batch_size=2))


def expire_locks(store: Store, _ids: Ids) -> None:
    race.expire_locks(store, batch_size=3)


def expire_bookings(store: Store, _ids: Ids) -> None:
    race.expire_bookings(store, batch_size=3)


def recover(store: Store, _ids: Ids) -> None:
    race.recover(store, batch_size=3)


JOBS = (expire_locks, expire_bookings, recover)


# --- the state in which it is killed ---------------------------------------------------------------


def quiet_event(store: Store, _clock: Clock, free: int = 10) -> Ids:
    """An event with `free` seats, beside what others have bought, confirmed and locked."""
    event = scene.create(store, free + 6)
    bought = scene.lock(store, event, 1, "bought")
    payments.pay(store, scene.confirm(store, bought))
    scene.confirm(store, scene.lock(store, event, 2, "waiting"), HOURS)
    scene.lock(store, event, 3, "locked", ttl=HOURS, key="once")
    return {"event": event}


def with_lock(store: Store, clock: Clock) -> Ids:
    ids = quiet_event(store, clock)
    return ids | {"lock": scene.lock(store, ids["event"], 2, "buyer")}


def with_booking(store: Store, clock: Clock) -> Ids:
    ids = with_lock(store, clock)
    return ids | {"booking": scene.confirm(store, ids["lock"])}


def two_waiting(store: Store, clock: Clock) -> Ids:
    event = scene.create(store, 9)
    for user in ("one", "another"):
        scene.confirm(store, scene.lock(store, event, 2, user))
    return quiet_event(store, clock) | {"event": event}


def paid(store: Store, clock: Clock) -> Ids:
    ids = with_booking(store, clock)
    payments.pay(store, ids["booking"], "R")
    return ids


def paid_in_part(store: Store, clock: Clock) -> Ids:
    """One of its seats came back, and is paid back."""
    ids = paid(store, clock)
    cancel_some(store, ids)
    mark_done(store, ids)
    return ids


def unpaid(store: Store, clock: Clock) -> Ids:
    ids = with_booking(store, clock)
    clock.advance(minutes=16)
    expire_bookings(store, ids)
    return ids


def paid_late(store: Store, clock: Clock) -> Ids:
    ids = unpaid(store, clock)
    pay_late(store, ids)
    return ids


def paid_late_without_ref(store: Store, clock: Clock) -> Ids:
    ids = unpaid(store, clock)
    with suppress(RefundDue):
        payments.pay(store, ids["booking"])
    return ids


def paid_late_and_sold_out(store: Store, clock: Clock) -> Ids:
    ids = paid_late(store, clock)
    scene.lock(store, ids["event"], 9, "late")
    clock.advance(minutes=16)
    return ids


def sold_without_booking(store: Store, clock: Clock) -> Ids:
    ids = quiet_event(store, clock)
    sold = scene.lock(store, ids["event"], 2, "buyer")
    edit(store, "seatLocks", sold, status="CONSUMED")
    return ids | {"sold": sold}


def sold_and_waiting(store: Store, clock: Clock) -> Ids:
    ids = sold_without_booking(store, clock)
    scene.insert_booking(store, ids["event"], ids["sold"], user="buyer")
    return ids


def with_deleted_lock(store: Store, clock: Clock) -> Ids:
    ids = with_booking(store, clock)
    payments.pay(store, ids["booking"])
    scene.delete(store, "seatLocks", ids["lock"])
    return ids


def with_shared_lock(store: Store, clock: Clock) -> Ids:
    ids = with_booking(store, clock)
    return ids | {"booking": scene.insert_booking(store, ids["event"], ids["lock"], user="second")}


def with_block(store: Store, clock: Clock) -> Ids:
    ids = quiet_event(store, clock)
    return ids | {"block": blocks.block(store, BlockRequest(ids["event"], 3)).lock.id}


def closed(store: Store, clock: Clock) -> Ids:
    ids = with_block(store, clock)
    close(store, ids)
    return ids


def too_small_but_for_overdue(store: Store, clock: Clock) -> Ids:
    """An event that gets as small as what is held once the overdue seats are back."""
    return sold_out_by_overdue(store, clock) | {"seats": 7}


def closed_with_overdue(store: Store, clock: Clock) -> Ids:
    """What comes back to a closed event, by a sweep and before it by a buyer."""
    ids = overdue_on_two_events(store, clock)
    released = scene.lock(store, ids["event"], 1, "released")
    close(store, ids)
    sales.release(store, released)
    return ids


def to_cancel(store: Store, clock: Clock) -> Ids:
    """An event with locks, bookings and sales to end, beside another one."""
    ids = quiet_event(store, clock)
    event = scene.create(store, 30, "off")
    for user in ("one", "two", "three"):
        scene.lock(store, event, 1, f"{user} locked")
        scene.confirm(store, scene.lock(store, event, 1, f"{user} waiting"))
        payments.pay(store, scene.confirm(store, scene.lock(store, event, 2, f"{user} paid")))
    blocks.block(store, BlockRequest(event, 2))
    return ids | {"off": event}


def sold_out_by_overdue(store: Store, clock: Clock) -> Ids:
    ids = quiet_event(store, clock, free=4)
    for user in ("late 1", "late 2"):
        scene.lock(store, ids["event"], 1, user)
    scene.confirm(store, scene.lock(store, ids["event"], 2, "unpaid"))
    clock.advance(minutes=16)
    return ids


def overdue_on_two_events(store: Store, clock: Clock) -> Ids:
    """Overdue locks and bookings, and a lock past its deadline that a live booking keeps."""
    ids = quiet_event(store, clock)
    second = scene.create(store, 9, "second")
    for event in (ids["event"], second):
        for user in ("late 1", "late 2"):
            scene.lock(store, event, 1, user)
            scene.confirm(store, scene.lock(store, event, 1, f"unpaid {user}"))
    kept = scene.lock(store, second, 1, "kept")
    deadline = scene.lock_of(store, kept)["expiresAt"]
    scene.confirm(store, kept, HOURS)
    edit(store, "seatLocks", kept, expiresAt=deadline)
    clock.advance(minutes=16)
    return ids


def in_disorder(store: Store, clock: Clock) -> Ids:
    """One of each violation that recovery repairs, beside what is overdue."""
    ids = overdue_on_two_events(store, clock)
    event = scene.create(store, 40, "in disorder")
    _pair(store, event, "unsettled", "ACTIVE", "CONFIRMED")
    _pair(store, event, "lost", "EXPIRED", "CONFIRMED")
    _pair(store, event, "cancelled and paid", "CANCELLED", "CONFIRMED")
    _pair(store, event, "failed", "ACTIVE", "FAILED")
    _pair(store, event, "unpaid", "ACTIVE", "EXPIRED")
    _pair(store, event, "cancelled", "ACTIVE", "CANCELLED")
    _pair(store, event, "without seats", "EXPIRED", "PAYMENT_PENDING")
    scene.add(store, event, -8)  # four of them hold two each
    tight = scene.create(store, 2, "sold out but for drift")
    _pair(store, tight, "lost, counter too low", "EXPIRED", "CONFIRMED")
    edit(store, "events", tight, availableSeats=1)
    drifted = scene.create(store, 10, "drifted")
    scene.lock(store, drifted, 3, "locked", ttl=HOURS, key="drifted")
    edit(store, "events", drifted, availableSeats=4)
    _pair(store, ObjectId(), "orphan", "ACTIVE", "PAYMENT_PENDING")
    clock.advance(minutes=2)
    return ids


def without_clearance(store: Store, clock: Clock) -> Ids:
    """Overdue locks whose events cannot take their seats: nothing was taken for them, or too little, or
    there is no event."""
    ids = quiet_event(store, clock)
    too_high = scene.create(store, 9, "counter too high")
    for user in ("late 1", "late 2"):
        scene.insert_lock(store, too_high, 2, userId=user)
    scene.add(store, too_high, -1)
    overbooked = scene.create(store, 4, "overbooked")
    scene.sell(store, overbooked, 4)
    for user in ("late 1", "late 2"):
        scene.insert_lock(store, overbooked, 1, userId=user)
    scene.insert_lock(store, ObjectId(), 1, userId="of no event")
    clock.advance(minutes=2)
    return ids


def _pair(store: Store, event: Any, user: str, lock_status: str, booking_status: str) -> None:
    held = scene.insert_lock(store, event, 2, due=HOURS, userId=user, status=lock_status)
    scene.insert_booking(store, event, held, booking_status, due=HOURS, user=user)


@dataclass(frozen=True)
class Scenario:
    """A command, the state in which it meets its end, and what a retry may be told when the killed
    one had already done it."""

    command: Command
    prepare: Callable[[Store, Clock], Ids]
    refusal: type[Refused] | None = None
    idempotent: bool = True
    decides: bool = False
    """It resolves a violation that recovery leaves to a person."""


# The first word of each name is the command.
SCENARIOS = {
    "create-event": Scenario(create_event, quiet_event, idempotent=False),
    "lock": Scenario(lock, quiet_event, idempotent=False),
    "lock with key": Scenario(lock_with_key, quiet_event),
    "lock on sold-out event": Scenario(lock_with_key, sold_out_by_overdue),
    "confirm": Scenario(confirm, with_lock),
    "pay": Scenario(pay, with_booking),
    "pay --failed": Scenario(fail_payment, with_booking),
    "release": Scenario(release, with_lock, refusal=WrongState),
    "pay too late": Scenario(pay_late, unpaid),
    "pay a second time": Scenario(pay_again, paid),
    "extend": Scenario(extend, with_booking),
    "extend --event": Scenario(extend_all, two_waiting),
    "cancel": Scenario(cancel, with_booking),
    "cancel what is paid": Scenario(cancel, paid),
    "cancel the rest": Scenario(cancel, paid_in_part),
    "cancel some seats": Scenario(cancel_some, paid),
    "cancel a sold lock": Scenario(cancel, sold_without_booking, decides=True),
    "cancel a sold lock that waits": Scenario(cancel, sold_and_waiting, decides=True),
    "confirm --sold": Scenario(record_sale, sold_without_booking, decides=True),
    "confirm --sold that waits": Scenario(record_sale, sold_and_waiting, decides=True),
    "confirm --sold of a lock": Scenario(record_sale, with_lock),
    "confirm --sold of a booking": Scenario(record_sale, with_booking),
    "rebook": Scenario(rebook, paid_late),
    "rebook on sold-out event": Scenario(rebook, paid_late_and_sold_out),
    "refund": Scenario(mark_done, paid_late),
    "refund --withdraw": Scenario(withdraw, paid_late),
    "pay too late, named later": Scenario(pay_late, paid_late_without_ref),
    "relock with its lock deleted": Scenario(relock, with_deleted_lock, decides=True),
    "relock with its lock shared": Scenario(relock, with_shared_lock, decides=True),
    "create-event with key": Scenario(create_event_with_key, quiet_event),
    "edit-event": Scenario(edit_event, quiet_event),
    "resize": Scenario(resize, quiet_event),
    "resize with overdue seats": Scenario(resize, too_small_but_for_overdue),
    "resize when closed": Scenario(resize, closed),
    "block": Scenario(block, quiet_event),
    "block when sold out": Scenario(block, sold_out_by_overdue),
    "unblock": Scenario(unblock, with_block),
    "unblock when closed": Scenario(unblock, closed),
    "close": Scenario(close, with_block),
    "reopen": Scenario(reopen, closed),
    "cancel-event": Scenario(cancel_event, to_cancel),
    "expire-locks of a closed event": Scenario(expire_locks, closed_with_overdue),
    "recover with a closed event": Scenario(recover, closed_with_overdue),
    "expire-locks": Scenario(expire_locks, overdue_on_two_events),
    "expire-bookings": Scenario(expire_bookings, overdue_on_two_events),
    "recover": Scenario(recover, in_disorder),
    "recover without clearance": Scenario(recover, without_clearance),
}


# --- the matrix ------------------------------------------------------------------------------------


class Stage:
    """One scenario: its first state, to which every case returns."""

    def __init__(self, scenario: Scenario, store: Store, clock: Clock, uri: str) -> None:
        self.scenario, self.store, self.clock, self.uri = scenario, store, clock, uri
        self.ids = scenario.prepare(store, clock)
        self.documents = {name: list(store.database[name].find()) for name in COLLECTIONS}
        self.others = self._others()
        self.was_consistent = not violations(store.database)
        self.survived = 0
        """Runs that ended before their kill point: two batches in flight may meet and send more commands
        than when they do not."""

    def reset(self) -> None:
        for name, documents in self.documents.items():
            self.store.database[name].delete_many({})
            if documents:
                self.store.database[name].insert_many(documents)

    def kill(self, point: KillPoint | None) -> Trace:
        target = Target(self.uri, self.store.name, self.clock.time)
        trace = run(target, self.scenario.command, self.ids, point)
        reap(self.store.deployment.client, trace)
        settle(self.store.database)
        return trace

    def retry(self) -> bool:
        """Whether the command succeeded, or had already been done."""
        try:
            self.scenario.command(self.store, self.ids)
        except Refused as refusal:
            return isinstance(refusal, self.scenario.refusal or ())
        return True

    def recover(self) -> None:
        recover(self.store, self.ids)

    def problems(self) -> list[str]:
        """Whatever is wrong now: by the oracle, by seatctl's own audit, and with what others own."""
        found = violations(self.store.database)
        found += [violation.message for violation in verify(self.store)]
        if self._others() != self.others:
            found.append("what others had locked, confirmed or bought has changed")
        return found

    def undisturbed(self, times: int) -> Any:
        self.reset()
        for _ in range(times):
            self.retry()
        self.recover()
        return summary(self.store.database)

    def _others(self) -> list[Any]:
        """All documents of the buyers beside the command."""
        mine = {"$in": ["bought", "waiting", "locked"]}
        database = self.store.database
        return [*database.seatLocks.find({"userId": mine}), *database.bookings.find({"user": mine})]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_that_is_killed_anywhere_is_done_once_when_it_is_tried_again(
    replica: Server, store: Store, clock: Clock, name: str, rounds: Callable[[int, int], int]
) -> None:
    """Killed before or after any of its commands, a command leaves no seat sold twice; recovery makes
    everything consistent; trying again does it once; nothing acknowledged is lost."""
    stage = Stage(SCENARIOS[name], store, clock, replica.uri)
    possible = [stage.undisturbed(1), stage.undisturbed(2)]
    if stage.scenario.idempotent:
        assert possible[0] == possible[1]
    stage.reset()
    sent = stage.kill(None).sent
    assert sent.count("commitTransaction") > 0 or stage.scenario.command is create_event
    everywhere = rounds(0, 1)
    points = (all_points if everywhere else telling_points)(sent)
    ways = orders(stage.scenario, everywhere=bool(everywhere))
    cases = [(point, way) for point in points for way in ways]
    if not everywhere:  # evenly, and the ways in turn
        cases = list(zip(points[:: -(-len(points) // MOST)], cycle(ways), strict=False))
    failures = [
        f"{point} of {sent}, {order.__name__}: {problem}"
        for point, order in cases
        for problem in _case(stage, point, order, possible)
    ]
    print(f"{name}: died {len(cases) - stage.survived} times in {len(sent)} commands: {sent}")
    assert failures == []
    assert stage.survived <= len(cases) // 5


def all_points(sent: list[str]) -> list[KillPoint]:
    return [KillPoint(number, moment) for number in range(len(sent)) for moment in (BEFORE, AFTER)]


def telling_points(sent: list[str]) -> list[KillPoint]:
    """One for each state that a death can leave: before everything, and after each command that is no
    read. What comes before a command is what was there after the one before it."""
    writes = sum(command not in READS for command in sent)
    return [KillPoint(0, BEFORE)] + [KillPoint(number, AFTER, reads_count=False) for number in range(writes)]


Order = Callable[[Stage], list[str]]


def orders(scenario: Scenario, *, everywhere: bool) -> list[Order]:
    """What comes first after the death; a job's retry is its next run, a decision comes before recovery."""
    retry_first = scenario.decides or (scenario.command in JOBS and not everywhere)
    return [retry_then_recover] if retry_first else [recover_then_retry, retry_then_recover]


def _case(stage: Stage, point: KillPoint, order: Order, possible: list[Any]) -> list[str]:
    stage.reset()
    twice_before = sold_twice(stage.store.database)
    stage.survived += not stage.kill(point).killed
    problems = [] if sold_twice(stage.store.database) <= twice_before else ["seats could be sold twice"]
    if stage.was_consistent:  # nothing is ever half done
        problems += violations(stage.store.database)
    problems += order(stage)
    if not problems and summary(stage.store.database) not in possible:
        problems.append(f"ended as {summary(stage.store.database) - possible[0]}")
    return problems


def recover_then_retry(stage: Stage) -> list[str]:
    stage.recover()
    return stage.problems() + _retried(stage) + stage.problems()


def retry_then_recover(stage: Stage) -> list[str]:
    problems = _retried(stage)
    stage.recover()
    return problems + stage.problems()


def _retried(stage: Stage) -> list[str]:
    return [] if stage.retry() else ["the retry was refused"]


SAME_COMMAND = {"create_event_with_key", "lock_with_key", "pay_late", "pay_again", "cancel_some"}
"""Other ways to use a command."""


def test_every_command_is_in_the_matrix() -> None:
    """A command or job that nobody put into the matrix is noticed."""
    killed = {scenario.command.__name__ for scenario in SCENARIOS.values()}
    shared = {"too_few_seats", "refuse", "withdraw_late", "find_due_refund", "reduce_refund"}
    shared |= {"confirm_within", "earlier_lock", "is_kept_by_another"}
    shared |= {"add_to_block", "set_block", "take_unheld", "take_off_sale", "block_available"}
    shared |= {"block_what_came_back", "would_block"}
    modules = (
        *(sales, events, jobs, resizing, blocks, closing, event_cancellation),
        *(relocking, extension, cancellation, rebooking, refunds, payments),
    )
    commands = {
        name
        for module in modules
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and name.islower()
    }
    assert {name for name in commands if not name.startswith("_")} - shared == killed - SAME_COMMAND


ELSEWHERE = {
    "init": "below",
    "adopt": "below",
    "batch": "its lines are commands of the matrix",
    "demo": "its database is thrown away",
    **dict.fromkeys(("db", "schedule"), "starts a server, or writes files"),
    **dict.fromkeys(
        ("events", "locks", "bookings", "refunds", "jobs", "show", "history", "watch", "follow"), "only reads"
    ),
    **dict.fromkeys(("explain", "verify", "health", "roles", "help"), "only reads"),
}
"""Why a command of the program is not in the matrix."""


def test_every_command_of_the_program_is_in_the_matrix_or_has_a_reason_not_to_be() -> None:
    """One that takes `--reason` changes something, so none of those has."""
    killed = {name.partition(" ")[0] for name in SCENARIOS}
    assert set(program.commands) - killed == set(ELSEWHERE)
    assert killed <= set(program.commands)
    changing = {name for name, command in program.commands.items() if takes(command, "--reason")}
    print(f"{len(killed)} commands, {len(changing)} of them by an operator's decision")
    assert changing <= killed


def takes(command: Any, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)


# --- init and adopt --------------------------------------------------------------------------------


def test_init_that_is_killed_anywhere_is_completed_by_the_next(
    replica: Server, store: Store, clock: Clock, rounds: Callable[[int, int], int]
) -> None:
    """Half an `init` hinders no buyer, and the next one creates what is left."""

    def init(store: Store, _ids: Ids) -> None:
        store.init()

    target = Target(replica.uri, store.name, clock.time)
    points = telling_points(run(target, init, {}).sent)
    for point in points[:: rounds(3, 1)]:
        store.drop()
        assert run(target, init, {}, point).killed
        event = scene.create(store, 10)
        scene.confirm(store, scene.lock(store, event, 2, key="once"))
        store.init()
        assert store.missing() == []
        assert available(store, event) == 8
        assert violations(store.database) == []
    print(f"init has {len(points)} points to die at")


def adopt(store: Store, _ids: Ids) -> None:
    opened = Store.open(store.deployment)
    adoption.adopt(opened, adoption.inspect(opened))


def undo_adoption(store: Store, _ids: Ids) -> None:
    opened = Store.open(store.deployment)
    plan = adoption.plan_undo(opened)
    if plan is not None:
        adoption.undo(opened, plan)


@pytest.mark.parametrize("command", [adopt, undo_adoption])
def test_an_adoption_that_is_killed_anywhere_is_completed_by_the_next(
    replica: Server, store: Store, clock: Clock, rounds: Callable[[int, int], int], command: Command
) -> None:
    """So is its undo; and no document of the other program is ever touched."""
    backend = Backend(store.database, clock)

    def prepare() -> list[Any]:
        store.drop()
        backend.start()
        backend.confirm(backend.lock(backend.event(), 2))
        if command is undo_adoption:
            adopt(store, {})
        return documents()

    def documents() -> list[Any]:
        return [list(store.database[name].find()) for name in ("events", "seatlocks", "bookings")]

    target = Target(replica.uri, store.name, clock.time)
    prepare()
    points = telling_points(run(target, command, {}).sent)
    for point in points[:: rounds(2, 1)]:
        before = prepare()
        assert run(target, command, {}, point).killed
        command(store, {})
        complete = Store.open(store.deployment)
        assert complete.settings.adopted == (command is adopt)
        assert documents() == before
        seconds = backend.locks.index_information()["expiresAt_1"]["expireAfterSeconds"]
        assert seconds == (2**31 - 1 if command is adopt else 0)
        assert command is undo_adoption or complete.missing() == []
    print(f"{command.__name__} has {len(points)} points to die at")
