"""The program: its commands, put together. Each imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from seatctl import __version__
from seatctl.cli import boundary
from seatctl.cli.commands import (
    adopt,
    batch,
    care,
    changes,
    events,
    follow,
    help,  # noqa: A004 - the command's name
    jobs,
    lists,
    sales,
    setup,
    story,
)
from seatctl.cli.options import CHECK, SET_UP

app = typer.Typer(
    cls=help.Program,
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


# In the order of `seatctl --help`.
app.add_typer(events.commands)
app.add_typer(sales.commands)
app.add_typer(changes.commands)
app.add_typer(story.repairs)
app.add_typer(batch.commands)
app.add_typer(lists.commands)
app.add_typer(follow.commands)
app.add_typer(story.commands)
app.add_typer(jobs.commands)
app.add_typer(care.checks)
app.add_typer(story.checks)
app.add_typer(setup.schedule, rich_help_panel=CHECK)
app.add_typer(care.setup)
app.add_typer(adopt.commands)
app.add_typer(setup.commands)
app.add_typer(setup.db, rich_help_panel=SET_UP)
app.add_typer(help.commands)
