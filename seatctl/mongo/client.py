"""One MongoDB deployment: how to reach it, its clock, its transactions.

Knows nothing of seats. `failures.py` has its errors in our words.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import split_options
from pymongo.write_concern import WriteConcern

from seatctl.errors import (
    CachePressure,
    Contention,
    CursorLost,
    Misconfigured,
    OutcomeUnknown,
    StaleRead,
    Unreachable,
)
from seatctl.mongo import failures
from seatctl.mongo.failures import code_of, explain

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

Document: TypeAlias = dict[str, Any]

SERVER_SELECTION_MS = 5_000
LONGEST_WAIT_MS = 60_000
"""No answer of a server is awaited for longer, whatever the URI says."""
MAJORITY_MS = 30_000
"""How long a write waits for its majority."""

PATIENCE = 50.0
"""Seconds for which a transaction starts over when others keep winning."""
SLOW_ATTEMPT = 10.0
"""Seconds. A transaction that ended after this long did not lose to another writer: a conflict shows at
its first writes. Measured, with no other writer and a cache of 0.25 GB: one that changed 300 MB in 72 s
was ended by the limit of 60 s, and all that the server said was WriteConflict."""
BACKOFF_FIRST, BACKOFF_FACTOR, BACKOFF_LONGEST = 0.002, 1.5, 0.25

MAJORITY = WriteConcern("majority", wtimeout=MAJORITY_MS)
PROMISES: Document = {
    "w": "majority",
    "wTimeoutMS": MAJORITY_MS,
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "readPreferenceTags": "",
    "maxStalenessSeconds": -1,
    "retryWrites": True,
    "retryReads": True,
}
"""Client options that the URI must not weaken: what a command acknowledges ("already paid") must not be
rolled back by a failover, and a secondary may be behind."""

ALREADY_INITIALIZED, NOT_YET_INITIALIZED, WRITE_CONFLICT, NO_SUCH_TRANSACTION = 23, 94, 112, 251
WIRE_VERSION_OF_6 = 17


class Deployment:
    """A reachable MongoDB with transactions, and the database in it that seatctl works on."""

    def __init__(
        self, client: MongoClient[Document], database: str, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.client = client
        self._clock = clock
        self.database: Database[Document] = client.get_database(
            database,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=MAJORITY,
        )
        self.close = client.close

    def now(self) -> datetime:
        """The database server's clock in UTC, never the host's (invariant 10)."""
        if self._clock is not None:
            return self._clock()
        local: datetime = self.client.admin.command("hello")["localTime"]
        return local.astimezone(UTC)

    @property
    def now_expression(self) -> str | Document:
        """The same clock within `$expr`, read by the server as it evaluates."""
        return "$$NOW" if self._clock is None else {"$literal": self._clock()}

    def stamp(self, field: str) -> Document:
        """An update that sets `field` to the server's clock as it writes, without asking for it first."""
        return {"$currentDate": {field: True}} if self._clock is None else {"$set": {field: self._clock()}}

    def attempts(self, patience: float | None = None) -> Iterator[Attempt]:
        """Attempts at one transaction until one succeeds; `Store.transaction_attempts` shows the loop.

        Any exception rolls everything back and leaves the loop, except what tells that another writer
        was faster: a TransientTransactionError, or a StaleRead that the body raises. Those start over,
        for `patience` seconds. The driver's own `with_transaction` waits out a contended event with
        sleeps that only grow.

        Raises Contention, CachePressure, OutcomeUnknown, or what the body raised.
        """
        begin = time.monotonic()
        give_up = begin + (PATIENCE if patience is None else patience)
        backoff = BACKOFF_FIRST
        with self.client.start_session() as session:
            while True:
                attempt = Attempt(session, give_up, begin + PATIENCE)
                yield attempt
                if attempt.succeeded:
                    return
                time.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - jitter, not cryptography
                backoff = min(backoff * BACKOFF_FACTOR, BACKOFF_LONGEST)

    @contextmanager
    def snapshot(self) -> Iterator[ClientSession]:
        """A session whose reads all see one point in time. Raises CursorLost when the server cannot
        keep it up: after five minutes, unless it is configured to keep more history."""
        with self.client.start_session(snapshot=True) as session:
            try:
                yield session
            except OperationFailure as error:
                if error.code in failures.CURSOR_LOST:
                    raise CursorLost from error
                raise


class Attempt:
    """One attempt at a transaction: a context manager that begins it, and commits it or rolls it back."""

    def __init__(self, session: ClientSession, give_up: float, give_up_connecting: float) -> None:
        self.succeeded = False
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


# --- reaching it -----------------------------------------------------------------------------------


