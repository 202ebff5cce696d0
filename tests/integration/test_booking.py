"""What the operator's commands promise, on every kind of deployment."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from bson import Decimal128, ObjectId
from conftest import available, edit, everything, open_store
from pymongo.errors import DuplicateKeyError, WriteError

from seatctl.domain.model import LIVE, MAX_DESCRIPTION, MAX_SEATS, MAX_TEXT, BookingStatus, LockStatus
from seatctl.domain.timespec import printable
from seatctl.errors import (
    DamagedDocument,
    DeadlinePassed,
    KeyReused,
    NotFound,
    SoldOut,
    Usage,
    WriteRefused,
    WrongState,
)
from seatctl.mongo.client import Deployment
from seatctl.services import sales as booking

USER = "65f000000000000000000001"
BAD_TEXTS = ["", "   ", "x" * (MAX_TEXT + 1), "x" * 10_000, "a\x00b", "a\nb", "\x1b[31mred", "a\u202eb"]
BAD_SEATS = [0, -1, MAX_SEATS + 1, 10**30]


@pytest.fixture
def event(store):
    """An event with ten seats."""
    return booking.create_event(store, "Concert", 10, timedelta(days=30)).document["_id"]


@pytest.fixture
def lock(store, event):
    """A lock of three of them."""
    return booking.lock(store, event, USER, 3).document["_id"]


@pytest.fixture
def pending(store, lock):
    """That lock's booking, waiting for its payment."""
    return booking.confirm(store, lock).document["_id"]


@pytest.fixture(params=["replica", "standalone"])
def server_store(request):
    """A store on a server that has validators."""
    return request.getfixturevalue(f"{request.param}_store")


def types(document):
    return {field: type(value) for field, value in document.items()}


# --- create-event ----------------------------------------------------------------------------------


def test_event_document(store, clock):
    """An event is stored with exactly the contract's fields and types, all of its seats available."""
    made = booking.create_event(store, " Concert ", 10, clock() + timedelta(days=1)).document

    assert made == store.event(made["_id"])
    assert {
        "_id": ObjectId,
        "name": str,
        "eventDate": datetime,
        "totalSeats": int,
        "availableSeats": int,
        "createdAt": datetime,
        "updatedAt": datetime,
    } == types(store.event(made["_id"]))
    assert (made["name"], made["totalSeats"], made["availableSeats"]) == ("Concert", 10, 10)
    assert clock() == made["createdAt"] == made["updatedAt"]


def test_event_description(store, clock):
    """A description may have lines; without one the field is absent."""
    told = booking.create_event(store, "Concert", 1, clock(), "first\n\tsecond").document["_id"]

    assert store.event(told)["description"] == "first\n\tsecond"


def test_event_date_is_stored_in_utc(store, clock):
    """A date is a point in time in UTC milliseconds, or counted from the server's now."""
    precise = datetime(2027, 5, 1, 19, 30, 0, 123_456, tzinfo=UTC)
    absolute = booking.create_event(store, "A", 1, precise).document["_id"]
    relative = booking.create_event(store, "B", 1, timedelta(hours=2)).document["_id"]

    assert precise.replace(microsecond=123_000) == store.event(absolute)["eventDate"]
    assert clock() + timedelta(hours=2) == store.event(relative)["eventDate"]


def test_event_must_make_sense(store, clock):
    """A name that is empty, endless or not printable, a senseless number of seats, an endless
    description and a date beyond the calendar are refused, and nothing is stored."""
    for name in BAD_TEXTS:
        with pytest.raises(Usage, match="name"):
            booking.create_event(store, name, 1, clock())
    for seats in BAD_SEATS:
        with pytest.raises(Usage, match="seats must be a whole number"):
            booking.create_event(store, "Concert", seats, clock())
    for description in ("", "x" * (MAX_DESCRIPTION + 1), "bell\a"):
        with pytest.raises(Usage, match="description"):
            booking.create_event(store, "Concert", 1, clock(), description)
    with pytest.raises(Usage, match="too far in the future"):
        booking.create_event(store, "Concert", 1, timedelta(days=3_000_000))
    assert not store.database.events.count_documents({})


# --- lock ------------------------------------------------------------------------------------------


