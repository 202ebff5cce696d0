"""The auditor: random commands, jobs and foreign edits, each answer and the whole database compared
with a ledger that was written from the promises alone.

A failure prints the shortest run that shows it, and the seed that replays it (`--seed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from bson import ObjectId
from conftest import Clock, fresh_store
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger import Answer, Document, Ledger, Refusal, Tally

from seatctl.domain.model import JobType
from seatctl.errors import SeatctlError
from seatctl.mongo import schema
from seatctl.services import jobs as joblog
from seatctl.services import sales as booking
from seatctl.services.audit import Fault, find_all
from seatctl.services.expiry import BATCH, Sweep, booking_sweep, lock_sweep, sweep
from seatctl.services.recovery import recover
from seatctl.services.seats import Terms

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

NOWHERE = ObjectId("0" * 24)
USERS = {"ann": "ann", "5f43a1e8c2d4b6a7f8091a2b": ObjectId("5f43a1e8c2d4b6a7f8091a2b")}
"""As typed, and as the contract has them stored."""

COMMON_REFUSALS = {"not_found", "sold_out", "key_reused", "wrong_state", "deadline_passed"}
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
few_seats = st.integers(1, 4)
lock_ttls = st.sampled_from([MINUTE, 10 * MINUTE])
payment_ttls = st.sampled_from([MINUTE, 15 * MINUTE])
steps = st.sampled_from([SECOND, 59 * SECOND, MINUTE, 9 * MINUTE, 11 * MINUTE, 16 * MINUTE])
booking_states = st.sampled_from(["PAYMENT_PENDING", "PAYMENT_PENDING", "CONFIRMED", "FAILED", "EXPIRED"])
which = st.integers(0, 7)


class Auditor(RuleBasedStateMachine):
    """Each rule does one thing to the database through seatctl, or by a foreign hand, and the same to
    the ledger."""

    events = Bundle("events")
    locks = Bundle("locks")
    bookings = Bundle("bookings")

    def __init__(self, opened: Callable[[], Any], refusals: Counter[str]) -> None:
        super().__init__()
        self.refusals = refusals
        self.opened = opened()
        self.store, self.clock = self.opened.__enter__()
        self.database = self.store.database
        self.ledger = Ledger(atomic=self.store.transactions)

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)

    # --- commands --------------------------------------------------------------------------------

    @initialize(target=events, seats=st.integers(4, 8))
    def first_event(self, seats: int) -> ObjectId:
        return self.create_event(seats)

    @precondition(lambda self: len(self.ledger.events) < 3)
    @rule(target=events, seats=st.integers(1, 8))
    def another_event(self, seats: int) -> ObjectId:
        return self.create_event(seats)

    def create_event(self, seats: int) -> Any:
        date = self.clock() + timedelta(days=30)
        created = self.audit(
            partial(booking.create_event, self.store, "Concert", seats, date),
            lambda new: self.ledger.create_event(self.clock(), new, "Concert", seats, date),
        )
        assert created
        return created["_id"]

    @rule(
        target=locks,
        event=events,
        user=st.sampled_from(list(USERS)),
        seats=few_seats,
        key=st.sampled_from([None, "k1", "k2"]),
        ttl=lock_ttls,
    )
    def lock(self, event: ObjectId, user: str, seats: int, key: str | None, ttl: timedelta) -> Any:
        return self.new_one(
            self.ledger.locks,
            partial(booking.lock, self.store, event, user, seats, key=key, ttl=ttl),
            lambda new: self.ledger.lock(self.clock(), new, event, USERS[user], seats, key, ttl),
        )

    @precondition(lambda self: self.keyed())
    @rule(target=locks, which=which, more=st.sampled_from([0, 1, 1]))
    def lock_again(self, which: int, more: int) -> Any:
        """The same key again: the same request, or another one."""
        lock = pick(self.keyed(), which)
        user = next(typed for typed, stored in USERS.items() if stored == lock["userId"])
        return self.lock(lock["eventId"], user, lock["seats"] + more, lock["idempotencyKey"], MINUTE)

    @rule(target=bookings, lock=locks, ttl=payment_ttls)
    def confirm(self, lock: ObjectId, ttl: timedelta) -> Any:
        return self.confirm_lock(lock, ttl)

    @rule(target=bookings, lock=locks, late=st.booleans())
    def confirm_at_the_deadline(self, lock: ObjectId, late: bool) -> Any:
        self.move_to(self.ledger.locks[lock]["expiresAt"], late)
        return self.confirm_lock(lock, 15 * MINUTE)

    @rule(booking_id=bookings, late=st.booleans())
    def pay_at_the_deadline(self, booking_id: ObjectId, late: bool) -> None:
        self.move_to(self.ledger.bookings[booking_id]["paymentExpiresAt"], late)
        self.pay(booking_id)

    def move_to(self, deadline: datetime, late: bool) -> None:
        """To the deadline, or to the last millisecond before it, unless that is past already."""
        self.clock.time = max(self.clock.time, deadline - (not late) * timedelta(milliseconds=1))

    def confirm_lock(self, lock: ObjectId, ttl: timedelta) -> Any:
        return self.new_one(
            self.ledger.bookings,
            partial(booking.confirm, self.store, lock, payment_ttl=ttl),
            lambda new: self.ledger.confirm(self.clock(), new, lock, ttl),
        )

    @rule(booking_id=bookings)
    def pay(self, booking_id: ObjectId) -> None:
        self.audit(
            partial(booking.pay, self.store, booking_id),
            lambda _: self.ledger.pay(self.clock(), booking_id),
        )

    @rule(booking_id=bookings)
    def fail(self, booking_id: ObjectId) -> None:
        self.audit(
            partial(booking.fail, self.store, booking_id),
            lambda _: self.ledger.fail(self.clock(), booking_id),
        )

    @rule(lock=locks)
    def release(self, lock: ObjectId) -> None:
        self.audit(
            partial(booking.release, self.store, lock), lambda _: self.ledger.release(self.clock(), lock)
        )

    @rule(wrong=events | st.just(NOWHERE))
    def unknown_id(self, wrong: ObjectId) -> None:
        """An id that nothing has, or that belongs to something else."""
        self.confirm_lock(wrong, MINUTE)
        self.pay(wrong)
        self.fail(wrong)
        self.release(wrong)
        self.lock(NOWHERE, "ann", 1, None, MINUTE)

    # --- time and jobs ---------------------------------------------------------------------------

    @rule(step=steps)
    def time_passes(self, step: timedelta) -> None:
        self.clock.time += step

    @rule(since=st.sampled_from([timedelta(0), -MINUTE, 16 * MINUTE]), batch=st.integers(1, 3))
    def expire_locks(self, since: timedelta, batch: int) -> None:
        self.expire(JobType.LOCK_EXPIRY, lock_sweep(self.store), self.ledger.expire_locks, since, batch)

    @rule(since=st.sampled_from([timedelta(0), -MINUTE, 16 * MINUTE]), batch=st.integers(1, 3))
    def expire_bookings(self, since: timedelta, batch: int) -> None:
        kind = booking_sweep(self.store)
        self.expire(JobType.BOOKING_EXPIRY, kind, self.ledger.expire_bookings, since, batch)

    def expire(
        self, job: JobType, kind: Sweep, predict: Callable[..., Tally], since: timedelta, batch: int
    ) -> None:
        """One run of a sweep as of `since` from now, after a dry run that must tell the same."""
        now = self.clock()
        terms = Terms(now, overdue_at=now + since)
        # Which locks a wrong counter can still take depends on how they are put together.
        batch_size = BATCH if self.ledger.violations() else batch

        def work(run: joblog.Run) -> None:
            for done in sweep(self.store, kind, terms, batch_size=batch_size, dry_run=run.dry_run):
                run.record(done)

        told, _ = joblog.run(self.store, job, work, dry_run=True)
        self.compare_documents()
        joblog.run(self.store, job, work)
        predict(now, now + since)
        assert self.ledger.runs[-1] == outline(told)

    @rule()
    def recover(self) -> None:
        found = {finding.fault for finding in find_all(self.store)}
        entry, run = joblog.run(self.store, JobType.RECOVERY, partial(recover, self.store))
        done = self.ledger.recover(self.clock())
        drifts = {
            step["event"]: step["outcome"]
            for step in run.steps
            if step["fault"] == Fault.COUNTER_DRIFT and "event" in step
        }
        assert set(done.corrected) == {e for e, outcome in drifts.items() if outcome == "corrected"}
        assert done.left == {e for e, outcome in drifts.items() if outcome.startswith("left")}
        assert found or not run.repairs
        assert entry["status"] == done.status

    # --- foreign hands ---------------------------------------------------------------------------

    @rule(
        target=locks,
        event=events | events | events | st.just(NOWHERE),
        seats=few_seats,
        counted=st.booleans(),
        ttl=lock_ttls,
    )
    def foreign_lock(self, event: ObjectId, seats: int, counted: bool, ttl: timedelta) -> ObjectId:
        """By hand: no key, no oldStatus, no createdAt; and the counter perhaps forgotten."""
        lock = {
            "_id": ObjectId(),
            "eventId": event,
            "userId": "somebody",
            "seats": seats,
            "status": "ACTIVE",
            "expiresAt": self.clock() + ttl,
            "note": {"by": "hand"},
        }
        self.database.seatLocks.insert_one(dict(lock))
        self.ledger.locks[lock["_id"]] = lock
        if counted and event in self.ledger.events:
            self.set_counter(event, self.ledger.events[event]["availableSeats"] - seats)
        return lock["_id"]

    @precondition(lambda self: self.unconfirmed())
    @rule(
        target=bookings,
        which=which,
        status=booking_states,
        ttl=payment_ttls,
        other=events,
        astray=st.sampled_from([False] * 5 + [True]),
    )
    def foreign_booking(
        self, which: int, status: str, ttl: timedelta, other: ObjectId, astray: bool
    ) -> ObjectId:
        """By a program that does not touch the lock, and perhaps takes one event for another."""
        lock = pick(self.unconfirmed(), which)
        return self.insert_booking(other if astray else lock["eventId"], lock["_id"], status, ttl)

    @precondition(lambda self: self.paid())
    @rule(which=which, returned=st.booleans())
    def foreign_end_of_a_paid_lock(self, which: int, returned: bool) -> None:
        """Another program's expiry job does not look at the booking."""
        lock = pick(self.paid(), which)
        self.edit("seatLocks", lock, {"status": "EXPIRED"})
        event = self.ledger.events.get(lock["eventId"])
        if event and returned:
            self.set_counter(event["_id"], event["availableSeats"] + lock["seats"])

    @rule(target=bookings, event=events, status=booking_states, ttl=payment_ttls)
    def foreign_booking_without_lock(self, event: ObjectId, status: str, ttl: timedelta) -> ObjectId:
        return self.insert_booking(event, ObjectId(), status, ttl)

    def insert_booking(self, event: ObjectId, lock: ObjectId, status: str, ttl: timedelta) -> ObjectId:
        document = {
            "_id": ObjectId(),
            "event": event,
            "user": "somebody",
            "seatLockId": lock,
            "status": status,
            "paymentExpiresAt": self.clock() + ttl,
            "invoice": 4711,
        }
        self.database.bookings.insert_one(dict(document))
        self.ledger.bookings[document["_id"]] = document
        return document["_id"]

    @rule(event=events, by=st.integers(-3, 3), stamped=st.booleans())
    def foreign_counter(self, event: ObjectId, by: int, stamped: bool) -> None:
        self.set_counter(event, self.ledger.events[event]["availableSeats"] + by, stamped=stamped)

    @precondition(lambda self: self.ledger.locks)
    @rule(which=which, status=st.sampled_from(["EXPIRED", "CONSUMED"]))
    def foreign_lock_status(self, which: int, status: str) -> None:
        """Another program ends a lock and forgets the seats, or the booking."""
        self.edit("seatLocks", pick(list(self.ledger.locks.values()), which), {"status": status})

    @rule(event=events)
    def foreign_field(self, event: ObjectId) -> None:
        self.edit("events", self.ledger.events[event], {"venue": ["hall", 3]})

    def set_counter(self, event: ObjectId, available: int, *, stamped: bool = True) -> None:
        changes: Document = {"availableSeats": available}
        if stamped:
            changes["updatedAt"] = self.clock()
        self.edit("events", self.ledger.events[event], changes)

    def edit(self, collection: str, document: Document, changes: Document) -> None:
        self.database[collection].update_one({"_id": document["_id"]}, {"$set": changes})
        document.update(changes)

    def keyed(self) -> list[Document]:
        return [lock for lock in self.ledger.locks.values() if "idempotencyKey" in lock]

    def paid(self) -> list[Document]:
        return [lock for lock in self.ledger.locks.values() if lock["status"] == "CONSUMED"]

    def unconfirmed(self) -> list[Document]:
        return [lock for lock in self.ledger.locks.values() if not self.ledger.booking_of(lock["_id"])]

    # --- comparing -------------------------------------------------------------------------------

    def new_one(
        self, known: dict[ObjectId, Document], command: Callable[[], Any], predict: Callable[[Any], Answer]
    ) -> Any:
        """The id of what a command made, for the rules that follow; nothing if it made nothing."""
        before = set(known)
        document = self.audit(command, predict)
        return document["_id"] if document and document["_id"] not in before else multiple()

    def audit(self, command: Callable[[], Any], predict: Callable[[Any], Answer]) -> Document | None:
        """Compare a command's answer, or its refusal, with the ledger's; returns the document."""
        done, refused = attempt(command, SeatctlError)
        answer, refusal = attempt(lambda: predict(done and done.document["_id"]), Refusal)
        assert (refusal and refusal.code) == (refused and refused.code), refused
        if done is None:
            self.refusals[refusal.code] += 1
            assert refusal.says in str(refused)
            return None
        assert answer == Answer(done.document, done.changed, done.available)
        return done.document

    @invariant()
    def everything_is_as_the_ledger_says(self) -> None:
        self.compare_documents()
        self.compare_violations()

    def compare_documents(self) -> None:
        assert self.ledger.events == self.stored("events")
        assert self.ledger.locks == self.stored("seatLocks")
        assert self.ledger.bookings == self.stored("bookings")
        assert self.ledger.runs == [outline(entry) for entry in self.database.jobLogs.find()]

    def stored(self, collection: str) -> dict[ObjectId, Document]:
        return {document["_id"]: document for document in self.database[collection].find()}

    def compare_violations(self) -> None:
        """Each violation is found, and nothing else."""
        wrong = [ids for _, ids in self.ledger.violations()]
        found = [
            {finding.lock, finding.booking} - {None} or {finding.event} for finding in find_all(self.store)
        ]
        assert [ids for ids in wrong if not any(ids & one for one in found)] == []
        assert [one for one in found if not any(ids & one for ids in wrong)] == []


