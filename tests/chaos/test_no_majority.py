"""A majority is missing while the primary stays primary, and servers that answer nothing: every command ends
soon, with exit 10, and says what is known. And one member that is missing does no harm at all.

The program runs as it is, but with limits of a few seconds; a command that waits for longer than a minute is
killed by `Shell`, and fails its test.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import scene
from bson import ObjectId
from conftest import open_store
from faults import hurried_program
from oracle import violations
from proxy import Fault, Proxy
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from servers import replica_set, set_uri, wait_until
from terminal import Result, Shell

from seatctl.mongo.collection import CURSOR_BATCH
from seatctl.mongo.store import Store

if TYPE_CHECKING:
    from servers import Server

pytestmark = pytest.mark.slow


@pytest.fixture
def hurried(tmp_path: Path) -> Shell:
    return Shell({"HOME": str(tmp_path)}, hurried_program())


def run_all(shell: Shell, uri: str, commands: dict[str, list[str]]) -> dict[str, Result]:
    """Run these side by side."""
    with ThreadPoolExecutor(4) as pool:
        running = {
            name: pool.submit(shell.with_env(SEATCTL_URI=uri), *words) for name, words in commands.items()
        }
        return {name: result.result() for name, result in running.items()}


# --- no majority -----------------------------------------------------------------------------------

MISSING = "A majority of the replica set did not answer, so it is not known whether the change was made"


def commands_with_work(store: Store) -> dict[str, list[str]]:
    """Each command that changes something, with work of its own to do."""
    ids = {name: scene.lock(store, scene.create(store)) for name in ("confirm", "release")}
    bookings = {name: scene.book(store, scene.create(store))[1] for name in ("pay", "pay --failed")}
    for _ in range(3):
        event = scene.create(store)
        scene.insert_lock(store, event)
        scene.insert_booking(store, event, scene.insert_lock(store, event), due=-scene.HOUR)
        scene.add(store, event, -2)
    return {
        "create-event": ["create-event", "X", "--seats", "5", "--date", "+30d"],
        "lock": ["lock", str(scene.create(store)), "--user", "u", "--seats", "1", "--key", "k"],
        "confirm": ["confirm", str(ids["confirm"])],
        "release": ["release", str(ids["release"])],
        "pay": ["pay", str(bookings["pay"])],
        "pay --failed": ["pay", str(bookings["pay --failed"]), "--failed"],
        "expire-locks": ["expire-locks", "--batch-size", "1"],
        "expire-bookings": ["expire-bookings", "--batch-size", "1"],
        "recover": ["recover"],
        "init": ["init", "--retention", "20d"],
    }


@pytest.fixture(scope="module")
def without_a_majority() -> Iterator[tuple[str, dict[str, list[str]], Store]]:
    """A primary that stays primary thanks to an arbiter, while the only other member with data is stopped:
    its URI, commands with work to do there, and the store."""
    servers = replica_set(3, arbiter=True)
    uri = set_uri(servers, "box")
    store = open_store(uri)
    store.init()
    commands = commands_with_work(store)
    servers[1].pause()
    # Something that waits for its majority, whichever test comes first.
    elsewhere = store.deployment.client["elsewhere"]
    elsewhere.get_collection("notes", write_concern=WriteConcern(1)).insert_one({})
    yield uri, commands, store
    store.deployment.close()
    for server in servers:
        server.stop()


def test_without_a_majority_every_change_ends_with_an_unknown_outcome(
    without_a_majority: tuple[str, dict[str, list[str]], Store], hurried: Shell
) -> None:
    uri, commands, store = without_a_majority
    results = run_all(hurried, uri, commands)
    assert {name: result.code for name, result in results.items()} == dict.fromkeys(commands, 10)
    said = {name: result.stderr for name, result in results.items()}
    # Recovery may meet what a sweep changed, which waits for its majority.
    assert {name: words for name, words in said.items() if MISSING not in words and name != "recover"} == {}
    assert "majority" in said["recover"]
    # The jobs could not know that they were logged, and so do not say so; the entries are there.
    assert {run["status"] for run in store.database.jobLogs.find()} <= {"FAILED"}

    # Once more: what the first ones changed waits for its majority, and these meet it.
    results = run_all(hurried, uri, {name: commands[name] for name in ("lock", "expire-locks", "recover")})
    assert {result.code for result in results.values()} == {10}
    assert [result.stderr for result in results.values() if "majority" not in result.stderr] == []
    assert [result.stderr for result in results.values() if "Nothing was changed" in result.stderr] == []


def test_without_a_majority_init_gives_up_with_the_first_collection(
    without_a_majority: tuple[str, dict[str, list[str]], Store], hurried: Shell
) -> None:
    """Each further one would be waited for as long."""
    uri, _, store = without_a_majority
    result = hurried.with_env(SEATCTL_URI=uri.replace("/box?", "/fresh?"))("init")
    assert (result.code, MISSING in result.stderr) == (10, True), result
    assert store.deployment.client["fresh"].list_collection_names() == ["events"]


def test_without_a_majority_everything_can_be_read_and_health_says_what_is_missing(
    without_a_majority: tuple[str, dict[str, list[str]], Store], hurried: Shell
) -> None:
    uri, _, store = without_a_majority
    assert violations(store.database) == []
    results = run_all(hurried, uri, {name: [name] for name in ("verify", "events", "health")})
    assert {name: result.code for name, result in results.items()} == {"verify": 0, "events": 0, "health": 5}
    assert "problem: a majority of the replica set is missing" in " ".join(results["health"].stdout.split())


@pytest.mark.parametrize("name", ["create-event", "lock", "expire-locks", "recover"])
def test_without_a_majority_sigterm_ends_a_command_at_once(
    without_a_majority: tuple[str, dict[str, list[str]], Store], tmp_path: Path, name: str
) -> None:
    """A job ends with its batch, and at the second signal at once. The limits are the real ones."""
    uri, commands, store = without_a_majority
    shell = Shell({"HOME": str(tmp_path), "SEATCTL_URI": f"{uri}&appName=a-{name}"})
    waiting = [{"$currentOp": {"allUsers": True}}, {"$match": {"appName": f"a-{name}", "active": True}}]
    admin = store.deployment.client.get_database("admin", read_concern=ReadConcern("local"))

    def waits() -> bool:
        """Whether a change waits for its majority."""
        commands = [operation.get("command", {}) for operation in admin.aggregate(waiting)]
        return any(write in command for command in commands for write in ("commitTransaction", "insert"))

    with shell.started(*commands[name]) as process:
        wait_until(waits, 60)
        until_it_ends(process, signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("seatctl: terminated while it worked")


def until_it_ends(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send it a signal again and again."""
    while process.poll() is None:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)


