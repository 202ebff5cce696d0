"""A password in a URI is sent to the server and shown to nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from servers import Server, free_port
from terminal import Result, Shell, here
from test_hostile_input import MALFORMED, PASSWORD

from seatctl.errors import Misconfigured
from seatctl.mongo import client as connection
from seatctl.mongo import secrets
from seatctl.mongo.client import connect
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.target import find_target

if TYPE_CHECKING:
    from pymongo.database import Database

PASSWORDS = {
    "plain": PASSWORD,
    "percent-encoded": "p@ss:w/rd% ?#[é]",
    "like a pattern": r"(a.*+?[^b]\1${2}|",
    "short": "xyz",
    "of one word with the message": "password",
}
WAYS = ("--uri", "--uri=", "SEATCTL_URI", "--uri-file", "SEATCTL_URI_FILE", "CREDENTIALS_DIRECTORY")
LOUD = ((), ("-v",), ("--json",), ("-q",))
REFUSED_PORT = free_port()


@dataclass(frozen=True)
class Secretive:
    """A server that asks for passwords, and the users that it knows: each has its name's password."""

    server: Server

    def uri(self, user: str, password: str, options: str = "") -> str:
        return self.server.uri.replace("mongodb://", f"mongodb://{user}:{quote_plus(password)}@").replace(
            "/?", f"/tickets?authSource=admin&{options}"
        )


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secretive]:
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("x" * 16)
    key.chmod(0o600)
    server = Server(options=("--auth", "--keyFile", str(key))).start()
    with server.client() as client:
        # The first user is made without being one: the server trusts its own host until then.
        client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
    it = Secretive(server)
    with MongoClient(it.uri("root", PASSWORD)) as client:
        logs = {"db": "tickets", "collection": "jobLogs"}
        reading = ["find", "listCollections", "listIndexes"]
        reader = {"resource": {"db": "tickets", "collection": ""}, "actions": reading}
        writer = {"resource": logs, "actions": ["insert"]}
        client.admin.command("createRole", "logger", privileges=[reader, writer], roles=[])
        for number, password in enumerate(PASSWORDS.values()):
            client.admin.command("createUser", f"owner{number}", pwd=password, roles=["root"])
            client.admin.command("createUser", f"logger{number}", pwd=password, roles=["logger"])
            client.admin.command("createUser", f"nobody{number}", pwd=password, roles=[])
    yield it
    server.stop()


@pytest.fixture
def tickets(secretive: Secretive) -> Iterator[Database[dict[str, Any]]]:
    """The database that the URIs name, empty."""
    with MongoClient[dict[str, Any]](secretive.uri("root", PASSWORD)) as client:
        yield client.tickets
        client.drop_database("tickets")


@pytest.fixture(params=list(PASSWORDS))
def password(request: pytest.FixtureRequest) -> str:
    return PASSWORDS[request.param]


