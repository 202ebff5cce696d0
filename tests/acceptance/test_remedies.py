"""The way out of every violation: the command that `verify` names carries the decision out, and the fault is
gone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import Decimal128, ObjectId
from conftest import open_store
from damage import BREAKAGES, Scene
from scene import insert_booking, lock
from terminal import here

from seatctl.domain.faults import EXPLANATIONS
from seatctl.domain.states import Fault
from seatctl.services.relocking import relock

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

PAST = datetime(2020, 1, 1, tzinfo=UTC)


# --- each decision -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A violation; how it comes about where that is not `BREAKAGES`, and what else is so then; what is done
    about other violations first; and what the person fills in."""

    fault: Fault
    decision: str
    prepare: Callable[[Scene], None] = lambda _: None
    first: Callable[[Scene], object] = lambda _: None
    others: Callable[[Scene], dict[str, Any]] = lambda _: {}
    broken_by: Callable[[Scene], object] | None = None

    def __str__(self) -> str:
        return f"{self.fault}: {self.decision}"


def sell_all(scene: Scene) -> None:
    """Nothing is left of the event, so that recovery cannot take seats again."""
    scene.rest = lock(scene.store, scene.event, 98)  # type: ignore[attr-defined]


def make_overdue(scene: Scene) -> None:
    scene.edit("seatLocks", scene.held, expiresAt=PAST)


def restore_lock(scene: Scene) -> None:
    relock(scene.store, scene.paid, 1)


def oversell(scene: Scene) -> None:
    scene.edit("seatLocks", scene.lock_of_paid, seats=101)


def second_booking(status: str) -> Callable[[Scene], None]:
    def book(scene: Scene) -> None:
        held = scene.lock_of_paid if status == "CONFIRMED" else scene.lock_of_pending
        scene.second = insert_booking(scene.store, scene.event, held, status)  # type: ignore[attr-defined]

    return book


def second(scene: Scene) -> dict[str, Any]:
    return {"OTHER_BOOKING_ID": scene.second}  # type: ignore[attr-defined]


