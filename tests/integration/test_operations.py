"""`operations`: who changed what, and why (invariant 13)."""

from __future__ import annotations

import pytest
from scene import create

from seatctl.mongo.ids import new_run_id
from seatctl.mongo.store import Store


@pytest.fixture
def event(store: Store):
    return create(store)


def test_an_operation_says_who_ran_what_where_and_why_and_is_found_by_each_id(store: Store, clock, event):
    ours = Store(store.deployment, operator=store.operator._replace(reason="asked by phone", sudo_user="ada"))
    other, before, after = new_run_id(), {"totalSeats": 100}, {"totalSeats": 120}
    for attempt in ours.transaction_attempts():
        with attempt as tx:
            operation_id = tx.operations.id
            tx.operations.record("resize", clock(), event, others=[other], before=before, after=after)

    _, stored = store.operations.concerning([event])  # after its creation
    assert stored == next(iter(store.operations.concerning([other])))
    assert stored == {
        "_id": operation_id,
        "at": clock(),
        "command": "resize",
        "actor": {"systemUser": store.operator.system_user, "sudoUser": "ada"},
        "host": store.operator.host,
        "reason": "asked by phone",
        "eventId": event,
        "ids": [event, other],
        "before": {"totalSeats": 100},
        "after": {"totalSeats": 120},
    }
