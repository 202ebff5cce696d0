"""Transactions that start over, commits whose answers are lost, and snapshots."""

import uuid

import pytest
from pymongo import errors as driver
from servers import replica_set, set_uri

from seatctl.errors import CachePressure, Contention, CursorLost, OutcomeUnknown, SoldOut, StaleRead
from seatctl.mongo import transactions
from seatctl.mongo.client import connect
from seatctl.mongo.transactions import Attempt, Tries


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


def transient(code=112, message="no"):
    return failure(code, message, errorLabels=["TransientTransactionError"])


def transact(deployment, work):
    for attempt in deployment.attempts():
        with attempt as session:
            result = work(session)
    return result


# --- transactions -------------------------------------------------------------------------------------


def test_a_transaction_is_committed_once_and_its_result_kept(deployment, box):
    def work(session):
        box.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
        return "done"

    assert transact(deployment, work) == "done"
    assert box.find_one()["n"] == 1


def test_an_error_rolls_back_everything(deployment, box):
    def work(session):
        box.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
        raise SoldOut

    with pytest.raises(SoldOut):
        transact(deployment, work)
    assert box.find_one()["n"] == 0
    box.update_one({"_id": 1}, {"$inc": {"n": 5}})  # nothing is left that it would conflict with
    assert box.find_one()["n"] == 5


def test_a_transaction_without_a_statement_is_fine(deployment):
    assert transact(deployment, lambda _: 1) == 1


def test_a_transaction_starts_over_on_what_another_writer_left(deployment, box):
    seen = []

    def work(session):
        seen.append(box.find_one({"_id": 1}, session=session)["n"])
        if len(seen) == 1:
            box.update_one({"_id": 1}, {"$inc": {"n": 10}})
        box.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)

    transact(deployment, work)
    assert (seen, box.find_one()["n"]) == ([0, 10], 11)


def test_a_stale_read_starts_over(deployment, box):
    attempts = []

    def work(session):
        attempts.append(1)
        box.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
        if len(attempts) < 3:
            raise StaleRead

    transact(deployment, work)
    assert (len(attempts), box.find_one()["n"]) == (3, 1)


@pytest.mark.parametrize(
    ("error", "ends_with"),
    [
        (StaleRead(), Contention),
        (transient(), Contention),
        (driver.AutoReconnect("gone", {"errorLabels": ["TransientTransactionError"]}), driver.AutoReconnect),
        (transient(112, "WT_ROLLBACK: transaction rolled back because of cache overflow"), CachePressure),
        (transient(112, "-31800: oldest pinned transaction ID rolled back for eviction"), CachePressure),
        (transient(365), CachePressure),
        (transient(24, "Unable to acquire IX lock on '{4: Database, seat_cache}' within 5ms."), Contention),
        (transient(246, "pending catalog changes of collection 'cache.cache_eviction'"), Contention),
    ],
)
def test_patience_ends_with_what_kept_it_from_succeeding(deployment, monkeypatch, error, ends_with):
    monkeypatch.setattr(transactions, "PATIENCE", 0)

    def work(_):
        raise error

    with pytest.raises(ends_with):
        transact(deployment, work)


def test_a_transaction_that_the_server_ended_late_did_not_lose_to_another_writer(deployment, monkeypatch):
    monkeypatch.setattr(transactions, "PATIENCE", 0)
    monkeypatch.setattr(transactions, "SLOW_ATTEMPT", 0)

    def work(_):
        raise transient()

    with pytest.raises(CachePressure, match="or it allows no more time"):
        transact(deployment, work)


def test_a_transaction_that_a_slow_network_ended_is_no_matter_of_the_server(deployment, monkeypatch):
    monkeypatch.setattr(transactions, "SLOW_ATTEMPT", 0)

    def work(_):
        raise failure(50, "remaining timeout:1.5 <= network round trip time:2.0")

    with pytest.raises(driver.OperationFailure, match="round trip"):
        transact(deployment, work)


def test_writers_that_keep_winning_are_contention_and_nothing_is_changed(deployment, box, monkeypatch):
    monkeypatch.setattr(transactions, "PATIENCE", 0)

    def work(session):
        box.find_one({"_id": 1}, session=session)
        box.update_one({"_id": 1}, {"$inc": {"n": 10}})
        box.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)

    with pytest.raises(Contention):
        transact(deployment, work)
    assert box.find_one()["n"] == 10


