"""What `verify`, `health` and `recover` call wrong, one way of breaking a promise at a time."""

from datetime import timedelta
from itertools import count

import pytest
from bson import Decimal128, ObjectId
from pymongo.errors import OperationFailure

from seatctl.domain.model import BookingStatus, JobType, LockStatus
from seatctl.mongo import schema
from seatctl.mongo import store as store_module
from seatctl.mongo.store import Store
from seatctl.services import audit as findings
from seatctl.services import jobs as joblog
from seatctl.services import recovery
from seatctl.services import sales as booking
from seatctl.services.audit import INVARIANT, REPAIRABLE, Fault

NOWHERE = ObjectId("0" * 24)


class Scene:
    """A healthy database to break: one event with every kind of lock and booking on it."""

    def __init__(self, store):
        self.store = store
        self.event = booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]
        self.held = self.lock()
        self.lock_of_pending, self.pending = self.booked()
        self.lock_of_paid, self.paid = self.booked()
        booking.pay(store, self.paid)
        self.lock_of_failed, self.failed = self.booked()
        booking.fail(store, self.failed)

    def lock(self):
        return booking.lock(self.store, self.event, "u", 1).document["_id"]

    def booked(self):
        lock = self.lock()
        return lock, booking.confirm(self.store, lock).document["_id"]

    def edit(self, collection, document_id, **fields):
        self.store.database[collection].update_one({"_id": document_id}, {"$set": fields})

    def remove(self, collection, document_id):
        self.store.database[collection].delete_one({"_id": document_id})

    def counter(self, change):
        self.store.database.events.update_one({"_id": self.event}, {"$inc": {"availableSeats": change}})

    def twin(self, booked):
        """A second booking of the same lock, on a database without our guard."""
        self.store.database.bookings.drop_indexes()
        self.store.database.bookings.insert_one({**self.store.booking(booked), "_id": ObjectId()})


@pytest.fixture
def scene(store):
    return Scene(store)


def drift(scene):
    scene.counter(-1)
    return {scene.event}


def overbook(scene):
    scene.edit("seatLocks", scene.held, seats=101)
    return {scene.event}


def forget_to_consume(scene):
    scene.edit("seatLocks", scene.lock_of_paid, status="ACTIVE")
    return {scene.event, scene.lock_of_paid, scene.paid}


def lose_paid_lock(scene):
    scene.edit("seatLocks", scene.lock_of_paid, status="EXPIRED")
    scene.counter(1)
    return {scene.event, scene.lock_of_paid, scene.paid}


def keep_seats_of_failed(scene):
    scene.edit("seatLocks", scene.lock_of_failed, status="ACTIVE")
    scene.counter(-1)
    return {scene.event, scene.lock_of_failed, scene.failed}


def free_under_payment(scene):
    scene.edit("seatLocks", scene.lock_of_pending, status="EXPIRED")
    scene.counter(1)
    return {scene.event, scene.lock_of_pending, scene.pending}


def delete_lock_of_paid(scene):
    scene.remove("seatLocks", scene.lock_of_paid)
    scene.counter(1)
    return {scene.event, scene.lock_of_paid, scene.paid}


def delete_lock_of_paid_and_nothing_else(scene):
    scene.remove("seatLocks", scene.lock_of_paid)
    return {scene.event}


def delete_paid_booking(scene):
    scene.remove("bookings", scene.paid)
    return {scene.event, scene.lock_of_paid}


def book_twice(scene):
    scene.twin(scene.pending)
    return {scene.lock_of_pending}


def move_booking_elsewhere(scene):
    other = booking.create_event(scene.store, "Other", 10, timedelta(days=30)).document["_id"]
    scene.edit("bookings", scene.paid, event=other)
    return {other, scene.lock_of_paid, scene.paid}


def move_lock_nowhere(scene):
    scene.edit("seatLocks", scene.held, eventId=NOWHERE)
    scene.counter(1)
    return {NOWHERE, scene.held}


def move_booking_nowhere(scene):
    scene.edit("bookings", scene.pending, event=NOWHERE)
    return {NOWHERE, scene.lock_of_pending, scene.pending}


def move_sold_lock_nowhere(scene):
    scene.edit("seatLocks", scene.lock_of_paid, eventId=NOWHERE)
    scene.counter(1)
    return {NOWHERE, scene.lock_of_paid}