def test_lock_document(store, clock, event):
    """A lock is stored with exactly the contract's fields and types and runs for ten minutes."""
    made = booking.lock(store, event, USER, 3).document

    assert made == store.lock(made["_id"])
    assert {
        "_id": ObjectId,
        "eventId": ObjectId,
        "userId": ObjectId,
        "seats": int,
        "status": str,
        "expiresAt": datetime,
        "createdAt": datetime,
        "updatedAt": datetime,
    } == types(store.lock(made["_id"]))
    assert (event, ObjectId(USER), 3, "ACTIVE") == tuple(
        made[field] for field in ("eventId", "userId", "seats", "status")
    )
    assert clock() + timedelta(minutes=10) == made["expiresAt"]
    assert clock() == made["createdAt"] == made["updatedAt"]


def test_lock_takes_its_seats_once(store, event):
    """A lock lowers the event's counter by its seats and says what is left."""
    made = booking.lock(store, event, USER, 3)

    assert (made.changed, made.available) == (True, 7)
    assert available(store, event) == 7


def test_user_that_is_no_object_id_stays_a_string(store, event):
    """Only 24 hex digits are stored as an ObjectId."""
    for user in ("alice", USER[:-1], "zz" * 12):
        made = booking.lock(store, event, user, 1).document
        assert user == store.lock(made["_id"])["userId"]


def test_lock_ttl(store, clock, event):
    """A lock runs as long as the caller says."""
    made = booking.lock(store, event, USER, 1, ttl=timedelta(seconds=90)).document

    assert clock() + timedelta(seconds=90) == made["expiresAt"]


def test_last_seats(store, event):
    """All seats of an event can be locked, and not one more."""
    booking.lock(store, event, USER, 10)

    with pytest.raises(SoldOut, match="has 0 seats left, 1 asked"):
        booking.lock(store, event, USER, 1)
    assert available(store, event) == 0


@pytest.mark.parametrize("kind", ["replica", "standalone"])
def test_stamped_by_the_server_as_it_writes(request, monkeypatch, kind):
    """A lock is dated by the very write that takes its seats: a process that is stopped before it leaves
    no stamp from before, by which recovery would take the event for quiet."""
    store = open_store(request.getfixturevalue(kind).uri.replace("/?", f"/{uuid.uuid4().hex}?"))
    made = booking.create_event(store, "a concert", 10, timedelta(days=30)).document["_id"]
    before = store.now()
    monkeypatch.setattr(Deployment, "now", None)
    lock = booking.lock(store, made, USER, 3).document
    monkeypatch.undo()

    assert store.event(made)["updatedAt"] == lock["createdAt"] == lock["updatedAt"]
    assert before <= lock["createdAt"] <= store.now()
    assert lock["expiresAt"] - lock["createdAt"] == timedelta(minutes=10)


@pytest.mark.parametrize("ttl", [timedelta(), timedelta(seconds=-1), timedelta(days=3651)])
def test_ttl_that_makes_no_sense(store, event, ttl):
    """A lock lasts for some time, and not for ever; nothing is taken before that is clear."""
    with pytest.raises(Usage, match="at most 3650 days"):
        booking.lock(store, event, USER, 1, ttl=ttl)
    assert available(store, event) == 10


@pytest.mark.parametrize("late", [0, 3])
def test_last_seats_to_the_same_request(store, event, monkeypatch, late):
    """When a request with a key comes twice at once for the last seats, both get the one lock, also
    where that is there only some looks after its seats are gone."""
    take, look = store.take_seats, store.lock_by_key
    made, misses = [], iter([None] * (late if not store.transactions else 0))

    def after_the_other(*arguments):
        monkeypatch.setattr(store, "take_seats", take)
        made.append(booking.lock(store, event, USER, 10, key="k").document)
        monkeypatch.setattr(store, "lock_by_key", lambda *key: next(misses, look(*key)))
        return take(*arguments)

    monkeypatch.setattr(store, "take_seats", after_the_other)
    done = booking.lock(store, event, USER, 10, key="k")

    assert ([done.document], False) == (made, done.changed)
    with pytest.raises(SoldOut):
        booking.lock(store, event, USER, 10, key="another")


@pytest.mark.parametrize("user", ["田中\u3000太郎", "Jean\u00a0Valjean", "क्\u200dषेत्र", "👩\u200d💻"])
def test_names_of_the_world(store, event, user):
    """Spaces and joiners that other scripts write with are no control characters."""
    assert booking.lock(store, event, user, 1).document["userId"] == user
    assert printable(user) == user


