"""What taking seats off sale promises: blocks, closed events, and what comes back to them."""

from datetime import UTC, datetime

import pytest
from bson import ObjectId
from conftest import available, edit, everything
from mongoose import Backend
from scene import (
    HOUR,
    NOWHERE,
    add,
    book,
    confirm,
    create,
    delete,
    event_of,
    insert_lock,
    lock,
    lock_of,
    meanwhile,
    run_expire_bookings,
    run_expire_locks,
    run_recover,
    sell,
    states,
)

from seatctl.domain.settings import Settings
from seatctl.errors import (
    Closed,
    CountedByDay,
    DamagedDocument,
    KeyReused,
    NotFound,
    SoldOut,
    Usage,
    WrongState,
)
from seatctl.mongo.events import Events
from seatctl.services import payments, sales
from seatctl.services.blocks import BlockRequest, block, unblock
from seatctl.services.closing import close, reopen
from seatctl.services.verify import verify

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
JOBS = {"expire-locks": run_expire_locks, "expire-bookings": run_expire_bookings, "recover": run_recover}


@pytest.fixture
def event(store):
    """An event with ten seats."""
    return create(store, 10)


def last_operation(store, event):
    return list(store.operations.concerning([event]))[-1]


def off_sale(store, event):
    """The seats of each block of the closed event."""
    return [each.seats for each in store.locks.of_closing(event)]


def faults(store):
    return [violation.fault.value for violation in verify(store)]


# --- blocks --------------------------------------------------------------------------------------------


def test_a_block_is_a_lock_for_no_buyer_and_without_a_deadline(store, clock, event):
    done = block(store, BlockRequest(event, 3))

    stored = lock_of(store, done.lock.id)
    assert (done.created, done.available, available(store, event)) == (True, 7, 7)
    assert stored.pop("idempotencyKey").startswith("seatctl-")
    assert stored == {
        "_id": done.lock.id,
        "eventId": event,
        "userId": "seatctl",
        "seats": 3,
        "status": "ACTIVE",
        "kind": "BLOCK",
        "expiresAt": NEVER,
        "createdAt": clock(),
        "updatedAt": clock(),
    }
    entry = last_operation(store, event)
    assert (entry["command"], entry["lockId"], entry["after"]) == ("block", done.lock.id, {"seats": 3})
    assert faults(store) == []


def test_no_job_ends_a_block(store, clock, event):
    held = block(store, BlockRequest(event, 3)).lock.id
    clock.advance(days=3000)
    for job in JOBS.values():
        assert job(store).error is None
    assert lock_of(store, held)["status"] == "ACTIVE"
    assert available(store, event) == 7


def test_the_same_key_is_the_same_block_and_another_number_of_seats_is_refused(store, event):
    first = block(store, BlockRequest(event, 3, "press"))
    again = block(store, BlockRequest(event, 3, " press "))
    assert (again.created, again.lock.id) == (False, first.lock.id)
    with pytest.raises(KeyReused):
        block(store, BlockRequest(event, 4, "press"))
    assert available(store, event) == 7


def test_where_users_must_be_ids_a_block_has_one(store, event):
    adopted = store.with_settings(Settings(object_id_users=True))
    held = block(adopted, BlockRequest(event, 3)).lock.id
    assert lock_of(store, held)["userId"] == ObjectId("0" * 24)
    close(adopted, event)
    assert off_sale(adopted, event) == [7]


@pytest.mark.parametrize("dry_run", [True, False])
def test_overdue_seats_are_returned_before_a_block_is_refused(store, clock, event, dry_run):
    lock(store, event, 8)
    clock.advance(minutes=11)
    before = everything(store)
    assert block(store, BlockRequest(event, 5, dry_run=dry_run)).available == 5
    assert (everything(store) == before) == dry_run
    with pytest.raises(SoldOut, match=r"2 seats left, 11|5 seats left, 11"):
        block(store, BlockRequest(event, 11, dry_run=dry_run))


