"""The embedded MongoDB: a private `mongod`, found, started on demand, reused, stopped.

One process per user, on a Unix socket in a directory that only the user can enter; nothing listens
on TCP. It is a replica set of one, so that transactions work. Knows nothing of seats.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote_plus

from seatctl.domain.words import shorten
from seatctl.errors import Misconfigured, Unreachable

REPLICA_SET = "seatctl"
SOCKET_PATH_LIMIT = 100
"""Bytes. The kernel's limit is 107 on Linux and 103 on macOS."""
NO_SPACE = "No space left on device"
STOP_PATIENCE = 30.0
SCARCE = 300
"""Megabytes. The server's journal alone takes 200."""
START_PATIENCE = 50.0
"""Seconds to wait for another command that starts or stops it, and for a server that one of those left behind
as it was ended."""
LARGEST_LOG = 1_000_000
"""Bytes. It runs for months, and writes about a kilobyte for each command."""


NEEDED = {
    "-n": (resource.RLIMIT_NOFILE, 512, "512 open files"),
    "-v": (resource.RLIMIT_AS, 4 * 2**30, "4 GB of address space"),
    "-d": (resource.RLIMIT_DATA, 2**30, "1 GB of memory"),
    "-f": (resource.RLIMIT_FSIZE, 2**30, "files of 1 GB"),
    "-t": (resource.RLIMIT_CPU, 60, "a minute of processor time"),
}
"""What the server needs of each limit that it inherits, by the option of `ulimit`. Measured: it starts with
200 open files, and does not live with 128; with 3 GB of address space, and not with 2.5; with 1 GB of memory,
and not with 400 MB. The last two end it once it reaches them."""


class Files:
    def __init__(self, data: Path, runtime: Path) -> None:
        self.data = data
        self.runtime = runtime
        self.db = data / "db"
        self.lock = self.db / "mongod.lock"
        self.log = data / "mongod.log"
        self.start_lock = data / "start.lock"
        self.ready = data / "initiated"
        """Exists once the replica set was initiated."""
        self.socket = runtime / "mongod.sock"
        self.uri = f"mongodb://{quote_plus(str(self.socket))}/?directConnection=true"

    @property
    def pid(self) -> int | None:
        """The process that has the data open: mongod keeps its lock file locked while it runs, so
        that neither a crash nor a new process with its old number is mistaken for it."""
        number = self.lock.read_text().strip() if _is_locked(self.lock) else ""
        return int(number) if number else None


def files() -> Files:
    """Where this user's embedded MongoDB lives, by the XDG rules; creates nothing. Raises Misconfigured
    for a user without a home directory."""
    try:
        home = Path.home()
    except RuntimeError:
        raise Misconfigured(
            f"no database is configured, and user {os.getuid()} has no home directory for the embedded "
            "MongoDB; set SEATCTL_URI or HOME"
        ) from None
    if sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    data = (base / "seatctl").absolute()
    name = f"seatctl-{os.getuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    parents = filter(None, (os.environ.get("XDG_RUNTIME_DIR"), "/tmp"))  # noqa: S108 - checked in _private
    places = (Files(data, runtime) for runtime in (data / "run", *(Path(each, name) for each in parents)))
    return next(each for each in places if _is_address(each.socket))


def _is_address(path: Path) -> bool:
    """Whether a server can listen on a socket of this path: it takes a comma for the end of an address."""
    return len(os.fsencode(path)) <= SOCKET_PATH_LIMIT and "," not in str(path)


def exists() -> bool:
    """Whether an embedded database was ever created for this user."""
    return os.access(files().ready, os.F_OK)  # False also where the directory cannot be entered


def answers(where: Files) -> bool:
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
    where = files()
    with _start_lock(where):
        if not (where.ready.exists() and answers(where)):
            _start(where)
        with suppress(OSError):
            if where.log.stat().st_size > LARGEST_LOG:
                shutil.copyfile(where.log, where.log.with_suffix(".log.old"))
                os.truncate(where.log, 0)  # the server appends, so it writes on at the new end
    return where.uri


