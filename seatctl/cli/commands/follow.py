"""The command that prints changes as they happen: follow."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from seatctl.cli.boundary import Terminated
from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import EventFilter, option
from seatctl.cli.streams import loss_of_output, reader_is_gone
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count
from seatctl.errors import HistoryLost, Interrupted, Misconfigured, SeatctlError
from seatctl.ops import atomic_file
from seatctl.output import formats
from seatctl.services.signals import listening

if TYPE_CHECKING:
    from seatctl.services.following import Step


class TokenFile:
    """The file that holds the token of the last line, and nothing else."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.saved: str | None = None

    def load(self) -> str | None:
        """The token, or None where there is no file yet. Raises Misconfigured."""
        try:
            text = self.path.read_text().strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise Misconfigured(f"cannot read the token in {self.path}: {reason}") from error
        if not re.fullmatch(r"[0-9A-Fa-f]{2,4096}", text):
            raise Misconfigured(f"{self.path} does not contain a token; delete it to start from now")
        self.saved = text
        return text

    def save(self, token: str | None) -> None:
        """Keep this token in one step. Raises Misconfigured."""
        if token is None or token == self.saved:
            return
        try:
            atomic_file.replace(self.path.resolve(), [f"{token}\n"])
        except OSError as error:
            raise Misconfigured(f"cannot write the token to {self.path}: {error.strerror}") from error
        self.saved = token

    def written_at(self) -> str:
        return format_time(datetime.fromtimestamp(int(self.path.stat().st_mtime), UTC))


@command("follow", example="seatctl follow --event EVENT_ID --resume follow.token")
def follow(
    call: Invocation,
    event: EventFilter = None,
    resume: Annotated[
        str | None, option("--resume FILE", str, "Start after the token in FILE; store the latest one there.")
    ] = None,
) -> None:
    """Print each change as a line of JSON.

    Prints changes of events, locks and bookings, until Ctrl-C or until the reader of a pipe exits. Survives
    a lost connection. The guide `scripting` lists the values of "what"."""
    from seatctl.services import following

    file = None if resume is None else TokenFile(resume)
    token, printed = file.load() if file else None, 0
    try:
        for step in _connected(call, following.follow(call.store(writes=False), event, token)):
            with listening() as stop:  # an interrupted line would be written twice
                if step.line is not None:
                    formats.print_json_lines([step.line])
                    if lost := loss_of_output():
                        raise SeatctlError(f"the output cannot be written: {lost}")
                    printed += 1
                if file and not (step.line and reader_is_gone()):  # perhaps before it read the line
                    file.save(step.token)
            if stop.signal:
                raise _ended(stop.signal, printed)
            if reader_is_gone():
                return
    except HistoryLost as error:
        raise HistoryLost(_what_to_do(error, file)) from error
    except KeyboardInterrupt:
        raise _ended(signal.SIGINT, printed) from None
    except Terminated:
        raise _ended(signal.SIGTERM, printed) from None


def _ended(number: int, printed: int) -> Interrupted:
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    return Interrupted(number, f"{word} after {count(printed, 'line')}")


def _connected(call: Invocation, steps: Iterator[Step]) -> Iterator[Step]:
    """The steps; when the connection was lost, and when it is there again, stderr says so."""
    lost = False
    for step in steps:
        if step.lost and not lost:
            call.warn(f"connection lost, reconnecting: {step.lost}")
        elif lost and not step.lost:
            call.note("connected again, continuing after the last line")
        lost = step.lost is not None
        yield step


def _what_to_do(error: HistoryLost, file: TokenFile | None) -> str:
    since = f" since {file.written_at()}" if file and file.saved else ""
    begin = f"remove {file.path}, and start again" if file else "start again"
    return (
        f"{str(error).removesuffix('.')}. `seatctl locks`, `seatctl bookings` and `seatctl history` show "
        f"what happened{since}; then {begin}. A larger oplog allows longer pauses"
    )
