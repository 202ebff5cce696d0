"""Whatever people, scripts and settings come up with: the documented exit code, one readable line, and
nothing changed that was refused."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import open_store
from servers import Server, free_port
from stories import new_event, new_lock
from terminal import Result, Shell, here

from seatctl.services import sales

if TYPE_CHECKING:
    from pymongo.database import Database

Document = dict[str, Any]

PASSWORD = "s3cr3t-pa55"  # noqa: S105 - nobody's
LONG = "x" * 10_000
UNKNOWN = "a" * 24
REFUSED_PORT = free_port()

CREATE = ("create-event", "Gala", "--date", "2027-05-01", "--seats", "5")
LOCK = ("lock", "{event}", "--user", "ada", "--seats", "1")
NEW_EVENT = ("create-event", "Gala", "--seats", "5", "--date")

ARGUMENTS: list[tuple[int, str, tuple[str, ...]]] = [
    # ids
    *((2, "is not an id", ("show", text)) for text in ("xyz", "", " ", "{lock}0", "☃", '{"$ne": 1}', LONG)),
    (2, "is not an id", ("lock", "12", "--user", "ada", "--seats", "1")),
    (2, "is not an id", ("confirm", "a" * 23 + "g")),
    (2, "is not an id", ("pay", "0")),
    (2, "is not an id", ("release", "None")),
    (2, "is not an id", ("locks", "--event", "Gala")),
    (2, "is not an id", ("bookings", "--event", "")),
    (4, "there is no event, lock, booking, refund, operation or job run", ("show", UNKNOWN)),
    (4, "there is no event", ("lock", UNKNOWN, "--user", "ada", "--seats", "1")),
    (4, "that is the id of an event", ("confirm", "{event}")),
    (4, "that is the id of a lock", ("locks", "--event", "{lock}")),
    (4, "that is the id of a booking", ("bookings", "--event", "{booking}")),
    (4, f"there is no event {UNKNOWN}\n", ("locks", "--event", UNKNOWN)),
    (4, "that is the id of a lock", ("pay", "{lock}")),
    (4, "that is the id of a booking", ("release", "{booking}")),
    # seats
    *((2, "seats must be a whole number from 1", (*LOCK[:-1], text)) for text in ("0", "1000001")),
    (2, "--seats is a number of seats, without a sign", (*LOCK[:-1], "-1")),
    *(
        (2, "is not a whole number", (*LOCK[:-1], text))
        for text in ("1.5", "1e3", "", "two", "1_000", "٣", "0x10", "NaN", "9" * 5000)
    ),
    *((2, "seats must be a whole number from 1", (*CREATE[:-1], text)) for text in ("0", "9" * 18)),
    (2, "without a sign", (*CREATE[:-1], "-5")),
    (2, "is not a whole number", (*CREATE[:-1], "1.5")),
    (
        2,
        "--seats takes the total, without a sign (see `seatctl resize",
        ("resize", "{event}", "--seats", "+50"),
    ),
    (2, "--seats takes the total", ("cancel", "{booking}", "--seats", "+1")),
    (2, "--seats is a number of seats", ("lock", "{event}", "--user", "ada", "--seats", "+2")),
    (2, "requires an argument (see `seatctl edit-event --help`)", ("edit-event", "{event}", "--reason")),
    (3, "has 9 seats left, 10 requested", (*LOCK[:-1], "10")),
    # names and other texts
    *((2, "name must not be empty", ("create-event", text, *CREATE[2:])) for text in ("", "   ", "\n")),
    *(
        (2, "name must not contain control characters", ("create-event", text, *CREATE[2:]))
        for text in ("a\nb", "a\tb", "\x1b[31mred", "bell\x07", "a\u202eb")
    ),
    *((2, "name has", ("create-event", text, *CREATE[2:])) for text in ("x" * 201, LONG)),
    (2, "description has 10,001 characters", (*CREATE, "--description", LONG + "x")),
    (2, "description must not contain control characters", (*CREATE, "--description", "\x1b[2J")),
    (2, "description must not be empty", (*CREATE, "--description", " ")),
    (2, "user must not be empty", ("lock", "{event}", "--user", "", "--seats", "1")),
    (2, "user has 10,000 characters", ("lock", "{event}", "--user", LONG, "--seats", "1")),
    (2, "user must not contain control characters", ("lock", "{event}", "--user", "a\0b", "--seats", "1")),
    (2, "key must not be empty", (*LOCK, "--key", "")),
    (2, "key has 201 characters", (*LOCK, "--key", "x" * 201)),
    (2, "not valid UTF-8", ("create-event", "bytes \udcff", *CREATE[2:])),
    (2, "not valid UTF-8", ("locks", "--user", "\udcff")),
    # dates
    *(
        (2, "is not a time", (*NEW_EVENT, text))
        for text in ("tomorrow", "2027-13-01", "2027-02-30", "31.12.2027", "", "10000-01-01", "0000-01-01")
    ),
    *((2, "is not a time", (*NEW_EVENT, text)) for text in ("1.5e9", "2027-05-01T25:00", "now", LONG)),
    *((2, "is not a duration", (*NEW_EVENT, text)) for text in ("+", "+10", "+-5m", "++1d")),
    (2, "is longer than 3650 days", (*NEW_EVENT, "+99999d")),
    # durations
    *(
        (2, "is not a duration", (*LOCK, "--ttl", text))
        for text in (
            "10",
            "-5m",
            "1e9h",
            "",
            " ",
            "10min",
            "10M",
            "1.5h",
            "+5m",
            "\uff19m",
            "m",
            LONG,
            "9" * 10 + "s",
        )
    ),
    *((2, "longer than zero", (*LOCK, "--ttl", text)) for text in ("0s", "0h0m")),
    (2, "names a unit twice", (*LOCK, "--ttl", "1m1m")),
    (2, "is longer than 3650 days", (*LOCK, "--ttl", "999999999d")),
    (2, "longer than zero", ("confirm", "{lock}", "--payment-ttl", "0m")),
    (2, "is not a duration", ("confirm", "{lock}", "--payment-ttl", "15")),
    (2, "is not a duration", ("recover", "--wait", "forever")),
    (2, "longer than zero", ("recover", "--settle", "0s")),
    (2, "is not a duration", ("health", "--max-age", "-1m")),
    (2, "longer than zero", ("init", "--retention", "0d")),
    # choices and numbers
    (2, "'FAILED' is not one of", ("locks", "--status", "FAILED")),
    (2, "'ACTIVE' is not one of", ("bookings", "--status", "ACTIVE")),
    (2, "'running' is not one of", ("jobs", "--status", "running")),
    (2, "'NIGHTLY' is not one of", ("jobs", "--type", "NIGHTLY")),
    (2, "'cheap' is not one of 'newest', 'oldest', ", ("events", "--sort", "cheap")),
    (2, "'--limit': -1 is not a number from 0 to 1,000,000,000 (see", ("locks", "--limit", "-1")),
    (2, "'--batch-size': 0 is not a number from 1 to 10,000 (see", ("expire-locks", "--batch-size", "0")),
    *((2, "--limit", ("events", "--limit", text)) for text in ("-1", "1.5", "x", "", "9" * 30)),
    *((2, "--batch-size", ("expire-locks", "--batch-size", text)) for text in ("0", "-1", "10001", "many")),
    # commands on a whole event
    (2, "nothing to change", ("edit-event", "{event}")),
    (2, "name must not be empty", ("edit-event", "{event}", "--name", " ")),
    (2, "seats must be a whole number from 1", ("resize", "{event}", "--seats", "0")),
    (2, "--seats is a number of seats, without a sign", ("block", "{event}", "--seats", "-1")),
    (
        2,
        "--seats takes the total, without a sign (see `seatctl resize",
        ("resize", "{event}", "--seats", "+50"),
    ),
    (2, "--seats takes the total", ("cancel", "{booking}", "--seats", "+1")),
    (2, "--seats is a number of seats", ("lock", "{event}", "--user", "ada", "--seats", "+2")),
    (2, "requires an argument (see `seatctl edit-event --help`)", ("edit-event", "{event}", "--reason")),
    (3, "has 9 seats left, 10 requested", ("block", "{event}", "--seats", "10")),
    (3, "the smallest capacity is", ("resize", "{event}", "--seats", "1")),
    (3, "is not a block", ("unblock", "{lock}")),
    (4, "that is the id of a lock", ("close", "{lock}")),
    (4, "that is the id of a booking", ("reopen", "{booking}")),
    (2, "is called 'Gala', not 'Ball'", ("cancel-event", "{event}", "--confirm", "Ball")),
    (2, "missing option", ("cancel-event", "{event}")),
    # contradictions and slips
    (2, "not both", ("events", "--uri", "mongodb://h", "--uri-file", "f")),
    (3, "add --force", ("expire-locks", "--as-of", "+1h")),
    (3, "add --force", ("expire-bookings", "--as-of", "9999-12-31T23:59:59Z")),
    (2, "is not a time", ("expire-locks", "--as-of", "later", "--dry-run")),
    (2, "'16m' has no sign; write +16m", ("expire-locks", "--as-of", "16m", "--dry-run")),
    (2, "write +30d", ("create-event", "Gala", "--seats", "1", "--date", "30d")),
    (2, "no such option", ("events", "--colour")),
    (2, "-q goes after the command", ("-q", "events")),
    (2, "--event goes after the command", ("--event", "{event}", "locks")),
    (2, "Did you mean 'lock', 'locks'", ("lcok", "{event}")),
    (2, "no such command", ("delete-event", "{event}")),
    (2, "unexpected extra argument", ("release", "{lock}", "{lock}")),
    (2, "missing argument", ("pay",)),
    (2, "missing option", ("lock", "{event}", "--user", "ada")),
    (2, "requires an argument", ("events", "--database")),
    (2, "does not take a value", ("events", "--json=yes")),
    *((2, "does not take a value", line) for line in (("--version=3",), ("--help=1",), ("db", "--help=1"))),
    (2, "--database must not be empty", ("events", "--database", "")),
    *((2, "'--user': it must not be empty", (name, "--user", " ")) for name in ("locks", "bookings")),
    (2, "--per-event requires --prometheus", ("health", "--per-event")),
    (2, "combine it only with --type and --since", ("jobs", "--summary", "--status", "failed")),
    (2, "combine it only with --type and --since", ("jobs", "--summary", "--limit", "5")),
    *((2, "there is no user 'ghost'", ("schedule", kind, "--user", "ghost")) for kind in ("cron", "systemd")),
    *((2, "there is no such user", ("schedule", kind, "--user", "")) for kind in ("cron", "systemd")),
    (3, "has booking", ("release", "{booked}")),
]
THROUGH_THE_SHELL = slice(0, None, 12)
"""A process start costs as much as a dozen cases: these show that it makes no difference."""

MALFORMED = [
    f"mongodb://ada:{PASSWORD}@",
    f"mongodb://ada:{PASSWORD}@/tickets",
    f"mongodb://ada:{PASSWORD}@db.example:port/",
    f"mongodb://ada:{PASSWORD}@db.example:99999/",
    f"mongodb://ada:{PASSWORD}@db.example:-1/",
    f"mongodb://ada:{PASSWORD}@@db.example/",
    f"mongodb://ada:p@{PASSWORD}@db.example/",
    f"mongodb://ada:p/{PASSWORD}@db.example/",
    f"mongodb://ada:1/{PASSWORD}@db.example/",
    f"mongodb://ada:p?{PASSWORD}@db.example/",
    f"mongodb://ada:p:{PASSWORD}@db.example/",
    f"mongodb://ada:{PASSWORD}%zz@db.example/",
    f"mongodb://ada:%{PASSWORD}@db.example/",
    f"mongodb://:{PASSWORD}@db.example/",
    f"mongodb://ada:{PASSWORD}@[::1/",
    f"mongodb://ada:{PASSWORD}@db.example,,other/",
    f"mongodb://ada:{PASSWORD}@db.example/?tls=maybe",
    f"mongodb://ada:{PASSWORD}@db.example/?colour=blue",
    f"mongodb://ada:{PASSWORD}@db.example/?authMechanism=HANDSHAKE",
    f"mongodb://ada:{PASSWORD}@db.example/?readPreference=nearby",
    f"mongodb://ada:{PASSWORD}@db.example/?tls=true&tlsCAFile=/no/such/file",
    f"mongodb://ada:{PASSWORD}@db.example/?authSource",
    f"mongodb://ada:{PASSWORD}@db.example/?w={PASSWORD}&w=-2",
    f"mongodb://ada@db.example/?authMechanismProperties={PASSWORD}",
    f"mongodb://ada:x@db.example/?tls=false&tlsCertificateKeyFilePassword={PASSWORD}",
    f"mongodb://ada:{PASSWORD}@db.example/tick$ets",
    f"mongodb://ada:{PASSWORD}@db.example/tick ets",
    f"mongodb://ada:{PASSWORD}@db.example/ mongodb://other/",
    f"mongodb+srv://ada:{PASSWORD}@db.example:27017/",
    f"mongodb+srv://ada:{PASSWORD}@one.example,two.example/",
    f"mongodb:/ada:{PASSWORD}@db.example/",
    f"mongo://ada:{PASSWORD}@db.example/",
    f"MONGODB://ada:{PASSWORD}@db.example/",
    f"https://ada:{PASSWORD}@db.example/",
    f"ada:{PASSWORD}@db.example",
    f"{PASSWORD}",
    "",
    "mongodb://",
    "\ufeffmongodb://db.example/",
]

FILES: dict[str, tuple[int, str, bytes | None]] = {
    "missing": (11, "No such file", None),
    "a directory": (11, "Is a directory", None),
    "a dangling link": (11, "No such file", None),
    "empty": (11, "is empty", b""),
    "blank": (11, "is empty", b"\n \n"),
    "binary": (11, "not UTF-8", b"\xff\xfe\x00\x01"),
    "zeros": (11, "does not hold a MongoDB URI", bytes(100)),
    "two lines": (11, "more than one URI", b"mongodb://one.example/\nmongodb://two.example/\n"),
    "a comment": (11, "does not hold a MongoDB URI", b"# the database\n"),
    "a setting": (11, "does not hold a MongoDB URI", b"SEATCTL_URI=mongodb://one.example/\n"),
    "huge": (11, "does not hold a MongoDB URI", b"x" * 1_000_000),
}
NAMES = ("a/b", "a b", "a.b", "$a", 'a"b', "a\\b", "a\nb", "x" * 64, "\udcff")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets environment variables, for this process."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def check_refusal(result: Result, code: int, phrase: str) -> None:
    """The documented code and one readable line that says what is wrong."""
    assert result.code == code, result
    assert result.stdout == ""
    assert result.stderr.startswith("seatctl: "), result
    assert result.stderr.count("\n") == 1, result
    assert result.stderr[:-1].isprintable(), result
    assert phrase in result.stderr
    assert len(result.stderr) < 400, result
    assert "Traceback" not in result.stderr
    assert PASSWORD not in result.stderr


# --- arguments ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Healthy:
    """A healthy database that no case here may change, and ids in it."""

    uri: str
    ids: Mapping[str, str]
    database: Database[Document]


@pytest.fixture(scope="module")
def healthy(replica: Server) -> Iterator[Healthy]:
    uri = replica.uri.replace("/?", f"/test_{uuid.uuid4().hex}?")
    store = open_store(uri)
    event = new_event(store, "Gala", 11)
    locks = [new_lock(store, event, "ada").id for _ in range(2)]
    booking = sales.confirm(store, sales.ConfirmRequest(locks[1])).booking.id
    ids = {"event": event, "lock": locks[0], "booked": locks[1], "booking": booking}
    yield Healthy(uri, {name: str(value) for name, value in ids.items()}, store.database)
    store.drop()
    store.deployment.close()


def everything(database: Database[Document]) -> dict[str, list[Document]]:
    return {name: list(database[name].find()) for name in sorted(database.list_collection_names())}


def fill(arguments: tuple[str, ...], ids: Mapping[str, str]) -> list[str]:
    # Not str.format: some of them hold braces of their own.
    return [re.sub(r"{(\w+)}", lambda name: ids[name[1]], argument) for argument in arguments]


def label(value: object) -> str:
    """A parameter's name in pytest's output."""
    return ascii(value if isinstance(value, str) else " ".join(map(str, value)))[1:50]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("code", "phrase", "arguments"), ARGUMENTS, ids=[label(case[2]) for case in ARGUMENTS]
)
def test_a_bad_argument_is_refused_in_one_line_and_changes_nothing(
    healthy: Healthy,
    code: int,
    phrase: str,
    arguments: tuple[str, ...],
    settings: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is typed: the right code, one line that names the mistake, and the database as it was."""
    settings(SEATCTL_URI=healthy.uri)
    before = everything(healthy.database)
    command, *rest = fill(arguments, healthy.ids)
    check_refusal(here(capsys, command, *rest), code, phrase)
    told = here(capsys, command, "--json", *rest)
    assert told.stdout == ""
    assert told.error["exitCode"] == code == told.code
    assert everything(healthy.database) == before


