"""The embedded MongoDB, for real: a home of its own for each test, and always stopped at the end."""

import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pymongo import MongoClient
from terminal import PROGRAM

from seatctl.errors import Misconfigured, Unreachable
from seatctl.mongo import client as connection
from seatctl.mongo import embedded

START = "from seatctl.mongo import embedded; print(embedded.ensure_running())"


@pytest.fixture
def home(monkeypatch):
    """An empty home directory with a short path; whatever was started there is stopped."""
    directory = Path(tempfile.mkdtemp(prefix="seatctl-"))
    monkeypatch.setenv("HOME", str(directory))
    yield directory
    end_all_under(directory)
    shutil.rmtree(directory)


def end_all_under(directory):
    """Kill what still runs on data under this directory, wherever the test has moved it."""
    for lock in directory.rglob("mongod.lock"):
        pid = lock.read_text().strip()
        if pid and alive(int(pid)):
            os.kill(int(pid), signal.SIGKILL)
            wait_for(lambda pid=pid: not alive(int(pid)))


def alive(pid):
    """Whether the process runs; one that ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition):
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def write(uri, value):
    with MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
        client.box.things.insert_one({"value": value})


def values(uri):
    with MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
        return [thing["value"] for thing in client.box.things.find()]


def kill(where):
    """What a power cut or the kernel's out-of-memory killer does."""
    pid = where.pid
    os.kill(pid, signal.SIGKILL)
    # The first thread may be gone while another still holds the socket.
    wait_for(lambda: not alive(pid) and not embedded.answers(where))


# --- start, reuse, stop ------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_created_on_demand_reused_stopped_on_request_and_found_again_with_its_data(home):
    where = embedded.files()
    assert (embedded.exists(), embedded.answers(where), embedded.stop()) == (False, False, False)
    assert list(home.iterdir()) == []

    uri = embedded.ensure_running()
    pid = where.pid
    write(uri, 1)
    assert (embedded.exists(), embedded.answers(where), uri) == (True, True, where.uri)
    assert (embedded.ensure_running(), where.pid) == (uri, pid)

    assert embedded.stop()
    assert (embedded.exists(), embedded.answers(where), where.pid) == (True, False, None)
    assert not embedded.stop()

    assert values(embedded.ensure_running()) == [1]
    assert where.pid != pid


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_it_has_transactions_and_nobody_else_can_reach_it():
    deployment = connection.connect(embedded.ensure_running(), None, "box")
    where = embedded.files()

    for attempt in deployment.attempts():
        with attempt as session:
            deployment.database.things.insert_one({}, session=session)
    for directory in (where.data, where.db, where.runtime):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert listening_inodes() & socket_inodes(where.pid) == set()
    deployment.close()


