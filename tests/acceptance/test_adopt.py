"""`adopt` as a person and a script use it: the report, the consent, the exit codes, and the guide's steps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId
from conftest import open_store
from examples import GUIDES, blocks, section
from mongoose import Backend, seats_in_order
from stories import database_of, one_line
from terminal import Shell, here

USER = "a" * 24
WRITERS = (
    *("expire-locks", "expire-bookings", "recover", "init"),
    *(f"lock {USER} --user {USER} --seats 1", f"confirm {USER}", f"pay {USER}", f"release {USER}"),
    "create-event X --seats 1 --date +1d",
)


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    return Shell({"SEATCTL_URI": database_uri, "HOME": str(tmp_path), "TERM": "dumb"})


@pytest.fixture
def backend(shell: Shell) -> Iterator[Backend]:
    """A backend with a sale and a lock; its TTL index has nothing to delete within the test."""
    with database_of(shell) as database:
        started = Backend(database, lambda: datetime.now(UTC))
        started.start()
        event = started.event()
        started.pay(started.confirm(started.lock(event, 2)))
        started.lock(event)
        yield started


@pytest.mark.parametrize("command", WRITERS)
def test_every_command_that_writes_refuses_and_names_adopt_until_it_was_run(
    shell: Shell, backend: Backend, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(backend.events.find())
    uri = ("--uri", shell.env["SEATCTL_URI"])
    refused = here(capsys, *command.split(), *uri)

    assert refused.code == 11
    assert "a collection seatlocks" in one_line(refused)
    assert "`seatctl adopt --dry-run`" in one_line(refused)
    assert list(backend.events.find()) == before
    assert not {"seatLocks", "jobLogs"} & set(backend.database.list_collection_names())


def test_the_dry_run_is_a_report_in_whole_words_and_changes_nothing(shell: Shell, backend: Backend) -> None:
    by_day = backend.event_by_day(name="Fair")
    names = set(backend.database.list_collection_names())
    shown = shell("adopt", "--dry-run")

    assert shown.code == 0, shown
    for told in (
        "seatlocks",
        "the only candidate with documents",
        "PAYMENT_PENDING" if backend.bookings.count_documents({"status": "PAYMENT_PENDING"}) else "CONFIRMED",
        "users: 3 locks and bookings with an ObjectId, 0 with something else",
        "TTL index seatlocks.expiresAt_1",
        f"Fair ({by_day})",
        "its job that expires locks",
        "its recovery at start-up",
        "already wrong: nothing",
        "Nothing was changed",
    ):
        assert told in shown.stdout
    assert set(backend.database.list_collection_names()) == names
    assert backend.locks.index_information()["expiresAt_1"]["expireAfterSeconds"] == 0


def test_what_is_wrong_already_makes_the_dry_run_exit_5_and_is_named(shell: Shell, backend: Backend) -> None:
    event = backend.event(3)
    lost = backend.lock(event, 3)
    backend.pay(backend.confirm(lost))
    backend.locks.delete_one({"_id": lost})
    backend.lock(backend.event(1), seats=1)
    backend.insert_lock(event, 3)
    shown, as_json = shell("adopt", "--dry-run"), shell("adopt", "--dry-run", "--json")

    assert (shown.code, as_json.code) == (5, 5)
    assert "1 event with seats sold twice or on sale again" in one_line(shown)
    assert f"event {event}: 6 of 3 seats are sold" in shown.stdout
    assert as_json.json["soldTwice"][0]["event"] == str(event)
    assert as_json.json["adopted"] is False
    assert as_json.json["switchOff"]


def test_without_consent_nothing_is_done(shell: Shell, backend: Backend) -> None:
    for form in ([], ["--json"], ["-q"]):
        asked = shell("adopt", *form)
        assert asked.code == 2
        assert "--yes" in asked.stderr
    assert "seatctlSettings" not in backend.database.list_collection_names()


@pytest.mark.parametrize(("answer", "code"), [("yes", 0), ("no", 3), ("", 3)])
def test_a_terminal_is_asked_and_only_yes_is_consent(
    shell: Shell, backend: Backend, answer: str, code: int
) -> None:
    with shell.screen("adopt", columns=100, lines=80) as screen:
        screen.type(f"{answer}\n")
        ended = screen.end()

    assert ended.code == code, ended
    assert "Adopt this database? Type yes:" in ended.stdout
    adopted = "seatctlSettings" in backend.database.list_collection_names()
    assert adopted == (code == 0)


def test_once_adopted_every_command_works_beside_the_backend_and_undo_ends_it(
    shell: Shell, backend: Backend
) -> None:
    said = shell.ok("adopt", "--yes").stdout
    assert "is adopted, its locks are in seatlocks" in said
    event = backend.event(9)
    lock = shell.new_id("lock", str(event), "--user", USER, "--seats", "2")
    booking = shell.new_id("confirm", lock)
    shell.ok("pay", booking)
    backend.cancel(ObjectId(booking))
    assert seats_in_order(backend, event)
    for command in ("recover", "expire-locks", "expire-bookings", "verify", "init --check", "locks"):
        shell.ok(*command.split())
    refused = shell("lock", str(event), "--user", "ada", "--seats", "1")
    assert (refused.code, "24 hexadecimal digits" in one_line(refused)) == (2, True)
    assert "no validators and no unique indexes" in shell.ok("init").stdout
    assert shell.ok("verify", "--json").json["checked"]["seatLocks"] == 3

    assert "expiresAt_1 would delete after 0 s again" in shell.ok("adopt", "--undo", "--dry-run").stdout
    assert shell("adopt", "--undo").code == 2
    assert "expiresAt_1 deletes after 0 s again" in shell.ok("adopt", "--undo", "--yes").stdout
    assert "nothing to undo" in shell.ok("adopt", "--undo", "--yes").stdout
    assert shell("expire-locks").code == 11


WARNING = "because of the TTL index, MongoDB then deletes "


@pytest.mark.parametrize(("answer", "code"), [("delete", 0), ("yes", 3)])
def test_an_undo_after_which_mongodb_deletes_locks_says_so_and_is_agreed_to_by_that_word(
    shell: Shell, backend: Backend, answer: str, code: int
) -> None:
    shell.ok("adopt", "--yes")
    sold = {"status": "CONSUMED"}
    backend.locks.update_many(sold, {"$set": {"expiresAt": datetime.now(UTC) - timedelta(minutes=1)}})
    for form in (["--dry-run"], ["--dry-run", "-q"]):
        told = one_line(shell("adopt", "--undo", *form))
        assert f"{WARNING}1 document of seatlocks, 1 of them with sold or locked seats" in told
    with shell.screen("adopt", "--undo", columns=200, lines=80) as screen:
        screen.type(f"{answer}\n")
        ended = screen.end()

    assert ended.code == code, ended
    assert "Type delete:" in ended.stdout
    assert ended.stdout.count(WARNING) == (2 if code == 0 else 1)
    undone = "seatctlSettings" not in backend.database.list_collection_names()
    assert undone == (code == 0)


def test_a_script_is_warned_of_the_deletion_as_well(
    shell: Shell, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = ("--uri", shell.env["SEATCTL_URI"])
    assert here(capsys, "adopt", "--yes", *uri).code == 0
    done = here(capsys, "adopt", "--undo", "--yes", "--json", *uri)

    assert done.code == 0
    assert WARNING in done.json["warning"]
    assert json.loads(done.stderr)["warning"] == done.json["warning"]
    assert backend.locks.index_information()["expiresAt_1"]["expireAfterSeconds"] == 0


@pytest.mark.parametrize(
    "command",
    [
        *WRITERS,
        *(f"{name} {USER}" for name in ("unblock", "close", "reopen", "cancel", "rebook")),
        *(f"{name} {USER} --seats 1" for name in ("block", "resize")),
        *(f"extend {USER} --for 1h", f"edit-event {USER} --name X", f"refund {USER} --ref R"),
    ],
)
def test_where_all_locks_of_an_adopted_database_are_gone_each_command_that_writes_refuses(
    shell: Shell, backend: Backend, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A TTL index was recorded at the adoption: that is no reason to sell."""
    uri = ("--uri", shell.env["SEATCTL_URI"])
    assert here(capsys, "adopt", "--yes", *uri).code == 0
    backend.locks.delete_many({})
    before = {name: list(backend.database[name].find()) for name in ("events", "bookings", "jobLogs")}
    refused = here(capsys, *command.split(), *uri)

    assert refused.code == 11
    assert "live bookings but no locks in seatlocks" in one_line(refused)
    assert "`seatctl help adopt`" in one_line(refused)
    assert {name: list(backend.database[name].find()) for name in before} == before


