"""Errors of the driver and of the server in our words. Knows nothing of seats."""

from __future__ import annotations

import re
from urllib.parse import unquote

from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from seatctl.domain.timespec import shorten
from seatctl.errors import (
    CachePressure,
    Contention,
    CursorLost,
    Misconfigured,
    OutcomeUnknown,
    SeatctlError,
    Unreachable,
    WriteRefused,
)

UNAUTHORIZED, AUTHENTICATION_FAILED, DOCUMENT_VALIDATION_FAILED, TIME_LIMIT_EXCEEDED = 13, 18, 121, 50
DUPLICATE_KEY = 11000

CURSOR_LOST = frozenset({43, 237, 239, 246})
"""CursorNotFound, CursorKilled, SnapshotTooOld, SnapshotUnavailable."""

OUTCOME_UNKNOWN = frozenset({64, 91, 189, 11602})
"""The write was done and the majority is missing (WriteConcernFailed), or the primary ended or stepped
down while it was asked: ShutdownInProgress, PrimarySteppedDown, InterruptedDueToReplStateChange."""

TOO_LARGE = frozenset({257, 388})
"""TransactionTooLarge and TransactionTooLargeForCache: the same transaction fails again each time."""
TEMPORARILY_UNAVAILABLE = 365

REASONS = (
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
)
"""What the driver's text about a lost connection says, and what that means."""


def hosts_of(uri: str) -> str:
    """The hosts of a URI for a message: no user, no password, no options."""
    authority = uri.partition("://")[2].split("/", 1)[0].split("?", 1)[0]
    return unquote(authority.rsplit("@", 1)[-1])


def malformed_uri() -> Misconfigured:
    # Never quote the parser: its message may contain the part of the password where it failed.
    return Misconfigured(
        "the MongoDB URI is malformed; it looks like mongodb://host:27017/database, where user:password@ "
        "may stand before the host, with : / ? # [ ] @ % in them percent-encoded"
    )


def code_of(error: BaseException) -> int | None:
    """The server's error code: of a bulk write, the first one that it reports."""
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        reports = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        code: int | None = reports[0].get("code") if reports else error.code
        return code
    return error.code if isinstance(error, OperationFailure) else None


def is_cache_pressure(error: BaseException) -> bool:
    """Whether the server rolled back because its cache is full, and not because of another writer."""
    return code_of(error) in {*TOO_LARGE, TEMPORARILY_UNAVAILABLE} or (
        isinstance(error, OperationFailure) and "cache" in str(error).partition(", full error:")[0]
    )


def explain(error: Exception, hosts: str = "") -> SeatctlError:
    """An error of the driver or the server as one of ours, in one line.

    `hosts` is where it happened; without it, the hosts that the error itself names.
    """
    hosts = hosts or _hosts_named_by(error)
    server = f"MongoDB at {hosts}" if hosts else "MongoDB"
    if isinstance(error, SeatctlError):
        return error
    if isinstance(error, InvalidURI | InvalidName):
        return malformed_uri()
    if isinstance(error, ConfigurationError):
        return _explain_configuration(error, hosts or "the host")
    if isinstance(error, ConnectionFailure):
        return Unreachable(f"cannot reach {server} ({_reason(error)}); check that it runs, then try again")
    if isinstance(error, DuplicateKeyError) or code_of(error) == DUPLICATE_KEY:
        return WriteRefused(f"the database already holds such a document: {_one_line(error)}")
    if isinstance(error, OperationFailure):
        return _explain_failure(error, server)
    return SeatctlError(f"{type(error).__name__}: {_one_line(error)}")


def _explain_configuration(error: ConfigurationError, hosts: str) -> SeatctlError:
    if "DNS" in str(error) or "resolution" in str(error):
        return Unreachable(
            f"cannot look up {hosts}: no answer for its SRV record; check the name and the DNS"
        )
    return Misconfigured(f"the MongoDB URI cannot be used: {_one_line(error)}")


def _explain_failure(error: OperationFailure, server: str) -> SeatctlError:
    code = code_of(error)
    if code == AUTHENTICATION_FAILED:
        return Misconfigured(
            f"{server} does not accept this user and password; "
            "authSource in the URI says which database knows the user"
        )
    if code == UNAUTHORIZED:
        return _explain_unauthorized(error, server)
    if code == DOCUMENT_VALIDATION_FAILED:
        return WriteRefused(
            "the database's validator refused a document; `seatctl verify` names what is wrong"
        )
    if is_cache_pressure(error):
        return CachePressure()
    if isinstance(error, WriteConcernError) or code in OUTCOME_UNKNOWN:
        return OutcomeUnknown()
    if code in CURSOR_LOST:
        return CursorLost()
    if code == TIME_LIMIT_EXCEEDED:
        return Unreachable(f"{server} did not finish a command in time; try again")
    if error.has_error_label("TransientTransactionError"):
        return Contention()
    return SeatctlError(f"MongoDB answered: {_one_line(error)}")


def _explain_unauthorized(error: OperationFailure, server: str) -> Misconfigured:
    if "requires authentication" in str(error):
        return Misconfigured(
            f"{server} wants a user, and the URI names no user; write user:password@ before its host"
        )
    # A command that is about no collection has a number in that place: listCollections: 1.
    what = re.search(r"not authorized on (\S+) to execute command \{ (\w+): (?:\"([\w.$-]+)\")?", str(error))
    action = f"run {what[2]} on {what[1]}{'.' + what[3] if what[3] else ''}" if what else "do this"
    return Misconfigured(f"the database user is not authorized to {action}; the README lists the privileges")


def _hosts_named_by(error: Exception) -> str:
    """The hosts in the driver's text: of a server selection all that it tried, else the one in front."""
    if not isinstance(error, PyMongoError):
        return ""
    tried = re.findall(r"<ServerDescription \('([^']+)', (\d+|None)\)", str(error))
    if tried:
        return ",".join(host if port == "None" else f"{host}:{port}" for host, port in tried)
    front = re.match(r"(/\S+|[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+): ", str(error))
    return front[1] if front and isinstance(error, ConnectionFailure) else ""


def _reason(error: ConnectionFailure) -> str:
    text = str(error)
    for sign, reason in REASONS:
        if sign in text:
            return reason
    return "no usable server" if isinstance(error, ServerSelectionTimeoutError) else "the connection broke"


def _one_line(error: Exception) -> str:
    return shorten(" ".join(str(error).partition(", full error:")[0].split()), 200)
