"""Reaching a deployment, its transactions and its errors in our words."""

from datetime import UTC, datetime, timedelta

import pytest
from conftest import open_store
from pymongo import errors as driver
from servers import Server

from seatctl.errors import Contention, Misconfigured, SeatctlError, SoldOut, Unreachable, WriteRefused
from seatctl.mongo import client as connection
from seatctl.mongo.client import Deployment, connect, explain, hosts_of, initiate

NOBODY = "mongodb://%2Fnonexistent%2Fmongod.sock/?serverSelectionTimeoutMS=200"


def failure(code, message="no", **details):
    return driver.OperationFailure(message, code, {"errmsg": message, "code": code, **details})


# --- connect -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "transactions"), [("replica", True), ("standalone", False)])
def test_kinds_of_deployment(request, kind, transactions):
    """A replica set has transactions, a standalone has none."""
    deployment = connect(request.getfixturevalue(kind).uri, None, "box")

    assert deployment.transactions is transactions
    assert deployment.database.name == "box"
    deployment.close()


def test_name_of_the_database(replica):
    """The name that is given wins over the URI's, which wins over the default."""
    uri = replica.uri.replace("/?", "/inpath?")

    assert connect(uri, None, "default").database.name == "inpath"
    assert connect(uri, "given", "default").database.name == "given"


def test_clock_of_the_server(replica, monkeypatch):
    """Now is what the server says, in UTC, whatever this host's clock says."""
    store = open_store(replica.uri)
    before = store.now()

    assert before.tzinfo is UTC
    assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)
    fake = {"localTime": datetime(2001, 1, 1, tzinfo=UTC)}
    monkeypatch.setattr(type(store.deployment.client.admin), "command", lambda *_: fake)
    assert store.now() == datetime(2001, 1, 1, tzinfo=UTC)


def test_unreachable():
    """A server that does not answer is worth a retry; the message names it and no secret."""
    with pytest.raises(Unreachable, match="no such socket") as raised:
        connect(NOBODY, None, "box")
    assert "/nonexistent/mongod.sock" in str(raised.value)


def test_unreachable_with_a_password():
    """No password is in the message."""
    with pytest.raises(Unreachable) as raised:
        connect("mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=200", None, "box")
    assert "secret" not in str(raised.value)
    assert "connection refused" in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://",
        "mongodb://host:notaport",
        "mongodb://host:99999",
        "mongodb://user:pa/ss@host",
        "mongodb://user:p@ss@host",
        "mongodb://user:%zz@host",
        "nonsense",
        "mongodb://host/?serverSelectionTimeoutMS=x",
        "mongodb://host/?directConnection=true&replicaSet",
        "mongodb://host/a%20b",
    ],
)
def test_malformed_uri(uri):
    """A URI that cannot be read is a matter of configuration and is not quoted."""
    with pytest.raises(Misconfigured, match=r"malformed|cannot be used|URI") as raised:
        connect(uri, None, "box")
    assert "pa/ss" not in str(raised.value)
    assert "p@ss" not in str(raised.value)


@pytest.mark.slow
def test_replica_set_that_was_never_initiated(monkeypatch):
    """A replica set without a configuration is told apart from one without a primary."""
    monkeypatch.setattr(connection, "SERVER_SELECTION_MS", 200)
    server = Server(initiate=False).start()
    try:
        with pytest.raises(Unreachable, match=r"is not initiated; run rs.initiate\(\) on it"):
            connect(server.uri, None, "box")
    finally:
        server.stop()


@pytest.mark.slow
def test_initiate():
    """A fresh server becomes a replica set of one; done again, it stays one."""
    server = Server(initiate=False).start()
    try:
        for host in (server.host, server.host):
            initiate(server.uri, "test", host)
        with server.client() as client:
            assert client.admin.command("hello")["me"] == server.host
    finally:
        server.stop()


def test_initiate_of_a_server_that_is_finding_itself(monkeypatch):
    """A server that has just started on the data of a replica set denies at first that it is one, and
    refuses to become one; it is asked again, and is left as it is."""
    host = "/x/mongod.sock"
    asked = []
    config = {"config": {"version": 1, "members": [{"_id": 0, "host": host}]}}
    answers = iter([failure(94), failure(23), failure(94), failure(23), config, {"isWritablePrimary": True}])

    class Starting:
        def __init__(self, *_, **__):
            self.admin = self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __class_getitem__(cls, _):
            return cls

        def command(self, name, *_, **__):
            asked.append(name)
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(connection, "MongoClient", Starting)
    initiate("mongodb://x", "test", host)

    expected = ["replSetGetConfig", "replSetInitiate"] * 2 + ["replSetGetConfig", "hello"]
    assert expected == asked


def test_initiate_of_nothing(monkeypatch):
    """A server that is not there cannot be initiated."""
    monkeypatch.setattr(connection, "SERVER_SELECTION_MS", 200)
    with pytest.raises(Unreachable, match="the embedded MongoDB"):
        initiate("mongodb://%2Fnonexistent%2Fmongod.sock/?directConnection=true", "test", "x")


def test_initiate_of_a_standalone(standalone):
    """A server that is no replica set cannot become one by asking."""
    with pytest.raises(SeatctlError):
        initiate(standalone.uri, "test", standalone.host)