def attempt(action: Callable[[], Any], kind: type[Exception]) -> tuple[Any, Any]:
    """What `action` returns, or its error of the kind that is an answer too."""
    try:
        return action(), None
    except kind as error:
        return None, error


def outline(entry: Document) -> Document:
    """A log entry without what no ledger can know: where it ran, how long, in which words."""
    numbers = ("recordsProcessed", "seatsRestored", "locksExpired", "bookingsExpired", "resourcesRecovered")
    details = {name: entry["details"][name] for name in numbers if name in entry["details"]}
    assert ("error" in entry) == (entry["status"] == "FAILED")
    return {name: entry[name] for name in ("jobType", "executedAt", "status")} | {"details": details}


def pick(documents: list[Document], which: int) -> Document:
    return documents[which % len(documents)]


@pytest.mark.parametrize(
    ("kind", "short", "long"),
    [("mongomock", 150, 5000), ("standalone", 15, 500), ("replica", 15, 500)],
)
def test_every_answer_and_every_document_is_as_promised(
    kind: str,
    short: int,
    long: int,
    request: pytest.FixtureRequest,
    rounds: Callable[[int, int], int],
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is done in whatever order, seatctl answers and leaves what the ledger says."""

    @contextmanager
    def opened() -> Iterator[tuple[Store, Clock]]:
        clock = Clock()
        for store in fresh_store(kind, request, clock):
            if kind == "mongomock":  # which builds a partial index only while nothing is to be left out
                for guard in schema.GUARDS:
                    guard.create(store.database)
                monkeypatch.setattr(schema, "ensure_guard", lambda *_: None)
            yield store, clock

    refusals: Counter[str] = Counter()

    def machine() -> Auditor:
        return Auditor(opened, refusals)

    thorough = settings(
        max_examples=rounds(short, long),
        stateful_step_count=30,
        deadline=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=thorough)
    if kind == "mongomock":  # with fewer examples it is left to chance
        assert set(refusals) >= COMMON_REFUSALS, "the search looks in the wrong places"


# --- what the auditor found, as short as it gets -------------------------------------------------


def sold_but_returned(store: Store, *, seats: int, total: int) -> tuple[ObjectId, ObjectId]:
    """An event and a paid lock on it that another program set to EXPIRED, its seats returned."""
    event = booking.create_event(store, "Concert", total, timedelta(days=30)).document["_id"]
    lock = booking.lock(store, event, "ann", seats).document["_id"]
    booking.pay(store, booking.confirm(store, lock).document["_id"])
    store.database.seatLocks.update_one({"_id": lock}, {"$set": {"status": "EXPIRED"}})
    store.database.events.update_one({"_id": event}, {"$set": {"availableSeats": total}})
    return event, lock


def run_recovery(store: Store) -> joblog.Run:
    return joblog.run(store, JobType.RECOVERY, partial(recover, store))[1]


def test_recovery_does_not_sell_twice_because_a_counter_is_too_high(store: Store, clock: Clock) -> None:
    """Whether an event still has the seats of a paid lock is for its locks to say: with all seats held
    by others, recovery reports it as oversold and leaves it, whatever the counter says."""
    event, lock = sold_but_returned(store, seats=2, total=2)
    other = booking.lock(store, event, "ben", 2).document["_id"]
    store.database.events.update_one({"_id": event}, {"$set": {"availableSeats": 2}})
    clock.advance(minutes=2)
    run = run_recovery(store)
    outcome = next(step["outcome"] for step in run.steps if step.get("lock") == lock)
    assert outcome.startswith("oversold")
    assert store.lock(lock)["status"] == "EXPIRED"
    assert store.lock(other)["status"] == "ACTIVE"
    assert store.event(event)["availableSeats"] == 0


def test_recovery_changes_nothing_about_what_is_oversold(store: Store, clock: Clock) -> None:
    """A paid lock whose seats are gone is reported; its event keeps even its `updatedAt`."""
    event, _ = sold_but_returned(store, seats=2, total=2)
    store.database.seatLocks.insert_one(
        {
            "eventId": event,
            "userId": "ben",
            "seats": 3,
            "status": "ACTIVE",
            "expiresAt": clock() + timedelta(hours=1),
        }
    )
    store.database.events.update_one({"_id": event}, {"$set": {"availableSeats": 0}})
    before = store.event(event)
    clock.advance(minutes=2)
    run_recovery(store)
    assert store.event(event) == before


@pytest.mark.parametrize("kind", ["mongomock", "standalone"])
@pytest.mark.parametrize("seconds", [0, 0.001, 59])
def test_without_transactions_a_fresh_counter_is_left(
    kind: str, seconds: float, request: pytest.FixtureRequest, clock: Clock
) -> None:
    """A lock command may have taken its seats and not yet inserted its lock: its event is left alone
    for a minute, also by a recovery that begins within the same millisecond."""
    for store in fresh_store(kind, request, clock):
        event = booking.create_event(store, "Concert", 5, timedelta(days=30)).document["_id"]
        clock.advance(minutes=2)
        store.take_seats(event, 2, None)
        clock.advance(seconds=seconds)
        run_recovery(store)
        assert store.event(event)["availableSeats"] == 3


@pytest.mark.parametrize("kind", ["mongomock", "standalone"])
def test_without_transactions_taking_seats_again_does_not_hide_a_fresh_change(
    kind: str, request: pytest.FixtureRequest, clock: Clock
) -> None:
    """Recovery's own change of an event must not make it look quiet to the step that comes after."""
    for store in fresh_store(kind, request, clock):
        event, lock = sold_but_returned(store, seats=1, total=5)
        clock.advance(minutes=2)
        store.take_seats(event, 2, None)
        clock.advance(seconds=1)
        run_recovery(store)
        assert store.lock(lock)["status"] == "CONSUMED"
        assert store.event(event)["availableSeats"] == 2


def test_each_counter_that_recovery_corrects_is_reported(store: Store, clock: Clock) -> None:
    """Also the counter that was too low to take a paid lock's seats again."""
    event, lock = sold_but_returned(store, seats=2, total=2)
    store.database.events.update_one({"_id": event}, {"$set": {"availableSeats": 0}})
    clock.advance(minutes=2)
    run = run_recovery(store)
    assert store.lock(lock)["status"] == "CONSUMED"
    assert [step["outcome"] for step in run.steps if step["fault"] == Fault.COUNTER_DRIFT] == ["corrected"]
