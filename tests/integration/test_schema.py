"""Indexes, guards, validators and retention: what `init` makes of any database, again and again."""

from datetime import timedelta

import pytest
from bson import ObjectId
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteError

from seatctl.domain.model import RETENTION
from seatctl.errors import Misconfigured, WriteRefused
from seatctl.mongo import schema
from seatctl.services import sales as booking

MONTH = int(RETENTION.total_seconds())


@pytest.fixture(params=["replica", "standalone"])
def store(request):
    """A store on a server, with everything that an index or validator needs."""
    return request.getfixturevalue(f"{request.param}_store")


def retention_index(store):
    return store.database.jobLogs.index_information()[schema.RETENTION_INDEX]


def test_init(store):
    """On an empty database `init` creates the four collections with their indexes and validators and
    says so; again, it has nothing to do."""
    wanted = store.missing()
    created = store.init()

    assert set(created) == set(wanted)
    assert {*schema.COLLECTIONS} < set(created)
    assert set(store.database.list_collection_names()) >= set(schema.COLLECTIONS)
    assert (store.missing(), store.init()) == ([], [])


def test_init_keeps_what_is_there(store, clock):
    """On a database in use `init` adds what is missing and touches no document."""
    event = booking.create_event(store, "Concert", 10, clock()).document["_id"]
    booking.lock(store, event, "u", 1, key="k")
    before = list(store.database.events.find()), list(store.database.seatLocks.find())
    created = store.init()

    assert "events" not in created
    assert "seatLocks.one_lock_per_key" not in created
    assert "jobLogs.retention" in created
    assert before == (list(store.database.events.find()), list(store.database.seatLocks.find()))


def test_missing_one_by_one(store):
    """Whatever is dropped is missed by name and created again."""
    store.init()
    store.database.seatLocks.drop_index("locks_of_event")
    store.database.jobLogs.drop()

    assert set(store.missing()) == {
        "seatLocks.locks_of_event",
        "jobLogs",
        "jobLogs.retention",
        *(f"jobLogs.{index.name}" for index in schema.READERS if index.collection == "jobLogs"),
    }
    store.init()
    assert store.missing() == []


def test_retention(store):
    """Job log entries are kept for 30 days, or as long as `init` was told, which can be changed later."""
    assert store.retention() is None
    store.init()
    assert store.retention() == RETENTION
    assert retention_index(store)["expireAfterSeconds"] == MONTH

    assert store.init(timedelta(days=7)) == ["jobLogs.retention"]
    assert store.retention() == timedelta(days=7)
    assert store.init() == []
    assert store.retention() == timedelta(days=7)


def test_retention_at_first(store):
    """The first `init` can say how long."""
    store.init(timedelta(hours=1))

    assert store.retention() == timedelta(hours=1)


def test_only_the_log_ages(store):
    """No index ever deletes an event, a lock or a booking."""
    store.init()
    ageing = [
        (name, index)
        for name in schema.COLLECTIONS
        for index, facts in store.database[name].index_information().items()
        if "expireAfterSeconds" in facts
    ]

    assert ageing == [("jobLogs", "retention")]


def test_retention_beside_another_programs_index(store):
    """An index of another program on the same field does not stop `init`."""
    store.database.jobLogs.create_index("executedAt")
    store.init()

    assert store.retention() == RETENTION


def test_guard_of_another_program(store):
    """Another program's unique index on the same keys, whatever its name, serves as our guard."""
    store.database.bookings.create_index([("seatLockId", 1)], unique=True, name="theirs")
    schema.ensure_guard(store.database, schema.ONE_BOOKING_PER_LOCK)
    store.database.bookings.insert_one({"seatLockId": ObjectId("0" * 24)})

    with pytest.raises(DuplicateKeyError):
        store.database.bookings.insert_one({"seatLockId": ObjectId("0" * 24)})


def test_guard_that_is_broken_already(replica_store):
    """Where a foreign hand stored what a guard must rule out, the refusal names it."""
    same = {"eventId": "e", "userId": "u", "idempotencyKey": "order-7"}
    replica_store.database.seatLocks.insert_many([dict(same), dict(same)])

    with pytest.raises(WriteRefused, match="eventId 'e' and userId 'u' and idempotencyKey 'order-7'"):
        schema.ensure_guard(replica_store.database, schema.ONE_LOCK_PER_KEY)


