"""What the two sweeps give back, leave alone and set aside, on every kind of deployment."""

import uuid
from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import available, edit, everything, open_store

from seatctl.domain.model import LIVE, BookingStatus, LockStatus
from seatctl.errors import Contention
from seatctl.mongo.store import ReadLost
from seatctl.services import expiry
from seatctl.services import sales as booking
from seatctl.services.expiry import booking_sweep, lock_sweep
from seatctl.services.seats import Cause, GivenBack, StartOver, Terms

LATE = timedelta(hours=1)


@pytest.fixture
def event(store):
    """An event with a hundred seats."""
    return booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]


@pytest.fixture(params=["replica", "standalone"])
def server_store(request):
    """A store on a server that has validators."""
    return request.getfixturevalue(f"{request.param}_store")


def take(store, event, number=1, seats=1):
    """Lock seats; the new locks' ids."""
    return [booking.lock(store, event, f"user {n}", seats).document["_id"] for n in range(number)]


def sweep(store, kind, at=None, **options):
    """One run; what it gave back in all."""
    now = store.now()
    done = GivenBack()
    for batch in expiry.sweep(store, kind(store), Terms(now, overdue_at=at or now), **options):
        done.add(batch)
    return done


def batches(store, **options):
    """How many locks each batch of a run gave back."""
    now = store.now()
    terms = Terms(now, overdue_at=now)
    return [batch.locks for batch in expiry.sweep(store, lock_sweep(store), terms, **options)]


def expire_locks(store, **options):
    return sweep(store, lock_sweep, **options)


def expire_bookings(store, **options):
    return sweep(store, booking_sweep, **options)


def counts(done):
    return done.locks, done.bookings, done.seats.total()


def reasons(done):
    return {item.id: item.reason for item in done.set_aside}


def status(store, lock):
    return store.lock(lock)["status"]


# --- expire-locks ----------------------------------------------------------------------------------


def test_lock_expiry_scenario(store, clock, event):
    """Five locks of one seat on 100 leave 95; past their deadline all five seats come back."""
    locks = take(store, event, 5)
    assert available(store, event) == 95
    clock.advance(minutes=11)

    assert counts(expire_locks(store)) == (5, 0, 5)
    assert [status(store, lock) for lock in locks] == ["EXPIRED"] * 5
    assert available(store, event) == 100


def test_expired_lock_document(store, clock, event):
    """An expired lock remembers its old status, keeps its deadline and whatever is unknown to us."""
    (lock,) = take(store, event)
    edit(store, "seatLocks", lock, rows=["A1"])
    before = store.lock(lock)
    clock.advance(minutes=11)
    expire_locks(store)

    assert {**before, "status": "EXPIRED", "oldStatus": "ACTIVE", "updatedAt": clock()} == store.lock(lock)
    assert int is type(available(store, event))
    assert clock() == store.event(event)["updatedAt"]


def test_lock_at_its_deadline(store, clock, event):
    """A lock is overdue after its deadline, not at it."""
    take(store, event)
    clock.advance(minutes=10)
    assert counts(expire_locks(store)) == (0, 0, 0)

    clock.advance(milliseconds=1)
    assert counts(expire_locks(store)) == (1, 0, 1)


def test_lock_expiry_twice(store, clock, event):
    """Running the job twice is running it once."""
    take(store, event, 3, seats=2)
    clock.advance(minutes=11)
    expire_locks(store)
    before = everything(store)

    assert counts(expire_locks(store)) == (0, 0, 0)
    assert before == everything(store)


@pytest.mark.parametrize("state", [*LockStatus, "ON_HOLD"])
def test_lock_expiry_of_each_status(store, clock, event, state):
    """Only ACTIVE locks expire."""
    (lock,) = take(store, event)
    edit(store, "seatLocks", lock, status=str(state))
    clock.advance(minutes=11)

    assert (state is LockStatus.ACTIVE) == expire_locks(store).locks
    assert state is LockStatus.ACTIVE or state == status(store, lock)


