"""Indexes, guards, validators and retention: what `init` makes of any database, again and again."""

import json
import uuid
from datetime import timedelta
from unittest.mock import Mock

import pytest
from bson import ObjectId
from pymongo.errors import DuplicateKeyError, ExecutionTimeout, OperationFailure, WriteError

from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.errors import Unreachable, WriteRefused
from seatctl.mongo import schema
from seatctl.mongo.client import connect
from seatctl.mongo.collection import is_guarded
from seatctl.mongo.failures import UNAUTHORIZED
from seatctl.mongo.validators import create_validators, missing_validators

MONTH = timedelta(days=30)


@pytest.fixture
def database(replica):
    """A fresh, empty database on a replica set."""
    deployment = connect(replica.uri, f"test_{uuid.uuid4().hex}", "unused")
    yield deployment.database
    deployment.close()


def init(database, keep=None):
    return schema.create(database, keep, MONTH).created + create_validators(database).created


def missing(database):
    return schema.missing(database) + missing_validators(database)


def names(database, collection):
    return set(database[collection].index_information()) - {"_id_"}


# --- init ----------------------------------------------------------------------------------------------


def test_on_an_empty_database_init_creates_what_it_says_and_then_nothing(database):
    wanted = missing(database)
    created = init(database)

    assert set(created) == set(wanted)
    assert {*schema.collections_of(), "seatLocks.one_lock_per_key", "bookings.validator"} < set(created)
    assert set(database.list_collection_names()) == set(schema.collections_of())
    assert (missing(database), init(database)) == ([], [])


def test_init_adds_what_is_missing_and_touches_no_document(database):
    schema.ONE_LOCK_PER_KEY.create(database)
    database.events.insert_one({"totalSeats": 10, "availableSeats": 11})
    before = list(database.events.find())
    created = init(database)

    assert "events" not in created
    assert "seatLocks.one_lock_per_key" not in created
    assert "jobLogs.retention" in created
    assert before == list(database.events.find())


def test_whatever_is_dropped_is_missing_by_name_and_created_again(database):
    init(database)
    database.seatLocks.drop_index("locks_by_status")
    database.jobLogs.drop()

    assert set(missing(database)) == {
        "seatLocks.locks_by_status",
        "jobLogs",
        "jobLogs.retention",
        *(str(index) for index in schema.INDEXES if index.collection == "jobLogs"),
    }
    init(database)
    assert missing(database) == []


def test_a_collection_that_appears_between_looking_and_creating_is_no_error(database, monkeypatch):
    look = schema.missing

    def created_meanwhile(database, *where, **how):
        wanted = look(database, *where, **how)
        database.create_collection("events")
        return wanted

    monkeypatch.setattr(schema, "missing", created_meanwhile)
    init(database)

    monkeypatch.undo()
    assert missing(database) == []


def test_the_sums_of_an_events_seats_are_read_from_an_index_alone(database):
    init(database)
    event = ObjectId()
    database.seatLocks.insert_one({"eventId": event, "status": "ACTIVE", "seats": 2})
    pipeline = [
        {"$match": {"eventId": event, "status": {"$in": ["ACTIVE", "CONSUMED"]}}},
        {"$group": {"_id": "$eventId", "seats": {"$sum": "$seats"}}},
    ]
    command = {"aggregate": "seatLocks", "pipeline": pipeline, "cursor": {}}
    explained = database.command("explain", command, verbosity="executionStats")

    assert '"totalDocsExamined": 0' in json.dumps(explained, default=str)


# --- indexes of other programs ---------------------------------------------------------------------------


@pytest.mark.parametrize("index", schema.INDEXES, ids=str)
def test_an_equivalent_index_by_another_name_counts_as_there(database, index):
    database[index.collection].create_index(list(index.keys), name="theirs", **index.options)
    assert str(index) not in missing(database)
    init(database)

    assert "theirs" in names(database, index.collection)
    assert index.name not in names(database, index.collection)
    assert missing(database) == []


def test_a_unique_index_on_every_document_serves_as_a_guard(database):
    """As Mongoose creates it: ours is partial, and theirs rules out more."""
    database.bookings.create_index([("seatLockId", 1)], unique=True, name="theirs")
    init(database)
    database.bookings.insert_one({"seatLockId": ObjectId("0" * 24), "status": "CONFIRMED"})

    assert "one_booking_per_lock" not in names(database, "bookings")
    with pytest.raises(DuplicateKeyError):
        database.bookings.insert_one({"seatLockId": ObjectId("0" * 24), "status": "CONFIRMED"})


@pytest.mark.parametrize("left_out", [{"status": "CONFIRMED"}, schema.ALL_KEYS], ids=str)
def test_a_unique_index_that_leaves_out_some_bookings_is_no_guard(database, left_out):
    theirs = {"unique": True, "partialFilterExpression": left_out, "name": "theirs"}
    database.bookings.create_index([("seatLockId", 1)], **theirs)

    assert "bookings.one_booking_per_lock" in missing(database)
    assert not is_guarded(database.bookings, schema.ONE_BOOKING_PER_LOCK)