def stop() -> bool:
    """Stop it, keeping the data; False if it did not run. Raises Unreachable if it will not end,
    Misconfigured when another process has the data open."""
    where = files()
    if where.pid is None:
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
def _start_lock(where: Files) -> Iterator[None]:
    """Only one process at a time starts or stops it."""
    for directory in (where.data, where.runtime, where.db):
        _private(directory)
    give_up = time.monotonic() + START_PATIENCE
    with where.start_lock.open("wb") as lock:
        while not _lock(lock):
            if time.monotonic() > give_up:
                raise Unreachable("another command is still starting or stopping the embedded MongoDB")
            time.sleep(0.02)
        yield


def _lock(file: IO[bytes]) -> bool:
    """Lock this open file, unless another process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private(directory: Path) -> None:
    """Make a directory that only this user can enter, and refuse one that another user owns."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = directory.lstat()
        if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != os.getuid():
            raise Misconfigured(f"{directory} belongs to another user; the embedded MongoDB will not use it")
        directory.chmod(0o700)
    except OSError as error:
        raise Misconfigured(
            f"cannot create {directory} for the embedded MongoDB: {error.strerror}; set SEATCTL_URI instead"
        ) from error


def _start(where: Files) -> None:
    from seatctl.mongo.client import initiate

    _raise_limits()
    binary, environment = find_mongod(where)
    command = [
        *(str(binary), "--dbpath", str(where.db), "--logpath", str(where.log), "--logappend", "--quiet"),
        *("--fork", "--bind_ip", str(where.socket), "--nounixsocket", "--replSet", REPLICA_SET),
        *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "128"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        # A client that was killed within a transaction keeps others from its event for as many seconds.
        # The default is 60; a batch takes 0.2.
        *("--setParameter", "transactionLifetimeLimitSeconds=10"),
    ]
    give_up = time.monotonic() + START_PATIENCE
    while problem := _run(where, command, environment):
        # A command that was ended while it started the server left one behind that is still on its way.
        if "DBPathInUse" not in problem or time.monotonic() > give_up:
            raise Unreachable(f"the embedded MongoDB did not start: {problem}; see {where.log}")
        time.sleep(0.1)
    initiate(where.uri, REPLICA_SET, str(where.socket))
    where.ready.touch(mode=0o600)


def _raise_limits() -> None:
    """The server outlives the command that starts it, so the limits of a shell are raised for it as far as
    they may be. Raises Misconfigured where that is not enough."""
    for option, (limit, needed, what) in NEEDED.items():
        _, most = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY and most < needed:
            raise Misconfigured(
                f"the embedded MongoDB needs {what}, which `ulimit -H{option[1]}` does not allow here; raise "
                "that limit, or set SEATCTL_URI"
            )
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


