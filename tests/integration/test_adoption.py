"""`adopt`: what it makes of another program's database, what it refuses to guess, and how it goes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import available
from mongoose import DAYS, Backend, seats_in_order
from pymongo.errors import OperationFailure
from scene import AT_ONCE, run_expire_bookings, run_expire_locks, run_recover

from seatctl.domain.documents import Unreadable
from seatctl.domain.settings import GRACE, NOT_ADOPTED
from seatctl.domain.states import Fault, LockStatus
from seatctl.errors import CountedByDay, KeyReused, Misconfigured, RefundDue, Usage
from seatctl.mongo import schema
from seatctl.mongo.ids import parse_user
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.store import Store
from seatctl.mongo.validators import validators
from seatctl.services import (
    adoption,
    blocks,
    cancellation,
    closing,
    extension,
    health,
    payments,
    resizing,
    sales,
)
from seatctl.services.cancellation import CancelRequest
from seatctl.services.event_cancellation import CancelEventRequest, cancel_event
from seatctl.services.extension import ExtendAllRequest, ExtendRequest
from seatctl.services.jobs import JobOptions, recover
from seatctl.services.relocking import relock
from seatctl.services.resizing import ResizeRequest
from seatctl.services.sales import ConfirmRequest, LockRequest
from seatctl.services.verify import verify

SECOND = timedelta(seconds=1)
USER = ObjectId("a" * 24)


@pytest.fixture
def backend(store, clock):
    """A backend that has started on an empty database."""
    started = Backend(store.database, clock)
    started.start()
    return started


def open_again(store: Store) -> Store:
    return Store.open(store.deployment)


def adopt(store: Store, locks: str | None = None) -> Store:
    adoption.adopt(store, adoption.inspect(store, locks))
    return open_again(store)


@pytest.fixture
def adopted(store, backend):
    """The same database after a sale and the adoption."""
    backend.pay(backend.confirm(backend.lock(backend.event())))
    return adopt(store)


def undo(adopted: Store) -> adoption.Undo:
    plan = adoption.plan_undo(adopted)
    assert plan is not None
    adoption.undo(adopted, plan)
    return plan


def state_of(store: Store) -> dict[str, list[dict]]:
    """Every event, lock and booking."""
    return {name: list(store.database[name].find()) for name in ("events", "seatlocks", "bookings")}


# --- what it finds -------------------------------------------------------------------------------------


def test_a_backends_database_is_recognized_and_told_with_reasons(store, backend):
    event = backend.event()
    backend.pay(backend.confirm(backend.lock(event, 2)))
    backend.confirm(backend.lock(event))
    by_day = backend.event_by_day(name="Fair")
    before = state_of(store)
    found = adoption.inspect(store)

    assert [choice.collection for choice in found.choices] == ["events", "seatlocks", "bookings"]
    assert {(state.collection, state.status): state.number for state in found.states} == {
        ("seatlocks", "ACTIVE"): 1,
        ("seatlocks", "CONSUMED"): 1,
        ("bookings", "PAYMENT_PENDING"): 1,
        ("bookings", "CONFIRMED"): 1,
    }
    assert [(index.name, index.seconds) for index in found.ttl_indexes] == [("expiresAt_1", 0)]
    assert found.by_day == [(by_day, "Fair")]
    assert (found.users, found.keys, found.labelled) == ((4, 0), (0, True), 2)
    assert (found.settings.object_id_users, found.settings.seat_labels) == (True, True)
    assert not found.inconsistent
    assert "Fair" in str(found.remarks)
    assert state_of(store) == before
    assert store.settings == open_again(store).settings == NOT_ADOPTED


def test_by_day_it_names_the_events_that_every_command_leaves_alone(store, backend):
    backend.event(dailySeats=[])
    backend.event(eventType=None)
    odd = [backend.event(dailySeats=0), backend.event(eventType=5), backend.event_by_day()]

    assert [event for event, _ in adoption.inspect(store).by_day] == odd
    assert [isinstance(store.events.get(event), Unreadable) for event in odd] == [True] * 3


@pytest.mark.usefixtures("backend")
def test_nothing_is_created_that_could_stop_the_other_program(store):
    assert not [name for name in adoption.inspect(store).missing if name.startswith("seatLocks")]
    before = {name: set(store.database[name].index_information()) for name in ("seatlocks", "bookings")}
    adopted = adopt(store)

    for name, indexes in before.items():
        new = {
            key: index
            for key, index in store.database[name].index_information().items()
            if key not in indexes
        }
        assert new
        assert not [index for index in new.values() if index.get("unique")]
    assert validators(store.database) == {}
    assert "seatLocks" not in store.database.list_collection_names()
    assert adopted.missing() == []


def test_init_after_adoption_adds_no_validator_unless_asked(adopted):
    assert adopted.init() == ([], [])
    assert adopted.init(validators=True).created == [
        "events.validator",
        "seatlocks.validator",
        "bookings.validator",
    ]


def test_states_that_seatctl_does_not_know_are_counted_and_make_the_dry_run_fail(store, backend):
    backend.insert_lock(backend.event(), 1, status="HELD")
    backend.insert_lock(backend.event(), 1)
    found = adoption.inspect(store)

    assert [(state.status, state.number) for state in found.unknown_states] == [("HELD", 1)]
    assert found.inconsistent


def test_seats_that_are_sold_twice_come_first_also_where_only_bookings_tell(store, backend):
    """Its TTL index deleted the lock of a sale, and its recovery put those seats on sale again."""
    event = backend.event(4)
    gone = backend.lock(event, 3)
    backend.pay(backend.confirm(gone))
    backend.locks.delete_one({"_id": gone})
    backend.events.update_one({"_id": event}, {"$set": {"availableSeats": 4}})
    backend.pay(backend.confirm(backend.lock(event, 3)))
    drifted = backend.event(9)
    backend.events.update_one({"_id": drifted}, {"$inc": {"availableSeats": -1}})
    found = adoption.inspect(store)

    assert [(sold.event, sold.held, sold.without_lock) for sold in found.sold_twice] == [(event, 3, 3)]
    assert "6 of 4 seats are sold or locked; locks hold 3" in str(found.sold_twice[0])
    assert found.violations[0].fault is Fault.CONFIRMED_WITHOUT_LOCK
    assert {violation.event for violation in found.violations} == {event, drifted}
    assert found.missing_locks == 1


@pytest.mark.usefixtures("backend")
def test_sold_seats_that_are_on_sale_again_are_named_before_anybody_buys_them(store, backend):
    event = backend.event(4)
    gone = backend.lock(event, 3)
    backend.pay(backend.confirm(gone))
    backend.lock(event)
    backend.locks.delete_one({"_id": gone})
    assert adoption.inspect(store).sold_twice == []

    backend.events.update_one({"_id": event}, {"$set": {"availableSeats": 3}})
    (sold,) = adoption.inspect(store).sold_twice
    assert "4 of 4 seats are sold or locked, and 3 of them are on sale again" in str(sold)


def test_a_second_look_at_an_adopted_database_finds_the_same_and_forgets_nothing(adopted):
    first = adopted.settings
    again = adopt(adopted).settings

    assert again == first
    assert again.ttl_indexes[0].seconds == 0
    assert adopt(adopted).missing() == []


def test_users_are_any_text_where_no_document_has_an_id_for_one(store, backend):
    lock = backend.locks.find_one({"_id": backend.insert_lock(backend.event(), 1, userId="ada")})
    backend.insert_booking(lock)

    assert not adopt(store).settings.object_id_users


def test_labels_are_written_only_where_they_were_found(store, backend):
    event = backend.event()
    lock = backend.locks.find_one({"_id": backend.lock(event, 2)})
    backend.bookings.insert_one({"event": event, "seatLockId": lock["_id"], "status": "EXPIRED"})

    assert not adopt(store).settings.seat_labels


# --- what it does not guess ------------------------------------------------------------------------------


def refusal(store: Store, locks: str | None = None) -> str:
    with pytest.raises(Misconfigured) as refused:
        adoption.inspect(store, locks)
    assert open_again(store).settings == NOT_ADOPTED
    return str(refused.value)


def test_a_database_without_events_or_bookings_is_refused_by_name(store, backend):
    backend.insert_lock(backend.event(), 1)
    backend.bookings.drop()
    assert "no collection bookings" in refusal(store)

    backend.events.rename("Events")
    assert "no collection events; there is Events" in refusal(store)


def test_two_collections_of_locks_are_a_guess_and_a_name_decides(store, backend):
    backend.insert_lock(backend.event(), 1)
    store.database.seat_locks.insert_one({"x": 1})

    assert "seat_locks, seatlocks" in refusal(store) or "seatlocks, seat_locks" in refusal(store)
    assert adoption.inspect(store, "seatlocks").settings.locks == "seatlocks"


def test_an_empty_collection_by_our_own_name_does_not_compete(store, backend):
    store.database.create_collection("seatLocks")
    backend.insert_lock(backend.event(), 1)

    assert adoption.inspect(store).settings.locks == "seatlocks"


def test_locks_under_an_unlike_name_are_suggested_and_not_taken(store, backend):
    backend.insert_lock(backend.event(), 1)
    backend.locks.rename("holds")

    assert "the documents in holds look like locks" in refusal(store)
    assert adoption.inspect(store, "holds").settings.locks == "holds"


def test_a_collection_that_is_not_there_or_holds_no_locks_is_refused(store, backend):
    backend.event()

    assert "no collection holds" in refusal(store, "holds")
    assert "are not locks" in refusal(store, "events")


def test_locks_that_no_live_booking_names_are_refused_unless_a_ttl_index_tells_where_they_went(
    store, backend
):
    lock = backend.lock(backend.event())
    backend.confirm(lock)
    backend.locks.delete_one({"_id": lock})

    assert adoption.inspect(store).missing_locks == 1
    backend.locks.drop_index("expiresAt_1")
    assert "none of 1 live booking names a lock" in refusal(store)


def test_an_adopted_database_keeps_its_locks_where_they_are(adopted, backend):
    backend.locks.rename("holds")

    with pytest.raises(Misconfigured, match="adopt --undo"):
        adoption.inspect(adopted, "holds")


@pytest.mark.parametrize(
    "damage", [{"locksCollection": 1}, {"adoptedAt": "today"}, {"ttlIndexes": [{}]}, {"graceSeconds": "x"}]
)
def test_settings_that_cannot_be_read_stop_every_command(adopted, damage):
    adopted.database.seatctlSettings.update_one({}, {"$set": damage})

    with pytest.raises(Misconfigured, match="seatctlSettings cannot be read"):
        open_again(adopted)


# --- the TTL index ---------------------------------------------------------------------------------------


def test_the_ttl_index_is_made_harmless_and_stays_so_when_the_backend_starts_again(adopted, backend):
    backend.start()
    index = backend.locks.index_information()["expiresAt_1"]

    assert index["expireAfterSeconds"] == 2**31 - 1
    assert list(verify(adopted)) == []
    with pytest.raises(OperationFailure, match="different options"):  # which Mongoose only logs
        backend.locks.create_index("expiresAt", expireAfterSeconds=0)


@pytest.mark.parametrize("step", ["neutralise", "init"])
def test_an_adoption_that_was_cut_off_is_completed_by_the_next_and_undone_as_a_whole(
    store, backend, monkeypatch, step
):
    backend.lock(backend.event())
    before = {name: store.database[name].index_information() for name in ("seatlocks", "bookings")}

    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, step, crash)
    with pytest.raises(KeyboardInterrupt):
        adopt(store)
    monkeypatch.undo()
    half = open_again(store)
    assert half.settings.adopted
    complete = adopt(half)
    assert (complete.missing(), list(verify(complete))) == ([], [])

    undo(complete)
    assert before == {name: store.database[name].index_information() for name in before}


def test_a_new_ttl_index_counts_as_deleting_again(adopted, backend):
    backend.locks.create_index("updatedAt", expireAfterSeconds=60)

    (found,) = verify(adopted)
    assert found.fault is Fault.TTL_INDEX
    assert found.remedy == "the other program cannot be changed: seatctl adopt; seatctl explain ttl_index"
    assert "`seatctl adopt`, run again, makes it harmless" in found.message
    assert list(verify(adopt(adopted))) == []


def test_an_index_that_was_dropped_after_all_is_back_at_the_backends_next_start_and_adopted_again(
    adopted, backend
):
    backend.locks.drop_index("expiresAt_1")
    backend.start()
    assert [violation.fault for violation in verify(adopted)] == [Fault.TTL_INDEX]

    again = adopt(adopted)
    assert list(verify(again)) == []
    assert [(index.name, index.seconds) for index in again.settings.ttl_indexes] == [("expiresAt_1", 0)]


def test_undo_gives_the_index_its_time_back_and_removes_what_adopt_made(store, adopted, backend):
    before = state_of(adopted)
    done = undo(adopted).sentences(done=True)

    assert open_again(store).settings == NOT_ADOPTED
    assert backend.locks.index_information()["expiresAt_1"]["expireAfterSeconds"] == 0
    assert "seatlocks.expiresAt_1 deletes after 0 s again" in done
    assert "seatctlSettings" not in store.database.list_collection_names()
    assert set(backend.locks.index_information()) == {"_id_", "idempotencyKey_1", "expiresAt_1"}
    assert state_of(adopted) == before
    with pytest.raises(Misconfigured, match="seatctl adopt"):
        open_again(store).exists()


def test_an_undo_that_was_cut_off_is_completed_by_the_next(adopted, backend, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "remove_settings", crash)
    with pytest.raises(KeyboardInterrupt):
        undo(adopted)
    monkeypatch.undo()
    undo(open_again(adopted))

    assert open_again(adopted).settings == NOT_ADOPTED
    assert backend.locks.index_information()["expiresAt_1"]["expireAfterSeconds"] == 0


def test_undo_keeps_a_job_log_with_entries_and_indexes_that_were_there_before(store, backend):
    backend.event()
    store.database.seatlocks.create_index(list(schema.LOCKS_BY_STATUS.keys), name="locks_by_status")
    adopted = adopt(store)
    run_expire_locks(adopted)
    undo(adopted)

    assert "locks_by_status" in backend.locks.index_information()
    assert store.database.jobLogs.count_documents({}) == 1


def test_undo_removes_the_validators_of_init_and_none_of_the_other_program(store, adopted, backend):
    adopted.init(validators=True)
    theirs = {"eventDate": {"$exists": True}}
    store.database.command("collMod", "events", validator=theirs)
    assert set(validators(store.database)) == {"events", "seatlocks", "bookings"}
    done = undo(adopted).sentences(done=True)

    assert {"removed seatlocks.validator", "removed bookings.validator"} < set(done)
    assert validators(store.database) == {"events": theirs}
    backend.insert_lock(backend.event(), 1, status="HELD")


def test_undo_removes_what_init_made_in_place_of_the_indexes_of_an_earlier_version(store, backend):
    adopted, database = adopt(store), store.database
    old = {"locks_by_status": schema.OUTDATED[1], "bookings_by_status": schema.OUTDATED[3]}
    made = dict(name.split(".") for name in adopted.settings.created if name.split(".")[-1] in old)
    earlier = []
    for collection, name in made.items():
        database[collection].drop_index(name)
        database[collection].create_index(list(old[name].keys), name=old[name].name)
        earlier.append(f"{collection}.{old[name].name}")
    others = [name for name in adopted.settings.created if name.split(".")[-1] not in old]
    adopted.write_settings(replace(adopted.settings, created=(*others, *earlier)))
    open_again(store).init()
    undo(open_again(store))

    assert set(made) == {"seatlocks", "bookings"}
    assert not any(name.endswith("_by_status") for name in backend.locks.index_information())
    assert not any(name.endswith("_by_status") for name in backend.bookings.index_information())


def test_the_plan_of_an_undo_is_what_it_then_does(adopted, backend):
    """A collection that `adopt` created and that has entries by now is named as one that stays."""
    run_expire_locks(adopted)
    backend.bookings.drop_index("bookings_by_status")
    adopted.init(validators=True)
    before = {name: set(adopted.database[name].index_information()) for name in adopted.collections()}
    plan = adoption.plan_undo(adopted)
    assert plan is not None
    assert {name: set(adopted.database[name].index_information()) for name in before} == before
    adoption.undo(adopted, plan)

    assert plan.made.kept == ["jobLogs"]
    for done in (False, True):
        assert "jobLogs is kept: it has entries" in plan.sentences(done=done)
    gone = [f"{name}.{index}" for name, indexes in before.items() for index in indexes if index != "_id_"]
    left = adopted.collections()
    gone = [
        index
        for index in gone
        if index.partition(".")[2] not in adopted.database[index.partition(".")[0]].index_information()
    ]
    collections = [name for name in before if name not in {*left, "seatctlSettings"}]
    validators = [f"{name}.validator" for name in ("events", "seatlocks", "bookings")]
    assert sorted(plan.made.removable) == sorted([*gone, *collections, *validators])
    assert adoption.plan_undo(open_again(adopted)) is None


def test_an_undo_says_how_many_sold_locks_mongodb_then_deletes(adopted, backend, clock):
    event = backend.event()
    for _ in range(2):
        backend.pay(backend.confirm(backend.lock(event)))
    backend.insert_lock(event, 1, status="EXPIRED")
    clock.advance(hours=1)
    backend.lock(event)
    (deletion,) = undo(adopted).deletions

    assert deletion == ("seatlocks", 4, 3)


def test_an_undo_that_gives_no_index_its_time_back_warns_of_nothing(store, backend):
    backend.locks.drop_index("expiresAt_1")
    backend.event()

    assert undo(adopt(store)).warning is None


# --- from then on ----------------------------------------------------------------------------------------


def test_the_whole_way_of_a_sale_fits_both_programs(adopted, backend):
    event = backend.event()
    made = sales.lock(adopted, LockRequest(event, USER, 2)).lock
    stored = backend.locks.find_one({"_id": made.id})
    booking = sales.confirm(adopted, ConfirmRequest(made.id)).booking
    backend.pay(booking.id)
    backend.cancel(booking.id)
    theirs = backend.confirm(backend.lock(event, 3))
    payments.pay(adopted, theirs)

    assert stored["userId"] == USER
    assert stored["idempotencyKey"].startswith("seatctl-")
    assert backend.bookings.find_one({"_id": booking.id})["seats"] == ["SEAT-1", "SEAT-2"]
    assert seats_in_order(backend, event)
    assert available(adopted, event) == 7
    assert list(verify(adopted)) == []


def test_a_user_that_is_no_id_is_refused(adopted, backend):
    event = backend.event()

    with pytest.raises(Usage, match="24 hexadecimal digits"):
        sales.lock(adopted, LockRequest(event, parse_user("ada"), 1))
    assert available(adopted, event) == 10


def test_a_key_that_their_index_has_for_somebody_else_is_refused(adopted, backend):
    event = backend.event()
    backend.lock(event, idempotencyKey="order-1")

    with pytest.raises(KeyReused, match="another user or event"):
        sales.lock(adopted, LockRequest(event, USER, 1, key="order-1"))
    assert available(adopted, event) == 9


def test_a_key_that_somebody_takes_for_the_same_request_meanwhile_is_that_request(
    adopted, backend, monkeypatch
):
    event, inserted = backend.event(), []
    take = SeatLocks.by_key

    def taken_meanwhile(locks, *request):
        found = take(locks, *request)
        if not inserted:  # past the event's counter, as a hand in mongosh would
            inserted.append(backend.insert_lock(event, 1, userId=USER, idempotencyKey="order-2"))
        return found

    monkeypatch.setattr(SeatLocks, "by_key", taken_meanwhile)
    result = sales.lock(adopted, LockRequest(event, USER, 1, key="order-2"))

    assert (result.created, result.lock.id) == (False, inserted[0])
    assert available(adopted, event) == 10


def test_a_key_of_another_events_block_is_refused_in_words(adopted, backend):
    """The other program's index allows each key once."""
    blocks.block(adopted, blocks.BlockRequest(backend.event(), 2, key="press"))

    with pytest.raises(KeyReused, match="allows each key only once; use another key"):
        blocks.block(adopted, blocks.BlockRequest(backend.event(), 2, key="press"))