@pytest.mark.parametrize(
    "options", [{"sparse": True}, {"collation": {"locale": "en"}}, {"partialFilterExpression": {"seats": 1}}]
)
def test_an_index_that_the_same_queries_cannot_use_does_not_count(database, options):
    index = schema.LOCKS_BY_STATUS
    database.seatLocks.create_index(list(index.keys), name="theirs", **options)

    assert str(index) in missing(database)
    init(database)
    assert {"theirs", index.name} < names(database, "seatLocks")


@pytest.mark.parametrize("index", [schema.ONE_BOOKING_PER_LOCK, schema.LOCKS_BY_STATUS], ids=str)
def test_another_index_by_our_name_is_refused_with_the_way_out(database, index):
    database[index.collection].create_index([("somethingElse", 1)], name=index.name)
    assert str(index) in missing(database)

    with pytest.raises(WriteRefused, match=rf"db.{index.collection}.dropIndex\(\"{index.name}\"\)"):
        init(database)


@pytest.mark.parametrize("locks", ["seatLocks", "seatlocks"])
def test_what_earlier_versions_made_for_the_same_queries_is_dropped(database, locks):
    for index in schema.OUTDATED[1:]:
        collection = locks if index.collection == "seatLocks" else index.collection
        database[collection].create_index(list(index.keys), name=index.name)
    created = schema.create(database, None, MONTH, locks).created

    assert f"{locks}.locks_by_status in place of an outdated one" in created
    assert "bookings.bookings_by_status in place of an outdated one" in created
    assert names(database, locks) == {"one_lock_per_key", "locks_by_status"}
    assert names(database, "bookings") == {"one_booking_per_lock", "bookings_by_status"}
    assert schema.create(database, None, MONTH, locks).created == []


def test_a_guard_that_takes_the_empty_text_for_a_key_counts_and_ours_is_replaced(database):
    old = {"unique": True, "partialFilterExpression": {"idempotencyKey": {"$type": "string"}}}
    init(database)
    database.seatLocks.drop_index("one_lock_per_key")
    database.seatLocks.create_index(list(schema.ONE_LOCK_PER_KEY.keys), name="theirs", **old)
    assert init(database) == []

    database.seatLocks.drop_index("theirs")
    database.seatLocks.create_index(list(schema.ONE_LOCK_PER_KEY.keys), name="one_lock_per_key", **old)
    assert missing(database) == []
    assert init(database) == ["seatLocks.one_lock_per_key in place of an outdated one"]
    assert init(database) == []


def test_the_old_index_by_another_name_is_somebody_elses(database):
    database.seatLocks.create_index([("eventId", 1), ("status", 1), ("_id", 1)], name="theirs")

    assert "seatLocks.locks_by_status" in init(database)
    assert {"theirs", "locks_by_status"} < names(database, "seatLocks")


# --- guards --------------------------------------------------------------------------------------------


def test_documents_without_a_key_never_collide(database):
    init(database)
    lock = {"eventId": 1, "userId": 1, "seats": 1, "status": "ACTIVE"}
    database.seatLocks.insert_many([dict(lock), dict(lock)])
    database.seatLocks.insert_many([{**lock, "idempotencyKey": key} for key in (None, None, "", "")])

    assert database.seatLocks.count_documents({}) == 6


def test_an_index_waits_for_a_majority_and_not_for_all_members(database, monkeypatch):
    sent = []
    monkeypatch.setattr(type(database.bookings), "create_indexes", lambda *_, **how: sent.append(how))
    schema.ONE_BOOKING_PER_LOCK.create(database)

    assert sent == [{"commitQuorum": "majority"}]


def test_an_index_is_not_waited_for_without_an_end(database, monkeypatch):
    monkeypatch.setattr(schema, "BUILD_SECONDS", 0)
    with pytest.raises(Unreachable, match="was not complete after 0 s"):
        schema.ONE_BOOKING_PER_LOCK.create(database)


def test_documents_that_a_guard_must_rule_out_are_named_and_stop_nothing_else(database):
    same = {"eventId": "e", "userId": "u", "idempotencyKey": "order-7"}
    database.seatLocks.insert_many([dict(same), dict(same)])
    created, (reason,) = schema.create(database, None, MONTH)

    assert "eventId 'e' and userId 'u' and idempotencyKey 'order-7'" in reason
    assert "seatLocks.one_lock_per_key" not in created
    assert schema.missing(database) == ["seatLocks.one_lock_per_key"]