def test_a_block_that_makes_no_sense_is_refused(store, event):
    for request in (BlockRequest(event, 0), BlockRequest(event, 1, " ")):
        with pytest.raises(Usage):
            block(store, request)
    with pytest.raises(NotFound):
        block(store, BlockRequest(NOWHERE, 1))
    edit(store, "events", event, dailySeats={"2027-01-01": {"total": 5}})
    with pytest.raises(CountedByDay):
        block(store, BlockRequest(event, 1))


def test_a_block_ends_once_and_its_seats_come_back(store, clock, event):
    held = block(store, BlockRequest(event, 3)).lock.id
    clock.advance(minutes=1)
    done = unblock(store, held)
    again = unblock(store, held)

    assert (done.changed, again.changed, available(store, event)) == (True, False, 10)
    entry = last_operation(store, event)
    assert (entry["command"], entry["_id"]) == ("unblock", lock_of(store, held)["endedBy"])
    assert faults(store) == []


def test_a_buyers_lock_is_not_unblocked(store, event):
    held = lock(store, event)
    with pytest.raises(WrongState, match=f"`seatctl release {held}`"):
        unblock(store, held)
    with pytest.raises(NotFound, match="that is the id of an event"):
        unblock(store, event)


@pytest.mark.parametrize("command", [confirm, sales.release])
def test_a_block_is_neither_confirmed_nor_released(store, event, command):
    held = block(store, BlockRequest(event, 3)).lock.id
    with pytest.raises(WrongState, match=f"`seatctl unblock {held}` returns its seats"):
        command(store, held)


def test_the_seats_of_a_block_do_not_come_back_to_an_event_in_doubt(store, event):
    held = block(store, BlockRequest(event, 3)).lock.id
    odd = insert_lock(store, event, 1, due=HOUR, status="HELD")
    with pytest.raises(DamagedDocument, match=r"cannot be returned: .* 1 lock cannot be read"):
        unblock(store, held)
    assert lock_of(store, held)["status"] == "ACTIVE"

    delete(store, "seatLocks", odd)
    edit(store, "events", event, totalSeats=2, availableSeats=0)
    assert "locks hold 3 of 2 seats" in str(unblock(store, held).doubt)
    assert (lock_of(store, held)["status"], available(store, event)) == ("EXPIRED", 0)


# --- close ---------------------------------------------------------------------------------------------


def test_a_closed_event_has_nothing_available_and_its_block_holds_it(store, clock, event):
    lock(store, event, 4)
    clock.advance(minutes=1)
    done = close(store, event)

    found = event_of(store, event)
    assert (done.changed, done.seats) == (True, 6)
    assert (found["closedAt"], found["availableSeats"], found["totalSeats"]) == (clock(), 0, 10)
    (made,) = store.locks.of_closing(event)
    assert (made.seats, made.key, made.is_block) == (6, f"closed-{made.id}", True)
    entry = last_operation(store, event)
    assert entry["before"] == {"closedAt": None, "availableSeats": 6}
    assert entry["after"] == {"closedAt": clock(), "availableSeats": 0}
    assert faults(store) == []


def test_closing_again_changes_and_records_nothing(store, clock, event):
    close(store, event)
    before = everything(store)
    clock.advance(minutes=1)
    assert not close(store, event).changed
    assert everything(store) == before


def test_a_dry_run_closes_nothing(store, event):
    lock(store, event, 4)
    before = everything(store)
    assert close(store, event, dry_run=True).seats == 6
    assert everything(store) == before


def test_a_closed_event_locks_and_blocks_nothing_but_its_buyers_go_on(store, event):
    held = lock(store, event, 2, key="mine")
    _, waiting = book(store, event, 2)
    close(store, event)

    with pytest.raises(Closed, match=f"`seatctl reopen {event}`"):
        lock(store, event, 1)
    with pytest.raises(Closed):
        block(store, BlockRequest(event, 1))
    assert lock(store, event, 2, key="mine") == held
    payments.pay(store, confirm(store, held))
    payments.pay(store, waiting)
    assert faults(store) == []


