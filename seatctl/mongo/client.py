"""One MongoDB deployment: how to reach it, and its clock.

Knows nothing of seats. `transactions.py` has its transactions, `failures.py` its errors in our words.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.errors import (
    ConnectionFailure,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import split_options

from seatctl.errors import Misconfigured, Unreachable
from seatctl.mongo import failures, transactions
from seatctl.mongo.document import Document
from seatctl.mongo.failures import translate
from seatctl.mongo.transactions import MAJORITY, MAJORITY_MS

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database
    from pymongo.server_description import ServerDescription

    from seatctl.mongo.transactions import Attempt

SERVER_SELECTION_MS = 5_000
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

ALREADY_INITIALIZED, NOT_YET_INITIALIZED = 23, 94
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
        self.revive: Callable[[], object] = lambda: None
        """Starts the server again where that is ours to do: the embedded one."""

    def now(self) -> datetime:
        """The database server's clock in UTC, never the host's (invariant 10)."""
        if self._clock is not None:
            return self._clock()
        local: datetime = self._ask("hello")["localTime"]
        return local.astimezone(UTC)

    def _ask(self, command: str, **options: Any) -> Document:
        """The answer to a command that changes nothing. The driver tries reads again, but no commands."""
        try:
            return self.client.admin.command(command, **options)
        except ConnectionFailure:
            return self.client.admin.command(command, **options)

    @cached_property
    def user(self) -> str | None:
        """The database user, if the server knows one."""
        found = self._ask("connectionStatus")["authInfo"]["authenticatedUsers"]
        return f"{found[0]['user']}@{found[0]['db']}" if found else None

    def may(self, action: str, collection: str) -> bool:
        """Whether the database user may do this to a collection. A server without users allows everything."""
        about = self._ask("connectionStatus", showPrivileges=True)["authInfo"]
        return not about["authenticatedUsers"] or any(
            action in privilege["actions"] and self._covers(privilege["resource"], collection)
            for privilege in about["authenticatedUserPrivileges"]
        )

    def _covers(self, resource: Document, collection: str) -> bool:
        """Whether a privilege on this is one on the collection; an empty name stands for all."""
        wanted = {"db": self.database.name, "collection": collection}
        return bool(resource.get("anyResource")) or all(
            resource.get(part) in ("", name) for part, name in wanted.items()
        )

    @property
    def now_expression(self) -> str | Document:
        """The same clock within `$expr`, read by the server as it evaluates."""
        return "$$NOW" if self._clock is None else {"$literal": self._clock()}

    def stamp(self, field: str) -> Document:
        """An update that sets `field` to the server's clock as it writes, without asking for it first."""
        return {"$currentDate": {field: True}} if self._clock is None else {"$set": {field: self._clock()}}

    def attempts(self, patience: float | None = None, *, dry_run: bool = False) -> Iterator[Attempt]:
        """Attempts at one transaction, as `transactions.attempts` makes them."""
        return transactions.attempts(self.client, patience, dry_run=dry_run)

    def majority_is_missing(self) -> bool:
        """Whether changes have been waiting for a majority of the members."""
        return transactions.majority_is_missing(self.client)

    def time_limit(self, seconds: float) -> AbstractContextManager[object]:
        """Within, the server's answers are awaited for so many seconds in all."""
        return transactions.time_limit(seconds)

    def snapshot(self) -> AbstractContextManager[ClientSession]:
        """A session whose reads all see one point in time, as `transactions.snapshot` makes it."""
        return transactions.snapshot(self.client)


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
        _find_server(client, uri)
        _check_server(_wait_for_primary(client, hosts), hosts)
        return Deployment(client, name)
    except PyMongoError as error:
        raise translate(error, hosts) from error
    except OSError as error:  # before the first connection: a file that an option names
        words = ": ".join(str(word) for word in (error.filename, error.strerror or error) if word)
        raise Misconfigured(f"the MongoDB URI names a file that cannot be used: {words}") from error
    except (ValueError, TypeError, KeyError) as error:  # KeyError: a value that an option does not know
        # Not which: it may be a part of a password.
        raise failures.malformed_uri(is_port="Port must be an integer" in str(error)) from error


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
    ):
        seconds = said.get(name.lower())
        options[name] = min(seconds * 1000 if seconds else default, transactions.TIME_LIMIT * 1000)
    # With timeoutMS the driver ignores socketTimeoutMS and wTimeoutMS, and bounds what neither does: the sum
    # of all that it tries, and, on the server, a statement that waits for locks or for a majority.
    limits = (said.get("timeoutms"), said.get("sockettimeoutms"), transactions.TIME_LIMIT)
    options["timeoutMS"] = min(seconds for seconds in limits if seconds) * 1000
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
        raise failures.standalone(hosts)
    if hello["maxWireVersion"] < WIRE_VERSION_OF_6:
        raise Misconfigured(f"MongoDB at {hosts} is older than 6.0, the oldest version that seatctl supports")