def release(store: Store, lock: ObjectId) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sales, "sleep", lambda _: None)
        sales.release(store, lock)


def unblock(store: Store, lock: ObjectId) -> None:
    blocks.unblock(store, lock)


def give_up(store: Store, lock: ObjectId) -> None:
    cancellation.cancel(store, CancelRequest(lock))


@pytest.mark.parametrize(
    ("end", "fields"),
    [(release, {}), (unblock, {"kind": "BLOCK"}), (give_up, {"status": "CONSUMED"})],
    ids=["release", "unblock", "cancel"],
)
def test_a_lock_that_an_operator_ended_cannot_be_confirmed_by_a_program_that_looks_at_its_deadline_only(
    adopted, backend, clock, end, fields
):
    event = backend.event(4)
    lock = backend.lock(event, 3, **fields)
    end(adopted, lock)
    clock.advance(milliseconds=1)

    with pytest.raises(AssertionError, match="too late"):
        backend.confirm(lock)
    assert available(adopted, event) == 4
    assert list(verify(adopted)) == []


@pytest.mark.parametrize("end", [payments.fail_payment, give_up])
def test_the_lock_of_a_booking_that_an_operator_ended_ends_at_that_moment(adopted, backend, clock, end):
    lock = backend.lock(backend.event())
    booking = backend.confirm(lock)
    end(adopted, booking)

    assert backend.locks.find_one({"_id": lock})["expiresAt"] == clock()