# --- one member is missing ---------------------------------------------------------------------------


def test_with_one_member_down_everything_works_also_where_nobody_ran_init(tmp_path: Path) -> None:
    servers = replica_set(3)
    try:
        shell = Shell({"HOME": str(tmp_path), "SEATCTL_URI": set_uri(servers, "box")})
        event = shell.new_id("create-event", "X", "--seats", "5", "--date", "+30d")
        with closing(open_store(set_uri(servers, "box")).deployment) as deployment:
            primary = deployment.client.primary
        next(server for server in servers if primary and server.port != primary[1]).pause()
        held = shell.new_id("lock", event, "--user", "u", "--seats", "1", "--key", "k")
        assert held == shell.new_id("lock", event, "--user", "u", "--seats", "1", "--key", "k")
        shell.ok("pay", shell.new_id("confirm", held))
        for job in ("expire-locks", "expire-bookings", "recover", "init", "verify"):
            shell.ok(job)
    finally:
        for server in servers:
            server.stop()


# --- silence ---------------------------------------------------------------------------------------


@pytest.fixture
def silence(replica: Server, store: Store, hurried: Shell) -> Iterator[tuple[Proxy, Shell, Store]]:
    """A proxy, and the program behind it."""
    proxy = Proxy(replica)
    real = open_store(replica.uri.replace("/?", f"/{store.name}?"))
    real.init()
    yield proxy, hurried.with_env(SEATCTL_URI=proxy.uri.replace("/?", f"/{store.name}?")), real
    real.deployment.close()
    proxy.close()