def listening_inodes():
    """Sockets that listen on TCP, by inode."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {fields[9] for fields in lines if fields[3] == "0A"}


def socket_inodes(pid):
    """Sockets that a process has open, by inode."""
    targets = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since the directory was read
            targets.append(str(descriptor.readlink()))
    inodes = {target[8:-1] for target in targets if target.startswith("socket:")}
    assert inodes
    return inodes


@pytest.mark.slow
def test_of_several_processes_at_once_one_starts_it_and_all_connect(home):
    command = [sys.executable, "-c", START]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    several = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=60) for process in several]

    assert told == [(f"{embedded.files().uri}\n", "")] * 4
    assert embedded.answers(embedded.files())


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_its_log_is_bounded_while_it_runs_and_begins_anew_when_it_starts(monkeypatch):
    embedded.ensure_running()
    where = embedded.files()
    first = where.log.read_text()
    monkeypatch.setattr(embedded, "LARGEST_LOG", 1_000)
    write(embedded.ensure_running(), 1)
    assert where.log.stat().st_size < len(first)
    assert where.log.with_suffix(".log.old").read_text().startswith(first)

    write(where.uri, 2)
    assert where.log.read_bytes().startswith(b"{")  # the server appends, it leaves no hole

    embedded.stop()
    embedded.ensure_running()
    assert "Server restarted" not in where.log.read_text()


# --- accidents -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_no_accident_needs_a_person():
    """A killed server, a stale socket, a removed socket and a lost ready mark need no person: the next
    command finds the data."""
    uri = embedded.ensure_running()
    where = embedded.files()
    write(uri, 1)

    kill(where)
    assert where.socket.exists()
    assert values(embedded.ensure_running()) == [1]

    where.socket.unlink()  # a cleaner of temporary files; the process is alive
    assert where.pid is not None
    assert values(embedded.ensure_running()) == [1]

    where.ready.unlink()  # a start that was cut short after the replica set was initiated
    assert values(embedded.ensure_running()) == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_a_process_with_the_number_of_a_dead_server_is_left_alone():
    embedded.ensure_running()
    where = embedded.files()
    embedded.stop()
    with subprocess.Popen(["sleep", "60"]) as stranger:  # noqa: S607 - wherever sleep is
        (where.db / "mongod.lock").write_text(f"{stranger.pid}\n")
        assert not embedded.stop()
        embedded.ensure_running()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.slow
def test_data_that_moved_to_another_home_is_found_there(home, monkeypatch):
    first = home / "first"
    first.mkdir()
    monkeypatch.setenv("HOME", str(first))
    write(embedded.ensure_running(), 1)
    embedded.stop()
    first.rename(home / "second")
    monkeypatch.setenv("HOME", str(home / "second"))
    uri = embedded.ensure_running()

    assert values(uri) == [1]
    with MongoClient(uri) as client:
        assert client.admin.command("hello")["me"] == str(embedded.files().socket)


@pytest.mark.slow
def test_a_server_whose_home_moves_can_still_be_used_and_stopped(home, monkeypatch):
    first = home / "first"
    first.mkdir()
    monkeypatch.setenv("HOME", str(first))
    write(embedded.ensure_running(), 1)
    first.rename(home / "second")
    monkeypatch.setenv("HOME", str(home / "second"))

    assert values(embedded.ensure_running()) == [1]
    assert embedded.stop()
    assert not embedded.answers(embedded.files())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a,b", "a b%c+d"])
def test_a_home_may_have_any_name(home, monkeypatch, name):
    monkeypatch.setenv("HOME", str(home / name))
    where = embedded.files()
    try:
        write(embedded.ensure_running(), 1)
        assert values(where.uri) == [1]
        assert embedded.stop()
    finally:
        shutil.rmtree(where.runtime, ignore_errors=True)


def test_a_home_too_long_for_a_socket_gets_a_short_private_directory(home, monkeypatch):
    long = home / ("x" * 60) / ("y" * 60)
    monkeypatch.setenv("HOME", str(long))
    where = embedded.files()
    try:
        write(embedded.ensure_running(), 1)
        assert len(os.fsencode(where.socket)) <= embedded.SOCKET_PATH_LIMIT
        assert stat.S_IMODE(where.runtime.stat().st_mode) == 0o700
        assert embedded.stop()
        shutil.rmtree(where.runtime)  # as after a reboot
        assert values(embedded.ensure_running()) == [1]
    finally:
        embedded.stop()
        shutil.rmtree(where.runtime, ignore_errors=True)


# --- servers that do not start, or do not end ------------------------------------------------------


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("", "no reason given"),
        ("echo not json > $log", "no reason given"),
        (
            """echo '{"s":"E","msg":"Failed","attr":{"error":"disk full"}}
{"s":"I"}' > $log""",
            "Failed disk full",
        ),
        (
            """echo '{"s":"E","msg":"WiredTiger error message","attr":{"error":28,"message":\
"__posix_file_write: No space left on device"}}' > $log""",
            "the disk of .* is full; free some space, then repeat the command",
        ),
    ],
)
def test_a_server_that_does_not_start_is_reported_with_its_last_words(home, monkeypatch, log, says):
    where = embedded.files()
    text = f'case "$*" in --version) echo db version v7;; *) log={where.log}; {log or ":"}; exit 1;; esac'
    monkeypatch.setenv("SEATCTL_MONGOD", str(script(home / "mongod", text)))

    with pytest.raises(Unreachable, match=f"did not start: {says}; see {where.log}"):
        embedded.ensure_running()
    assert not embedded.exists()


def test_a_server_that_cannot_even_write_its_log_is_reported_with_what_is_free(home, monkeypatch):
    text = 'case "$*" in --version) echo db version v7;; *) exit 1;; esac'
    monkeypatch.setenv("SEATCTL_MONGOD", str(script(home / "mongod", text)))
    usage = shutil.disk_usage(home)._replace(free=7 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(Unreachable, match=r"did not start: only 7 MB are free on the disk of .*; see "):
        embedded.ensure_running()


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("limit", ["-n 64", "-v 400000", "-f 0", "-t 5"])
def test_a_server_that_a_limit_of_the_shell_would_end_is_not_started(limit):
    ran = in_shell(f"ulimit {limit}; exec {PROGRAM} create-event X --seats 5 --date +30d")
    assert ran.returncode == 11
    assert ran.stderr.count("\n") == 1
    assert f"which `ulimit -H{limit[1]}` does not allow here; raise that limit" in ran.stderr
    assert not embedded.exists()


@pytest.mark.usefixtures("home")
def test_a_limit_that_may_be_raised_is_raised_for_the_server():
    """It outlives the shell that asks for less, and with 64 open files it would not live for long."""
    ran = in_shell(f"ulimit -Sn 64; exec {PROGRAM} create-event X --seats 5 --date +30d")
    assert (ran.returncode, ran.stdout.startswith("Created event")) == (0, True), ran
    limits = Path(f"/proc/{embedded.files().pid}/limits").read_text()
    assert int(re.search(r"Max open files +(\d+)", limits)[1]) >= 512


def in_shell(script):
    return subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False)