def number_of(password: str) -> int:
    return list(PASSWORDS.values()).index(password)


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[str]]:
    """Hands a URI to the program in one of the ways; returns the arguments that this takes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def hand_over(way: str, uri: str) -> list[str]:
        for name in (way for way in WAYS if not way.startswith("-")):
            monkeypatch.delenv(name, raising=False)
        path = tmp_path / "seatctl-uri"
        path.write_text(uri)
        path.chmod(0o600)
        if way.startswith("--"):
            value = str(path) if "file" in way else uri
            return [way + value] if way.endswith("=") else [way, value]
        values = {"SEATCTL_URI": uri, "SEATCTL_URI_FILE": str(path), "CREDENTIALS_DIRECTORY": str(tmp_path)}
        monkeypatch.setenv(way, values[way])
        return []

    return hand_over


def check_silence(told: object, password: str) -> None:
    """None of the forms in which a password is written stands in what was told."""
    for form in {password, quote_plus(password), quote(password), quote(password, safe="")}:
        assert f":{form}@" not in str(told)
        if (
            form != PASSWORDS["of one word with the message"]
        ):  # which is a word of the messages, and no secret in them
            assert form not in str(told), told


def check_refusal(result: Result, codes: tuple[int, ...], password: str) -> None:
    assert result.code in codes, result
    assert result.stderr
    check_silence(result, password)


EACH_PASSWORD_AND_EACH_WAY = [
    *(("--uri", name) for name in PASSWORDS),
    *((way, "percent-encoded") for way in WAYS[1:]),
]


@pytest.mark.parametrize(("way", "name"), EACH_PASSWORD_AND_EACH_WAY)
def test_an_unreachable_server_reveals_no_password(
    way: str, name: str, give: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """However the URI is given, and with all that the program can say."""
    password, host = PASSWORDS[name], f"127.0.0.1:{REFUSED_PORT}"
    arguments = give(way, f"mongodb://ada:{quote_plus(password)}@{host}/?serverSelectionTimeoutMS=1")
    result = here(capsys, "expire-locks", *arguments, "-v", "--json")
    check_refusal(result, (10,), password)
    assert host in result.stderr


@pytest.mark.parametrize(("way", "name"), EACH_PASSWORD_AND_EACH_WAY)
def test_a_wrong_password_is_not_shown_either(
    way: str,
    name: str,
    secretive: Secretive,
    give: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    password = PASSWORDS[name]
    arguments = give(way, secretive.uri("root", password + "!"))
    for flags in LOUD:
        result = here(capsys, "events", *arguments, *flags)
        check_refusal(result, (11,), password)
        assert "does not accept this user and password" in result.stderr


@pytest.mark.parametrize("uri", MALFORMED)
@pytest.mark.parametrize("way", ["--uri=", "SEATCTL_URI", "--uri-file"])
def test_a_malformed_uri_is_not_quoted_even_in_a_traceback(
    uri: str,
    way: str,
    give: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEATCTL_DEBUG", "1")
    if uri or way != "SEATCTL_URI":  # an empty variable is none
        check_refusal(here(capsys, "events", "-v", *give(way, uri)), (11,), PASSWORD)


@pytest.mark.parametrize("uri", MALFORMED)
def test_the_error_of_the_connection_itself_has_no_password(uri: str) -> None:
    """For whoever catches it without the program."""
    with pytest.raises(Misconfigured) as caught:
        connect(uri, None, "tickets")
    check_silence(str(caught.value) + repr(caught.value), PASSWORD)


def insert_overdue(database: Database[dict[str, Any]]) -> None:
    event = {"_id": ObjectId(), "name": "Gala", "totalSeats": 9, "availableSeats": 8}
    lock = {"eventId": event["_id"], "userId": "ada", "seats": 1, "status": "ACTIVE"}
    database.events.insert_one(event)
    database.seatLocks.insert_one({**lock, "expiresAt": datetime(2020, 1, 1, tzinfo=UTC)})


QUIETLY_DONE = (
    *("init", "events", "expire-locks", "expire-bookings", "recover", "health", "verify", "jobs", "locks"),
    "demo",
)


def test_what_works_shows_no_password_either(
    password: str,
    secretive: Secretive,
    tickets: Database[dict[str, Any]],
    give: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither the output, nor the log of -v, nor jobLogs; nor a printed schedule, which others may read."""
    arguments = give("--uri", secretive.uri(f"owner{number_of(password)}", password))
    for line in QUIETLY_DONE:
        result = here(capsys, *line.split(), "-v", *arguments)
        assert result.code in (0, 5), result
        check_silence(result, password)
    check_silence(list(tickets.jobLogs.find()), password)
    give("SEATCTL_URI", secretive.uri(f"owner{number_of(password)}", password))
    for line in ("schedule cron", "schedule systemd"):
        result = here(capsys, *line.split())
        assert result.code == 0, result
        check_silence(result, password)


