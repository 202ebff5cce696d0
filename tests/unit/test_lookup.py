"""Lists, and one document with what hangs on it."""

from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import EPOCH, Clock, examined, fresh_store

from seatctl.domain.model import JobType
from seatctl.errors import NotFound, Usage
from seatctl.services import jobs as joblog
from seatctl.services import lookup as lists
from seatctl.services import sales as booking


@pytest.fixture
def event(store):
    """An event of ten seats with one lock of each kind."""
    event = booking.create_event(store, "Concert", 10, timedelta(days=1)).document["_id"]
    booking.lock(store, event, "u", 1)
    booking.pay(
        store, booking.confirm(store, booking.lock(store, event, "u", 2).document["_id"]).document["_id"]
    )
    booking.release(store, booking.lock(store, event, "u", 4).document["_id"])
    return event


def ids(documents):
    return [document["_id"] for document in documents]


def test_newest_first(store, clock):
    """Lists start with the newest and stop at the limit, 0 being none; so they do for documents of other
    programs that carry no `createdAt`."""
    made = [booking.create_event(store, f"E{n}", 1, clock()).document["_id"] for n in range(5)]
    store.database.events.update_many({}, {"$unset": {"createdAt": 1}})

    assert ids(lists.newest(store, "events", {}, 3)) == made[::-1][:3]
    assert ids(lists.newest(store, "events", {}, 0)) == made[::-1]


def test_filters(store, event):
    """Lists can be narrowed to what is asked for."""
    empty = booking.create_event(store, "Empty", 1, timedelta(days=1)).document["_id"]

    assert len(ids(lists.newest(store, "seatLocks", {"status": "ACTIVE"}, 0))) == 1
    assert len(ids(lists.newest(store, "bookings", {"event": event}, 0))) == 1
    assert ids(lists.newest(store, "bookings", {"event": empty}, 0)) == []


def test_filter_by_what_is_no_event(store):
    """An event that is none is not found, unless locks say that they are its."""
    lock = store.database.seatLocks.insert_one({"eventId": ObjectId(), "status": "ACTIVE"}).inserted_id
    lost = store.lock(lock)["eventId"]

    assert ids(lists.newest(store, "seatLocks", {"eventId": lost}, 0)) == [lock]
    with pytest.raises(NotFound, match=f"there is no event {lost}$"):
        ids(lists.newest(store, "bookings", {"event": lost}, 0))
    with pytest.raises(NotFound, match="that is the id of a lock"):
        ids(lists.newest(store, "seatLocks", {"eventId": lock}, 0))


@pytest.mark.usefixtures("event")
def test_many_events_with_seats(store, monkeypatch):
    """However many events there are, each comes with its own seats."""
    monkeypatch.setattr(lists, "EVENTS_AT_ONCE", 2)
    for n in range(4):
        booking.create_event(store, f"E{n}", 1, timedelta(days=1))

    assert [each["sold"] for each in lists.newest(store, "events", {}, 0)] == [0, 0, 0, 0, 2]


def test_runs_by_start(store, clock):
    """Job runs are listed by when they started, not by when they were logged."""
    started = [clock.advance(minutes=step) for step in (10, -5, 7)]
    for moment in started:
        store.insert_run({"jobType": "RECOVERY", "executedAt": moment})

    found = [run["executedAt"] for run in lists.newest(store, "jobLogs", {}, 0)]
    assert found == sorted(started, reverse=True)


def test_events_with_seats(store, event):
    """Events come with the seats that are locked and sold; what is given back counts as neither."""
    (listed,) = lists.newest(store, "events", {}, 0)

    assert listed["_id"] == event
    assert (listed["availableSeats"], listed["locked"], listed["sold"]) == (7, 1, 2)
    assert "locked" not in store.event(event)


def test_fullest(store, clock, event):
    """The fullest events come first; one whose numbers cannot be read breaks nothing."""
    empty = booking.create_event(store, "Empty", 10, clock()).document["_id"]
    sold_out = booking.create_event(store, "Sold out", 1, clock()).document["_id"]
    booking.lock(store, sold_out, "u", 1)
    odd = store.database.events.insert_one({"totalSeats": "many"}).inserted_id

    assert [each for each in ids(lists.fullest(store, 0)) if each != odd] == [sold_out, event, empty]
    assert len(ids(lists.fullest(store, 2))) == 2
    assert {each["_id"]: each["locked"] for each in lists.fullest(store, 0)}[sold_out] == 1


