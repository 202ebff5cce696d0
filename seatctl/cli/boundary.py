"""The edge of the program: the options every command takes, the help, and the one boundary where
errors become words and exit codes. Knows no command and no MongoDB.

Help and usage errors are plain text: Typer's Rich form doubles the time of `--help`, and a usage
error must be one line.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from seatctl.domain.timespec import format_duration, printable
from seatctl.errors import Interrupted, Misconfigured, SeatctlError, Unreachable, Usage
from seatctl.mongo import target as config

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

COMMON = "Common options"
GLANCE_MS = 500


class GroupedCommand(TyperCommand):
    """A command whose `--help` shows its options in groups, its own before the common ones."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                if isinstance(param.default, timedelta):
                    names, text = record
                    record = names, text.replace(str(param.default), format_duration(param.default))
                argument = param.param_type_name == "argument"
                panel = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Options"
                if param.name == "help":
                    panel = COMMON
                groups.setdefault(panel, []).append(record)
        for panel in sorted(groups, key=lambda name: name == COMMON):
            with formatter.section(panel):
                formatter.write_dl(groups[panel])


class GroupedGroup(TyperGroup):
    """A group whose `--help` shows its commands under headings. Called alone it shows its help, as an
    error: a script that lost its arguments must not go on."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(Usage.exit_code)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        panels: dict[str, list[tuple[str, str]]] = {}
        longest = max(map(len, self.commands))
        for name, command in self.commands.items():
            text = command.get_short_help_str(formatter.width - longest - 6)
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel, []).append((name.ljust(longest), text))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


@dataclass(slots=True)
class Call:
    """One invocation: the common options, and what they mean."""

    uri: str | None = None
    uri_file: str | None = None
    database: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def target(self) -> config.Target:
        """The configured database, with warnings about it on stderr. Raises Misconfigured."""
        target = config.find_target(self.uri, self.uri_file, self.database)
        for warning in target.warnings:
            self.note(f"warning: {warning}")
        return target

    def store(self, *, create: bool = True, wait: float = 0) -> Store:
        """Open the database. Nothing configured means the embedded MongoDB; without `create` it must
        hold a database already, so that a job that nobody told about its URI fails loudly.

        Tries for `wait` seconds while the database is unreachable. Raises Misconfigured, Unreachable.
        """
        give_up = time.monotonic() + wait
        while True:
            try:
                return self._open(self.target(), create)
            except Unreachable as error:
                if time.monotonic() >= give_up:
                    raise
                logging.getLogger(__name__).info("%s; waiting", error)
                time.sleep(1)

    @contextmanager
    def throwaway_store(self) -> Iterator[Store]:
        """A database of its own that is dropped at the end, on the embedded MongoDB or on the server
        that a flag of this very command line names; what is configured is left alone."""
        from seatctl.mongo.client import connect
        from seatctl.mongo.store import Store

        environment: dict[str, str] = {}
        target = config.find_target(self.uri, self.uri_file, None, environment)
        name = f"seatctl_demo_{secrets.token_hex(6)}"
        if target.uri is None:
            from seatctl.mongo import embedded

            uri = embedded.ensure_running()
        else:
            uri = target.uri
        store = Store(connect(uri, name, config.DEFAULT_DATABASE))
        try:
            yield store
        finally:
            store.drop()

    def glance(self) -> Store | None:
        """The database, if it answers at once: for the shell's completion, which starts nothing and
        says nothing."""
        from seatctl.mongo import embedded
        from seatctl.mongo.client import connect
        from seatctl.mongo.store import Store

        target = config.find_target(self.uri, self.uri_file, self.database)
        if target.uri is None and not (embedded.exists() and embedded.answers(embedded.place())):
            return None
        uri = target.uri or embedded.place().uri
        return Store(connect(uri, target.database, config.DEFAULT_DATABASE, GLANCE_MS))

    def _open(self, target: config.Target, create: bool) -> Store:
        from seatctl.mongo.client import connect
        from seatctl.mongo.store import Store

        if target.uri is not None:
            return Store(connect(target.uri, target.database, config.DEFAULT_DATABASE))
        from seatctl.mongo import embedded

        if not create and not embedded.exists():
            raise Misconfigured(NO_DATABASE.format(""))
        first_time = not embedded.exists()
        uri = embedded.ensure_running()
        if first_time:
            self.note(f"created the embedded MongoDB in {embedded.place().data}; SEATCTL_URI selects another")
        store = Store(connect(uri, target.database, config.DEFAULT_DATABASE))
        if not create and not store.exists():
            raise Misconfigured(NO_DATABASE.format(f"{store.name} "))
        return store

    def note(self, message: str) -> None:
        """A remark for a person on stderr; never in the way of a program."""
        if not (self.quiet or self.json):
            print(f"seatctl: {printable(message)}", file=sys.stderr)


NO_DATABASE = (
    "no database is configured: set SEATCTL_URI, SEATCTL_URI_FILE or --uri "
    "(the embedded MongoDB holds no database {}yet, and this command never creates one)"
)

_OPTIONS = {
    "uri": Annotated[
        str | None,
        typer.Option(metavar="URI", help="MongoDB to use [env: SEATCTL_URI].", rich_help_panel=COMMON),
    ],
    "uri_file": Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Read the URI from a file [env: SEATCTL_URI_FILE].", rich_help_panel=COMMON
        ),
    ],
    "database": Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Database in it [env: SEATCTL_DATABASE].", rich_help_panel=COMMON),
    ],
    "json": Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=COMMON)
    ],
    "quiet": Annotated[
        bool, typer.Option("--quiet", "-q", help="Ids alone, or nothing.", rich_help_panel=COMMON)
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell each step on stderr.", rich_help_panel=COMMON)
    ],
}


def command(
    app: typer.Typer, name: str, *, panel: str | None = None, example: str
) -> Callable[[Callable[..., int | None]], None]:
    """Register `function(call, …)` as a command that also takes the common options. What it returns
    is the exit code, None being 0; its docstring is the help, `example` a line below it."""

    def register(function: Callable[..., int | None]) -> None:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        own = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
        common = [
            inspect.Parameter(
                option,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hint,
                default=None if option in ("uri", "uri_file", "database") else False,
            )
            for option, hint in _OPTIONS.items()
        ]

        @functools.wraps(function)
        def invoke(**arguments: Any) -> int:
            call = Call(**{option: arguments.pop(option) for option in _OPTIONS})
            if call.verbose:
                _tell_steps()
            return function(call, **arguments) or 0

        invoke.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]  # read by Typer
        invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *common)}
        app.command(name, cls=GroupedCommand, rich_help_panel=panel, epilog=f"\b\nExample:\n  {example}")(
            invoke
        )

    return register


class _Line(logging.Formatter):
    """One line for each record, with no secret and nothing that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(_scrub(super().format(record), sys.argv))


