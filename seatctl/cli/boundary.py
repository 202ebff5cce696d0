"""The boundary of the program: errors become words and exit codes, signals become errors, and output
goes to readers of every kind. Knows no command and no MongoDB.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import typer

from seatctl.domain.words import printable
from seatctl.errors import Interrupted, SeatctlError, Usage
from seatctl.mongo import secrets

# --- streams ----------------------------------------------------------------------------------------


class _Stream(io.FileIO):
    """An output whose reader may leave early (`| head -1`), or whose disk may be full. The rest is dropped,
    the work goes on, and the exit code stays true: `verify | head -1` must not end as success."""

    lost = ""
    """Why a part of it could not be written."""
    stops_on_loss = False

    reader_has_left = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            self.reader_has_left = True
        except OSError as error:
            self.lost = "it is closed" if error.errno == errno.EBADF else error.strerror or "unknown reason"
            if self.stops_on_loss:
                raise SeatctlError(f"the output cannot be written: {self.lost}") from error
        return len(data)


def open_streams() -> None:
    """Make stdout and stderr safe for a reader that leaves, for one that is closed from the start, and
    for an encoding that cannot express a name (`PYTHONIOENCODING=ascii`). Python warnings are dropped, also
    where `PYTHONWARNINGS=error` makes errors of them: the driver warns about options of a URI in three lines
    with a path."""
    warnings.simplefilter("ignore")
    if sys.stdin is None:  # closed from the start
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for as long as the process lives
    sys.stdout = _open_stream(sys.stdout, 1)
    sys.stderr = _open_stream(sys.stderr, 2)


def reader_has_left() -> bool:
    """Whether nobody reads stdout any more, as far as what was written tells. What does nothing but print may
    end then."""
    stream = _stdout()
    return stream is not None and stream.reader_has_left


def reader_is_gone() -> bool:
    """The same, asked of the pipe: what waits for something to print learns it without writing."""
    stream = _stdout()
    if stream is None or stream.reader_has_left:
        return stream is not None
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # what is gone is reported without being asked for
    return bool(poll.poll(0))


def loss_of_output() -> str:
    """Why a part of stdout could not be written; empty where all of it was."""
    sys.stdout.flush()
    stream = _stdout()
    return "" if stream is None else stream.lost


def _stdout() -> _Stream | None:
    """The one of `open_streams`."""
    stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return stream if isinstance(stream, _Stream) else None


def _open_stream(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # a descriptor that takes nothing, as the closed one
        descriptor = os.open(os.devnull, os.O_RDONLY)
    raw = _Stream(descriptor, "w", closefd=False)
    # `watch` on a terminal that is gone would go on for ever.
    raw.stops_on_loss = stream is sys.stdout and raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",
        # Of PYTHONUNBUFFERED, which containers set, Python makes write_through instead.
        line_buffering=isinstance(stream, io.TextIOWrapper)
        and (stream.line_buffering or stream.write_through),
    )


def _check_output() -> None:
    """Raises SeatctlError where a result was lost on its way out: what was done is done."""
    if lost := loss_of_output():
        raise SeatctlError(f"the output cannot be written: {lost}; the command itself is done")


class _Line(logging.Formatter):
    """One line for each record, without secrets and without control characters."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return printable(secrets.scrub(super().format(record)))


