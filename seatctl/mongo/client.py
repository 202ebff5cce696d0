"""One MongoDB deployment: how to reach it, its clock, its transactions, its errors in our words.

Knows nothing of seats. `store.py` builds its queries on what stands here.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from pymongo import MongoClient
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from seatctl.domain.timespec import shorten
from seatctl.errors import (
    Contention,
    Misconfigured,
    SeatctlError,
    Unreachable,
    WriteRefused,
)
from seatctl.mongo import turns

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from seatctl.domain.model import Document

T = TypeVar("T")

SERVER_SELECTION_MS = 5_000
SOCKET_TIMEOUT_MS = 300_000
TRANSACTION_PATIENCE = 120.0
"""Seconds for which a transaction starts over when others keep winning; the driver's own limit."""
BACKOFF_FIRST, BACKOFF_LONGEST = 0.002, 0.25

UNAUTHORIZED, AUTHENTICATION_FAILED, DOCUMENT_VALIDATION_FAILED = 13, 18, 121
ALREADY_INITIALIZED, NOT_YET_INITIALIZED = 23, 94


class Deployment:
    """A reachable MongoDB and the database in it that seatctl works on.

    `transactions` is False on a standalone server, where every caller must order its writes so
    that a crash between two of them can only leave seats unsold.
    """

    def __init__(
        self,
        client: MongoClient[Document],
        database: str,
        *,
        transactions: bool,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.client = client
        self.transactions = transactions
        self._clock = clock
        self.database: Database[Document] = client.get_database(
            database,
            read_preference=ReadPreference.PRIMARY,
            # What a command acknowledges ("already paid") must not be rolled back by a failover.
            read_concern=ReadConcern("majority") if transactions else None,
            write_concern=WriteConcern("majority" if transactions else 1),
        )

    def now(self) -> datetime:
        """The database server's clock in UTC, never the host's (invariant 10)."""
        if self._clock is not None:
            return self._clock()
        local: datetime = self.client.admin.command("hello")["localTime"]
        return local.astimezone(UTC)

    def stamp(self, field: str) -> Document:
        """An update that sets `field` to the server's clock as it writes, without asking for it first."""
        if self._clock is not None:
            return {"$set": {field: self._clock()}}
        return {"$currentDate": {field: True}}

    def transact(self, work: Callable[[ClientSession | None], T], turn: object = None) -> T:
        """Run `work(session)` as one transaction and return what it returned; any exception rolls
        everything back. Where there are no transactions, run it with `None`.

        Transactions that are going to write the same document say so by the same `turn`: those of
        this host then queue for it, because of two at once one is rolled back. Safety does not rest
        on that; other hosts, and other programs, know nothing of the queue.

        Starts over when another writer won, so `work` may run several times. The driver's own
        `with_transaction` waits out a contended event with sleeps that only grow.
        Raises Contention when others kept winning for `TRANSACTION_PATIENCE` seconds.
        """
        if not self.transactions:
            return work(None)
        give_up = time.monotonic() + TRANSACTION_PATIENCE
        backoff = BACKOFF_FIRST
        concern = WriteConcern("majority" if turn is None else 1)
        with self.client.start_session() as session:
            while True:
                try:
                    with (
                        turns.turn(turn),
                        session.start_transaction(ReadConcern("snapshot"), concern, ReadPreference.PRIMARY),
                    ):
                        result = work(session)
                        self._commit(session, give_up)
                    if turn is not None:
                        # Asked again, the driver has a majority acknowledge it, or says that it is
                        # lost. The wait for that needs no turn: the next one may write already.
                        self._commit(session, give_up)
                    return result
                except PyMongoError as error:
                    if not error.has_error_label("TransientTransactionError"):
                        raise
                    if time.monotonic() > give_up:
                        if isinstance(error, ConnectionFailure):
                            raise
                        raise Contention from error
                time.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - jitter, not cryptography
                backoff = min(backoff * 1.5, BACKOFF_LONGEST)

    @staticmethod
    def _commit(session: ClientSession, give_up: float) -> None:
        """Commit, asking again when the answer was lost: a commit that was applied stays applied,
        and asking again tells."""
        while True:
            try:
                session.commit_transaction()
                return
            except PyMongoError as error:
                if not error.has_error_label("UnknownTransactionCommitResult"):
                    raise
                if time.monotonic() > give_up or isinstance(error, ServerSelectionTimeoutError):
                    raise

    def close(self) -> None:
        self.client.close()


def connect(
    uri: str, database: str | None, default_database: str, patience_ms: int = SERVER_SELECTION_MS
) -> Deployment:
    """Reach the deployment behind `uri` and learn whether it has transactions.

    Waits `patience_ms` for a server, unless the URI says otherwise. The database is `database`, else
    the one in the URI's path, else `default_database`.
    Raises Misconfigured for a URI that cannot be read, Unreachable when no server answers.
    """
    try:
        options = _checked(uri, patience_ms)
        client: MongoClient[Document] = MongoClient(uri, **options)
        name = database or client.get_default_database(default_database).name
        hello = _wait_for_primary(client)
        transactions = "setName" in hello or hello.get("msg") == "isdbgrid"
        return Deployment(client, name, transactions=transactions)
    except PyMongoError as error:
        raise explain(error, hosts_of(uri)) from error
    except OSError as error:  # before the first connection: a file that an option names
        raise Misconfigured(
            f"the MongoDB URI names a file that cannot be used: {error.filename}: {error.strerror}"
        ) from error
    except (ValueError, TypeError) as error:
        raise _malformed() from error


def _malformed() -> Misconfigured:
    # Never quote the parser: its message may hold the part of the password it stumbled over.
    return Misconfigured(
        "the MongoDB URI is malformed; it looks like mongodb://host:27017/database, where user:password@ "
        "may stand before the host, with : / ? # [ ] @ % in them percent-encoded"
    )


def _checked(uri: str, patience_ms: int) -> dict[str, Any]:
    """Client options for a well-formed URI; what the URI itself says is left to it."""
    scheme, separator, rest = uri.partition("://")
    path = rest.partition("/")[2]
    # A "/" inside a password would make the parser take user and password for host and port.
    if not separator or "@" in path.partition("?")[0]:
        raise _malformed()
    said: set[str] = {option.partition("=")[0].lower() for option in re.split("[&;]", uri.partition("?")[2])}
    defaults: dict[str, Any] = {
        "serverSelectionTimeoutMS": patience_ms,
        "connectTimeoutMS": patience_ms,
        "socketTimeoutMS": SOCKET_TIMEOUT_MS,
        "appName": "seatctl",
    }
    if scheme == "mongodb":
        parse_uri(uri, validate=True, warn=False)
    options = {key: value for key, value in defaults.items() if key.lower() not in said}
    # A date beyond year 9999 or a torn string in one foreign document must not stop a whole batch.
    return {
        **options,
        "tz_aware": True,
        "datetime_conversion": "DATETIME_AUTO",
        "unicode_decode_error_handler": "replace",
    }


def hosts_of(uri: str) -> str:
    """The hosts of a URI for a message: no user, no password, no options."""
    authority = uri.partition("://")[2].split("/", 1)[0].split("?", 1)[0]
    return unquote(authority.rsplit("@", 1)[-1]) or "the configured host"


def explain(error: Exception, hosts: str = "the configured host") -> SeatctlError:
    """A driver's or server's error as one of ours, in one line."""
    if isinstance(error, SeatctlError):
        return error
    if isinstance(error, InvalidURI | InvalidName):
        return _malformed()
    if isinstance(error, ConfigurationError):
        if "DNS" in str(error) or "resolution" in str(error):
            return Unreachable(
                f"cannot look up {hosts}: no answer for its SRV record; check the name and the DNS"
            )
        return Misconfigured(f"the MongoDB URI cannot be used: {_one_line(error)}")
    if isinstance(error, ConnectionFailure):
        return Unreachable(
            f"cannot reach MongoDB at {hosts} ({_reason(error)}); check that it runs, then try again"
        )
    if isinstance(error, DuplicateKeyError):
        return WriteRefused(f"the database already holds such a document: {_one_line(error)}")
    if isinstance(error, OperationFailure):
        return _explain_failure(error, hosts)
    return SeatctlError(f"{type(error).__name__}: {_one_line(error)}")


def _explain_failure(error: OperationFailure, hosts: str) -> SeatctlError:
    if error.code == AUTHENTICATION_FAILED:
        return Misconfigured(
            f"MongoDB at {hosts} does not accept this user and password; "
            "authSource in the URI says which database knows the user"
        )
    if error.code == UNAUTHORIZED:
        if "requires authentication" in str(error):
            return Misconfigured(
                f"MongoDB at {hosts} wants a user, and the URI names no user; "
                "write user:password@ before its host"
            )
        # A command that is about no collection has a number in that place: listCollections: 1.
        what = re.search(
            r"not authorized on (\S+) to execute command \{ (\w+): (?:\"([\w.$-]+)\")?", str(error)
        )
        action = f"run {what[2]} on {what[1]}{'.' + what[3] if what[3] else ''}" if what else "do this"
        return Misconfigured(
            f"the database user is not authorized to {action}; the README lists the privileges"
        )
    if error.code == DOCUMENT_VALIDATION_FAILED:
        return WriteRefused(
            "the database's validator refused a document; `seatctl verify` names what is wrong"
        )
    if error.has_error_label("TransientTransactionError"):
        return Contention()
    return SeatctlError(f"MongoDB answered: {_one_line(error)}")


def _reason(error: ConnectionFailure) -> str:
    text = str(error)
    for sign, reason in (
        ("refused", "connection refused"),
        ("No such file", "no such socket"),
        ("Name or service not known", "unknown host name"),
        ("nodename nor servname", "unknown host name"),
        ("timed out", "no answer in time"),
        ("No primary", "no primary; the replica set may be electing one"),
        ("no replica set members match", "no primary; the replica set may be electing one"),
        ("SSL", "TLS handshake failed"),
        ("not primary", "the primary changed"),
        ("closed", "the connection was closed"),
    ):
        if sign in text:
            return reason
    return "no usable server" if isinstance(error, ServerSelectionTimeoutError) else "the connection broke"


def _one_line(error: Exception) -> str:
    return shorten(" ".join(str(error).partition(", full error:")[0].split()), 200)


def initiate(uri: str, replica_set: str, host: str) -> None:
    """Make a fresh `mongod` a replica set of one under `host`, or tell it its new address, and wait
    until it is primary. Raises Unreachable when that does not happen."""
    give_up = time.monotonic() + SERVER_SELECTION_MS / 1000
    try:
        with MongoClient[Any](uri, serverSelectionTimeoutMS=SERVER_SELECTION_MS) as client:
            while not _configure(client, replica_set, host) and time.monotonic() < give_up:
                time.sleep(0.01)
            _wait_for_primary(client)
    except PyMongoError as error:
        raise explain(error, "the embedded MongoDB") from error


def _configure(client: MongoClient[Any], replica_set: str, host: str) -> bool:
    """Make sure of a replica set of one under `host`; False while the server is still finding out
    whether it is one: just after its start it denies that, and refuses to become one."""
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        members = [{"_id": 0, "host": host}]
        try:
            client.admin.command("replSetInitiate", {"_id": replica_set, "members": members})
        except OperationFailure as refusal:
            if refusal.code != ALREADY_INITIALIZED:
                raise
            return False
    else:
        member = config["members"][0]
        if member["host"] != host:
            config.update(members=[{**member, "host": host}], version=config["version"] + 1)
            client.admin.command("replSetReconfig", config, force=True)
    return True


def _wait_for_primary(client: MongoClient[Any]) -> Document:
    """The server's `hello` once it takes writes; an election of one takes about 30 ms."""
    give_up = time.monotonic() + SERVER_SELECTION_MS / 1000
    while True:
        hello: Document = client.admin.command("hello")
        if hello.get("isWritablePrimary"):
            return hello
        if time.monotonic() > give_up:
            state = (
                "is not initiated; run rs.initiate() on it" if hello.get("isreplicaset") else "has no primary"
            )
            raise Unreachable(f"the replica set {state}")
        time.sleep(0.01)
