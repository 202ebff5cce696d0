"""Collections whose collation ignores letter case: users and keys that differ by it are two for every
command, and the checks name the collection."""

import pytest
from bson import ObjectId
from conftest import available
from scene import (
    HOUR,
    NOWHERE,
    create,
    insert_booking,
    insert_lock,
    lock,
    lock_of,
    run_expire_locks,
    run_recover,
)

from seatctl.domain.documents import UserId
from seatctl.domain.states import BookingStatus, Fault, LockStatus
from seatctl.mongo import schema
from seatctl.services import adoption, health, lists
from seatctl.services.verify import verify

IGNORES_CASE = {"locale": "en", "strength": 2}


@pytest.fixture
def store(store):
    """A database whose collections ignore letter case, with all its indexes, and no validator, which would
    compare exactly."""
    for name in ("events", "seatLocks", "bookings", "jobLogs"):
        store.database.create_collection(name, collation=IGNORES_CASE)
    store.init(validators=False)
    return store


def test_another_user_or_key_is_another_lock(store):
    event = create(store, 10)
    locks = {
        lock(store, event, user=user, key=key) for user in ("Ann", "ann") for key in ("abc", "ABC", "abc")
    }

    assert len(locks) == 4
    assert available(store, event) == 6


def test_a_list_shows_the_user_that_was_asked_for(store):
    event = create(store, 10)
    locks = {user: lock(store, event, user=user) for user in ("Ann", "ann")}

    [found] = lists.locks(store, event, user=UserId("ann"))
    assert found["_id"] == locks["ann"]


def test_a_state_in_other_letters_is_no_state(store):
    """Such a lock cannot be read, and its seats stay where they are."""
    event = create(store, 10)
    odd = insert_lock(store, event, status="active")
    booked = insert_booking(store, event, lock(store, event), status="expired")
    report = run_expire_locks(store)

    assert lock_of(store, odd)["status"] == "active"
    assert available(store, event) == 9
    assert report.locks == 0
    faults = {found.fault: found for found in verify(store)}
    assert (faults[Fault.DAMAGED_LOCK].lock, faults[Fault.DAMAGED_BOOKING].booking) == (odd, booked)


def test_every_check_names_the_collection_and_none_fails_for_it(store):
    create(store)
    found = list(verify(store))
    state = health.check(store)

    assert [violation.fault for violation in found] == [Fault.COLLATION] * 3
    for name, violation in zip(("bookings", "events", "seatLocks"), found, strict=True):
        assert violation.message.startswith(f"{name} has a collation (locale en, strength 2)")
        assert violation.accepted
    assert not any("collation" in problem for problem in state.problems)
    assert any("collation" in warning for warning in state.warnings)
    assert run_recover(store).error is None


def test_adopt_names_it(store):
    insert_lock(store, create(store), due=HOUR)
    remarks = adoption.inspect(store).remarks

    assert any(remark.startswith("collation: bookings, events, seatLocks can confuse") for remark in remarks)


def test_our_indexes_compare_exactly_and_replace_those_that_do_not(store):
    locks = store.database.seatLocks
    for index in (schema.ONE_LOCK_PER_KEY, schema.LOCKS_BY_STATUS):
        assert "collation" not in locks.index_information()[index.name]
        locks.drop_index(index.name)
        locks.create_index(list(index.keys), name=index.name, **index.options)
        assert "collation" in locks.index_information()[index.name]
    created = store.init(validators=False).created

    assert created == [
        "seatLocks.one_lock_per_key in place of an outdated one",
        "seatLocks.locks_by_status in place of an outdated one",
    ]
    assert "collation" not in locks.index_information()[schema.LOCKS_BY_STATUS.name]
    assert store.init(validators=False).created == []


@pytest.mark.parametrize("status", ["active", "ACTIVE"])
def test_a_compare_and_set_compares_exactly(store, status):
    held = insert_lock(store, NOWHERE, status=status)
    changed = store.locks.change(held, LockStatus.ACTIVE, LockStatus.EXPIRED, store.now())
    several = store.locks.expire_booked(
        [insert_lock(store, NOWHERE, status=status)], store.now(), ended_by=ObjectId(), seats=1
    )
    booked = insert_booking(store, NOWHERE, held, status=status.replace("ACTIVE", "PAYMENT_PENDING"))
    pending = store.bookings.still_pending([booked])

    assert (changed is not None, several, len(pending)) == (
        (True, 1, 1) if status == "ACTIVE" else (False, 0, 0)
    )
    assert store.bookings.change(
        booked, BookingStatus.PAYMENT_PENDING, BookingStatus.FAILED, store.now()
    ) or (status == "active")
