"""The least privileges: what each role may do, that it suffices, and that none of it is spare.

The roles are those of the guide "privileges". Authentication is switched on, on a replica set.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId
from conftest import open_store
from mongoose import Backend
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from scene import Document, Id, confirm, create, lock, run_expire_bookings, run_expire_locks, run_recover
from servers import Server

from seatctl.errors import Contention, Misconfigured, RefundDue
from seatctl.mongo import abandoned, transactions
from seatctl.mongo.failures import translate
from seatctl.mongo.store import Store
from seatctl.services import (
    adoption,
    blocks,
    cancellation,
    closing,
    events,
    extension,
    following,
    health,
    lists,
    payments,
    rebooking,
    refunds,
    resizing,
    sales,
)
from seatctl.services.history import history
from seatctl.services.relocking import relock
from seatctl.services.verify import verify

SEATCTL = str(Path(sys.executable).with_name("seatctl"))
PASSWORD = "c0rrect-horse"  # noqa: S105 - of a server that lives as long as the test

STATE = ("events", "seatLocks", "bookings")
ALL = (*STATE, "jobLogs", "refunds", "operations")
Grant = tuple[str, str]
"""An action, and the collection it is for; "" is the database itself."""

SETTINGS: Grant = ("find", "seatctlSettings")
"""What every command needs: to know whether another program uses the database."""
ROLES: dict[str, set[Grant]] = {
    "seatctlJobs": {
        *(("find", name) for name in STATE),
        *(("listIndexes", name) for name in STATE),
        *(("update", name) for name in STATE),
        *(("insert", name) for name in ("seatLocks", "jobLogs")),  # the block of a closed event
        SETTINGS,
    },
    "seatctlWatch": {
        *(("find", name) for name in ALL),
        *(("listIndexes", name) for name in ALL),
        SETTINGS,
        ("listCollections", ""),
    },
    "seatctlFollow": {("changeStream", ""), ("find", "")},
    "seatctlOperator": {
        SETTINGS,
        *(("find", name) for name in ALL),
        *(("insert", name) for name in (*STATE, "refunds", "operations")),
        *(("listIndexes", name) for name in STATE),
        *(("update", name) for name in (*STATE, "refunds")),
    },
    "seatctlInit": {
        *(("createCollection", name) for name in ALL),
        *(("createIndex", name) for name in ALL),
        *(("find", name) for name in ("seatLocks", "bookings")),
        *(("listIndexes", name) for name in ALL),
        *(("collMod", name) for name in (*STATE, "jobLogs")),
        SETTINGS,
        ("listCollections", ""),
    },
}


def privileges(grants: set[Grant], database: str) -> list[Document]:
    """Grants as `createRole` takes them."""
    return [
        {"resource": {"db": database, "collection": collection}, "actions": [action]}
        for action, collection in sorted(grants)
    ]


class Guarded:
    """A database on a server that asks who is there."""

    def __init__(self, server: Server, root: MongoClient[Document]) -> None:
        self.server, self.root = server, root
        self.name = f"test_{uuid.uuid4().hex}"
        self.database = root[self.name]
        self.store = open_store(self.uri("root", "admin"))

    def uri(self, user: str, source: str = "", password: str = PASSWORD) -> str:
        address = self.server.uri.replace("mongodb://", f"mongodb://{user}:{password}@")
        return address.replace("/?", f"/{self.name}?authSource={source or self.name}&")

    def grant(self, role: str, grants: set[Grant]) -> str:
        """A user with exactly these grants; returns the URI to log in with."""
        self.database.command("createRole", role, privileges=privileges(grants, self.name), roles=[])
        self.database.command("createUser", role, pwd=PASSWORD, roles=[role])
        return self.uri(role)

    def documents(self) -> Document:
        return {name: list(self.database[name].find(sort=[("_id", 1)])) for name in ALL}

    def sample(self) -> Document:
        """An event on which every command and every job finds something to do; the ids by purpose."""
        event = create(self.store, 50)
        soon = timedelta(seconds=1)
        lock(self.store, event, ttl=soon)
        confirm(self.store, lock(self.store, event), soon)
        held = lock(self.store, event)
        payments.pay(self.store, confirm(self.store, held))
        # Two faults that recovery repairs: a sale whose lock is open, and a counter that drifted.
        self.database["seatLocks"].update_one({"_id": held}, {"$set": {"status": "ACTIVE"}})
        self.database["events"].update_one({"_id": event}, {"$inc": {"availableSeats": -1}})
        # Seats that come back to it have no block yet to go into.
        closed = create(self.store, 1)
        lock(self.store, closed, ttl=soon)
        closing.close(self.store, closed)
        return {
            "event": event,
            "free": lock(self.store, event),
            "releasable": lock(self.store, event),
            "payable": confirm(self.store, lock(self.store, event)),
            "failing": confirm(self.store, lock(self.store, event)),
        }


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, MongoClient[Document]]]:
    """A replica set with authentication, and its administrator."""
    key = tmp_path_factory.mktemp("auth") / "key"
    key.write_text("bm90IGEgc2VjcmV0")
    key.chmod(0o600)
    server = Server(options=("--auth", "--keyFile", str(key))).start()
    with server.client() as first:  # nobody exists yet: the localhost exception
        first.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
    with MongoClient(server.uri, username="root", password=PASSWORD, tz_aware=True) as root:
        yield server, root
    server.stop()


@pytest.fixture
def guarded(secured: tuple[Server, MongoClient[Document]]) -> Iterator[Guarded]:
    database = Guarded(*secured)
    database.store.init()
    yield database
    database.database.command("dropAllUsersFromDatabase")
    database.database.command("dropAllRolesFromDatabase")
    database.root.drop_database(database.name)


# --- what each role is for -------------------------------------------------------------------------


def run_jobs(store: Store, _: Document) -> None:
    """All three jobs, each with something to do: what will be overdue in five seconds is the sample's."""
    for run in (run_expire_bookings, run_expire_locks):
        assert run(store, as_of=timedelta(seconds=5), force=True).processed
    assert store.exists()
    assert run_recover(store).repairs
    assert not list(verify(store))