@pytest.mark.parametrize("state", BookingStatus)
def test_booking_keeps_its_lock(store, clock, event, state):
    """A waiting or paid booking keeps its lock however late the lock is, also when the program that
    wrote the booking did not touch the lock; one that ended does not."""
    (lock,) = take(store, event)
    foreign = {"event": event, "user": "u", "seatLockId": lock, "status": state.value}
    store.database.bookings.insert_one({**foreign, "paymentExpiresAt": clock() + timedelta(minutes=15)})
    clock.advance(hours=1)
    expired = 0 if state in LIVE else 1

    assert (expired, 0, expired) == counts(expire_locks(store))
    assert 99 + expired == available(store, event)


def test_batches(store, clock):
    """Batches give every seat back once; each ends where an event ends, if it can, so that two in
    flight do not meet on one."""
    events = [booking.create_event(store, "Concert", 10, LATE).document["_id"] for _ in range(3)]
    for event in events:
        take(store, event, 3, seats=2)
    clock.advance(minutes=11)

    assert batches(store, batch_size=4) == [3, 3, 3]
    assert [available(store, event) for event in events] == [10, 10, 10]


def test_as_of(store, clock, event):
    """A run as of a moment judges deadlines by it and stamps changes with the server's now."""
    (lock,) = take(store, event)

    assert counts(expire_locks(store, at=clock() - LATE)) == (0, 0, 0)
    assert counts(expire_locks(store, at=clock() + LATE)) == (1, 0, 1)
    assert clock() == store.lock(lock)["updatedAt"]


def test_dry_run(store, clock, event):
    """A dry run says what would be done, with what would be set aside, and writes nothing."""
    locks = take(store, event, 3)
    edit(store, "seatLocks", locks[0], seats=0)
    booking.confirm(store, take(store, event)[0])
    clock.advance(hours=1)
    before = everything(store)
    planned = [sweep(store, kind, dry_run=True) for kind in (lock_sweep, booking_sweep)]
    assert before == everything(store)

    done = [sweep(store, kind) for kind in (lock_sweep, booking_sweep)]
    assert [counts(each) for each in planned] == [counts(each) for each in done] == [(2, 0, 2), (1, 1, 1)]
    assert [reasons(each) for each in planned] == [reasons(each) for each in done]


def test_few_at_a_time_beside_buyers(replica_store, clock, monkeypatch):
    """An event from which somebody has just bought is held for a few locks at a time only."""
    monkeypatch.setattr(expiry, "BUSY_BATCH", 2)
    event = booking.create_event(replica_store, "Concert", 9, timedelta(days=30)).document["_id"]
    for quiet_for, expected in ((timedelta(0), [2, 2, 1]), (timedelta(minutes=1), [5])):
        take(replica_store, event, 5)
        clock.advance(minutes=11)
        edit(replica_store, "events", event, updatedAt=clock() - timedelta(seconds=1) - quiet_for)

        assert batches(replica_store) == expected


@pytest.mark.parametrize("batch_size", [1, 2, expiry.BATCH])
@pytest.mark.parametrize("kind", [lock_sweep, booking_sweep])
def test_dry_run_over_several_batches(store, clock, event, kind, batch_size):
    """However small its batches, a dry run promises an event no more seats than its counter can take."""
    locks = take(store, event, 5)
    if kind is booking_sweep:
        for lock in locks:
            booking.confirm(store, lock)
    edit(store, "events", event, availableSeats=98)
    clock.advance(hours=1)
    planned = sweep(store, kind, dry_run=True, batch_size=batch_size)
    done = sweep(store, kind, batch_size=batch_size)

    assert counts(planned) == counts(done)
    assert reasons(planned) == reasons(done)
    assert available(store, event) == 98 + planned.seats.total() <= 100


def test_whole_seats_stored_as_double(store, clock, event):
    """The old mongo shell stores 2 as 2.0, which is two seats."""
    (lock,) = take(store, event, seats=2)
    edit(store, "seatLocks", lock, seats=2.0)
    clock.advance(minutes=11)

    assert counts(expire_locks(store)) == (1, 0, 2)
    assert int is type(available(store, event))


