"""stdout and stderr for readers of every kind: one that leaves, one that was never there, a full disk."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

from seatctl.errors import SeatctlError


class _Output(io.FileIO):
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


def _stdout() -> _Output | None:
    """The one of `open_streams`."""
    stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return stream if isinstance(stream, _Output) else None


def _open_stream(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # a descriptor that takes nothing, as the closed one
        descriptor = os.open(os.devnull, os.O_RDONLY)
    raw = _Output(descriptor, "w", closefd=False)
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
