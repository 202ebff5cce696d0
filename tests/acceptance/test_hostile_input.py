"""Whatever people, scripts, settings and other programs come up with: the documented exit code, one
readable line, nothing changed that was refused, and the rest of the batch done."""

from __future__ import annotations

import math
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import DatetimeMS, DBRef, Decimal128, Int64, ObjectId
from conftest import open_store
from pymongo import MongoClient
from servers import Server, free_port
from terminal import Result, Shell, here

from seatctl.services import sales as booking

if TYPE_CHECKING:
    from pymongo.database import Database

Document = dict[str, Any]

PASSWORD = "s3cr3t-pa55"  # noqa: S105 - nobody's
PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime(2090, 1, 1, tzinfo=UTC)
LONG = "x" * 10_000
UNKNOWN = "a" * 24
STRANGER = ObjectId("b" * 24)
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
    (4, "there is no event, lock, booking or job run", ("show", UNKNOWN)),
    (4, "there is no event", ("lock", UNKNOWN, "--user", "ada", "--seats", "1")),
    (4, "that is the id of an event", ("confirm", "{event}")),
    (4, "that is the id of a lock", ("locks", "--event", "{lock}")),
    (4, "that is the id of a booking", ("bookings", "--event", "{booking}")),
    (4, f"there is no event {UNKNOWN}\n", ("locks", "--event", UNKNOWN)),
    (4, "that is the id of a lock", ("pay", "{lock}")),
    (4, "that is the id of a booking", ("release", "{booking}")),
    # seats
    *((2, "seats must be a whole number from 1", (*LOCK[:-1], text)) for text in ("0", "-1", "1000001")),
    *(
        (2, "is not a whole number", (*LOCK[:-1], text))
        for text in ("1.5", "1e3", "", "two", "1_000", "٣", "0x10", "NaN", "9" * 5000)
    ),
    *((2, "seats must be a whole number from 1", (*CREATE[:-1], text)) for text in ("0", "-5", "9" * 18)),
    (2, "is not a whole number", (*CREATE[:-1], "1.5")),
    (3, "has 9 seats left, 10 asked", (*LOCK[:-1], "10")),
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
    (2, "is not a duration", ("health", "--max-age", "-1m")),
    (2, "longer than zero", ("init", "--retention", "0d")),
    # choices and numbers
    (2, "'FAILED' is not one of", ("locks", "--status", "FAILED")),
    (2, "'ACTIVE' is not one of", ("bookings", "--status", "ACTIVE")),
    (2, "'running' is not one of", ("jobs", "--status", "running")),
    (2, "'NIGHTLY' is not one of", ("jobs", "--type", "NIGHTLY")),
    (2, "'oldest' is not one of 'newest', 'fullest' (see", ("events", "--sort", "oldest")),
    (2, "'--limit': -1 is not a number from 0 to 1,000,000,000 (see", ("locks", "--limit", "-1")),
    (2, "'--batch-size': 0 is not a number from 1 to 10,000 (see", ("expire-locks", "--batch-size", "0")),
    *((2, "--limit", ("events", "--limit", text)) for text in ("-1", "1.5", "x", "", "9" * 30)),
    *((2, "--batch-size", ("expire-locks", "--batch-size", text)) for text in ("0", "-1", "10001", "many")),
    # contradictions and slips
    (2, "not both", ("events", "--uri", "mongodb://h", "--uri-file", "f")),
    (3, "add --force", ("expire-locks", "--as-of", "+1h")),
    (3, "add --force", ("expire-bookings", "--as-of", "9999-12-31T23:59:59Z")),
    (2, "is not a time", ("expire-locks", "--as-of", "later", "--dry-run")),
    (2, "No such option", ("events", "--colour")),
    (2, "-q goes after the command", ("-q", "events")),
    (2, "No such command", ("delete-event", "{event}")),
    (2, "unexpected extra argument", ("release", "{lock}", "{lock}")),
    (2, "Missing argument", ("pay",)),
    (2, "Missing option", ("lock", "{event}", "--user", "ada")),
    (2, "requires an argument", ("events", "--database")),
    (2, "does not take a value", ("events", "--json=yes")),
    (2, "--database must not be empty", ("events", "--database", "")),
    *((2, "'--user': it must not be empty", (name, "--user", " ")) for name in ("locks", "bookings")),
    (2, "--per-event goes with --prometheus only", ("health", "--per-event")),
    (2, "goes with --type and --since only", ("jobs", "--summary", "--status", "failed")),
    (2, "goes with --type and --since only", ("jobs", "--summary", "--limit", "5")),
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
    event = booking.create_event(store, "Gala", 11, timedelta(days=9)).document["_id"]
    locks = [booking.lock(store, event, "ada", 1).document["_id"] for _ in range(2)]
    booked = booking.confirm(store, locks[1]).document["_id"]
    ids = {"event": event, "lock": locks[0], "booked": locks[1], "booking": booked}
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
def test_a_bad_argument_through_the_shell(
    healthy: Healthy, code: int, phrase: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """The installed program says the same as its functions in this process."""
    shell = Shell({"SEATCTL_URI": healthy.uri, "HOME": str(tmp_path)})
    check_refusal(shell(*fill(arguments, healthy.ids)), code, phrase)


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", MALFORMED, ids=label)
def test_a_malformed_uri(uri: str, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """A URI that cannot be one: exit 11, one line, and never a word of what may be its password."""
    check_refusal(here(capsys, "events", "--uri", uri), 11, "URI")
    if uri:
        settings(SEATCTL_URI=uri)
        check_refusal(here(capsys, "expire-locks"), 11, "URI")


def test_a_malformed_uri_through_the_shell(tmp_path: Path) -> None:
    """What the driver has to say about a URI beside its error does not come through."""
    [twice] = [uri for uri in MALFORMED if "&w=" in uri]
    check_refusal(Shell({"SEATCTL_URI": twice, "HOME": str(tmp_path)})("events"), 11, "URI")


@pytest.mark.parametrize("kind", FILES)
def test_a_uri_file_that_holds_no_uri(
    kind: str, tmp_path: Path, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever names the file, by flag, environment or systemd: exit 11 and the file's name."""
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


def test_a_file_name_that_a_terminal_would_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in a file's name are shown, in errors and in warnings, and not sent."""
    path = tmp_path / "\x1b[2J"
    check_refusal(here(capsys, "events", "--uri-file", str(path)), 11, r"\x1b[2J")
    path.write_text(f"mongodb://127.0.0.1:{REFUSED_PORT}/?serverSelectionTimeoutMS=1")
    path.chmod(0o644)
    warned = here(capsys, "events", "--uri-file", str(path))
    assert warned.code == 10
    assert "warning" in warned.stderr
    assert warned.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", NAMES, ids=label)
def test_a_database_name_that_cannot_be_one(
    name: str, settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad database name is blamed on the name, whether a flag or the environment gives it."""
    settings(SEATCTL_URI="mongodb://db.example/", SEATCTL_DATABASE=name)
    check_refusal(here(capsys, "events"), 11, "cannot be a database's name")
    if name.isprintable():
        settings(SEATCTL_DATABASE="")
        check_refusal(here(capsys, "events", "--database", name), 11, "cannot be a database's name")


def test_nothing_that_could_be_a_mongod(
    settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """SEATCTL_MONGOD that names no mongod: exit 11, and the variable is named."""
    for path in ("/no/such/mongod", "/", "/bin/false"):
        settings(SEATCTL_MONGOD=path)
        result = here(capsys, "events", "-q")
        check_refusal(result, 11, f"SEATCTL_MONGOD={path} cannot be used")


# --- documents ----------------------------------------------------------------------------------------

HUGE_DATE = DatetimeMS(2**55)
"""A date beyond year 9999, which Python cannot hold."""
GONE = object()
"""The field is not there."""
ODD_KEYS = (DBRef("x", {"a": 1}), DBRef("x", [1]), DBRef("x", 1), DBRef("x", 1, a=[]), Decimal128("NaN"))
"""Values of types that are no documents and no lists, of which only the third can be a key in Python."""

BAD_LOCKS: list[Document] = [
    *({"seats": value} for value in ("two", "1", 0, -1, 1.5, math.nan, math.inf, -math.inf, 1e300)),
    *({"seats": value} for value in (Int64(2**62), None, True, [1], {}, PAST, GONE)),
    *({"status": value} for value in ("LIMBO", "active", None, 7, ["ACTIVE"], {}, GONE)),
    *({"expiresAt": value} for value in ("2020-01-01", 1577836800, None, [PAST], {}, GONE)),
    *({"expiresAt": value} for value in (HUGE_DATE, DatetimeMS(-(2**55)), math.nan)),
    *({"eventId": value} for value in (None, UNKNOWN, STRANGER, 7, [], [STRANGER], {}, {"$ne": 1}, GONE)),
    *({"eventId": value} for value in ODD_KEYS),
    *({"_id": value} for value in ODD_KEYS),
    *({"_id": value} for value in ("lock-7", 7, {"a": 1}, math.nan, "{lock}")),
    *({"userId": value} for value in (None, [], {"$ne": 1}, GONE)),
    *({"idempotencyKey": value} for value in (7, None, [])),
    *({"createdAt": value} for value in ("yesterday", HUGE_DATE)),
    {"seats": None, "status": "ACTIVE", "expiresAt": None, "eventId": None, "userId": None},
    {"note": "\x1b[2J\x07", "userId": "\x1b[31mred\x1b[0m"},
]
BAD_BOOKINGS: list[Document] = [
    *({"paymentExpiresAt": value} for value in ("2020-01-01", 1577836800, None, [PAST], HUGE_DATE, GONE)),
    *({"status": value} for value in ("LIMBO", None, 7, [], ["PAYMENT_PENDING"], GONE)),
    *({"seatLockId": value} for value in (None, UNKNOWN, STRANGER, 7, [], [STRANGER], {}, {"$ne": 1}, GONE)),
    *({field: value} for field in ("seatLockId", "event", "_id") for value in ODD_KEYS),
    *({"event": value} for value in (None, UNKNOWN, STRANGER, [], [STRANGER], {"$ne": 1}, GONE)),
    *({"_id": value} for value in ("booking-7", 7, {"a": 1})),
    {"user": {"$gt": ""}},
]
BAD_EVENTS: list[Document] = [
    *({"totalSeats": value} for value in ("many", None, 0, -1, 1.5, math.nan, math.inf, [], GONE)),
    *({"availableSeats": value} for value in ("many", None, -5, 99, 0.5, math.nan, math.inf, [], GONE)),
    *({"name": value} for value in (None, 7, [], "\x1b[2J", GONE)),
    *({"eventDate": value} for value in ("soon", HUGE_DATE, None)),
    *({"_id": value} for value in ODD_KEYS),
    *({"_id": value} for value in ("event-7", 7, {"a": 1})),
    *({"updatedAt": value} for value in ("now", HUGE_DATE, None)),
    {"totalSeats": {"seats": 5}, "availableSeats": {"seats": 5}, "name": {}, "eventDate": []},
]
BAD_RUNS: list[Document] = [
    *({"executedAt": value} for value in ("noon", None, 7, HUGE_DATE, GONE)),
    *({"details": value} for value in (None, "fine", [], {"recordsProcessed": "x"}, GONE)),
    *({"status": value} for value in (None, 7, ["SUCCESS"], "RUNNING", GONE)),
    *({"jobType": value} for value in (None, [], "NIGHTLY", GONE)),
    *({"host": value} for value in (None, {}, "\x1b[2J")),
]
DOCUMENTS = [
    *(("seatLocks", change) for change in BAD_LOCKS),
    *(("bookings", change) for change in BAD_BOOKINGS),
    *(("events", change) for change in BAD_EVENTS),
    *(("jobLogs", change) for change in BAD_RUNS),
]
LISTS = {"seatLocks": "locks", "bookings": "bookings", "events": "events", "jobLogs": "jobs"}
JOBS = ("expire-bookings", "expire-locks", "recover")


def changed(document: Document, change: Document) -> Document:
    return {field: value for field, value in {**document, **change}.items() if value is not GONE}


def insert_with_bad(database: Database[Document], collection: str, change: Document) -> ObjectId:
    """Two events; of the first, an overdue lock and an overdue booking that are sound; of the second,
    the same; one document of the second's is changed for the worse. Returns the first's id."""
    good, second = ObjectId(), ObjectId()
    kinds = {"events": second, "seatLocks": ObjectId(), "bookings": ObjectId(), "jobLogs": ObjectId()}
    documents: dict[str, list[Document]] = {name: [] for name in kinds}
    run = {"jobType": "LOCK_EXPIRY", "executedAt": PAST, "status": "SUCCESS", "details": {}, "host": "far"}
    documents["jobLogs"].append({"_id": kinds["jobLogs"], **run})
    for event in (good, second):
        sound = {"name": "Gala", "eventDate": FUTURE, "totalSeats": 10, "availableSeats": 8}
        documents["events"].append({"_id": event, **sound})
        waiting = ObjectId()
        for lock in (waiting, kinds["seatLocks"] if event is second else ObjectId()):
            hold = {"eventId": event, "userId": "ada", "seats": 1, "status": "ACTIVE", "expiresAt": PAST}
            documents["seatLocks"].append({"_id": lock, **hold})
        due = {"user": "ada", "status": "PAYMENT_PENDING", "paymentExpiresAt": PAST}
        booked = kinds["bookings"] if event is second else ObjectId()
        documents["bookings"].append({"_id": booked, "event": event, "seatLockId": waiting, **due})
    for name, stored in documents.items():
        if name == collection:
            stored[-1] = changed(stored[-1], change)
        database[name].insert_many(stored)
    return good


def tell(document: tuple[str, Document]) -> str:
    collection, change = document
    return ascii(f"{collection} {'GONE' if GONE in change.values() else change}")[1:60].replace("[", "(")


@pytest.fixture(scope="module")
def damaged(replica: Server) -> Iterator[Database[Document]]:
    """A database for one bad document after another: cleared between them, which is faster than new."""
    with MongoClient[Document](replica.uri, tz_aware=True) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        yield database
        client.drop_database(database)


@pytest.mark.parametrize(("collection", "change"), DOCUMENTS, ids=map(tell, DOCUMENTS))
def test_a_bad_document_never_stops_the_rest(
    collection: str,
    change: Document,
    damaged: Database[Document],
    replica: Server,
    settings: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside any damaged document the looks show, the jobs do all that is sound, whatever they had to
    set aside is named in their outcome, and what is left is found by verify."""
    settings(SEATCTL_URI=replica.uri, SEATCTL_DATABASE=damaged.name)
    for name in LISTS:
        damaged[name].delete_many({})
    good = insert_with_bad(damaged, collection, change)
    for line in (LISTS[collection], "events", "verify", "health"):
        check_outcome(here(capsys, line), (0, 5))
    for name in ("events", "seatLocks", "bookings"):
        for document in damaged[name].find({"_id": {"$type": "objectId"}}, {"_id": 1}):
            check_outcome(here(capsys, "show", str(document["_id"])), (0,))
    for line in JOBS:
        result = here(capsys, line)
        check_outcome(result, (0, 1))
        [entry] = damaged.jobLogs.find({"host": socket.gethostname()}).sort("_id", -1).limit(1)
        assert entry["status"] == ("FAILED" if result.code else "SUCCESS")
        if result.code:
            assert entry["error"] in result.stderr
    assert damaged.events.find_one({"_id": good})["availableSeats"] == 10
    assert {lock["status"] for lock in damaged.seatLocks.find({"eventId": good})} == {"EXPIRED"}
    assert {each["status"] for each in damaged.bookings.find({"event": good})} == {"EXPIRED"}
    again = here(capsys, "recover")
    check_outcome(again, (0, 1))
    assert here(capsys, "verify").code == (5 if again.code else 0)


def check_outcome(result: Result, codes: tuple[int, ...]) -> None:
    assert result.code in codes, result
    assert result.stderr.count("\n") == (1 if result.code else result.stderr.count("seatctl: ")), result
    assert "Traceback" not in result.stderr
    assert "Error:" not in result.stderr, result
    assert (result.stdout + result.stderr).replace("\n", "").isprintable(), result