BROKEN_LOCKS = {
    "no seats": ({"seats": None}, "seats is missing"),
    "zero seats": ({"seats": 0}, "seats is 0"),
    "negative seats": ({"seats": -1}, "seats is -1"),
    "half a seat": ({"seats": 1.5}, "seats is 1.5"),
    "endless seats": ({"seats": float("inf")}, "seats is inf"),
    "seats that are no number": ({"seats": float("nan")}, "seats is nan"),
    "seats in words": ({"seats": "2"}, "seats is '2'"),
    "seats that are true": ({"seats": True}, "seats is True"),
    "a deadline in words": ({"expiresAt": "2020-01-01"}, "expiresAt is '2020-01-01', not a date"),
    "no deadline": ({"expiresAt": None}, "expiresAt is missing, not a date"),
    "an unknown event": ({"eventId": ObjectId("0" * 24)}, f"its event {'0' * 24} does not exist"),
    "no event": ({"eventId": None}, "its event None does not exist"),
    "an event id in words": ({"eventId": "x"}, "its event x does not exist"),
}


def test_broken_locks(store, clock, event):
    """Each broken lock is set aside with its reason and left as it is; the rest of the batch is done."""
    broken = take(store, event, len(BROKEN_LOCKS))
    for lock, (fields, _) in zip(broken, BROKEN_LOCKS.values(), strict=True):
        edit(store, "seatLocks", lock, **fields)
    take(store, event, 2)
    clock.advance(minutes=11)
    before = [store.lock(lock) for lock in broken]
    done = expire_locks(store)

    assert counts(done) == (2, 0, 2)
    found = reasons(done)
    assert set(broken) == set(found)
    for lock, (_, reason) in zip(broken, BROKEN_LOCKS.values(), strict=True):
        assert reason in found[lock]
    assert str(before) == str([store.lock(lock) for lock in broken])  # as text: nan is not itself


@pytest.mark.parametrize("odd", [{"oid": "x"}, ["x"]], ids=["document", "list"])
def test_lock_with_an_odd_event_id(store, clock, event, odd):
    """A lock whose event id is no value at all but a document or a list is set aside."""
    locks = take(store, event, 2)
    edit(store, "seatLocks", locks[0], eventId=odd)
    clock.advance(minutes=11)
    done = expire_locks(store)

    assert counts(done) == (1, 0, 1)
    assert [item.id for item in done.set_aside] == locks[:1]


@pytest.mark.parametrize("odd_id", ["L-1", 7, {"n": 1}], ids=["string", "number", "document"])
def test_lock_with_an_odd_id(store, clock, event, odd_id):
    """A lock whose id is no ObjectId is set aside: no booking could refer to it."""
    take(store, event)
    odd = {"_id": odd_id, "eventId": event, "seats": 1, "status": "ACTIVE", "expiresAt": clock()}
    store.database.seatLocks.insert_one(odd)
    clock.advance(minutes=11)
    done = expire_locks(store)

    assert counts(done) == (1, 0, 1)
    assert [odd_id] == [item.id for item in done.set_aside]
    assert "not an ObjectId" in done.set_aside[0].reason


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"availableSeats": "99"}, "availableSeats is '99'"),
        ({"availableSeats": None}, "availableSeats is missing"),
        ({"totalSeats": 0}, "totalSeats is 0"),
        ({"availableSeats": 100}, "1 seats back on 100 would make more than its 100; run `seatctl recover`"),
    ],
)
def test_broken_counter(store, clock, event, fields, says):
    """Locks of an event whose counter cannot take their seats are set aside; nothing is clamped."""
    (lock,) = take(store, event)
    good = booking.create_event(store, "Other", 10, LATE).document["_id"]
    take(store, good, 2)
    edit(store, "events", event, **fields)
    clock.advance(minutes=11)
    before = store.event(event)
    done = expire_locks(store)

    assert counts(done) == (2, 0, 2)
    assert [(lock, Cause.COUNTER)] == [(item.id, item.cause) for item in done.set_aside]
    assert says in done.set_aside[0].reason
    assert (before, "ACTIVE", 10) == (store.event(event), status(store, lock), available(store, good))


def test_set_aside_in_words(store, clock, event):
    """What is set aside is named with its kind, id and reason."""
    (lock,) = take(store, event)
    edit(store, "seatLocks", lock, seats=0)
    clock.advance(minutes=11)

    assert [f"lock {lock}: seats is 0, not a positive whole number"] == [
        str(item) for item in expire_locks(store).set_aside
    ]