def log_steps() -> None:
    """Write each step to stderr, with its time in UTC (`-v`)."""
    if logging.getLogger("seatctl").handlers:  # a line of a batch that tells its story already
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Line("%(asctime)s [%(levelname)s] %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
    logger = logging.getLogger("seatctl")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


# --- one command line -------------------------------------------------------------------------------


def run(program: Any, arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. No error leaves this function."""
    secrets.remember(os.environ.get("SEATCTL_URI", ""))
    with _signals():
        try:
            code = execute(program, arguments)
            if not code:
                _check_output()
        except BaseException as error:  # noqa: BLE001 - the boundary
            signal.setitimer(signal.ITIMER_REAL, 0)
            return _fail(error, arguments)
    return code


def execute(program: Any, arguments: Sequence[str], session: object = None) -> int:
    """One command line, alone or of a batch with its `session`; returns its exit code. Raises whatever goes
    wrong: `in_words` says what that was."""
    for text in arguments:
        secrets.remember(text)  # also where the command line is refused before it is understood
    _check_text(arguments)
    try:
        code = program.main(list(arguments), prog_name="seatctl", standalone_mode=False, obj=session)
    except SystemExit as done:  # completion ends this way
        return done.code if isinstance(done.code, int) else 0
    if code == 128 + signal.SIGINT:  # Typer handles Ctrl-C itself, silently
        raise KeyboardInterrupt
    return code or 0


def leave(code: int) -> NoReturn:
    """End the process at once. PyMongo would spend half a second at exit waiting for its monitor
    threads, which have nothing left to do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(SeatctlError, ValueError):
            stream.flush()
    os._exit(code)


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: no `except Exception` may swallow it, and logging has one
    around each line that it writes."""


def silence_threads() -> None:
    """No traceback of a thread of the driver that could not start: what needed it says so, in one line."""
    threading.excepthook = lambda _: None


WAY_OUT = 1.0
"""Seconds."""


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Within, SIGTERM, and Ctrl-C where it is not ignored, end the command."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    signal.signal(signal.SIGTERM, partial(_end, Terminated))
    if before[signal.SIGINT] is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, partial(_end, KeyboardInterrupt))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(ending: type[BaseException], _number: int, _frame: FrameType | None) -> NoReturn:
    """Raise it, and again each second: on its way out the driver tells the server to close what it reads, and
    a silent one would be waited for."""
    signal.signal(signal.SIGALRM, partial(_end, ending))
    signal.setitimer(signal.ITIMER_REAL, WAY_OUT)
    raise ending


def _check_text(arguments: Sequence[str]) -> None:
    """Raises Usage for an argument whose bytes are not text: no id, name or URI is like that."""
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError:
        raise Usage("an argument is not valid UTF-8") from None  # quoting it could quote a password


FEW = 4
"""Commands that are named where an option is theirs."""

# --- errors -----------------------------------------------------------------------------------------


def _usage_message(error: typer.TyperException) -> str:
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context else "seatctl"
    message = _in_our_words(" ".join(error.format_message().split()).removesuffix("."))
    option = getattr(error, "option_name", "")
    commands = getattr(context.command, "commands", {}) if context else {}
    if any(option in parameter.opts for command in commands.values() for parameter in command.params):
        message = f"{option} goes after the command: {path} COMMAND {option}"
    elif option and (takers := _commands_with(option, context)):
        message = f"{path.removeprefix('seatctl ')} takes no {option}; {takers}"
    elif (path, option) == ("seatctl edit-event", "--seats"):
        message = "edit-event takes no --seats; `seatctl resize` changes the number of seats"
    return f"{message} (see `{path} --help`)"


def _in_our_words(said: str) -> str:
    """What Typer says, as the other messages are written."""
    said = re.sub(
        r"Got unexpected extra arguments? ?(?:\(s\))? \((.*)\)", r"unexpected extra argument: \1", said
    )
    said = re.sub(r"\(Possible options?: (.*?)\)", r"(possible: \1)", said)
    return f"{said[:1].lower()}{said[1:]}"


def _commands_with(option: str, context: Any) -> str:
    """Which commands take an option that this one does not, where it is of a few."""
    program = context.find_root().command if context else None
    names = [
        name
        for name, each in getattr(program, "commands", {}).items()
        if any(option in parameter.opts for parameter in each.params)
    ]
    if not 0 < len(names) <= FEW:
        return ""
    *others, last = names
    return f"{', '.join(others)} and {last} do" if others else f"{last} does"


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what went wrong in one line (or one JSON object) on stderr; returns the exit code."""
    with contextlib.suppress(SeatctlError, ValueError):  # what was printed before comes before it
        sys.stdout.flush()
    reason = in_words(error)
    told = as_document(reason)
    if os.environ.get("SEATCTL_DEBUG") == "1":
        import traceback

        print(secrets.scrub("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    if re.search(r"(^| )(--json|--format[ =](nd)?json)( |$)", " ".join(arguments)):
        print(json.dumps({"error": told}), file=sys.stderr)
    else:
        print(f"seatctl: {told['message']}", file=sys.stderr)
    return reason.exit_code


def as_document(reason: SeatctlError) -> dict[str, object]:
    """An error as scripts read it, in one line without secrets."""
    message = printable(secrets.scrub(" ".join(str(reason).split())))
    return {"code": reason.code, "message": message, "exitCode": reason.exit_code}


def in_words(error: BaseException) -> SeatctlError:
    """What went wrong, as one of our errors."""
    if isinstance(error, SeatctlError):
        return error
    if isinstance(error, typer.TyperException):
        # Typer has no public name for a usage error; all that it raises itself are such.
        return Usage(_usage_message(error))
    if isinstance(error, Terminated):
        return Interrupted(signal.SIGTERM, "terminated while it worked; repeat the command")
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Interrupted(signal.SIGINT, "interrupted while it worked; repeat the command")
    if "pymongo" in sys.modules and isinstance(error, Exception):
        from seatctl.mongo.failures import translate

        return translate(error)
    return SeatctlError(f"{type(error).__name__}: {error}; SEATCTL_DEBUG=1 shows where")
