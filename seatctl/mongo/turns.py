"""A queue among the commands of one host: whoever is going to write the same document, one by one.

Two transactions that write one event at once do not wait for each other: one is rolled back and
starts over, and sixteen buyers spend most of their time so. A file lock is handed over by the
kernel in microseconds, also when its holder is killed. It only saves work. Nothing breaks where
it cannot be had, or where somebody holds it too long.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SLOTS = 256
PATIENCE = 2.0
"""Seconds to wait for one's turn: the holder may be stopped, and must not stop everybody."""


@contextmanager
def turn(key: object) -> Iterator[None]:
    """Hold the host's turn for `key`; None queues for nothing."""
    slot = None if key is None else _open(key)
    try:
        if slot is not None:
            _wait(slot)
        yield
    finally:
        if slot is not None:
            os.close(slot)  # which gives the turn to the next


def _open(key: object) -> int | None:
    with suppress(OSError):  # also where the host has no directory that can be written
        directory = Path(tempfile.gettempdir(), f"seatctl-turns-{os.getuid()}")
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_uid == os.getuid():
            name = f"turn-{zlib.crc32(str(key).encode()) % SLOTS}"
            return os.open(directory / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return None


def _wait(slot: int) -> None:
    if not _take_at_once(slot):
        # Only a blocked call is woken at once, and only a thread's can be given up.
        waiter = threading.Thread(target=_block, args=(slot,), daemon=True)
        waiter.start()
        waiter.join(PATIENCE)


def _take_at_once(slot: int) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _block(slot: int) -> None:
    with suppress(OSError):
        fcntl.flock(slot, fcntl.LOCK_EX)
