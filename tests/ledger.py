"""A second opinion: what every command and job must answer and leave behind, in plain Python.

Written from the promises and not from the program, with the standard library alone, so that the two
can only agree by being right. A document is a dict as the database would store it; ids are opaque.
A command returns an `Answer` or raises `Refusal`; either way the ledger is then as the database
must be. The id of a new document is the program's to choose, and arrives as `new`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

Document = dict[str, Any]
Id = Any

HOLDING = ("ACTIVE", "CONSUMED")
LIVE = ("PAYMENT_PENDING", "CONFIRMED")
A_MINUTE = timedelta(minutes=1)


class Refusal(Exception):
    """The command must be refused: the error's code, and a text that its message must contain."""

    def __init__(self, code: str, says: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.says = says


@dataclass(frozen=True)
class Answer:
    """What an accepted command says: the document, whether this call changed anything, and how many
    seats the event has left, where the command tells."""

    document: Document
    changed: bool = True
    available: int | None = None


@dataclass(frozen=True)
class Claim:
    """Something to end: a lock, a booking, or a booking with the lock that holds its seats."""

    lock: Any
    booking: Document | None = None


@dataclass
class Tally:
    """What a job did."""

    locks: int = 0
    bookings: int = 0
    seats: int = 0
    repairs: int = 0
    unresolved: int = 0
    """What only a person may decide."""
    refused: list[Claim] = field(default_factory=list)
    """What could not be given back, because the event's counter cannot take the seats."""
    perhaps_paid: int = 0
    """Bookings set aside because their lock is CONSUMED: no program may free it."""
    corrected: dict[Id, int] = field(default_factory=dict)
    """Counters set right, by event."""
    left: set[Id] = field(default_factory=set)
    """Events whose counter is wrong and had to be left for the next run."""

    @property
    def status(self) -> str:
        undone = self.refused or self.perhaps_paid or self.unresolved or self.left
        return "FAILED" if undone else "SUCCESS"

    def add(self, other: Tally) -> None:
        self.locks += other.locks
        self.bookings += other.bookings
        self.seats += other.seats
        self.refused += other.refused
        self.perhaps_paid += other.perhaps_paid


class Ledger:
    """The whole database as it must be. `atomic` says whether the deployment has transactions: without
    them recovery must leave the counters of events that somebody changed within the last minute."""

    def __init__(self, *, atomic: bool) -> None:
        self.atomic = atomic
        self.events: dict[Id, Document] = {}
        self.locks: dict[Id, Document] = {}
        self.bookings: dict[Id, Document] = {}
        self.runs: list[Document] = []

    # --- commands --------------------------------------------------------------------------------

    def create_event(self, now: datetime, new: Id, name: str, seats: int, date: datetime) -> Answer:
        event = {
            "_id": new,
            "name": name,
            "eventDate": date,
            "totalSeats": seats,
            "availableSeats": seats,
            "createdAt": now,
            "updatedAt": now,
        }
        self.events[new] = event
        return Answer(event, available=seats)

    def lock(
        self, now: datetime, new: Id, event_id: Id, user: Id, seats: int, key: str | None, ttl: timedelta
    ) -> Answer:
        """A key stands for one request by one user on one event. Whoever finds too few seats gets what
        is overdue there given back first (invariant 6)."""
        if key is not None and (earlier := self._lock_by_key(event_id, user, key)):
            if earlier["seats"] != seats:
                raise Refusal("key_reused", str(earlier["_id"]))
            return Answer(earlier, changed=False)
        event = self._known(self.events, event_id)
        if event["availableSeats"] > event["totalSeats"]:
            raise Refusal("damaged_document", "recover")
        if event["availableSeats"] < seats:
            self.sweep_bookings(now, now, event_id)
            self.sweep_locks(now, now, event_id)
        if event["availableSeats"] < seats:
            left = max(0, event["availableSeats"])
            raise Refusal("sold_out", f"has {left} seats left, {seats} asked")
        self._count(event, -seats, now)
        document = {
            "_id": new,
            "eventId": event_id,
            "userId": user,
            "seats": seats,
            "status": "ACTIVE",
            "expiresAt": now + ttl,
            "createdAt": now,
            "updatedAt": now,
        }
        if key is not None:
            document["idempotencyKey"] = key
        self.locks[new] = document
        return Answer(document, available=event["availableSeats"])

    def confirm(self, now: datetime, new: Id, lock_id: Id, ttl: timedelta) -> Answer:
        """The lock lives on until its booking's deadline. On the very instant of a deadline it is too
        late to act, and too early to expire."""
        lock = self._known(self.locks, lock_id)
        if booking := self.booking_of(lock_id):
            if booking["status"] in LIVE:
                return Answer(booking, changed=False)
            raise Refusal("wrong_state", booking["status"])
        if lock["status"] != "ACTIVE":
            raise Refusal("wrong_state", lock["status"])
        if lock["expiresAt"] <= now:
            raise Refusal("deadline_passed")
        booking = {
            "_id": new,
            "event": lock["eventId"],
            "user": lock["userId"],
            "seatLockId": lock_id,
            "status": "PAYMENT_PENDING",
            "paymentExpiresAt": now + ttl,
            "createdAt": now,
            "updatedAt": now,
        }
        self.bookings[new] = booking
        lock.update(expiresAt=now + ttl, updatedAt=now)
        return Answer(booking)

    def pay(self, now: datetime, booking_id: Id) -> Answer:
        """A payment that comes too late is due for refund (invariant 7). One that came twice is one, and
        finishes what was left half done."""
        booking = self._known(self.bookings, booking_id)
        lock = self.locks.get(booking["seatLockId"])
        if booking["status"] == "CONFIRMED":
            if lock and lock["status"] == "ACTIVE":
                lock.update(status="CONSUMED", updatedAt=now)
            return Answer(booking, changed=False)
        if booking["status"] != "PAYMENT_PENDING":
            raise Refusal("wrong_state", "refund")
        if booking["paymentExpiresAt"] <= now:
            raise Refusal("deadline_passed", "refund")
        if lock is None or lock["status"] != "ACTIVE":
            raise Refusal("wrong_state", "refund")
        booking.update(status="CONFIRMED", updatedAt=now)
        lock.update(status="CONSUMED", updatedAt=now)
        return Answer(booking)

    def fail(self, now: datetime, booking_id: Id) -> Answer:
        booking = self._known(self.bookings, booking_id)
        if booking["status"] == "FAILED":
            return Answer(booking, changed=False)
        if booking["status"] != "PAYMENT_PENDING":
            raise Refusal("wrong_state", booking["status"])
        lock = self.locks.get(booking["seatLockId"])
        if lock and lock["status"] == "CONSUMED":
            raise Refusal("wrong_state", "CONSUMED")
        others = [other for other in self.bookings.values() if other is not booking]
        kept = lock and any(o["seatLockId"] == lock["_id"] and o["status"] in LIVE for o in others)
        if lock and lock["status"] == "ACTIVE" and not kept:
            self._give_back_by_hand(lock, now)
        booking.update(status="FAILED", updatedAt=now)
        return Answer(booking)

    def release(self, now: datetime, lock_id: Id) -> Answer:
        lock = self._known(self.locks, lock_id)
        if lock["status"] != "ACTIVE":
            raise Refusal("wrong_state", lock["status"])
        if booking := self.booking_of(lock_id):
            raise Refusal("wrong_state", str(booking["_id"]))
        self._give_back_by_hand(lock, now)
        return Answer(lock)

    # --- jobs ------------------------------------------------------------------------------------

    def expire_locks(self, now: datetime, at: datetime) -> Tally:
        return self._log("LOCK_EXPIRY", now, self.sweep_locks(now, at))

    def expire_bookings(self, now: datetime, at: datetime) -> Tally:
        return self._log("BOOKING_EXPIRY", now, self.sweep_bookings(now, at))

    def sweep_locks(self, now: datetime, at: datetime, event_id: Id | None = None) -> Tally:
        """Overdue at `at`, and kept by no live booking (invariant 4); of one event only, if given."""
        claims = [
            Claim(lock)
            for lock in self.locks.values()
            if lock["status"] == "ACTIVE" and lock["expiresAt"] < at and event_id in (None, lock["eventId"])
            if not self._live_booking_of(lock["_id"])
        ]
        return self._give_back(claims, now)

    def sweep_bookings(self, now: datetime, at: datetime, event_id: Id | None = None) -> Tally:
        overdue = [
            Claim(self.locks.get(booking["seatLockId"]), booking)
            for booking in self.bookings.values()
            if booking["status"] == "PAYMENT_PENDING" and booking["paymentExpiresAt"] < at
            if event_id in (None, booking["event"])
        ]
        state = [claim.lock["status"] if claim.lock else "EXPIRED" for claim in overdue]
        done = self._give_back(
            [claim for claim, held in zip(overdue, state, strict=True) if held == "ACTIVE"], now
        )
        for claim, held in zip(overdue, state, strict=True):
            if held == "EXPIRED":
                self._close(Claim(None, claim.booking), now, done)
        done.perhaps_paid = state.count("CONSUMED")
        return done

    def recover(self, now: datetime) -> Tally:
        """First the sweeps, then pairs that disagree (in the order of their locks; those that need seats
        again after those that give some back), then the counters."""
        changing = set() if self.atomic else self._changed_within_a_minute(now)
        done = Tally()
        for sweep in (self.sweep_bookings, self.sweep_locks):
            done.add(sweep(now, now))
            # The counters come last, so here what no counter can take is expired all the same.
            for claim in done.refused:
                self._close(claim, now, done)
            done.refused.clear()
        pairs = sorted(self.bookings.values(), key=lambda booking: booking["seatLockId"])
        waiting = [booking for booking in pairs if self._lost_its_lock(booking)]
        for booking in pairs:
            if booking not in waiting:
                self._mend_pair(booking, now, changing, done)
        done.unresolved += sum(map(self._consumed_without_payment, self.locks.values()))
        done.unresolved += len(self._booked_elsewhere())
        self._end_orphans(now, done)
        for booking in waiting:
            self._mend_pair(booking, now, changing, done)
        for event in self.events.values():
            self._reconcile(event, now, changing, done)
        return self._log("RECOVERY", now, done)

    def _lost_its_lock(self, booking: Document) -> bool:
        lock = self.locks.get(booking["seatLockId"])
        return lock is not None and (booking["status"], lock["status"]) == ("CONFIRMED", "EXPIRED")

    def _mend_pair(self, booking: Document, now: datetime, changing: set[Id], done: Tally) -> None:
        lock = self.locks.get(booking["seatLockId"])
        if lock is None:
            if booking["status"] == "PAYMENT_PENDING":
                self._close(Claim(None, booking), now, done)
            done.unresolved += booking["status"] == "CONFIRMED"
            return
        match booking["status"], lock["status"]:
            case "CONFIRMED", "ACTIVE":
                lock.update(status="CONSUMED", oldStatus="ACTIVE", updatedAt=now)
                done.repairs += 1
            case "CONFIRMED", "EXPIRED":
                self._take_again(lock, now, changing, done)
            case (("FAILED" | "EXPIRED"), "ACTIVE"):
                returned = self._give_back([Claim(lock)], now)
                for claim in returned.refused:
                    self._close(claim, now, returned)
                returned.refused.clear()
                done.add(returned)
            case "PAYMENT_PENDING", "EXPIRED":
                self._close(Claim(None, booking), now, done)

    def _end_orphans(self, now: datetime, done: Tally) -> None:
        """Of an event that does not exist: what waits ends; what is paid for, a person must look at."""
        for lock in self._orphans(self.locks, "eventId"):
            if lock["status"] == "ACTIVE":
                self._close(Claim(lock), now, done)
                for booking in self.bookings.values():
                    if booking["seatLockId"] == lock["_id"] and booking["status"] == "PAYMENT_PENDING":
                        self._close(Claim(None, booking), now, done)
            done.unresolved += lock["status"] == "CONSUMED"
        for booking in self._orphans(self.bookings, "event"):
            if booking["status"] == "PAYMENT_PENDING":
                self._close(Claim(None, booking), now, done)
            done.unresolved += booking["status"] == "CONFIRMED"

    def _orphans(self, documents: dict[Id, Document], event: str) -> list[Document]:
        return [document for document in documents.values() if document[event] not in self.events]

    def _take_again(self, lock: Document, now: datetime, changing: set[Id], done: Tally) -> None:
        """A paid booking gets its seats back if the event still has them: the event, not only a counter
        that may be wrong."""
        event, seats = self.events.get(lock["eventId"]), lock["seats"]
        if event is None or seats > event["totalSeats"] - self.held(event["_id"]):
            done.unresolved += 1
            return
        if not seats <= event["availableSeats"] <= event["totalSeats"]:
            self._reconcile(event, now, changing, done)
        if not seats <= event["availableSeats"] <= event["totalSeats"]:
            done.unresolved += self._counter_is_in_doubt(
                event
            )  # else left for the next run, like its counter
            return
        self._count(event, -seats, now)
        lock.update(status="CONSUMED", oldStatus="EXPIRED", updatedAt=now)
        done.repairs += 1

    def _reconcile(self, event: Document, now: datetime, changing: set[Id], done: Tally) -> None:
        """Set a counter to what invariant 1 says. More seats held than there are is for a person."""
        expected = event["totalSeats"] - self.held(event["_id"])
        if expected < 0:
            done.unresolved += 1
        elif event["availableSeats"] == expected:
            return
        elif self._counter_is_in_doubt(event):
            done.unresolved += 1
        elif event["_id"] in changing:
            done.left.add(event["_id"])
        else:
            event.update(availableSeats=expected, updatedAt=now)
            done.corrected[event["_id"]] = expected
            done.repairs += 1

    def _counter_is_in_doubt(self, event: Document) -> bool:
        """Somebody deleted the lock of a paid booking: raising the counter could sell its seats again."""
        paid = [one for one in self.bookings.values() if one["status"] == "CONFIRMED"]
        lockless = any(one["event"] == event["_id"] and one["seatLockId"] not in self.locks for one in paid)
        return lockless and event["availableSeats"] < event["totalSeats"] - self.held(event["_id"])

    def _changed_within_a_minute(self, now: datetime) -> set[Id]:
        """Events that somebody touched, or one of their locks: a command that gives seats back stamps
        the lock first. What is stamped with this very moment may be the run's own doing."""
        long_ago = now - A_MINUTE
        recent = [lock for lock in self.locks.values() if long_ago < lock.get("updatedAt", long_ago) != now]
        touched = [event["_id"] for event in self.events.values() if event["updatedAt"] > now - A_MINUTE]
        return {*touched, *(lock["eventId"] for lock in recent)}

    def _log(self, job: str, now: datetime, done: Tally) -> Tally:
        processed = {
            "LOCK_EXPIRY": done.locks,
            "BOOKING_EXPIRY": done.bookings,
            "RECOVERY": done.locks + done.bookings + done.repairs,
        }[job]
        details = {"recordsProcessed": processed, "seatsRestored": done.seats, "locksExpired": done.locks}
        if job != "LOCK_EXPIRY":
            details["bookingsExpired"] = done.bookings
        if job == "RECOVERY":
            details["resourcesRecovered"] = processed
        self.runs.append({"jobType": job, "executedAt": now, "status": done.status, "details": details})
        return done

    # --- seats -----------------------------------------------------------------------------------

    def held(self, event_id: Id) -> int:
        return sum(
            lock["seats"]
            for lock in self.locks.values()
            if lock["eventId"] == event_id and lock["status"] in HOLDING
        )

    def _give_back(self, claims: list[Claim], now: datetime) -> Tally:
        """By a job: the claims on one event all, or, if its counter cannot take their seats, none.
        Never clamp (invariant 2)."""
        by_event = defaultdict(list)
        for claim in claims:
            by_event[claim.lock["eventId"]].append(claim)
        done = Tally()
        for event_id, claimed in by_event.items():
            seats = sum(claim.lock["seats"] for claim in claimed)
            if not self._fits(event_id, seats):
                done.refused += claimed
                continue
            for claim in claimed:
                self._close(claim, now, done)
            self._count(self.events[event_id], seats, now)
            done.seats += seats
        return done

    @staticmethod
    def _close(claim: Claim, now: datetime, done: Tally) -> None:
        if claim.booking is not None:
            claim.booking.update(status="EXPIRED", updatedAt=now)
            done.bookings += 1
        if claim.lock is not None:
            claim.lock.update(status="EXPIRED", oldStatus="ACTIVE", updatedAt=now)
            done.locks += 1

    def _give_back_by_hand(self, lock: Document, now: datetime) -> None:
        if not self._fits(lock["eventId"], lock["seats"]):
            raise Refusal("damaged_document", str(lock["eventId"]))
        lock.update(status="EXPIRED", updatedAt=now)
        self._count(self.events[lock["eventId"]], lock["seats"], now)

    def _fits(self, event_id: Id, seats: int) -> bool:
        event = self.events.get(event_id)
        return event is not None and event["availableSeats"] + seats <= event["totalSeats"]

    @staticmethod
    def _count(event: Document, seats: int, now: datetime) -> None:
        event.update(availableSeats=event["availableSeats"] + seats, updatedAt=now)

    # --- looking ---------------------------------------------------------------------------------

    @staticmethod
    def _known(documents: dict[Id, Document], wanted: Id) -> Document:
        if wanted not in documents:
            raise Refusal("not_found", str(wanted))
        return documents[wanted]

    def booking_of(self, lock_id: Id) -> Document | None:
        return next((one for one in self.bookings.values() if one["seatLockId"] == lock_id), None)

    def _live_booking_of(self, lock_id: Id) -> bool:
        return any(
            booking["seatLockId"] == lock_id and booking["status"] in LIVE
            for booking in self.bookings.values()
        )

    def _lock_by_key(self, event_id: Id, user: Id, key: str) -> Document | None:
        wanted = (event_id, user, key)
        return next(
            (
                lock
                for lock in self.locks.values()
                if (lock["eventId"], lock["userId"], lock.get("idempotencyKey")) == wanted
            ),
            None,
        )

    # --- the invariants --------------------------------------------------------------------------

    def violations(self) -> list[tuple[int, frozenset[Id]]]:
        """Each broken invariant, by its number, with the ids of the documents that disagree."""
        return [*self._wrong_counters(), *self._wrong_pairs(), *self._wrong_locks(), *self._wrong_orphans()]

    def _wrong_counters(self) -> list[tuple[int, frozenset[Id]]]:
        wrong = []
        for event_id, event in self.events.items():
            available, total = event["availableSeats"], event["totalSeats"]
            if available + self.held(event_id) != total:
                wrong.append((1, frozenset({event_id})))
            if not 0 <= available <= total:
                wrong.append((2, frozenset({event_id})))
        return wrong

    def _wrong_pairs(self) -> list[tuple[int, frozenset[Id]]]:
        demanded = {
            "PAYMENT_PENDING": (4, "ACTIVE"),
            "CONFIRMED": (5, "CONSUMED"),
            "FAILED": (5, "EXPIRED"),
            "EXPIRED": (5, "EXPIRED"),
        }
        wrong = []
        for booking in self.bookings.values():
            invariant, state = demanded[booking["status"]]
            lock = self.locks.get(booking["seatLockId"], {"status": "EXPIRED"})
            if lock["status"] != state:
                wrong.append((invariant, frozenset({booking["_id"], booking["seatLockId"]})))
        return wrong + [(5, frozenset({booking["_id"]})) for booking in self._booked_elsewhere()]

    def _booked_elsewhere(self) -> list[Document]:
        """Live bookings of another event than the one whose seats their lock holds."""
        return [
            booking
            for booking in self.bookings.values()
            if booking["status"] in LIVE and booking["event"] in self.events
            if (lock := self.locks.get(booking["seatLockId"])) and lock["status"] in HOLDING
            if lock["eventId"] in self.events and lock["eventId"] != booking["event"]
        ]

    def _wrong_locks(self) -> list[tuple[int, frozenset[Id]]]:
        wrong = [
            (5, frozenset({lock_id}))
            for lock_id, lock in self.locks.items()
            if self._consumed_without_payment(lock)
        ]
        bookings = Counter(booking["seatLockId"] for booking in self.bookings.values())
        return wrong + [(5, frozenset({lock_id})) for lock_id, number in bookings.items() if number > 1]

    def _wrong_orphans(self) -> list[tuple[int, frozenset[Id]]]:
        """Seats that no event has cannot add up either."""
        locks = [one for one in self._orphans(self.locks, "eventId") if one["status"] in HOLDING]
        bookings = [one for one in self._orphans(self.bookings, "event") if one["status"] in LIVE]
        return [(1, frozenset({one["_id"]})) for one in locks + bookings]

    def _consumed_without_payment(self, lock: Document) -> bool:
        paid = [
            booking
            for booking in self.bookings.values()
            if booking["seatLockId"] == lock["_id"] and booking["status"] == "CONFIRMED"
        ]
        return lock["status"] == "CONSUMED" and len(paid) != 1