@pytest.mark.usefixtures("lock")
def test_sold_out_changes_nothing(store, event):
    """A request for more seats than are left is refused, says how many are left, changes nothing."""
    before = everything(store)

    with pytest.raises(SoldOut, match="has 7 seats left, 8 asked"):
        booking.lock(store, event, USER, 8)
    assert before == everything(store)


def test_whole_counter_stored_as_double(store, event):
    """The old mongo shell stores 2 as 2.0; nobody is told of 2.0 seats."""
    edit(store, "events", event, availableSeats=3.0, totalSeats=10.0)
    done = booking.lock(store, event, "u", 1)

    assert str(done.available) == "2"
    with pytest.raises(SoldOut, match="has 2 seats left, 3 asked"):
        booking.lock(store, event, "u", 3)
    edit(store, "events", event, availableSeats=11.0)
    with pytest.raises(DamagedDocument, match="11 of 10 seats available"):
        booking.lock(store, event, "u", 30)


def test_key_of_a_lock_stored_as_double(store, event):
    """The seats of an earlier lock are told whole, too."""
    held = booking.lock(store, event, "u", 2, key="k").document["_id"]
    edit(store, "seatLocks", held, seats=2.0)

    assert booking.lock(store, event, "u", 2, key="k").document["_id"] == held
    with pytest.raises(KeyReused, match="already locked 2 seats"):
        booking.lock(store, event, "u", 3, key="k")


def test_overdue_lock_gives_way(store, clock, event, lock):
    """A lock on a sold-out event first gives back what is overdue there; no job has to run."""
    clock.advance(minutes=11)

    assert booking.lock(store, event, USER, 10).available == 0
    assert tuple(store.lock(lock)[field] for field in ("status", "oldStatus")) == ("EXPIRED", "ACTIVE")


def test_overdue_booking_gives_way(store, clock, event, lock, pending):
    """So does a booking that nobody paid in time, with its lock."""
    clock.advance(minutes=16)

    assert booking.lock(store, event, USER, 10).available == 0
    assert store.lock(lock)["status"] == "EXPIRED"
    assert store.booking(pending)["status"] == "EXPIRED"


def test_nothing_overdue_gives_way_elsewhere(store, clock, lock):
    """Only the event that is asked for is tidied."""
    other = booking.create_event(store, "Other", 1, clock()).document["_id"]
    clock.advance(minutes=11)

    with pytest.raises(SoldOut):
        booking.lock(store, other, USER, 2)
    assert store.lock(lock)["status"] == "ACTIVE"


def test_lock_of_unknown_event(store, lock):
    """An event that does not exist is not found; another document's id is recognised."""
    with pytest.raises(NotFound, match="there is no event"):
        booking.lock(store, ObjectId(), USER, 1)
    with pytest.raises(NotFound, match="that is the id of a lock"):
        booking.lock(store, lock, USER, 1)


def test_ids(store, event):
    """A text that is no id is a usage error, an id of nothing is not found, another kind is named."""
    for command in (booking.confirm, booking.pay, booking.fail, booking.release):
        with pytest.raises(Usage, match="24 hexadecimal digits"):
            command(store, "not-an-id")
        with pytest.raises(NotFound, match="there is no"):
            command(store, str(ObjectId()))
        with pytest.raises(NotFound, match="that is the id of an event"):
            command(store, f" {event} ")


def test_lock_must_make_sense(store, event):
    """A senseless number of seats and a user or key that is empty, endless or not printable are
    refused, and no seat is taken."""
    for seats in BAD_SEATS:
        with pytest.raises(Usage, match="seats must be a whole number"):
            booking.lock(store, event, USER, seats)
    for text in BAD_TEXTS:
        with pytest.raises(Usage, match="user"):
            booking.lock(store, event, text, 1)
        with pytest.raises(Usage, match="key"):
            booking.lock(store, event, USER, 1, key=text)
    assert available(store, event) == 10


TEN = Decimal128("10")
NO_SEAT_COUNTS = [
    *[(seats, seats) for seats in (TEN, float("inf"), 2.5, 2**40, float("nan"))],
    (TEN, 10),
    (10, TEN),
    (2.5, 10),
]


