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
import re
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

from seatctl.cli import boundary
from seatctl.cli.app import program
from seatctl.mongo import secrets

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


def _obey_stdin() -> None:
    """Make stdin the terminal whose Ctrl-C this process gets."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@dataclass
class Screen:
    """A command in a terminal of its own."""

    process: subprocess.Popen[bytes]
    terminal: int
    shown: bytearray = field(default_factory=bytearray)

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def end(self) -> Result:
        """Read until it ends."""
        with contextlib.suppress(OSError):  # EIO: the other side has gone
            while chunk := os.read(self.terminal, 65536):
                self.shown += chunk
        return Result(self.process.wait(), self.shown.decode().replace("\r\n", "\n"), "")

    def picture(self, mark: str) -> list[str]:
        """The lines of the first whole picture with `mark` in it, without colours. A picture begins where
        the cursor goes home. OSError when it ends before it shows one."""
        while True:
            *pictures, _ = self.shown.decode(errors="replace").split("\x1b[H")
            for picture in pictures:
                if mark in picture:
                    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", picture).replace("\r", "").split("\n")
            self.shown += os.read(self.terminal, 65536)


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
        with self.screen(*arguments, columns=columns, lines=50) as screen:
            return screen.end()

    @contextmanager
    def screen(self, *arguments: str, columns: int = 80, lines: int = 24) -> Iterator[Screen]:
        """It runs in a pseudo-terminal of its own, which it obeys, while the body does."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        process = subprocess.Popen(
            [*self.program, *arguments],
            env=self.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_obey_stdin,  # noqa: PLW1509 - one system call
        )
        os.close(theirs)
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield Screen(process, ours)
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            os.close(ours)

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
    log = logging.getLogger("seatctl")
    secrets.remembered.clear()
    code = boundary.run(program, arguments)
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    shown = capsys.readouterr()
    return Result(code, shown.out, shown.err)


AS_MODULE = (sys.executable, "-m", "seatctl")
