"""The states and which of them fit together: a contract with other programs."""

import pytest
from scene import PAIRS

from seatctl.domain.faults import EXPLANATIONS
from seatctl.domain.states import (
    ENDED_BOOKING,
    ENDED_LOCK,
    HOLDING,
    LIVE,
    BookingStatus,
    Fault,
    JobStatus,
    JobType,
    LockStatus,
    fault_of_pair,
)


def test_the_states_are_those_of_the_contract():
    assert set(LockStatus) == {"ACTIVE", "CONSUMED", "EXPIRED", "CANCELLED"}
    assert set(BookingStatus) == {
        "INITIATED",
        "PAYMENT_PENDING",
        "CONFIRMED",
        "FAILED",
        "EXPIRED",
        "CANCELLED",
    }
    assert set(JobType) == {"LOCK_EXPIRY", "BOOKING_EXPIRY", "RECOVERY"}
    assert set(JobStatus) == {"SUCCESS", "FAILED"}


def test_what_holds_seats_and_what_is_live():
    assert set(HOLDING) == {"ACTIVE", "CONSUMED"}
    assert set(ENDED_LOCK) == {"EXPIRED", "CANCELLED"}
    assert set(LIVE) == {"PAYMENT_PENDING", "CONFIRMED"}
    assert set(ENDED_BOOKING) == {"FAILED", "EXPIRED", "CANCELLED"}


def test_the_table_of_pairs_has_every_cell():
    assert set(PAIRS) == {(lock, booking) for lock in (*LockStatus, None) for booking in BookingStatus}


@pytest.mark.parametrize(("lock", "booking"), PAIRS, ids=str)
def test_each_pair_of_a_lock_and_its_booking_is_judged_as_the_table_says(lock, booking):
    state = None if lock is None else LockStatus(lock)

    assert fault_of_pair(state, BookingStatus(booking)) == PAIRS[lock, booking]


def test_every_fault_breaks_an_invariant_that_the_contract_has():
    assert set(EXPLANATIONS) == set(Fault)
    assert {about.invariant for about in EXPLANATIONS.values()} <= set(range(1, 15))


def test_money_and_data_of_somebody_are_never_repaired_by_a_program():
    assert {fault for fault, about in EXPLANATIONS.items() if not about.repairable} == {
        "counter_in_doubt",
        "overbooked",
        "booking_without_lock",
        "confirmed_without_lock",
        "consumed_without_booking",
        "several_bookings",
        "other_event",
        "orphan_sold",
        "damaged_lock",
        "damaged_booking",
        "damaged_event",
        "unknown_counting",
        "ttl_index",
        "duplicate_key",
        "collation",
        "far_deadline",
    }
