"""Real processes that act at the same instant, each with a client of its own.

A crew is started once and runs many rounds: a process costs half a second, a round milliseconds.
Its processes come from a fork server, so no client and no thread ever crosses a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from unittest import mock

from seatctl.domain.documents import BookingId, EventId, LockId, SeatLock, UserId
from seatctl.domain.rules import BATCH
from seatctl.domain.states import JobStatus, JobType
from seatctl.errors import Closed, Refused, SeatctlError, SoldOut, WrongState
from seatctl.mongo.client import Deployment, connect
from seatctl.mongo.failures import translate
from seatctl.mongo.store import Store
from seatctl.services import (
    cancellation,
    event_cancellation,
    extension,
    jobs,
    payments,
    rebooking,
    resizing,
    sales,
)
from seatctl.services.cancellation import CancelRequest, CancelResult
from seatctl.services.event_cancellation import CancelEventRequest, CancelEventResult
from seatctl.services.extension import ExtendRequest, ExtendResult
from seatctl.services.job_report import JobReport
from seatctl.services.jobs import JobOptions
from seatctl.services.rebooking import RebookRequest, RebookResult
from seatctl.services.resizing import ResizeRequest, ResizeResult
from seatctl.services.sales import ConfirmRequest, ConfirmResult, LockRequest, LockResult

PATIENCE = 200.0
"""Seconds before a silent process counts as hung: longer than a transaction starts over."""

T = TypeVar("T")
Entry = dict[str, Any]
"""An entry of the job log."""

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["race"])


@dataclass(frozen=True)
class Call:
    """One thing that one process does: `action(store, *arguments)` under a clock that stands at
    `now` (None: the server's own), `delay` seconds after the others may start."""

    action: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    now: datetime | None = None
    delay: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What a call returned, or the error that the command line would report."""

    value: Any = None
    error: SeatctlError | None = None


class Crew:
    """Processes that wait for calls, meet at a barrier, and act."""

    def __init__(self, uri: str, size: int) -> None:
        _start_fork_server()
        self.barriers = {parties: context.Barrier(parties) for parties in range(1, size + 1)}
        self.members = [self._hire(uri) for _ in range(size)]
        self.busy = 0

    def _hire(self, uri: str) -> tuple[Any, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_member, args=(uri, theirs, self.barriers), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def race(self, database: str, *calls: Call) -> list[Answer]:
        """Make these calls at the same instant and wait for all answers, in the calls' order."""
        self.start(database, *calls)
        return self.answers()

    def start(self, database: str, *calls: Call) -> None:
        self.busy = len(calls)
        for (_, pipe), call in zip(self.members, calls, strict=False):
            pipe.send((database, call, self.busy))

    def has_answered(self) -> bool:
        """Whether any of them has already ended."""
        return any(pipe.poll() for _, pipe in self.members[: self.busy])

    def answers(self) -> list[Answer]:
        return [_receive(pipe) for _, pipe in self.members[: self.busy]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self.members:
            process.kill()
        for process, _ in self.members:
            process.join()


def _start_fork_server() -> None:
    """Start it where it finds this module: Python 3.11 forgets `sys.path` on the way, preloads nothing and
    tells nobody, and then each of 16 processes spends half a second on its imports."""
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):
        forkserver.ensure_running()


def _receive(pipe: Connection) -> Answer:
    if not pipe.poll(PATIENCE):
        raise TimeoutError(f"a process gave no answer for {PATIENCE} s")
    answer: Answer = pipe.recv()
    return answer


def _member(uri: str, pipe: Connection, barriers: dict[int, Barrier]) -> None:
    deployment = connect(uri, None, "race")
    while True:
        database, call, parties = pipe.recv()
        store = _store(deployment, database, call.now)
        barriers[parties].wait(PATIENCE)
        time.sleep(call.delay)
        pipe.send(_answer(store, call))


def _store(deployment: Deployment, database: str, now: datetime | None) -> Store:
    clock = None if now is None else lambda: now
    return Store(Deployment(deployment.client, database, clock=clock))


def _answer(store: Store, call: Call) -> Answer:
    try:
        return Answer(call.action(store, *call.arguments))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
        return Answer(error=translate(error))


# --- what a process may be asked to do -------------------------------------------------------------


def lock(store: Store, event: EventId, user: str, key: str | None = None) -> LockResult:
    """Lock one seat."""
    return sales.lock(store, LockRequest(event, UserId(user), 1, key=key))


def confirm(store: Store, lock_id: LockId) -> ConfirmResult:
    return sales.confirm(store, ConfirmRequest(lock_id))


def extend(store: Store, wanted: object, until: datetime) -> ExtendResult:
    return extension.extend(store, ExtendRequest(wanted, until))


def cancel(store: Store, wanted: object) -> CancelResult:
    return cancellation.cancel(store, CancelRequest(wanted))


def rebook(store: Store, booking_id: BookingId) -> RebookResult:
    return rebooking.rebook(store, RebookRequest(booking_id))


def expire_locks(store: Store, as_of: datetime | None = None, batch_size: int = BATCH) -> Entry:
    """One run of `expire-locks`; returns its log entry."""
    return _entry(jobs.expire_locks(store, JobOptions(as_of, force=True, batch_size=batch_size)))


def expire_bookings(store: Store, as_of: datetime | None = None, batch_size: int = BATCH) -> Entry:
    """One run of `expire-bookings`; returns its log entry."""
    return _entry(jobs.expire_bookings(store, JobOptions(as_of, force=True, batch_size=batch_size)))


def recover(store: Store, batch_size: int = BATCH) -> Entry:
    """One run of `recover` that believes every drift at once; returns its log entry."""
    return _entry(jobs.recover(store, JobOptions(batch_size=batch_size, settle=timedelta())))


def resize(store: Store, event: EventId, seats: int) -> ResizeResult:
    return resizing.resize(store, ResizeRequest(event, seats))


def cancel_event(store: Store, event: EventId, name: str, batch_size: int = BATCH) -> CancelEventResult:
    return event_cancellation.cancel_event(store, CancelEventRequest(event, name, batch_size=batch_size))


def _entry(report: JobReport) -> Entry:
    return dict(report.run)


def recover_often(store: Store, times: int) -> list[Entry]:
    return [recover(store) for _ in range(times)]


def buy_until_swept(store: Store, event: EventId, user: str) -> int:
    """Lock seats of an event until a sweep has logged its end; returns how many."""
    bought = 0
    while bought == 0 or store.job_logs.last(JobType.LOCK_EXPIRY, store.now()) is None:
        lock(store, event, user)
        bought += 1
    return bought


@dataclass
class Diary:
    """What one buyer, or one process that runs the jobs, was told."""

    paid: dict[BookingId, int] = field(default_factory=dict)
    """Seats by booking, for each payment that was acknowledged."""
    returned: list[LockId] = field(default_factory=list)
    """Locks whose seats were acknowledged to be returned."""
    waiting: list[LockId] = field(default_factory=list)
    """Locks that were acknowledged and left to a payment that never comes."""
    errors: list[SeatctlError] = field(default_factory=list)
    """What failed before it was tried again."""
    runs: list[Entry] = field(default_factory=list)


@dataclass
class Shopper:
    """A buyer who sends a command that failed again, with the same key, until there is an answer."""

    store: Store
    name: str
    seed: int
    diary: Diary = field(default_factory=Diary)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def purchase(self, event: EventId, number: int) -> None:
        """Lock seats, then do with the lock one of the things that buyers do."""
        seats = self.random.randint(1, 3)
        ending = self.random.choice(("pay", "pay", "pay", "fail", "release", "wait"))
        request = LockRequest(event, UserId(self.name), seats, key=f"{self.name}-{number}")
        try:
            held = self.insist(lambda: sales.lock(self.store, request)).lock
        except (SoldOut, Closed):
            return
        getattr(self, ending)(held)

    def pay(self, held: SeatLock) -> None:
        booked = self.insist(lambda: confirm(self.store, held.id)).booking
        self.insist(lambda: payments.pay(self.store, booked.id))
        self.diary.paid[booked.id] = held.seats

    def fail(self, held: SeatLock) -> None:
        booked = self.insist(lambda: confirm(self.store, held.id)).booking
        self.insist(lambda: payments.fail_payment(self.store, booked.id))
        self.diary.returned.append(held.id)

    def wait(self, held: SeatLock) -> None:
        self.insist(lambda: confirm(self.store, held.id))
        self.diary.waiting.append(held.id)

    def release(self, held: SeatLock) -> None:
        before = len(self.diary.errors)
        try:
            self.insist(lambda: sales.release(self.store, held.id))
        except WrongState:
            # The first try did it and its answer was lost: a lock is released once.
            if len(self.diary.errors) == before:
                raise
        self.diary.returned.append(held.id)

    def insist(self, command: Callable[[], T]) -> T:
        while True:
            try:
                return command()
            except Exception as error:
                explained = translate(error)
                if explained.exit_code not in (1, 10) or len(self.diary.errors) > 1_000:
                    raise
                self.diary.errors.append(explained)
                time.sleep(0.05)


def shop(store: Store, events: Sequence[EventId], name: str, seed: int, purchases: int) -> Diary:
    """So many purchases, one after the other."""
    shopper = Shopper(store, name, seed)
    for number in range(purchases):
        shopper.purchase(shopper.random.choice(events), number)
    return shopper.diary


def shop_until(store: Store, events: Sequence[EventId], name: str, seed: int, stop: Path) -> Diary:
    """Purchases until the file `stop` appears."""
    shopper = Shopper(store, name, seed)
    number = 0
    while not stop.exists():
        shopper.purchase(shopper.random.choice(events), number)
        number += 1
    return shopper.diary


def buy_until_closed(store: Store, event: EventId, user: str) -> tuple[list[LockId], list[BookingId]]:
    """Lock seats of an event and pay for every second lock, until it is closed or what was bought is gone;
    returns the locks that were acknowledged, and the bookings whose payment was."""
    locks: list[LockId] = []
    paid: list[BookingId] = []
    while True:
        try:
            locks.append(lock(store, event, user).lock.id)
            if len(locks) % 2:
                paid_now = confirm(store, locks[-1]).booking.id
                payments.pay(store, paid_now)
                paid.append(paid_now)
        except Refused:
            return locks, paid


def run_jobs_until(store: Store, stop: Path) -> Diary:
    """Run the three jobs one after the other until the file `stop` appears."""
    diary = Diary()
    while not stop.exists():
        for job in (expire_locks, expire_bookings, recover):
            try:
                diary.runs.append(job(store))
            except Exception as error:  # noqa: BLE001 - a job that failed runs again a minute later
                diary.errors.append(translate(error))
                time.sleep(0.05)
    return diary


def complaints(runs: Sequence[Entry]) -> list[str]:
    """Why these runs were no success, for those that were none."""
    return [run["error"] for run in runs if run["status"] != JobStatus.SUCCESS]
