"""The ledger's commands on sales that were made: what paying, extending, cancelling and booking again must
answer and leave behind, with the money that has to go back.

As `ledger.py`: written from the promises, with the standard library alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from ledger import NO_COUNTER_WENT_DOWN, Answer, Ledger, Refusal, Tally, end_by_command, is_live
from oracle import ENDED, HOLDING, Document, Id

LOCK_TTL = timedelta(minutes=10)
RECORDED = (
    "confirm",
    "confirm --sold",
    "pay",
    "pay --failed",
    "release",
    "extend",
    "cancel",
    "rebook",
    "refund",
)
"""The commands whose entries in `operations` are counted here."""


class AfterSales(Ledger):
    def __init__(self) -> None:
        super().__init__()
        self.refunds: list[Document] = []
        self.operations: Counter[str] = Counter()
        self.recorded_seats: dict[Id, int] = {}
        """Of each booking, by the newest entry in `operations` that says how many it has."""
        self.cancelled_when_paid: set[Id] = set()
        """Bookings that an operator cancelled after they were paid."""

    # --- pay ---------------------------------------------------------------------------------------

    def confirm(self, now: datetime, new: Document, lock_id: Id, ttl: timedelta | None) -> Answer:
        answer = super().confirm(now, new, lock_id, ttl)
        self.operations["confirm"] += answer.changed
        return answer

    def pay(self, now: datetime, booking_id: Id, ref: str | None = None) -> Answer:
        """One that is too late, or a second one, has to go back (invariants 7 and 12). Repeated it is one."""
        booking = self._known(self.bookings, booking_id)
        lock = self.locks.get(booking["seatLockId"])
        if booking["status"] == "CONFIRMED":
            return self._pay_again(now, booking, ref)
        in_time = booking["status"] == "PAYMENT_PENDING" and booking["paymentExpiresAt"] > now
        if not in_time or lock is None or lock["status"] != "ACTIVE" or lock["eventId"] not in self.events:
            raise self._refuse(now, booking, "LATE_PAYMENT", ref)
        self._settle_payment(now, booking, lock, ref)
        self.operations["pay"] += 1
        return Answer(booking)

    def _settle_payment(self, now: datetime, booking: Document, lock: Document, ref: str | None) -> None:
        ref = self._withdraw_late(booking["_id"], ref, lock["seats"])
        booking.update(status="CONFIRMED", updatedAt=now)
        if ref is not None:
            booking["paymentRef"] = ref
        lock.update(status="CONSUMED", updatedAt=now)

    def _pay_again(self, now: datetime, booking: Document, ref: str | None) -> Answer:
        known = booking.get("paymentRef")
        if ref is None or ref == known:
            return Answer(booking, changed=False)
        if known is not None:
            raise self._refuse(now, booking, "DUPLICATE_PAYMENT", ref)
        lock = self.locks.get(booking["seatLockId"])
        self._withdraw_late(booking["_id"], ref, self._seats_of(booking, lock))
        booking.update(paymentRef=ref, updatedAt=now)
        self.operations["pay"] += 1
        return Answer(booking, changed=False)

    def _refuse(self, now: datetime, booking: Document, cause: str, ref: str | None) -> Refusal:
        """What a payment is told that is not for seats: a refund of it is due, once, whatever for."""
        ref = booking.get("paymentRef") if ref is None else ref
        again = self._rebooked(booking)
        counts = again and self._counting(self._bookings_of(again["_id"]))
        if counts and ref in (None, counts.get("paymentRef")):
            return Refusal("wrong_state", "rebooked with this payment")
        same = self._of_payment(booking["_id"], self._refunds_of(booking["_id"]), ref)
        cancelled = booking["status"] == "CANCELLED" and booking["_id"] in self.cancelled_when_paid
        if not same and cause == "LATE_PAYMENT" and cancelled and booking.get("paymentRef") == ref:
            return Refusal("wrong_state", "without a refund")
        if not same:
            lock = self.locks.get(booking["seatLockId"])
            self._due(booking, cause, ref, self._seats_of(booking, lock))
            booking["paymentRefusedAt"] = now
            self.operations["pay"] += 1
            return Refusal("refund_due", "a refund is due")
        due = next((one for one in same if one["status"] == "DUE"), None)
        if due is None:
            return Refusal("wrong_state", "its refund")
        if ref is not None and due["ref"] is None:
            due["ref"] = ref
            self.operations["pay"] += 1
        return Refusal("refund_due", "a refund is due")

    def _of_payment(self, booking_id: Id, refunds: list[Document], ref: str | None) -> list[Document]:
        """One without a name is any that was recorded; one that was recorded without a name takes it, while
        it is due."""
        named = [one for one in refunds if ref in (None, one["ref"])]
        if named or self.bookings[booking_id].get("paymentRef") is not None:
            return named
        return [one for one in refunds if one["ref"] is None and one["status"] == "DUE"]

    def fail(self, now: datetime, booking_id: Id) -> Answer:
        answer = super().fail(now, booking_id)
        self.operations["pay --failed"] += answer.changed
        return answer

    def release(self, now: datetime, lock_id: Id) -> Answer:
        answer = super().release(now, lock_id)
        self.operations["release"] += 1
        return answer

    # --- extend ------------------------------------------------------------------------------------

    def extend(self, now: datetime, wanted: Id, deadline: datetime, *, overdue: bool) -> Answer:
        """A booking and its lock move together; no deadline becomes earlier."""
        if booking := self.bookings.get(wanted):
            lock = self._known(self.locks, booking["seatLockId"])
        else:
            lock = self._known(self.locks, wanted)
            booking = self._counting(self._bookings_of(wanted))
        waits = booking is None or booking["status"] == "PAYMENT_PENDING"
        self._check_no_block(lock)
        if not waits or lock["status"] != "ACTIVE":
            raise Refusal("wrong_state", str(lock["_id"] if waits else booking["_id"]))
        old = lock["expiresAt"] if booking is None else booking["paymentExpiresAt"]
        if old <= now and not overdue:
            raise Refusal("deadline_passed", "--overdue")
        shown = self.bookings.get(wanted, lock)
        if old >= deadline:
            return Answer(shown, changed=False)
        if booking is not None:
            booking.update(paymentExpiresAt=deadline, updatedAt=now)
        lock.update(expiresAt=max(lock["expiresAt"], deadline), updatedAt=now)
        self.operations["extend"] += 1
        return Answer(shown)

    # --- cancel ------------------------------------------------------------------------------------

    def cancel(self, now: datetime, wanted: Id, seats: int | None, *, refund: bool) -> Answer:
        """Seats come back once, but where no counter went down for them; what was paid is due."""
        booking = self.bookings.get(wanted)
        if booking is None:
            lock = self._known(self.locks, wanted)
            if seats is not None:
                raise Refusal("usage", "--seats")
            return self._cancel_lock(now, lock)
        lock = self.locks.get(booking["seatLockId"])
        if seats is not None:
            return self._cancel_some(now, booking, lock, seats, refund=refund)
        if booking["status"] == "CANCELLED":
            return Answer(booking, changed=False)
        if not is_live(booking):
            raise Refusal("wrong_state", booking["status"])
        if lock and lock["status"] in HOLDING:
            self._end_with(booking, lock, now)
        was, booking["status"], booking["updatedAt"] = booking["status"], "CANCELLED", now
        if was == "CONFIRMED":
            self.cancelled_when_paid.add(booking["_id"])
            if refund:
                self._owe(booking, self._seats_of(booking, lock))
        self.operations["cancel"] += 1
        return Answer(booking)

    def _end_with(self, booking: Document, lock: Document, now: datetime) -> None:
        """The lock ends with its booking, unless another one keeps it."""
        if [one for one in self._live_bookings_of(lock["_id"]) if one is not booking]:
            lock["updatedAt"] = now
            return
        if lock["status"] == "CONSUMED" and booking["status"] == "PAYMENT_PENDING":
            raise Refusal("wrong_state", "someone may have paid")
        self._give_up(lock, now)

    def _give_up(self, lock: Document, now: datetime) -> None:
        if self._may_return(lock):
            self._count(self.events[lock["eventId"]], lock["seats"], now)
        end_by_command(lock, "CANCELLED" if lock["status"] == "CONSUMED" else "EXPIRED", now)

    def _may_return(self, lock: Document) -> bool:
        """Whether seats come back to its event; not where no counter went down for them."""
        doubt = self._doubt_of(lock["eventId"])
        if doubt and doubt not in NO_COUNTER_WENT_DOWN:
            raise Refusal("damaged_document", str(lock["_id"]))
        return doubt is None

    def _cancel_some(
        self, now: datetime, booking: Document, lock: Document | None, target: int, *, refund: bool
    ) -> Answer:
        wanted = {"PAYMENT_PENDING": "ACTIVE", "CONFIRMED": "CONSUMED"}.get(booking["status"])
        had = booking.get("seatsCancelled", 0)
        if wanted is None or lock is None or lock["status"] != wanted:
            raise Refusal("wrong_state", str(booking["_id"]))
        if not had <= target < had + lock["seats"] or len(self._live_bookings_of(lock["_id"])) > 1:
            raise Refusal("wrong_state", str(booking["_id"]))
        if target == had:
            return Answer(booking, changed=False)
        if self._may_return(lock):
            self._count(self.events[lock["eventId"]], target - had, now)
        lock.update(seats=lock["seats"] - target + had, updatedAt=now)
        booking.update(seatsCancelled=target, updatedAt=now)
        if refund and booking["status"] == "CONFIRMED":
            self._owe(booking, target - had)
        self.operations["cancel"] += 1
        return Answer(booking)

    def _cancel_lock(self, now: datetime, lock: Document) -> Answer:
        """That nobody paid for a sold lock: what waits for it ends, too."""
        if lock["status"] == "CANCELLED":
            return Answer(lock, changed=False)
        live = self._live_bookings_of(lock["_id"])
        if lock["status"] != "CONSUMED" or any(one["status"] == "CONFIRMED" for one in live):
            raise Refusal("wrong_state", str(lock["_id"]))
        self._give_up(lock, now)
        for booking in live:
            booking.update(status="CANCELLED", updatedAt=now)
        self.operations["cancel"] += 1
        return Answer(lock)

    def cancel_event(self, now: datetime, event_id: Id) -> Tally:
        paid = [one for one in self.bookings.values() if one["status"] == "CONFIRMED"]
        done = super().cancel_event(now, event_id)
        for booking in paid:
            if booking["status"] == "CANCELLED":
                self._owe(booking, self._seats_of(booking, self.locks.get(booking["seatLockId"])))
        return done

    # --- sold after all ----------------------------------------------------------------------------

    def rebook(self, now: datetime, new: Document, booking_id: Id, ref: str | None) -> Answer:
        """The seats of what has ended, once, if the event has them and the money is not back."""
        old = self._known(self.bookings, booking_id)
        if made := self._rebooked(old):
            bookings = sorted(self._bookings_of(made["_id"]), key=lambda one: not is_live(one))
            if not bookings or bookings[0]["status"] != "CONFIRMED":
                raise Refusal("wrong_state", "was rebooked as")
            return self._rebooked_before(now, old, bookings[0], made["seats"], ref)
        lock = self.locks.get(old["seatLockId"])
        if (
            old["status"] not in ("EXPIRED", "FAILED", "CANCELLED")
            or lock is None
            or lock["status"] not in ENDED
        ):
            raise Refusal("wrong_state", str(booking_id))
        due = self._due_of(booking_id, ref)
        event = self._known(self.events, old["event"])
        if "closedAt" in event or "cancelledAt" in event:
            raise Refusal("closed", str(event["_id"]))
        if not self._has(event, lock["seats"]):
            self.sweep_bookings(now, now, Tally(), event["_id"])
            self.sweep_locks(now, now, Tally(), event["_id"])
        if not self._has(event, lock["seats"]):
            fits = 0 <= event["availableSeats"] <= event["totalSeats"]
            raise Refusal("sold_out" if fits else "damaged_document", str(event["_id"]))
        self._count(event, -lock["seats"], now)
        stamps = {"createdAt": now, "updatedAt": now}
        deadline = now + LOCK_TTL
        sold = {"_id": new["seatLockId"], "eventId": event["_id"], "userId": old["user"]}
        sold |= {"seats": lock["seats"], "status": "CONSUMED", "expiresAt": deadline}
        self.add_lock(sold | {"idempotencyKey": f"rebook-{booking_id}", **stamps})
        paid = ref if ref is not None else due and due["ref"]
        self._keep(due, self._seats_due(due, old, lock["seats"]), ref)
        old["rebookedAt"] = now
        self.operations["rebook"] += 1
        return Answer(self._new_sale(new, self.locks[sold["_id"]], deadline, paid, now))

    def _rebooked_before(
        self, now: datetime, old: Document, booking: Document, seats: int, ref: str | None
    ) -> Answer:
        """The same booking again; its payment may only be known now."""
        if ref is not None and booking.get("paymentRef") is None:
            due = self._due_of(old["_id"], ref)
            self._keep(due, self._seats_due(due, old, seats), ref)
            booking.update(paymentRef=ref, updatedAt=now)
            old["rebookedAt"] = now
            self.operations["rebook"] += 1
        return Answer(booking, changed=False)

    @staticmethod
    def _seats_due(due: Document | None, old: Document, seats: int) -> int:
        """Those of a refund that are for the seats that are sold after all."""
        if due is None:
            return seats
        earlier = old.get("seatsCancelled", 0) if due["cause"] == "CANCELLED" else 0
        return min(seats, max(0, due["seats"] - earlier))

    def record_sale(self, now: datetime, new: Document, lock_id: Id, ref: str | None) -> Answer:
        """That somebody paid for a sold lock: its booking counts, or gets made."""
        lock = self._known(self.locks, lock_id)
        found = next(iter(sorted(self._bookings_of(lock_id), key=lambda one: not is_live(one))), None)
        if found and found["status"] == "CONFIRMED":
            return Answer(found, changed=False)
        if lock["status"] == "ACTIVE":
            return self._sell(now, new, lock, ref)
        if lock["status"] != "CONSUMED":
            raise Refusal("wrong_state", str(lock_id))
        self._known(self.events, lock["eventId"])
        if found and found["status"] not in ("PAYMENT_PENDING", "INITIATED"):
            raise Refusal("wrong_state", "seatctl rebook")
        lock["updatedAt"] = now
        self.operations["confirm --sold"] += 1
        if found is None:
            return Answer(self._new_sale(new, lock, now, ref, now))
        self._settle_payment(now, found, lock, ref)
        return Answer(found)

    def _sell(self, now: datetime, new: Document, lock: Document, ref: str | None) -> Answer:
        """Confirmed and paid at once, or refused as either of them is."""
        self._check_no_block(lock)
        found = self._counting(self._bookings_of(lock["_id"]))
        if found and found["status"] != "PAYMENT_PENDING":
            raise Refusal("wrong_state", "recover")
        if (found["paymentExpiresAt"] if found else lock["expiresAt"]) <= now:
            raise Refusal("deadline_passed", "--overdue")
        if "cancelledAt" in self._known(self.events, lock["eventId"]):
            raise Refusal("closed", "cancelled")
        booking = found or super().confirm(now, new, lock["_id"], None).document
        self._settle_payment(now, booking, lock, ref)
        self.operations["confirm --sold"] += 1
        return Answer(booking)

    def _new_sale(
        self, new: Document, lock: Document, deadline: datetime, ref: str | None, now: datetime
    ) -> Document:
        booking = {
            "_id": new["_id"],
            "event": lock["eventId"],
            "user": lock.get("userId"),
            "seatLockId": lock["_id"],
            "status": "CONFIRMED",
            "paymentExpiresAt": deadline,
            "createdAt": now,
            "updatedAt": now,
        }
        if ref is not None:
            booking["paymentRef"] = ref
        self.bookings[booking["_id"]] = booking
        return booking

    # --- money -------------------------------------------------------------------------------------

    def settle_refund(self, which: int, done_ref: str | None) -> None:
        """It is paid back, or, without a reference, not owed."""
        refund, status = self.refunds[which], "WITHDRAWN" if done_ref is None else "DONE"
        if (refund["status"], refund["doneRef"]) == (status, done_ref):
            return
        if refund["status"] != "DUE":
            raise Refusal("wrong_state", "its refund")
        refund.update(status=status, doneRef=done_ref)
        self.operations["refund"] += 1

    def _seats_of(self, booking: Document, lock: Document | None) -> int:
        """Also of a booking whose lock is gone, if anything says so."""
        return self.recorded_seats.get(booking["_id"], 0) if lock is None else lock["seats"]

    def _refunds_of(self, booking_id: Id) -> list[Document]:
        return [one for one in self.refunds if one["booking"] == booking_id]

    def _due(self, booking: Document, cause: str, ref: str | None, seats: int, part: int = 0) -> None:
        refund = {"booking": booking["_id"], "cause": cause, "ref": ref, "part": part}
        self.refunds.append(refund | {"seats": seats, "status": "DUE", "doneRef": None})

    def _owe(self, booking: Document, seats: int) -> None:
        """With the refund that is due, or as a further part."""
        ref = booking.get("paymentRef")
        parts = [
            one
            for one in self._refunds_of(booking["_id"])
            if (one["cause"], one["ref"]) == ("CANCELLED", ref)
        ]
        due = next((one for one in parts if one["status"] == "DUE"), None)
        if due is not None:
            due["seats"] += seats
        else:
            self._due(booking, "CANCELLED", ref, seats, len(parts))

    def _withdraw_late(self, booking_id: Id, ref: str | None, seats: int) -> str | None:
        """The late payment of this reference, or, without one, the only one, counts for so many seats after
        all; returns its reference."""
        due = self._due_of(booking_id, ref, "LATE_PAYMENT")
        self._keep(due, seats, ref)
        return ref if due is None else due["ref"]

    def _due_of(self, booking_id: Id, ref: str | None, cause: str | None = None) -> Document | None:
        """What is due of this payment, or, without one, the only one."""
        refunds = [one for one in self._refunds_of(booking_id) if cause in (None, one["cause"])]
        found = self._of_payment(booking_id, refunds, ref)
        due = [one for one in found if one["status"] == "DUE"]
        if len(due) > 1 or (not due and any(one["status"] == "DONE" for one in found)):
            raise Refusal("wrong_state", str(booking_id))
        return due[0] if due else None

    @staticmethod
    def _keep(due: Document | None, seats: int, ref: str | None) -> None:
        """Seats that are sold after all are not due; others of the same refund stay so."""
        if due is None:
            return
        due["ref"] = due["ref"] if ref is None else ref
        if due["seats"] > seats:
            due["seats"] -= seats
        else:
            due["status"] = "WITHDRAWN"

    # --- looking -----------------------------------------------------------------------------------

    def _rebooked(self, booking: Document) -> Document | None:
        return self._lock_by_key(booking["event"], booking["user"], f"rebook-{booking['_id']}")

    @staticmethod
    def _counting(bookings: Iterable[Document]) -> Document | None:
        """Of several a live one; none that another program only initiated."""
        counting = [one for one in bookings if one["status"] != "INITIATED"]
        return next(filter(is_live, counting), counting[0] if counting else None)
