"""The embedded MongoDB, for real: a home of its own for each test, and always stopped at the end."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pymongo import MongoClient

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
def test_life(home):
    """It is created on demand, reused while it runs, stopped on request, and found again with its data."""
    where = embedded.place()
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
def test_transactions_and_privacy():
    """It is a replica set, so transactions work; nobody else can enter its directories, and nothing
    listens on TCP."""
    deployment = connection.connect(embedded.ensure_running(), None, "box")
    where = embedded.place()

    assert deployment.transactions
    assert deployment.transact(lambda session: session.in_transaction)
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
def test_several_processes_at_once(home):
    """Of several processes that need it at once, one starts it and all connect to the same."""
    command = [sys.executable, "-c", START]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    several = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=60) for process in several]

    assert told == [(f"{embedded.place().uri}\n", "")] * 4
    assert embedded.answers(embedded.place())


# --- accidents -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_accidents():
    """A killed server, a stale socket, a removed socket and a lost ready mark need no person: the next
    command finds the data."""
    uri = embedded.ensure_running()
    where = embedded.place()
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
def test_number_of_a_dead_server_is_reused():
    """A process that took the dead server's number is not mistaken for it, and is left alone."""
    embedded.ensure_running()
    where = embedded.place()
    embedded.stop()
    with subprocess.Popen(["sleep", "60"]) as stranger:  # noqa: S607 - wherever sleep is
        (where.db / "mongod.lock").write_text(f"{stranger.pid}\n")
        assert not embedded.stop()
        embedded.ensure_running()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.slow
def test_home_moves(home, monkeypatch):
    """Data that moved to another home is found there, and its server knows its new address."""
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
        assert client.admin.command("hello")["me"] == str(embedded.place().socket)


@pytest.mark.slow
def test_home_moves_under_a_live_server(home, monkeypatch):
    """A server whose home moves while it runs can still be used, and stopped."""
    first = home / "first"
    first.mkdir()
    monkeypatch.setenv("HOME", str(first))
    write(embedded.ensure_running(), 1)
    first.rename(home / "second")
    monkeypatch.setenv("HOME", str(home / "second"))

    assert values(embedded.ensure_running()) == [1]
    assert embedded.stop()
    assert not embedded.answers(embedded.place())


@pytest.mark.slow
def test_long_home(home, monkeypatch):
    """A home whose path is too long for a socket gets its socket in a short private directory."""
    long = home / ("x" * 60) / ("y" * 60)
    monkeypatch.setenv("HOME", str(long))
    where = embedded.place()
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


# --- where it lives ------------------------------------------------------------------------------------


def test_place(monkeypatch):
    """It lives in the user's data directory, by the XDG rules where they are set."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/u")
    assert embedded.place().data == Path("/home/u/.local/share/seatctl")

    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert embedded.place().data == Path("/data/seatctl")

    monkeypatch.setattr(sys, "platform", "darwin")
    assert embedded.place().data == Path("/home/u/Library/Application Support/seatctl")


def test_place_without_a_home(monkeypatch):
    """Without HOME, as under cron, the user's entry in the password file counts."""
    monkeypatch.delenv("HOME")

    assert embedded.place().data.is_absolute()