def _run(where: Files, command: list[str], environment: dict[str, str]) -> str | None:
    """Run the server, which goes to the background once it is up; None, or why it is not."""
    _stop(where)  # its socket is gone, e.g. to a cleaner of temporary files
    where.socket.unlink(missing_ok=True)
    where.log.unlink(missing_ok=True)
    try:
        subprocess.run(  # noqa: S603 - no shell, our own arguments
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return _last_error(where.log)
    return None


def _stop(where: Files) -> bool:
    pid = where.pid
    if pid is None:
        return False
    if not _is_our_mongod(where, pid):
        # A server in a container, on the same home, has a number that is another process's here.
        raise Misconfigured(
            f"{where.db} is in use, but not by process {pid}, which its lock file names; if a server in a "
            "container uses it, stop it there"
        )
    os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + STOP_PATIENCE
    while _is_locked(where.lock):
        if time.monotonic() > give_up:
            raise Unreachable(f"the embedded MongoDB (pid {pid}) does not stop; see {where.log}")
        time.sleep(0.02)
    return True


def _is_our_mongod(where: Files, pid: int) -> bool:
    """Whether the process is a server that `_start` started on this data. Its home may have been moved
    since; then the directory that it was started on is gone."""
    if sys.platform == "darwin":
        ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        words = subprocess.run(ps, capture_output=True, text=True, check=False).stdout  # noqa: S603
    else:
        command = Path(f"/proc/{pid}/cmdline")
        words = command.read_text().replace("\0", " ") if command.exists() else ""
    found = re.search(r" --dbpath (.+) --logpath ", words)
    return found is not None and (Path(found[1]) == where.db or not Path(found[1]).exists())


def _last_error(log: Path) -> str:
    """Why mongod gave up, from its log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    if NO_SPACE in text:
        return f"the disk of {log.parent} is full; free some space, then repeat the command"
    errors = re.findall(r'^\{.*"s":"[EF]".*\}$', text, re.MULTILINE)
    if not errors:  # a full disk takes no log
        free = shutil.disk_usage(log.parent).free // 2**20
        return f"only {free} MB are free on the disk of {log.parent}" if free < SCARCE else "no reason given"
    entry = json.loads(errors[-1])
    return shorten(f"{entry['msg']} {entry.get('attr', {}).get('error', '')}".strip(), 200)


# --- finding a mongod ------------------------------------------------------------------------------


def find_mongod(where: Files) -> tuple[Path, dict[str, str]]:
    """A `mongod` that runs here, with the environment it needs: `SEATCTL_MONGOD`, then PATH, then
    the package. Raises Misconfigured saying what was tried and how to get one."""
    base = {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), "HOME": str(where.data)}
    if chosen := os.environ.get("SEATCTL_MONGOD"):
        if problem := _problem(Path(chosen), base):
            raise Misconfigured(f"SEATCTL_MONGOD={chosen} cannot be used: {problem}")
        return Path(chosen), base
    on_path = shutil.which("mongod")
    candidates = [(Path(on_path), base)] if on_path else []
    for packaged in _in_packages("fiftyone/db/bin/mongod")[:1]:
        candidates += [(packaged, {**base, "LD_LIBRARY_PATH": str(_link_openssl(where))})]
    tried = []
    for binary, environment in candidates:
        if not (problem := _problem(binary, environment)):
            return binary, environment
        tried.append(f"{binary}: {problem}")
    raise Misconfigured(
        f"no database is configured and no usable mongod was found ({'; '.join(tried) or 'none found'}); "
        f"install one with `{Path(sys.executable).with_name('pip')} install '.[embedded]'` in a clone of "
        "seatctl, or from MongoDB's packages, or set SEATCTL_URI "
        "to a replica set"
    )


def _problem(binary: Path, environment: dict[str, str]) -> str | None:
    """Why this is no mongod that runs here; None if it is."""
    try:
        shown = subprocess.run(  # noqa: S603 - no shell; the user's or the package's binary
            [binary, "--version"], env=environment, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return getattr(error, "strerror", None) or "it does not answer"
    if shown.returncode == 0 and "db version" in shown.stdout:
        return None
    words = shown.stderr.strip().splitlines()
    return shorten(words[-1].rpartition("mongod: ")[2], 150) if words else "it is not a mongod"


def _in_packages(path: str) -> list[Path]:
    """Where installed packages carry this file (or glob)."""
    return [found for entry in sys.path if entry for found in sorted(Path(entry).glob(path))]


def _link_openssl(where: Files) -> Path:
    """The packaged Linux build wants OpenSSL 1.1, which distributions no longer ship. Two other
    packages carry it under names of their own; link those to the plain ones."""
    links = where.data / "lib"
    links.mkdir(parents=True, exist_ok=True)
    for name in ("libssl", "libcrypto"):
        for library in _in_packages(f"*.libs/{name}-*.so.1.1")[:1]:
            link = links / f"{name}.so.1.1"
            link.unlink(missing_ok=True)
            link.symlink_to(library)
    return links
