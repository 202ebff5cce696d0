"""Real MongoDB servers for the tests, from the binary that seatctl itself finds."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_plus

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from seatctl.mongo import embedded

ALREADY_INITIALIZED, UNAUTHORIZED = 23, 13


@dataclass
class Server:
    """One `mongod` of a test's own: on a Unix socket, or on a loopback port if `tcp`.

    `replica_set` None makes a standalone. `options` go to mongod's command line.
    """

    replica_set: str | None = "test"
    tcp: bool = False
    options: tuple[str, ...] = ()
    initiate: bool = True
    cache_gigabytes: float = 0.25
    oplog_megabytes: int = 128
    directory: Path = field(default_factory=lambda: _new_directory())  # noqa: PLW0108 - defined below
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}" if self.tcp else str(self.directory / "mongod.sock")

    @property
    def uri(self) -> str:
        return f"mongodb://{quote_plus(self.host) if not self.tcp else self.host}/?directConnection=true"

    def start(self) -> Server:
        """Start it (again, on the same data) and wait until it takes writes."""
        (self.directory / "db").mkdir(exist_ok=True)
        self.port = self.port or free_port()
        where = embedded.Files(self.directory, self.directory)
        binary, environment = embedded.find_mongod(where)
        Path(self.host).unlink(missing_ok=True)
        command = [str(binary), "--dbpath", str(self.directory / "db"), "--port", str(self.port)]
        command += ["--bind_ip", "127.0.0.1" if self.tcp else self.host, "--nounixsocket"]
        command += [
            "--wiredTigerCacheSizeGB",
            str(self.cache_gigabytes),
            "--logpath",
            str(self.directory / "log"),
            "--logappend",
        ]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false", *self.options]
        if self.replica_set:
            command += ["--replSet", self.replica_set, "--oplogSize", str(self.oplog_megabytes)]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with self.client() as client:
            wait_until(lambda: client.admin.command("ping"), 60)
            if self.replica_set and self.initiate:
                self._initiate(client)
        return self

    def _initiate(self, client: MongoClient) -> None:
        try:
            client.admin.command(
                "replSetInitiate", {"_id": self.replica_set, "members": [{"_id": 0, "host": self.host}]}
            )
        except OperationFailure as error:
            if error.code not in (ALREADY_INITIALIZED, UNAUTHORIZED):
                raise
        wait_until(lambda: client.admin.command("hello")["isWritablePrimary"], 60)

    def client(self) -> MongoClient:
        return MongoClient(self.uri, serverSelectionTimeoutMS=2000, tz_aware=True)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        assert self.process
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _new_directory() -> Path:
    """A directory for a server's files, in memory where there is room: an fsync costs more than most
    tests."""
    memory = Path("/dev/shm")  # noqa: S108
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    where = memory if roomy else Path(tempfile.gettempdir())
    for left in where.glob("seatctl-test-*-*"):  # by a run that was killed: half a gigabyte each
        owner = left.name.split("-")[2]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"seatctl-test-{os.getpid()}-", dir=where))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def replica_set(members: int, *options: str, arbiter: bool = False) -> list[Server]:
    """A replica set on loopback, with a primary. With an arbiter, that is the last one, and the first is the
    primary."""
    name = "chaos"
    servers = [Server(name, tcp=True, options=options, initiate=False).start() for _ in range(members)]
    hosts: list[dict[str, object]] = [
        {"_id": number, "host": server.host} for number, server in enumerate(servers)
    ]
    if arbiter:
        hosts[0]["priority"] = 2
        hosts[-1]["arbiterOnly"] = True
    config = {
        "_id": name,
        "members": hosts,
        "settings": {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200},
    }
    with servers[0].client() as client:
        client.admin.command("replSetInitiate", config)
        wait_until(lambda: client.admin.command("hello").get("primary"), 60)
    return servers


def set_uri(servers: list[Server], database: str = "") -> str:
    hosts = ",".join(server.host for server in servers)
    return f"mongodb://{hosts}/{database}?replicaSet={servers[0].replica_set}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: object, seconds: float) -> None:
    """Poll a server that is starting until `condition()` is true and raises nothing of PyMongo's."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            if condition():  # type: ignore[operator]
                return
        except PyMongoError:
            pass
        if time.monotonic() > give_up:
            raise TimeoutError(f"{condition} did not come true within {seconds} s")
        time.sleep(0.02)