def test_summary(store, clock):
    """For each job: how many runs, how many went well, what they did and how long they took; entries of
    another program that say less count as runs all the same."""
    for status, duration in (("SUCCESS", 10), ("SUCCESS", 30), ("FAILED", 200)):
        details = {"recordsProcessed": 2, "seatsRestored": 3, "duration": duration}
        run = {"jobType": "LOCK_EXPIRY", "executedAt": clock(), "status": status, "details": details}
        store.insert_run(run)
    store.insert_run({"jobType": "LOCK_EXPIRY", "executedAt": clock(), "status": "SUCCESS", "details": "x"})
    store.insert_run({"jobType": "LOCK_EXPIRY", "executedAt": clock() - timedelta(days=1)})
    since = clock() - timedelta(hours=1)
    summary = {row.pop("jobType"): row for row in lists.summary(store, JobType, since)}

    assert set(summary) == set(JobType)
    assert summary["LOCK_EXPIRY"] == {
        "runs": 4,
        "successRate": 0.75,
        "recordsProcessed": 6,
        "seatsRestored": 9,
        "medianDuration": 30,
        "worstDuration": 200,
    }
    assert (summary["RECOVERY"]["runs"], summary["RECOVERY"]["successRate"]) == (0, None)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"status": "FAILED"},
        {"jobType": "RECOVERY"},
        {"jobType": "LOCK_EXPIRY", "status": "FAILED"},
        {"executedAt": {"$gte": EPOCH - timedelta(minutes=2)}},
        {"status": "SUCCESS", "executedAt": {"$gte": EPOCH - timedelta(minutes=2)}},
    ],
)
def test_a_long_job_log_is_not_read_for_a_list(long_log, where):
    """Whatever `jobs` is asked for, the server examines the runs that it returns and no others."""
    with examined(long_log, "jobLogs") as documents:
        found = ids(lists.newest(long_log, "jobLogs", where, 5))

    assert len(found) <= documents() <= len(found) + 1


def test_a_long_job_log_is_not_read_for_a_summary(long_log, clock):
    """Summing up an hour reads that hour; counting what `verify` looked at reads no run at all."""
    with examined(long_log, "jobLogs") as documents:
        rows = lists.summary(long_log, JobType, clock() - timedelta(hours=1))
        long_log.sizes()

    assert sum(row["runs"] for row in rows) == documents() == 61


@pytest.fixture(scope="module")
def long_log(request):
    """A job log of 20,000 runs, one a minute; none failed for long, and recovery ran once."""
    stores = fresh_store("replica", request, Clock())
    store = next(stores)
    store.init()
    store.database.jobLogs.insert_many(
        {
            "jobType": "RECOVERY" if number == 9_000 else ("LOCK_EXPIRY", "BOOKING_EXPIRY")[number % 2],
            "executedAt": EPOCH - timedelta(minutes=number),
            "status": "FAILED" if number in (15_000, 16_001) else "SUCCESS",
            "details": {"recordsProcessed": 1, "seatsRestored": 1, "duration": 3},
        }
        for number in range(20_000)
    )
    yield store
    next(stores, None)


def test_show_event(store, event):
    """An event is shown with its counters and latest locks and bookings."""
    for _ in range(lists.LATEST):
        booking.release(store, booking.lock(store, event, "u", 1).document["_id"])
    shown = lists.show(store, f" {event} ")

    assert (shown.kind, shown.document["locked"], shown.document["sold"]) == ("event", 1, 2)
    assert len(shown.related["seatLocks"]) == lists.LATEST
    assert [each["status"] for each in shown.related["bookings"]] == ["CONFIRMED"]
    assert shown.as_document() == {**shown.document, **shown.related}


def test_show_lock(store, event):
    """A lock is shown with its booking and its event."""
    lock = store.database.seatLocks.find_one({"status": "CONSUMED"})
    shown = lists.show(store, lock["_id"])

    assert (shown.kind, shown.document) == ("lock", lock)
    assert [each["seatLockId"] for each in shown.related["bookings"]] == [lock["_id"]]
    assert [(each["_id"], each["sold"]) for each in shown.related["events"]] == [(event, 2)]


def test_show_booking(store, event):
    """A booking is shown with its lock and its event."""
    booked = store.database.bookings.find_one()
    shown = lists.show(store, booked["_id"])

    assert (shown.kind, shown.document) == ("booking", booked)
    assert ids(shown.related["seatLocks"]) == [booked["seatLockId"]]
    assert ids(shown.related["events"]) == [event]


def test_show_what_belongs_to_nothing(store, clock):
    """A booking whose lock and event are gone is shown without them."""
    lonely = {"event": ObjectId(), "seatLockId": ObjectId(), "paymentExpiresAt": clock()}
    shown = lists.show(store, store.database.bookings.insert_one(lonely).inserted_id)

    assert shown.related == {"seatLocks": [], "events": []}


def test_show_job_run(store):
    """A job run is shown with its details."""
    entry, _ = joblog.run(store, JobType.RECOVERY, lambda _: None)
    shown = lists.show(store, entry["_id"])

    assert (shown.kind, shown.document, shown.related) == ("job run", entry, {})


def test_show_nothing(store):
    """An id of nothing is not found, and what is no id is a usage error."""
    with pytest.raises(NotFound, match="no event, lock, booking or job run"):
        lists.show(store, ObjectId())
    with pytest.raises(Usage):
        lists.show(store, "x")
