"""The rows of the table: what is done, against which floor, with which goal.

Every row measures seatctl and its floor alternately, so that whatever else the machine does meets
both, and looks at the database after each measurement: a wrong result is no result.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import data
import floors
from buyers import command_loops, crowd, sale, sweep_locks
from data import BENCH, DataSet, Result
from measure import Spent, run
from pymongo.write_concern import WriteConcern

if TYPE_CHECKING:
    from pymongo import MongoClient

FLOORS = Path(floors.__file__)


class WrongResult(Exception):
    """The program that was measured did not do its work."""


@dataclass
class Comparison:
    """One line of the table: both sides' figures, round by round."""

    row: str
    work: str
    floor: str
    goal: str
    unit: str = "s"
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def add(self, ours: float, bare: float) -> None:
        self.ours.append(ours)
        self.bare.append(bare)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: whatever slowed one round slowed both sides of it."""
        return median(ours / bare for ours, bare in zip(self.ours, self.bare, strict=True))

    def as_document(self) -> dict[str, Any]:
        medians = {"oursMedian": median(self.ours), "bareMedian": median(self.bare), "ratio": self.ratio}
        return asdict(self) | medians


@dataclass
class Bench:
    """The server, the program under test, and how much of everything."""

    client: MongoClient[dict[str, Any]]
    uri: str
    program: str
    rounds: int
    scale: int
    """The sizes of the issue are divided by this; 1 for figures, more for a smoke test."""

    @property
    def short(self) -> bool:
        return self.scale > 1

    @property
    def many_rounds(self) -> int:
        """For what takes a fraction of a second."""
        return self.rounds if self.short else self.rounds * 10

    def size(self, number: int) -> int:
        return max(1, number // self.scale)

    def seatctl(self, *arguments: str) -> Spent:
        """One command of the installed program, on the database under test."""
        return run([self.program, *arguments, "--uri", self.uri])

    def floor(self, name: str) -> Spent:
        return run([sys.executable, str(FLOORS), name, self.uri])

    def expect(self, what: str, expected: object, seen: object) -> None:
        if expected != seen:
            raise WrongResult(f"{what}: expected {expected}, found {seen}")

    def on_fresh_data(self, work: Callable[[], Spent], expected: Result) -> Spent:
        """Measure `work` on a new copy of the data set, and check what it left."""
        data.copy(self.client)
        spent = work()
        self.expect("the inventory", expected, data.look(self.client))
        return spent


def row_1(bench: Bench) -> Iterator[Comparison]:
    """`expire-locks`, whole process, with many, one and countless events."""
    locks = bench.size(100_000)
    for part, events, goal in (
        ("a", bench.size(100), "≤ 1.3"),
        ("b", 1, "≤ 2.0"),
        ("c", bench.size(100_000), "≤ 0.8"),
    ):
        work = f"expire-locks, {locks:,} locks on {events:,} event{'s'[: events != 1]}"
        comparison = Comparison(f"1{part}", work, "aggregate + update_many + $inc per event", goal)
        data.load(bench.client, data.overdue_locks(locks, events))
        _alternate(bench, comparison, "expire-locks")
        yield comparison


def row_2(bench: Bench) -> Iterator[Comparison]:
    """`expire-bookings`, whole process."""
    bookings, events = bench.size(100_000), bench.size(100)
    work = f"expire-bookings, {bookings:,} bookings on {events:,} events"
    comparison = Comparison("2", work, "the same with both collections", "≤ 1.3")
    data.load(bench.client, data.overdue_bookings(bookings, events))
    _alternate(bench, comparison, "expire-bookings")
    yield comparison


def _alternate(bench: Bench, comparison: Comparison, job: str) -> None:
    """The job and the floor of the same name, each on fresh data, in turns."""
    swept = Result(active=0, pending=0, wrong_counters=0)
    for _ in range(bench.rounds):
        ours = bench.on_fresh_data(lambda: bench.seatctl(job, "-q"), swept)
        bare = bench.on_fresh_data(lambda: bench.floor(job), swept)
        comparison.add(ours.seconds, bare.seconds)
        comparison.peak_bytes = max(comparison.peak_bytes, ours.peak_bytes)


def row_3(bench: Bench) -> Iterator[Comparison]:
    """`expire-locks` on ten times as much, against itself."""
    few, many, events = bench.size(100_000), bench.size(1_000_000), bench.size(100)
    comparison = Comparison(
        "3", f"expire-locks, {many:,} locks", f"its own, {few:,} locks", "≤ 1.2, ≤ 100 MB", "µs/lock"
    )
    swept = Result(active=0, pending=0, wrong_counters=0)
    for _ in range(bench.rounds):
        spent = {}
        for locks in (many, few):
            data.load(bench.client, data.overdue_locks(locks, events))
            spent[locks] = bench.on_fresh_data(lambda: bench.seatctl("expire-locks", "-q"), swept)
        comparison.add(spent[many].seconds / many * 1e6, spent[few].seconds / few * 1e6)
        comparison.peak_bytes = max(comparison.peak_bytes, spent[many].peak_bytes)
    yield comparison


def row_4(bench: Bench) -> Iterator[Comparison]:
    """`verify` and `recover` where nothing is wrong and hardly anything is open, as in most databases."""
    yield from _proofs(bench, "4", data.HEALTHY, "1 % open", "≤ 1.5, ≤ 100 MB")


def row_9(bench: Bench) -> Iterator[Comparison]:
    """The same where much is open."""
    yield from _proofs(bench, "9", data.BUSY, "15 % open", "≤ 6, ≤ 120 MB")


def _proofs(
    bench: Bench, row: str, pattern: tuple[data.Kind, ...], how_open: str, goal: str
) -> Iterator[Comparison]:
    locks, events = bench.size(1_000_000), bench.size(1_000)
    data.load(bench.client, data.healthy(locks, events, pattern))
    before = data.look(bench.client)
    for part, command in (("a", "verify"), ("b", "recover")):
        work = f"{command}, {locks:,} locks, {how_open}, nothing wrong"
        comparison = Comparison(f"{row}{part}", work, "one group over each", goal)
        for _ in range(bench.rounds):
            seen = _last_write(bench)
            ours = bench.seatctl(command, "-q")
            bench.expect("inventory writes", 0, _writes_since(bench, seen))
            comparison.add(ours.seconds, bench.floor("groups").seconds)
            comparison.peak_bytes = max(comparison.peak_bytes, ours.peak_bytes)
        bench.expect("the inventory", before, data.look(bench.client))
        yield comparison


def _last_write(bench: Bench) -> Any:
    return bench.client.local["oplog.rs"].find_one(sort=[("$natural", -1)])["ts"]


def _writes_since(bench: Bench, seen: Any) -> int:
    """Writes to the inventory, alone or within transactions, as the replication log tells."""
    names = [f"{BENCH}.{name}" for name in data.INVENTORY]
    written = {"$or": [{"ns": {"$in": names}}, {"o.applyOps.ns": {"$in": names}}]}
    return bench.client.local["oplog.rs"].count_documents({"ts": {"$gt": seen}, **written})


def row_5(bench: Bench) -> Iterator[Comparison]:
    """A job that finds nothing, as it does nearly every minute."""
    data.load(bench.client, data.healthy(bench.size(10_000), bench.size(100)))
    comparison = Comparison(
        "5", "expire-locks -q, nothing due", "connect, find, insert, normal exit", "≤ 0.3"
    )
    for _ in range(bench.many_rounds):
        comparison.add(bench.seatctl("expire-locks", "-q").seconds, bench.floor("nothing-due").seconds)
    yield comparison


def row_6(bench: Bench) -> Iterator[Comparison]:
    """The start of a command, against importing what it is made of."""
    events = DataSet(bench.size(10_000), 1, data.HEALTHY)
    data.load(bench.client, events)
    event, before = str(events.event_ids[0]), data.look(bench.client)
    lock = Comparison("6a", "seatctl lock", 'python -c "import typer, pymongo"', "≤ 1.1")
    help_ = Comparison("6b", "seatctl --help", 'python -c "import typer"', "≤ 1.5")
    times = bench.many_rounds
    for _ in range(times):
        ours = bench.seatctl("lock", event, "--user", "buyer", "--seats", "1", "-q")
        lock.add(ours.seconds, _import("typer, pymongo"))
        help_.add(run([bench.program, "--help"]).seconds, _import("typer"))
    after = Result(before.active + times, before.pending, before.wrong_counters)
    bench.expect("the inventory", after, data.look(bench.client))
    yield from (lock, help_)


def _import(names: str) -> float:
    return run([sys.executable, "-c", f"import {names}"]).seconds


def row_7(bench: Bench) -> Iterator[Comparison]:
    """A sweep and four buyers on one event: what each costs the other."""
    locks = bench.size(20_000)
    sweep = Comparison("7a", f"sweep of {locks:,} locks beside 4 buyers", "the same in quiet", "")
    buyers = Comparison("7b", "their p99 during the sweep", "without it", "", "ms")
    overdue = data.overdue_locks(locks, 1)
    data.load(bench.client, overdue)
    for _ in range(bench.rounds):
        data.copy(bench.client)
        quiet_begin, quiet_end = sweep_locks(bench.uri)
        quiet = sale(bench.uri, overdue.event_ids[0], 4, 0.5 if bench.short else 2)
        data.copy(bench.client)
        with crowd(bench.uri, overdue.event_ids[0], 4) as four:
            begin, end = sweep_locks(bench.uri)
            made = four.close()
        seen = data.look(bench.client)
        bench.expect("the inventory", Result(len(made.locks), 0, 0), seen)
        sweep.add(end - begin, quiet_end - quiet_begin)
        buyers.add(made.during(begin, end).p99 * 1e3, quiet.p99 * 1e3)
    yield from (sweep, buyers)


def row_8(bench: Bench) -> Iterator[Comparison]:
    """Sixteen buyers on one event."""
    size, seconds = (4, 0.5) if bench.short else (16, 5)
    through = Comparison("8a", f"{size} buyers on one event", "two bare writes per lock", "", "locks/s")
    patience = Comparison("8b", "their p99", "two bare writes per lock", "", "ms")
    empty = DataSet(0, 1, data.HEALTHY)
    data.load(bench.client, empty)
    for _ in range(bench.rounds):
        sales = []
        for bare in (False, True):
            data.copy(bench.client)
            made = sale(bench.uri, empty.event_ids[0], size, seconds, bare=bare)
            bench.expect("the inventory", Result(len(made.locks), 0, 0), data.look(bench.client))
            sales.append(made)
        ours, floor = sales
        through.add(ours.per_second, floor.per_second)
        patience.add(ours.p99 * 1e3, floor.p99 * 1e3)
    yield from (through, patience)


def row_10(bench: Bench) -> Iterator[Comparison]:
    """Shells that run `seatctl lock` in a loop: on one event they get in each other's way, on sixteen not."""
    loops, each = (2, 2) if bench.short else (16, 10)
    empty = DataSet(0, loops, data.HEALTHY)
    data.load(bench.client, empty)
    work = f"{loops} loops of `seatctl lock` on one event"
    comparison = Comparison("10", work, f"on {loops} events", "≥ 0.9", "locks/s")
    for _ in range(bench.rounds):
        per_second = []
        for events in ([empty.event_ids[0]] * loops, empty.event_ids):
            data.copy(bench.client)
            seconds = command_loops(bench.program, bench.uri, events, each)
            bench.expect("the inventory", Result(loops * each, 0, 0), data.look(bench.client))
            per_second.append(loops * each / seconds)
        comparison.add(*per_second)
    yield comparison


