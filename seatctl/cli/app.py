"""The program: its commands, put together. Each is built when it is asked for, and imports what it needs
when it runs."""

from __future__ import annotations

import gc
import inspect
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand
from typer.main import get_command, get_command_from_info, get_group_from_info
from typer.models import CommandInfo, TyperInfo

from seatctl import __version__
from seatctl.cli import boundary
from seatctl.cli.commands import (
    aftersales,
    batch,
    checks,
    database,
    events,
    follow,
    help,  # noqa: A004 - the command's name
    host,
    jobs,
    lists,
    sales,
)
from seatctl.cli.invocation import HELP_OPTION
from seatctl.cli.options import CHECK, SET_UP

NARROW = 52
"""Columns of a window below which help has lines that are too long for it, unless it is told."""


def _narrow() -> int | None:
    columns = shutil.get_terminal_size().columns
    return columns - 1 if columns < NARROW else None


OBJECTS_PER_COLLECTION = 100_000
"""So many new objects before Python looks for cycles that are garbage; seatctl makes next to none. By default
it looks after 700, which took up to half of the time that a sweep spent in Python."""

root = typer.Typer(
    cls=help.Program,
    context_settings={**HELP_OPTION, "terminal_width": _narrow()},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Seat inventory for an event booking system: no seat is ever sold twice or lost.",
    epilog="Exit codes: 0 done · 1 error · 2 usage · 3 refused · 4 not found · 5 something is wrong · "
    "10 database unreachable · 11 configuration · 130/143 interrupted. "
    "`seatctl COMMAND --help` has an example for each command.",
)


def main() -> NoReturn:
    """The console script."""
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    boundary.open_streams()
    boundary.silence_threads()
    boundary.leave(boundary.run(program, sys.argv[1:]))


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


class Commands(Mapping[str, Any]):
    """Commands by name, each built when it is asked for: to build all takes 17 ms, a tenth of what
    `seatctl lock` takes to start."""

    def __init__(self, parts: typer.Typer) -> None:
        self._infos: dict[str, CommandInfo | TyperInfo] = {}
        self._built: dict[str, Any] = {}
        for part in parts.registered_groups:
            if isinstance(part.name, str):
                self._infos[part.name] = part
            elif part.typer_instance:
                for info in part.typer_instance.registered_commands:
                    self._infos[str(info.name)] = info

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            info = self._infos[name]
            if isinstance(info, TyperInfo):
                self._built[name] = get_group_from_info(
                    info, pretty_exceptions_short=False, rich_markup_mode=None, suggest_commands=True
                )
            else:
                self._built[name] = get_command_from_info(
                    info, pretty_exceptions_short=False, rich_markup_mode=None
                )
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def outlines(self) -> Iterable[tuple[str, TyperCommand]]:
        """Each command with its help, and without what its options are."""
        for name, info in self._infos.items():
            text = info.help if isinstance(info, TyperInfo) else inspect.getdoc(info.callback)
            yield name, TyperCommand(name, help=text, rich_help_panel=info.rich_help_panel)


app = typer.Typer()
# In the order of `seatctl --help`.
app.add_typer(events.commands)
app.add_typer(sales.commands)
app.add_typer(aftersales.commands)
app.add_typer(batch.commands)
app.add_typer(lists.commands)
app.add_typer(follow.commands)
app.add_typer(lists.history_commands)
app.add_typer(jobs.commands)
app.add_typer(checks.commands)
app.add_typer(host.schedule, name="schedule", help=host.SCHEDULE, rich_help_panel=CHECK)
app.add_typer(database.commands)
app.add_typer(host.commands)
app.add_typer(host.db, name="db", help=host.DB, rich_help_panel=SET_UP)
app.add_typer(help.commands)

program: Any = get_command(root)
program.commands = Commands(app)
