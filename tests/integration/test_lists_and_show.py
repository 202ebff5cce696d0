"""Lists, and one document with all that belongs to it."""

from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId
from conftest import edit
from scene import create, insert_booking, insert_lock, lock, lock_of, run_recover, sell

from seatctl.domain.documents import JobRun
from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus
from seatctl.domain.timespec import Day
from seatctl.domain.validation import ListRequest
from seatctl.errors import NotFound, Usage
from seatctl.services import lists, sales
from seatctl.services.event_cancellation import CancelEventRequest, cancel_event
from seatctl.services.lists import Order


@pytest.fixture
def event(store):
    """An event of ten seats with one lock of each kind."""
    event = create(store, 10)
    lock(store, event, 1)
    sell(store, event, 2)
    sales.release(store, lock(store, event, 4))
    return event


def ids(documents):
    return [document["_id"] for document in documents]


def events(store, order=Order.NEWEST, **request):
    return list(lists.events(store, order, ListRequest(**request)))


def locks(store, event=None, status=None, user=None, order=Order.NEWEST, overdue=False, **request):
    request = ListRequest(**request)
    return list(lists.locks(store, event, status, user, request, order, overdue=overdue))


def bookings(store, event=None, status=None, user=None, order=Order.NEWEST, overdue=False, **request):
    request = ListRequest(**request)
    return list(lists.bookings(store, event, status, user, request, order, overdue=overdue))


def runs(store, job=None, status=None, order=Order.NEWEST, **request):
    return list(lists.job_runs(store, job, status, ListRequest(**request), order))


def log(store, moment, job=JobType.LOCK_EXPIRY, status=JobStatus.SUCCESS, **details):
    store.job_logs.insert(JobRun(job, moment, status, details, "db1"))


# --- lists --------------------------------------------------------------------------------------------


def test_lists_start_with_the_newest_and_stop_at_the_limit_0_being_none(store):
    """So they do for documents of other programs that carry no `createdAt`."""
    made = [create(store, 1, f"E{n}") for n in range(5)]
    store.database.events.update_many({}, {"$unset": {"createdAt": 1}})

    assert ids(events(store, limit=3)) == made[::-1][:3]
    assert ids(events(store)) == made[::-1]


def test_locks_are_narrowed_by_event_state_and_user(store, event):
    other = create(store, 10)
    mine = lock(store, other, user="me")

    assert len(locks(store)) == 4
    assert [each["status"] for each in locks(store, event)] == ["EXPIRED", "CONSUMED", "ACTIVE"]
    assert len(locks(store, event, LockStatus.ACTIVE)) == 1
    assert ids(locks(store, user="me")) == [mine]
    assert locks(store, event, user="me") == []
    assert len(locks(store, event, limit=2)) == 2


def test_bookings_are_narrowed_by_event_state_and_user(store, event):
    empty = create(store, 1)
    insert_booking(store, event, ObjectId(), "FAILED", user="me")

    assert [each["status"] for each in bookings(store, event)] == ["FAILED", "CONFIRMED"]
    assert len(bookings(store, status=BookingStatus.CONFIRMED)) == 1
    assert len(bookings(store, user="me")) == 1
    assert bookings(store, empty) == []


def test_runs_are_narrowed_by_job_outcome_and_start(store, clock):
    log(store, clock())
    log(store, clock.advance(hours=1), JobType.RECOVERY)
    log(store, clock.advance(hours=1), status=JobStatus.FAILED)

    assert [run["jobType"] for run in runs(store, JobType.RECOVERY)] == ["RECOVERY"]
    assert [run["executedAt"] for run in runs(store, status=JobStatus.FAILED)] == [clock()]
    assert len(runs(store, since=timedelta(minutes=90))) == 2
    assert len(runs(store, limit=1)) == 1


def test_runs_are_listed_by_when_they_started_not_by_when_they_were_logged(store, clock):
    started = [clock.advance(minutes=step) for step in (10, -5, 7)]
    for moment in started:
        log(store, moment)

    assert [run["executedAt"] for run in runs(store)] == sorted(started, reverse=True)