def test_a_server_that_an_ended_command_left_on_its_way_is_waited_for(home, monkeypatch):
    """It has the data open before it has written its number, and cannot be asked to end yet."""
    where = embedded.files()
    in_use = '{"s":"E","msg":"Failed","attr":{"error":"DBPathInUse: Unable to lock the lock file"}}'
    tries = f"""case "$*" in --version) echo db version v7; exit;; esac
echo . >> {home}/tries; [ $(wc -l < {home}/tries) -gt 2 ] || {{ echo '{in_use}' > {where.log}; exit 100; }}"""
    monkeypatch.setenv("SEATCTL_MONGOD", str(script(home / "mongod", tries)))
    monkeypatch.setattr(connection, "initiate", lambda *_: None)

    embedded.ensure_running()
    assert (home / "tries").read_text() == ".\n" * 3

    monkeypatch.setattr(embedded, "START_PATIENCE", 0)
    (home / "tries").unlink()
    with pytest.raises(Unreachable, match="did not start: Failed DBPathInUse"):
        embedded.ensure_running()


def test_a_command_that_starts_it_and_hangs_is_not_waited_for_without_an_end(home, monkeypatch):
    monkeypatch.setattr(embedded, "START_PATIENCE", 0)
    where = embedded.files()
    where.data.mkdir(parents=True)
    with where.start_lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            Unreachable, match="another command is still starting or stopping the embedded MongoDB"
        ):
            embedded.ensure_running()
    assert home in where.data.parents


def test_a_binary_that_disappears_after_it_was_tried_is_no_traceback(home, monkeypatch):
    binary = script(home / "mongod", 'rm "$0"; echo db version v7')
    monkeypatch.setenv("SEATCTL_MONGOD", str(binary))

    with pytest.raises(Unreachable, match="did not start"):
        embedded.ensure_running()


def test_a_server_that_does_not_end_is_not_waited_for_without_an_end(home, monkeypatch):
    monkeypatch.setattr(embedded, "STOP_PATIENCE", 0)
    where = embedded.files()
    with stubborn_process(where.db, "--dbpath", str(where.db), "--logpath", "x") as pid:
        with pytest.raises(Unreachable, match=f"pid {pid}. does not stop"):
            embedded.stop()
        assert home in where.db.parents


STUBBORN = """
import fcntl, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(60)
"""


@contextmanager
def stubborn_process(db, *arguments):
    """A process that has the data in `db` open and does not end when it is asked to; its number."""
    db.mkdir(parents=True, exist_ok=True)
    lock = db / "mongod.lock"
    command = [sys.executable, "-c", STUBBORN, str(lock), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        lock.write_text(str(process.pid))
        yield process.pid
        process.kill()


@pytest.mark.parametrize("elsewhere", [None, "other"])
def test_a_process_that_is_not_our_mongod_on_our_data_is_never_signalled(home, monkeypatch, elsewhere):
    """A server in a container, on the same home, has a number that is another process's here."""
    where = embedded.files()
    arguments = ["--dbpath", str(home), "--logpath", "x"] if elsewhere else []
    with stubborn_process(where.db, *arguments) as pid, monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))
        for action in (embedded.stop, embedded.ensure_running):
            with pytest.raises(Misconfigured, match=f"is in use, but not by process {pid}"):
                action()


def test_on_macos_the_command_is_asked_from_ps(home, monkeypatch):
    """Its answer is one text, and paths there have spaces in them."""
    where = embedded.Files(home / "Application Support", home)
    monkeypatch.setattr(sys, "platform", "darwin")
    bin_directory = home / "bin"
    bin_directory.mkdir()
    script(bin_directory / "ps", f'echo "mongod --dbpath {where.db} --logpath {where.log} --fork"')
    monkeypatch.setenv("PATH", str(bin_directory))
    assert embedded._is_our_mongod(where, 7)

    script(bin_directory / "ps", "exit 1")
    assert not embedded._is_our_mongod(where, 7)


def test_only_one_process_at_a_time_starts_the_server(home):
    where = embedded.files()
    assert not embedded._is_locked(where.start_lock)
    with embedded._start_lock(where):
        assert embedded._is_locked(where.start_lock)
    assert not embedded._is_locked(where.start_lock)
    assert home in where.data.parents


def test_a_socket_that_nobody_listens_on_does_not_answer(home):
    where = embedded.Files(home, home)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where.socket))
        assert not embedded.answers(where)
        listener.listen()
        assert embedded.answers(where)
    assert not embedded.answers(where)
