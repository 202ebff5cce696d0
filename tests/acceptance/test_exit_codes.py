"""Each way in which a command ends: its exit code, its word for scripts, its one line."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from conftest import open_store
from stories import (
    NOBODY,
    PAST,
    Story,
    database_of,
    insert_overdue,
    make_trouble,
    new_shell,
    one_line,
)
from terminal import Shell, here

from seatctl import errors
from seatctl.cli.app import program
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.services.verify import verify

if TYPE_CHECKING:
    from pymongo.database import Database

MANY = 1_500


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    """The program with an empty database of a replica set configured."""
    return new_shell(database_uri, tmp_path)


ENDINGS: dict[int, list[tuple[str, str]]] = {
    0: [("", "events"), ("", "release {lock}")],
    1: [("items_left", "expire-locks"), ("damaged_document", "lock {damaged} --user ada --seats 1")],
    2: [("usage", "lock"), ("usage", "no-such-command"), ("usage", "show xyz")],
    3: [
        ("deadline_passed", "confirm {overdue}"),
        ("sold_out", "lock {event} --user ada --seats 10"),
        ("key_reused", "lock {event} --user ada --seats 2 --key k"),
        ("wrong_state", "release {booked}"),
        ("future_refused", "expire-locks --as-of +1h"),
    ],
    4: [("not_found", "show aaaaaaaaaaaaaaaaaaaaaaaa"), ("not_found", "pay {lock}")],
    5: [("unhealthy", "verify"), ("unhealthy", "health"), ("unhealthy", "init --check")],
    10: [("unreachable", f"events --uri {NOBODY}")],
    11: [
        ("configuration", "events --uri nonsense"),
        ("configuration", "events --uri-file /no/such/file"),
        ("configuration", "init --check --database never_used"),
    ],
}
SIGNALS = (130, 143)
"""Tried below, where something is there to interrupt."""


@pytest.fixture
def trouble(shell: Shell) -> Story:
    return make_trouble(shell)


@pytest.mark.parametrize("code", ENDINGS)
def test_each_ending_has_its_exit_code_its_word_and_one_line(
    trouble: Story, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for word, line in ENDINGS[code]:
        told = trouble.shell(*trouble(line), "--json")
        assert code == told.code, told
        if code:
            assert (word, code) == (told.error["code"], told.error["exitCode"])
            monkeypatch.setenv("SEATCTL_URI", trouble.shell.env["SEATCTL_URI"])
            plain = here(capsys, *trouble(line), "-q")
            assert code == plain.code
            assert told.error["message"].split(" (")[0] in one_line(plain)
        else:
            assert told.stderr == ""


@pytest.mark.parametrize(
    ("command", "code"), [("init --check", 5), ("verify", 5), ("health", 5), ("recover", 1)]
)
def test_a_ttl_index_is_named_by_every_check(
    shell: Shell, command: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that would delete locks is named, with the way to drop it, and is no success."""
    monkeypatch.setenv("SEATCTL_URI", shell.env["SEATCTL_URI"])
    here(capsys, "init")
    with database_of(shell) as database:
        database.seatLocks.create_index("createdAt", name="tidy", expireAfterSeconds=10**9)
    told, as_json = here(capsys, *command.split()), here(capsys, *command.split(), "--json")
    assert (told.code, as_json.code) == (code, code)
    if command == "init --check":
        assert "1 index wrong; the lines above say what to do" in told.stderr
        assert "`seatctl verify` says what to do" in as_json.stderr
    for shown in (told.stdout, as_json.stdout.replace("\\", "")):
        assert 'db.seatLocks.dropIndex("tidy")' in shown


