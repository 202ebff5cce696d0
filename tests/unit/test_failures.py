"""Errors of the driver and the server in our words."""

import pytest
from pymongo import MongoClient
from pymongo import errors as driver

from seatctl.errors import (
    CachePressure,
    Contention,
    CursorLost,
    Misconfigured,
    OutcomeUnknown,
    SeatctlError,
    SoldOut,
    Unreachable,
    WriteRefused,
)
from seatctl.mongo.client import Deployment
from seatctl.mongo.failures import hosts_of, translate

NOBODY = "mongodb://%2Fnonexistent%2Fmongod.sock/?serverSelectionTimeoutMS=200"
TREE = "gone, Timeout: 5.0s, Topology Description: <ServerDescription ('a', 27017) server_type: Unknown>"
FAR = "operation would exceed time limit, remaining timeout:1.5 <= network round trip time:2.06 (x)"
SOCKET = "gone, <ServerDescription ('/run/m.sock', None) server_type: Unknown>"


def failure(code, message="no", **details):
    return driver.OperationFailure(message, code, {"errmsg": message, "code": code, **details})


def transient(code=112, message="no"):
    return failure(code, message, errorLabels=["TransientTransactionError"])


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (SoldOut("x"), SoldOut, "x"),
        (driver.InvalidURI("mongodb://u:secret@"), Misconfigured, "malformed"),
        (driver.ConfigurationError("The DNS query name does not exist"), Unreachable, "cannot look up"),
        (driver.ConfigurationError("bad option"), Misconfigured, "cannot be used: bad option"),
        (
            driver.DuplicateKeyError("dup", 11000),
            WriteRefused,
            "a document with the same unique key already exists",
        ),
        (failure(18), Misconfigured, "does not accept this user and password"),
        (failure(13), Misconfigured, "not authorized to do this"),
        (
            failure(13, 'not authorized on box to execute command { insert: "jobLogs", ordered: true }'),
            Misconfigured,
            "not authorized to run insert on box.jobLogs;",
        ),
        (
            failure(13, "not authorized on box to execute command { listCollections: 1, filter: {} }"),
            Misconfigured,
            "not authorized to run listCollections on box;",
        ),
        (
            failure(13, 'not authorized on typo to execute command { find: "seatctlSettings", filter: {} }'),
            Misconfigured,
            "the database user has no privileges on database typo: check the name",
        ),
        (failure(13, "command find requires authentication"), Misconfigured, "but the URI has none"),
        (failure(121), WriteRefused, "validator refused"),
        (transient(), Contention, "kept winning"),
        (transient(112, "rolled back because of cache overflow"), CachePressure, "cache is full"),
        (failure(388), CachePressure, "cache is full"),
        (failure(14031), Unreachable, "the disk of MongoDB at db.example:27017 is full; free space"),
        (failure(8, "28: No space left on device"), Unreachable, "is full; free space on the server"),
        (failure(43), CursorLost, "dropped"),
        (failure(50), Unreachable, "did not finish a command in time"),
        (
            failure(14031, "available disk space is less than required"),
            Unreachable,
            "free space on the server",
        ),
        (failure(8, "28: No space left on device"), Unreachable, "free space on the server"),
        (failure(50, FAR), Unreachable, "too far away: each answer takes 2.1 s"),
        (MemoryError(), SeatctlError, "too little memory; raise `ulimit -u` or `ulimit -v`"),
        (RuntimeError("can't start new thread"), SeatctlError, "too few threads"),
        (driver.AutoReconnect("[Errno 24] Too many open files"), Unreachable, "see `ulimit -n`"),
        (driver.WTimeoutError("waiting for replication timed out", 64), OutcomeUnknown, "majority"),
        (driver.WriteConcernError("interrupted", 11602), OutcomeUnknown, "majority"),
        (failure(91), OutcomeUnknown, "majority"),
        (failure(189), OutcomeUnknown, "majority"),
        (failure(26, "no such\ncollection, full error: {'x': 1}"), SeatctlError, "answered: no such coll"),
        (RuntimeError("odd"), SeatctlError, "RuntimeError: odd"),
        (driver.ServerSelectionTimeoutError("gone"), Unreachable, "the connection failed"),
        (driver.AutoReconnect("gone"), Unreachable, "the connection failed"),
        (driver.AutoReconnect("Name or service not known"), Unreachable, "unknown host name"),
        (driver.NetworkTimeout("timed out"), Unreachable, "no answer in time"),
        (driver.ServerSelectionTimeoutError("No primary available"), Unreachable, "may be electing one"),
        (driver.AutoReconnect("SSL handshake failed"), Unreachable, "TLS handshake failed"),
        (
            driver.ServerSelectionTimeoutError('No replica set members available for replica set name "rs1"'),
            Misconfigured,
            "db.example:27017 is not a member of a replica set 'rs1'; correct replicaSet in the URI",
        ),
        (driver.NotPrimaryError("not primary"), Unreachable, "the primary changed"),
        (driver.AutoReconnect("connection closed"), Unreachable, "the connection was closed"),
    ],
)
def test_each_error_becomes_one_of_ours_in_one_line(error, kind, says):
    explained = translate(error, "db.example:27017")

    assert type(explained) is kind
    assert says in str(explained)
    assert "\n" not in str(explained)
    assert "secret" not in str(explained)


@pytest.mark.parametrize(
    ("error", "hosts"),
    [
        (driver.AutoReconnect("db.example:27017: [Errno 111] Connection refused"), "db.example:27017"),
        (driver.AutoReconnect("/run/m.sock: [Errno 2] No such file or directory"), "/run/m.sock"),
        (driver.ServerSelectionTimeoutError(TREE), "a:27017"),
        (driver.ServerSelectionTimeoutError(SOCKET), "/run/m.sock"),
    ],
)
def test_the_host_that_an_error_names_is_in_the_message(error, hosts):
    assert f"cannot reach MongoDB at {hosts} (" in str(translate(error))


def test_an_error_that_names_no_host_is_told_without_one():
    assert "cannot reach MongoDB (the primary changed);" in str(
        translate(driver.NotPrimaryError("not primary"))
    )


def test_the_host_of_a_server_that_went_away_is_in_the_message():
    with pytest.raises(driver.PyMongoError) as raised:
        Deployment(MongoClient(NOBODY), "box").now()
    assert "cannot reach MongoDB at /nonexistent/mongod.sock (" in str(translate(raised.value))


@pytest.mark.parametrize(
    ("uri", "hosts"),
    [
        ("mongodb://u:p@a,b:1/db?x=y", "a,b:1"),
        ("mongodb://%2Frun%2Fm.sock/?x", "/run/m.sock"),
        ("mongodb+srv://host?x", "host"),
        ("nonsense", ""),
    ],
)
def test_a_message_names_the_hosts_of_a_uri_and_nothing_else_of_it(uri, hosts):
    assert hosts_of(uri) == hosts
