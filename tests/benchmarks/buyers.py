"""Buyers on one event, each a process of its own, and a sweep beside them."""

from __future__ import annotations

import multiprocessing
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from statistics import quantiles
from typing import TYPE_CHECKING

import floors
from pymongo import MongoClient

from seatctl.mongo.client import connect
from seatctl.mongo.ids import parse_user
from seatctl.mongo.store import Store
from seatctl.services.jobs import JobOptions, expire_locks
from seatctl.services.sales import LockRequest
from seatctl.services.sales import lock as lock_seats

if TYPE_CHECKING:
    from bson import ObjectId

PATIENCE = 300
Span = tuple[float, float]

# Processes that were forked would share the driver's sockets with this one.
spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Sale:
    """The locks that were made, each from when to when, by the one clock of all processes."""

    locks: list[Span]

    @property
    def per_second(self) -> float:
        return len(self.locks) / (max(end for _, end in self.locks) - min(begin for begin, _ in self.locks))

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 locks did not exceed."""
        return quantiles([end - begin for begin, end in self.locks], n=100, method="inclusive")[98]

    def during(self, begin: float, end: float) -> Sale:
        """The locks that were being made at some time between."""
        return Sale([lock for lock in self.locks if begin <= lock[1] and lock[0] <= end])


@dataclass
class Crowd:
    """Buyers at work; `close` ends the sale."""

    closed: Event
    answers: Queue[list[Span]]
    size: int

    def close(self) -> Sale:
        self.closed.set()
        return Sale([lock for _ in range(self.size) for lock in self.answers.get(timeout=PATIENCE)])


@contextmanager
def crowd(uri: str, event: ObjectId, size: int, *, bare: bool = False) -> Iterator[Crowd]:
    """`size` buyers who all start at once; `bare` through the two writes of the floor."""
    gate, closed, answers = spawn.Barrier(size + 1), spawn.Event(), spawn.Queue()
    buyers = [
        spawn.Process(target=_buy, args=(uri, event, f"buyer-{number}", bare, gate, closed, answers))
        for number in range(size)
    ]
    try:
        for buyer in buyers:
            buyer.start()
        gate.wait(PATIENCE)
        yield Crowd(closed, answers, size)
    finally:
        closed.set()
        for buyer in buyers:
            buyer.join(PATIENCE)
            buyer.kill()


def sale(uri: str, event: ObjectId, size: int, seconds: float, *, bare: bool = False) -> Sale:
    """What `size` buyers achieve in that time."""
    with crowd(uri, event, size, bare=bare) as buyers:
        time.sleep(seconds)
        return buyers.close()


def _buy(
    uri: str,
    event: ObjectId,
    user: str,
    bare: bool,
    gate: Barrier,
    closed: Event,
    answers: Queue[list[Span]],
) -> None:
    if bare:
        database = MongoClient(uri).get_default_database()
        lock = lambda: floors.lock_bare(database, event, user)  # noqa: E731 - the one line that differs
    else:
        store = Store(connect(uri, None, "never"))
        request = LockRequest(event, parse_user(user), 1)
        lock = lambda: lock_seats(store, request)  # noqa: E731 - the one line that differs
    locks = []
    gate.wait(PATIENCE)
    while not closed.is_set():
        begin = time.perf_counter()
        lock()
        locks.append((begin, time.perf_counter()))
    answers.put(locks)


def sweep_locks(uri: str) -> Span:
    """One run of `expire-locks` in a process of its own, without that process's start."""
    answers: Queue[Span] = spawn.Queue()
    sweeper = spawn.Process(target=_sweep, args=(uri, answers))
    sweeper.start()
    span = answers.get(timeout=PATIENCE)
    sweeper.join(PATIENCE)
    return span


def _sweep(uri: str, answers: Queue[Span]) -> None:
    store = Store(connect(uri, None, "never"))
    begin = time.perf_counter()
    expire_locks(store, JobOptions())
    answers.put((begin, time.perf_counter()))


def command_loops(program: str, uri: str, events: Sequence[ObjectId], each: int) -> float:
    """Seconds until loops at once, one for each of these events, have run `seatctl lock` `each` times."""
    line = 'for _ in $(seq "$4"); do "$1" lock "$2" --user buyer --seats 1 -q --uri "$3" || exit 1; done'
    begin = time.perf_counter()
    loops = [
        subprocess.Popen(
            ["/bin/sh", "-c", line, "sh", program, str(event), uri, str(each)], stdout=subprocess.DEVNULL
        )
        for event in events
    ]
    if {loop.wait(PATIENCE) for loop in loops} != {0}:
        raise RuntimeError("a `seatctl lock` failed")
    return time.perf_counter() - begin
