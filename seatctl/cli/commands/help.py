"""The `help` command, and the list of guides in `seatctl --help`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from seatctl.cli.invocation import Group, Invocation, command
from seatctl.cli.options import SET_UP
from seatctl.domain.words import shorten
from seatctl.errors import Usage
from seatctl.help import TOPICS

commands = typer.Typer()


class Program(Group):
    """`seatctl` itself: its `--help` lists the guides below the commands."""

    def outlines(self) -> Iterable[tuple[str, Any]]:
        return self.commands.outlines()  # type: ignore[attr-defined, no-any-return] # of cli/app.py

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        super().format_commands(ctx, formatter)
        longest = max(map(len, self.commands))
        with formatter.section("Guides (seatctl help TOPIC)"):
            formatter.write_dl([(topic.ljust(longest), about) for topic, about in TOPICS.items()])


def _complete(invocation: Invocation) -> list[str]:
    return [*invocation.find_root().command.commands, *TOPICS]  # type: ignore[attr-defined]


@command(
    commands,
    "help",
    panel=SET_UP,
    finds=(),
    without=("--quiet", "--verbose"),
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
        _show_guide(call, words[0])
        return
    if words and words[0] not in program.commands:
        raise Usage(
            f"there is no command or guide {shorten(words[0])!r}; the guides are {', '.join(TOPICS)}; "
            "`seatctl help` lists the commands"
        )
    program.main([*words, "--help"], prog_name="seatctl", standalone_mode=False)


def _show_guide(call: Invocation, topic: str) -> None:
    from seatctl.help import guide

    text = guide(topic)
    if call.json:
        from seatctl.output.formats import print_json

        print_json({"topic": topic, "markdown": text})
    else:
        from seatctl.output.markdown import show_markdown

        show_markdown(text)