def test_locks_that_end_with_their_event_cannot_be_confirmed_by_such_a_program(adopted, backend, clock):
    event = backend.event()
    open_lock, sold = backend.lock(event), backend.lock(event, 2)
    backend.pay(backend.confirm(sold))
    cancel_event(adopted, CancelEventRequest(event, "Gala"))
    clock.advance(milliseconds=1)

    for lock in (open_lock, sold):
        with pytest.raises(AssertionError, match="too late"):
            backend.confirm(lock)


def test_a_deadline_that_has_passed_is_left_as_it_is_by_an_operator_and_by_the_jobs(adopted, backend, clock):
    event = backend.event()
    released, overdue = backend.lock(event), backend.lock(event)
    booked = backend.lock(event, expiresAt=clock() + timedelta(hours=1))
    backend.confirm(booked)
    before = {lock["_id"]: lock["expiresAt"] for lock in backend.locks.find()}
    clock.advance(minutes=11)
    sales.release(adopted, released)
    assert (run_expire_bookings(adopted).bookings, run_expire_locks(adopted).locks) == (1, 1)

    assert {lock["_id"]: lock["expiresAt"] for lock in backend.locks.find()} == before
    ended = backend.locks.count_documents({"_id": {"$in": [released, overdue, booked]}, "status": "EXPIRED"})
    assert ended == 3