@pytest.mark.parametrize("guard", [schema.ONE_LOCK_PER_KEY, schema.ONE_BOOKING_PER_LOCK], ids=str)
@pytest.mark.parametrize("name", [None, "theirs"])
def test_a_unique_index_that_leaves_documents_out_is_no_guard(database, guard, name):
    """Ours comes beside it or, where it has taken the name, is missing and asked for."""
    some = {"partialFilterExpression": {"status": "CONFIRMED"}, "unique": True}
    database[guard.collection].create_index(list(guard.keys), name=name or guard.name, **some)
    assert not guard.is_in(database)
    assert str(guard) in missing(database)

    if name:
        init(database)
        assert guard.is_in(database)
    else:
        with pytest.raises(WriteRefused, match=rf"dropIndex\(\"{guard.name}\"\)"):
            init(database)


def refuse_indexes(monkeypatch, database, code):
    def create_indexes(*_, **__):
        raise OperationFailure("no", code)

    monkeypatch.setattr(type(database.bookings), "create_indexes", create_indexes)


def test_a_user_who_may_not_create_indexes_can_run_init_where_nothing_is_missing(database, monkeypatch):
    init(database)
    refuse_indexes(monkeypatch, database, UNAUTHORIZED)
    assert init(database) == []

    database.bookings.drop_index("one_booking_per_lock")
    with pytest.raises(OperationFailure):
        init(database)


def test_an_index_that_takes_too_long_is_told_with_the_command_for_mongosh(database, monkeypatch):
    slow = ExecutionTimeout("operation exceeded time limit", 50)
    monkeypatch.setattr(type(database.bookings), "create_indexes", Mock(side_effect=slow))
    keys = r'createIndex\({"seatLockId": 1}, {"name": "one_booking_per_lock", "unique": true, '

    with pytest.raises(Unreachable, match=keys):
        schema.ONE_BOOKING_PER_LOCK.create(database)


# --- retention -----------------------------------------------------------------------------------------


def test_the_log_is_kept_for_the_default_or_as_long_as_init_was_told(database):
    assert schema.retention(database) is None
    init(database)
    assert schema.retention(database) == MONTH

    assert init(database, timedelta(days=7)) == ["jobLogs.retention"]
    assert schema.retention(database) == timedelta(days=7)
    assert init(database) == []
    assert schema.retention(database) == timedelta(days=7)


def test_the_first_init_can_say_how_long(database):
    init(database, timedelta(hours=1))

    assert schema.retention(database) == timedelta(hours=1)


def test_an_index_of_another_program_on_the_same_field_does_not_stop_init(database):
    database.jobLogs.create_index("executedAt")
    init(database)

    assert schema.retention(database) == MONTH


def test_only_the_log_ages(database):
    init(database)
    ageing = [
        (name, index)
        for name in schema.collections_of()
        for index, facts in database[name].index_information().items()
        if "expireAfterSeconds" in facts
    ]

    assert ageing == [("jobLogs", "retention")]
    assert list(schema.deleting_indexes(database)) == []


def test_an_index_that_deletes_locks_is_found_also_when_it_is_hidden(database):
    database.seatLocks.create_index("expiresAt", expireAfterSeconds=0, name="theirs", hidden=True)

    assert list(schema.deleting_indexes(database)) == [("seatLocks", "theirs", 0)]


# --- validators ----------------------------------------------------------------------------------------

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
def test_no_writer_can_store_what_breaks_invariant_2_or_an_unknown_state(database, collection, document):
    init(database)

    with pytest.raises(WriteError, match="failed validation"):
        database[collection].insert_one(document)


def test_every_known_state_can_be_stored(database):
    init(database)
    database.seatLocks.insert_many([{"seats": 1, "status": status.value} for status in LockStatus])
    database.bookings.insert_many([{"status": status.value} for status in BookingStatus])

    assert {"CANCELLED"} < set(database.seatLocks.distinct("status"))
    assert {"CANCELLED", "INITIATED"} < set(database.bookings.distinct("status"))


def test_a_document_that_was_wrong_before_can_still_be_changed_and_so_repaired(database):
    event = database.events.insert_one({"totalSeats": 10, "availableSeats": -1}).inserted_id
    init(database)
    database.events.update_one({"_id": event}, {"$set": {"name": "still wrong"}})
    database.events.update_one({"_id": event}, {"$set": {"availableSeats": 10}})

    with pytest.raises(WriteError):
        database.events.update_one({"_id": event}, {"$set": {"availableSeats": 11}})


def test_an_old_validator_of_ours_is_replaced(database):
    shape = {"$jsonSchema": {"title": "seatctl: an old one", "required": ["status"]}}
    database.create_collection("bookings", validator=shape)

    assert "bookings.validator" in missing(database)
    init(database)
    assert missing(database) == []


def test_a_validator_that_somebody_else_installed_is_theirs(database):
    database.create_collection("bookings", validator={"user": {"$exists": True}})
    init(database)
    found = {each["name"]: each["options"] for each in database.list_collections()}

    assert found["bookings"]["validator"] == {"user": {"$exists": True}}