def test_lock_that_the_validator_refuses(server_store, clock):
    """A lock that the validator will not let change is set aside, and the rest of the batch is done."""
    store = server_store
    event = booking.create_event(store, "Concert", 10, LATE).document["_id"]
    locks = take(store, event, 5)
    store.database.command(
        "collMod", "seatLocks", validator={"$nor": [{"_id": locks[2], "status": "EXPIRED"}]}
    )
    clock.advance(minutes=11)
    done = expire_locks(store)

    assert counts(done) == (4, 0, 4)
    assert [(locks[2], Cause.REFUSED)] == [(item.id, item.cause) for item in done.set_aside]
    assert (status(store, locks[2]), available(store, event)) == ("ACTIVE", 9)


def test_booking_that_the_validator_refuses(server_store, clock):
    """So is a booking."""
    store = server_store
    event = booking.create_event(store, "Concert", 10, LATE).document["_id"]
    bookings = [booking.confirm(store, lock).document["_id"] for lock in take(store, event, 3)]
    rule = {"$nor": [{"_id": bookings[0], "status": "EXPIRED"}]}
    store.database.command("collMod", "bookings", validator=rule)
    clock.advance(minutes=16)
    done = expire_bookings(store)

    assert counts(done) == (2, 2, 2)
    assert [bookings[0]] == [item.id for item in done.set_aside]


# --- a moving target -------------------------------------------------------------------------------


def test_lock_confirmed_meanwhile(store, clock, event, monkeypatch):
    """A lock that is confirmed between reading and writing keeps its seats; the rest is done."""
    locks = take(store, event, 3)
    clock.advance(minutes=10, milliseconds=1)
    read, calls = store.live_bookings_of, iter(range(100))

    def confirmed_meanwhile(lock_ids):
        found = read(lock_ids)
        if not next(calls):
            clock.advance(minutes=-5)  # the buyer was in time
            booking.confirm(store, locks[1])
            clock.advance(minutes=5)
        return found

    monkeypatch.setattr(store, "live_bookings_of", confirmed_meanwhile)

    assert counts(expire_locks(store)) == (2, 0, 2)
    assert (status(store, locks[1]), available(store, event)) == ("ACTIVE", 99)


def test_lock_expired_meanwhile(store, clock, event, monkeypatch):
    """Two jobs over the same locks give each seat back once, also where the counter has room for more."""
    booking.lock(store, event, "u", 10, ttl=LATE)
    take(store, event, 3)
    clock.advance(minutes=11)
    read, calls = store.live_bookings_of, iter(range(100))

    def expired_meanwhile(lock_ids):
        found = read(lock_ids)
        if not next(calls):
            clock.advance(milliseconds=1)
            assert expire_locks(store).locks == 3
        return found

    monkeypatch.setattr(store, "live_bookings_of", expired_meanwhile)

    assert counts(expire_locks(store)) == (0, 0, 0)
    assert available(store, event) == 90


def test_booking_paid_meanwhile(store, clock, event, monkeypatch):
    """A booking that is paid between reading and writing stays CONFIRMED, its lock CONSUMED."""
    locks = take(store, event, 2)
    bookings = [booking.confirm(store, lock).document["_id"] for lock in locks]
    clock.advance(minutes=15, milliseconds=1)
    read, calls = store.live_bookings_of, iter(range(100))

    def paid_meanwhile(lock_ids):
        found = read(lock_ids)
        if not next(calls):
            clock.advance(minutes=-5)  # the buyer was in time
            booking.pay(store, bookings[0])
            clock.advance(minutes=5)
        return found

    monkeypatch.setattr(store, "live_bookings_of", paid_meanwhile)

    assert counts(expire_bookings(store)) == (1, 1, 1)
    assert (store.booking(bookings[0])["status"], status(store, locks[0])) == ("CONFIRMED", "CONSUMED")
    assert available(store, event) == 99


