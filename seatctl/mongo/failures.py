"""Errors of the driver and of the server in our words. Knows nothing of seats."""

from __future__ import annotations

import re
from urllib.parse import unquote

from pymongo import errors as driver

from seatctl import errors
from seatctl.domain.words import shorten
from seatctl.errors import SeatctlError
from seatctl.mongo.settings import SETTINGS

UNAUTHORIZED, AUTHENTICATION_FAILED, DOCUMENT_VALIDATION_FAILED, TIME_LIMIT_EXCEEDED = 13, 18, 121, 50
DUPLICATE_KEY, OUT_OF_DISK_SPACE = 11000, 14031
NO_SPACE = "No space left on device"

SNAPSHOT_LOST = frozenset({239, 246})
"""SnapshotTooOld, SnapshotUnavailable."""
CURSOR_LOST = SNAPSHOT_LOST | {43, 237}
"""Those, CursorNotFound and CursorKilled."""
NO_SNAPSHOT = (
    "the server dropped the snapshot before it was read: its cache is full, or "
    "minSnapshotHistoryWindowInSeconds is too short. This change was not made; try again"
)

STEPPED_DOWN = frozenset({91, 189, 11602})
"""The primary ended or stepped down while it was asked: ShutdownInProgress, PrimarySteppedDown,
InterruptedDueToReplStateChange."""
OUTCOME_UNKNOWN = STEPPED_DOWN | {64}
"""Those, or the write was done and the majority is missing: WriteConcernFailed."""
NO_MAJORITY = (
    "a majority of the replica set is missing, and the changes of other commands wait for it; "
    "nothing can be changed until it is back. Try again then"
)

NO_THREAD = "can't start new thread"
LIMITED = (
    "this host allows the process too few threads or too little memory; raise `ulimit -u` or `ulimit -v`, "
    "then repeat the command"
)

TOO_LARGE = frozenset({257, 388})
"""TransactionTooLarge and TransactionTooLargeForCache: the same transaction fails again each time."""
TEMPORARILY_UNAVAILABLE = 365
ROUND_TRIP = re.compile(r"remaining timeout:\S+ <= network round trip time:([\d.]+)")
"""How the driver refuses to send what could not be answered in the time that is left."""
FULL_ERROR = ", full error:"
"""Begins the driver's copy of the whole answer behind the server's words."""

OTHER_SET = r'No replica set members available for replica set name "(.+?)"'
"""What the driver says of a server that does not have the `replicaSet` of the URI."""

REASONS = {
    "refused": "connection refused",
    "No such file": "no such socket",
    "Name or service not known": "unknown host name",
    "nodename nor servname": "unknown host name",
    "timed out": "no answer in time",
    "No primary": "no primary; the replica set may be electing one",
    "no replica set members match": "no primary; the replica set may be electing one",
    "Too many open files": "this process may not open more files; see `ulimit -n`",
    "SSL": "TLS handshake failed",
    "not primary": "the primary changed",
    "closed": "the connection was closed",
}
"""What the driver's text about a lost connection says, and what that means."""


def hosts_of(uri: str) -> str:
    """The hosts of a URI for a message: no user, no password, no options."""
    authority = uri.partition("://")[2].split("/", 1)[0].split("?", 1)[0]
    return unquote(authority.rsplit("@", 1)[-1])


def malformed_uri(*, is_port: bool = False) -> errors.Misconfigured:
    # Never quote the parser: its message may contain the part of the password where it failed.
    if is_port:
        return errors.Misconfigured(
            "the port in the MongoDB URI is not a number from 1 to 65535, as 27017 in "
            "mongodb://host:27017/database"
        )
    return errors.Misconfigured(
        "the MongoDB URI is malformed; it looks like mongodb://host:27017/database, where user:password@ "
        "may stand before the host, with : / ? # [ ] @ % in them percent-encoded"
    )


def code_of(error: BaseException) -> int | None:
    return error.code if isinstance(error, driver.OperationFailure) else None


CACHE_PHRASES = ("cache overflow", "oldest pinned transaction", "cache eviction", "cache is full")
"""What WiredTiger says when it rolls back to free its cache."""


def is_cache_pressure(error: BaseException) -> bool:
    """Whether the server rolled back because its cache is full, and not because of another writer."""
    return code_of(error) in {*TOO_LARGE, TEMPORARILY_UNAVAILABLE} or (
        isinstance(error, driver.OperationFailure) and any(phrase in str(error) for phrase in CACHE_PHRASES)
    )


def outcome_unknown(error: BaseException) -> errors.OutcomeUnknown:
    """The error of a write that the server may have done."""
    if code_of(error) in STEPPED_DOWN or isinstance(error, driver.NotPrimaryError):
        why = "The primary changed before a majority of the replica set had the change"
    elif isinstance(error, driver.ConnectionFailure):
        why = "The database did not answer"
    else:
        return errors.OutcomeUnknown()
    return errors.OutcomeUnknown(
        f"{why}, so it is not known whether the change was made; repeat the command, with the same --key if "
        "it has one"
    )