def _tell_steps() -> None:
    handler = logging.StreamHandler()
    formatter = _Line("%(asctime)s [%(levelname)s] %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime  # type: ignore[assignment,unused-ignore]  # a function
    handler.setFormatter(formatter)
    logger = logging.getLogger("seatctl")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


# --- the boundary ----------------------------------------------------------------------------------


class _Stream(io.FileIO):
    """An output whose reader may leave early (`| head -1`). The rest goes nowhere, the work goes on,
    and the exit code stays true: `verify | head -1` must not come out as success."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)
        except OSError as error:
            raise SeatctlError(f"the output cannot be written: {error.strerror}") from error


def open_streams() -> None:
    """Make stdout and stderr fit for any reader: one that leaves, one that is closed from the start,
    and an encoding that cannot carry a name (`PYTHONIOENCODING=ascii`). And keep them ours: the driver
    warns of a URI's options in Python's own form, three lines with a path."""
    logging.captureWarnings(capture=True)
    sys.stdout = _open_stream(sys.stdout, 1)
    sys.stderr = _open_stream(sys.stderr, 2)


def _open_stream(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(descriptor, "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=bool(stream.line_buffering),
    )


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code. No error leaves this function."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _check_text(arguments)
        code = typer.main.get_command(app).main(list(arguments), prog_name="seatctl", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        # Typer has no public name for a usage error; all that it raises itself are such.
        return _fail(Usage(_usage_message(error)), arguments)
    except Terminated:
        return _fail(Interrupted(signal.SIGTERM, "terminated before it was done"), arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(Interrupted(signal.SIGINT, "interrupted before it was done"), arguments)
    except SystemExit as done:  # completion ends this way
        return done.code if isinstance(done.code, int) else 0
    except Exception as error:  # noqa: BLE001 - the boundary
        return _fail(error, arguments)
    if code == 128 + signal.SIGINT:  # Typer keeps Ctrl-C for itself, and says nothing
        return _fail(Interrupted(signal.SIGINT, "interrupted before it was done"), arguments)
    return code if isinstance(code, int) else 0


def leave(code: int) -> NoReturn:
    """End the process at once. PyMongo would spend half a second at exit waiting for its monitor
    threads, which have nothing left to do."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (SeatctlError, ValueError):
            code = code or 1
    os._exit(code)


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: no `except Exception` on the way may swallow it, and
    logging has one around each line that it writes."""


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _check_text(arguments: Sequence[str]) -> None:
    """Raises Usage for an argument whose bytes are no text: no id, name or URI has such."""
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError:
        raise Usage("an argument is not valid UTF-8") from None  # quoting it could quote a password


def _usage_message(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "seatctl"
    message = " ".join(error.format_message().split()).removesuffix(".")
    option = getattr(error, "option_name", "")
    common = option.lstrip("-").replace("-", "_") in {*_OPTIONS, "q", "v"}
    if common and context and context.parent is None:
        message = f"{option} goes after the command: seatctl COMMAND {option}"
    return f"{message} (see `{path} --help`)"


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what went wrong in one line (or one JSON object) on stderr; returns the exit code."""
    with contextlib.suppress(SeatctlError, ValueError):  # what was printed before comes before it
        sys.stdout.flush()
    reason = _as_ours(error)
    if os.environ.get("SEATCTL_DEBUG") == "1":
        import traceback

        print(_scrub("".join(traceback.format_exception(error)), arguments), file=sys.stderr, end="")
    message = printable(_scrub(" ".join(str(reason).split()), arguments))
    if "--json" in arguments:
        told = {"code": reason.code, "message": message, "exitCode": reason.exit_code}
        print(json.dumps({"error": told}), file=sys.stderr)
    else:
        print(f"seatctl: {message}", file=sys.stderr)
    return reason.exit_code


def _as_ours(error: BaseException) -> SeatctlError:
    if isinstance(error, SeatctlError):
        return error
    if "pymongo" in sys.modules and isinstance(error, Exception):
        from seatctl.mongo.client import explain

        return explain(error)
    return SeatctlError(f"{type(error).__name__}: {error}; SEATCTL_DEBUG=1 shows where")


def _scrub(text: str, arguments: Sequence[str]) -> str:
    """`text` without a secret that any configured URI carries, wherever it came from."""
    uris = [argument.removeprefix("--uri=") for argument in arguments if "://" in argument]
    uris += [os.environ.get("SEATCTL_URI", ""), *config.seen]
    for uri in filter(None, uris):
        text = config.scrub(text, uri)
    return text
