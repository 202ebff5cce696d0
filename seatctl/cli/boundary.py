"""The boundary of the program: errors become messages and exit codes, and signals become errors. Knows no
command and no MongoDB."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import typer

from seatctl.cli import streams
from seatctl.domain.words import printable
from seatctl.errors import Interrupted, SeatctlError, Usage
from seatctl.mongo import secrets

WAY_OUT = 1.0
"""Seconds until a command that was told to end is told so again."""
FEW = 4
"""Commands that are named where an option is theirs."""

# --- one command line -------------------------------------------------------------------------------


def run(program: Any, arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. No error leaves this function."""
    secrets.remember(os.environ.get("SEATCTL_URI", ""))
    with _signals():
        try:
            code = execute(program, arguments)
            if not code and (lost := streams.loss_of_output()):
                raise SeatctlError(f"the output cannot be written: {lost}; the command itself is done")
        except BaseException as error:  # noqa: BLE001 - the boundary
            signal.setitimer(signal.ITIMER_REAL, 0)
            return _fail(error, arguments)
    return code


def execute(program: Any, arguments: Sequence[str], session: object = None) -> int:
    """One command line, alone or of a batch with its `session`; returns its exit code. Raises whatever goes
    wrong: `as_seatctl_error` says what that was."""
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


# --- errors -----------------------------------------------------------------------------------------


def _usage_message(error: typer.TyperException) -> str:
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context else "seatctl"
    message = _in_our_words(" ".join(error.format_message().split()).removesuffix("."))
    if (option := getattr(error, "option_name", "")) and context:
        takers = _commands_with(option, context.find_root().command)
        if _commands_with(option, context.command):
            message = f"{option} goes after the command: {path} COMMAND {option}"
        elif 0 < len(takers) <= FEW:
            *others, last = takers
            take_it = f"{', '.join(others)} and {last} do" if others else f"{last} does"
            message = f"{path.removeprefix('seatctl ')} takes no {option}; {take_it}"
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


def _commands_with(option: str, group: Any) -> list[str]:
    """The commands of a group that take this option."""
    commands = getattr(group, "commands", {})
    return [name for name in commands if any(option in each.opts for each in commands[name].params)]


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what went wrong in one line (or one JSON object) on stderr; returns the exit code."""
    with contextlib.suppress(SeatctlError, ValueError):  # what was printed before comes before it
        sys.stdout.flush()
    reason = as_seatctl_error(error)
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


def as_seatctl_error(error: BaseException) -> SeatctlError:
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


# --- the log ---------------------------------------------------------------------------------------


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