def damage(collection: str, of: str, **fields: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.edit(collection, getattr(scene, of), **fields)


def orphan_lock_that_nobody_paid(scene: Scene) -> None:
    BREAKAGES[Fault.ORPHAN_SOLD](scene)
    scene.remove("bookings", scene.paid)


def wait_on_a_consumed_lock(scene: Scene) -> None:
    scene.edit("seatLocks", scene.lock_of_pending, status="CONSUMED")


COUNT_BY_DAY = {"dailySeats": {"2027-01-01": {"total": 100, "available": 97}}, "eventType": "multi-day"}
CASES = [
    *(Case(fault, "repair it") for fault, about in EXPLANATIONS.items() if about.repairable),
    Case(
        Fault.COUNTER_IN_DOUBT,
        "after the others are resolved",
        prepare=lambda scene: scene.counter(-2),
        first=restore_lock,
    ),
    Case(Fault.OVERBOOKED, "end what is overdue", prepare=make_overdue),
    Case(Fault.OVERBOOKED, "more seats can be added"),
    Case(
        Fault.OVERBOOKED,
        "a buyer is cancelled and refunded",
        broken_by=oversell,
        others=lambda scene: {"OTHER_BOOKING_ID": scene.paid},
    ),
    Case(Fault.LOST_LOCK, "more seats can be added", prepare=sell_all, others=lambda _: {"N": 101}),
    Case(Fault.LOST_LOCK, "the buyer is refunded", prepare=sell_all),
    Case(Fault.BOOKING_WITHOUT_LOCK, "keep its seats"),
    Case(Fault.BOOKING_WITHOUT_LOCK, "end it"),
    Case(Fault.CONFIRMED_WITHOUT_LOCK, "keep its seats"),
    Case(Fault.CONFIRMED_WITHOUT_LOCK, "the buyer is refunded"),
    Case(Fault.CONSUMED_WITHOUT_BOOKING, "paid"),
    Case(Fault.CONSUMED_WITHOUT_BOOKING, "not paid"),
    Case(Fault.CONSUMED_WITHOUT_BOOKING, "paid", broken_by=wait_on_a_consumed_lock),
    Case(Fault.SEVERAL_BOOKINGS, "keep both", broken_by=second_booking("PAYMENT_PENDING"), others=second),
    Case(Fault.SEVERAL_BOOKINGS, "keep both", broken_by=second_booking("CONFIRMED"), others=second),
    Case(
        Fault.SEVERAL_BOOKINGS, "cancel the other one", broken_by=second_booking("CONFIRMED"), others=second
    ),
    Case(
        Fault.SEVERAL_BOOKINGS,
        "cancel the other one",
        broken_by=second_booking("PAYMENT_PENDING"),
        others=second,
    ),
    Case(Fault.OTHER_EVENT, "the booking is right"),
    Case(
        Fault.OTHER_EVENT,
        "the lock is right: in mongosh",
        others=lambda scene: {"OTHER_EVENT_ID": scene.event},
    ),
    Case(Fault.OTHER_EVENT, "neither"),
    Case(Fault.ORPHAN_SOLD, "the buyer is refunded"),
    Case(Fault.ORPHAN_SOLD, "nobody paid for the lock", broken_by=orphan_lock_that_nobody_paid),
    Case(Fault.DAMAGED_LOCK, "correct the field in mongosh", others=lambda _: {"VALUE": 1}),
    Case(
        Fault.DAMAGED_LOCK,
        "correct the field in mongosh",
        broken_by=damage("seatLocks", "held", expiresAt=Decimal128("7")),
    ),
    Case(Fault.DAMAGED_BOOKING, "correct the field in mongosh", others=lambda _: {"VALUE": '"FAILED"'}),
    Case(Fault.DAMAGED_EVENT, "correct the field in mongosh", others=lambda _: {"VALUE": 100}),
    Case(
        Fault.DAMAGED_EVENT,
        "correct the field in mongosh",
        broken_by=damage("events", "event", availableSeats=float("nan")),
    ),
    Case(
        Fault.UNKNOWN_COUNTING,
        "another program sells it",
        broken_by=damage("events", "event", **COUNT_BY_DAY),
    ),
    Case(
        Fault.UNKNOWN_COUNTING,
        "it is an ordinary event: in mongosh",
        broken_by=damage("events", "event", **COUNT_BY_DAY),
    ),
    Case(Fault.TTL_INDEX, "drop it in mongosh"),
    Case(Fault.TTL_INDEX, "the other program cannot be changed"),
    Case(Fault.CLOSED_WITH_SEATS, "sell them after all"),
    Case(Fault.FAR_DEADLINE, "a lock that nobody needs"),
    Case(
        Fault.FAR_DEADLINE,
        "a booking that nobody will pay",
        broken_by=damage("bookings", "pending", paymentExpiresAt=datetime(2999, 1, 1, tzinfo=UTC)),
    ),
    Case(
        Fault.DUPLICATE_KEY,
        "end a lock without a booking",
        others=lambda scene: {"OTHER_LOCK_ID": scene.held},
    ),
    Case(
        Fault.DUPLICATE_KEY,
        "end a lock with a booking",
        others=lambda scene: {"OTHER_BOOKING_ID": scene.pending},
    ),
]


def test_each_decision_about_each_fault_is_tried() -> None:
    offered = {(fault, one.decision) for fault, about in EXPLANATIONS.items() for one in about.remedies}

    assert {(case.fault, case.decision) for case in CASES} == offered


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_command_that_is_named_carries_out_the_decision(
    case: Case, database_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify` names the decision, `explain` has its commands with the ids filled in, and after them the
    fault is gone; after `recover` nothing is wrong any more."""
    store = open_store(database_uri)
    scene = Scene(store)
    (case.broken_by or BREAKAGES[case.fault])(scene)
    at = ("--uri", database_uri)
    case.prepare(scene)
    told = here(capsys, "verify", "--json", *at).json["findings"]
    explained = here(capsys, "explain", case.fault, "--json", *at).json["found"]
    remedies = [one for each in explained for one in each["remedies"] if one["decision"] == case.decision]
    assert remedies, explained
    case.first(scene)
    filled_in = {"N": 1, "REF": "card-7", **case.others(scene)}
    for remedy in remedies:
        named = [each["remedy"] for each in told if each["fault"] == case.fault]
        assert any(case.decision in line or line == "seatctl recover" for line in named)
        for command in remedy["commands"]:
            line = re.sub(
                r"\b[A-Z]+(?:_[A-Z]+)*\b", lambda name: str(filled_in.get(name[0], name[0])), command
            )
            carry_out(store, line, database_uri, capsys)

    left = here(capsys, "verify", "--json", *at).json["findings"]
    assert case.fault not in {each["fault"] for each in left if not each.get("accepted")}, left
    here(capsys, "recover", "--settle", "1s", *at)
    checked = here(capsys, "verify", "--json", *at)
    assert checked.json["consistent"], checked
    store.deployment.close()


def carry_out(store: Store, line: str, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    if line.startswith("db."):
        mongosh(store, line)
        return
    _, *words = shlex.split(line)
    options = {"recover": ("--settle", "1s"), "adopt": ("--yes",)}.get(words[0], ())
    done = here(capsys, *words, *options, "--uri", uri)
    assert done.code == 0 or words[0] == "recover", (line, done)


def mongosh(store: Store, line: str) -> None:
    """What mongosh does with a line of ours."""
    collection, method, words = re.fullmatch(r"db\.(\w+)\.(\w+)\((.*)\)", line).groups()  # type: ignore[union-attr]
    quoted = re.sub(r"([{,] ?)([$\w]+):", r'\1"\2":', words).replace("new Date()", "now")
    names = {"ObjectId": ObjectId, "NumberDecimal": Decimal128, "null": None, "NaN": float("nan")}
    arguments = eval(f"[{quoted}]", {**names, "now": datetime.now(UTC), "true": True})  # noqa: S307 - ours
    changed = getattr(
        store.database[collection], {"updateOne": "update_one", "dropIndex": "drop_index"}[method]
    )(*arguments)
    assert method == "dropIndex" or changed.modified_count == 1, line