@pytest.mark.parametrize("kind", ["replica_store", "standalone_store"])
@pytest.mark.parametrize(("free", "total"), NO_SEAT_COUNTS, ids=str)
def test_lock_on_numbers_that_are_no_seat_counts(request, kind, free, total):
    """What verify calls damaged sells no seat, and takes none back."""
    store = request.getfixturevalue(kind)
    event = booking.create_event(store, "Concert", 10, timedelta(days=30)).document["_id"]
    held = booking.lock(store, event, USER, 1).document["_id"]
    edit(store, "events", event, availableSeats=free, totalSeats=total)
    before = everything(store)

    with pytest.raises(DamagedDocument, match=r"Seats is .*, not a (positive )?whole number"):
        booking.lock(store, event, USER, 1)
    with pytest.raises(DamagedDocument, match=r"Seats is .*, not a (positive )?whole number"):
        booking.release(store, held)
    assert str(everything(store)) == str(before)  # NaN is not equal to itself


def test_lock_on_damaged_event(store, event):
    """An event whose counter is no number is named, and left alone."""
    edit(store, "events", event, availableSeats="many")

    with pytest.raises(DamagedDocument, match="availableSeats is 'many'"):
        booking.lock(store, event, USER, 1)


# --- lock --key ------------------------------------------------------------------------------------


def test_key_returns_the_same_lock(store, event):
    """The same key of the same user for the same event is one lock, taken once."""
    first = booking.lock(store, event, USER, 3, key="k1")
    again = booking.lock(store, event, USER, 3, key=" k1 ")

    assert (first.changed, again.changed) == (True, False)
    assert first.document == again.document
    assert store.lock(first.document["_id"])["idempotencyKey"] == "k1"
    assert available(store, event) == 7


def test_key_with_other_seats(store, event):
    """A key stands for one request; with another number of seats it is refused."""
    booking.lock(store, event, USER, 3, key="k1")
    before = everything(store)

    with pytest.raises(KeyReused, match="already locked 3 seats"):
        booking.lock(store, event, USER, 4, key="k1")
    assert before == everything(store)


def test_key_belongs_to_user_and_event(store, clock, event):
    """Another user, or the same one on another event, may use the same key."""
    other = booking.create_event(store, "Other", 10, clock()).document["_id"]
    locks = [
        booking.lock(store, *request, 1, key="k1") for request in ((event, USER), (event, "x"), (other, USER))
    ]

    assert [made.changed for made in locks] == [True, True, True]


def test_key_of_an_expired_lock(store, event):
    """A key still stands for its lock when that has ended: a retry must not take seats anew."""
    first = booking.lock(store, event, USER, 3, key="k1").document["_id"]
    booking.release(store, first)

    assert first == booking.lock(store, event, USER, 3, key="k1").document["_id"]
    assert available(store, event) == 10


@pytest.mark.parametrize("looks", [1, 6])
@pytest.mark.parametrize("seats", [3, 4])
def test_key_taken_meanwhile(store, event, monkeypatch, seats, looks):
    """When the same key wins the race between look-up and insert, its lock is the one and no seat is
    lost, also where nobody ran init, and where its lock is not to be seen at once."""
    first = booking.lock(store, event, USER, 3, key="k1").document
    monkeypatch.setattr(store, "lock_by_key", _blind(store.lock_by_key, looks))

    if seats == 3:
        assert first == booking.lock(store, event, USER, seats, key="k1").document
    else:
        with pytest.raises(KeyReused):
            booking.lock(store, event, USER, seats, key="k1")
    assert available(store, event) == 7
    assert store.database.seatLocks.count_documents({}) == 1


def _blind(look_up, looks):
    calls = iter(range(100))
    return lambda *of: look_up(*of) if next(calls) >= looks else None


def test_guards_are_the_databases(store, event, pending):
    """The database itself refuses a second lock with a key and a second booking of a lock."""
    keyed = booking.lock(store, event, USER, 1, key="k1").document
    booked = store.booking(pending)

    with pytest.raises(DuplicateKeyError):
        store.database.seatLocks.insert_one({**keyed, "_id": ObjectId()})
    with pytest.raises(DuplicateKeyError):
        store.database.bookings.insert_one({**booked, "_id": ObjectId()})


@pytest.mark.parametrize("prepared", ["by nobody", "by init", "by a keyed lock"])
def test_locks_without_a_key_are_accepted(store, clock, event, prepared):
    """Whatever indexes exist, seven locks without a key can be inserted by another program."""
    if prepared == "by init":
        store.init()
    if prepared == "by a keyed lock":
        booking.lock(store, event, USER, 1, key="k1")
    foreign = [
        {"eventId": event, "userId": "u", "seats": 1, "status": "ACTIVE", "expiresAt": clock()}
        for _ in range(7)
    ]

    assert len(store.database.seatLocks.insert_many(foreign).inserted_ids) == 7