@pytest.mark.parametrize("listed", [locks, bookings])
def test_an_event_that_is_none_is_not_found(store, event, listed):
    held = ids(locks(store, event))[0]
    lost = ObjectId()

    with pytest.raises(NotFound, match=f"there is no event {lost}$"):
        listed(store, lost)
    with pytest.raises(NotFound, match="that is the id of a lock"):
        listed(store, held)


def test_locks_of_an_event_that_is_gone_are_listed_all_the_same(store):
    lost = ObjectId()
    held = insert_lock(store, lost)

    assert ids(locks(store, lost)) == [held]


def test_events_come_with_the_seats_that_are_locked_and_sold(store, event):
    (listed,) = events(store)

    assert (listed["_id"], listed["availableSeats"]) == (event, 7)
    assert (listed["locked"], listed["sold"]) == (1, 2)
    assert "locked" not in store.database.events.find_one()


@pytest.mark.usefixtures("event")
def test_however_many_events_there_are_each_comes_with_its_own_seats(store, monkeypatch):
    monkeypatch.setattr(lists, "SUMMED_WHOLE_EVENTS", 2)
    for number in range(4):
        create(store, 1, f"E{number}")

    assert [each["sold"] for each in events(store)] == [0, 0, 0, 0, 2]


def test_seats_that_cannot_be_read_count_as_none(store, event):
    for seats in ("two", -1, None, 0.5, True):
        insert_lock(store, event, seats)

    assert [(each["locked"], each["sold"]) for each in events(store)] == [(1, 2)]


def test_the_fullest_events_come_first_and_one_that_cannot_be_read_breaks_nothing(store, event):
    empty, sold_out = create(store, 10), create(store, 1)
    lock(store, sold_out)
    odd = store.database.events.insert_one({"totalSeats": "many"}).inserted_id
    found = events(store, Order.FULLEST)

    assert [each for each in ids(found) if each != odd] == [sold_out, event, empty]
    assert len(events(store, Order.FULLEST, limit=2)) == 2
    assert {each["_id"]: each["locked"] for each in found}[sold_out] == 1
    assert "free" not in found[0]


def test_cancelled_events_are_no_full_ones(store, event):
    open_one, cancelled = create(store, 10), create(store, 1)
    lock(store, cancelled)
    name = store.database.events.find_one(cancelled)["name"]
    cancel_event(store, CancelEventRequest(cancelled, name))

    assert ids(events(store, Order.FULLEST)) == [event, open_one, cancelled]


def test_a_shell_completes_the_newest_ids_of_what_is_in_a_state(store, event):
    held = ids(locks(store, event))

    assert lists.newest_ids(store, "seatLocks", 2) == [str(each) for each in held[:2]]
    assert lists.newest_ids(store, "seatLocks", 9, status="ACTIVE") == [str(held[2])]
    assert lists.newest_ids(store, "events", 9) == [str(event)]
    assert len(lists.newest_ids(store, "bookings", 9)) == 1


# --- filters and order ----------------------------------------------------------------------------------


def made_at(store, collection, *moments, **fields):
    """Documents whose ids carry these times."""
    rows = [{**fields, "_id": ObjectId.from_datetime(moment)} for moment in moments]
    store.database[collection].insert_many(rows)
    return ids(rows)