@pytest.mark.parametrize(
    ("form", "where"), [("", "the table"), ("-q", "`seatctl verify`"), ("--json", "`seatctl verify`")]
)
def test_verify_points_to_the_table_only_where_it_prints_one(
    trouble: Story, form: str, where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEATCTL_URI", trouble.shell.env["SEATCTL_URI"])

    assert f"found; {where} says what to do about each" in here(capsys, "verify", *form.split()).stderr


def test_every_exit_code_of_an_error_and_of_the_help_is_tried_here() -> None:
    known = {leaf.exit_code for leaf in all_errors(errors.SeatctlError)}
    assert {0} | known == set(ENDINGS)
    promised = {int(number) for number in re.findall(r"\b\d+\b", program.epilog or "")}
    assert promised == {*ENDINGS, *SIGNALS}


def all_errors(root: type[errors.SeatctlError]) -> Iterator[type[errors.SeatctlError]]:
    if root is not errors.Interrupted:  # its code is the signal's
        yield root
    for leaf in root.__subclasses__():
        yield from all_errors(leaf)


@pytest.mark.parametrize(
    "uri",
    [
        NOBODY,
        "mongodb://no-such-host.invalid/?serverSelectionTimeoutMS=50",
        "mongodb://%2Fno%2Fsuch.sock/?serverSelectionTimeoutMS=50",
    ],
    ids=["refused", "no such host", "no such socket"],
)
def test_an_unreachable_server_is_named_with_the_reason(uri: str, tmp_path: Path) -> None:
    result = Shell({"HOME": str(tmp_path), "SEATCTL_URI": uri})("expire-locks")
    assert result.code == 10
    assert re.search(r"cannot reach MongoDB at (127|no-such-host|/no/such)\S+ \([\w ]+\)", one_line(result))
    assert result.stdout == ""


# --- interruptions ------------------------------------------------------------------------------------


def insert_overdue_bookings(database: Database[dict[str, Any]], event: str) -> None:
    database.bookings.insert_many(
        {
            "event": ObjectId(event),
            "user": lock["userId"],
            "seatLockId": lock["_id"],
            "status": "PAYMENT_PENDING",
            "paymentExpiresAt": PAST,
        }
        for lock in database.seatLocks.find()
    )


@pytest.mark.slow
@pytest.mark.parametrize("job", ["expire-locks", "expire-bookings", "recover"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_ends_between_two_transactions(
    shell: Shell, job: str, number: signal.Signals
) -> None:
    """The run is logged as far as it came, no seat is lost, and the next run does the rest."""
    with database_of(shell) as database:
        event = insert_overdue(database, MANY, available=0, total=MANY)
        if job != "expire-locks":
            insert_overdue_bookings(database, event)
        with shell.started(job, "-v", "--batch-size", "10") as process:
            assert process.stderr
            next(line for line in process.stderr if "expired in this batch" in line)
            process.send_signal(number)
            said = process.stderr.read().splitlines()[-1]
        assert 128 + number == process.returncode

        [run] = database.jobLogs.find()
        expired = database.seatLocks.count_documents({"status": LockStatus.EXPIRED})
        assert 0 < expired < MANY
        processed = run["details"]["recordsProcessed"]
        assert processed == expired * (2 if job == "recover" else 1)
        assert expired == run["details"]["seatsRestored"] == run["details"]["locksExpired"]
        what = {"expire-locks": "locks", "expire-bookings": "bookings"}.get(job, "records")
        assert ("FAILED", f"interrupted after {processed} {what}") == (run["status"], run["error"])
        assert f"seatctl: interrupted after {processed} {what}" == said
        assert expired == database.events.find_one()["availableSeats"]
        if job != "expire-locks":
            assert expired == database.bookings.count_documents({"status": BookingStatus.EXPIRED})
        assert_consistent(shell)
        shell.ok(job, "-q")
        assert database.events.find_one()["availableSeats"] == MANY
        assert {"FAILED", "SUCCESS"} == {run["status"] for run in database.jobLogs.find()}


def assert_consistent(shell: Shell) -> None:
    store = open_store(shell.env["SEATCTL_URI"])
    assert list(verify(store)) == []
    store.deployment.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wait_for_the_database_can_be_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    shell = Shell({"HOME": str(tmp_path), "SEATCTL_URI": NOBODY})
    with shell.started("recover", "--wait", "1h", "-v") as process:
        assert process.stderr
        next(line for line in process.stderr if "waiting" in line)
        process.send_signal(number)
        *_, said = process.stderr.read().splitlines()
    assert 128 + number == process.returncode
    assert said.startswith("seatctl: ")
    assert "Traceback" not in said