def connect(
    uri: str, database: str | None, default_database: str, patience_ms: int = SERVER_SELECTION_MS
) -> Deployment:
    """Reach the deployment behind `uri`, in `patience_ms` unless the URI says otherwise. The database is
    `database`, else the one in the URI's path, else `default_database`.

    Raises Misconfigured for a URI that cannot be read or a server without transactions or older than
    6.0, Unreachable when no server answers.
    """
    hosts = failures.hosts_of(uri)
    try:
        client: MongoClient[Document] = MongoClient(uri, **_options(uri, patience_ms))
        name = database or client.get_default_database(default_database).name
        _check_server(_wait_for_primary(client), hosts)
        return Deployment(client, name)
    except PyMongoError as error:
        raise explain(error, hosts) from error
    except OSError as error:  # before the first connection: a file that an option names
        words = ": ".join(str(word) for word in (error.filename, error.strerror or error) if word)
        raise Misconfigured(f"the MongoDB URI names a file that cannot be used: {words}") from error
    except (ValueError, TypeError) as error:
        raise failures.malformed_uri() from error


def _options(uri: str, patience_ms: int) -> Document:
    """Client options beside those of the URI, which may weaken no promise and wait for nothing without an
    end. Raises what the driver does for an option that it does not know."""
    address, _, query = uri.partition("?")
    # A "/" inside a password would make the parser take user and password for host and port.
    if "://" not in address or "@" in address.partition("://")[2].partition("/")[2]:
        raise failures.malformed_uri()
    said = split_options(query) if query else {}
    options: Document = {} if "appname" in said else {"appName": "seatctl"}
    for name, default in (
        ("serverSelectionTimeoutMS", patience_ms),
        ("connectTimeoutMS", patience_ms),
        ("socketTimeoutMS", LONGEST_WAIT_MS),
    ):
        seconds = said.get(name.lower())
        options[name] = min(seconds * 1000 if seconds else default, LONGEST_WAIT_MS)
    # A date beyond year 9999 or a torn string in one document of another program must not stop a batch.
    return {
        **options,
        **PROMISES,
        "tz_aware": True,
        "datetime_conversion": "DATETIME_AUTO",
        "unicode_decode_error_handler": "replace",
    }


def _check_server(hello: Document, hosts: str) -> None:
    """Raises Misconfigured for a server on which no promise can be kept."""
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise Misconfigured(
            f"MongoDB at {hosts} is a standalone server, which has no transactions. Make it a replica set "
            "with one member: start it with `mongod --replSet rs0`, then run `rs.initiate()` once in "
            "mongosh. Or unset SEATCTL_URI to use the embedded MongoDB"
        )
    if hello["maxWireVersion"] < WIRE_VERSION_OF_6:
        raise Misconfigured(f"MongoDB at {hosts} is older than 6.0, the first version that seatctl works on")


def initiate(uri: str, replica_set: str, host: str) -> None:
    """Make a fresh `mongod` a replica set of one under `host`, or tell it its new address, and wait
    until it is primary. Raises Unreachable when that does not happen."""
    new = {"_id": replica_set, "members": [{"_id": 0, "host": host}]}
    try:
        with MongoClient[Document](uri, serverSelectionTimeoutMS=SERVER_SELECTION_MS) as client:
            config = _configuration(client, new)
            if config["members"][0]["host"] != host:
                config["members"][0]["host"] = host
                config["version"] += 1
                client.admin.command("replSetReconfig", config, force=True)
            _wait_for_primary(client)
    except PyMongoError as error:
        raise explain(error, "the embedded MongoDB") from error


def _configuration(client: MongoClient[Document], new: Document) -> Document:
    """The server's replica set; a server without one is given this one."""
    give_up = time.monotonic() + SERVER_SELECTION_MS / 1000
    while True:
        try:
            config: Document = client.admin.command("replSetGetConfig")["config"]
            return config
        except OperationFailure as error:
            if error.code != NOT_YET_INITIALIZED or time.monotonic() > give_up:
                raise
        try:
            client.admin.command("replSetInitiate", new)
        except OperationFailure as error:
            # Just after its start, one that has a replica set denies it, and refuses to become one.
            if error.code != ALREADY_INITIALIZED:
                raise
        time.sleep(0.01)


def _wait_for_primary(client: MongoClient[Document]) -> Document:
    """The server's `hello` once it takes writes; an election of one takes about 30 ms."""
    give_up = time.monotonic() + SERVER_SELECTION_MS / 1000
    while True:
        hello: Document = client.admin.command("hello")
        if hello.get("isWritablePrimary"):
            return hello
        if time.monotonic() > give_up:
            uninitiated = "is not initiated; run rs.initiate() on it"
            raise Unreachable(
                f"the replica set {uninitiated if hello.get('isreplicaset') else 'has no primary'}"
            )
        time.sleep(0.01)