@pytest.mark.parametrize(("directory", "used"), [("/run/user/1", True), ("/r" + "x" * 99, False)])
def test_place_of_a_long_home(monkeypatch, directory, used):
    """A long home's socket stands in the user's runtime directory, unless that is long as well; two
    homes never share one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    places = []
    for name in ("x", "y"):
        monkeypatch.setenv("HOME", "/" + name * 120)
        places.append(embedded.place())

    assert [str(where.runtime).startswith(directory) for where in places] == [used, used]
    assert places[0].runtime != places[1].runtime
    assert max(len(os.fsencode(where.socket)) for where in places) <= embedded.SOCKET_PATH_LIMIT


def test_directory_of_somebody_else(home, monkeypatch):
    """A directory that belongs to another user is not used."""
    monkeypatch.setattr(os, "getuid", lambda: 12345)

    with pytest.raises(Misconfigured, match="belongs to somebody else"):
        embedded._private(home)


def test_link_in_place_of_a_directory(home):
    """Nor is one that somebody put a link in place of."""
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")

    with pytest.raises(Misconfigured, match="belongs to somebody else"):
        embedded._private(home / "link")


def test_directory_that_cannot_be(home):
    """A place where no directory can be is named, with the way around."""
    (home / "file").touch()

    with pytest.raises(Misconfigured, match=r"cannot create .*set SEATCTL_URI instead"):
        embedded._private(home / "file" / "data")


# --- the binary ----------------------------------------------------------------------------------------


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file or directory"),
        ("echo I am no database", "it is no mongod"),
        ("echo mongod: libssl.so.1.1 is missing >&2; exit 127", "libssl.so.1.1 is missing"),
    ],
)
def test_chosen_binary_that_does_not_work(home, monkeypatch, text, says):
    """SEATCTL_MONGOD that cannot be used ends in one clear message; nothing else is tried."""
    chosen = home / "mongod"
    if text is not None:
        script(chosen, text)
    monkeypatch.setenv("SEATCTL_MONGOD", str(chosen))

    with pytest.raises(Misconfigured, match=f"SEATCTL_MONGOD={chosen} cannot be used: .*{says}"):
        embedded.ensure_running()


def test_no_binary(home, monkeypatch):
    """Without any mongod one message says so, and how to get one."""
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(sys, "path", [])

    with pytest.raises(Misconfigured, match=r"none found.*seatctl.embedded.*docker.*SEATCTL_URI="):
        embedded.ensure_running()


def test_binaries_that_do_not_work(home, monkeypatch):
    """Each mongod that was tried is named with the reason why it does not do."""
    package = home / "site" / "fiftyone" / "db" / "bin"
    package.mkdir(parents=True)
    script(package / "mongod", "echo broken package >&2; exit 1")
    script(home / "mongod", "exit 1")
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "path", [str(home / "site")])

    with pytest.raises(Misconfigured) as raised:
        embedded.ensure_running()
    assert f"{home / 'mongod'}: it is no mongod" in str(raised.value)
    assert "the seatctl[embedded] package's: broken package" in str(raised.value)


def test_order_of_binaries(home, monkeypatch):
    """The chosen binary wins over PATH, PATH over the package."""
    works = "echo db version v7"
    on_path, chosen = script(home / "mongod", works), script(home / "chosen", works)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    assert embedded.find_mongod(embedded.place())[0] == on_path

    monkeypatch.setenv("SEATCTL_MONGOD", str(chosen))
    assert embedded.find_mongod(embedded.place())[0] == chosen


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("", "it wrote no log"),
        ("echo not json > $log", "no reason given"),
        (
            """echo '{"s":"E","msg":"Failed","attr":{"error":"disk full"}}
{"s":"I"}' > $log""",
            "Failed disk full",
        ),
    ],
)
def test_server_that_does_not_start(home, monkeypatch, log, says):
    """A mongod that gives up is reported with its last words and where its log is."""
    where = embedded.place()
    text = f'case "$*" in --version) echo db version v7;; *) log={where.log}; {log or ":"}; exit 1;; esac'
    monkeypatch.setenv("SEATCTL_MONGOD", str(script(home / "mongod", text)))

    with pytest.raises(Unreachable, match=f"did not start: {says}; see {where.log}"):
        embedded.ensure_running()
    assert not embedded.exists()


def test_server_that_vanishes(home, monkeypatch):
    """A binary that disappears between trying and starting is no traceback."""
    binary = script(home / "mongod", 'rm "$0"; echo db version v7')
    monkeypatch.setenv("SEATCTL_MONGOD", str(binary))

    with pytest.raises(Unreachable, match="did not start"):
        embedded.ensure_running()


def test_server_that_does_not_end(home, monkeypatch):
    """A server that ignores the request to end is reported, not waited for without end."""
    where = embedded.place()
    where.db.mkdir(parents=True)
    lock = where.db / "mongod.lock"
    stubborn = """
import fcntl, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", stubborn, str(lock)]
    monkeypatch.setattr(embedded, "STOP_PATIENCE", 0)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        lock.write_text(str(process.pid))
        with pytest.raises(Unreachable, match=f"pid {process.pid}. does not end"):
            embedded.stop()
        process.kill()
    assert home.exists()


def test_starting(home):
    """While another process starts it, it is not used yet, though it may answer."""
    where = embedded.place()
    assert not embedded._starting(where)
    with embedded._alone(where):
        assert embedded._starting(where)
    assert not embedded._starting(where)
    assert home in where.data.parents


def test_answers(home):
    """A socket file that nobody listens on does not answer."""
    where = embedded.Place(home, home)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where.socket))
        assert not embedded.answers(where)
        listener.listen()
        assert embedded.answers(where)
    assert not embedded.answers(where)