UNKNOWN = "so it is not known whether the change was made; repeat the command"
UNREACHABLE = "cannot reach MongoDB"


@pytest.mark.parametrize(
    ("command", "at", "says"),
    [
        ("lock", "findAndModify", UNREACHABLE),
        ("lock", "commitTransaction", UNKNOWN),
        ("expire-locks", "update", UNREACHABLE),
        ("expire-locks", "commitTransaction", UNKNOWN),
        ("create-event", "commitTransaction", UNKNOWN),
        ("verify", "aggregate", UNREACHABLE),
    ],
)
def test_a_server_that_falls_silent_is_exit_10(
    silence: tuple[Proxy, Shell, Store], command: str, at: str, says: str
) -> None:
    proxy, shell, store = silence
    words = commands_with_work(store).get(command, [command])
    proxy.at(at, 0, Fault.SILENCE)
    result = shell(*words)
    assert proxy.met.is_set()
    assert (result.code, says in result.stderr) == (10, True), result
    assert violations(store.database) == []


@pytest.mark.parametrize("fault", [Fault.SILENT_CONNECTION, Fault.SILENT_ANSWER])
@pytest.mark.parametrize("at", ["findAndModify", "commitTransaction"])
def test_a_command_whose_connection_is_dead_is_done_over_another_one(
    silence: tuple[Proxy, Shell, Store], at: str, fault: Fault
) -> None:
    proxy, shell, store = silence
    proxy.at(at, 0, fault)
    shell.ok(*commands_with_work(store)["lock"])
    assert proxy.met.is_set()
    assert violations(store.database) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "passed"), [("follow", 1), ("verify", 0), ("expire-locks", 0)])
def test_a_signal_ends_a_command_in_the_middle_of_what_it_reads_from_a_silent_server(
    silence: tuple[Proxy, Shell, Store], tmp_path: Path, command: str, passed: int, number: signal.Signals
) -> None:
    """On its way out the driver tells the server to close that, and would wait for it as long as the URI
    says. A job takes the first signal for a wish, and ends at the second. The limits are the real ones."""
    proxy, hurried, store = silence
    held = {"eventId": scene.create(store), "userId": "u", "seats": 1, "status": "ACTIVE"}
    store.database.seatLocks.insert_many({**held, "expiresAt": store.now()} for _ in range(CURSOR_BATCH + 1))
    uri = hurried.env["SEATCTL_URI"] + "&connectTimeoutMS=60000"
    proxy.at("getMore", passed, Fault.SILENCE)
    with Shell({"HOME": str(tmp_path), "SEATCTL_URI": uri}).started(command) as process:
        assert proxy.met.wait(20)
        process.send_signal(number)
        if command == "expire-locks":
            until_it_ends(process, number)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert said.startswith("seatctl: ")
    assert said.count("\n") == 1


# --- the embedded server ---------------------------------------------------------------------------


def test_a_sweep_whose_embedded_server_dies_is_logged_as_failed(hurried: Shell) -> None:
    """The command starts it again for that: whoever looks at the log must not believe that nobody ran it."""
    try:
        event = hurried.new_id("create-event", "X", "--seats", "200", "--date", "+30d")
        with closing(open_store(hurried.new_id("db", "uri")).deployment) as deployment:
            store = Store(deployment)
            for _ in range(100):
                scene.insert_lock(store, ObjectId(event))
            scene.add(store, ObjectId(event), -100)
        server = hurried("db", "status", "--json").json["pid"]
        # An entry on a server that has just started may take a while.
        with Shell(hurried.env, hurried_program(log_time=30.0)).started(
            "expire-locks", "-v", "--batch-size", "1"
        ) as process:
            assert process.stderr
            next(line for line in process.stderr if "expired in this batch" in line)
            os.kill(server, signal.SIGKILL)
            process.communicate(timeout=60)
        assert process.returncode == 10
        assert hurried("db", "status", "--json").json["running"]
        (run,) = hurried.ok("jobs", "--json").json
        assert (run["status"], run["details"]["locksExpired"] > 0) == ("FAILED", True)
        hurried.ok("expire-locks")
        hurried.ok("verify")
    finally:
        hurried("db", "stop")
