"""The program: all of its commands, and where each of them is."""

from __future__ import annotations

import gc
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.main import get_command

from seatctl import __version__
from seatctl.cli import boundary, streams
from seatctl.cli.command import HELP_OPTION, Group, build, outline, registered

if TYPE_CHECKING:
    from typer.models import CommandInfo

CONTENTS = (
    ("Operate", "events", "create-event edit-event resize block unblock close reopen cancel-event"),
    ("Operate", "sales", "lock confirm pay release extend"),
    ("Operate", "bookings", "cancel rebook refund relock"),
    ("Operate", "batch", "batch"),
    ("Inspect", "lists", "events locks bookings refunds jobs show watch"),
    ("Inspect", "follow", "follow"),
    ("Inspect", "lists", "history"),
    ("Jobs (for cron and systemd)", "jobs", "expire-locks expire-bookings recover"),
    ("Check and schedule", "checks", "verify health explain"),
    ("Check and schedule", "schedule", "schedule"),
    ("Set up and try", "setup", "init adopt roles demo"),
    ("Set up and try", "db", "db"),
    ("Set up and try", "help", "help"),
)
"""The list of commands as `--help` shows it: a heading, the module in `cli/commands/`, and its commands."""
INDEX = {name: (heading, module) for heading, module, names in CONTENTS for name in names.split()}

OBJECTS_PER_COLLECTION = 100_000
"""So many new objects before Python looks for cycles that are garbage; seatctl makes next to none. By default
it looks after 700, which took up to half of the time that a sweep spent in Python."""
NARROW = 52
"""Columns of a window below which help has lines that are too long for it, unless it is told."""


@cache
def load(name: str, make: Callable[[CommandInfo], Any] = build) -> Any:
    """Import the module of a command, and make the command from its function. A module that has only
    commands of two words, such as `db start`, is the group of these. Raises KeyError."""
    heading, module_name = INDEX[name]
    module = import_module(f"seatctl.cli.commands.{module_name}")
    if name in registered:
        loaded = make(registered[name])
    else:
        group = f"{name} "
        below = {full.removeprefix(group): make(info) for full, info in registered.items() if group in full}
        loaded = Group(name=name, help=module.__doc__, commands=below, rich_markup_mode=None)
    loaded.rich_help_panel = heading
    return loaded


class Commands(Mapping[str, Any]):
    """The commands by name, each loaded when it is asked for: to load all takes 30 ms, a quarter of what
    `seatctl lock` takes."""

    def __getitem__(self, name: str) -> Any:
        return load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(INDEX)

    def __len__(self) -> int:
        return len(INDEX)


class Program(Group):
    """`seatctl` itself: its `--help` lists the guides below the commands."""

    def outlines(self) -> Iterator[tuple[str, Any]]:
        return ((name, load(name, outline)) for name in INDEX)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        from seatctl.help import TOPICS

        super().format_commands(ctx, formatter)
        longest = max(map(len, self.commands))
        with formatter.section("Guides (seatctl help TOPIC)"):
            formatter.write_dl([(topic.ljust(longest), about) for topic, about in TOPICS.items()])


def _narrow() -> int | None:
    columns = shutil.get_terminal_size().columns
    return columns - 1 if columns < NARROW else None


root = typer.Typer(
    cls=Program,
    context_settings={**HELP_OPTION, "terminal_width": _narrow()},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Seat inventory for an event booking system: no seat is ever sold twice or lost.",
    epilog="Exit codes: 0 done · 1 error · 2 usage · 3 refused · 4 not found · 5 something is wrong · "
    "10 database unreachable · 11 configuration · 130/143 interrupted. "
    "`seatctl COMMAND --help` has an example for each command.",
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"seatctl {__version__}")
        raise typer.Exit


@root.callback()
def _seatctl(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    pass


program: Any = get_command(root)
program.commands = Commands()


def main() -> NoReturn:
    """The console script."""
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    streams.open_streams()
    threading.excepthook = lambda _: None  # a thread of the driver that cannot start: what needed it says so
    boundary.leave(boundary.run(program, sys.argv[1:]))
