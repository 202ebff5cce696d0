"""Which database a command uses, and which commands may begin one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stories import database_of, new_shell, one_line
from terminal import Shell, here

from seatctl.ops import schedules

if TYPE_CHECKING:
    from servers import Server

UNKNOWN = "a" * 24
CREATE = ("create-event", "Gala", "--seats", "1", "--date", "+1d")
NEVER_CREATE = (
    *("expire-locks", "expire-bookings", "recover", "health", "verify", "init --check"),
    *("events", "locks", "bookings", "jobs", "jobs --summary", f"show {UNKNOWN}"),
    *(f"lock {UNKNOWN} --user ada --seats 1", f"confirm {UNKNOWN}", f"pay {UNKNOWN}", f"release {UNKNOWN}"),
)


@pytest.mark.parametrize("command", NEVER_CREATE)
def test_nothing_is_created_where_nothing_is_configured(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crontab that forgot the URI fails, and leaves the home as empty as it was."""
    monkeypatch.setenv("HOME", str(tmp_path))
    result = here(capsys, *command.split())
    assert result.code == 11
    assert "no database is configured" in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_server_without_the_database_is_not_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `demo`: it runs, but has no database."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shell = Shell({"HOME": str(tmp_path)})
    try:
        shell.ok("db", "start", "-q")
        for command in NEVER_CREATE:
            result = here(capsys, *command.split())
            assert result.code == 11
            assert "no database is configured" in one_line(result)
            assert "has no database event_booking_db" in one_line(result)
        with database_of(shell) as database:
            assert database.name not in database.client.list_database_names()
    finally:
        shell.ok("db", "stop", "-q")


def test_the_embedded_database_is_announced_when_it_is_created(tmp_path: Path) -> None:
    """The first command says where the data is; one that cannot create it says only why not."""
    occupied = tmp_path / "file"
    occupied.touch()
    failed = Shell({"HOME": str(occupied)})("init")
    assert failed.code == 11
    assert one_line(failed).startswith(f"cannot create {occupied}")
    shell = Shell({"HOME": str(tmp_path)})
    try:
        said = one_line(shell.ok(*CREATE))
        assert re.match(rf"created the embedded MongoDB in {tmp_path}/\S+; SEATCTL_URI", said)
        assert shell.ok("init", "--check").stderr == ""
    finally:
        shell.ok("db", "stop", "-q")


def test_a_host_that_seems_to_have_a_server_is_told_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the embedded MongoDB is used; not with -q, as cron mails whatever is said."""
    monkeypatch.setenv("HOME", str(tmp_path))
    uri_file = tmp_path / "uri of the server"
    monkeypatch.setattr(schedules, "URI_FILE", str(uri_file))
    shell = Shell({"HOME": str(tmp_path)})
    try:
        shell.ok("init", "-q")
        uri_file.touch()
        assert here(capsys, "events", "-q").stderr == ""
        told = one_line(here(capsys, "init", "--check"))
        assert f"`export SEATCTL_URI_FILE='{uri_file}'` selects it (shown once)" in told
        assert here(capsys, "init", "--check").stderr == ""
        holds = shell.ok("db", "status").stdout.splitlines()[-1]
        assert holds == "holds event_booking_db: 0 events, 0 locks, 0 bookings"
    finally:
        shell.ok("db", "stop", "-q")


def test_db_starts_shows_and_stops_the_embedded_server_and_the_data_stays(tmp_path: Path) -> None:
    shell = Shell({"HOME": str(tmp_path)})
    assert "was never started" in shell.ok("db", "status").stdout
    try:
        assert not shell.ok("db", "status", "--json").json["exists"]
        assert re.search(r"is running \(pid \d+\)", shell.ok("db", "start").stdout)
        assert shell.ok("db", "status", "--json").json["running"]
        assert shell.ok("db", "uri", "--json").json["uri"] == shell.ok("db", "uri", "-q").stdout.strip()
        event = shell.new_id("create-event", "Kept", "--seats", "1", "--date", "+1d")
        assert "is stopped" in shell.ok("db", "stop").stdout
        assert "was not running" in shell.ok("db", "stop").stdout
        assert "is not running" in shell.ok("db", "status").stdout
        assert event == shell.ok("events", "-q").stdout.strip()
    finally:
        assert shell.ok("db", "stop", "-q").stdout == ""


@pytest.mark.parametrize("command", NEVER_CREATE)
def test_a_database_that_a_server_does_not_have_is_refused_with_its_name(
    command: str, replica: Server, database_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crontab with a mistyped name must not work on an empty database for ever."""
    result = here(capsys, *command.split(), "--uri", database_uri)
    name = database_uri.rpartition("/")[2].partition("?")[0]
    assert result.code == 11
    assert f"there is no database {name} on this server" in one_line(result)
    with replica.client() as client:
        assert name not in client.list_database_names()


@pytest.mark.parametrize("command", ["init", " ".join(CREATE)])
def test_init_and_create_event_begin_a_database_on_a_server(
    command: str, database_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(capsys, *command.split(), "--uri", database_uri).code == 0
    assert here(capsys, "events", "--uri", database_uri).code == 0


@pytest.mark.parametrize("command", ["init", "events", " ".join(CREATE)])
def test_a_name_that_differs_in_case_only_is_refused_with_the_existing_one(
    command: str, database_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_shell(database_uri, tmp_path)
    name = database_uri.rpartition("/")[2].partition("?")[0]
    result = here(capsys, *command.split(), "--uri", database_uri, "--database", name.upper())
    assert result.code == 11
    assert f"there is no database {name.upper()} on this server, but there is {name};" in one_line(result)


@pytest.mark.parametrize("command", ["init", "events", "expire-locks", " ".join(CREATE)])
@pytest.mark.parametrize("name", ["admin", "config", "local"])
def test_the_databases_of_mongodb_itself_are_refused_with_a_hint_at_authsource(
    command: str, name: str, replica: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    result = here(capsys, *command.split(), "--uri", replica.uri.replace("/?", f"/{name}?"))
    assert result.code == 11
    assert f"{name} is one of MongoDB's own databases" in one_line(result)
    assert "authSource=admin" in one_line(result)


@pytest.mark.parametrize("command", ["init", "events", "recover", "demo"])
def test_a_standalone_server_is_refused_with_the_remedy(
    command: str, standalone: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    result = here(capsys, command, "--uri", standalone.uri)
    assert result.code == 11
    assert "rs.initiate()" in one_line(result)
    with standalone.client() as client:
        assert set(client.list_database_names()) <= {"admin", "config", "local"}
