"""Transactions and snapshots: one attempt after the other until one succeeds, or patience ends.

Knows nothing of seats. Everything that seatctl changes in several documents is changed here or not at all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import pymongo
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from seatctl.errors import CachePressure, Contention, CursorLost, OutcomeUnknown, StaleRead, Unreachable
from seatctl.mongo import failures
from seatctl.mongo.abandoned import Abandoned
from seatctl.mongo.document import Document
from seatctl.mongo.failures import code_of

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

TIME_LIMIT = 40.0
"""Seconds within which a statement is answered, and a transaction committed, in all its attempts: a command
ends within about a minute, whatever the server does."""
STATEMENTS, COMMIT_ANSWER = 20.0, 15.0
"""Seconds after which a command's statements start over, and its commit is asked for again, over another
connection: this one may be dead. A batch of a sweep may take longer."""
ROLLBACK = 1.0
"""Seconds for a rollback, which nobody needs to wait for: the server does it in the end, or whoever meets the
transaction (`abandoned.py`). Somebody who ends a command waits for it."""

MAJORITY_MS = 30_000
"""How long a write waits for its majority on a client without a time limit."""
MAJORITY = WriteConcern("majority", wtimeout=MAJORITY_MS)
MAJORITY_LAG = timedelta(seconds=15)
"""How old the newest write that a majority has may be, while there are newer ones. On an idle replica set the
server writes something every 10 s."""

PATIENCE = 35.0
"""Seconds for which a transaction starts over when others keep winning."""
SNAPSHOTS = 5.0
"""Seconds for which it starts over when the server does not keep the point in time that it reads."""
SLOW_ATTEMPT = 10.0
"""Seconds. A transaction that ended after this long did not lose to another writer: a conflict shows at
its first writes. Measured, with no other writer and a cache of 0.25 GB: one that changed 300 MB in 72 s
was ended by the limit of 60 s, and all that the server said was WriteConflict."""
BACKOFF_FIRST, BACKOFF_FACTOR, BACKOFF_LONGEST = 0.002, 1.5, 0.25

WRITE_CONFLICT, NO_SUCH_TRANSACTION, INTERRUPTED = 112, 251, 11601


def attempts(
    client: MongoClient[Document], patience: float | None = None, *, dry_run: bool = False
) -> Iterator[Attempt]:
    """Attempts at one transaction until one succeeds; `Store.transaction_attempts` shows the loop.

    Any exception rolls everything back and leaves the loop, except what tells that another writer
    was faster: a TransientTransactionError, or a StaleRead that the body raises. Those start over,
    for `patience` seconds. The driver's own `with_transaction` waits out a contended event with
    sleeps that only grow. A dry run ends each attempt that succeeds by rolling it back.

    Raises Contention, CachePressure, OutcomeUnknown, or what the body raised.
    """
    begin = time.monotonic()
    tries = Tries(
        while_losing=begin + (PATIENCE if patience is None else patience),
        while_lost=begin + PATIENCE,
        begin=begin,
        end=begin + TIME_LIMIT,
        statements=STATEMENTS if patience is None else TIME_LIMIT,
        statement=client.options.timeout or TIME_LIMIT,
    )
    backoff = BACKOFF_FIRST
    abandoned = Abandoned(client)
    with client.start_session() as session:
        while True:
            attempt = Attempt(session, tries, dry_run=dry_run)
            yield attempt
            if attempt.succeeded:
                return
            abandoned.end()
            time.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - jitter, not cryptography
            backoff = min(backoff * BACKOFF_FACTOR, BACKOFF_LONGEST)


def time_limit(seconds: float) -> AbstractContextManager[object]:
    """Within, the server's answers are awaited for so many seconds in all."""
    return pymongo.timeout(max(seconds, 0.001))  # 0 would be no limit


@contextmanager
def snapshot(client: MongoClient[Document]) -> Iterator[ClientSession]:
    """A session whose reads all see one point in time. Raises CursorLost when the server cannot
    keep it up: after five minutes, unless it is configured to keep more history."""
    with client.start_session(snapshot=True) as session:
        try:
            yield session
        except OperationFailure as error:
            if error.code in failures.CURSOR_LOST:
                raise CursorLost from error
            raise


class Tries(NamedTuple):
    """For how long one transaction is tried: until when, by this host's monotonic clock, and in seconds."""

    while_losing: float
    """Until then it starts over when other writers were faster, and for SNAPSHOTS seconds at most when the
    server does not keep what it reads."""
    while_lost: float
    """Until then, when the server cannot be reached: an election takes longer than some callers wait for
    another writer."""
    begin: float = -inf
    end: float = inf
    """No answer is awaited after that."""
    statements: float = STATEMENTS
    """Seconds for all statements of an attempt."""
    statement: float = TIME_LIMIT
    """Seconds for each, which the URI may set."""

    def left(self, seconds: float) -> float:
        """So many seconds, or how many there are until the end."""
        return min(seconds, self.end - time.monotonic())