def initiate(uri: str, replica_set: str, host: str) -> None:
    """Make a fresh `mongod` a replica set of one under `host`, or tell it its new address, and wait
    until it is primary. Raises Unreachable when that does not happen."""
    new = {"_id": replica_set, "members": [{"_id": 0, "host": host}]}
    try:
        with MongoClient[Document](
            uri,
            serverSelectionTimeoutMS=SERVER_SELECTION_MS,
            timeoutMS=int(transactions.TIME_LIMIT * 1000),
        ) as client:
            _find_server(client, uri)
            config = _configuration(client, new)
            if config["members"][0]["host"] != host:
                config["members"][0]["host"] = host
                config["version"] += 1
                client.admin.command("replSetReconfig", config, force=True)
            _wait_for_primary(client)
    except PyMongoError as error:
        raise translate(error, "the embedded MongoDB") from error


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


def _find_server(client: MongoClient[Document], uri: str) -> None:
    """Wait `serverSelectionTimeoutMS` for a server that takes writes; a command would wait `timeoutMS`.
    Raises Misconfigured where to wait does not help."""
    try:
        with suppress(InvalidOperation):  # several routers
            _ = client.address
    except ServerSelectionTimeoutError as error:
        if reason := _why_none(client, uri, str(error)):
            raise reason from error
        raise


def _why_none(client: MongoClient[Document], uri: str, said: str) -> Misconfigured | None:
    """Why no server takes writes, where that is known."""
    hosts = failures.hosts_of(uri)
    if any(one.server_type_name == "RSGhost" for one in _servers(client)):
        return failures.uninitiated(hosts)
    if re.search(failures.OTHER_SET, said) and "," not in hosts:
        # The driver has forgotten what it saw, which has no replica set or another one.
        more: Document = {"replicaSet": None, "directConnection": True}
        with MongoClient[Document](uri, **_options(uri, SERVER_SELECTION_MS), **more) as alone:
            with suppress(PyMongoError):
                _ = alone.address
            if any(one.server_type_name == "Standalone" for one in _servers(alone)):
                return failures.standalone(hosts)
    return None


def _servers(client: MongoClient[Document]) -> Collection[ServerDescription]:
    return client.topology_description.server_descriptions().values()


def _wait_for_primary(client: MongoClient[Document], hosts: str = "this host") -> Document:
    """The server's `hello` once it takes writes; an election of one takes about 30 ms."""
    give_up = time.monotonic() + SERVER_SELECTION_MS / 1000
    while True:
        hello: Document = client.admin.command("hello")
        if hello.get("isWritablePrimary"):
            return hello
        if time.monotonic() > give_up:
            if hello.get("isreplicaset"):
                raise failures.uninitiated(hosts)
            raise Unreachable("the replica set has no primary")
        time.sleep(0.01)