def translate(error: Exception, hosts: str = "") -> SeatctlError:
    """An error of the driver or the server as one of ours, in one line.

    `hosts` is where it happened; without it, the hosts that the error itself names.
    """
    if isinstance(error, SeatctlError):
        return error
    if isinstance(error, driver.InvalidURI | driver.InvalidName):
        return malformed_uri()
    if isinstance(error, driver.ConfigurationError):
        if "DNS" in str(error) or "resolution" in str(error):
            where = hosts or "the host"
            return errors.Unreachable(f"cannot look up {where}: no SRV record; check the name and the DNS")
        return errors.Misconfigured(f"the MongoDB URI cannot be used: {_one_line(error)}")
    hosts = hosts or _hosts_named_by(str(error))
    server = f"MongoDB at {hosts}" if hosts else "MongoDB"
    if other := re.search(OTHER_SET, str(error)):
        return errors.Misconfigured(
            f"{server} is not a member of a replica set {other[1]!r}; correct replicaSet in the URI, or "
            "leave it out (in mongosh, `rs.status().set` shows the name)"
        )
    if isinstance(error, driver.ConnectionFailure):
        reason = next((REASONS[sign] for sign in REASONS if sign in str(error)), "the connection failed")
        return errors.Unreachable(f"cannot reach {server} ({reason}); check that it runs, then try again")
    if isinstance(error, driver.OperationFailure):
        return _translate_failure(error, server)
    if isinstance(error, MemoryError) or NO_THREAD in str(error):
        return SeatctlError(LIMITED)
    return SeatctlError(f"{type(error).__name__}: {_one_line(error)}")


def _translate_failure(error: driver.OperationFailure, server: str) -> SeatctlError:
    if error.code == DUPLICATE_KEY:
        return errors.WriteRefused(f"a document with the same unique key already exists: {_one_line(error)}")
    if error.code == DOCUMENT_VALIDATION_FAILED:
        return errors.WriteRefused(
            "the database's validator refused a document; `seatctl verify` names what is wrong"
        )
    if error.code in (AUTHENTICATION_FAILED, UNAUTHORIZED):
        return errors.Misconfigured(_what_is_forbidden(error, server))
    if is_cache_pressure(error):
        return errors.CachePressure()
    if error.code == OUT_OF_DISK_SPACE or NO_SPACE in str(error):
        return errors.Unreachable(f"the disk of {server} is full; free space on the server, then try again")
    if isinstance(error, driver.WriteConcernError) or error.code in OUTCOME_UNKNOWN:
        return outcome_unknown(error)
    if error.code in CURSOR_LOST:
        return errors.CursorLost()
    if error.code == TIME_LIMIT_EXCEEDED:
        return errors.Unreachable(_what_took_long(error, server))
    if error.has_error_label("TransientTransactionError"):
        return errors.Contention()
    return SeatctlError(f"MongoDB answered: {_one_line(error)}")


def _what_took_long(error: driver.OperationFailure, server: str) -> str:
    if far := ROUND_TRIP.search(str(error)):
        return (
            f"{server} is too far away: each answer takes {float(far[1]):.1f} s; check the network, or run "
            "seatctl closer to the server"
        )
    return f"{server} did not finish a command in time; try again"


def _what_is_forbidden(error: driver.OperationFailure, server: str) -> str:
    if error.code == AUTHENTICATION_FAILED:
        return (
            f"{server} does not accept this user and password; "
            "check authSource in the URI, the database in which the user was created"
        )
    if "requires authentication" in str(error):
        return f"{server} requires a user, but the URI has none; put user:password@ before the host"
    # A command that is about no collection has a number in that place: listCollections: 1.
    what = re.search(r"not authorized on (\S+) to execute command \{ (\w+): (?:\"([\w.$-]+)\")?", str(error))
    needed = "`seatctl help privileges` lists the privileges that each task needs"
    if what and what[3] == SETTINGS:  # what every command reads first
        names = "check the name in the URI, --database and SEATCTL_DATABASE"
        return f"the database user has no privileges on database {what[1]}: {names}; {needed}"
    action = f"run {what[2]} on {what[1]}{'.' + what[3] if what[3] else ''}" if what else "do this"
    return f"the database user is not authorized to {action}; {needed}"


def _hosts_named_by(text: str) -> str:
    """The hosts in the driver's words: of a server selection all that it tried, else the one in front."""
    tried = re.findall(r"<ServerDescription \('([^']+)', (\d+|None)\)", text)
    if tried:
        return ",".join(host if port == "None" else f"{host}:{port}" for host, port in tried)
    front = re.match(r"(/\S+|[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+): ", text)
    return front[1] if front else ""


def _one_line(error: Exception) -> str:
    return shorten(" ".join(str(error).partition(FULL_ERROR)[0].split()), 200)


def uninitiated(hosts: str) -> errors.Misconfigured:
    return errors.Misconfigured(
        f"MongoDB at {hosts} runs with --replSet, but its replica set is not initiated: run `rs.initiate()` "
        "once in mongosh on that server"
    )


def standalone(hosts: str) -> errors.Misconfigured:
    return errors.Misconfigured(
        f"MongoDB at {hosts} is a standalone server, which has no transactions. Make it a replica set "
        "with one member: start it with `mongod --replSet rs0`, then run `rs.initiate()` once in "
        "mongosh. Or unset SEATCTL_URI to use the embedded MongoDB"
    )
