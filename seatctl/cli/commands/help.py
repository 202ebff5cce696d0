"""The command `help`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import DATABASE_OPTIONS
from seatctl.domain.words import shorten
from seatctl.errors import Usage
from seatctl.help import TOPICS, guide
from seatctl.output.formats import print_json
from seatctl.output.markdown import show_markdown


def _complete(invocation: Invocation) -> list[str]:
    return [*invocation.find_root().command.commands, *TOPICS]  # type: ignore[attr-defined] # a group


@command(
    "help",
    ignores=(*DATABASE_OPTIONS, "--quiet", "--verbose"),
    example="seatctl help scripting",
)
def show_help(
    call: Invocation,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND | TOPIC]", help="A command or a guide.", autocompletion=_complete),
    ] = None,
) -> None:
    """Show the help of a command, or a guide."""
    program: Any = call.find_root().command
    words = words or []
    if words and words[0] in TOPICS:
        if len(words) > 1:
            raise Usage(f"a guide is one word: seatctl help {words[0]}")
        if call.json:
            print_json({"topic": words[0], "markdown": guide(words[0])})
        else:
            show_markdown(guide(words[0]))
    elif words and words[0] not in program.commands:
        raise Usage(
            f"there is no command or guide {shorten(words[0])!r}; the guides are {', '.join(TOPICS)}; "
            "`seatctl help` lists the commands"
        )
    else:
        program.main([*words, "--help"], prog_name="seatctl", standalone_mode=False)