def test_locks_with_a_null_key_are_accepted(store, event):
    """A key that is null counts as none."""
    booking.lock(store, event, USER, 1, key="k1")
    foreign = [{"eventId": event, "userId": "u", "idempotencyKey": None} for _ in range(2)]

    assert len(store.database.seatLocks.insert_many(foreign).inserted_ids) == 2


def test_refused_lock_gives_its_seats_back(server_store, clock):
    """A lock that a validator refuses takes no seats."""
    store = server_store
    event = booking.create_event(store, "Concert", 10, clock()).document["_id"]
    store.database.create_collection("seatLocks", validator={"seats": {"$lt": 3}})

    with pytest.raises(WriteRefused, match="validator"):
        booking.lock(store, event, USER, 3)
    assert available(store, event) == 10


def test_other_unique_index_of_another_program(store, event):
    """A lock that collides with a unique index of somebody else is refused and takes no seats."""
    store.database.seatLocks.create_index("userId", unique=True)
    booking.lock(store, event, USER, 3)

    with pytest.raises((WriteRefused, DuplicateKeyError)):
        booking.lock(store, event, USER, 3, key="k1")
    assert available(store, event) == 7


# --- confirm ---------------------------------------------------------------------------------------


def test_booking_document(store, clock, event, lock):
    """A booking is stored with exactly the contract's fields and types and waits for 15 minutes."""
    made = booking.confirm(store, lock).document

    assert made == store.booking(made["_id"])
    assert {
        "_id": ObjectId,
        "event": ObjectId,
        "user": ObjectId,
        "seatLockId": ObjectId,
        "status": str,
        "paymentExpiresAt": datetime,
        "createdAt": datetime,
        "updatedAt": datetime,
    } == types(store.booking(made["_id"]))
    assert (event, ObjectId(USER), lock, "PAYMENT_PENDING") == tuple(
        made[field] for field in ("event", "user", "seatLockId", "status")
    )
    assert clock() + timedelta(minutes=15) == made["paymentExpiresAt"]


def test_confirm_takes_no_seats(store, clock, event, lock):
    """Confirming leaves the counter and the lock's status alone and moves the lock's deadline to the
    booking's, so that an expiry of the lock and this cannot both win."""
    clock.advance(minutes=2)
    booking.confirm(store, lock, payment_ttl=timedelta(minutes=20))

    assert available(store, event) == 7
    assert store.lock(lock)["status"] == "ACTIVE"
    assert clock() + timedelta(minutes=20) == store.lock(lock)["expiresAt"]


def test_confirm_twice(store, clock, lock, pending):
    """Confirming again returns the same booking, also when the lock's own time is up."""
    clock.advance(minutes=14)
    again = booking.confirm(store, lock)

    assert (pending, False) == (again.document["_id"], again.changed)


@pytest.mark.parametrize("status", BookingStatus)
def test_confirm_of_a_booked_lock(store, lock, pending, status):
    """A lock has one booking: a live one is returned, one that ended is never followed by another."""
    edit(store, "bookings", pending, status=status.value)

    if status in LIVE:
        assert pending == booking.confirm(store, lock).document["_id"]
    else:
        with pytest.raises(WrongState, match=f"had booking {pending}, which is {status}"):
            booking.confirm(store, lock)
    assert store.database.bookings.count_documents({}) == 1


@pytest.mark.parametrize("status", LockStatus)
def test_only_an_active_lock_is_confirmed(store, lock, status):
    """A lock that is CONSUMED or EXPIRED becomes no booking."""
    edit(store, "seatLocks", lock, status=status.value)

    if status is LockStatus.ACTIVE:
        assert booking.confirm(store, lock).changed
        return
    with pytest.raises(WrongState, match=f"is {status}"):
        booking.confirm(store, lock)
    assert not store.database.bookings.count_documents({})


def test_overdue_lock_is_not_confirmed(store, clock, lock):
    """A lock at its deadline is refused even when no job ran."""
    clock.advance(minutes=10)

    with pytest.raises(DeadlinePassed, match="ran out at 2027-01-01T12:10:00Z"):
        booking.confirm(store, lock)
    assert not store.database.bookings.count_documents({})