def test_seats_that_came_back_to_a_closed_event_are_not_locked(store, event):
    """Also in the minute before a job takes them off sale."""
    held = lock(store, event, 2)
    close(store, event)
    sales.release(store, held)
    assert available(store, event) == 2
    with pytest.raises(Closed):
        lock(store, event, 1)


def test_a_sold_out_event_is_closed_without_a_block(store, event):
    lock(store, event, 10)
    assert close(store, event).seats == 0
    assert off_sale(store, event) == []
    assert reopen(store, event).seats == 0


def test_an_event_whose_counter_is_too_high_or_too_low_is_closed_by_what_its_locks_say(store, event):
    lock(store, event, 4)
    add(store, event, 3)
    assert close(store, event).seats == 6
    assert faults(store) == []
    other = create(store, 10)
    add(store, other, -3)
    assert close(store, other).seats == 7
    run_recover(store)
    assert (available(store, other), off_sale(store, other)) == (0, [10])
    below = create(store, 10)
    edit(store, "events", below, availableSeats=-2)
    close(store, below)
    assert available(store, below) == -2


def test_what_another_program_calls_closed_and_is_no_date_closes_nothing(store, event):
    edit(store, "events", event, closedAt="22:00", cancelledAt=False)
    lock(store, event, 1)
    assert close(store, event).seats == 9


def test_an_event_that_was_cancelled_sells_nothing(store, clock, event):
    edit(store, "events", event, cancelledAt=clock())
    with pytest.raises(Closed, match="was cancelled at"):
        lock(store, event, 1)
    with pytest.raises(Closed, match="cannot be reopened"):
        reopen(store, event)


def test_seats_locked_while_an_event_is_closed_stay_locked(store, event, monkeypatch):
    happened = meanwhile(monkeypatch, Events, "get", lambda: lock(store, event, 4))
    assert close(store, event).seats == 6
    assert lock_of(store, happened[0])["status"] == "ACTIVE"
    assert faults(store) == []


def test_other_programs_find_nothing_to_sell(store, clock, event):
    """They take seats by the counter, and know nothing of `closedAt`."""
    close(store, event)
    with pytest.raises(AssertionError):
        Backend(store.database, clock).lock(event)
    assert faults(store) == []


# --- reopen --------------------------------------------------------------------------------------------


def test_a_reopened_event_has_its_seats_again(store, clock, event):
    lock(store, event, 4)
    close(store, event)
    (made,) = store.locks.of_closing(event)
    clock.advance(minutes=1)
    done = reopen(store, event)

    assert (done.changed, done.seats, available(store, event)) == (True, 6, 6)
    assert "closedAt" not in event_of(store, event)
    entry = last_operation(store, event)
    ended = lock_of(store, made.id)
    assert (ended["status"], ended["endedBy"]) == ("EXPIRED", entry["_id"])
    assert entry["ids"] == [event, made.id]
    assert faults(store) == []
    lock(store, event, 6)


def test_reopening_again_changes_and_records_nothing(store, clock, event):
    close(store, event)
    reopen(store, event)
    before = everything(store)
    clock.advance(minutes=1)
    assert not reopen(store, event).changed
    assert everything(store) == before


def test_a_dry_run_reopens_nothing(store, event):
    close(store, event)
    before = everything(store)
    assert reopen(store, event, dry_run=True).seats == 10
    assert everything(store) == before


def test_an_event_closed_again_gets_a_new_block(store, event):
    for _ in range(2):
        close(store, event)
        assert off_sale(store, event) == [10]
        reopen(store, event)
    assert store.database.seatLocks.count_documents({"status": "EXPIRED"}) == 2


def test_an_event_in_doubt_is_not_reopened(store, event):
    close(store, event)
    insert_lock(store, event, 2, status="HELD")
    before = everything(store)
    with pytest.raises(DamagedDocument, match=r"cannot be reopened: .* cannot be read"):
        reopen(store, event)
    assert everything(store) == before


