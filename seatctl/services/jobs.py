"""One run of a job: its time, its outcome, its entry in `jobLogs`, and how it is interrupted.

Every run is logged, also one that found nothing to do or failed. A first SIGINT or SIGTERM lets
the transaction in flight end; the run is then logged as FAILED with how far it came.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any

from seatctl.domain.model import Document, Id, JobStatus, JobType, whole
from seatctl.domain.timespec import format_time
from seatctl.errors import Interrupted, SeatctlError
from seatctl.mongo import target as config
from seatctl.mongo.client import explain

if TYPE_CHECKING:
    from seatctl.mongo.store import Store
    from seatctl.services.seats import GivenBack, SetAside

log = logging.getLogger(__name__)

LISTED = 100
"""Items named in one log entry; their number is always complete."""


class Stop:
    """A request to stop, kept until the job is between two transactions. Whoever asks twice does not
    want to wait: after the first signal, what handled signals before does so again."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self.request)

    def request(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.leave()

    def leave(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


@contextmanager
def _listening() -> Iterator[Stop]:
    stop = Stop()
    stop.listen()
    try:
        yield stop
    finally:
        stop.leave()


@dataclass(slots=True)
class Run:
    """What one run did so far."""

    job: JobType
    store: Store
    dry_run: bool = False
    locks: int = 0
    bookings: int = 0
    seats: int = 0
    repairs: int = 0
    """Documents that recovery changed beside what the sweeps gave back."""
    set_aside: dict[tuple[str, str], SetAside] = field(default_factory=dict)
    seats_by_event: Counter[Id] = field(default_factory=Counter)
    steps: list[Document] = field(default_factory=list)
    """What recovery found, and what was done about each."""
    unresolved: int = 0
    left: set[str] = field(default_factory=set)
    """Events whose counter recovery had to leave for the next run."""
    stop: Stop = field(default_factory=Stop)

    @property
    def processed(self) -> int:
        match self.job:
            case JobType.LOCK_EXPIRY:
                return self.locks
            case JobType.BOOKING_EXPIRY:
                return self.bookings
            case JobType.RECOVERY:
                return self.locks + self.bookings + self.repairs

    @property
    def interrupted(self) -> str:
        """How far a run came that was told to stop."""
        match self.job:
            case JobType.LOCK_EXPIRY:
                what = "lock"
            case JobType.BOOKING_EXPIRY:
                what = "booking"
            case JobType.RECOVERY:
                what = "record"
        return f"interrupted after {self.processed} {what}{'' if self.processed == 1 else 's'}"

    def record(self, batch: GivenBack) -> None:
        """Add a batch's outcome."""
        self.locks += batch.locks
        self.bookings += batch.bookings
        self.seats += batch.seats.total()
        self.seats_by_event.update(batch.seats)
        for item in batch.set_aside:
            self.set_aside[item.kind, str(item.id)] = item
            log.info("set aside %s", item)
        self._tell(batch)

    def _tell(self, batch: GivenBack) -> None:
        """The batch in the run's story, with each counter as it is now and as that makes it before."""
        if not log.isEnabledFor(logging.INFO):
            return
        would = "would be " if self.dry_run else ""
        log.info("%d locks and %d bookings %sexpired in this batch", batch.locks, batch.bookings, would)
        for event_id, event in self.store.events_by_id(batch.seats).items():
            back, available = batch.seats[event_id], whole(event.get("availableSeats"))
            if isinstance(available, int | float):
                # A dry run leaves the counter as it was before its first batch.
                planned = self.seats_by_event[event_id] if self.dry_run else 0
                before = available + planned - back
                log.info("event %s: %s → %s seats available (%+d)", event_id, before, before + back, back)

    def go_on(self) -> bool:
        """Whether nobody asked to stop."""
        return self.stop.signal is None

    def checkpoint(self) -> None:
        """Between two transactions: raise Interrupted if somebody asked to stop."""
        if self.stop.signal is not None:
            raise Interrupted(self.stop.signal, self.interrupted)

    def details(self, duration_ms: int) -> Document:
        """The entry's `details`: spec section 1, and what was set aside or found."""
        details: Document = {
            "recordsProcessed": self.processed,
            "seatsRestored": self.seats,
            "duration": duration_ms,
        }
        details["locksExpired"] = self.locks
        if self.job is not JobType.LOCK_EXPIRY:
            details["bookingsExpired"] = self.bookings
        if self.job is JobType.RECOVERY:
            details["resourcesRecovered"] = self.processed
            details["findings"] = self.steps[:LISTED]
            details["findingsCount"] = len(self.steps)
        if self.left:
            details["countersLeft"] = len(self.left)
        if self.set_aside:
            details["setAsideCount"] = len(self.set_aside)
            details["setAside"] = [
                {"kind": item.kind, "id": item.id, "reason": item.reason}
                for item in list(self.set_aside.values())[:LISTED]
            ]
        return details

    def complaint(self) -> str | None:
        """Why this run is not a success, or None."""
        parts = []
        if self.set_aside:
            items = list(self.set_aside.values())
            more = f" and {len(items) - 1} more" if len(items) > 1 else ""
            parts.append(f"set aside {items[0]}{more}")
        if self.unresolved:
            need = "finding needs" if self.unresolved == 1 else "findings need"
            parts.append(f"{self.unresolved} {need} a person to decide; `seatctl verify` lists them")
        if self.left:
            counters = "1 counter was" if len(self.left) == 1 else f"{len(self.left)} counters were"
            parts.append(
                f"{counters} left, because the event was changed within the last minute; "
                "run `seatctl recover` again in a minute"
            )
        return "; ".join(parts) or None


def run(
    store: Store, job: JobType, work: Callable[[Run], Any], *, dry_run: bool = False
) -> tuple[Document, Run]:
    """Do `work(run)` as one run of a job and log it; returns the entry and the run.

    The entry is FAILED when items were set aside, and also, re-raising the error, when `work`
    fails. A dry run logs nothing and returns what the entry would say.
    """
    current = Run(job, store, dry_run)
    started, clock = store.now(), time.monotonic()
    log.info("%s on database %s starts; the server's time is %s", job.value, store.name, format_time(started))
    with _listening() as current.stop:
        try:
            work(current)
        except BaseException as error:
            forced = Interrupted(current.stop.signal or signal.SIGINT, current.interrupted)
            reason = explain(error) if isinstance(error, Exception) else forced
            if not dry_run:
                _log_failure(store, current, started, clock, reason)
            raise
        entry = _entry(current, started, clock, current.complaint())
        log.info("%s ends: %s after %d ms", job.value, entry["status"], entry["details"]["duration"])
        if not dry_run:
            _log(current, entry)
    return entry, current


def _log(current: Run, entry: Document) -> None:
    """Store the entry of a run that is done. Where that fails, the error says that the work is done: who
    reads of a failure alone believes that nothing happened."""
    try:
        current.store.insert_run(entry)
    except Exception as error:
        reason = explain(error)
        told = f"{current.processed} records were processed and {current.seats} seats restored"
        raise type(reason)(f"{told}, but the run could not be logged: {reason}") from error


def _entry(current: Run, started: datetime, clock: float, error: str | None) -> Document:
    entry: Document = {
        "jobType": current.job.value,
        "executedAt": started,
        "status": (JobStatus.FAILED if error else JobStatus.SUCCESS).value,
        "details": current.details(round((time.monotonic() - clock) * 1000)),
        "host": socket.gethostname(),
    }
    if error:
        entry["error"] = config.scrub_seen(error)
    return entry


def _log_failure(store: Store, current: Run, started: datetime, clock: float, reason: SeatctlError) -> None:
    try:
        store.insert_run(_entry(current, started, clock, str(reason)))
    except Exception as error:  # noqa: BLE001 - the first failure is the one to report
        log.info("the run could not be logged: %s", explain(error))
