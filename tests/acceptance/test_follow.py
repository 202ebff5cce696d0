"""`follow` as it is used: in pipes, with a file for its token, killed, interrupted."""

from __future__ import annotations

import json
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import open_store
from servers import Server
from stories import NOBODY, new_event, new_lock, new_shell, one_line
from terminal import Shell, here

from seatctl.mongo.store import Store


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    return new_shell(database_uri, tmp_path)


@pytest.fixture
def store(shell: Shell) -> Store:
    return open_store(shell.env["SEATCTL_URI"])


@pytest.fixture
def token(tmp_path: Path) -> Path:
    return tmp_path / "follow.token"


def begin(shell: Shell, token: Path) -> None:
    """Remember where the stream is now."""
    assert shell.pipeline(f"seatctl follow --resume {token} | true").code == 0
    assert token.stat().st_size


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def test_what_happens_while_it_is_not_there_is_told_later(shell: Shell, store: Store, token: Path) -> None:
    begin(shell, token)
    new_lock(store, new_event(store, "Gala", 9), "ada")

    told = shell.pipeline(f"seatctl follow --resume {token} | head -3")

    assert (told.code, told.stderr) == (0, "")
    documents = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["what"] for line in documents] == ["event_created", "seats_changed", "lock_created"]
    fields = {"at", "what", "event", "lock", "from", "to", "seats", "token"}
    assert documents[2].keys() == fields
    assert documents[0].keys() == fields - {"lock"}


def test_killed_between_lines_it_goes_on_without_a_gap(shell: Shell, store: Store, token: Path) -> None:
    """Each time it is killed after another number of lines; a line may come twice."""
    begin(shell, token)
    events = [str(new_event(store, f"Event {number}", 9)) for number in range(12)]
    seen: list[str] = []
    for lines in (1, 2, 3, 1):
        with shell.started("follow", "--resume", str(token)) as process:
            seen += [read(process)["event"] for _ in range(lines)]
            process.kill()
            assert process.stdout
            seen += [json.loads(line)["event"] for line in process.stdout]  # what was in the pipe
    with shell.started("follow", "--resume", str(token)) as process:
        while seen[-1] != events[-1]:
            seen.append(read(process)["event"])
        process.kill()

    assert set(seen) == set(events)
    first_seen = sorted(events, key=seen.index)
    assert first_seen == events


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_one_line(
    shell: Shell, store: Store, number: signal.Signals, code: int, token: Path
) -> None:
    begin(shell, token)
    new_event(store, "Gala", 9)
    with shell.started("follow", "--resume", str(token)) as process:
        read(process)
        process.send_signal(number)
        out, said = process.communicate()
    assert (process.returncode, out) == (code, "")
    assert said.splitlines()[-1].endswith(" after 1 line")
    assert said.count("\n") == 1


def test_a_reader_that_leaves_ends_it_although_nothing_happens(shell: Shell) -> None:
    ended = shell.pipeline("seatctl follow | true; echo ${PIPESTATUS[0]}")
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_a_line_that_could_not_be_written_is_not_done(shell: Shell, store: Store, token: Path) -> None:
    begin(shell, token)
    new_event(store, "Gala", 9)
    before = token.read_text()
    full = shell.pipeline(f"seatctl follow --resume {token} > /dev/full")
    assert full.code == 1
    assert one_line(full) == "the output cannot be written: No space left on device"
    assert token.read_text() == before


def test_a_lost_server_is_said_once_and_waited_for(tmp_path: Path) -> None:
    server = Server().start()
    try:
        uri = server.uri.replace("/?", "/shop?") + "&serverSelectionTimeoutMS=300"
        shell, store = new_shell(uri, tmp_path), open_store(uri)
        with shell.started("follow") as process:
            assert process.stderr
            new = iter(range(99))
            while not process_has_line(process):
                new_event(store, f"Event {next(new)}", 9)
            read(process)
            server.kill()
            lost = process.stderr.readline()
            server.start()
            assert process.stderr.readline() == "seatctl: connected again, continuing after the last line\n"
            new_event(store, "Last", 9)
            assert read(process)["what"] == "event_created"
    finally:
        server.stop()
    assert lost.startswith("seatctl: warning: connection lost, reconnecting: cannot reach MongoDB at ")


def process_has_line(process: subprocess.Popen[str]) -> bool:
    """Whether it said anything within a second."""
    return bool(select.select([process.stdout], [], [], 1)[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not contain a token; delete it"),
        (b"not a token\n", "does not contain a token; delete it"),
        (b"\xff\xfe", "cannot read the token"),
        (b"82ff", "does not belong to this database; delete the file"),
    ],
)
def test_a_file_without_a_token_is_a_configuration_error(
    shell: Shell, token: Path, content: bytes, words: str
) -> None:
    token.write_bytes(content)
    refused = shell("follow", "--resume", str(token))
    assert (refused.code, refused.stdout) == (11, "")
    assert words in one_line(refused)
    assert token.read_bytes() == content


@pytest.mark.parametrize("place", [".", "no/such/directory/token"])
def test_a_file_that_cannot_be_used_is_said_before_anything_is_told(
    shell: Shell, tmp_path: Path, place: str
) -> None:
    refused = shell("follow", "--resume", str(tmp_path / place))
    assert (refused.code, refused.stdout) == (11, "")
    assert "cannot read the token" in one_line(refused) or "cannot write the token" in one_line(refused)


@pytest.mark.slow
def test_missed_changes_are_an_error_that_says_what_to_do(tmp_path: Path, token: Path) -> None:
    """The oplog is so small that a server forgets within seconds. It does at a checkpoint."""
    server = Server(oplog_megabytes=1, options=("--syncdelay", "1")).start()
    try:
        shell = new_shell(server.uri.replace("/?", "/shop?"), tmp_path)
        begin(shell, token)
        with server.client() as client:
            oldest = client["local"]["oplog.rs"]
            while oldest.find_one(sort=[("$natural", 1)])["o"].get("msg") == "initiating set":
                client["other"]["filler"].insert_one({"text": "x" * 1_000_000})
        lost = shell("follow", "--resume", str(token), "--json")
    finally:
        server.stop()

    assert (lost.code, lost.stdout, lost.error["code"]) == (1, "", "history_lost")
    assert "`seatctl history` show what happened since 20" in lost.error["message"]
    assert f"remove {token}, and start again" in lost.error["message"]


def test_without_a_server_it_ends_at_once(tmp_path: Path) -> None:
    result = Shell({"HOME": str(tmp_path), "SEATCTL_URI": NOBODY})("follow")
    assert (result.code, result.stdout) == (10, "")


def test_a_batch_refuses_it(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "batch"
    file.write_text("follow\n")
    refused = here(capsys, "batch", str(file), "--uri", shell.env["SEATCTL_URI"])
    assert refused.code == 2
    assert "follow cannot be part of a batch" in refused.stderr