def damage_lock(scene):
    scene.edit("seatLocks", scene.held, seats=0.5)
    return {scene.event, scene.held}


def damage_booking(scene):
    scene.edit("bookings", scene.failed, status="LOST")
    return {scene.failed}


def damage_event(scene):
    scene.edit("events", scene.event, totalSeats=None)
    return {scene.event}


def let_documents_expire(scene):
    """A TTL index of whatever name and keys, here with a partial filter; long enough to see it found."""
    scene.store.database.bookings.create_index(
        [("paymentExpiresAt", 1)],
        name="tidy",
        expireAfterSeconds=10**9,
        partialFilterExpression={"status": "FAILED"},
    )
    return {"bookings.tidy"}


BESIDE = {Fault.COUNTER_IN_DOUBT: {Fault.CONFIRMED_WITHOUT_LOCK}}
"""What else is wrong wherever a fault is."""

BREAKAGES = {
    Fault.COUNTER_DRIFT: drift,
    Fault.COUNTER_IN_DOUBT: delete_lock_of_paid_and_nothing_else,
    Fault.OVERBOOKED: overbook,
    Fault.UNSETTLED_LOCK: forget_to_consume,
    Fault.LOST_LOCK: lose_paid_lock,
    Fault.SEATS_NOT_RETURNED: keep_seats_of_failed,
    Fault.BOOKING_WITHOUT_SEATS: free_under_payment,
    Fault.CONFIRMED_WITHOUT_LOCK: delete_lock_of_paid,
    Fault.CONSUMED_WITHOUT_BOOKING: delete_paid_booking,
    Fault.SEVERAL_BOOKINGS: book_twice,
    Fault.OTHER_EVENT: move_booking_elsewhere,
    Fault.ORPHAN_LOCK: move_lock_nowhere,
    Fault.ORPHAN_BOOKING: move_booking_nowhere,
    Fault.ORPHAN_SOLD: move_sold_lock_nowhere,
    Fault.DAMAGED_LOCK: damage_lock,
    Fault.DAMAGED_BOOKING: damage_booking,
    Fault.DAMAGED_EVENT: damage_event,
    Fault.TTL_INDEX: let_documents_expire,
}


def faults(store):
    return {finding.fault for finding in findings.find_all(store)}


def recover(store, *, dry_run=False):
    return joblog.run(store, JobType.RECOVERY, lambda run: recovery.recover(store, run), dry_run=dry_run)[0]


def test_every_fault_is_tried():
    """No fault can be added without saying how it comes about and which invariant it breaks."""
    assert set(BREAKAGES) == set(Fault) == set(INVARIANT)


def test_healthy(store, scene, clock):
    """A database with locks and bookings in every state breaks no promise, nor does an empty one."""
    assert findings.find_all(store) == []
    scene.store.drop()
    assert findings.find_all(store) == []
    assert clock() == store.now()


@pytest.mark.parametrize("fault", Fault)
def test_fault(store, scene, clock, fault):
    """Each broken promise is found, and nothing beside it, with the ids involved and what to do; recovery
    then mends it, or leaves it to a person and says so."""
    ids = BREAKAGES[fault](scene)
    found = {finding.fault: finding for finding in findings.find_all(store)}
    document = found[fault].as_document()

    assert set(found) == {fault} | BESIDE.get(fault, set())
    assert {document.get(name) for name in ("event", "lock", "booking", "index")} - {None} == ids
    assert document["fault"] == fault.value
    assert document["invariant"] in range(1, 10)
    assert any(str(each) in document["message"] for each in ids)

    clock.advance(minutes=2)  # a standalone corrects the counters of quiet events alone
    entry = recover(store)
    if fault in REPAIRABLE:
        assert document["remedy"] == "seatctl recover"
        assert (entry["status"], findings.find_all(store)) == ("SUCCESS", [])
    else:
        shows = {f"seatctl show {each}" for each in ids}
        assert document["remedy"] in (shows if fault is not Fault.TTL_INDEX else {"seatctl init --check"})
        assert (entry["status"], fault in faults(store)) == ("FAILED", True)
    assert fault.value in {step["fault"] for step in entry["details"]["findings"]}


SOLD_AND_PAID = (LockStatus.CONSUMED, BookingStatus.CONFIRMED)


