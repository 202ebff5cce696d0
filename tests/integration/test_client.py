"""Reaching a deployment, and its clock."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import errors as driver
from pymongo.read_preferences import ReadPreference
from servers import Server

from seatctl.errors import Misconfigured, SeatctlError, Unreachable
from seatctl.mongo import client as connection
from seatctl.mongo.client import Deployment, connect, initiate

NOBODY = "mongodb://%2Fnonexistent%2Fmongod.sock/?serverSelectionTimeoutMS=200"


@pytest.fixture
def deployment(replica):
    """A fresh database on a replica set of one, under the server's clock."""
    deployment = connect(replica.uri, f"test_{uuid.uuid4().hex}", "unused")
    yield deployment
    deployment.close()


@pytest.fixture
def box(deployment):
    """A collection with one document that is worth a race."""
    deployment.database.box.insert_one({"_id": 1, "n": 0})
    return deployment.database.box


def failure(code, message="no", **details):
    return driver.OperationFailure(message, code, {"errmsg": message, "code": code, **details})


# --- connect -----------------------------------------------------------------------------------------


def test_a_standalone_server_is_refused_with_both_ways_out(standalone):
    with pytest.raises(Misconfigured) as refused:
        connect(standalone.uri, None, "box")

    for words in (standalone.host, "mongod --replSet rs0", "rs.initiate()", "unset SEATCTL_URI"):
        assert words in str(refused.value)


def test_a_standalone_server_is_named_as_such_also_where_the_uri_names_a_replica_set(standalone):
    uri = standalone.uri.replace("directConnection=true", "replicaSet=rs0")
    with pytest.raises(Misconfigured, match=f"{standalone.host} is a standalone server"):
        connect(uri, None, "box", 300)


def test_another_replica_set_is_still_told_as_such(replica):
    uri = replica.uri.replace("directConnection=true", "replicaSet=rs0")
    with pytest.raises(Misconfigured, match="is not a member of a replica set 'rs0'"):
        connect(uri, None, "box", 300)


def test_a_port_out_of_range_is_named_without_the_text_that_stands_there():
    with pytest.raises(Misconfigured, match="the port in the MongoDB URI is not a number") as refused:
        connect("mongodb://127.0.0.1:271177/box", None, "box")
    assert "271177" not in str(refused.value)


def test_a_server_before_version_6_is_refused():
    hello = {"setName": "rs", "maxWireVersion": 13}

    with pytest.raises(Misconfigured, match=r"host:1 is older than 6\.0"):
        connection._check_server(hello, "host:1")
    connection._check_server({**hello, "maxWireVersion": 17}, "host:1")


def test_a_router_of_a_sharded_cluster_has_transactions():
    connection._check_server({"msg": "isdbgrid", "maxWireVersion": 17}, "host:1")


def test_the_name_that_is_given_wins_over_the_uris_which_wins_over_the_default(replica):
    uri = replica.uri.replace("/?", "/inpath?")

    assert connect(replica.uri, None, "default").database.name == "default"
    assert connect(uri, None, "default").database.name == "inpath"
    assert connect(uri, "given", "default").database.name == "given"


@pytest.mark.parametrize(
    "options",
    [
        "w=0",
        "w=1&journal=false&wTimeoutMS=1",
        "retryWrites=false&retryReads=false",
        "readConcernLevel=local",
        "readPreference=secondary&readPreferenceTags=dc:east&maxStalenessSeconds=120",
    ],
)
def test_a_uri_cannot_weaken_a_promise(replica, options):
    deployment = connect(f"{replica.uri}&{options}", None, "box")
    database = deployment.database

    for scope in (database, database.client):
        assert scope.write_concern.document["w"] == "majority"
        assert scope.write_concern.document["wtimeout"] == connection.MAJORITY_MS
        assert scope.read_concern.level == "majority"
        assert scope.read_preference == ReadPreference.PRIMARY
    assert (database.client.options.retry_writes, database.client.options.retry_reads) == (True, True)
    for attempt in deployment.attempts():
        with attempt as session:
            assert database.box.find_one(session=session) is None
    deployment.close()


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        ("appName=mine", (5, 5, 40)),
        ("serverSelectionTimeoutMS=200&connectTimeoutMS=300&socketTimeoutMS=400", (0.2, 0.3, 0.4)),
        ("timeoutMS=300&socketTimeoutMS=400", (5, 5, 0.3)),
        ("serverSelectionTimeoutMS=0&connectTimeoutMS=0&socketTimeoutMS=0&timeoutMS=0", (5, 5, 40)),
        ("connectTimeoutMS=3600000&sockettimeoutms=3600000&timeoutMS=3600000", (5, 40, 40)),
    ],
)
def test_no_wait_is_without_an_end_whatever_the_uri_says(replica, said, waits):
    deployment = connect(f"{replica.uri}&{said}", None, "box")
    options = deployment.client.options

    pool = options.pool_options
    assert (options.server_selection_timeout, pool.connect_timeout, options.timeout) == waits
    deployment.close()


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(Unreachable, match="no such socket") as raised:
        connect(NOBODY, None, "box")

    assert "/nonexistent/mongod.sock" in str(raised.value)


