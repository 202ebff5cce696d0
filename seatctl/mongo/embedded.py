"""The embedded MongoDB: a private `mongod`, found, started on demand, reused, stopped.

One process per user, on a Unix socket in a directory that only the user can enter; nothing listens
on TCP. It is a replica set of one, so that transactions work. Knows nothing of seats.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from seatctl.domain.timespec import shorten
from seatctl.errors import Misconfigured, Unreachable

REPLICA_SET = "seatctl"
SOCKET_PATH_LIMIT = 100
"""Bytes. The kernel's limit is 107 on Linux and 103 on macOS."""
PROC = Path("/proc")
STOP_PATIENCE = 30.0
LARGEST_LOG = 1_000_000
"""Bytes. It runs for months, and writes about a kilobyte for each command."""
TRANSACTION_LIFETIME = 10
"""Seconds. MongoDB's default is 60; a batch takes 0.2."""

HOW_TO_GET_ONE = (
    "install one with `pip install 'seatctl[embedded]'` or from MongoDB's packages, "
    "or run `docker run -d -p 27017:27017 mongo:7` and set SEATCTL_URI=mongodb://localhost:27017"
)


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one embedded MongoDB."""

    data: Path
    runtime: Path

    @property
    def db(self) -> Path:
        return self.data / "db"

    @property
    def log(self) -> Path:
        return self.data / "mongod.log"

    @property
    def socket(self) -> Path:
        return self.runtime / "mongod.sock"

    @property
    def ready(self) -> Path:
        """Exists once the replica set was initiated: before that, writes would go to a standalone."""
        return self.data / "initiated"

    @property
    def start_lock(self) -> Path:
        return self.data / "start.lock"

    @property
    def uri(self) -> str:
        return f"mongodb://{quote_plus(str(self.socket))}/?directConnection=true"

    @property
    def pid(self) -> int | None:
        """The process that has the data open: mongod keeps its lock file locked while it runs, so
        that neither a crash nor a new process with its old number is mistaken for it."""
        lock_file = self.db / "mongod.lock"
        if not _is_locked(lock_file):
            return None
        number = lock_file.read_text().strip()
        return int(number) if number.isdecimal() else None


def place() -> Place:
    """Where this user's embedded MongoDB lives, by the XDG rules; creates nothing. Raises Misconfigured
    for a user without a home directory."""
    home = _home()
    if sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    data = (base / "seatctl").absolute()
    runtime = data / "run"
    if len(os.fsencode(runtime / "mongod.sock")) > SOCKET_PATH_LIMIT:
        name = f"seatctl-{os.getuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
        short = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp", name)  # noqa: S108 - checked in _private
        too_long = len(os.fsencode(short / "mongod.sock")) > SOCKET_PATH_LIMIT
        runtime = Path("/tmp", name) if too_long else short  # noqa: S108 - checked in _private
    return Place(data, runtime)


def _home() -> Path:
    if home := os.environ.get("HOME"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise Misconfigured(
            f"no database is configured, and user {os.getuid()} has no home directory for the embedded "
            "MongoDB; set SEATCTL_URI or HOME"
        ) from None


def exists() -> bool:
    """Whether an embedded database was ever created for this user. Raises Misconfigured where that
    cannot be seen."""
    return _is_there(place().ready)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise Misconfigured(
            f"cannot read {path.parent}, the place of the embedded MongoDB: {error.strerror}; "
            "set SEATCTL_URI or HOME"
        ) from error


def answers(where: Place) -> bool:
    """Whether a process accepts connections on the socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(where.socket))
        except OSError:
            return False
    return True


def ensure_running() -> str:
    """The embedded MongoDB's URI; creates and starts it if needed. Of several callers at once, one
    starts it and the others wait. Raises Misconfigured without a usable `mongod`, Unreachable when
    it does not start."""
    where = place()
    # While another process is starting it, it may answer and not be initiated yet.
    if not (_is_there(where.ready) and answers(where)) or _is_locked(where.start_lock):
        with _start_lock(where):
            if not (where.ready.exists() and answers(where)):
                _start(where)
    _limit_log(where)
    return where.uri


def stop() -> bool:
    """Stop it, keeping the data; False if it did not run. Raises Unreachable if it will not end,
    Misconfigured when another process has the data open."""
    where = place()
    if not _is_there(where.data):
        return False
    with _start_lock(where):
        return _stop(where)


def _is_locked(path: Path) -> bool:
    """Whether a process keeps this file locked."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


@contextmanager
def _start_lock(where: Place) -> Iterator[None]:
    """Only one process at a time starts or stops it."""
    for directory in (where.data, where.runtime, where.db):
        _private(directory)
    with where.start_lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _private(directory: Path) -> None:
    """Make a directory that only this user can enter, and refuse one that is somebody else's."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = directory.lstat()
        if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != os.getuid():
            raise Misconfigured(f"{directory} belongs to somebody else; the embedded MongoDB will not use it")
        directory.chmod(0o700)
    except OSError as error:
        raise Misconfigured(
            f"cannot create {directory} for the embedded MongoDB: {error.strerror}; set SEATCTL_URI instead"
        ) from error


