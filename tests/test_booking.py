"""What the operator's commands promise, on every kind of deployment."""

from seatctl import booking


def test_lock(store, clock):
    """A lock takes its seats once."""
    e = booking.create_event(store, "x", 100, clock()).document["_id"]
    assert booking.lock(store, e, "u", 3).available == 97