@pytest.mark.parametrize(
    ("collection", "listed"), [("events", events), ("seatLocks", locks), ("bookings", bookings)]
)
def test_documents_are_narrowed_by_when_they_were_made(store, clock, collection, listed):
    """At or after `since`, before `until`, by their ids and the server's clock: noon."""
    noon = clock()
    times = {
        "old": noon - timedelta(days=2),
        "yesterday": noon - timedelta(days=1),
        "morning": noon.replace(hour=9),
    }
    made = dict(zip(times, made_at(store, collection, *times.values()), strict=True))

    def found(**request):
        return {name for name, made_id in made.items() if made_id in ids(listed(store, **request))}

    assert found() == set(made)
    assert found(since=Day.YESTERDAY) == {"yesterday", "morning"}
    assert (
        found(since=Day.TODAY)
        == found(since=timedelta(hours=3))
        == found(since=times["morning"])
        == {"morning"}
    )
    assert found(until=times["morning"]) == {"old", "yesterday"}
    assert found(since=timedelta(days=1), until=timedelta(hours=4)) == {"yesterday"}
    with pytest.raises(Usage, match="must be before"):
        listed(store, since=Day.TODAY, until=Day.TODAY)


def test_runs_are_narrowed_by_when_they_started(store, clock):
    log(store, clock() - timedelta(hours=2))
    log(store, clock() - timedelta(minutes=5))

    assert len(runs(store, since=timedelta(hours=1))) == 1
    assert len(runs(store, until=timedelta(hours=1))) == 1
    assert len(runs(store, since=Day.TODAY)) == 2


def test_a_time_before_or_after_all_ids_is_no_error(store, event):
    first, last = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

    assert ids(events(store, since=first, until=last)) == [event]


def test_overdue_locks_are_those_that_are_active_past_their_deadline(store, event):
    late = insert_lock(store, event)
    insert_lock(store, event, status="EXPIRED")

    assert ids(locks(store, overdue=True)) == [late]
    assert ids(locks(store, event, LockStatus.ACTIVE, overdue=True)) == [late]


def test_overdue_bookings_are_those_that_wait_past_their_deadline(store, event):
    late = insert_booking(store, event, ObjectId(), due=timedelta(hours=-1))
    insert_booking(store, event, ObjectId(), "EXPIRED", due=timedelta(hours=-1))
    insert_booking(store, event, ObjectId())

    assert ids(bookings(store, overdue=True)) == [late]


def test_each_list_comes_in_the_order_that_is_asked_for(store, clock):
    made = [create(store, 1, f"E{n}") for n in range(3)]
    for number, event_id in zip((2, 3, 1), made, strict=True):
        edit(store, "events", event_id, eventDate=clock() + timedelta(days=number))
    held = [insert_lock(store, made[0], due=timedelta(hours=n)) for n in (2, 3, 1)]
    booked = [
        insert_booking(store, made[0], lock_id, due=timedelta(hours=n))
        for lock_id, n in zip(held, (2, 3, 1), strict=True)
    ]
    log(store, clock())
    log(store, clock.advance(hours=1))

    assert ids(events(store, Order.OLDEST)) == made
    assert ids(events(store, Order.DATE)) == [made[2], made[0], made[1]]
    assert ids(locks(store, order=Order.DEADLINE)) == [held[2], held[0], held[1]]
    assert ids(bookings(store, order=Order.DEADLINE)) == [booked[2], booked[0], booked[1]]
    assert ids(bookings(store, order=Order.OLDEST)) == booked
    assert [run["executedAt"] for run in runs(store, order=Order.OLDEST)] == [
        clock() - timedelta(hours=1),
        clock(),
    ]


def test_only_the_fields_that_are_asked_for_are_read(store, event):
    """And the locks are summed up only where their seats are."""
    edit(store, "events", event, poster="x" * 1000)

    for order in (Order.NEWEST, Order.FULLEST):
        assert events(store, order, fields=("_id",)) == [{"_id": event}]
        assert events(store, order, fields=("name",)) == [{"_id": event, "name": "Concert"}]
        assert events(store, order, fields=("sold",)) == [{"_id": event, "locked": 1, "sold": 2}]
        assert events(store, order)[0]["poster"]
    assert locks(store, limit=1, fields=("details.x", "seats"))[0].keys() == {"_id", "seats"}


# --- sums ---------------------------------------------------------------------------------------------