def test_booking_confirmed_by_another_program_meanwhile(store, clock, event, monkeypatch):
    """A booking that another program confirms between reading and writing keeps its lock, though that
    program has not touched the lock."""
    locks = take(store, event, 2)
    bookings = [booking.confirm(store, lock).document["_id"] for lock in locks]
    clock.advance(minutes=16)
    read, calls = store.live_bookings_of, iter(range(100))

    def confirmed_meanwhile(lock_ids):
        found = read(lock_ids)
        if not next(calls):
            edit(store, "bookings", bookings[0], status="CONFIRMED")
        return found

    monkeypatch.setattr(store, "live_bookings_of", confirmed_meanwhile)

    assert counts(expire_bookings(store)) == (1, 1, 1)
    assert (status(store, locks[0]), available(store, event)) == ("ACTIVE", 99)


def test_lost_cursor(store, clock, event, monkeypatch):
    """When the server drops the list of what is overdue, it is read again; a dry run would count twice
    and gives up instead."""
    take(store, event, 3)
    clock.advance(minutes=11)
    read, calls = store.overdue_locks, iter(range(100))

    def dropped_once(now, event_id=None):
        for number, lock in enumerate(read(now, event_id)):
            if number == 2 and not next(calls):
                raise ReadLost
            yield lock

    monkeypatch.setattr(store, "overdue_locks", dropped_once)
    with pytest.raises(Contention, match="kept dropping"):
        sweep(store, lock_sweep, batch_size=1, dry_run=True)
    calls = iter(range(100))

    assert counts(expire_locks(store, batch_size=1)) == (3, 0, 3)


def test_endless_race(store, clock, event, monkeypatch):
    """When others keep winning, a sweep and a command end with a word about it and nothing changed."""
    (lock,) = take(store, event)
    clock.advance(minutes=11)
    before = everything(store)

    def beaten(*_, **__):
        raise StartOver

    monkeypatch.setattr(expiry, "give_back", beaten)
    with pytest.raises(Contention):
        expire_locks(store)
    monkeypatch.setattr(booking, "give_back", beaten)
    with pytest.raises(Contention):
        booking.release(store, lock)
    assert before == everything(store)


# --- expire-bookings -------------------------------------------------------------------------------


def test_booking_expiry_scenario(store, clock, event):
    """Three confirmed locks on 100 leave 97; past the bookings' deadline all three seats come back."""
    locks = take(store, event, 3)
    bookings = [booking.confirm(store, lock).document["_id"] for lock in locks]
    assert available(store, event) == 97
    clock.advance(minutes=16)

    assert counts(expire_bookings(store)) == (3, 3, 3)
    assert [store.booking(each)["status"] for each in bookings] == ["EXPIRED"] * 3
    assert [status(store, lock) for lock in locks] == ["EXPIRED"] * 3
    assert available(store, event) == 100


def test_expired_booking_document(store, clock, event):
    """An expired booking keeps its deadline and whatever is unknown to us; its lock remembers ACTIVE."""
    (lock,) = take(store, event)
    booked = booking.confirm(store, lock).document["_id"]
    edit(store, "bookings", booked, invoice="R-1")
    before = store.booking(booked)
    clock.advance(minutes=16)
    expire_bookings(store)

    assert {**before, "status": "EXPIRED", "updatedAt": clock()} == store.booking(booked)
    assert store.lock(lock)["oldStatus"] == "ACTIVE"


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "foreign"])
@pytest.mark.parametrize("paid", [True, False], ids=["paid", "unpaid"])
def test_short_lock_under_long_payment(store, clock, event, foreign, paid):
    """A 10-minute lock under a 15-minute payment is left alone at minute 11 and paid at minute 12, or
    unpaid gives its seats back exactly once at minute 16; also when another program wrote the booking
    and did not touch the lock."""
    (lock,) = take(store, event, seats=2)
    if foreign:
        document = {"event": event, "user": "u", "seatLockId": lock, "status": "PAYMENT_PENDING"}
        document["paymentExpiresAt"] = clock() + timedelta(minutes=15)
        booked = store.database.bookings.insert_one(document).inserted_id
    else:
        booked = booking.confirm(store, lock).document["_id"]

    clock.advance(minutes=11)
    assert counts(expire_locks(store)) == (0, 0, 0)
    assert (status(store, lock), available(store, event)) == ("ACTIVE", 98)

    clock.advance(minutes=1)
    if paid:
        booking.pay(store, booked)
    clock.advance(minutes=4)
    first = counts(expire_bookings(store))
    again = counts(expire_bookings(store)), counts(expire_locks(store))

    assert first == ((0, 0, 0) if paid else (1, 1, 2))
    assert again == ((0, 0, 0), (0, 0, 0))
    assert (("CONSUMED", 98) if paid else ("EXPIRED", 100)) == (status(store, lock), available(store, event))


