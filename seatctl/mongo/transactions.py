"""Transactions and snapshots: one attempt after the other until one succeeds, or patience ends.

Knows nothing of seats. Everything that seatctl changes in several documents is changed here or not at all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from seatctl.errors import CachePressure, Contention, CursorLost, OutcomeUnknown, StaleRead
from seatctl.mongo import failures
from seatctl.mongo.failures import code_of

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

Document: TypeAlias = dict[str, Any]

MAJORITY_MS = 30_000
"""How long a write waits for its majority."""
MAJORITY = WriteConcern("majority", wtimeout=MAJORITY_MS)

PATIENCE = 50.0
"""Seconds for which a transaction starts over when others keep winning."""
SLOW_ATTEMPT = 10.0
"""Seconds. A transaction that ended after this long did not lose to another writer: a conflict shows at
its first writes. Measured, with no other writer and a cache of 0.25 GB: one that changed 300 MB in 72 s
was ended by the limit of 60 s, and all that the server said was WriteConflict."""
BACKOFF_FIRST, BACKOFF_FACTOR, BACKOFF_LONGEST = 0.002, 1.5, 0.25

WRITE_CONFLICT, NO_SUCH_TRANSACTION = 112, 251


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
    give_up = begin + (PATIENCE if patience is None else patience)
    backoff = BACKOFF_FIRST
    with client.start_session() as session:
        while True:
            attempt = Attempt(session, give_up, begin + PATIENCE, dry_run=dry_run)
            yield attempt
            if attempt.succeeded:
                return
            time.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - jitter, not cryptography
            backoff = min(backoff * BACKOFF_FACTOR, BACKOFF_LONGEST)


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


class Attempt:
    """One attempt at a transaction: a context manager that begins it, and commits it or rolls it back."""

    def __init__(
        self, session: ClientSession, give_up: float, give_up_connecting: float, *, dry_run: bool = False
    ) -> None:
        self.succeeded = False
        self._dry_run = dry_run
        self._session = session
        self._give_up = give_up
        self._give_up_connecting = give_up_connecting
        """An election takes longer than some callers wait for another writer."""
        self._began = time.monotonic()

    def __enter__(self) -> ClientSession:
        self._session.start_transaction(
            ReadConcern("snapshot"), MAJORITY, ReadPreference.PRIMARY, max_commit_time_ms=MAJORITY_MS
        )
        return self._session

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if error is not None:
            if self._session.in_transaction:
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
                self._session.commit_transaction()
                return
            except PyMongoError as error:
                if not error.has_error_label("UnknownTransactionCommitResult"):
                    raise
                if time.monotonic() > self._give_up_connecting:
                    raise OutcomeUnknown from error
            time.sleep(BACKOFF_LONGEST)

    def _starts_over(self, error: BaseException) -> bool:
        """Whether another attempt is worth it; False leaves the error to the caller. Raises Contention
        or CachePressure when patience ends."""
        code = code_of(error)
        if code in failures.TOO_LARGE:
            raise CachePressure from error
        transient = isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError")
        if not (transient or isinstance(error, StaleRead)):
            return False
        lost = isinstance(error, ConnectionFailure)
        if time.monotonic() <= (self._give_up_connecting if lost else self._give_up):
            return True
        if lost or isinstance(error, StaleRead):
            return False
        if failures.is_cache_pressure(error):
            raise CachePressure from error
        lasted = time.monotonic() - self._began
        if lasted > SLOW_ATTEMPT and code in (WRITE_CONFLICT, NO_SUCH_TRANSACTION):
            raise CachePressure(
                f"the server ended a transaction after {lasted:.0f} s: its cache is full, or it allows no "
                "more time. Nothing was changed; give it more cache, or use a smaller --batch-size"
            ) from error
        raise Contention from error
