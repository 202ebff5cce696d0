"""What `verify` calls wrong, one way of breaking a promise at a time."""

from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import everything
from damage import BESIDE, BREAKAGES, Scene, drift, forget_to_consume, keep_seats_of_failed, lose_paid_lock
from scene import HOUR, NOWHERE, PAIRS, create, insert_booking, insert_lock, lock, run_recover

import seatctl.services.verify as verify_module
from seatctl.domain.faults import EXPLANATIONS
from seatctl.domain.states import HOLDING, BookingStatus, Fault, LockStatus
from seatctl.errors import CursorLost
from seatctl.mongo.aggregations import Aggregations
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import SeatLocks
from seatctl.services.blocks import BlockRequest, block
from seatctl.services.verify import verify


@pytest.fixture
def scene(store):
    return Scene(store)


def faults(store):
    return {violation.fault for violation in verify(store)}


def told(store):
    """Each violation's fault, in the alphabet."""
    return sorted(violation.fault.value for violation in verify(store))


# --- each fault ---------------------------------------------------------------------------------------


BROKEN = sorted(set(Fault) - {Fault.COLLATION})
"""A collation breaks no promise by itself: only other programs compare by it."""


def test_no_fault_can_be_added_without_saying_how_it_comes_about():
    assert set(BREAKAGES) == set(BROKEN)


def test_a_database_with_locks_and_bookings_in_every_state_breaks_no_promise(store, scene):
    assert list(verify(store)) == []
    assert scene.pending


def test_an_empty_database_breaks_no_promise(store):
    store.init()

    assert list(verify(store)) == []


@pytest.mark.parametrize("fault", BROKEN)
def test_each_broken_promise_is_found_and_nothing_beside_it(store, scene, fault):
    """With the ids involved and what to do; recovery then mends it, or leaves it to a person and says so."""
    ids = BREAKAGES[fault](scene)
    found = {violation.fault: violation for violation in verify(store)}
    document = found[fault].as_document()

    assert set(found) == {fault} | BESIDE.get(fault, set())
    assert {document.get(name) for name in ("event", "lock", "booking", "index")} - {None} == ids
    assert (document["fault"], document["invariant"]) == (fault.value, EXPLANATIONS[fault].invariant)
    assert any(str(each) in document["message"] for each in ids)

    report = run_recover(store)
    if EXPLANATIONS[fault].repairable:
        assert document["remedy"] == "seatctl recover"
        assert (report.error, list(verify(store))) == (None, [])
    else:
        assert document["remedy"].endswith(f"; seatctl explain {fault}")
        assert report.error
        assert fault in faults(store)
    assert fault in {step.violation.fault for step in report.steps}


def test_faults_are_found_beside_each_other(store, scene):
    forget_to_consume(scene)
    drift(scene)
    scene.edit("bookings", scene.failed, status="LOST")

    assert told(store) == ["counter_in_doubt", "damaged_booking", "unsettled_lock"]


def test_looking_changes_nothing(store, scene):
    for breakage in (drift, forget_to_consume, keep_seats_of_failed):
        breakage(scene)
    before = everything(store)

    assert list(verify(store))
    assert before == everything(store)


# --- the table of pairs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("lock_status", "booking_status"), PAIRS, ids=str)
def test_each_pair_of_a_lock_and_its_booking_is_judged_as_the_table_says(
    store, scene, lock_status, booking_status
):
    put(scene, lock_status)
    scene.edit("bookings", scene.pending, status=booking_status)
    wanted = PAIRS[lock_status, booking_status]
    if lock_status == "CONSUMED" and booking_status != "CONFIRMED":
        wanted = "consumed_without_booking"
    found = list(verify(store))

    assert [violation.fault for violation in found] == ([] if wanted is None else [wanted])
    assert {violation.lock for violation in found} <= {scene.lock_of_pending}


def put(scene, lock_status):
    """The lock of the pending booking into this state, or away, its event's counter as that makes it."""
    if lock_status is None:
        scene.remove("seatLocks", scene.lock_of_pending)
    else:
        scene.edit("seatLocks", scene.lock_of_pending, status=lock_status)
    scene.counter(lock_status not in HOLDING)


@pytest.mark.parametrize("lock_status", LockStatus)
def test_of_locks_without_a_booking_only_a_sold_one_is_wrong(store, scene, lock_status):
    put(scene, lock_status)
    scene.remove("bookings", scene.pending)

    assert told(store) == (["consumed_without_booking"] if lock_status == "CONSUMED" else [])


