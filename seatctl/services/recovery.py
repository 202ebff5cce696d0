"""`recover`: after the sweeps, every violation that a program may repair, and then the counters.

Every repair looks again, within its transaction, and is a compare-and-set, so recovery may run beside
buyers and beside itself. What needs a person is reported and left alone.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from seatctl.domain.documents import Booking, BookingId, EventId, Kind, LockId, SeatLock
from seatctl.domain.states import BookingStatus, Fault, LockStatus
from seatctl.errors import Contention
from seatctl.mongo.store import Store
from seatctl.services.clearance import Cause, Doubt
from seatctl.services.counters import correct, drifts_of, stable_drifts
from seatctl.services.expiry import BATCH_PATIENCE
from seatctl.services.job_report import JobReport, Outcome, RepairStep
from seatctl.services.repairs import NOTHING, REPAIRS, Repair, Run
from seatctl.services.seats import NO_COUNTER
from seatctl.services.signals import Stop
from seatctl.services.sweeps import Decision, SkippedItem, SweepClearance
from seatctl.services.verify import doubt_of_counters, verify
from seatctl.services.violations import Violation

log = logging.getLogger(__name__)

OF_COUNTERS = frozenset({Fault.COUNTER_DRIFT, Fault.COUNTER_IN_DOUBT, Fault.OVERBOOKED})
SWEPT = frozenset(
    {
        Fault.SEATS_NOT_RETURNED,
        Fault.BOOKING_WITHOUT_SEATS,
        Fault.BOOKING_WITHOUT_LOCK,
        Fault.ORPHAN_LOCK,
        Fault.ORPHAN_BOOKING,
        Fault.OTHER_EVENT,
    }
)
"""What may be no violation any more once the sweeps are through: something overdue is part of it."""


class Recovery:
    """One run of recovery: where it works, and the report that it fills."""

    def __init__(self, store: Store, report: JobReport, stop: Stop, settle: timedelta) -> None:
        self._store = store
        self._report = report
        self._stop = stop
        self._settle = settle
        self.without_counter: set[EventId] = set()
        """Events of which the report says already that overdue items ended and no counter was raised."""

    def clearance(self, store: Store, overdue_before: datetime | None) -> SweepClearance:
        """Clearance for the sweeps of recovery, which may also end what no counter went down for."""
        return _RecoveryClearance(self, store, overdue_before, dry_run=self._report.dry_run)

    def repair_all(self) -> None:
        """Repair what `verify` finds, the counters last. A dry run only says what it would do."""
        found = [violation for violation in verify(self._store) if not self._is_swept(violation)]
        # Seats come back before anybody needs them again.
        found.sort(key=lambda violation: violation.fault is Fault.LOST_LOCK)
        for violation in found:
            self._stop.check(self._report.interrupted)
            if self._report.dry_run or violation.fault not in OF_COUNTERS:
                self._repair(violation)
        if not self._report.dry_run:
            self._correct_counters({violation.event for violation in found if violation.fault in OF_COUNTERS})

    def _is_swept(self, violation: Violation) -> bool:
        """Whether a sweep, of which a dry run only planned what it would do, deals with this."""
        if not self._report.dry_run or violation.fault not in SWEPT:
            return False
        booking = self._store.bookings.get(BookingId(violation.booking)) if violation.booking else None
        before = self._report.before
        if isinstance(booking, Booking) and booking.status is BookingStatus.PAYMENT_PENDING:
            deadline = booking.deadline
        else:
            lock = self._store.locks.get(LockId(violation.lock))
            if not isinstance(lock, SeatLock) or lock.status is not LockStatus.ACTIVE:
                return False
            deadline = lock.deadline
            before -= self._store.settings.grace
        return deadline < before

    def _repair(self, violation: Violation) -> None:
        repairer = REPAIRS.get(violation.fault)
        if self._report.dry_run or repairer is None or violation.accepted:
            outcome = Outcome.LEFT_ALONE if violation.accepted else Outcome.NEEDS_PERSON
            self.note(violation, Outcome.PLANNED if violation.is_for_recovery else outcome)
            return
        done = NOTHING
        try:
            for attempt in self._store.transaction_attempts(BATCH_PATIENCE):
                with attempt as tx:
                    done = repairer(tx, violation, Run(self._report.started, self._report.id))
        except Contention:
            self.note(violation, Outcome.LEFT_FOR_NEXT_RUN)
        else:
            self._record(violation, done)

    def _record(self, violation: Violation, done: Repair) -> None:
        self._report.locks += sum(one.lock is not None for one in done.ended)
        self._report.bookings += sum(one.booking is not None for one in done.ended)
        self._report.repairs += done.repairs
        if done.seats is not None:
            event_id, returned = done.seats
            self._report.seats += returned
            self._report.seats_by_event[event_id] += returned
        self._report.tell(done.ended)
        if done.words:
            self.note(violation, done.outcome, done.words)

    def note(self, violation: Violation, outcome: Outcome, words: str = "") -> None:
        log.info("%s: %s", violation.message, words or outcome.value)
        self._report.steps.append(RepairStep(violation, outcome, words))

    def _correct_counters(self, events: set[object]) -> None:
        """Lower what is too high at once; raise what is too low by a drift that lasts."""
        drifts = drifts_of(self._store, map(EventId, events))
        too_low = [drift for drift in drifts if drift.seats > 0]
        for drift in drifts:
            if drift.seats <= 0:
                self.correct_counter(drift.event, at_most=0)
        doubt = doubt_of_counters(self._store) if too_low else None
        for drift in stable_drifts(self._store, too_low, self._settle, self._stop.go_on):
            self._stop.check(self._report.interrupted)
            self.correct_counter(drift.event, drift.seats, doubt)

    def correct_counter(self, event_id: EventId, at_most: int, doubt: Doubt | None = None) -> bool:
        """Set one counter right, raising it by `at_most` seats; whether it is right now."""
        try:
            against = None if doubt is None else str(doubt)
            done = correct(self._store, event_id, self._report.started, at_most, against)
        except Contention as error:
            self._report.skip([SkippedItem(Kind.EVENT, event_id, str(error))])
            return False
        if done.violation is None:
            return True
        if done.corrected:
            self._report.repairs += 1
            self.note(done.violation, Outcome.REPAIRED, "corrected")
        else:
            self.note(done.violation, Outcome.NEEDS_PERSON)
        return done.corrected


class _RecoveryClearance(SweepClearance):
    """Where a counter is too high, it is lowered first, and then takes the seats. What belongs to an
    overbooked event, or to none, ends, and its seats go nowhere."""

    def __init__(
        self, recovery: Recovery, store: Store, overdue_before: datetime | None, *, dry_run: bool
    ) -> None:
        super().__init__(store, overdue_before)
        self._recovery = recovery
        self._dry_run = dry_run

    def on_doubt(self, event_id: EventId, doubt: Doubt) -> Decision:
        if doubt.cause not in NO_COUNTER:
            return super().on_doubt(event_id, doubt)
        if doubt.cause is Cause.TOO_HIGH:
            if self._dry_run:
                return Decision.RETURN_SEATS
            with self._one_at_a_time:
                self._recovery.correct_counter(event_id, at_most=0)
                self.forget([event_id])
                return Decision.SKIP if self.doubt(event_id) else Decision.RETURN_SEATS
        if event_id not in self._recovery.without_counter:
            self._recovery.without_counter.add(event_id)
            fault = Fault.ORPHAN_LOCK if doubt.cause is Cause.NO_EVENT else Fault.OVERBOOKED
            words = "overdue items expired, no counter raised"
            outcome = Outcome.PLANNED if self._dry_run else Outcome.REPAIRED
            self._recovery.note(Violation(fault, str(doubt), event_id), outcome, words)
        return Decision.END_WITHOUT_SEATS