def test_a_lock_expires_only_after_the_grace_in_every_sweep(adopted, backend, clock):
    event = backend.event(2)
    backend.lock(event, 2)
    clock.advance(minutes=10)
    clock.advance(seconds=GRACE.total_seconds())

    assert run_expire_locks(adopted).locks == 0
    assert recover(adopted, AT_ONCE).locks == 0
    assert health.check(adopted).locks.overdue == 0
    with pytest.raises(Exception, match="has 0 seats left"):
        sales.lock(adopted, LockRequest(event, USER, 1))
    clock.advance(seconds=1)
    assert health.check(adopted).locks.overdue == 1
    assert run_expire_locks(adopted).locks == 1
    assert sales.lock(adopted, LockRequest(event, USER, 2)).created


def test_the_grace_is_for_locks_only(adopted, backend, clock):
    backend.confirm(backend.lock(backend.event()))
    clock.advance(minutes=10, seconds=1)

    assert run_expire_bookings(adopted).bookings == 1


@pytest.mark.parametrize("vanish", ["drop", "delete_many"])
def test_where_all_locks_are_gone_nothing_may_be_written_until_they_are_restored(adopted, backend, vanish):
    """Also where a TTL index was recorded, which may have deleted them."""
    (lock,) = backend.locks.find()
    backend.locks.drop() if vanish == "drop" else backend.locks.delete_many({})
    with pytest.raises(Misconfigured, match=r"no locks in seatlocks.*seatctl help adopt"):
        adopted.check_locks(writes=True)
    adopted.check_locks(writes=False)

    backend.locks.insert_one(lock)
    adopted.check_locks(writes=True)


