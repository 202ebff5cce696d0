"""The installed `seatctl` in a process of its own: an empty environment plus what is given, its
output read through pipes, or through a pseudo-terminal as a person would see it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pty
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seatctl import config, edge
from seatctl.cli import app

if TYPE_CHECKING:
    import pytest

PROGRAM = Path(sysconfig.get_path("scripts"), "seatctl")
PATIENCE = 60
"""Seconds after which a command that does not end is killed and fails its test."""


@dataclass(frozen=True)
class Result:
    """How one command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, alone on stderr."""
        shown = json.loads(self.stderr)
        assert list(shown) == ["error"]
        return shown["error"]


@dataclass(frozen=True)
class Shell:
    """Runs `seatctl` with `env` and nothing else in its environment."""

    env: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (str(PROGRAM),)

    def with_env(self, **more: str) -> Shell:
        return Shell({**self.env, **more}, self.program)

    @property
    def environment(self) -> dict[str, str]:
        measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        return {**measured, **self.env}

    def __call__(self, *arguments: str) -> Result:
        """Run it with stdout and stderr in pipes."""
        ended = subprocess.run(
            [*self.program, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return Result(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode())

    def ok(self, *arguments: str) -> Result:
        """Run it and insist on success."""
        result = self(*arguments)
        assert result.code == 0, result
        return result

    def new_id(self, *arguments: str) -> str:
        """The id that a command prints under `-q`."""
        return self.ok(*arguments, "-q").stdout.strip()

    def tty(self, *arguments: str, columns: int = 120) -> Result:
        """Run it with stdin, stdout and stderr in a pseudo-terminal; all of it is `stdout`."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        process = subprocess.Popen(
            [*self.program, *arguments], env=self.environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = bytearray()
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        with contextlib.suppress(OSError):  # EIO: the other side has gone
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
        code = process.wait()
        watchdog.cancel()
        return Result(code, shown.decode().replace("\r\n", "\n"), "")

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """It runs while the body does, both outputs in pipes; it is killed if it does not end."""
        process = subprocess.Popen(
            [*self.program, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            with process:
                yield process
        finally:
            watchdog.cancel()
            process.kill()

    def pipeline(self, script: str) -> Result:
        """Run a line of shell in which `seatctl` is the program."""
        ended = subprocess.run(
            ["/bin/bash", "-c", f'seatctl() {{ "$PROGRAM" "$@"; }}; {script}'],
            env={"PATH": os.defpath, "PROGRAM": str(PROGRAM), **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return Result(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode())


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    """Run it in this process, with this process's environment: many times as fast."""
    terminated, story = signal.getsignal(signal.SIGTERM), logging.getLogger("seatctl")
    config.seen.clear()
    code = edge.run(app, arguments)
    signal.signal(signal.SIGTERM, terminated)
    story.handlers.clear()
    story.setLevel(logging.NOTSET)
    shown = capsys.readouterr()
    return Result(code, shown.out, shown.err)


AS_MODULE = (sys.executable, "-m", "seatctl")