def test_waiting_for_a_primary(monkeypatch):
    """A member that never becomes primary is given up on."""
    monkeypatch.setattr(connection, "SERVER_SELECTION_MS", 0)

    class Secondary:
        admin = None

        def command(self, _):
            return {"isWritablePrimary": False, "setName": "rs"}

    secondary = Secondary()
    secondary.admin = secondary
    with pytest.raises(Unreachable, match="has no primary"):
        connection._wait_for_primary(secondary)


# --- transactions -------------------------------------------------------------------------------------


def test_rollback(replica_store):
    """An error in a transaction rolls back everything it wrote."""

    def work(session):
        replica_store.database.box.insert_one({}, session=session)
        raise SoldOut

    replica_store.database.create_collection("box")
    with pytest.raises(SoldOut):
        replica_store.transact(work)
    assert replica_store.database.box.count_documents({}) == 0


def test_without_transactions(standalone_store):
    """Where there are none, the same work runs without a session."""
    assert standalone_store.transact(lambda session: session) is None


def test_conflict(replica_store):
    """A transaction that meets another writer starts over on what that one left."""
    box = replica_store.database.box
    box.insert_one({"_id": 1, "n": 0})
    seen = []

    def work(session):
        seen.append(box.find_one({"_id": 1}, session=session)["n"])
        if len(seen) == 1:
            box.update_one({"_id": 1}, {"$inc": {"n": 10}})
        box.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)

    replica_store.transact(work)
    assert (seen, box.find_one()["n"]) == ([0, 10], 11)


def test_endless_conflict(replica_store, monkeypatch):
    """When others keep winning, it ends with a word about contention and nothing changed."""
    monkeypatch.setattr(connection, "TRANSACTION_PATIENCE", 0)
    box = replica_store.database.box
    box.insert_one({"_id": 1, "n": 0})

    def work(session):
        box.find_one({"_id": 1}, session=session)
        box.update_one({"_id": 1}, {"$inc": {"n": 10}})
        box.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)

    with pytest.raises(Contention):
        replica_store.transact(work)
    assert box.find_one()["n"] == 10


def test_lost_connection(replica_store, monkeypatch):
    """When the server stays away, the transaction ends with that, not with contention."""
    monkeypatch.setattr(connection, "TRANSACTION_PATIENCE", 0)

    def work(_):
        raise driver.AutoReconnect("gone", {"errorLabels": ["TransientTransactionError"]})

    with pytest.raises(driver.AutoReconnect):
        replica_store.transact(work)


class Commits:
    """A session whose commit gives these answers."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def commit_transaction(self):
        answer = self.answers.pop(0)
        if answer:
            raise answer


def unknown():
    return driver.AutoReconnect("lost", {"errorLabels": ["UnknownTransactionCommitResult"]})


def test_commit_with_a_lost_answer():
    """A commit whose answer was lost is asked for again, until patience ends."""
    session = Commits(unknown(), unknown(), None)
    Deployment._commit(session, give_up=float("inf"))
    assert session.answers == []

    with pytest.raises(driver.AutoReconnect):
        Deployment._commit(Commits(unknown()), give_up=0)
    with pytest.raises(driver.OperationFailure):
        Deployment._commit(Commits(failure(1)), give_up=float("inf"))


# --- errors in our words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (SoldOut("x"), SoldOut, "x"),
        (driver.InvalidURI("mongodb://u:secret@"), Misconfigured, "malformed"),
        (driver.ConfigurationError("The DNS query name does not exist"), Unreachable, "cannot look up"),
        (driver.ConfigurationError("bad option"), Misconfigured, "cannot be used: bad option"),
        (driver.DuplicateKeyError("dup", 11000), WriteRefused, "already holds such a document"),
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
        (failure(13, "command find requires authentication"), Misconfigured, "the URI names no user"),
        (failure(121), WriteRefused, "validator refused"),
        (failure(112, errorLabels=["TransientTransactionError"]), Contention, "kept winning"),
        (failure(26, "no such\ncollection, full error: {'x': 1}"), SeatctlError, "answered: no such coll"),
        (RuntimeError("odd"), SeatctlError, "RuntimeError: odd"),
        (driver.ServerSelectionTimeoutError("gone"), Unreachable, "no usable server"),
        (driver.AutoReconnect("gone"), Unreachable, "the connection broke"),
        (driver.AutoReconnect("Name or service not known"), Unreachable, "unknown host name"),
        (driver.NetworkTimeout("timed out"), Unreachable, "no answer in time"),
        (driver.ServerSelectionTimeoutError("No primary available"), Unreachable, "may be electing one"),
        (driver.AutoReconnect("SSL handshake failed"), Unreachable, "TLS handshake failed"),
        (driver.NotPrimaryError("not primary"), Unreachable, "the primary changed"),
        (driver.AutoReconnect("connection closed"), Unreachable, "the connection was closed"),
    ],
)
def test_explain(error, kind, says):
    """Each error of the driver or server becomes one of ours, in one line that says what to do."""
    explained = explain(error, "db.example:27017")

    assert type(explained) is kind
    assert says in str(explained)
    assert "\n" not in str(explained)
    assert "secret" not in str(explained)


@pytest.mark.parametrize(
    ("uri", "hosts"),
    [
        ("mongodb://u:p@a,b:1/db?x=y", "a,b:1"),
        ("mongodb://%2Frun%2Fm.sock/?x", "/run/m.sock"),
        ("mongodb+srv://host?x", "host"),
        ("nonsense", "the configured host"),
    ],
)
def test_hosts(uri, hosts):
    """A message names the hosts of a URI and nothing else of it."""
    assert hosts_of(uri) == hosts