def watch(store: Store, _: Document) -> None:
    """`health`, `verify`, `init --check`, `show` and the lists."""
    assert store.exists()
    health.check(store, max_age=timedelta(minutes=3))
    store.sizes()
    list(lists.events(store))
    list(lists.job_runs(store))
    store.find_anywhere(ObjectId())


def follow(store: Store, sample: Document) -> None:
    """The stream of changes, and the lookups for its lines."""
    assert store.exists()
    steps = following.follow(store)
    token = next(steps).token
    steps.close()
    assert next(following.follow(store, sample["event"], token)).token
    assert store.locks.seats_of(sample["free"])


def operate(store: Store, sample: Document) -> None:
    """Every command that an operator types."""
    assert store.exists()
    event = create(store, 50)
    lock(store, event, 2, user="bob", key="k")
    confirm(store, sample["free"])
    sales.release(store, sample["releasable"])
    payments.pay(store, sample["payable"], "card-1")
    payments.fail_payment(store, sample["failing"])
    events.edit_event(store, events.EditEventRequest(event, name="Gala"))
    resizing.resize(store, resizing.ResizeRequest(event, 60))
    blocks.unblock(store, blocks.block(store, blocks.BlockRequest(event, 3)).lock.id)
    closing.close(store, event)
    closing.reopen(store, event)
    extension.extend(store, extension.ExtendRequest(lock(store, event), timedelta(hours=1)))
    cancelled = cancellation.cancel(store, cancellation.CancelRequest(sample["payable"]))
    refunds.mark_done(store, cancelled.refund.id, "back-1")
    with pytest.raises(RefundDue):
        payments.pay(store, sample["failing"], "card-2")
    rebooking.rebook(store, rebooking.RebookRequest(sample["failing"], "card-2"))
    relock(store, sample["payable"])
    history(store, sample["payable"], 0)
    store.find_anywhere(ObjectId())
    list(verify(store))


def install(store: Store, _: Document) -> None:
    """`init` on a bare database, then with another retention."""
    store.exists()
    store.init()
    store.init(timedelta(days=7))
    assert store.exists()