class Attempt:
    """One attempt at a transaction: a context manager that begins it, and commits it or rolls it back."""

    def __init__(self, session: ClientSession, tries: Tries, *, dry_run: bool = False) -> None:
        self.succeeded = False
        self._dry_run = dry_run
        self._session = session
        self._tries = tries
        left = tries.left(tries.statements)
        # The URI's own limit is shorter, and leaves time for another attempt.
        self._limit = nullcontext() if tries.statement < left else time_limit(left)
        self._began = time.monotonic()

    def __enter__(self) -> ClientSession:
        self._limit.__enter__()
        self._session.start_transaction(ReadConcern("snapshot"), MAJORITY, ReadPreference.PRIMARY)
        return self._session

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        self._limit.__exit__(None, None, None)
        if error is not None:
            if self._session.in_transaction:
                with time_limit(ROLLBACK):
                    self._session.abort_transaction()
            return self._starts_over(error)
        try:
            if self._dry_run:
                self._session.abort_transaction()
            else:
                self._commit()
        except PyMongoError as failure:
            if self._starts_over(failure):
                return True
            raise
        self.succeeded = True
        return False

    def _commit(self) -> None:
        """Commit, asking again when the answer was lost: a commit that was applied stays applied, and
        asking again tells. Raises OutcomeUnknown when patience ends without an answer."""
        while True:
            try:
                with time_limit(self._tries.left(min(COMMIT_ANSWER, self._tries.statement))):
                    self._session.commit_transaction()
                return
            except PyMongoError as error:
                unknown = error.has_error_label("UnknownTransactionCommitResult")
                if not unknown and code_of(error) != INTERRUPTED:
                    raise
                if time.monotonic() > self._tries.while_lost:
                    raise outcome_unknown(self._session.client, error) from error
            time.sleep(BACKOFF_LONGEST)

    def _starts_over(self, error: BaseException) -> bool:
        """Whether another attempt is worth it; False leaves the error to the caller. Raises Contention
        or CachePressure when patience ends."""
        code = code_of(error)
        if code in failures.TOO_LARGE:
            raise CachePressure from error
        lasted = time.monotonic() - self._began
        far = failures.ROUND_TRIP.search(str(error))
        if code == failures.TIME_LIMIT_EXCEEDED and lasted > SLOW_ATTEMPT and not far:
            raise _too_slow(lasted) from error
        transient = isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError")
        if not (transient or isinstance(error, StaleRead)):
            return False
        lost, dropped = isinstance(error, ConnectionFailure), code in failures.SNAPSHOT_LOST
        until = self._tries.while_lost if lost else self._tries.while_losing
        if time.monotonic() <= (min(until, self._tries.begin + SNAPSHOTS) if dropped else until):
            return True
        if lost:
            return False
        if dropped:
            raise Contention(failures.NO_SNAPSHOT) from error
        if failures.is_cache_pressure(error):
            raise CachePressure from error
        if lasted > SLOW_ATTEMPT and code in (WRITE_CONFLICT, NO_SUCH_TRANSACTION):
            raise _too_slow(lasted) from error
        if majority_is_missing(self._session.client):
            raise Unreachable(failures.NO_MAJORITY) from error
        raise Contention from error


def _too_slow(seconds: float) -> CachePressure:
    return CachePressure(
        f"a transaction did not end in {seconds:.0f} s: the server's cache is full, or it allows no more "
        "time. Nothing was changed; give it more cache, or use a smaller --batch-size"
    )


@contextmanager
def lone_write(client: MongoClient[Document]) -> Iterator[None]:
    """A write outside of a transaction: one whose answer is lost has an unknown outcome."""
    try:
        yield
    except ConnectionFailure as error:
        raise outcome_unknown(client, error) from error


def outcome_unknown(client: MongoClient[Document], error: PyMongoError) -> OutcomeUnknown:
    """The error of a write that the server may have done."""
    try:
        with time_limit(ROLLBACK):
            missing = majority_is_missing(client)
    except PyMongoError:
        missing = False
    # A majority and an answer are awaited for the same time, so that either may be said to be missing.
    return OutcomeUnknown() if missing else failures.outcome_unknown(error)


def majority_is_missing(client: MongoClient[Document]) -> bool:
    """Whether other commands' changes wait for their majority, so that one keeps meeting them."""
    hello = client.admin.command("hello")
    last = hello.get("lastWrite")  # a router has none
    if not last or last["opTime"] == last["majorityOpTime"]:
        return False
    old: timedelta = hello["localTime"] - last["majorityWriteDate"]
    return old > MAJORITY_LAG
