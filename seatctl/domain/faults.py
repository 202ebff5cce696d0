"""What a person has to know about each fault: what it means, where it comes from, how to decide, and
the command that carries the decision out. The only source of this: `verify`, `recover`, `explain`, `health`
and the guide "guarantees" all say what stands here.

In a command EVENT_ID, LOCK_ID, BOOKING_ID, COLLECTION and INDEX stand for those of a violation, ID, FIELD
and FOUND for what is wrong in a damaged document. A person fills in N, VALUE, REF and the id of an OTHER one.
"""

from __future__ import annotations

from typing import NamedTuple

from seatctl.domain.states import Fault


class Remedy(NamedTuple):
    """A decision, and what carries it out: commands of seatctl one after the other, or a line for mongosh."""

    decision: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.decision}: {', then '.join(self.commands)}"


class Explanation(NamedTuple):
    """All about one fault. `invariant` is the one that it breaks, by its number in the guide "guarantees"."""

    invariant: int
    meaning: str
    cause: str
    decide: str
    remedies: tuple[Remedy, ...]
    repairable: bool = False
    """Whether `recover` repairs it. For the rest a person must decide: money or data is at stake."""


def _repaired(invariant: int, meaning: str, cause: str, outcome: str, *remedies: Remedy) -> Explanation:
    return Explanation(
        invariant,
        meaning,
        cause,
        f"Nothing to decide: `seatctl recover` repairs it. {outcome}",
        (Remedy("repair it", ("seatctl recover",)), *remedies),
        repairable=True,
    )


CRASH = "Another program, or a change by hand, wrote only one of two documents."
CANCEL_BOOKING = "seatctl cancel BOOKING_ID"
RELOCK = "seatctl relock BOOKING_ID --seats N"
SET_FIELD = 'db.COLLECTION.updateOne({_id: ID, "FIELD": FOUND}, {$set: {"FIELD": VALUE}})'
NEW_ID = Remedy(
    "give it an id of its own in mongosh",
    (
        "db.COLLECTION.insertOne({...db.COLLECTION.findOne({_id: ID}), _id: ObjectId()})",
        "db.COLLECTION.deleteOne({_id: ID})",
    ),
)
"""For a document whose `_id` is the field that is wrong: MongoDB changes no `_id`."""
TO_EVENT_OF_LOCK = (
    'db.bookings.updateOne({_id: ObjectId("BOOKING_ID"), event: ObjectId("EVENT_ID")}, '
    '{$set: {event: ObjectId("OTHER_EVENT_ID")}})'
)
TO_ORDINARY = 'db.events.updateOne({_id: ObjectId("EVENT_ID")}, {$unset: {dailySeats: 1, eventType: 1}})'
KEEP_THE_PROGRAM = Remedy("the other program cannot be changed", ("seatctl adopt",))
MORE_ROOM = Remedy("more seats can be added", ("seatctl resize EVENT_ID --seats N", "seatctl recover"))


def _damaged(what: str, fields: str, *more: Remedy) -> Explanation:
    return Explanation(
        11,
        f"The {what} cannot be read; the message says which field is wrong.",
        "Another program with another schema, or a change by hand.",
        f"Find the right value in a backup or in the program that wrote it. {fields} The line for mongosh "
        "matches only the current value, so it changes nothing if another writer is faster; "
        "`modifiedCount: 1` means done.",
        (Remedy("correct the field in mongosh", (SET_FIELD, "seatctl recover")), *more),
    )