@pytest.mark.parametrize(("code", "phrase", "arguments"), ARGUMENTS[THROUGH_THE_SHELL])
def test_the_installed_program_refuses_a_bad_argument_alike(
    healthy: Healthy, code: int, phrase: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    shell = Shell({"SEATCTL_URI": healthy.uri, "HOME": str(tmp_path)})
    check_refusal(shell(*fill(arguments, healthy.ids)), code, phrase)


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", MALFORMED, ids=label)
def test_a_malformed_uri_is_refused_without_a_word_of_it(
    uri: str, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    check_refusal(here(capsys, "events", "--uri", uri), 11, "URI")
    if uri:
        settings(SEATCTL_URI=uri)
        check_refusal(here(capsys, "expire-locks"), 11, "URI")


def test_what_the_driver_warns_about_in_a_uri_does_not_come_through(tmp_path: Path) -> None:
    [twice] = [uri for uri in MALFORMED if "&w=" in uri]
    check_refusal(Shell({"SEATCTL_URI": twice, "HOME": str(tmp_path)})("events"), 11, "URI")


@pytest.mark.parametrize("kind", FILES)
def test_a_uri_file_without_a_uri_is_refused_with_its_name(
    kind: str, tmp_path: Path, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever names the file: an option, the environment or systemd."""
    code, phrase, content = FILES[kind]
    path = tmp_path / "seatctl-uri"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    elif "directory" in kind:
        path.mkdir()
    elif "link" in kind:
        path.symlink_to(tmp_path / "gone")
    result = here(capsys, "events", "--uri-file", str(path))
    check_refusal(result, code, phrase)
    assert str(path) in result.stderr
    settings(SEATCTL_URI_FILE=str(path))
    check_refusal(here(capsys, "events"), code, phrase)
    settings(SEATCTL_URI_FILE="", CREDENTIALS_DIRECTORY=str(tmp_path))
    systemd = here(capsys, "verify")
    assert systemd.code == 11
    assert len(systemd.stderr.splitlines()) == 1


def test_control_characters_in_a_file_name_are_shown_as_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\x1b[2J"
    check_refusal(here(capsys, "events", "--uri-file", str(path)), 11, r"\x1b[2J")
    path.write_text(f"mongodb://127.0.0.1:{REFUSED_PORT}/?serverSelectionTimeoutMS=1")
    path.chmod(0o644)
    warned = here(capsys, "events", "--uri-file", str(path))
    assert warned.code == 10
    assert "warning" in warned.stderr
    assert warned.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", NAMES, ids=label)
def test_an_impossible_database_name_is_refused_and_not_the_uri(
    name: str, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings(SEATCTL_URI="mongodb://db.example/", SEATCTL_DATABASE=name)
    check_refusal(here(capsys, "events"), 11, "is not a valid database name")
    if name.isprintable():
        settings(SEATCTL_DATABASE="")
        check_refusal(here(capsys, "events", "--database", name), 11, "is not a valid database name")


def test_a_seatctl_mongod_that_is_no_mongod_is_refused(
    settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("/no/such/mongod", "/", "/bin/false"):
        settings(SEATCTL_MONGOD=path)
        result = here(capsys, "init", "-q")
        check_refusal(result, 11, f"SEATCTL_MONGOD={path} cannot be used")
