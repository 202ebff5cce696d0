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
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from seatctl.domain.timespec import shorten
from seatctl.errors import Misconfigured, Unreachable

REPLICA_SET = "seatctl"
SOCKET_PATH_LIMIT = 100
"""Bytes. The kernel's limit is 107 on Linux and 103 on macOS."""
STOP_PATIENCE = 30.0
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
    def uri(self) -> str:
        return f"mongodb://{quote_plus(str(self.socket))}/?directConnection=true"

    @property
    def pid(self) -> int | None:
        """The process that has the data open: mongod keeps its lock file locked while it lives, so
        that neither a crash nor a newcomer with its old number can deceive."""
        lock_file = self.db / "mongod.lock"
        try:
            with lock_file.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock_file.read_text() or 0) or None
        except OSError:
            pass
        return None


def place() -> Place:
    """Where this user's embedded MongoDB lives, by the XDG rules; creates nothing."""
    home = Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
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


def exists() -> bool:
    """Whether an embedded database was ever created for this user."""
    return place().ready.exists()


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
    if where.ready.exists() and answers(where) and not _starting(where):
        return where.uri
    with _alone(where):
        if not (where.ready.exists() and answers(where)):
            _start(where)
    return where.uri


def stop() -> bool:
    """Stop it, keeping the data; False if it did not run. Raises Unreachable if it will not end."""
    where = place()
    if not where.data.exists():
        return False
    with _alone(where):
        return _stop(where)


def _starting(where: Place) -> bool:
    """Whether another process is starting it right now: it may answer and not be initiated yet."""
    try:
        with (where.data / "start.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def _alone(where: Place) -> Iterator[None]:
    for directory in (where.data, where.runtime, where.db):
        _private(directory)
    with (where.data / "start.lock").open("wb") as lock:
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
        *(str(binary), "--dbpath", str(where.db), "--logpath", str(where.log), "--logappend", "--fork"),
        *("--bind_ip", str(where.socket), "--nounixsocket", "--replSet", REPLICA_SET),
        *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "128"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        # A client that was killed within a transaction holds its event up for this long.
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
    os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + STOP_PATIENCE
    while where.pid is not None:
        if time.monotonic() > give_up:
            raise Unreachable(f"the embedded MongoDB (pid {pid}) does not end; see {where.log}")
        time.sleep(0.02)
    return True


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
