"""A proxy between clients and a server that loses an answer, or falls silent, at a command of our choice."""

from __future__ import annotations

import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from faults import LOOK_AT_ONCE

if TYPE_CHECKING:
    from servers import Server

OP_MSG = 2013


class Fault(Enum):
    """What happens at a command."""

    LOSE_ANSWER = auto()
    """The server carries it out, and the connection closes before its word gets through."""
    SILENCE = auto()
    """It does not arrive, and nobody hears anything any more: the line is dead, or the server stopped."""
    SILENT_CONNECTION = auto()
    """It does not arrive, and its connection is dead; all others work."""
    SILENT_ANSWER = auto()
    """The server carries it out, and that connection is dead from then on; all others work."""


class Proxy:
    """Passes messages on between clients and a server, until the command that it waits for."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.path = server.directory / f"{uuid.uuid4().hex[:8]}.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.target: tuple[str, int] | None = None
        """The command that meets the fault, and how many of it pass before."""
        self.fault = Fault.LOSE_ANSWER
        self.seen: Counter[str] = Counter()
        self.met = threading.Event()
        """Whether a command met the fault."""
        self.silent = threading.Event()
        """Whether nothing is passed on any more."""
        self.delay = 0.0
        """Seconds that each answer takes longer."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"mongodb://{quote_plus(str(self.path))}/?directConnection=true&{LOOK_AT_ONCE}"

    def at(self, command: str, number: int = 0, fault: Fault = Fault.LOSE_ANSWER) -> None:
        """Meet the next `command` after `number` others of it with this fault."""
        self.met.clear()
        self.seen.clear()
        self.fault, self.target = fault, (command, number)

    def close(self) -> None:
        self.listener.close()
        Path(self.path).unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                Connection(self, client).start()


class Connection:
    """One client's connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy, self.client = proxy, client
        self.upstream = socket.socket(socket.AF_UNIX)
        self.upstream.connect(proxy.server.host)
        self.doomed: set[int] = set()
        self.silent = False

    def start(self) -> None:
        for source, sink, passes in (
            (self.client, self.upstream, self._passes_request),
            (self.upstream, self.client, self._passes_answer),
        ):
            threading.Thread(target=self._pass_on, args=(source, sink, passes), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, passes: Callable[[bytes], bool]) -> None:
        with suppress(OSError, struct.error), source, sink:
            while passes(message := _read_message(source)):
                if not (self.silent or self.proxy.silent.is_set()):
                    sink.sendall(message)
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)

    def _passes_request(self, message: bytes) -> bool:
        _, request, _, code = struct.unpack_from("<iiii", message)
        if code == OP_MSG:
            command = message[26 : message.index(b"\0", 26)].decode()  # the first key of the first section
            if self.proxy.target == (command, self.proxy.seen[command]):
                self.proxy.target = None
                self._meet(request)
            self.proxy.seen[command] += 1
        return True

    def _meet(self, request: int) -> None:
        if self.proxy.fault in (Fault.LOSE_ANSWER, Fault.SILENT_ANSWER):
            self.doomed.add(request)
            return
        if self.proxy.fault is Fault.SILENCE:
            self.proxy.silent.set()
        self.silent = True
        self.proxy.met.set()

    def _passes_answer(self, message: bytes) -> bool:
        time.sleep(self.proxy.delay)
        if struct.unpack_from("<iii", message)[2] not in self.doomed:
            return True
        self.proxy.met.set()
        self.silent = self.proxy.fault is Fault.SILENT_ANSWER
        return self.silent


def _read_message(source: socket.socket) -> bytes:
    head = _read(source, 4)
    return head + _read(source, struct.unpack("<i", head)[0] - 4)


def _read(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise ConnectionResetError
        parts += part
    return bytes(parts)