EXPLANATIONS: dict[Fault, Explanation] = {
    Fault.COUNTER_DRIFT: _repaired(
        1,
        "The counter does not match the locks.",
        CRASH,
        "It counts the seats that locks hold and sets availableSeats to the rest.",
    ),
    Fault.COUNTER_IN_DOUBT: Explanation(
        11,
        "The counter is too low, but seats may be held by a document that is missing or unreadable.",
        "A lock was deleted, or a document was damaged; the message says which.",
        "Resolve the event's other violations first: they cause the doubt. Then there is nothing left to "
        "decide.",
        (Remedy("after the others are resolved", ("seatctl recover",)),),
    ),
    Fault.OVERBOOKED: Explanation(
        2,
        "Locks hold more seats than the event has.",
        "Another program sold without checking the counter, or totalSeats was lowered by hand.",
        "`seatctl recover` ends what is overdue there. If the event is still overbooked, add seats if you "
        "can. Otherwise cancel some buyers: `seatctl bookings --event EVENT_ID --status confirmed` lists "
        "them, newest first.",
        (
            Remedy("end what is overdue", ("seatctl recover",)),
            Remedy("more seats can be added", ("seatctl resize EVENT_ID --seats N",)),
            Remedy("a buyer is cancelled and refunded", ("seatctl cancel OTHER_BOOKING_ID",)),
        ),
    ),
    Fault.UNSETTLED_LOCK: _repaired(
        5, "The booking is CONFIRMED, but its lock is still ACTIVE.", CRASH, "The lock becomes CONSUMED."
    ),
    Fault.LOST_LOCK: _repaired(
        5,
        "The booking is CONFIRMED, but its lock has ended, so its seats may be sold again.",
        "A job of another program expired the lock during the payment.",
        "It takes the seats again if the event has them. If not, the event is oversold: add seats, or "
        "cancel the booking and refund the buyer.",
        MORE_ROOM,
        Remedy("the buyer is refunded", (CANCEL_BOOKING,)),
    ),
    Fault.SEATS_NOT_RETURNED: _repaired(
        5,
        "The booking has ended, but its lock is still ACTIVE.",
        CRASH,
        "The lock expires and its seats are returned.",
    ),
    Fault.BOOKING_WITHOUT_SEATS: _repaired(
        5, "The booking is awaiting payment, but its lock has ended.", CRASH, "The booking expires."
    ),
    Fault.BOOKING_WITHOUT_LOCK: Explanation(
        11,
        "A pending booking names a lock that does not exist.",
        "A TTL index or a program deletes locks.",
        "First stop what deletes locks. Then either take its seats again, as many as it had (a backup of the "
        "lock or the payment says how many), or end the booking. Left alone, it expires at its deadline.",
        (Remedy("keep its seats", (RELOCK,)), Remedy("end it", (CANCEL_BOOKING,))),
    ),
    Fault.CONFIRMED_WITHOUT_LOCK: Explanation(
        5,
        "A paid booking names a lock that does not exist: its seats are sold, but nothing holds them.",
        "A TTL index or a program deletes locks.",
        "First stop what deletes locks. Then take its seats again, as many as were paid for, or refund "
        "the buyer. Until then the counter of this event is not raised.",
        (Remedy("keep its seats", (RELOCK,)), Remedy("the buyer is refunded", (CANCEL_BOOKING,))),
    ),
    Fault.CONSUMED_WITHOUT_BOOKING: Explanation(
        5,
        "The seats are sold, but no booking is paid.",
        "The booking was deleted, or another program crashed between its two writes.",
        "Ask the payment provider whether the lock's user paid (`seatctl history LOCK_ID`).",
        (
            Remedy("paid", ("seatctl confirm LOCK_ID --sold --ref REF",)),
            Remedy("not paid", ("seatctl cancel LOCK_ID",)),
        ),
    ),
    Fault.SEVERAL_BOOKINGS: Explanation(
        5,
        "More than one booking names the lock.",
        "Another program made a second booking; no unique index prevented it.",
        "`seatctl show LOCK_ID` lists them. Decide which one counts. Give each other one a lock of its "
        "own: with its own seats if you keep it and the event has them; otherwise cancel it first.",
        (
            Remedy("keep both", ("seatctl relock OTHER_BOOKING_ID",)),
            Remedy(
                "cancel the other one", ("seatctl cancel OTHER_BOOKING_ID", "seatctl relock OTHER_BOOKING_ID")
            ),
        ),
    ),
    Fault.OTHER_EVENT: Explanation(
        5,
        "A live booking names another event than its lock does.",
        "The booking was moved by hand or by another program.",
        "Which event did the buyer mean? If the booking's, it needs seats there; its old lock ends at its "
        "deadline or, if it is CONSUMED, with `seatctl cancel LOCK_ID`.",
        (
            Remedy("the booking is right", ("seatctl relock BOOKING_ID",)),
            Remedy("the lock is right: in mongosh", (TO_EVENT_OF_LOCK,)),
            Remedy("neither", (CANCEL_BOOKING,)),
        ),
    ),
    Fault.ORPHAN_LOCK: _repaired(
        1,
        "An ACTIVE lock of an event that does not exist.",
        "The event was deleted.",
        "The lock expires, with its pending bookings.",
    ),
    Fault.ORPHAN_BOOKING: _repaired(
        1,
        "A pending booking of an event that does not exist.",
        "The event was deleted.",
        "The booking expires.",
    ),
    Fault.ORPHAN_SOLD: Explanation(
        1,
        "A sold lock or a paid booking of an event that does not exist.",
        "The event was deleted.",
        "Restore the event from a backup, and nothing else is needed. Or cancel the sale.",
        (
            Remedy("the buyer is refunded", (CANCEL_BOOKING,)),
            Remedy("nobody paid for the lock", ("seatctl cancel LOCK_ID",)),
        ),
    ),
    Fault.DAMAGED_LOCK: _damaged("lock", "Its seats are not free until then."),
    Fault.DAMAGED_BOOKING: _damaged("booking", "It keeps its lock until then."),
    Fault.DAMAGED_EVENT: _damaged(
        "event", "You may set a wrong availableSeats to 0: `seatctl recover` then corrects it."
    ),
    Fault.UNKNOWN_COUNTING: Explanation(
        11,
        "The event counts its seats per day.",
        "Another program sells multi-day events on this database.",
        "seatctl leaves it and its locks alone, and keeps reporting it. On an adopted database this is "
        "not a failure.",
        (
            Remedy("another program sells it", ("seatctl adopt",)),
            Remedy("it is an ordinary event: in mongosh", (TO_ORDINARY, "seatctl recover")),
        ),
    ),
    Fault.TTL_INDEX: Explanation(
        9,
        "An index that makes MongoDB delete events, locks or bookings.",
        "Another program creates it, often at each start.",
        "It is not needed: the sweeps do its work and delete nothing. Remove it from the program that "
        "creates it; if that program cannot be changed, `seatctl adopt` makes the index harmless. On an "
        "adopted database, run `seatctl adopt` again: a dropped index would be back at the program's next "
        "start.",
        (Remedy("drop it in mongosh", ("db.COLLECTION.dropIndex(INDEX)",)), KEEP_THE_PROGRAM),
    ),
    Fault.DUPLICATE_KEY: Explanation(
        8,
        "Several locks of one event and user have the same idempotency key, so the unique index cannot "
        "be created.",
        "Another program repeated a request, and no unique index prevented it.",
        "Decide which lock counts, and end the other one. If neither holds seats, there is nothing to do.",
        (
            Remedy("end a lock without a booking", ("seatctl release OTHER_LOCK_ID",)),
            Remedy("end a lock with a booking", ("seatctl cancel OTHER_BOOKING_ID",)),
        ),
    ),
    Fault.CLOSED_WITH_SEATS: _repaired(
        14,
        "Seats came back to a closed event and are available, so other programs can sell them.",
        "A lock ended, or a payment failed, since the last run of a job.",
        "The next run of a sweep does the same: it adds them to the event's block.",
        Remedy("sell them after all", ("seatctl reopen EVENT_ID",)),
    ),
    Fault.FAR_DEADLINE: Explanation(
        6,
        "An ACTIVE lock, or a booking awaiting payment, has a deadline more than a year away: no sweep "
        "returns its seats before then.",
        "Another program, or a change by hand, mixed up units of time.",
        "Is there a buyer? Seats that are not for sale belong in a block, which is never reported.",
        (
            Remedy("a lock that nobody needs", ("seatctl release LOCK_ID",)),
            Remedy("a booking that nobody will pay", ("seatctl pay BOOKING_ID --failed",)),
        ),
    ),
    Fault.COLLATION: Explanation(
        8,
        "A collection has a collation that can confuse users or keys, such as `ann` and `Ann`.",
        "It was set when the collection was created, and cannot be changed.",
        "seatctl is not affected: it always compares exactly. If another program compares users or keys, "
        'have it request the collation {locale: "simple"}.',
        (),
    ),
}