@pytest.mark.parametrize("kind", ["replica_store", "standalone_store"])
def test_sold_seats_are_walked_where_digests_differ(request, monkeypatch, kind):
    """The sold locks and paid bookings of an event are read one by one only if their digests differ."""
    store = request.getfixturevalue(kind)
    scene, other = Scene(store), Scene(store)
    asked = []

    def keys(self, collection, event, lock, status, events):
        if status in SOLD_AND_PAID:
            asked.append(events)
        return keys_of(self, collection, event, lock, status, events)

    keys_of = Store._keys
    monkeypatch.setattr(Store, "_keys", keys)

    assert (findings.find_all(store), asked) == ([], [[], []])
    scene.remove("bookings", scene.paid)
    assert faults(store) == {Fault.CONSUMED_WITHOUT_BOOKING}
    assert other.event not in {event for events in asked for event in events}
    assert asked[-1] == [scene.event]


@pytest.mark.parametrize("fault", Fault)
def test_fault_without_digests(request, monkeypatch, fault):
    """A server that knows no hash of an id finds the same."""
    monkeypatch.setattr(store_module, "_HASH", "$toAnotherKey")
    store = request.getfixturevalue("replica_store")
    BREAKAGES[fault](Scene(store))
    assert store.sold_digests() is None
    assert faults(store) == {fault} | BESIDE.get(fault, set())


@pytest.mark.parametrize("collection", ["events", "seatLocks", "bookings"])
def test_hidden_ttl_index(replica_store, collection):
    """An index that the planner must not use deletes documents all the same, on each collection of state;
    the finding says how to drop it."""
    options = {"expireAfterSeconds": 10**9, "hidden": True}
    name = replica_store.database[collection].create_index([("createdAt", -1)], **options)
    (finding,) = findings.find_all(replica_store)

    assert finding.index == f"{collection}.{name}"
    assert f'db.{collection}.dropIndex("{name}")' in finding.message


def test_retention_is_no_finding(store):
    """The job log may age."""
    store.init()

    assert findings.find_all(store) == []


ALLOWED = {
    (BookingStatus.PAYMENT_PENDING, LockStatus.ACTIVE),
    (BookingStatus.CONFIRMED, LockStatus.CONSUMED),
    (BookingStatus.FAILED, LockStatus.EXPIRED),
    (BookingStatus.EXPIRED, LockStatus.EXPIRED),
}


@pytest.mark.parametrize("lock_status", LockStatus)
@pytest.mark.parametrize("booking_status", BookingStatus)
def test_pairs(replica_store, booking_status, lock_status):
    """Of all pairs of a booking's and its lock's status, exactly four agree."""
    scene = Scene(replica_store)
    scene.edit("bookings", scene.pending, status=booking_status.value)
    scene.edit("seatLocks", scene.lock_of_pending, status=lock_status.value)
    scene.counter(int(lock_status is LockStatus.EXPIRED))
    found = [finding.lock for finding in findings.find_all(replica_store)]

    assert found == ([] if (booking_status, lock_status) in ALLOWED else [scene.lock_of_pending])


def test_several_faults(store, scene):
    """Faults are found beside each other, not one at a time."""
    forget_to_consume(scene)
    drift(scene)
    damage_booking(scene)

    assert faults(store) == {Fault.UNSETTLED_LOCK, Fault.COUNTER_DRIFT, Fault.DAMAGED_BOOKING}


def test_waiting_elsewhere(store, scene):
    """A booking of another event than its lock's is a finding also while it waits; once it has ended with
    its lock it holds nothing, and is none."""
    other = booking.create_event(store, "Other", 10, timedelta(days=30)).document["_id"]
    for booked in (scene.pending, scene.failed):
        scene.edit("bookings", booked, event=other)
    (finding,) = findings.find_all(store)

    assert (finding.fault, finding.booking) == (Fault.OTHER_EVENT, scene.pending)
    assert f"names event {other}" in finding.message
    assert finding.message.endswith(f"holds seats of event {scene.event}")


def test_booked_by_two_events(store, scene):
    """On a database without our guard, a second booking that names another event than the first has
    another key; that the lock has two is a finding all the same."""
    other = booking.create_event(store, "Other", 10, timedelta(days=30)).document["_id"]
    store.database.bookings.drop_indexes()
    twin = {**store.booking(scene.pending), "_id": ObjectId(), "event": other, "status": "EXPIRED"}
    store.database.bookings.insert_one(twin)

    assert {Fault.SEVERAL_BOOKINGS} == faults(store)