def test_the_block_of_a_closed_event_ends_only_with_the_closing(store, event):
    close(store, event)
    (made,) = store.locks.of_closing(event)
    for command in (unblock, confirm, sales.release):
        with pytest.raises(WrongState, match=f"`seatctl reopen {event}` returns"):
            command(store, made.id)
    reopen(store, event)
    assert not unblock(store, made.id).changed


def test_the_seats_of_a_house_block_stay_off_sale_while_the_event_is_closed(store, event):
    held = block(store, BlockRequest(event, 3)).lock.id
    close(store, event)
    done = unblock(store, held)
    assert (done.changed, done.closed) == (True, True)
    assert (available(store, event), off_sale(store, event)) == (0, [10])
    assert faults(store) == []


# --- what comes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
def test_what_came_back_to_a_closed_event_goes_into_its_block_with_the_next_run(store, event, job):
    held = lock(store, event, 2)
    _, failing = book(store, event, 3)
    close(store, event)
    sales.release(store, held)
    payments.fail_payment(store, failing)
    assert faults(store) == ["closed_with_seats"]
    before = everything(store)
    assert JOBS[job](store, dry_run=True).blocked.total() == 5
    assert everything(store) == before
    report = JOBS[job](store)

    assert (available(store, event), off_sale(store, event)) == (0, [10])
    assert faults(store) == []
    assert report.error is None
    if job != "recover":  # which calls it a repair
        assert report.run["details"]["seatsBlocked"] == report.blocked.total() == 5


@pytest.mark.parametrize("job", JOBS)
def test_what_a_run_returns_to_a_closed_event_goes_into_its_block_with_the_same_run(store, clock, event, job):
    lock(store, event, 2)
    book(store, event, 2)
    close(store, event)
    other = create(store, 5)
    lock(store, other, 1)
    clock.advance(minutes=16)
    planned, report = JOBS[job](store, dry_run=True), JOBS[job](store)

    seats = 4 if job == "recover" else 2
    assert (planned.seats, planned.blocked[event]) == (report.seats, seats)
    assert report.seats_by_event[event] == seats
    assert (available(store, event), off_sale(store, event)) == (0, [6 + seats])
    assert available(store, other) == (4 if job == "expire-bookings" else 5)
    assert report.error is None


def test_seats_that_came_back_to_an_event_that_had_none_left_get_a_block(store, event):
    held = lock(store, event, 10)
    close(store, event)
    sales.release(store, held)
    run_expire_locks(store)
    assert off_sale(store, event) == [10]


def test_a_lost_lock_of_a_closed_event_takes_its_seats_out_of_the_block(store, event):
    """They are off sale, and so nobody else's."""
    held, booked = sell(store, event, 4)
    edit(store, "seatLocks", held, status="EXPIRED")
    add(store, event, 4)
    close(store, event)
    assert off_sale(store, event) == [10]
    assert [violation.is_for_recovery for violation in verify(store)] == [True]

    report = run_recover(store)
    assert states(store, held, booked) == ("CONSUMED", "CONFIRMED")
    assert (report.error, off_sale(store, event), available(store, event)) == (None, [6], 0)
    assert faults(store) == []


@pytest.mark.parametrize("adopted_after", [True, False])
def test_a_closed_event_is_reopened_whether_or_not_its_database_was_adopted_since(
    store, event, adopted_after
):
    """The block has another user then."""
    ids_only = store.with_settings(Settings(object_id_users=True))
    before, after = (store, ids_only) if adopted_after else (ids_only, store)
    seats = available(store, event)
    close(before, event)

    assert reopen(after, event).seats == seats
    assert available(store, event) == seats
    assert list(verify(store)) == []


@pytest.mark.parametrize("key", ["closed-x", "rebook-x"])
def test_a_key_that_seatctl_makes_itself_is_nobodys_to_choose(store, event, key):
    for command in (
        lambda: block(store, BlockRequest(event, 1, key)),
        lambda: sales.lock(store, sales.LockRequest(event, "ada", 1, key)),
    ):
        with pytest.raises(Usage, match="must not begin with closed- or rebook-"):
            command()