@pytest.mark.parametrize("code", [239, 246])
def test_a_snapshot_that_the_server_keeps_dropping_is_named_and_not_tried_for_long(
    deployment, monkeypatch, code
):
    """Other writers may keep winning for as long as patience lasts."""
    monkeypatch.setattr(transactions, "SNAPSHOTS", 0)
    attempts = []

    def work(_):
        attempts.append(1)
        raise transient(code)

    with pytest.raises(Contention, match="dropped the snapshot before it was read"):
        transact(deployment, work)
    assert attempts == [1]


@pytest.mark.slow
def test_a_transaction_too_large_for_the_cache_is_given_up_at_once(deployment, box):
    attempts = []

    def work(session):
        attempts.append(1)
        for number in range(400):
            box.insert_one({"number": number, "payload": "x" * 1_000_000}, session=session)

    with pytest.raises(CachePressure):
        transact(deployment, work)
    assert (attempts, box.count_documents({})) == ([1], 1)


class Commits:
    """A session whose commit gives these answers."""

    in_transaction = True

    def __init__(self, *answers, client=None):
        self.answers = list(answers)
        self.client = client

    def start_transaction(self, *_, **__):
        pass

    def commit_transaction(self):
        answer = self.answers.pop(0)
        if answer:
            raise answer


def unknown(kind=driver.AutoReconnect):
    return kind("lost", {"errorLabels": ["UnknownTransactionCommitResult"]})


def commit(session, give_up):
    attempt = Attempt(session, Tries(give_up, give_up))
    with attempt:
        pass
    return attempt.succeeded


def test_a_commit_whose_answer_was_lost_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(transactions, "BACKOFF_LONGEST", 0)
    session = Commits(unknown(), unknown(), None)

    assert commit(session, give_up=float("inf"))
    assert session.answers == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (unknown(), "The database did not answer"),
        (unknown(driver.NotPrimaryError), "The primary changed"),
        (failure(189, errorLabels=["UnknownTransactionCommitResult"]), "The primary changed"),
        (failure(64, errorLabels=["UnknownTransactionCommitResult"]), "A majority of the replica set"),
        (failure(11601), "A majority of the replica set"),
    ],
)
def test_a_commit_that_nobody_answers_has_an_unknown_outcome(deployment, error, says):
    with pytest.raises(OutcomeUnknown, match=f"{says}.*, so it is not known whether the change was made"):
        commit(Commits(error, client=deployment.client), give_up=0)


def test_a_commit_that_is_refused_starts_over_or_fails():
    assert not commit(Commits(transient(251)), give_up=float("inf"))
    with pytest.raises(driver.OperationFailure):
        commit(Commits(failure(1)), give_up=float("inf"))


@pytest.mark.slow
def test_a_commit_without_a_majority_has_an_unknown_outcome(monkeypatch):
    """The primary applied it, and may lose it again."""
    servers = replica_set(3)
    try:
        deployment = connect(set_uri(servers), "box", "unused")
        box = deployment.database.box
        box.insert_one({"_id": 1, "n": 0})
        monkeypatch.setattr(transactions, "TIME_LIMIT", 1)
        monkeypatch.setattr(transactions, "PATIENCE", 0)
        primary = deployment.client.primary
        for server in servers:
            if server.port != primary[1]:
                server.pause()
        with pytest.raises(OutcomeUnknown) as raised:
            transact(deployment, lambda session: box.update_one({}, {"$inc": {"n": 1}}, session=session))
        assert raised.value.exit_code == 10
        deployment.close()
    finally:
        for server in servers:
            server.stop()


# --- snapshots -----------------------------------------------------------------------------------------


def test_a_snapshot_sees_one_point_in_time(deployment, box):
    with deployment.snapshot() as session:
        first = box.find_one({"_id": 1}, session=session)
        box.update_one({"_id": 1}, {"$inc": {"n": 1}})
        second = box.find_one({"_id": 1}, session=session)

    assert first == second
    assert box.find_one()["n"] == 1


def test_a_cursor_that_the_server_dropped_is_a_lost_cursor(deployment, box):
    box.insert_many([{} for _ in range(10)])

    def read(session):
        cursor = box.find({}, session=session, batch_size=2)
        next(cursor)
        deployment.database.command("killCursors", "box", cursors=[cursor.cursor_id])
        return list(cursor)

    with pytest.raises(CursorLost), deployment.snapshot() as session:
        read(session)


@pytest.mark.parametrize("code", [239, 246])
def test_a_snapshot_that_is_too_old_is_a_lost_cursor(deployment, code):
    with pytest.raises(CursorLost), deployment.snapshot():
        raise failure(code)


def test_another_error_leaves_a_snapshot_as_it_is(deployment):
    with pytest.raises(driver.OperationFailure), deployment.snapshot():
        raise failure(26)