def test_an_adopted_database_without_live_bookings_needs_no_lock(adopted, backend):
    backend.locks.delete_many({})
    backend.bookings.update_many({}, {"$set": {"status": "CANCELLED"}})

    adopted.check_locks(writes=True)


def test_where_locks_may_be_elsewhere_nothing_is_even_read_unless_a_ttl_index_tells_where_they_went(store):
    store.database.events.insert_one({})
    store.database.bookings.insert_one({"event": ObjectId(), "status": "CONFIRMED"})
    with pytest.raises(Misconfigured, match=r"elsewhere.*`seatctl adopt`"):
        store.check_locks(writes=False)

    store.database.seatLocks.create_index("expiresAt", expireAfterSeconds=0)
    store.check_locks(writes=False)
    store.check_locks(writes=True)  # clearance raises no counter there


def test_relock_restores_a_lock_where_all_are_gone(adopted, backend):
    """The counter stays as low as it is, until nothing is missing any more."""
    event = backend.event()
    booking = backend.confirm(backend.lock(event, 4))
    backend.pay(booking)
    (other,) = backend.bookings.find({"_id": {"$ne": booking}})
    backend.locks.delete_many({})
    relock(adopted, booking)
    adopted.check_locks(writes=True)
    assert run_recover(adopted).error
    relock(adopted, other["_id"])

    assert available(adopted, event) == 6
    assert list(verify(adopted)) == []