def test_where_all_locks_are_gone_what_reads_still_works_and_adopt_says_what_is_next(
    shell: Shell, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = ("--uri", shell.env["SEATCTL_URI"])
    backend.locks.delete_many({})
    assert "Next: restore the locks (`seatctl help adopt`)" in here(capsys, "adopt", "--yes", *uri).stdout
    assert here(capsys, "adopt", "--dry-run", *uri).code == 5
    for command in ("events", "locks", "bookings", "jobs", "refunds", "init --check", "history"):
        assert here(capsys, *command.split(), *uri).code == 0, command
    (booking,) = backend.bookings.find()
    assert here(capsys, "show", str(booking["_id"]), *uri).code == 0
    for command in ("verify", "health"):
        told = here(capsys, command, "--json", *uri)
        assert told.code == 5
        assert "confirmed_without_lock" in told.stdout
    assert here(capsys, "relock", str(booking["_id"]), *uri).code == 0
    assert here(capsys, "verify", *uri).code == 5  # the counter is in doubt no more, but lower than it was
    assert here(capsys, "recover", "--settle", "1s", *uri).code == 0
    assert here(capsys, "verify", *uri).code == 0


@pytest.mark.parametrize("command", ["adopt", "adopt --dry-run", "adopt --yes"])
def test_where_it_would_be_a_guess_it_is_refused(shell: Shell, backend: Backend, command: str) -> None:
    backend.database.SeatLocks.insert_one({})
    refused = shell(*command.split())

    assert refused.code == 11
    assert "--locks-collection" in one_line(refused)
    assert shell("adopt", "--locks-collection", "nowhere", "--dry-run").code == 11
    assert shell("adopt", "--locks-collection", "seatlocks", "--dry-run").code == 0
    assert shell("adopt", "--locks-collection", "seatlocks", "--undo").code == 2


def test_the_guides_statement_restores_locks_that_are_gone_once(shell: Shell, backend: Backend) -> None:
    event = backend.event(5)
    gone = backend.lock(event, 2)
    backend.pay(backend.confirm(gone))
    backend.locks.delete_one({"_id": gone})
    shell.ok("adopt", "--yes")
    assert shell("verify").code == 5
    (block,) = blocks(section(GUIDES["adopt"], "Restore deleted locks"), "js")
    stages = json.loads(block.strip().removeprefix("db.bookings.aggregate(").removesuffix(")"))
    for _ in range(2):
        list(backend.bookings.aggregate(stages))
        shell.ok("verify")

    restored = backend.locks.find_one({"_id": gone})
    assert restored
    assert (restored["seats"], restored["status"], restored["passType"]) == (2, "CONSUMED", "regular")


def test_the_guides_search_finds_each_line_that_starts_a_job(tmp_path: Path) -> None:
    (search,) = blocks(section(GUIDES["adopt"], "Step 2: switch off the other program's jobs"), "sh")
    starts = {
        "src/jobs/lockExpiry.job.js": "  setInterval(expireLocks, INTERVAL * 60 * 1000);",
        "src/jobs/bookingExpiry.job.js": 'cron.schedule("* * * * *", expireBookings);',
        "src/routes/job.routes.js": "    await recoverFromFailures();",
    }
    for name, line in starts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'const Event = require("../models/Event.model");\n{line}\n')
    found = subprocess.run(["bash", "-c", search], cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S607

    assert set(found.stdout.splitlines()) == {f"{name}:2:{line}" for name, line in starts.items()}


# --- init looks first --------------------------------------------------------------------------------------


def test_init_says_what_it_left_out_and_why_and_does_the_rest(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = ("--uri", shell.env["SEATCTL_URI"])
    with database_of(shell) as database:
        same = {"eventId": ObjectId(), "userId": "u", "idempotencyKey": "k", "seats": 1, "status": "EXPIRED"}
        held = {**same, "idempotencyKey": "l", "status": "HELD"}
        database.events.insert_one({"_id": same["eventId"], "totalSeats": 9, "availableSeats": 8})
        database.seatLocks.insert_many([dict(same), dict(same), held])
        database.bookings.create_index("createdAt", expireAfterSeconds=3600)
    done = here(capsys, "init", *uri)

    assert done.code == 0
    assert "skipped: seatLocks has several documents with" in done.stdout
    assert "skipped: seatLocks has a document with the unknown status 'HELD'" in done.stdout
    assert "wrong: bookings.createdAt_1 is a TTL index" in done.stdout
    assert "created events.validator" in done.stdout
    assert "created seatLocks.locks_by_status" in done.stdout
    assert "created seatLocks.validator" not in done.stdout
    assert len(here(capsys, "init", "--json", *uri).json["leftOut"]) == 2
    faults = {found["fault"]: found for found in here(capsys, "verify", "--json", *uri).json["findings"]}
    assert faults["duplicate_key"]["accepted"]


def test_init_without_validators_and_its_removal(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    uri = ("--uri", shell.env["SEATCTL_URI"])
    assert "validator" not in here(capsys, "init", "--no-validators", *uri).stdout
    assert "created events.validator" in here(capsys, "init", *uri).stdout
    store = open_store(shell.env["SEATCTL_URI"])
    store.database.events.create_index("name", name="theirs")
    removed = here(capsys, "init", "--remove", "--json", *uri).json["removed"]

    assert {"seatLocks.one_lock_per_key", "jobLogs.retention", "events.validator"} < set(removed)
    assert set(store.database.events.index_information()) == {"_id_", "theirs"}
    assert not set(removed) - set(store.missing())
    assert here(capsys, "init", "--remove", *uri).code == 0
    assert here(capsys, "init", "--remove", "--check", *uri).code == 2
    store.deployment.close()


def test_init_checks_for_what_the_same_command_would_create(
    shell: Shell, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    """On an adopted database validators are asked for, or not there; elsewhere they are there by default."""
    uri = ("--uri", shell.env["SEATCTL_URI"])
    assert here(capsys, "adopt", "--yes", *uri).code == 0
    assert here(capsys, "init", "--check", *uri).code == 0
    names = [f"{name}.validator" for name in ("events", "seatlocks", "bookings")]
    missing = here(capsys, "init", "--validators", "--check", "--json", *uri)
    assert (missing.code, missing.json["missing"]) == (5, names)
    assert here(capsys, "init", "--validators", "--json", *uri).json["created"] == names
    assert here(capsys, "init", "--validators", "--check", *uri).code == 0

    other = ("--database", f"{backend.database.name}_own", *uri)
    assert here(capsys, "init", "--no-validators", *other).code == 0
    assert here(capsys, "init", "--check", *other).code == 5
    assert here(capsys, "init", "--no-validators", "--check", *other).code == 0
    backend.database.client.drop_database(f"{backend.database.name}_own")


def test_the_time_that_adopt_gives_a_ttl_index_is_beyond_every_deadline() -> None:
    assert datetime.now(UTC) - timedelta(seconds=2**31 - 1) < datetime(1970, 1, 1, tzinfo=UTC)