def row_11(bench: Bench) -> Iterator[Comparison]:
    """A batch, whole process, against a loop of the least writes that a lock needs."""
    locks = bench.size(2_000)
    empty = DataSet(0, 1, data.HEALTHY)
    event, sold = empty.event_ids[0], Result(locks, 0, 0)
    data.load(bench.client, empty)
    comparison = Comparison(
        "11", f"batch, {locks:,} lines `lock`", "two bare majority writes per lock", "≤ 2"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as lines:
        lines.writelines(f"lock {event} --user buyer-{number} --seats 1\n" for number in range(locks))
        lines.flush()
        database = bench.client.get_database(BENCH, write_concern=WriteConcern("majority"))
        for _ in range(bench.rounds):
            ours = bench.on_fresh_data(lambda: bench.seatctl("batch", lines.name, "-q"), sold)
            data.copy(bench.client)
            begin = time.perf_counter()
            for number in range(locks):
                floors.lock_bare(database, event, f"buyer-{number}")
            bare = time.perf_counter() - begin
            bench.expect("the inventory", sold, data.look(bench.client))
            comparison.add(ours.seconds, bare)
            comparison.peak_bytes = max(comparison.peak_bytes, ours.peak_bytes)
    yield comparison


def row_12(bench: Bench) -> Iterator[Comparison]:
    """`cancel-event` of paid bookings, each of which leaves a refund, against a sweep of unpaid ones."""
    bookings = bench.size(100_000)
    sold, unpaid = (DataSet(bookings, 1, (kind,)) for kind in (data.SOLD, data.OVERDUE_BOOKING))
    event = sold.event_ids[0]
    cancel = ("cancel-event", str(event), "--confirm", f"Concert {event}", "-q")
    work = f"cancel-event, {bookings:,} paid bookings"
    comparison = Comparison("12", work, "expire-bookings, as many on one event", "≤ 2")
    for _ in range(bench.rounds):
        data.load(bench.client, sold)
        its_block = Result(active=1, pending=0, wrong_counters=0)
        ours = bench.on_fresh_data(lambda: bench.seatctl(*cancel), its_block)
        bench.expect("refunds", bookings, bench.client[BENCH].refunds.count_documents({}))
        data.load(bench.client, unpaid)
        swept = Result(active=0, pending=0, wrong_counters=0)
        sweep = bench.on_fresh_data(lambda: bench.seatctl("expire-bookings", "-q"), swept)
        comparison.add(ours.seconds, sweep.seconds)
        comparison.peak_bytes = max(comparison.peak_bytes, ours.peak_bytes)
    yield comparison


ROWS: dict[str, Callable[[Bench], Iterator[Comparison]]] = {
    "1": row_1,
    "2": row_2,
    "3": row_3,
    "4": row_4,
    "5": row_5,
    "6": row_6,
    "7": row_7,
    "8": row_8,
    "9": row_9,
    "10": row_10,
    "11": row_11,
    "12": row_12,
}


def growth(bench: Bench) -> Iterator[dict[str, Any]]:
    """Time per lock against the number of locks: seatctl, the floor, one transaction per lock."""
    swept = Result(active=0, pending=0, wrong_counters=0)
    for locks in sorted({bench.size(10**power) for power in range(3, 7)}):
        data.load(bench.client, data.overdue_locks(locks, min(100, locks)))
        for _ in range(bench.rounds):
            ours = bench.on_fresh_data(lambda: bench.seatctl("expire-locks", "-q"), swept)
            bare = bench.on_fresh_data(lambda: bench.floor("expire-locks"), swept)
            few = min(locks, floors.ONE_BY_ONE)
            rest = Result(active=locks - few, pending=0, wrong_counters=0)
            single = bench.on_fresh_data(lambda: bench.floor("one-by-one"), rest)
            yield _point(locks, "seatctl", ours.seconds / locks)
            yield _point(locks, "floor", bare.seconds / locks)
            yield _point(locks, "one transaction per lock", single.seconds / few)


def _point(locks: int, way: str, seconds_per_lock: float) -> dict[str, Any]:
    return {"locks": locks, "way": way, "secondsPerLock": seconds_per_lock}