# --- events that count by day ------------------------------------------------------------------------------


@pytest.fixture
def by_day(adopted, backend, clock):  # noqa: ARG001 - adopted before it is there
    """An event counted per day with an overdue lock, an overdue booking and a sale whose lock is open."""
    event = backend.event_by_day()
    backend.insert_lock(event, 2, passType="daily", expiresAt=clock() - timedelta(hours=1))
    for status in ("PAYMENT_PENDING", "CONFIRMED"):
        lock = backend.locks.find_one({"_id": backend.insert_lock(event, 1, passType="season")})
        backend.insert_booking(lock, status=status, paymentExpiresAt=clock() - timedelta(hours=1))
    ended = backend.locks.find_one({"_id": backend.insert_lock(event, 1, status="EXPIRED")})
    backend.insert_booking(ended, paymentExpiresAt=clock() - timedelta(hours=1))
    return event


def test_an_event_counted_by_day_is_left_alone_and_makes_no_run_fail(adopted, by_day):
    before = state_of(adopted)
    runs = [run_expire_locks(adopted), run_expire_bookings(adopted), run_recover(adopted)]

    assert [run.error for run in runs] == [None] * 3
    assert [run.left_alone.get(by_day) for run in runs] == [1, 2, 3]
    assert runs[0].run["details"]["leftAlone"] == [{"event": by_day, "items": 1}]
    planned = recover(adopted, JobOptions(dry_run=True))
    assert (planned.changes, planned.error) == (False, None)
    assert state_of(adopted) == before