def test_sold_nowhere(store, scene):
    """A paid booking of an event that does not exist is a person's to decide, with its lock."""
    scene.edit("bookings", scene.paid, event=NOWHERE)

    assert faults(store) == {Fault.ORPHAN_SOLD}


def test_unreadable_lock_hides_the_counter(store, scene):
    """While a lock's seats cannot be read, the counter cannot be judged; the lock is the finding."""
    damage_lock(scene)
    drift(scene)

    assert faults(store) == {Fault.DAMAGED_LOCK}


def test_lock_in_no_known_state(store, scene):
    """A status that nobody defined is a finding."""
    scene.edit("seatLocks", scene.lock(), status="ON_HOLD")
    scene.counter(1)

    assert [finding.message.partition(": ")[2] for finding in findings.find_all(store)] == [
        "status is 'ON_HOLD'"
    ]


@pytest.mark.parametrize(
    "states", [["EXPIRED"], ["ACTIVE"], ["CONSUMED"], ["ACTIVE", "EXPIRED"], []], ids=str
)
def test_a_lock_in_a_list_of_states(store, scene, states):
    """To a query such a lock is in each of them; it is damaged in any case."""
    scene.edit("seatLocks", scene.lock_of_paid, status=states)

    assert Fault.DAMAGED_LOCK in faults(store)


@pytest.mark.parametrize("states", [["EXPIRED"], ["FAILED"], ["PAYMENT_PENDING"], ["CONFIRMED"]], ids=str)
def test_a_booking_in_a_list_of_states(store, scene, states):
    """So is such a booking, whatever its lock is."""
    for booked in (scene.pending, scene.paid, scene.failed):
        scene.edit("bookings", booked, status=states)

    damaged = [
        finding.booking for finding in findings.find_all(store) if finding.fault is Fault.DAMAGED_BOOKING
    ]
    assert sorted(damaged) == sorted([scene.pending, scene.paid, scene.failed])


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("holder", ["held", "pending"])
def test_a_deadline_in_a_list(replica_store, clock, holder, indexed):
    """A sweep passes over a deadline in a list as long as a date in it is to come: no seat is lost
    without a word. Its counter is judged all the same."""
    if indexed:
        replica_store.init()
    scene = Scene(replica_store)
    assert findings.find_all(replica_store) == []
    collection, field, fault = {
        "held": ("seatLocks", "expiresAt", Fault.DAMAGED_LOCK),
        "pending": ("bookings", "paymentExpiresAt", Fault.DAMAGED_BOOKING),
    }[holder]
    scene.edit(collection, getattr(scene, holder), **{field: [clock() + timedelta(days=1)]})

    assert faults(replica_store) == {fault}
    drift(scene)
    assert faults(replica_store) == {fault, Fault.COUNTER_DRIFT}


def test_lists_are_searched_for_where_there_may_be_some(replica_store):
    """Whether a status ever was a list is read off the index; without that, nobody knows."""
    scene = Scene(replica_store)
    indexes = schema.LOCKS_OF_EVENT, schema.BOOKINGS_OF_EVENT

    assert [replica_store.may_hold_lists(index, "status") for index in indexes] == [True, True]
    for index in indexes:
        index.create(replica_store.database)
    assert [replica_store.may_hold_lists(index, "status") for index in indexes] == [False, False]
    scene.edit("bookings", scene.failed, status=["FAILED"])
    assert [replica_store.may_hold_lists(index, "status") for index in indexes] == [False, True]
    assert Fault.DAMAGED_BOOKING in faults(replica_store)


@pytest.mark.parametrize("seats", [float("inf"), float("nan"), Decimal128("2")], ids=str)
@pytest.mark.parametrize("kind", ["replica", "standalone"])
def test_numbers_beyond_reading(request, kind, seats):
    """A lock whose seats are a number of another kind is a finding, and no reader trips over it."""
    scene = Scene(request.getfixturevalue(f"{kind}_store"))
    scene.edit("seatLocks", scene.held, seats=seats)

    assert faults(scene.store) == {Fault.DAMAGED_LOCK}
    scene.store.held_seats([scene.event])


