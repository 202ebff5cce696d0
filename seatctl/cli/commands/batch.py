"""The command `batch`: many command lines in one process, on one connection."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from seatctl.cli import batch_lines, boundary
from seatctl.cli.batch_lines import Line
from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation, Session
from seatctl.cli.options import flag
from seatctl.domain.words import count, format_number
from seatctl.errors import Interrupted, ItemsLeft, SeatctlError, Usage
from seatctl.mongo import secrets
from seatctl.output import formats
from seatctl.output.progress import Progress
from seatctl.services.signals import Stop, listening

SETTING_UP = frozenset({"adopt", "init"})
"""Commands after which a database may be another one."""
OTHER_OUTPUT = frozenset({"--format", "--list", "--prometheus"})
"""Options that say what is printed: beside them --json would be another format."""
NAMED = 5
"""Lines that a message names; their number is always complete."""
BETWEEN_STEPS = 0.5
"""Seconds between two steps of the progress bar, so that a short batch has none."""


@command("batch", example="seatctl batch scenario.txt")
def batch(
    call: Invocation,
    file: Annotated[
        str,
        typer.Argument(
            metavar="[FILE | -]", help="The commands, one per line.  [default: stdin]", show_default=False
        ),
    ] = "-",
    check: Annotated[bool, flag("--check", "Only check the lines; run nothing.")] = False,
    stop: Annotated[
        bool, flag("--stop-on-error", "Stop after the first line that does not end as expected.")
    ] = False,
) -> None:
    """Run many commands in one process.

    One command per line: `NAME = lock …` keeps the new id as `$NAME`; `!3 lock …` expects exit code 3.
    Prints a line of JSON for each; -q prints only the ids. See `seatctl help scripting`."""
    program = call.find_root().command
    found = list(batch_lines.read(_text(file), program))
    wrong = [f"line {each[0]}: {each[1]}" for each in found if isinstance(each, tuple)]
    if wrong:
        raise Usage(f"{count(len(wrong), 'line')} cannot be parsed, nothing was run; {_first(wrong)}")
    todo = [line for line in found if isinstance(line, Line)]
    if check:
        call.tell({"lines": len(todo)}, f"{count(len(todo), 'line')} can be run.")
        return
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing  # no line may take those behind it for answers
        _run(call, todo, program, stop_on_error=stop)


def _run(call: Invocation, todo: list[Line], program: Any, *, stop_on_error: bool) -> None:
    """Run the lines; print an outcome for each, and what became of all. Raises ItemsLeft, Interrupted."""
    session, values, done, clock = Session(call), dict[str, str](), 0, time.monotonic()
    unexpected: list[Outcome] = []
    signal: int | None = None

    def outcomes(stopped: Stop) -> Iterator[Outcome]:
        nonlocal done, signal
        for line in todo:
            outcome = _run_line(line, program, session, values)
            done += 1
            if not outcome.is_as_expected:
                unexpected.append(outcome)
            yield outcome
            signal = outcome.signal or stopped.signal
            if signal or (unexpected and stop_on_error):
                return

    with listening() as stopped:
        _print(call, _with_bar(outcomes(stopped), len(todo)))
    last, left = todo[done - 1].number if done else 0, len(todo) - done
    if signal and left:
        raise Interrupted(signal, f"interrupted after line {last}, {count(left, 'line')} not run")
    not_run = f"; stopped at line {last}, {count(left, 'line')} not run" if left else ""
    if unexpected:
        described = _first([_described(outcome) for outcome in unexpected])
        raise ItemsLeft(
            f"{len(unexpected)} of {count(done, 'line')} did not end as expected: {described}{not_run}"
        )
    seconds = time.monotonic() - clock
    call.note(f"{count(done, 'line')}, all as expected ({seconds:.1f} s)")


def _text(file: str) -> Iterator[str]:
    try:
        if file == "-":
            sys.stdin.reconfigure(encoding="utf-8-sig")  # type: ignore[union-attr] # a TextIOWrapper
            yield from sys.stdin
        else:
            with Path(file).open(encoding="utf-8-sig") as text:
                yield from text
    except OSError as error:
        raise Usage(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise Usage(f"{'stdin' if file == '-' else file} is not UTF-8 text") from None


def _print(call: Invocation, outcomes: Iterator[Outcome]) -> None:
    if call.json:
        formats.print_json_list(outcome.as_document() for outcome in outcomes)
    elif call.quiet:
        for outcome in outcomes:
            if outcome.made is not None:
                print(outcome.made, flush=True)
    else:
        formats.print_json_lines(outcome.as_document() for outcome in outcomes)


def _with_bar(outcomes: Iterator[Outcome], lines: int) -> Iterator[Outcome]:
    """The outcomes, with a bar on stderr, in a terminal that does not show the lines themselves."""
    if sys.stdout.isatty():
        yield from outcomes
        return
    progress, since, last, left = Progress(), 0, time.monotonic(), lines
    progress.start("lines", lambda: left)
    try:
        for outcome in outcomes:
            yield outcome
            since, left, now = since + 1, left - 1, time.monotonic()
            if now - last > BETWEEN_STEPS:
                progress.advance(since)
                since, last = 0, now
    finally:
        progress.stop()


def _described(outcome: Outcome) -> str:
    """`line 4 (exit code 3, expected 0: event … is sold out)`."""
    ended = "not run" if outcome.code is None else f"exit code {outcome.code}"
    why = f": {outcome.error['message']}" if outcome.error else ""
    return f"line {outcome.line.number} ({ended}, expected {outcome.line.expected}{why})"


def _first(described: list[str]) -> str:
    more = f"; and {format_number(len(described) - NAMED)} more" if len(described) > NAMED else ""
    return "; ".join(described[:NAMED]) + more


# --- one line --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a line ended: its exit code, None where it could not be run; the command as it was run; what it
    printed, and what went wrong."""

    line: Line
    code: int | None
    command: str
    result: object = None
    error: Mapping[str, object] | None = None
    made: object = None
    """The id that it made."""

    @property
    def is_as_expected(self) -> bool:
        return self.line.is_met_by(self.code) and (self.error is None or self.code != 0)

    @property
    def signal(self) -> int | None:
        """The signal that ended the line."""
        interrupted = self.error is not None and self.error["code"] == Interrupted.code
        return self.code - 128 if interrupted and self.code else None

    def as_document(self) -> dict[str, object]:
        document: dict[str, object] = {
            "line": self.line.number,
            "command": self.command,
            "exitCode": self.code,
            "expected": self.line.expected,
        }
        if self.result is not None or self.error is None:
            document["result"] = self.result
        return document if self.error is None else {**document, "error": self.error}


