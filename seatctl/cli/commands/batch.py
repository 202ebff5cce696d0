"""The command `batch`: many command lines in one process, on one connection."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import flag
from seatctl.cli.session import Session
from seatctl.domain.words import count, format_number
from seatctl.errors import Interrupted, ItemsLeft, Usage
from seatctl.output import formats
from seatctl.output.progress import Progress

if TYPE_CHECKING:
    from seatctl.cli.batch import Line, Outcome

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
    from seatctl.cli import batch as lines

    program = call.find_root().command
    found = list(lines.read(_text(file), program))
    wrong = [f"line {each[0]}: {each[1]}" for each in found if isinstance(each, tuple)]
    if wrong:
        raise Usage(f"{count(len(wrong), 'line')} cannot be parsed, nothing was run; {_first(wrong)}")
    todo = [line for line in found if isinstance(line, lines.Line)]
    if check:
        call.tell({"lines": len(todo)}, f"{count(len(todo), 'line')} can be run.")
        return
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing  # no line may take those behind it for answers
        _run(call, todo, program, stop_on_error=stop)


def _run(call: Invocation, todo: list[Line], program: Any, *, stop_on_error: bool) -> None:
    """Run the lines; print an outcome for each, and what became of all. Raises ItemsLeft, Interrupted."""
    from seatctl.cli import batch as lines
    from seatctl.services.signals import Stop, listening

    session, values, done, clock = Session(call), dict[str, str](), 0, time.monotonic()
    unexpected: list[Outcome] = []
    signal: int | None = None

    def outcomes(stopped: Stop) -> Iterator[Outcome]:
        nonlocal done, signal
        for line in todo:
            outcome = lines.run(line, program, session, values)
            done += 1
            if not outcome.is_as_expected:
                unexpected.append(outcome)
            yield outcome
            signal = lines.signal_of(outcome) or stopped.signal
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
            sys.stdin.reconfigure(encoding="utf-8-sig")  # type: ignore[union-attr]
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
