"""A second opinion: what every command and job must answer and leave behind, in plain Python.

Written from the promises and not from the program, with the standard library alone, so that the two
can only agree by being right. A document is a dict as the database would store it; ids are opaque.
A command returns an `Answer` or raises `Refusal`; either way the ledger is then as the database
must be. What the program chooses of a new document, its id and a lock's generated key, arrives as
`new`.

It knows documents that can be read, in any state. What must not happen where one cannot is for
`safety.py` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from oracle import ENDED, LIVE, Broken, Document, Id, broken, held_seats

ENDED_BOOKING = ("FAILED", "EXPIRED", "CANCELLED")
PAYMENT_TTL = timedelta(minutes=15)
NEVER = datetime(9999, 12, 31, tzinfo=UTC)


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


class Doubt(Enum):
    """Why seats of an event must not be returned to sale (invariant 11)."""

    DATABASE = auto()
    NO_EVENT = auto()
    OVERBOOKED = auto()
    TOO_HIGH = auto()
    MISSING_LOCK = auto()


NO_COUNTER_WENT_DOWN = (Doubt.NO_EVENT, Doubt.OVERBOOKED, Doubt.TOO_HIGH)
"""Recovery ends what belongs there without returning seats."""


@dataclass(frozen=True)
class Claim:
    """Something to end: a lock, a booking, or a booking with the lock that holds its seats."""

    lock: Document | None
    booking: Document | None = None


@dataclass
class Tally:
    """What a job did."""

    locks: int = 0
    bookings: int = 0
    seats: int = 0
    repairs: int = 0
    skipped: int = 0
    """Items that no program may end."""
    told: int = 0
    """Bookings that ended although their lock is missing, which a person should hear of."""
    unresolved: int = 0
    """Violations that only a person may decide on."""
    corrected: set[Id] = field(default_factory=set)
    """Events whose counter was set right."""

    @property
    def status(self) -> str:
        return "FAILED" if self.skipped or self.told or self.unresolved else "SUCCESS"


class Ledger:
    """The whole database as it must be."""

    def __init__(self) -> None:
        self.events: dict[Id, Document] = {}
        self.locks: dict[Id, Document] = {}
        self.bookings: dict[Id, Document] = {}
        self.runs: list[Document] = []
        self.new_blocks: dict[Id, Id] = {}
        """By event, the id of the block that it got last, if it is closed."""
        self.ever_locked = False
        """Whether there is a collection of locks."""

    # --- commands --------------------------------------------------------------------------------

    def create_event(self, now: datetime, new: Document, name: str, seats: int, date: datetime) -> Answer:
        event = {
            "_id": new["_id"],
            "name": name,
            "eventDate": date,
            "totalSeats": seats,
            "availableSeats": seats,
            "createdAt": now,
            "updatedAt": now,
        }
        self.events[event["_id"]] = event
        return Answer(event)

    def lock(
        self,
        now: datetime,
        new: Document,
        event_id: Id,
        user: Id,
        seats: int,
        key: str | None,
        ttl: timedelta,
    ) -> Answer:
        """A key stands for one request by one user on one event. Whoever finds too few seats gets what
        is overdue there returned first (invariant 6)."""
        self.ever_locked |= key is not None  # a key is unique only within a collection that exists
        if key is not None and (earlier := self._lock_by_key(event_id, user, key)):
            returned = sum(one.get("seatsCancelled", 0) for one in self._bookings_of(earlier["_id"]))
            if seats != earlier["seats"] + returned:
                raise Refusal("key_reused", str(earlier["_id"]))
            return Answer(earlier, changed=False)
        event = self._known(self.events, event_id)
        if is_closed(event):
            raise Refusal("closed", str(event_id))
        if not self._has(event, seats):
            self._return_overdue(now, event_id)
        self._check_has(event, seats)
        self._count(event, -seats, now)
        document = {
            "_id": new["_id"],
            "eventId": event_id,
            "userId": user,
            "seats": seats,
            "status": "ACTIVE",
            "expiresAt": now + ttl,
            "idempotencyKey": key if key is not None else new["idempotencyKey"],
            "createdAt": now,
            "updatedAt": now,
        }
        self.add_lock(document)
        return Answer(document, available=event["availableSeats"])

    def confirm(self, now: datetime, new: Document, lock_id: Id, ttl: timedelta | None) -> Answer:
        """The lock lives on until its booking's deadline, by default never shorter than it would have. On
        the very instant of a deadline it is too late to act, and too early to expire."""
        lock = self._known(self.locks, lock_id)
        if booking := self._booking_of(lock_id):
            if booking["status"] not in LIVE:
                raise Refusal("wrong_state", booking["status"])
            if booking["status"] == "PAYMENT_PENDING" and booking["paymentExpiresAt"] <= now:
                raise Refusal("deadline_passed", str(booking["_id"]))
            return Answer(booking, changed=False)
        self._check_no_block(lock)
        if lock["status"] != "ACTIVE":
            raise Refusal("wrong_state", lock["status"])
        if lock["expiresAt"] <= now:
            raise Refusal("deadline_passed", str(lock_id))
        if "cancelledAt" in self._known(self.events, lock["eventId"]):
            raise Refusal("closed", "cancelled")
        deadline = max(now + PAYMENT_TTL, lock["expiresAt"]) if ttl is None else now + ttl
        booking = {
            "_id": new["_id"],
            "event": lock["eventId"],
            "user": lock["userId"],
            "seatLockId": lock_id,
            "status": "PAYMENT_PENDING",
            "paymentExpiresAt": deadline,
            "createdAt": now,
            "updatedAt": now,
        }
        self.bookings[booking["_id"]] = booking
        lock.update(expiresAt=deadline, updatedAt=now)
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
        if lock and lock["status"] == "ACTIVE":
            if self._live_bookings_of(lock["_id"]) == [booking]:
                self._return_by_command(lock, now)
            else:
                lock["updatedAt"] = now
        booking.update(status="FAILED", updatedAt=now)
        return Answer(booking)

    def release(self, now: datetime, lock_id: Id) -> Answer:
        lock = self._known(self.locks, lock_id)
        self._check_no_block(lock)
        if lock["status"] != "ACTIVE":
            raise Refusal("wrong_state", lock["status"])
        if any(booking["status"] != "INITIATED" for booking in self._bookings_of(lock_id)):
            raise Refusal("wrong_state", str(lock_id))
        self._return_by_command(lock, now)
        return Answer(lock)

    # --- commands on events ------------------------------------------------------------------------

    def resize(self, now: datetime, event_id: Id, seats: int) -> Answer:
        """To so many seats, never to fewer than are held; what is overdue goes first. A counter that is too
        low or too high stays so by no more than it was, and never becomes higher than what the locks say."""
        event = self._known(self.events, event_id)
        self.ever_locked = True
        try:
            return self._resize(now, event, seats)
        except Refusal as refusal:
            if refusal.code != "seats_held":
                raise
        self._return_overdue(now, event_id)
        return self._resize(now, event, seats)

    def _resize(self, now: datetime, event: Document, seats: int) -> Answer:
        off_sale = sum(block["seats"] for block in self._blocks_of(event["_id"])) if is_closed(event) else 0
        held = self.held(event["_id"]) - off_sale
        if seats < held:
            raise Refusal("seats_held", f"the smallest capacity is {held}")
        free = min(event["availableSeats"] + off_sale + seats - event["totalSeats"], seats - held)
        if free < 0:
            raise Refusal("damaged_document", "recover")
        if seats == event["totalSeats"]:
            return Answer(event, changed=False)
        doubt = self._doubt_of(event["_id"])
        if seats > event["totalSeats"] and doubt not in (None, Doubt.OVERBOOKED, Doubt.TOO_HIGH):
            raise Refusal("damaged_document", str(event["_id"]))
        if is_closed(event):
            self._set_block(event["_id"], free, now)
            free = 0
        event.update(totalSeats=seats, availableSeats=free, updatedAt=now)
        return Answer(event)

    def block(self, now: datetime, new: Document, event_id: Id, seats: int) -> Answer:
        event = self._known(self.events, event_id)
        if is_closed(event):
            raise Refusal("closed", str(event_id))
        if not self._has(event, seats):
            self._return_overdue(now, event_id)
        self._check_has(event, seats)
        self._count(event, -seats, now)
        self.add_lock(block_of(event_id, seats, new["_id"], new["idempotencyKey"], now))
        return Answer(self.locks[new["_id"]], available=event["availableSeats"])

    def unblock(self, now: datetime, lock_id: Id) -> Answer:
        """Of a closed event only with it; what a house block of one holds stays off sale."""
        lock = self._known(self.locks, lock_id)
        if lock.get("kind") != "BLOCK":
            raise Refusal("wrong_state", "release")
        if lock["status"] != "ACTIVE":
            return Answer(lock, changed=False)
        if lock["idempotencyKey"].startswith("closed-"):
            raise Refusal("wrong_state", "reopen")
        self._check_no_booking(lock)
        event = self.events.get(lock["eventId"])
        if event is not None and is_closed(event):
            event["updatedAt"] = now
            self._add_to_block(lock["eventId"], lock["seats"], now)
            end_by_command(lock, "EXPIRED", now)
        else:
            self._return_by_command(lock, now)
        return Answer(lock)

    def close(self, now: datetime, event_id: Id) -> Answer:
        event = self._known(self.events, event_id)
        if is_closed(event) and event["availableSeats"] <= 0:
            return Answer(event, changed=False)
        self._take_off_sale(event, now)
        return Answer(event)

    def reopen(self, now: datetime, event_id: Id) -> Answer:
        event = self._known(self.events, event_id)
        if "cancelledAt" in event:
            raise Refusal("closed", "cancelled")
        if "closedAt" not in event:
            return Answer(event, changed=False)
        seats = sum(block["seats"] for block in self._blocks_of(event_id))
        if seats and self._doubt_of(event_id):
            raise Refusal("damaged_document", str(event_id))
        for block in self._blocks_of(event_id):
            self._check_no_booking(block)
        self._set_block(event_id, 0, now)
        del event["closedAt"]
        self._count(event, seats, now)
        return Answer(event)

    def cancel_event(self, now: datetime, event_id: Id) -> Tally:
        """Everything ends, and nothing of it is for sale at any moment. What may be paid, or belongs to
        another event too, is left to a person."""
        event, done = self._known(self.events, event_id), Tally()
        if "cancelledAt" not in event:
            self._take_off_sale(event, now)
            event["cancelledAt"] = now
        while True:
            before = done.bookings, done.locks
            done.skipped = 0
            for status in ("PAYMENT_PENDING", "CONFIRMED"):
                self._cancel_bookings(event_id, status, now, done)
            self._cancel_locks(event_id, now, done)
            if before == (done.bookings, done.locks):
                break
        for lock in self.locks.values():
            sold = lock["eventId"] == event_id and lock["status"] == "CONSUMED"
            done.skipped += sold and not self._live_bookings_of(lock["_id"])
        if event["availableSeats"] > 0:
            self._take_off_sale(event, now)
        return done

    def _cancel_bookings(self, event_id: Id, status: str, now: datetime, done: Tally) -> None:
        batch = [one for one in self.bookings.values() if (one["event"], one["status"]) == (event_id, status)]
        ending, ended = {}, []
        for booking in batch:
            lock = self.locks.get(booking["seatLockId"])
            live = self._live_bookings_of(booking["seatLockId"])
            others = [one for one in live if one not in batch]
            astray = (lock and lock["eventId"] != event_id) or any(one["event"] != event_id for one in others)
            is_paid = any(one["status"] == "CONFIRMED" for one in live)
            unsure = lock and lock["status"] == "CONSUMED" and not is_paid
            if astray or unsure:
                done.skipped += 1
                continue
            ended.append(booking)
            if lock and lock["status"] not in ENDED and not others:
                ending[lock["_id"]] = lock
        for booking in ended:
            booking.update(status="CANCELLED", updatedAt=now)
            done.bookings += 1
            done.repairs += status == "CONFIRMED"  # the refunds
        self._end_with_event(event_id, list(ending.values()), bool(ended), now, done)

    def _cancel_locks(self, event_id: Id, now: datetime, done: Tally) -> None:
        blocks, ending = self._blocks_of(event_id), []
        for lock in self.locks.values():
            if (lock["eventId"], lock["status"]) != (event_id, "ACTIVE") or lock in blocks:
                continue
            keeping = self._live_bookings_of(lock["_id"])
            if not keeping:
                ending.append(lock)
            elif any(one["event"] != event_id for one in keeping):
                done.skipped += 1
        self._end_with_event(event_id, ending, bool(ending), now, done)

    def _end_with_event(
        self, event_id: Id, locks: list[Document], any_ended: bool, now: datetime, done: Tally
    ) -> None:
        self._add_to_block(event_id, sum(lock["seats"] for lock in locks), now)
        for lock in locks:
            end_by_command(lock, "EXPIRED" if lock["status"] == "ACTIVE" else "CANCELLED", now)
            done.locks += 1
        if any_ended:
            self.events[event_id]["updatedAt"] = now

    # --- what is off sale ----------------------------------------------------------------------------

    def _return_overdue(self, now: datetime, event_id: Id) -> None:
        self.sweep_bookings(now, now, Tally(), event_id)
        self.sweep_locks(now, now, Tally(), event_id)

    @staticmethod
    def _check_no_block(lock: Document) -> None:
        if lock.get("kind") == "BLOCK" and lock["status"] == "ACTIVE":
            raise Refusal("wrong_state", "returns its seats")

    def _check_no_booking(self, lock: Document) -> None:
        """As a program may make one for a block."""
        if live := self._live_bookings_of(lock["_id"]):
            raise Refusal("wrong_state", str(live[0]["_id"]) if len(live) == 1 else "")

    def _check_has(self, event: Document, seats: int) -> None:
        if self._has(event, seats):
            return
        left = event["availableSeats"]
        if not 0 <= left <= event["totalSeats"]:
            raise Refusal("damaged_document", "recover")
        raise Refusal("sold_out", f"{left} seat{'' if left == 1 else 's'} left, {seats} requested")

    def _blocks_of(self, event_id: Id) -> list[Document]:
        """The blocks of a closed event."""
        return [
            lock
            for lock in self.locks.values()
            if (lock["eventId"], lock["status"], lock.get("kind")) == (event_id, "ACTIVE", "BLOCK")
            if lock["idempotencyKey"].startswith("closed-")
        ]

    def _take_off_sale(self, event: Document, now: datetime) -> int:
        """What the locks leave over; what a counter has beyond that is nobody's."""
        available = event["availableSeats"]
        seats = max(0, min(available, event["totalSeats"] - self.held(event["_id"])))
        event.update(closedAt=event.get("closedAt", now), availableSeats=min(available, 0), updatedAt=now)
        self._add_to_block(event["_id"], seats, now)
        return seats

    def _add_to_block(self, event_id: Id, seats: int, now: datetime) -> None:
        if seats:
            self._set_block(event_id, sum(one["seats"] for one in self._blocks_of(event_id)) + seats, now)

    def _set_block(self, event_id: Id, seats: int, now: datetime) -> None:
        blocks = self._blocks_of(event_id)
        if not blocks and seats:
            new = self.new_blocks[event_id]
            self.add_lock(block_of(event_id, seats, new, f"closed-{new}", now))
        for number, block in enumerate(blocks):
            if number == 0 and seats:
                if block["seats"] != seats:
                    block.update(seats=seats, updatedAt=now)
            else:
                end_by_command(block, "EXPIRED", now)

    def _block_what_came_back(self, now: datetime) -> None:
        for event in self.events.values():
            if "closedAt" in event and event["availableSeats"] > 0:
                self._take_off_sale(event, now)

    # --- jobs ------------------------------------------------------------------------------------

    def expire_locks(self, now: datetime, at: datetime) -> Tally:
        done = Tally()
        self.sweep_locks(now, at, done)
        self._block_what_came_back(now)
        return self._log("LOCK_EXPIRY", now, done)

    def expire_bookings(self, now: datetime, at: datetime) -> Tally:
        done = Tally()
        self.sweep_bookings(now, at, done)
        self._block_what_came_back(now)
        return self._log("BOOKING_EXPIRY", now, done)

    def sweep_locks(
        self,
        now: datetime,
        at: datetime,
        done: Tally,
        event_id: Id | None = None,
        *,
        recovering: bool = False,
    ) -> None:
        """Overdue at `at`, and kept by no live booking (invariant 4); of one event only, if given."""
        claims = [
            Claim(lock)
            for lock in self.locks.values()
            if lock["status"] == "ACTIVE" and lock["expiresAt"] < at and event_id in (None, lock["eventId"])
            if not self._live_bookings_of(lock["_id"])
        ]
        self._end_overdue(claims, now, done, recovering=recovering)

    def sweep_bookings(
        self,
        now: datetime,
        at: datetime,
        done: Tally,
        event_id: Id | None = None,
        *,
        recovering: bool = False,
    ) -> None:
        """Overdue at `at`. A lock that holds nothing returns nothing, and one that another booking keeps
        stays. A CONSUMED one may have been paid for: no program may free it."""
        claims, shared = [], {}
        for booking in self.bookings.values():
            if booking["status"] != "PAYMENT_PENDING" or booking["paymentExpiresAt"] >= at:
                continue
            if event_id not in (None, booking["event"]):
                continue
            lock = self.locks.get(booking["seatLockId"])
            if lock and lock["status"] == "CONSUMED":
                done.skipped += 1
                continue
            done.told += lock is None
            active = lock is not None and lock["status"] == "ACTIVE"
            alone = active and self._live_bookings_of(lock["_id"]) == [booking]
            if active and not alone:
                shared[lock["_id"]] = Claim(lock)
            claims.append(Claim(lock if alone else None, booking))
        # Whoever ends an overdue booking sees that its lock is missing: it needs no doubt.
        self._end_overdue(claims, now, done, passed_over=at, recovering=recovering)
        # A lock that several bookings named ends with the last of them.
        left = [claim for lock_id, claim in shared.items() if not self._live_bookings_of(lock_id)]
        self._end_overdue(left, now, done, recovering=recovering)

    def _end_overdue(
        self,
        claims: list[Claim],
        now: datetime,
        done: Tally,
        passed_over: datetime | None = None,
        *,
        recovering: bool,
    ) -> None:
        """End what is overdue and return its seats, where the event has clearance."""
        events = {claim.lock["eventId"] for claim in claims if claim.lock}
        doubts = {event_id: self._doubt_of(event_id, passed_over) for event_id in events}
        for event_id in events if recovering else ():
            if doubts[event_id] is Doubt.TOO_HIGH:
                # Lowered first, it takes the seats; unless there is another doubt.
                self._correct(self.events[event_id], now, done)
                doubts[event_id] = self._doubt_of(event_id, passed_over)
        for claim in claims:
            doubt = doubts[claim.lock["eventId"]] if claim.lock else None
            if claim.lock is None or doubt is None:
                self._close(claim, now, done, returned=claim.lock is not None)
            elif recovering and doubt in NO_COUNTER_WENT_DOWN:
                self._close(claim, now, done, returned=False)
            else:
                done.skipped += 1

    def recover(self, now: datetime) -> Tally:
        """First the sweeps, then pairs that disagree (those that need seats again after those that return
        some), then the counters."""
        done = Tally()
        for sweep in (self.sweep_bookings, self.sweep_locks):
            sweep(now, now, done, recovering=True)
        repairs = [*self._disagreeing(now, done)]
        on_sale = [one for one in self.events.values() if "closedAt" in one and one["availableSeats"] > 0]
        for needs_seats in (False, True):
            for needs, repair in repairs:
                if needs is needs_seats:
                    repair()
            for event in on_sale if not needs_seats else ():
                done.repairs += self._take_off_sale(event, now) > 0
        for event in self.events.values():
            self._correct(event, now, done)
        self._block_what_came_back(now)
        done.unresolved += len(self.violations())
        return self._log("RECOVERY", now, done)

    def _disagreeing(self, now: datetime, done: Tally) -> Iterable[tuple[bool, Callable[[], None]]]:
        """What a program may repair of locks and bookings, event by event, and whether it needs seats."""
        for event_id in sorted({*self.events, *self._named_events()}):
            for lock in self.locks.values():
                if (lock["eventId"], lock["status"]) == (event_id, "ACTIVE"):
                    for repair in self._repairs_of(lock, now, done):
                        yield False, repair
            for booking in self.bookings.values():
                if booking["event"] == event_id:
                    yield from self._repairs_without_seats(booking, now, done)

    def _repairs_of(self, lock: Document, now: datetime, done: Tally) -> Iterable[Callable[[], None]]:
        """Of an ACTIVE lock."""
        if lock["eventId"] not in self.events:
            yield lambda: self._end_orphan(lock, now, done)
            return
        for booking in self._bookings_of(lock["_id"]):
            if booking["status"] == "CONFIRMED":
                yield lambda: self._settle(lock, now, done)
            elif booking["status"] in ENDED_BOOKING:
                yield lambda: self._end_lock(lock, now, done)

    def _repairs_without_seats(
        self, booking: Document, now: datetime, done: Tally
    ) -> Iterable[tuple[bool, Callable[[], None]]]:
        """Of a live booking whose lock holds nothing any more, or that has no event."""
        lock = self.locks.get(booking["seatLockId"])
        ended = lock is not None and lock["status"] in ENDED
        if booking["status"] == "PAYMENT_PENDING" and (ended or booking["event"] not in self.events):
            yield False, lambda: self._end_booking(booking, lock, now, done)
        elif booking["status"] == "CONFIRMED" and booking["event"] in self.events and lock and ended:
            yield True, lambda: self._take_again(lock, now, done)

    def _settle(self, lock: Document, now: datetime, done: Tally) -> None:
        if lock["status"] == "ACTIVE":
            lock.update(status="CONSUMED", oldStatus="ACTIVE", updatedAt=now)
            done.repairs += 1

    def _end_lock(self, lock: Document, now: datetime, done: Tally) -> None:
        """An ended booking's, unless another booking keeps it."""
        if lock["status"] != "ACTIVE" or self._live_bookings_of(lock["_id"]):
            return
        doubt = self._doubt_of(lock["eventId"])
        if doubt is None or doubt in NO_COUNTER_WENT_DOWN:
            self._close(Claim(lock), now, done, returned=doubt is None)

    def _end_booking(self, booking: Document, lock: Document | None, now: datetime, done: Tally) -> None:
        if booking["status"] != "PAYMENT_PENDING":
            return
        if self._doubt_of(booking["event"]) in (Doubt.DATABASE, Doubt.MISSING_LOCK):
            return  # before its deadline no booking ends there
        self._close(Claim(None, booking), now, done, returned=False)
        if lock is not None:
            self._end_lock(lock, now, done)

    def _end_orphan(self, lock: Document, now: datetime, done: Tally) -> None:
        """Of an event that does not exist: what waits ends; what is paid for, a person must look at."""
        waiting = self._live_bookings_of(lock["_id"])
        if lock["status"] == "ACTIVE" and all(one["status"] == "PAYMENT_PENDING" for one in waiting):
            for booking in waiting:
                self._close(Claim(None, booking), now, done, returned=False)
            self._close(Claim(lock), now, done, returned=False)

    def _take_again(self, lock: Document, now: datetime, done: Tally) -> None:
        """A paid booking gets its seats back if the event still has them: by its locks, not by a counter
        that may be wrong, which never goes up for this."""
        event = self.events.get(lock["eventId"])
        if event is None or lock["status"] not in ENDED:
            return
        blocked = sum(one["seats"] for one in self._blocks_of(event["_id"])) if is_closed(event) else 0
        left = event["totalSeats"] - self.held(event["_id"]) - lock["seats"]
        if left + blocked < 0:
            return
        event.update(availableSeats=min(event["availableSeats"], max(0, left)), updatedAt=now)
        if left < 0:
            self._set_block(event["_id"], blocked + left, now)
        lock.update(status="CONSUMED", oldStatus=lock["status"], updatedAt=now)
        for booking in self._bookings_of(lock["_id"]):
            if booking["status"] == "CONFIRMED":
                booking["updatedAt"] = now
        done.repairs += 1

    def _correct(self, event: Document, now: datetime, done: Tally) -> None:
        """Set a counter to what invariant 1 says. Where more seats are held than there are, none is for sale,
        and a person must decide; so it is with a counter that may be too low for a good reason."""
        expected = event["totalSeats"] - self.held(event["_id"])
        if expected < 0 < event["availableSeats"]:
            event.update(availableSeats=0, updatedAt=now)
        if expected < 0 or event["availableSeats"] == expected:
            return
        lost = any(lock["eventId"] == event["_id"] for lock in self._lost_locks())
        if event["availableSeats"] < expected and (lost or self._doubt_of(event["_id"])):
            return
        event.update(availableSeats=expected, updatedAt=now)
        done.corrected.add(event["_id"])
        done.repairs += 1

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
        return held_seats(self.locks.values())[event_id]

    def _doubt_of(self, event_id: Id, passed_over: datetime | None = None) -> Doubt | None:
        """Why no seats may come back to this event, or None. Pending bookings that are overdue at
        `passed_over` cast no doubt."""
        if not self.ever_locked or (not self.locks and any(map(is_live, self.bookings.values()))):
            return Doubt.DATABASE
        event = self.events.get(event_id)
        if event is None:
            return Doubt.NO_EVENT
        for booking in self.bookings.values():
            if booking["event"] != event_id or not is_live(booking) or booking["seatLockId"] in self.locks:
                continue
            overdue = passed_over is not None and booking["paymentExpiresAt"] < passed_over
            if booking["status"] == "CONFIRMED" or not overdue:
                return Doubt.MISSING_LOCK
        # What the numbers say is asked last: it must be all that is wrong.
        if self.held(event_id) > event["totalSeats"]:
            return Doubt.OVERBOOKED
        if self.held(event_id) + event["availableSeats"] > event["totalSeats"]:
            return Doubt.TOO_HIGH
        return None

    def _close(self, claim: Claim, now: datetime, done: Tally, *, returned: bool) -> None:
        """By a job. Never clamp (invariant 2)."""
        if claim.booking is not None:
            claim.booking.update(status="EXPIRED", updatedAt=now)
            done.bookings += 1
        if claim.lock is not None:
            claim.lock.update(status="EXPIRED", oldStatus="ACTIVE", updatedAt=now)
            done.locks += 1
            if returned:
                self._count(self.events[claim.lock["eventId"]], claim.lock["seats"], now)
                done.seats += claim.lock["seats"]

    def _return_by_command(self, lock: Document, now: datetime) -> None:
        """Not to an event for whose lock no counter went down."""
        doubt = self._doubt_of(lock["eventId"])
        if doubt and doubt not in NO_COUNTER_WENT_DOWN:
            raise Refusal("damaged_document", str(lock["_id"]))
        end_by_command(lock, "EXPIRED", now)
        if doubt is None:
            self._count(self.events[lock["eventId"]], lock["seats"], now)

    @staticmethod
    def _has(event: Document, seats: int) -> bool:
        return seats <= event["availableSeats"] <= event["totalSeats"]

    @staticmethod
    def _count(event: Document, seats: int, now: datetime) -> None:
        event.update(availableSeats=event["availableSeats"] + seats, updatedAt=now)

    # --- looking ---------------------------------------------------------------------------------

    def add_lock(self, lock: Document) -> None:
        self.locks[lock["_id"]] = lock
        self.ever_locked = True

    @staticmethod
    def _known(documents: dict[Id, Document], wanted: Id) -> Document:
        if wanted not in documents:
            raise Refusal("not_found", str(wanted))
        return documents[wanted]

    def _bookings_of(self, lock_id: Id) -> list[Document]:
        return [one for one in self.bookings.values() if one["seatLockId"] == lock_id]

    def _live_bookings_of(self, lock_id: Id) -> list[Document]:
        return list(filter(is_live, self._bookings_of(lock_id)))

    def _lost_locks(self) -> list[Document]:
        """Paid for, and ended by another program: their seats are not free, though nothing holds them."""
        paid = [one["seatLockId"] for one in self.bookings.values() if one["status"] == "CONFIRMED"]
        return [lock for lock in self.locks.values() if lock["status"] in ENDED and lock["_id"] in paid]

    def _booking_of(self, lock_id: Id) -> Document | None:
        """Of several a live one."""
        bookings = self._bookings_of(lock_id)
        return next(filter(is_live, bookings), bookings[0] if bookings else None)

    def _lock_by_key(self, event_id: Id, user: Id, key: str) -> Document | None:
        wanted = (event_id, user, key)
        return next(
            (
                lock
                for lock in self.locks.values()
                if (lock["eventId"], lock.get("userId"), lock.get("idempotencyKey")) == wanted
            ),
            None,
        )

    def _named_events(self) -> Iterable[Id]:
        yield from (lock["eventId"] for lock in self.locks.values())
        yield from (booking["event"] for booking in self.bookings.values())

    def violations(self) -> list[Broken]:
        """Each broken invariant."""
        return broken(self.events.values(), self.locks.values(), self.bookings.values())


def is_closed(event: Document) -> bool:
    return "closedAt" in event or "cancelledAt" in event


def block_of(event_id: Id, seats: int, new: Id, key: str, now: datetime) -> Document:
    """Seats off sale, as a lock of nobody that never ends."""
    return {
        "_id": new,
        "eventId": event_id,
        "userId": "seatctl",
        "seats": seats,
        "status": "ACTIVE",
        "kind": "BLOCK",
        "expiresAt": NEVER,
        "idempotencyKey": key,
        "createdAt": now,
        "updatedAt": now,
    }


def end_by_command(lock: Document, status: str, now: datetime) -> None:
    """Its deadline ends with it: another program may look at that alone."""
    deadline = lock.get("expiresAt", now)
    if isinstance(deadline, datetime):
        lock["expiresAt"] = min(deadline, now)
    lock.update(status=status, updatedAt=now)


def is_live(booking: Document) -> bool:
    return booking["status"] in LIVE