@pytest.mark.parametrize(
    ("fields", "says"), [({"seats": 1.5}, "seats is 1.5"), ({"expiresAt": "soon"}, "expiresAt is 'soon'")]
)
def test_damaged_lock_is_not_confirmed(store, lock, fields, says):
    """A lock without a sound number of seats or deadline becomes no booking."""
    edit(store, "seatLocks", lock, **fields)

    with pytest.raises(DamagedDocument, match=says):
        booking.confirm(store, lock)


def test_confirm_loses_to_expiry(store, lock, monkeypatch):
    """A lock that expires between reading and writing is refused, and no live booking stays."""
    extend = store.extend_lock

    def beaten(*arguments):
        edit(store, "seatLocks", lock, status="EXPIRED")
        return extend(*arguments)

    monkeypatch.setattr(store, "extend_lock", beaten)
    with pytest.raises(WrongState):
        booking.confirm(store, lock)
    assert not store.database.bookings.count_documents({"status": {"$in": list(LIVE)}})


def test_confirm_at_the_same_time(store, lock, monkeypatch):
    """Of two confirms at the same instant, the slower one returns the faster one's booking."""
    first = booking.confirm(store, lock).document["_id"]
    monkeypatch.setattr(store, "booking_of_lock", _blind(store.booking_of_lock, 1))

    again = booking.confirm(store, lock)
    assert (first, False) == (again.document["_id"], again.changed)


def test_foreign_lock(store, clock, event):
    """A lock of another program, lacking what is optional and carrying more, is handled like any other
    and keeps what is unknown."""
    foreign = {
        "eventId": event,
        "userId": "u",
        "seats": 2.0,
        "status": "ACTIVE",
        "expiresAt": clock() + timedelta(minutes=1),
        "rows": ["A1", "A2"],
    }
    lock = store.database.seatLocks.insert_one(foreign).inserted_id
    edit(store, "events", event, availableSeats=8, venue={"hall": 1})

    booking.fail(store, booking.confirm(store, lock).document["_id"])

    assert (store.lock(lock)["rows"], store.lock(lock)["status"]) == (["A1", "A2"], "EXPIRED")
    assert (store.event(event)["venue"], available(store, event)) == ({"hall": 1}, 10)
    assert int is type(available(store, event))


# --- pay -------------------------------------------------------------------------------------------


def test_pay(store, clock, event, lock, pending):
    """A payment in time makes the booking CONFIRMED and its lock CONSUMED and moves no seats."""
    clock.advance(minutes=5)
    edit(store, "bookings", pending, invoice="R-1")
    paid = booking.pay(store, pending)

    assert paid.changed
    assert paid.document == store.booking(pending)
    assert ("CONFIRMED", "R-1", clock()) == tuple(
        paid.document[field] for field in ("status", "invoice", "updatedAt")
    )
    assert store.lock(lock)["status"] == "CONSUMED"
    assert "oldStatus" not in store.lock(lock)
    assert available(store, event) == 7


def test_pay_twice(store, clock, pending):
    """Paying twice is one payment, also when the second comes after the deadline."""
    booking.pay(store, pending)
    before = everything(store)
    clock.advance(hours=1)

    assert not booking.pay(store, pending).changed
    assert before == everything(store)


def test_pay_too_late(store, clock, pending):
    """A payment at its deadline is refused, says that a refund is due, and changes nothing."""
    before = everything(store)
    clock.advance(minutes=15)

    with pytest.raises(DeadlinePassed, match=r"had to be paid by 2027-01-01T12:15:00Z; a refund is due"):
        booking.pay(store, pending)
    assert before == everything(store)


@pytest.mark.parametrize("status", [*BookingStatus, "ON_HOLD"])
def test_pay_in_each_state(store, lock, pending, status):
    """Only a waiting booking is paid; an ended or unknown one is refused with a refund, never revived."""
    edit(store, "bookings", pending, status=str(status))

    if status in LIVE:
        assert booking.pay(store, pending).document["status"] == "CONFIRMED"
        assert store.lock(lock)["status"] == "CONSUMED"
        return
    with pytest.raises(WrongState, match=f"is {status}.*a refund is due"):
        booking.pay(store, pending)
    assert ("ACTIVE", status) == (store.lock(lock)["status"], store.booking(pending)["status"])