@pytest.mark.parametrize("odd", [{"n": 1}, ["x"]], ids=["document", "list"])
@pytest.mark.parametrize("kind", ["replica", "standalone"])
def test_odd_references(request, kind, odd):
    """A lock whose event id is no value at all but a document or a list belongs to no event."""
    store = request.getfixturevalue(f"{kind}_store")
    scene = Scene(store)
    scene.edit("seatLocks", scene.held, eventId=odd)
    scene.counter(1)

    assert faults(store) == {Fault.ORPHAN_LOCK}


def odd_id_and_list(scene):
    scene.store.database.bookings.drop_indexes()
    lists = {"_id": "b-7", "seatLockId": [scene.lock_of_paid]}
    scene.store.database.bookings.insert_one({**scene.store.booking(scene.paid), **lists})


def no_deadline_of_a_booking(scene):
    scene.edit("bookings", scene.pending, paymentExpiresAt=[])


def no_deadline_and_no_state(scene):
    scene.edit("seatLocks", scene.held, status=["ACTIVE"], expiresAt=None)


def nowhere_twice(scene):
    for event in (NOWHERE, [NOWHERE]):
        scene.edit("seatLocks", scene.lock(), eventId=event)
        scene.counter(1)


@pytest.mark.parametrize(
    ("damage", "fault", "times"),
    [
        (odd_id_and_list, Fault.DAMAGED_BOOKING, 1),
        (no_deadline_of_a_booking, Fault.DAMAGED_BOOKING, 1),
        (no_deadline_and_no_state, Fault.DAMAGED_LOCK, 1),
        (nowhere_twice, Fault.ORPHAN_LOCK, 2),
    ],
)
def test_damaged_in_two_ways(replica_store, damage, fault, times):
    """A document that is found in several ways is named once, by verify and by recovery."""
    damage(Scene(replica_store))
    steps = recover(replica_store, dry_run=True)["details"]["findings"]

    assert [finding.fault for finding in findings.find_all(replica_store)] == [fault] * times
    assert [step["fault"] for step in steps] == [fault] * times


@pytest.mark.parametrize("status", ["PAYMENT_PENDING", ["CONFIRMED"]], ids=str)
def test_kept_by_a_damaged_booking(replica_store, status):
    """A FAILED booking's lock that a live booking names in a list is kept by that one: recovery can free
    nothing, and nobody is sent to it; the damaged booking is what a person must look at."""
    scene = Scene(replica_store)
    keep_seats_of_failed(scene)
    replica_store.database.bookings.drop_indexes()
    lists = {"_id": NOWHERE, "seatLockId": [scene.lock_of_failed], "status": status}
    replica_store.database.bookings.insert_one({**replica_store.booking(scene.failed), **lists})
    (finding,) = findings.find_all(replica_store)

    assert (finding.fault, finding.remedy) == (Fault.DAMAGED_BOOKING, f"seatctl show {NOWHERE}")
    recover(replica_store)
    assert replica_store.lock(scene.lock_of_failed)["status"] == "ACTIVE"


@pytest.mark.parametrize("breakage", [keep_seats_of_failed, lose_paid_lock])
def test_unreadable_lock_of_a_pair(replica_store, breakage):
    """Where a pair disagrees and its lock's seats cannot be read, recovery cannot move them: the lock is
    the finding, and what to do is to look at it."""
    scene = Scene(replica_store)
    breakage(scene)
    lock = scene.lock_of_failed if breakage is keep_seats_of_failed else scene.lock_of_paid
    scene.edit("seatLocks", lock, seats="two")
    (finding,) = findings.find_all(replica_store)

    assert (finding.fault, finding.remedy) == (Fault.DAMAGED_LOCK, f"seatctl show {lock}")


@pytest.mark.parametrize("kind", ["replica", "standalone"])
def test_two_lists_in_one_booking(request, kind):
    """On a database without our indexes a booking may hold a list of events and one of locks, by which no
    server can sort: it is an orphan, and whatever else is wrong is found."""
    scene = Scene(request.getfixturevalue(f"{kind}_store"))
    scene.store.database.bookings.drop_indexes()
    scene.edit("bookings", scene.failed, event=[scene.event], seatLockId=[scene.held], status="CONFIRMED")
    forget_to_consume(scene)

    assert faults(scene.store) == {Fault.ORPHAN_SOLD, Fault.DAMAGED_BOOKING, Fault.UNSETTLED_LOCK}


