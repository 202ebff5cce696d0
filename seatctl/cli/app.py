"""The program: its commands, put together. Each imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from seatctl.cli import boundary
from seatctl.cli.commands import care, jobs, lists, sales, setup
from seatctl.cli.invocation import Group, Invocation, command
from seatctl.cli.options import CHECK, SET_UP

app = typer.Typer(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Seat inventory for an event booking system: no seat is ever sold twice or lost.",
    epilog="Exit codes: 0 done · 1 error · 2 usage · 3 refused · 4 not found · 5 something is wrong · "
    "10 database unreachable · 11 configuration · 130/143 interrupted. "
    "`seatctl COMMAND --help` has an example for each command.",
)


def main() -> NoReturn:
    """The console script."""
    boundary.open_streams()
    boundary.leave(boundary.run(app, sys.argv[1:]))


def _print_version(requested: bool) -> None:
    if requested:
        from seatctl import __version__

        print(f"seatctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    pass


helping = typer.Typer()


@command(helping, "help", panel=SET_UP, example="seatctl help lock")
def show_help(
    call: Invocation,
    words: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]", help="Which command.")] = None,
) -> None:
    """Show the help of a command."""
    call.find_root().command.main([*(words or []), "--help"], prog_name="seatctl", standalone_mode=False)


# In the order of `seatctl --help`.
for commands in (sales.commands, lists.commands, jobs.commands, care.checks):
    app.add_typer(commands)
app.add_typer(
    setup.schedule,
    name="schedule",
    rich_help_panel=CHECK,
    help="Print a crontab or systemd units for this host.",
)
for commands in (care.setup, setup.commands):
    app.add_typer(commands)
app.add_typer(
    setup.db,
    name="db",
    rich_help_panel=SET_UP,
    help="Manage the embedded MongoDB: start, stop, status, uri.",
)
app.add_typer(helping)