@pytest.mark.parametrize("status", [LockStatus.EXPIRED, LockStatus.CONSUMED, "missing"])
def test_pay_without_the_seats(store, lock, pending, status):
    """A booking whose lock holds no seats for it is not paid; a refund is due."""
    if status == "missing":
        store.database.seatLocks.delete_one({"_id": lock})
    else:
        edit(store, "seatLocks", lock, status=str(status))

    with pytest.raises(WrongState, match=f"is {status}.*a refund is due"):
        booking.pay(store, pending)
    assert store.booking(pending)["status"] == "PAYMENT_PENDING"


def test_pay_without_a_deadline(store, pending):
    """A booking whose deadline is no date is not paid, and the message says so."""
    edit(store, "bookings", pending, paymentExpiresAt="tomorrow")

    with pytest.raises(DamagedDocument, match=r"paymentExpiresAt is 'tomorrow'.*was not recorded"):
        booking.pay(store, pending)


def test_pay_again_finishes_a_crash(store, lock, pending):
    """Paying again settles the lock that a crash left behind the CONFIRMED booking."""
    edit(store, "bookings", pending, status="CONFIRMED")

    assert not booking.pay(store, pending).changed
    assert store.lock(lock)["status"] == "CONSUMED"


def test_pay_loses_the_booking(store, pending, monkeypatch):
    """A booking that fails between reading and writing stays FAILED and the payment is due for refund."""
    confirm = store.confirm_booking

    def beaten(*arguments):
        edit(store, "bookings", pending, status="FAILED")
        return confirm(*arguments)

    monkeypatch.setattr(store, "confirm_booking", beaten)
    with pytest.raises(WrongState, match="refund is due"):
        booking.pay(store, pending)
    assert store.booking(pending)["status"] == "FAILED"


def test_pay_loses_its_time(store, pending, monkeypatch):
    """A deadline that moves into the past between reading and writing is kept: the payment is refused."""
    confirm = store.confirm_booking

    def beaten(booking_id, now, session):
        edit(store, "bookings", pending, paymentExpiresAt=now)
        return confirm(booking_id, now, session)

    monkeypatch.setattr(store, "confirm_booking", beaten)
    with pytest.raises(DeadlinePassed, match="refund is due"):
        booking.pay(store, pending)
    assert store.booking(pending)["status"] == "PAYMENT_PENDING"


def test_pay_loses_the_lock(store, lock, pending, monkeypatch):
    """A lock that expires in the middle of a payment leaves no CONFIRMED booking without seats."""
    move = store.move_lock

    def beaten(*arguments, **options):
        edit(store, "seatLocks", lock, status="EXPIRED")
        return move(*arguments, **options)

    monkeypatch.setattr(store, "move_lock", beaten)
    with pytest.raises(WrongState, match="refund is due"):
        booking.pay(store, pending)
    assert store.booking(pending)["status"] != "CONFIRMED"


# --- pay --failed ----------------------------------------------------------------------------------


def test_fail(store, event, lock, pending):
    """A failed payment makes the booking FAILED and its lock EXPIRED and gives the seats back."""
    failed = booking.fail(store, pending)

    assert failed.changed
    assert failed.document == store.booking(pending)
    assert (store.booking(pending)["status"], store.lock(lock)["status"]) == ("FAILED", "EXPIRED")
    assert "oldStatus" not in store.lock(lock)
    assert available(store, event) == 10


def test_fail_twice(store, pending):
    """Failing twice gives the seats back once."""
    booking.fail(store, pending)
    before = everything(store)

    assert not booking.fail(store, pending).changed
    assert before == everything(store)


@pytest.mark.parametrize("status", BookingStatus)
def test_fail_in_each_state(store, event, pending, status):
    """Only a waiting booking can fail; CONFIRMED and EXPIRED are final."""
    edit(store, "bookings", pending, status=status.value)

    if status in (BookingStatus.PAYMENT_PENDING, BookingStatus.FAILED):
        assert booking.fail(store, pending).document["status"] == "FAILED"
        return
    with pytest.raises(WrongState, match=f"is {status}"):
        booking.fail(store, pending)
    assert available(store, event) == 7


def test_fail_after_the_deadline(store, clock, event, pending):
    """A failure may come late; it takes nothing from anybody."""
    clock.advance(hours=1)
    booking.fail(store, pending)

    assert available(store, event) == 10