WORK: dict[str, Callable[[Store, Document], None]] = {
    "seatctlJobs": run_jobs,
    "seatctlWatch": watch,
    "seatctlFollow": follow,
    "seatctlOperator": operate,
    "seatctlInit": install,
}


def refusal(work: Callable[[], None]) -> Exception | None:
    """What the server says to `work`, or None when it lets all of it pass."""
    try:
        work()
    except (PyMongoError, Misconfigured) as error:
        return error
    return None


@pytest.mark.parametrize("role", ROLES)
def test_each_role_suffices(guarded: Guarded, role: str) -> None:
    """With nothing but its role, a user does all that the role is for."""
    sample = guarded.sample()
    if role == "seatctlInit":
        guarded.root.drop_database(guarded.name)

    WORK[role](open_store(guarded.grant(role, ROLES[role])), sample)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_anything_to_spare(guarded: Guarded, role: str) -> None:
    """Without any one of its grants a role does not suffice, and the error says what was refused."""
    store = open_store(guarded.grant(role, ROLES[role]))
    for spared in sorted(ROLES[role]):
        sample = guarded.sample()
        if role == "seatctlInit":
            guarded.root.drop_database(guarded.name)
        rest = privileges(ROLES[role] - {spared}, guarded.name)
        guarded.database.command("updateRole", role, privileges=rest)

        error = refusal(lambda sample=sample: WORK[role](Store.open(store.deployment), sample))

        assert error is not None, f"{role} never needs {spared}"
        reason = translate(error)
        assert isinstance(reason, Misconfigured), (spared, error)
        assert re.search(
            rf"(not authorized to run \w+ on|no privileges on database) {guarded.name}[.;:]", str(reason)
        ), (spared, reason)


def test_on_an_adopted_database_the_jobs_need_the_same_on_the_collection_of_its_locks(
    guarded: Guarded,
) -> None:
    """Without the settings they would not know which that is, so nothing runs without those either."""
    guarded.root.drop_database(guarded.name)
    backend = Backend(guarded.database, lambda: datetime.now(UTC))
    backend.start()
    event = backend.event()
    for _ in range(2):
        backend.lock(event)
    backend.confirm(backend.lock(event))
    adoption.adopt(guarded.store, adoption.inspect(guarded.store))
    named = {(action, "seatlocks" if name == "seatLocks" else name) for action, name in ROLES["seatctlJobs"]}
    store = open_store(guarded.grant("jobs", named))
    later = timedelta(minutes=11)

    assert run_expire_bookings(store, as_of=later, force=True).bookings == 1
    assert run_expire_locks(store, as_of=later, force=True).locks == 2
    assert run_recover(store).error is None
    with pytest.raises(PyMongoError, match="seatctlSettings"):
        open_store(guarded.grant("others", named - {SETTINGS}))


# --- from the shell --------------------------------------------------------------------------------


def seatctl(uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SEATCTL, *arguments],
        env={"PATH": os.defpath, "SEATCTL_URI": uri},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


CREATE = "create-event X --seats 1 --date 2030-01-01"
COMMANDS = ("expire-locks", "recover", "health", "verify", "init", CREATE)


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("seatctlJobs", {"expire-locks", "recover", "verify"}),
        ("seatctlWatch", {"health", "verify", "init"}),  # which finds nothing to do
        ("seatctlFollow", set()),
        ("seatctlOperator", {CREATE, "verify"}),
        ("seatctlInit", {"init"}),
    ],
)
def test_what_a_role_may_not_do_ends_with_a_clear_error(
    guarded: Guarded, role: str, allowed: set[str]
) -> None:
    """What the role is for works; all else is exit 11 and one line that says what was refused."""
    uri = guarded.grant(role, ROLES[role])

    runs = {command: seatctl(uri, *command.split(), "-q") for command in COMMANDS}

    refused = {command: run for command, run in runs.items() if run.returncode == 11}
    assert set(refused) == set(COMMANDS) - allowed
    for run in refused.values():
        assert re.fullmatch(r"seatctl: the database user is not authorized to run [^\n]+\n", run.stderr)
    # Nobody scheduled the jobs yet, so health runs and is unhappy.
    assert {runs[command].returncode for command in allowed} <= {0, 5 if "health" in allowed else 0}
    assert not [run for run in runs.values() if PASSWORD in run.stdout + run.stderr]