def test_the_summary_says_for_each_job_how_many_runs_there_were_what_they_did_and_how_long_they_took(
    store, clock
):
    """Entries of another program that say less count as runs all the same."""
    for status, duration in ((JobStatus.SUCCESS, 10), (JobStatus.SUCCESS, 30), (JobStatus.FAILED, 200)):
        log(store, clock(), status=status, recordsProcessed=2, seatsRestored=3, duration=duration)
    store.database.jobLogs.insert_one(
        {"jobType": "LOCK_EXPIRY", "executedAt": clock(), "status": "SUCCESS", "details": "x"}
    )
    log(store, clock() - timedelta(days=1), recordsProcessed=100)
    rows = lists.summarize(store, list(JobType), timedelta(hours=1))
    summary = {row["jobType"]: row for row in rows}

    assert set(summary) == set(JobType)
    assert summary["LOCK_EXPIRY"] == {
        "jobType": "LOCK_EXPIRY",
        "runs": 4,
        "successRate": 0.75,
        "recordsProcessed": 6,
        "seatsRestored": 9,
        "medianDuration": 30,
        "worstDuration": 200,
    }
    assert summary["RECOVERY"] == {
        "jobType": "RECOVERY",
        "runs": 0,
        "successRate": None,
        "recordsProcessed": 0,
        "seatsRestored": 0,
        "medianDuration": None,
        "worstDuration": None,
    }


# --- one document ---------------------------------------------------------------------------------------


def test_an_event_is_shown_with_its_counters_and_its_latest_locks_and_bookings(store, event):
    for _ in range(lists.LATEST):
        sales.release(store, lock(store, event))
    shown = lists.show(store, event)

    assert (shown.kind, shown.document["locked"], shown.document["sold"]) == ("event", 1, 2)
    assert len(shown.related["seatLocks"]) == lists.LATEST
    assert [each["status"] for each in shown.related["bookings"]] == ["CONFIRMED"]
    assert shown.as_document() == {**shown.document, **shown.related}


def test_a_lock_is_shown_with_its_bookings_and_its_event(store, event):
    sold = store.database.seatLocks.find_one({"status": "CONSUMED"})
    insert_booking(store, event, sold["_id"], "FAILED")
    shown = lists.show(store, sold["_id"])

    assert (shown.kind, shown.document) == ("lock", sold)
    assert [each["status"] for each in shown.related["bookings"]] == ["FAILED", "CONFIRMED"]
    assert [(each["_id"], each["sold"]) for each in shown.related["events"]] == [(event, 2)]


def test_a_booking_is_shown_with_its_lock_and_its_event(store, event):
    booked = store.database.bookings.find_one()
    shown = lists.show(store, booked["_id"])

    assert (shown.kind, shown.document) == ("booking", booked)
    assert shown.related["seatLocks"] == [lock_of(store, booked["seatLockId"])]
    assert ids(shown.related["events"]) == [event]


def test_a_booking_whose_lock_and_event_are_gone_is_shown_without_them(store):
    lonely = insert_booking(store, ObjectId(), ObjectId())

    assert lists.show(store, lonely).related == {"seatLocks": [], "events": []}


@pytest.mark.parametrize("odd", [None, {"$ne": 1}, "x", {"n": 1}], ids=str)
def test_a_reference_out_of_a_document_is_an_id_and_never_a_query(store, event, odd):
    """`{"$ne": 1}` is nobody's id and must not match everybody's."""
    lonely = store.database.bookings.insert_one({"event": odd, "seatLockId": odd}).inserted_id

    assert lists.show(store, lonely).related == {"seatLocks": [], "events": []}
    assert ids(events(store)) == [event]


def test_a_job_run_is_shown_with_its_details(store):
    run_recover(store)
    entry = store.database.jobLogs.find_one()
    shown = lists.show(store, entry["_id"])

    assert (shown.kind, shown.document, shown.related) == ("job run", entry, {})


def test_an_id_of_nothing_is_not_found(store):
    lost = ObjectId()
    with pytest.raises(
        NotFound, match=f"there is no event, lock, booking, refund, operation or job run {lost}"
    ):
        lists.show(store, lost)