def test_what_is_not_allowed_shows_no_password(
    password: str,
    secretive: Secretive,
    tickets: Database[dict[str, Any]],
    give: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 11, one line that says what is not allowed; the run's log entry has the same words."""
    monkeypatch.setenv("SEATCTL_DEBUG", "1")
    number = number_of(password)
    arguments = give("--uri", secretive.uri(f"nobody{number}", password))
    check_refusal(here(capsys, "expire-locks", "-v", *arguments), (11,), password)
    insert_overdue(tickets)
    arguments = give("--uri", secretive.uri(f"logger{number}", password))
    check_refusal(here(capsys, "expire-locks", "-v", *arguments), (11,), password)
    [run] = tickets.jobLogs.find()
    assert run["status"] == "FAILED"
    assert "not authorized to run update on tickets" in run["error"]
    check_silence(run, password)


def test_the_installed_program_shows_no_password_whatever_is_switched_on(
    secretive: Secretive, password: str, tmp_path: Path
) -> None:
    uri = secretive.uri("root", password + "?")
    shell = Shell(
        {"SEATCTL_URI": uri, "HOME": str(tmp_path), "SEATCTL_DEBUG": "1", "PYTHONFAULTHANDLER": "1"}
    )
    result = shell("recover", "-v")
    check_refusal(result, (11,), password)
    assert "Traceback" in result.stderr


def test_the_repr_of_a_target_leaves_the_uri_out() -> None:
    target = find_target(f"mongodb://ada:{PASSWORD}@db.example/", None, None, {})
    check_silence(repr(target), PASSWORD)


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o644, True)]
)
def test_a_uri_file_that_others_can_read_is_read_with_a_warning(
    mode: int,
    warned: bool,
    give: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = give(
        "--uri-file", f"mongodb://ada:{PASSWORD}@127.0.0.1:{REFUSED_PORT}/?serverSelectionTimeoutMS=1"
    )
    (tmp_path / "seatctl-uri").chmod(mode)
    result = here(capsys, "events", *arguments)
    check_refusal(result, (10,), PASSWORD)
    advice = f"seatctl: warning: {tmp_path}/seatctl-uri can be read by other users; run `chmod 600"
    assert (advice in result.stderr) is warned
    assert len(result.stderr.splitlines()) == 1 + warned
    assert (advice in here(capsys, "expire-locks", "-q", *arguments).stderr) is warned
    as_json = [json.loads(line) for line in here(capsys, "events", "--json", *arguments).stderr.splitlines()]
    assert [list(each) for each in as_json] == [*([["warning"]] if warned else []), ["error"]]


class Chatty:
    """A library that puts the whole URI into what it says."""

    def __init__(self, uri: str) -> None:
        self.words = f"cannot use {uri}, that is {uri.partition('@')[0].rpartition(':')[2]}"

    def __call__(self, *_arguments: object, **_options: object) -> None:
        raise PyMongoError(self.words)


@pytest.mark.parametrize("debug", ["0", "1"])
def test_the_boundary_masks_what_a_library_says(
    debug: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the error and in its traceback."""
    uri = f"mongodb://ada:{PASSWORD}@db.example/"
    monkeypatch.setenv("SEATCTL_DEBUG", debug)
    monkeypatch.setattr(connection, "connect", Chatty(uri))
    result = here(capsys, "events", "--uri", uri)
    check_refusal(result, (1,), PASSWORD)
    assert "***" in result.stderr


def test_a_failed_run_is_logged_with_the_password_masked(
    secretive: Secretive,
    tickets: Database[dict[str, Any]],
    give: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = secretive.uri("root", PASSWORD)
    insert_overdue(tickets)
    monkeypatch.setattr(SeatLocks, "overdue", Chatty(uri))
    check_refusal(here(capsys, "expire-locks", *give("--uri", uri)), (1,), PASSWORD)
    [run] = tickets.jobLogs.find()
    assert "cannot use" in run["error"]
    check_silence(run, PASSWORD)


def test_every_part_of_a_uri_that_a_message_quotes_is_masked() -> None:
    """As a whole, decoded, or cut into pieces."""
    for password in PASSWORDS.values():
        uri = f"mongodb://ada:{quote_plus(password)}@db.example/"
        secrets.remember(uri)
        for message in (f"bad URI {uri!r}", f"bad user ada:{quote_plus(password)}@", f"in {uri} at db"):
            check_silence(secrets.scrub(message), password)
    # One that is a part of many words is masked within URIs only.
    for name in ("plain", "percent-encoded", "like a pattern"):
        check_silence(secrets.scrub(f"port {PASSWORDS[name]} is no number"), PASSWORDS[name])
