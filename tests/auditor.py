"""The auditor: a machine that does random commands and jobs, and compares each answer and the whole
database with what it must be.

While every document can be read, the ledger predicts everything. Where one cannot, `safety.unsafe`
judges what each step did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from aftersales import RECORDED, AfterSales
from bson import ObjectId
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from ledger import NEVER, Answer, Refusal, Tally
from safety import (
    Picture,
    Step,
    booking_is_readable,
    event_is_readable,
    lock_is_readable,
    may_be_live,
    may_hold,
    protectors,
    unsafe,
)

from seatctl.domain.rules import BATCH
from seatctl.domain.states import Fault
from seatctl.errors import SeatctlError
from seatctl.services import (
    blocks,
    cancellation,
    closing,
    extension,
    jobs,
    payments,
    rebooking,
    refunds,
    sales,
)
from seatctl.services.event_cancellation import CancelEventRequest, cancel_event
from seatctl.services.events import CreateEventRequest, create_event
from seatctl.services.job_report import Outcome
from seatctl.services.resizing import ResizeRequest, resize
from seatctl.services.verify import verify

if TYPE_CHECKING:
    from conftest import Clock
    from oracle import Document

    from seatctl.domain.documents import Booking, Refund, SeatLock
    from seatctl.mongo.store import Store

NOWHERE = ObjectId("0" * 24)
USERS = {"ann": "ann", "5f43a1e8c2d4b6a7f8091a2b": ObjectId("5f43a1e8c2d4b6a7f8091a2b")}
"""As typed, and as the contract has them stored."""

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
AT_ONCE = jobs.JobOptions(settle=timedelta(0))
few_seats = st.integers(1, 4)
lock_ttls = st.sampled_from([MINUTE, 10 * MINUTE])
payment_ttls = st.sampled_from([None, MINUTE, 15 * MINUTE])
times_passing = st.sampled_from([SECOND, 59 * SECOND, MINUTE, 9 * MINUTE, 11 * MINUTE, 16 * MINUTE])
moved = st.sampled_from([timedelta(0), -MINUTE, 16 * MINUTE])
which = st.integers(0, 7)
refs = st.sampled_from([None, "R", "S"])


class Auditor(RuleBasedStateMachine):
    """Each rule does one thing to the database through seatctl, and the same to the ledger."""

    events = Bundle("events")
    locks = Bundle("locks")
    bookings = Bundle("bookings")

    def __init__(self, store: Store, clock: Clock, refusals: Counter[str]) -> None:
        super().__init__()
        self.store, self.clock, self.refusals = store, clock, refusals
        self.database = store.database
        self.ledger = AfterSales()
        self.truth: dict[ObjectId, tuple[ObjectId, int]] = {}
        self.deleting = False
        self.now = self.picture()

    # --- commands --------------------------------------------------------------------------------

    @initialize(target=events, seats=st.integers(4, 8))
    def first_event(self, seats: int) -> ObjectId:
        return self.create_event(seats)

    @precondition(lambda self: len(self.now.events) < 3)
    @rule(target=events, seats=st.integers(1, 8))
    def another_event(self, seats: int) -> ObjectId:
        return self.create_event(seats)

    def create_event(self, seats: int) -> Any:
        date = self.clock() + timedelta(days=30)

        def create() -> Answer:
            return Answer(dict(create_event(self.store, CreateEventRequest("Concert", seats, date)).event))

        created = self.audit(
            create, lambda new: self.ledger.create_event(self.clock(), new, "Concert", seats, date)
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
        stored_user = USERS[user]

        def take() -> Answer:
            done = sales.lock(self.store, sales.LockRequest(event, stored_user, seats, key, ttl))
            return Answer(plain(done.lock), done.created, done.available)

        return self.new_one(
            self.now.locks,
            take,
            lambda new: self.ledger.lock(self.clock(), new, event, stored_user, seats, key, ttl),
        )

    @precondition(lambda self: self.keyed())
    @rule(target=locks, which=which, more=st.sampled_from([0, 1, 1]))
    def lock_again(self, which: int, more: int) -> Any:
        """The same key again: the same request, or another one."""
        lock = pick(self.keyed(), which)
        user = next(typed for typed, stored in USERS.items() if stored == lock["userId"])
        return self.lock(lock["eventId"], user, lock["seats"] + more, lock["idempotencyKey"], MINUTE)

    @rule(target=bookings, event=events, seats=few_seats, ttl=lock_ttls, pays=st.booleans())
    def buyer(self, event: ObjectId, seats: int, ttl: timedelta, pays: bool) -> Any:
        """One who comes as far as the booking, or pays."""
        lock = self.lock(event, "ann", seats, None, ttl)
        if not isinstance(lock, ObjectId):
            return multiple()
        booking = self.confirm_lock(lock, None)
        if pays and isinstance(booking, ObjectId):
            self.pay(booking)
        return booking

    @rule(target=bookings, lock=locks, ttl=payment_ttls)
    def confirm(self, lock: ObjectId, ttl: timedelta | None) -> Any:
        return self.confirm_lock(lock, ttl)

    @rule(target=bookings, lock=locks, late=st.booleans())
    def confirm_at_the_deadline(self, lock: ObjectId, late: bool) -> Any:
        self.move_to(self.now.locks.get(lock, {}).get("expiresAt"), late)
        return self.confirm_lock(lock, 15 * MINUTE)

    @rule(booking=bookings, late=st.booleans())
    def pay_at_the_deadline(self, booking: ObjectId, late: bool) -> None:
        self.move_to(self.now.bookings.get(booking, {}).get("paymentExpiresAt"), late)
        self.pay(booking)

    def move_to(self, deadline: Any, late: bool) -> None:
        """To the deadline, or to the last millisecond before it, unless that is past already."""
        if isinstance(deadline, datetime) and deadline < NEVER:  # nobody waits for a block to run out
            self.clock.time = max(self.clock.time, deadline - (not late) * timedelta(milliseconds=1))

    def confirm_lock(self, lock: ObjectId, ttl: timedelta | None) -> Any:
        def confirm() -> Answer:
            done = sales.confirm(self.store, sales.ConfirmRequest(lock, ttl))
            return Answer(plain(done.booking), done.created)

        return self.new_one(
            self.now.bookings, confirm, lambda new: self.ledger.confirm(self.clock(), new, lock, ttl)
        )

    @rule(booking=bookings, ref=refs)
    def pay(self, booking: ObjectId, ref: str | None = None) -> None:
        self.audit(
            lambda: answer_of(payments.pay(self.store, booking, ref)),
            lambda _: self.ledger.pay(self.clock(), booking, ref),
            pays=booking,
        )

    @rule(booking=bookings)
    def fail(self, booking: ObjectId) -> None:
        self.audit(
            lambda: answer_of(payments.fail_payment(self.store, booking)),
            lambda _: self.ledger.fail(self.clock(), booking),
            fails=booking,
        )

    @rule(lock=locks)
    def release(self, lock: ObjectId) -> None:
        self.audit(
            lambda: Answer(plain(sales.release(self.store, lock).lock)),
            lambda _: self.ledger.release(self.clock(), lock),
            releases=lock,
        )

    # --- what was sold -------------------------------------------------------------------------------

    @rule(wanted=locks | bookings, time=st.sampled_from([MINUTE, 20 * MINUTE]), overdue=st.booleans())
    def extend(self, wanted: ObjectId, time: timedelta, overdue: bool) -> None:
        deadline = self.clock() + time

        def extend() -> Answer:
            request = extension.ExtendRequest(wanted, deadline, overdue=overdue)
            done = extension.extend(self.store, request)
            by_booking = done.booking is not None and done.booking.id == wanted
            return Answer(plain(done.booking if by_booking and done.booking else done.lock), done.changed)

        self.audit(extend, lambda _: self.ledger.extend(self.clock(), wanted, deadline, overdue=overdue))

    @rule(booking=bookings, late=st.booleans())
    def extend_at_the_deadline(self, booking: ObjectId, late: bool) -> None:
        self.move_to(self.now.bookings.get(booking, {}).get("paymentExpiresAt"), late)
        self.extend(booking, MINUTE, overdue=False)

    @rule(wanted=locks | bookings | bookings, seats=st.sampled_from([None, None, 1, 2]), refund=st.booleans())
    def cancel(self, wanted: ObjectId, seats: int | None, refund: bool) -> None:
        def cancel() -> Answer:
            done = cancellation.cancel(self.store, cancellation.CancelRequest(wanted, seats, refund))
            shown = done.booking or done.lock
            assert shown
            return Answer(plain(shown), done.changed)

        self.audit(
            cancel, lambda _: self.ledger.cancel(self.clock(), wanted, seats, refund=refund), cancels=wanted
        )

    @rule(target=bookings, booking=bookings, ref=refs)
    def rebook(self, booking: ObjectId, ref: str | None) -> Any:
        def rebook() -> Answer:
            done = rebooking.rebook(self.store, rebooking.RebookRequest(booking, ref))
            return Answer(plain(done.booking), done.created)

        return self.new_one(
            self.now.bookings, rebook, lambda new: self.ledger.rebook(self.clock(), new, booking, ref)
        )

    @rule(target=bookings, lock=locks, ref=refs)
    def record_sale(self, lock: ObjectId, ref: str | None) -> Any:
        def record() -> Answer:
            done = payments.record_sale(self.store, lock, ref)
            return Answer(plain(done.booking), done.created)

        return self.new_one(
            self.now.bookings,
            record,
            lambda new: self.ledger.record_sale(self.clock(), new, lock, ref),
            sells=lock,
        )

    @precondition(lambda self: self.predictable and self.ledger.refunds)
    @rule(which=which, ref=st.sampled_from(["back 1", "back 2", None]))
    def settle_refund(self, which: int, ref: str | None) -> None:
        number = which % len(self.ledger.refunds)
        refund = self.ledger.refunds[number]
        (found,) = [
            one for one in self.store.refunds.of_booking(refund["booking"]) if same_refund(refund, one)
        ]

        def settle() -> None:
            if ref is None:
                refunds.withdraw(self.store, found.id)
            else:
                refunds.mark_done(self.store, found.id, ref)

        _, refused = attempt(settle, SeatctlError)
        _, refusal = attempt(lambda: self.ledger.settle_refund(number, ref), Refusal)
        assert (refusal and refusal.code) == (refused and refused.code), refused

    @rule(wrong=events | st.just(NOWHERE), command=st.integers(0, 4))
    def unknown_id(self, wrong: ObjectId, command: int) -> None:
        """An id that nothing has, or that belongs to something else."""
        (
            lambda: self.confirm_lock(wrong, MINUTE),
            lambda: self.pay(wrong),
            lambda: self.fail(wrong),
            lambda: self.release(wrong),
            lambda: self.lock(NOWHERE, "ann", 1, None, MINUTE),
        )[command]()

    # --- commands on events ----------------------------------------------------------------------

    @rule(event=events, seats=st.integers(1, 10))
    def resize(self, event: ObjectId, seats: int) -> None:
        def change() -> Answer:
            done = resize(self.store, ResizeRequest(event, seats))
            return Answer(dict(done.event), done.changed)

        self.audit(change, lambda _: self.ledger.resize(self.clock(), event, seats), resizes=event)

    @rule(target=locks, event=events, seats=few_seats)
    def block(self, event: ObjectId, seats: int) -> Any:
        def take() -> Answer:
            done = blocks.block(self.store, blocks.BlockRequest(event, seats))
            return Answer(dict(done.lock.stored), available=done.available)

        return self.new_one(
            self.now.locks, take, lambda new: self.ledger.block(self.clock(), new, event, seats)
        )

    @precondition(lambda self: self.blocks())
    @rule(which=which)
    def unblock(self, which: int) -> None:
        self.unblock_lock(pick(self.blocks(), which)["_id"])

    @rule(lock=locks)
    def unblock_lock(self, lock: ObjectId) -> None:
        def end() -> Answer:
            done = blocks.unblock(self.store, lock)
            return Answer(dict(done.lock.stored), done.changed)

        self.audit(end, lambda _: self.ledger.unblock(self.clock(), lock), releases=lock)

    @rule(event=events)
    def close(self, event: ObjectId) -> None:
        self.audit(
            lambda: closed_answer(closing.close(self.store, event)),
            lambda _: self.ledger.close(self.clock(), event),
        )

    @precondition(lambda self: self.closed())
    @rule(which=which)
    def reopen(self, which: int) -> None:
        event = pick(self.closed(), which)["_id"]
        self.audit(
            lambda: closed_answer(closing.reopen(self.store, event)),
            lambda _: self.ledger.reopen(self.clock(), event),
            reopens=event,
        )

    @rule(event=events, really=st.sampled_from([False] * 3 + [True]), batch=st.sampled_from([1, BATCH]))
    def cancel_event(self, event: ObjectId, really: bool, batch: int) -> None:
        """After a dry run that must tell the same."""
        if not event_is_readable(self.now.events[event]):
            return
        request = CancelEventRequest(event, "Concert", dry_run=True, batch_size=batch)
        told = self.dry(lambda: cancel_event(self.store, request))
        if not really:
            return
        go = request._replace(dry_run=False)
        step = Step(self.clock(), cancels_event=event)
        done = self.watched(lambda: cancel_event(self.store, go), step)
        numbers = (done.bookings, done.locks, done.refunds, len(done.skipped))
        assert numbers == (told.bookings, told.locks, told.refunds, len(told.skipped))
        if self.predictable:
            expected = self.ledger.cancel_event(self.clock(), event)
            assert numbers == (expected.bookings, expected.locks, expected.repairs, expected.skipped)

    # --- time and jobs ---------------------------------------------------------------------------

    @rule(time=times_passing)
    def time_passes(self, time: timedelta) -> None:
        self.clock.time += time

    @rule(since=moved, batch=st.integers(1, 3))
    def expire_locks(self, since: timedelta, batch: int) -> None:
        done = self.expire(jobs.expire_locks, self.ledger.expire_locks, since, batch)
        left = [
            lock["_id"]
            for lock in self.now.locks.values()
            if is_overdue(lock, "ACTIVE", "expiresAt", self.clock() + since)
            if not any(map(booking_is_readable, protectors(self.now, lock["_id"])))
        ]
        assert done.error or not left, "overdue locks were left without a word"

    @rule(since=moved, batch=st.integers(1, 3))
    def expire_bookings(self, since: timedelta, batch: int) -> None:
        done = self.expire(jobs.expire_bookings, self.ledger.expire_bookings, since, batch)
        at = self.clock() + since
        overdue = partial(is_overdue, state="PAYMENT_PENDING", deadline="paymentExpiresAt", at=at)
        assert done.error or not any(map(overdue, self.now.bookings.values()))

    def expire(
        self,
        job: Callable[..., jobs.JobReport],
        predict: Callable[..., Tally],
        since: timedelta,
        batch: int,
    ) -> jobs.JobReport:
        """One run of a sweep as of `since` from now, after a dry run that must tell the same."""
        # Which locks a wrong counter can still take depends on how they are put together.
        batch_size = batch if self.predictable and not self.ledger.violations() else BATCH
        options = partial(jobs.JobOptions, since or None, force=True, batch_size=batch_size)
        told = self.dry(lambda: job(self.store, options(dry_run=True)))
        done = self.watched(lambda: job(self.store, options()), Step(self.clock() + since))
        if self.predictable:
            predict(self.clock(), self.clock() + since)
        assert outline(done.run) == outline(told.run), (done.run, told.run)
        return done

    @rule(again=st.booleans())
    def recover(self, again: bool) -> None:
        found = list(verify(self.store))
        self.dry(lambda: jobs.recover(self.store, jobs.JobOptions(dry_run=True)))
        step = Step(self.clock(), recovers=True)
        report = self.watched(lambda: jobs.recover(self.store, AT_ONCE), step)
        assert found or not report.repairs
        if self.predictable:
            done = self.ledger.recover(self.clock())
            drifts = [one for one in report.steps if one.violation.fault is Fault.COUNTER_DRIFT]
            corrected = {one.violation.event for one in drifts if one.outcome is Outcome.REPAIRED}
            assert corrected == done.corrected, (corrected, done.corrected)
        if again:
            before = self.now
            self.watched(lambda: jobs.recover(self.store, AT_ONCE), step)
            assert self.now == before, "a second recovery changed something"
            if self.predictable:
                self.ledger.recover(self.clock())

    # --- comparing -------------------------------------------------------------------------------

    @property
    def predictable(self) -> bool:
        """Whether the ledger can know what comes of a step."""
        return self.now.is_readable()

    def new_one(
        self,
        known: dict[ObjectId, Document],
        command: Callable[[], Answer],
        predict: Callable[[Any], Answer],
        **may: ObjectId,
    ) -> Any:
        """The id of what a command made, for the rules that follow; nothing if it made nothing."""
        before = set(known)
        document = self.audit(command, predict, **may)
        return document["_id"] if document and document["_id"] not in before else multiple()

    def audit(
        self, command: Callable[[], Answer], predict: Callable[[Any], Answer], **may: ObjectId
    ) -> Document | None:
        """Compare a command's answer, or its refusal, with the ledger's; returns the document."""
        predictable = self.predictable
        done, refused = self.watched(lambda: attempt(command, SeatctlError), Step(self.clock(), **may))
        if predictable:
            answer, refusal = attempt(lambda: predict(done and done.document), Refusal)
            assert (refusal and refusal.code) == (refused and refused.code), refused
            if refused:
                self.refusals[refusal.code] += 1
                assert refusal.says in str(refused)
            assert answer == (done and replace(done, document=without_ending(done.document)))
        if done is not None and done.document.get("idempotencyKey", "").startswith("seatctl-"):
            others = [one for one in self.now.locks.values() if one["_id"] != done.document["_id"]]
            assert done.document["idempotencyKey"] not in [one.get("idempotencyKey") for one in others]
        return done and done.document

    def watched(self, action: Callable[[], Any], step: Step) -> Any:
        """What `action` returns, once it is clear that it returned nothing to sale that is not free."""
        before = self.now
        done = action()
        self.now = self.picture()
        self.ledger.new_blocks = {
            lock["eventId"]: lock_id
            for lock_id, lock in self.now.locks.items()
            if lock_id not in before.locks and str(lock.get("idempotencyKey")).startswith("closed-")
        }
        problems = unsafe(before, self.now, step)
        assert not problems, problems
        return done

    def dry(self, action: Callable[[], Any]) -> Any:
        """What `action` returns, once it is clear that it changed nothing."""
        runs, done = self.database.jobLogs.count_documents({}), action()
        assert self.picture() == self.now
        assert self.database.jobLogs.count_documents({}) == runs
        return done

    def picture(self) -> Picture:
        picture = Picture.of(self.database, self.truth, deleting=self.deleting)
        for lock_id, lock in picture.locks.items():
            if lock_is_readable(lock):
                self.truth[lock_id] = lock["eventId"], lock["seats"]
        return picture

    def recorded(self) -> Counter[str]:
        """How many operations there are of each command."""
        found = self.database.operations.find({"command": {"$in": RECORDED}}, {"command": 1})
        return Counter(one["command"] for one in found)

    def recorded_seats(self) -> dict[ObjectId, int]:
        """How many seats a booking has by the newest operation that says so."""
        found = self.database.operations.find({"after.seats": {"$type": "number"}}).sort({"at": 1, "_id": 1})
        return {one["bookingId"]: one["after"]["seats"] for one in found if "bookingId" in one}

    def refunds(self) -> list[Document]:
        """What has to go back or went back, as the ledger has it."""
        return [
            {
                "booking": one["bookingId"],
                "cause": one["cause"],
                "ref": one.get("paymentRef"),
                "part": one.get("part", 0),
                "seats": one["seats"] or 0,
                "status": one["status"],
                "doneRef": one.get("doneRef"),
            }
            for one in self.database.refunds.find()
        ]

    def reload(self) -> None:
        """Take what another program made of the database for what is."""
        self.now = self.picture()
        ledger = self.ledger
        ledger.events, ledger.locks, ledger.bookings = (
            {one_id: without_ending(one) for one_id, one in some.items()}
            for some in (self.now.events, self.now.locks, self.now.bookings)
        )
        ledger.runs = [outline(entry) for entry in self.database.jobLogs.find()]
        ledger.operations = self.recorded()
        ledger.refunds = self.refunds()
        ledger.ever_locked = "seatLocks" in self.database.list_collection_names()

    @invariant()
    def whatever_ended_names_what_ended_it(self) -> None:
        named = {
            one["endedBy"]
            for one in [*self.now.locks.values(), *self.now.bookings.values()]
            if "endedBy" in one
        }
        for name in ("jobLogs", "operations"):
            named -= {one["_id"] for one in self.database[name].find({"_id": {"$in": list(named)}})}
        assert not named

    @invariant()
    def everything_is_as_it_must_be(self) -> None:
        found = [{one.lock, one.booking} - {None} or {one.event or one.index} for one in verify(self.store)]
        self.ledger.recorded_seats = self.recorded_seats()
        if not self.predictable:
            self.reload()
            self.everything_unreadable_is_named(found)
            return
        for kind in ("events", "locks", "bookings"):
            expected = getattr(self.ledger, kind)
            stored = {one_id: without_ending(one) for one_id, one in getattr(self.now, kind).items()}
            assert expected == stored, differences(expected, stored)
        assert self.ledger.operations == self.recorded(), (self.ledger.operations, self.recorded())
        assert sorted(map(str, self.ledger.refunds)) == sorted(map(str, self.refunds()))
        runs = [outline(entry) for entry in self.database.jobLogs.find()]
        assert self.ledger.runs == runs, (self.ledger.runs[-2:], runs[-2:])
        wrong = self.ledger.violations()
        missed = [str(one) for one in wrong if not any(one.ids & ids for ids in found)]
        assert not missed, f"verify did not find {missed}"
        alone = [ids for ids in found if not any(ids & one.ids for one in wrong)]
        assert not alone, f"verify alone found {alone}"

    def everything_unreadable_is_named(self, found: list[set[Any]]) -> None:
        events = [one["_id"] for one in self.now.events.values() if not event_is_readable(one)]
        locks = [one["_id"] for one in self.now.locks.values() if may_hold(one) and not lock_is_readable(one)]
        bookings = [
            one["_id"]
            for one in self.now.bookings.values()
            if may_be_live(one) and not booking_is_readable(one)
        ]
        unnamed = [one for one in [*events, *locks, *bookings] if not any(one in ids for ids in found)]
        everything = {**self.now.events, **self.now.locks, **self.now.bookings}
        assert not unnamed, f"verify does not name {[everything[one] for one in unnamed]}"

    def blocks(self) -> list[Document]:
        return [lock for lock in self.now.locks.values() if lock.get("kind") == "BLOCK"]

    def closed(self) -> list[Document]:
        return [event for event in self.now.events.values() if "closedAt" in event]

    def keyed(self) -> list[Document]:
        return [
            lock
            for lock in self.now.locks.values()
            if lock_is_readable(lock) and lock.get("idempotencyKey") and lock["userId"] in USERS.values()
        ]


def closed_answer(done: closing.CloseResult) -> Answer:
    return Answer(dict(done.event), done.changed)


def without_ending(document: Document) -> Document:
    """Without the name of what ended it: an id that no ledger can know."""
    return {field: value for field, value in document.items() if field != "endedBy"}


def answer_of(done: payments.PayResult) -> Answer:
    return Answer(plain(done.booking), done.changed)


def plain(document: SeatLock | Booking) -> Document:
    return without_ending(dict(document.stored))


def same_refund(known: Document, stored: Refund) -> bool:
    mine = (known["cause"], known["ref"], known["part"])
    return mine == (stored.cause, stored.payment_ref, stored.stored.get("part", 0))


def differences(expected: dict[Any, Document], stored: dict[Any, Document]) -> list[Any]:
    """Expected and stored documents that are not the same."""
    ids = [one for one in {**expected, **stored} if expected.get(one) != stored.get(one)]
    return [(expected.get(one), stored.get(one)) for one in ids]


def attempt(action: Callable[[], Any], kind: type[Exception]) -> tuple[Any, Any]:
    """What `action` returns, or its error of the kind that is an answer too."""
    try:
        return action(), None
    except kind as error:
        return None, error


def is_overdue(document: Document, state: str, deadline: str, at: datetime) -> bool:
    """As far as anybody can tell: whoever cannot read its deadline must say so."""
    moment = document.get(deadline)
    return document.get("status") == state and not (isinstance(moment, datetime) and moment >= at)


def outline(entry: Any) -> Document:
    """A log entry without what no ledger can know: where it ran, how long, in which words."""
    numbers = ("recordsProcessed", "seatsRestored", "locksExpired", "bookingsExpired", "resourcesRecovered")
    details = {name: entry["details"][name] for name in numbers if name in entry["details"]}
    assert ("error" in entry) == (entry["status"] == "FAILED")
    return {name: entry[name] for name in ("jobType", "executedAt", "status")} | {"details": details}


def pick(documents: list[Document], which: int) -> Document:
    return documents[which % len(documents)]