def test_no_password_is_in_the_message_about_a_server_that_does_not_answer():
    with pytest.raises(Unreachable) as raised:
        connect("mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=200", None, "box")

    assert "secret" not in str(raised.value)
    assert "127.0.0.1:1 (connection refused)" in str(raised.value)


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
        "mongodb://host/?datetime_conversion=x",
        "mongodb://host/?unicode_decode_error_handler=x",
        "mongodb://host/a%20b",
    ],
)
def test_a_uri_that_cannot_be_read_is_not_quoted(uri):
    with pytest.raises(Misconfigured, match=r"malformed|cannot be used|URI") as raised:
        connect(uri, None, "box")

    assert "pa/ss" not in str(raised.value)
    assert "p@ss" not in str(raised.value)


def test_an_option_that_names_a_file_which_is_not_there_is_named():
    with pytest.raises(Misconfigured, match="a file that cannot be used: The tlscafile file is not readable"):
        connect("mongodb://host/?tls=true&tlsCAFile=/nonexistent/ca.pem", None, "box")


@pytest.mark.slow
def test_a_replica_set_that_was_never_initiated_is_told_from_one_without_a_primary(monkeypatch):
    monkeypatch.setattr(connection, "SERVER_SELECTION_MS", 200)
    server = Server(initiate=False).start()
    try:
        for options in ("directConnection=true", "", "replicaSet=test"):
            uri = server.uri.replace("directConnection=true", options)
            with pytest.raises(
                Misconfigured, match=r"is not initiated: run `rs.initiate\(\)` once in mongosh"
            ):
                connect(uri, None, "box", 500)
    finally:
        server.stop()


def test_a_member_that_never_becomes_primary_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "SERVER_SELECTION_MS", 0)

    class Secondary:
        admin = None

        def command(self, _):
            return {"isWritablePrimary": False, "setName": "rs"}

    secondary = Secondary()
    secondary.admin = secondary
    with pytest.raises(Unreachable, match="has no primary"):
        connection._wait_for_primary(secondary)


# --- initiate ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fresh_server_becomes_a_replica_set_of_one_and_stays_one():
    server = Server(initiate=False).start()
    try:
        for host in (server.host, server.host):
            initiate(server.uri, "test", host)
        with server.client() as client:
            assert client.admin.command("hello")["me"] == server.host
    finally:
        server.stop()


def test_a_server_that_is_finding_out_what_it_is_is_asked_again(monkeypatch):
    """One that has just started on the data of a replica set denies at first that it is one, and
    refuses to become one."""
    host = "/x/mongod.sock"
    asked = []
    config = {"config": {"version": 1, "members": [{"_id": 0, "host": host}]}}
    answers = iter([failure(94), failure(23), failure(94), failure(23), config, {"isWritablePrimary": True}])

    class Starting:
        def __init__(self, *_, **__):
            self.admin, self.address = self, host

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


def test_a_server_that_is_not_there_cannot_be_initiated(monkeypatch):
    monkeypatch.setattr(connection, "SERVER_SELECTION_MS", 200)
    with pytest.raises(Unreachable, match="the embedded MongoDB"):
        initiate("mongodb://%2Fnonexistent%2Fmongod.sock/?directConnection=true", "test", "x")


def test_a_standalone_server_does_not_become_a_replica_set_by_asking(standalone):
    with pytest.raises(SeatctlError):
        initiate(standalone.uri, "test", standalone.host)


# --- the clock -----------------------------------------------------------------------------------------


def test_now_is_what_the_server_says_in_utc(deployment, monkeypatch):
    before = deployment.now()

    assert before.tzinfo is UTC
    assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)
    fake = {"localTime": datetime(2001, 1, 1, tzinfo=UTC)}
    monkeypatch.setattr(type(deployment.client.admin), "command", lambda *_: fake)
    assert deployment.now() == datetime(2001, 1, 1, tzinfo=UTC)


def test_stamps_and_expressions_use_the_clock_of_the_server(deployment, box):
    before = deployment.now()
    box.update_one({"_id": 1}, deployment.stamp("at"))

    assert before <= box.find_one()["at"] <= deployment.now()
    assert box.count_documents({"$expr": {"$lte": ["$at", deployment.now_expression]}}) == 1


def test_stamps_and_expressions_use_the_clock_of_the_test(deployment, box, clock):
    under_test = Deployment(deployment.client, deployment.database.name, clock)
    assert under_test.now() == clock()
    box.update_one({"_id": 1}, under_test.stamp("at"))

    assert box.find_one()["at"] == clock()
    assert box.count_documents({"$expr": {"$eq": ["$at", under_test.now_expression]}}) == 1