@pytest.mark.parametrize("state", BookingStatus)
def test_booking_expiry_of_each_status(store, clock, event, state):
    """Only waiting bookings expire."""
    booked = booking.confirm(store, take(store, event)[0]).document["_id"]
    edit(store, "bookings", booked, status=state.value)
    clock.advance(minutes=16)
    waiting = state is BookingStatus.PAYMENT_PENDING

    assert waiting == expire_bookings(store).bookings
    assert ("EXPIRED" if waiting else state) == store.booking(booked)["status"]


@pytest.mark.parametrize("lost", ["EXPIRED", "missing", "never named"])
def test_booking_whose_seats_are_back(store, clock, event, lost):
    """A booking whose lock already gave its seats back, or cannot be found, expires and adds none."""
    (lock,) = take(store, event)
    booked = booking.confirm(store, lock).document["_id"]
    if lost == "EXPIRED":
        edit(store, "seatLocks", lock, status="EXPIRED")
    elif lost == "missing":
        store.database.seatLocks.delete_one({"_id": lock})
    else:
        edit(store, "bookings", booked, seatLockId=None)
    clock.advance(minutes=16)

    assert counts(expire_bookings(store)) == (0, 1, 0)
    assert available(store, event) == 99


BROKEN_BOOKINGS = {
    "a deadline in words": ({"paymentExpiresAt": "soon"}, {}, "paymentExpiresAt is 'soon', not a date"),
    "no deadline": ({"paymentExpiresAt": None}, {}, "paymentExpiresAt is missing, not a date"),
    "a sold lock": ({}, {"status": "CONSUMED"}, "is CONSUMED: somebody may have paid"),
    "a lock of unknown status": ({}, {"status": "ON_HOLD"}, "has the unknown status 'ON_HOLD'"),
    "a lock without status": ({}, {"status": None}, "has the unknown status missing"),
    "a lock without seats": ({}, {"seats": None}, "seats is missing"),
    "a lock of an unknown event": ({}, {"eventId": ObjectId("0" * 24)}, "does not exist"),
}


def test_broken_bookings(store, clock, event):
    """Each broken booking is set aside with its reason and left as it is; the rest is done."""
    locks = take(store, event, len(BROKEN_BOOKINGS) + 1)
    bookings = [booking.confirm(store, lock).document["_id"] for lock in locks]
    for lock, booked, (changes, lock_changes, _) in zip(
        locks, bookings, BROKEN_BOOKINGS.values(), strict=False
    ):
        edit(store, "bookings", booked, **changes, known=True)
        edit(store, "seatLocks", lock, **lock_changes, known=True)
    clock.advance(minutes=16)
    before = everything(store)
    done = expire_bookings(store)

    assert counts(done) == (1, 1, 1)
    assert store.booking(bookings[-1])["status"] == "EXPIRED"
    found = reasons(done)
    assert set(bookings[:-1]) == set(found)
    for booked, (*_, reason) in zip(bookings, BROKEN_BOOKINGS.values(), strict=False):
        assert reason in found[booked]
        assert store.booking(booked) in before["bookings"]


@pytest.mark.parametrize("odd", ["L-1", {"n": 1}, [1]], ids=["string", "document", "list"])
def test_booking_with_an_odd_lock_id(store, clock, event, odd):
    """A booking that names no possible lock holds no seats; it stops nothing."""
    bookings = [booking.confirm(store, lock).document["_id"] for lock in take(store, event, 2)]
    edit(store, "bookings", bookings[0], seatLockId=odd)
    clock.advance(minutes=16)
    done = expire_bookings(store)

    assert store.booking(bookings[1])["status"] == "EXPIRED"
    assert done.seats.total() == 1