@pytest.mark.parametrize("twin", sorted(set(BookingStatus) - {BookingStatus.INITIATED}))
@pytest.mark.parametrize("lock_status", LockStatus)
def test_a_lock_with_several_bookings_is_always_told_and_each_pair_beside_it(store, scene, lock_status, twin):
    """But seats that a live booking keeps are not called unreturned."""
    put(scene, lock_status)
    insert_booking(store, scene.event, scene.lock_of_pending, twin.value)
    pairs = {PAIRS[lock_status, "PAYMENT_PENDING"], PAIRS[lock_status, twin]}
    if lock_status == "CONSUMED" and twin != "CONFIRMED":
        pairs.add("consumed_without_booking")
    wanted = (pairs - {None, "seats_not_returned"}) | {"several_bookings"}

    assert faults(store) == wanted


def test_a_booking_that_names_a_second_event_for_the_same_lock_is_several(store, scene):
    other = create(store, 10)
    insert_booking(store, other, scene.lock_of_pending, "EXPIRED")

    assert faults(store) == {Fault.SEVERAL_BOOKINGS}


def test_a_unique_index_that_leaves_bookings_out_does_not_rule_out_several(store, scene):
    insert_booking(store, scene.event, scene.lock_of_paid, "EXPIRED")
    store.database.bookings.create_index(
        "seatLockId", unique=True, partialFilterExpression={"status": "CONFIRMED"}
    )

    assert told(store) == ["several_bookings"]


# --- other events, and none -----------------------------------------------------------------------------


def test_a_waiting_booking_of_another_event_than_its_locks_is_told_and_an_ended_one_is_not(store, scene):
    other = create(store, 10)
    for booked in (scene.pending, scene.failed):
        scene.edit("bookings", booked, event=other)
    (found,) = verify(store)

    assert (found.fault, found.booking) == (Fault.OTHER_EVENT, scene.pending)
    assert f"names event {other}" in found.message
    assert found.message.endswith(f"holds seats of event {scene.event}")


def test_a_paid_booking_of_an_event_that_does_not_exist_is_a_persons_to_decide_with_its_lock(store, scene):
    scene.edit("bookings", scene.paid, event=NOWHERE)

    assert faults(store) == {Fault.ORPHAN_SOLD}


def test_a_sold_lock_of_an_event_that_does_not_exist_is_a_persons_to_decide(store, scene):
    scene.edit("seatLocks", scene.lock_of_paid, eventId=NOWHERE)
    scene.counter(1)

    assert faults(store) == {Fault.ORPHAN_SOLD}


@pytest.mark.parametrize("number", [0, 8, 9, 10, 17, 30])
def test_however_many_events_there_are_each_violation_is_found_once(store, monkeypatch, number):
    """Events are read range by range, and what belongs to none lies in one of the ranges."""
    monkeypatch.setattr(verify_module, "LARGEST_RANGE", 3)
    lowest = insert_lock(store, NOWHERE, due=timedelta(hours=1))
    events = [create(store, 10) for _ in range(number)]
    store.database.events.update_many({}, {"$inc": {"availableSeats": -1}})
    highest = insert_lock(store, ObjectId("f" * 24), due=timedelta(hours=1))
    found = list(verify(store))

    drifts = [violation.event for violation in found if violation.fault is Fault.COUNTER_DRIFT]
    orphans = [violation.lock for violation in found if violation.fault is Fault.ORPHAN_LOCK]
    assert sorted(drifts) == sorted(events)
    assert sorted(orphans) == sorted([lowest, highest])
    assert len(found) == number + 2


def test_what_is_met_in_two_ranges_or_beside_them_is_told_once(store, scene, monkeypatch):
    """A booking lies in the range of its own event, and is met with its lock in the range of another one."""
    monkeypatch.setattr(verify_module, "LARGEST_RANGE", 1)
    other = create(store, 10)
    odd = {
        insert_booking(store, other, scene.held, "LOST"),
        insert_booking(store, str(other), scene.lock_of_paid, "CONFIRMED"),
        insert_booking(store, "?", scene.lock_of_pending, "CONFIRMED"),
    }
    damaged = [found.booking for found in verify(store) if found.fault is Fault.DAMAGED_BOOKING]

    assert len(damaged) == len(odd)
    assert set(damaged) == odd


@pytest.mark.parametrize("status", ["ACTIVE", "CONSUMED", "EXPIRED"])
def test_what_belongs_to_an_event_that_was_deleted_between_two_others_is_found(store, status):
    _, gone, _ = (create(store, 10) for _ in range(3))
    held = insert_lock(store, gone, due=timedelta(hours=1), status=status)
    store.database.events.delete_one({"_id": gone})
    found = [(violation.fault, violation.lock) for violation in verify(store)]

    wanted = {"ACTIVE": [(Fault.ORPHAN_LOCK, held)], "CONSUMED": [(Fault.ORPHAN_SOLD, held)]}
    assert found == wanted.get(status, [])


# --- how much is read -----------------------------------------------------------------------------------