@pytest.mark.usefixtures("by_day")
def test_it_is_still_told_by_verify_and_health_as_something_to_know(adopted):
    found = list(verify(adopted))
    state = health.check(adopted)

    assert {violation.fault for violation in found} == {
        Fault.UNKNOWN_COUNTING,
        Fault.UNSETTLED_LOCK,
        Fault.BOOKING_WITHOUT_SEATS,
    }
    assert all(violation.accepted and not violation.is_for_recovery for violation in found)
    assert {violation.as_document()["accepted"] for violation in found} == {True}
    assert state.violations == []
    assert any("counts its seats per day" in warning for warning in state.warnings)


def test_it_fails_runs_where_nobody_adopted_the_database(store, clock):
    backend = Backend(store.database, clock)
    backend.locks = store.database.seatLocks
    event = backend.event_by_day()
    backend.insert_lock(event, 2, expiresAt=clock() - timedelta(hours=1))

    assert run_expire_locks(store).error
    assert run_recover(store).error


def test_it_is_refused_by_name_in_every_command(adopted, backend, by_day):
    lock = backend.locks.find_one({"passType": "daily"})["_id"]
    pending = backend.bookings.find_one({"status": "PAYMENT_PENDING"})["_id"]
    backend.bookings.update_one(
        {"_id": pending}, {"$set": {"paymentExpiresAt": backend.clock() + timedelta(hours=1)}}
    )
    paid = backend.bookings.find_one({"event": by_day, "status": "CONFIRMED"})["_id"]
    hour = timedelta(hours=1)
    before = state_of(adopted)
    for refused in (
        lambda: sales.lock(adopted, LockRequest(by_day, USER, 1)),
        lambda: sales.release(adopted, lock),
        lambda: payments.fail_payment(adopted, pending),
        lambda: payments.pay(adopted, paid, "R"),
        lambda: extension.extend(adopted, ExtendRequest(lock, hour, overdue=True)),
        lambda: extension.extend(adopted, ExtendRequest(pending, hour, overdue=True)),
        lambda: extension.extend_all(adopted, ExtendAllRequest(by_day, LockStatus.ACTIVE, hour)),
        lambda: cancellation.cancel(adopted, CancelRequest(pending)),
        lambda: cancellation.cancel(adopted, CancelRequest(paid)),
        lambda: cancellation.cancel(adopted, CancelRequest(lock)),
        lambda: resizing.resize(adopted, ResizeRequest(by_day, 5)),
        lambda: blocks.block(adopted, blocks.BlockRequest(by_day, 1)),
        lambda: closing.close(adopted, by_day),
        lambda: closing.reopen(adopted, by_day),
        lambda: cancel_event(adopted, CancelEventRequest(by_day, "Fair")),
    ):
        with pytest.raises(CountedByDay, match="per day"):
            refused()
    assert state_of(adopted) == before
    alone = rf"per day, so seatctl leaves it and its booking {pending} alone; a refund is due: \w+"
    with pytest.raises(RefundDue, match=alone):
        payments.pay(adopted, pending)
    days = backend.events.find_one({"_id": by_day})["dailySeats"]
    assert {day["available"] for day in days.values()} == {10}
    assert list(days) == list(DAYS)


def test_the_line_that_corrects_a_lock_names_the_collection_that_the_locks_are_in(adopted, backend):
    held = backend.lock(backend.event())
    adopted.database.seatlocks.update_one({"_id": held}, {"$set": {"seats": 0.5}})

    (found,) = [one for one in verify(adopted) if one.fault is Fault.DAMAGED_LOCK]
    assert f'db.seatlocks.updateOne({{_id: ObjectId("{held}"), "seats": 0.5}}' in found.remedy