class _Captured(io.StringIO):
    encoding = "utf-8"


def _run_line(line: Line, program: Any, session: Session, values: dict[str, str]) -> Outcome:
    """Run one line; the id that it makes is in `values` afterwards under its name."""
    if line.name:
        values.pop(line.name, None)
    printed, session.made = _Captured(), None
    command, code, error, made = line.text, None, None, None
    try:
        words = batch_lines.words_of(line.text, values)
        command = shlex.join(words)
        with redirect_stdout(printed), _own_log():
            code = boundary.execute(program, _as_json(words, program), session)
        error = boundary.as_document(SeatctlError()) if code else None
    except batch_lines.NoValue as missing:
        error = _no_value(str(missing))
    except BaseException as failure:  # noqa: BLE001 - the next line is run all the same
        reason = boundary.as_seatctl_error(failure)
        code, error = reason.exit_code, boundary.as_document(reason)
    if command.partition(" ")[0] in SETTING_UP:  # also where it failed halfway
        session.forget()
    result = _result(printed.getvalue())
    if error is None:
        made = session.made or _only_id(result)
        if line.name and made is None:
            error = _no_value("it printed no id, or several")
        elif line.name:
            values[line.name] = str(made)
    return Outcome(line, code, secrets.scrub(command), result, error, made)


def _no_value(message: str) -> dict[str, object]:
    return {"code": "no_value", "message": message, "exitCode": None}


def _as_json(words: list[str], program: Any) -> list[str]:
    """The command line with --json, which comes behind the command's name."""
    if any(word.partition("=")[0] in OTHER_OUTPUT for word in words):
        return words
    name = 2 if hasattr(program.commands.get(words[0]), "commands") else 1
    return [*words[:name], "--json", *words[name:]]


def _result(printed: str) -> object:
    """One JSON document, or a list of one for each line, or the text."""
    with suppress(ValueError):
        return json.loads(printed)
    with suppress(ValueError):
        return [json.loads(line) for line in printed.splitlines()] or None
    return printed


def _only_id(result: object) -> object:
    """The id that -q would print alone."""
    if isinstance(result, list) and len(result) == 1 and isinstance(result[0], dict):
        return result[0].get("_id")
    return None


@contextmanager
def _own_log() -> Iterator[None]:
    """`-v` of one line ends with it."""
    logger = logging.getLogger("seatctl")
    handlers, level = list(logger.handlers), logger.level
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