def test_sold_seats_are_read_one_by_one_only_where_digests_differ(store, monkeypatch):
    scene, other = Scene(store), Scene(store)
    asked = []
    for documents in (SeatLocks, Bookings):
        read = documents.of_events

        def recording(self, events, status, read=read):
            if status in ("CONSUMED", "CONFIRMED"):
                asked.append(list(events["$in"]))
            return read(self, events, status)

        monkeypatch.setattr(documents, "of_events", recording)

    assert (list(verify(store)), asked) == ([], [])
    scene.remove("bookings", scene.paid)
    assert faults(store) == {Fault.CONSUMED_WITHOUT_BOOKING}
    assert asked == [[scene.event], [scene.event]]
    assert other.event not in asked[0]


def test_a_sale_that_was_swapped_with_another_ones_is_found(store, scene):
    """Digests stand for the sets of locks: the same number of other locks has another."""
    lock_of_paid, paid = scene.booked()
    scene.edit("bookings", paid, status="CONFIRMED")  # its lock stays ACTIVE
    scene.edit("seatLocks", scene.held, status="CONSUMED")  # and one that nobody paid is sold

    assert told(store) == ["consumed_without_booking", "unsettled_lock"]
    assert lock_of_paid


def test_only_what_runs_for_more_than_a_year_is_told_and_of_a_lock_with_its_booking_the_booking(store, scene):
    year = store.now() + timedelta(days=366)
    scene.edit("seatLocks", scene.held, expiresAt=year)
    scene.edit("bookings", scene.pending, paymentExpiresAt=year)
    scene.edit("seatLocks", scene.lock_of_failed, expiresAt=year + HOUR)
    scene.edit("seatLocks", scene.lock_of_paid, expiresAt=year + HOUR)
    block(store, BlockRequest(scene.event, 1))
    assert told(store) == []

    scene.edit("seatLocks", scene.lock_of_pending, expiresAt=year + HOUR)
    assert told(store) == []
    scene.edit("bookings", scene.pending, paymentExpiresAt=year + HOUR)
    [found] = verify(store)
    assert (found.fault, found.booking, found.lock) == (
        Fault.FAR_DEADLINE,
        scene.pending,
        scene.lock_of_pending,
    )


def test_what_is_read_again_because_the_server_dropped_its_point_in_time_is_said(
    store, scene, monkeypatch, caplog
):
    drift(scene)
    read, lost = Aggregations.held_seats, []

    def lose_once(self, scope, **options):
        if not lost:
            lost.append(scope)
            raise CursorLost
        return read(self, scope, **options)

    monkeypatch.setattr(Aggregations, "held_seats", lose_once)
    with caplog.at_level("INFO", "seatctl"):
        assert told(store) == ["counter_drift"]
    [said] = [each.getMessage() for each in caplog.records if "dropped" in each.getMessage()]
    assert said.startswith(f"reading the events from {lost[0]['$gte']} to the last again: the server dropped")


def test_an_empty_text_is_no_key_and_so_none_that_two_locks_share(store, scene):
    for _ in range(2):
        insert_lock(store, scene.event, status="EXPIRED", idempotencyKey="")
    assert told(store) == []

    for _ in range(2):
        insert_lock(store, scene.event, status="EXPIRED", idempotencyKey=" ")
    assert told(store) == ["duplicate_key"]


def test_a_ttl_index_that_is_hidden_deletes_documents_all_the_same(store, scene):
    for collection in ("events", "seatLocks", "bookings"):
        options = {"expireAfterSeconds": 10**9, "hidden": True}
        name = store.database[collection].create_index([("createdAt", -1)], **options)
        (found,) = verify(store)

        assert (found.fault, found.index) == (Fault.TTL_INDEX, f"{collection}.{name}")
        assert f'drop it in mongosh: db.{collection}.dropIndex("{name}")' in found.remedy
        assert f"{collection}.{name} is a TTL index, so MongoDB deletes documents" in found.message
        store.database[collection].drop_index(name)
    assert list(verify(store)) == []
    assert scene.event


def test_the_job_log_may_age(store):
    store.init()
    store.database.jobLogs.create_index("createdAt", expireAfterSeconds=10**9)

    assert list(verify(store)) == []


# --- repairs that cannot be --------------------------------------------------------------------------


def test_a_lost_lock_is_for_recovery_while_its_event_has_the_seats_and_else_a_persons(store, scene):
    lose_paid_lock(scene)
    (found,) = verify(store)
    assert (found.fault, found.remedy) == (Fault.LOST_LOCK, "seatctl recover")

    lock(store, scene.event, 98)
    (found,) = verify(store)
    assert found.fault is Fault.LOST_LOCK
    assert found.remedy == (
        f"more seats can be added: seatctl resize {scene.event} --seats N, then seatctl recover; "
        f"the buyer is refunded: seatctl cancel {scene.paid}; seatctl explain lost_lock"
    )


def test_a_counter_stored_as_a_double_is_told_whole(store, scene):
    drift(scene)
    scene.edit("events", scene.event, availableSeats=95.0, totalSeats=100.0)
    (found,) = verify(store)

    assert found.message.endswith("95 seats available, should be 97 (100 in all, 3 held)")