def _start(where: Place) -> None:
    from seatctl.mongo import client as connection

    if where.pid is not None:  # its socket is gone, e.g. to a cleaner of temporary files
        _stop(where)
    where.socket.unlink(missing_ok=True)
    binary, environment = find_mongod(where)
    command = [
        *(str(binary), "--dbpath", str(where.db), "--logpath", str(where.log), "--logappend", "--quiet"),
        "--fork",
        *("--bind_ip", str(where.socket), "--nounixsocket", "--replSet", REPLICA_SET),
        *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "128"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        # A client that was killed within a transaction keeps others from its event for this long.
        *("--setParameter", f"transactionLifetimeLimitSeconds={TRANSACTION_LIFETIME}"),
    ]
    try:
        where.log.unlink(missing_ok=True)
        started = subprocess.run(  # noqa: S603 - no shell, our own arguments
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"the embedded MongoDB did not start: {error}; see {where.log}") from error
    if started.returncode:
        raise Unreachable(f"the embedded MongoDB did not start: {_last_words(where)}; see {where.log}")
    connection.initiate(where.uri, REPLICA_SET, str(where.socket))
    where.ready.touch(mode=0o600)


def _stop(where: Place) -> bool:
    pid = where.pid
    if pid is None:
        return False
    if not _is_our_mongod(where, pid):
        # A server in a container, on the same home, has a number that is another process's here.
        raise Misconfigured(
            f"{where.db} is in use, and not by process {pid} as its lock file says; if it is a server in a "
            "container, stop it there"
        )
    os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + STOP_PATIENCE
    while where.pid is not None:
        if time.monotonic() > give_up:
            raise Unreachable(f"the embedded MongoDB (pid {pid}) does not end; see {where.log}")
        time.sleep(0.02)
    return True


def _is_our_mongod(where: Place, pid: int) -> bool:
    """Whether the process is a server that `_start` started on this data. Its home may have been moved
    since; then the directory that it was started on is gone."""
    try:
        words = (PROC / str(pid) / "cmdline").read_text().replace("\0", " ")
    except OSError:
        ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        try:
            words = subprocess.run(ps, capture_output=True, text=True, check=False).stdout  # noqa: S603
        except OSError:
            return False
    found = re.search(r" --dbpath (.+) --logpath ", words)
    started_on = Path(found[1]) if found else None
    return started_on is not None and (started_on == where.db or not started_on.exists())


def _limit_log(where: Place) -> None:
    """Begin the log anew when it is large; the last one is kept. The server appends, so it writes on
    at the new end."""
    with suppress(OSError):
        if where.log.stat().st_size > LARGEST_LOG:
            shutil.copyfile(where.log, where.log.with_suffix(".log.old"))
            os.truncate(where.log, 0)


def _last_words(where: Place) -> str:
    """Why mongod gave up, from its log."""
    try:
        lines = where.log.read_text(errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("s") in ("F", "E"):
            reason = entry.get("attr", {}).get("error", "")
            return shorten(f"{entry.get('msg')} {reason}".strip(), 200)
    return "no reason given"


# --- finding a mongod ------------------------------------------------------------------------------


def find_mongod(where: Place) -> tuple[Path, dict[str, str]]:
    """A `mongod` that runs here, with the environment it needs: `SEATCTL_MONGOD`, then PATH, then
    the package. Raises Misconfigured saying what was tried and how to get one."""
    base = {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), "HOME": str(where.data)}
    if chosen := os.environ.get("SEATCTL_MONGOD"):
        problem = _does_not_run(Path(chosen), base)
        if problem:
            raise Misconfigured(f"SEATCTL_MONGOD={chosen} cannot be used: {problem}")
        return Path(chosen), base
    tried = []
    if on_path := shutil.which("mongod"):
        problem = _does_not_run(Path(on_path), base)
        if not problem:
            return Path(on_path), base
        tried.append(f"{on_path}: {problem}")
    for packaged in _in_packages("fiftyone/db/bin/mongod"):
        for environment in (base, {**base, "LD_LIBRARY_PATH": str(_link_openssl(where))}):
            problem = _does_not_run(packaged, environment)
            if not problem:
                return packaged, environment
        tried.append(f"the seatctl[embedded] package's: {problem}")
    found = "; ".join(tried) or "none found"
    raise Misconfigured(f"no database is configured and no usable mongod is here ({found}); {HOW_TO_GET_ONE}")


def _does_not_run(binary: Path, environment: dict[str, str]) -> str | None:
    try:
        shown = subprocess.run(  # noqa: S603 - no shell; the user's or the package's binary
            [binary, "--version"], env=environment, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return getattr(error, "strerror", None) or "it does not answer"
    if shown.returncode == 0 and "db version" in shown.stdout:
        return None
    words = shown.stderr.strip().splitlines()
    return shorten(words[-1].rpartition("mongod: ")[2], 150) if words else "it is no mongod"


def _in_packages(path: str) -> list[Path]:
    """Where installed packages carry this file (or glob)."""
    return [found for entry in sys.path if entry for found in sorted(Path(entry).glob(path))]


def _link_openssl(where: Place) -> Path:
    """The packaged Linux build wants OpenSSL 1.1, which distributions no longer ship. Two other
    packages carry it under names of their own; link those to the plain ones."""
    links = where.data / "lib"
    links.mkdir(mode=0o700, exist_ok=True)
    for name in ("libssl", "libcrypto"):
        link = links / f"{name}.so.1.1"
        for library in _in_packages(f"*.libs/{name}-*.so.1.1"):
            if not link.exists() or link.resolve() != library.resolve():
                link.unlink(missing_ok=True)
                link.symlink_to(library)
            break
    return links