@pytest.mark.parametrize("lost", ["EXPIRED", "missing"])
def test_fail_without_the_seats(store, event, lock, pending, lost):
    """A booking whose lock already gave its seats back, or is gone, gives none."""
    if lost == "missing":
        store.database.seatLocks.delete_one({"_id": lock})
    else:
        edit(store, "seatLocks", lock, status=lost)
    booking.fail(store, pending)

    assert store.booking(pending)["status"] == "FAILED"
    assert available(store, event) == 7


@pytest.mark.parametrize(
    ("fields", "error"), [({"status": "CONSUMED"}, WrongState), ({"seats": "3"}, DamagedDocument)]
)
def test_fail_with_an_odd_lock(store, lock, pending, fields, error):
    """A lock that may be paid for, or holds no number of seats, is a person's to decide."""
    edit(store, "seatLocks", lock, **fields)
    before = everything(store)

    with pytest.raises(error):
        booking.fail(store, pending)
    assert before == everything(store)


def test_fail_of_a_lost_event(store, event, pending):
    """Seats of an event that is gone cannot be given back; recovery is for that."""
    store.database.events.delete_one({"_id": event})
    before = everything(store)

    with pytest.raises(DamagedDocument, match=f"its event {event} does not exist"):
        booking.fail(store, pending)
    assert before == everything(store)


# --- release ---------------------------------------------------------------------------------------


def test_release(store, clock, event, lock):
    """Releasing gives the seats back early and leaves no trace of a job."""
    deadline = store.lock(lock)["expiresAt"]
    clock.advance(minutes=1)
    released = booking.release(store, lock)

    assert released.document == store.lock(lock)
    assert ("EXPIRED", deadline, clock()) == tuple(
        released.document[field] for field in ("status", "expiresAt", "updatedAt")
    )
    assert "oldStatus" not in store.lock(lock)
    assert available(store, event) == 10


@pytest.mark.parametrize("status", LockStatus)
def test_release_in_each_state(store, event, lock, status):
    """Only an ACTIVE lock can be released, so never twice."""
    edit(store, "seatLocks", lock, status=status.value)

    if status is LockStatus.ACTIVE:
        booking.release(store, lock)
        assert available(store, event) == 10
        return
    with pytest.raises(WrongState, match=f"is {status}"):
        booking.release(store, lock)
    assert available(store, event) == 7


@pytest.mark.parametrize("status", BookingStatus)
def test_release_of_a_booked_lock(store, event, lock, pending, status):
    """A lock with a booking, of whatever status, is not released."""
    edit(store, "bookings", pending, status=status.value)

    with pytest.raises(WrongState, match=f"has booking {pending}"):
        booking.release(store, lock)
    assert available(store, event) == 7


def test_release_loses_to_confirm(store, event, lock, monkeypatch):
    """A lock that is confirmed between reading and writing keeps its seats."""
    read, calls = store.booking_of_lock, iter(range(100))

    def confirmed_meanwhile(*arguments):
        found = read(*arguments)
        if not next(calls):
            booking.confirm(store, lock)
        return found

    monkeypatch.setattr(store, "booking_of_lock", confirmed_meanwhile)
    with pytest.raises(WrongState, match="has booking"):
        booking.release(store, lock)
    assert (store.lock(lock)["status"], available(store, event)) == ("ACTIVE", 7)


def test_release_never_overfills(store, event, lock):
    """Seats that the counter never gave are not added: nothing is clamped, nothing is changed."""
    edit(store, "events", event, availableSeats=10)
    before = everything(store)

    with pytest.raises(DamagedDocument, match="would make more than its 10; run `seatctl recover`"):
        booking.release(store, lock)
    assert before == everything(store)


def test_release_of_a_damaged_lock(store, lock):
    """A lock whose seats are no number is not released."""
    edit(store, "seatLocks", lock, seats=-1)

    with pytest.raises(DamagedDocument, match="seats is -1"):
        booking.release(store, lock)


def test_release_of_a_lock_that_the_validator_refuses(server_store, clock):
    """A lock that the validator will not let expire keeps its seats, and the error says why."""
    store = server_store
    event = booking.create_event(store, "Concert", 10, clock()).document["_id"]
    lock = booking.lock(store, event, USER, 3).document["_id"]
    store.database.command("collMod", "seatLocks", validator={"status": {"$ne": "EXPIRED"}})

    with pytest.raises((WriteRefused, DamagedDocument, WriteError), match="validator"):
        booking.release(store, lock)
    assert (store.lock(lock)["status"], available(store, event)) == ("ACTIVE", 7)