def test_two_overdue_bookings_of_one_lock(store, clock, event):
    """Two bookings of one lock (a foreign fault) give its seats back once."""
    (lock,) = take(store, event, seats=2)
    twins = [{"event": event, "seatLockId": lock, "status": "PAYMENT_PENDING"} for _ in range(2)]
    store.database.bookings.insert_many({**twin, "paymentExpiresAt": clock()} for twin in twins)
    clock.advance(minutes=16)

    assert counts(expire_bookings(store)) == (1, 2, 2)
    assert available(store, event) == 100


def test_lock_with_another_booking_alive(store, clock, event):
    """A lock with another booking that somebody paid keeps its seats when one of the two expires."""
    (lock,) = take(store, event)
    twins = [
        {"event": event, "seatLockId": lock, "status": state, "paymentExpiresAt": clock()}
        for state in ("PAYMENT_PENDING", "CONFIRMED")
    ]
    store.database.bookings.insert_many(twins)
    clock.advance(minutes=16)

    assert counts(expire_bookings(store)) == (0, 1, 0)
    assert (status(store, lock), available(store, event)) == ("ACTIVE", 99)


@pytest.mark.parametrize("state", LIVE)
def test_lock_that_a_booking_names_in_a_list(store, clock, event, state):
    """A live booking whose `seatLockId` is a list keeps each lock in it, and stops nothing."""
    named, other = take(store, event, 2)
    fields = {"event": event, "status": state.value, "paymentExpiresAt": clock() + LATE}
    store.database.bookings.insert_one({**fields, "seatLockId": [named, "x"]})
    clock.advance(minutes=11)

    assert counts(expire_locks(store)) == (1, 0, 1)
    assert (status(store, named), status(store, other)) == ("ACTIVE", "EXPIRED")


def test_lock_with_an_odd_id_beside_a_full_counter(store, clock, event):
    """A batch that has to be planned again, because a counter cannot take its seats, still knows the lock
    whose id is a document."""
    (refused,) = take(store, event)
    edit(store, "events", event, availableSeats=100)
    good = booking.create_event(store, "Other", 10, LATE).document["_id"]
    take(store, good)
    odd = {"_id": {"n": 1}, "eventId": good, "seats": 1, "status": "ACTIVE", "expiresAt": clock()}
    store.database.seatLocks.insert_one(odd)
    clock.advance(minutes=11)
    done = expire_locks(store)

    assert counts(done) == (1, 0, 1)
    assert sorted(str(item.id) for item in done.set_aside) == sorted([str(refused), "{'n': 1}"])


def test_unacknowledged_writes_are_acknowledged(standalone):
    """A URI that asks for unacknowledged writes (w=0) does not make a sweep lose count, on a server
    without transactions, too."""
    uri = standalone.uri.replace("/?", f"/test_{uuid.uuid4().hex}?")
    store, careless = open_store(uri), open_store(f"{uri}&w=0")
    event = booking.create_event(store, "Concert", 100, LATE).document["_id"]
    take(store, event, 2)

    assert counts(expire_locks(careless, at=store.now() + LATE)) == (2, 0, 2)
    assert available(store, event) == 100
    for each in (store, careless):
        each.deployment.close()


def test_booking_with_an_odd_id(store, clock, event):
    """A booking whose id is no ObjectId is set aside."""
    odd = {"_id": "B-1", "event": event, "status": "PAYMENT_PENDING", "paymentExpiresAt": clock()}
    store.database.bookings.insert_one(odd)
    clock.advance(minutes=1)

    assert reasons(expire_bookings(store)) == {"B-1": "_id is 'B-1', not an ObjectId"}


# --- one event alone -------------------------------------------------------------------------------


def test_reclaim(store, clock, event):
    """Reclaiming one event gives back its overdue bookings and locks and no other's."""
    other = booking.create_event(store, "Other", 10, LATE).document["_id"]
    booking.confirm(store, take(store, event)[0])
    take(store, event, 2)
    take(store, other)
    clock.advance(minutes=16)

    assert counts(expiry.reclaim(store, event)) == (3, 1, 3)
    assert (available(store, event), available(store, other)) == (100, 9)