def test_guard_that_cannot_be(store):
    """An index with our guard's name and no uniqueness is an error, not a guard."""
    store.database.bookings.create_index([("seatLockId", 1)], name=schema.ONE_BOOKING_PER_LOCK.name)

    with pytest.raises((OperationFailure, WriteRefused)):
        schema.ensure_guard(store.database, schema.ONE_BOOKING_PER_LOCK)


@pytest.mark.parametrize("guard", schema.GUARDS, ids=lambda guard: guard.name)
@pytest.mark.parametrize("name", [None, "theirs"])
def test_unique_index_that_leaves_documents_out(replica_store, guard, name):
    """A unique index on some of the documents only is no guard: ours comes beside it, or, where it has
    taken the name, is missed and asked for."""
    database = replica_store.database
    some = {"partialFilterExpression": {"status": "CONFIRMED"}, "unique": True}
    database[guard.collection].create_index(list(guard.keys), name=name or guard.name, **some)
    assert not schema.is_guarded(database, guard)
    assert f"{guard.collection}.{guard.name}" in replica_store.missing()

    if name:
        schema.ensure_guard(database, guard)
        assert schema.is_guarded(database, guard)
    else:
        with pytest.raises(WriteRefused, match=rf"dropIndex\(\"{guard.name}\"\)"):
            schema.ensure_guard(database, guard)


def test_guard_without_the_right(store, monkeypatch):
    """A user who may not create indexes works where the guard exists, and learns it where it does not."""

    def refused(*_):
        raise OperationFailure("not authorized", schema.UNAUTHORIZED)

    guard = schema.ONE_BOOKING_PER_LOCK
    schema.ensure_guard(store.database, guard)
    monkeypatch.setattr(schema.Index, "create", refused)
    schema.ensure_guard(store.database, guard)

    store.database.bookings.drop_index(guard.name)
    with pytest.raises((OperationFailure, Misconfigured)):
        schema.ensure_guard(store.database, guard)


def test_guard_fails_for_its_own_reason(store, monkeypatch):
    """Any other failure to create a guard is not passed over."""

    def broken(*_):
        raise OperationFailure("the disk is full", 14031)

    monkeypatch.setattr(schema.Index, "create", broken)
    with pytest.raises(OperationFailure, match="disk"):
        schema.ensure_guard(store.database, schema.ONE_BOOKING_PER_LOCK)


def test_two_inits_at_once(store, monkeypatch):
    """A collection that appears between looking and creating is no error."""
    look = schema.missing

    def created_meanwhile(database):
        wanted = look(database)
        database.create_collection("events")
        return wanted

    monkeypatch.setattr(schema, "missing", created_meanwhile)
    store.init()

    monkeypatch.undo()
    assert store.missing() == []


FORBIDDEN = [
    ("events", {"totalSeats": 10, "availableSeats": -1}),
    ("events", {"totalSeats": 10, "availableSeats": 11}),
    ("events", {"totalSeats": 0, "availableSeats": 0}),
    ("events", {"totalSeats": 10}),
    ("seatLocks", {"seats": 0, "status": "ACTIVE"}),
    ("seatLocks", {"seats": 1, "status": "ON_HOLD"}),
    ("bookings", {"status": "LOST"}),
]


@pytest.mark.parametrize(("collection", "document"), FORBIDDEN)
def test_validators(store, collection, document):
    """After `init` no writer can store what breaks invariant 2 or a state that nobody defined."""
    store.init()

    with pytest.raises(WriteError, match="failed validation"):
        store.database[collection].insert_one(document)


def test_validators_leave_old_faults_mendable(store):
    """A document that was wrong before can still be changed, and so mended."""
    event = store.database.events.insert_one({"totalSeats": 10, "availableSeats": -1}).inserted_id
    store.init()
    store.database.events.update_one({"_id": event}, {"$set": {"name": "still wrong"}})
    store.database.events.update_one({"_id": event}, {"$set": {"availableSeats": 10}})

    with pytest.raises(WriteError):
        store.database.events.update_one({"_id": event}, {"$set": {"availableSeats": 11}})


def test_validator_of_another_program(store):
    """A validator that somebody else installed is theirs."""
    store.database.create_collection("bookings", validator={"user": {"$exists": True}})
    store.init()
    found = {each["name"]: each["options"] for each in store.database.list_collections()}

    assert found["bookings"]["validator"] == {"user": {"$exists": True}}