@pytest.mark.parametrize("job", ["expire-locks", "expire-bookings", "recover"])
def test_a_job_whose_run_could_not_be_logged_changes_nothing(guarded: Guarded, job: str) -> None:
    """An operator may do all that a sweep does, but for its entry in the job log."""
    guarded.sample()
    operator = ROLES["seatctlOperator"] | ROLES["seatctlWatch"]
    uri = guarded.grant("seatctlOperator", operator)
    before = guarded.documents()

    refused = seatctl(uri, job, "--as-of", "+5s", "--force")
    verified = seatctl(uri, "verify")

    assert refused.returncode == 11
    assert re.search(r"nothing was changed\b.* role seatctlJobs: `seatctl help privileges`\n", refused.stderr)
    assert guarded.documents() == before
    assert seatctl(uri, job, "--as-of", "+5s", "--dry-run").returncode in (0, 5)
    assert "may not run `seatctl recover`: use the URI of the jobs' user" in verified.stderr
    guarded.database.command("grantRolesToUser", "seatctlOperator", roles=["readWrite"])
    assert "may not run" not in seatctl(uri, "verify").stderr
    assert seatctl(uri, job, "--as-of", "+5s", "--force").returncode == 0


def test_a_privilege_that_the_server_does_not_enforce_is_not_missed(database_uri: str) -> None:
    """A user may log in to a server without authorization; what its roles lack it may do all the same."""
    admin = open_store(database_uri)
    admin.database.command("createUser", "reader", pwd=PASSWORD, roles=["read"])
    login = database_uri.replace("mongodb://", f"mongodb://reader:{PASSWORD}@")
    try:
        reader = open_store(f"{login}&authSource={admin.name}")
        assert not reader.deployment.may("insert", "jobLogs")
        assert reader.job_logs.may_insert()
    finally:
        admin.database.command("dropUser", "reader")


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        ("seatctlJobs", "wr0ng-pony", "does not accept this user and password"),
        ("nobody", PASSWORD, "does not accept this user and password"),
    ],
)
def test_a_wrong_login_is_a_configuration_error(
    guarded: Guarded, user: str, password: str, words: str
) -> None:
    """Exit 11 and one line that names neither user nor password."""
    guarded.grant("seatctlJobs", ROLES["seatctlJobs"])

    run = seatctl(guarded.uri(user, password=password), "expire-locks")

    assert run.returncode == 11
    assert words in run.stderr
    assert not [secret for secret in (user, password) if secret in run.stderr]


def test_no_login_at_all_is_a_configuration_error(guarded: Guarded) -> None:
    """A URI without a user, on a server that wants one: exit 11."""
    run = seatctl(guarded.server.uri, "expire-locks")

    assert run.returncode == 11
    assert re.fullmatch(r"seatctl: [^\n]+\n", run.stderr)


def test_an_operator_needs_no_guard_for_a_key(guarded: Guarded) -> None:
    """Where the unique index is missing, and the role may not create it, a key is unique all the same."""
    event: Id = guarded.sample()["event"]
    guarded.database["seatLocks"].drop_index("one_lock_per_key")
    store = open_store(guarded.grant("seatctlOperator", ROLES["seatctlOperator"]))

    assert lock(store, event, key="k") == lock(store, event, key="k")


def test_what_a_killed_command_left_open_needs_no_privilege_to_end_but_is_the_users_own(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abandoned, "FIRST_LOOK", 0)
    monkeypatch.setattr(abandoned, "IDLE", 0.5)
    monkeypatch.setattr(transactions, "PATIENCE", 2)
    event = create(guarded.store, 50)
    uri = guarded.grant("seatctlOperator", ROLES["seatctlOperator"])
    killed, same_user = open_store(uri), open_store(uri)
    with killed.deployment.client.start_session() as session, session.start_transaction():
        killed.database.events.update_one({"_id": event}, {"$set": {"name": "x"}}, session=session)
        with pytest.raises(Contention):
            lock(guarded.store, event)
        assert lock(same_user, event)
        session.abort_transaction()