def test_whole_counter_stored_as_double(store, scene):
    """A counter that the old mongo shell stored as 97.0 is told as 97."""
    drift(scene)
    scene.edit("events", scene.event, availableSeats=95.0, totalSeats=100.0)
    (finding,) = findings.find_all(store)

    assert finding.message.endswith("95 seats available, should be 97 (100 in all, 3 held)")


def counters_meanwhile(monkeypatch, store, act):
    """Have `act(number)` happen whenever the counters have been read for the `number`-th time."""
    read, times = store.all_counters, count(1)

    def read_and_act(session):
        counters = list(read(session))
        act(next(times))
        return counters

    monkeypatch.setattr(store, "all_counters", read_and_act)


@pytest.mark.parametrize("looks", [1, findings.LOOKS])
def test_half_done_command_is_no_finding(standalone_store, monkeypatch, looks):
    """Without snapshots, what is wrong at one look, or at several, and right at the next was one command
    in flight after the other."""
    scene = Scene(standalone_store)
    drift(scene)
    counters_meanwhile(monkeypatch, standalone_store, lambda number: scene.counter(int(number == looks)))

    assert findings.find_all(standalone_store) == []


def test_drift_of_a_busy_event(standalone_store, monkeypatch):
    """Without snapshots, a counter that is wrong is found also while buyers lock seats, so that each look
    sees other numbers."""
    scene = Scene(standalone_store)
    drift(scene)
    counters_meanwhile(monkeypatch, standalone_store, lambda _: scene.lock())
    (finding,) = findings.find_all(standalone_store)

    assert (Fault.COUNTER_DRIFT, scene.event) == (finding.fault, finding.event)


def test_drifts_that_pass_are_no_finding(standalone_store, monkeypatch):
    """Without snapshots, a counter that is wrong at each look, and each time otherwise, is right when it is
    looked at by itself: there are many buyers, not one fault."""
    scene = Scene(standalone_store)
    counters, looked = findings.counters, count(1)

    def drifting(store, session=None):
        off = next(looked)
        scene.counter(off)
        found = list(counters(store, session))
        scene.counter(-off)
        return iter(found)

    monkeypatch.setattr(findings, "counters", drifting)

    assert findings.find_all(standalone_store) == []
    assert next(looked) == 1 + findings.LOOKS + 1


def test_unique_index_on_some_bookings(replica_store):
    """A unique index that leaves bookings out does not rule out that a lock has two."""
    scene = Scene(replica_store)
    scene.twin(scene.paid)
    (twin,) = replica_store.database.bookings.find(
        {"seatLockId": scene.lock_of_paid, "_id": {"$ne": scene.paid}}
    )
    scene.edit("bookings", twin["_id"], status="EXPIRED")
    replica_store.database.bookings.create_index(
        "seatLockId", unique=True, partialFilterExpression={"status": "CONFIRMED"}
    )

    assert Fault.SEVERAL_BOOKINGS in faults(replica_store)


@pytest.mark.parametrize("code", [239, 246], ids=["too old", "unavailable"])
@pytest.mark.parametrize("where", ["locks_of_odd_events", "held_by_event"])
def test_lost_point_in_time(replica_store, monkeypatch, where, code):
    """When the server drops the point in time at which the pairs or the counters are read, they are read
    again from the start, at another."""
    scene = Scene(replica_store)
    drift(scene)
    forget_to_consume(scene)
    read, times = getattr(replica_store, where), count()

    def dropped_once(session):
        if not next(times):
            raise OperationFailure("no such snapshot", code)
        return read(session)

    monkeypatch.setattr(replica_store, where, dropped_once)

    assert faults(replica_store) == {Fault.UNSETTLED_LOCK, Fault.COUNTER_DRIFT}
    assert next(times) == 2


def test_finding_reads_only(store, scene):
    """Looking changes nothing."""
    for breakage in (drift, forget_to_consume, damage_booking):
        breakage(scene)
    before = {name: list(store.database[name].find()) for name in ("events", "seatLocks", "bookings")}
    findings.find_all(store)

    assert before == {name: list(store.database[name].find()) for name in before}
    assert store.database.jobLogs.count_documents({}) == 0
