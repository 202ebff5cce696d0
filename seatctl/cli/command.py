"""What all commands share: the decorator that registers one, and the form of `--help`. Knows no command.

Help is plain text: Typer's Rich form doubles the time of `--help`.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command_from_info
from typer.models import CommandInfo

from seatctl.cli.boundary import log_steps
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import COMMON_OPTIONS, REASON
from seatctl.errors import Usage

COMMON = "Common options"
HELP_OPTION = {"help_option_names": ["-h", "--help"]}
SHORT_HELP = 57
"""Letters that a command's line in `--help` may have."""

Function = TypeVar("Function", bound=Callable[..., None])

registered: dict[str, CommandInfo] = {}
"""The commands of the modules that were imported, by name: `lock`, `db start`."""


def command(
    name: str,
    *,
    example: str,
    takes_reason: bool = False,
    ignores: Collection[str] = (),
    cls: Callable[..., Command] | None = None,
) -> Callable[[Function], Function]:
    """Register a function as a command. Its docstring is the help, with `example` below. One that changes
    something by an operator's decision takes `--reason`. Common options that it `ignores` are accepted, so
    that a script may add them to every line, and not shown."""

    def register(function: Function) -> Function:
        made: Any = partial(cls or Command, takes_reason=takes_reason, ignores=ignores)
        registered[name] = CommandInfo(
            name.rsplit(maxsplit=1)[-1],
            cls=made,
            callback=function,
            context_settings=HELP_OPTION,
            epilog=f"\b\nExample:\n  {example}",
        )
        return function

    return register


def build(info: CommandInfo) -> Any:
    """The command of a registered function."""
    return get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)


def outline(info: CommandInfo) -> Any:
    """The same without its options, which a list of commands does not need: they take 0.5 ms."""
    return TyperCommand(info.name, help=inspect.getdoc(info.callback))


def _ignored(option: TyperOption) -> TyperOption:
    hidden: Any = copy.copy(option)
    hidden.hidden, hidden.callback = True, _remember_unused
    return hidden  # type: ignore[no-any-return] # it is Any so that its callback can be set


def _remember_unused(invocation: Any, option: Any, value: object) -> None:
    if value is not None and not option.is_flag:
        invocation.unused += (option.opts[0],)


# --- commands and groups ----------------------------------------------------------------------------


class Command(TyperCommand):
    """A command that also takes the common options, in any order; its `--help` shows them last."""

    context_class = Invocation

    def __init__(
        self, *args: Any, params: list[Any], takes_reason: bool, ignores: Collection[str], **settings: Any
    ) -> None:
        reason = [REASON] if takes_reason else []
        common = [_ignored(option) if option.opts[0] in ignores else option for option in COMMON_OPTIONS]
        super().__init__(*args, params=[*params, *reason, *common], **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """An option without its value is an error of this command, whose --help it should name."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined] # of a usage error, which has no public name
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`EVENT_ID` as everywhere else; Typer writes `{EVENT_ID}`."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: Any) -> Any:
        if ctx.verbose:
            log_steps()
        if ctx.unused:
            ctx.note(f"`{ctx.command_path}` ignores {' and '.join(ctx.unused)}")
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        headings: dict[str, list[Any]] = {"Arguments": [], "Options": [], COMMON: []}
        for parameter in self.get_params(ctx):
            is_common = parameter in COMMON_OPTIONS or parameter.name == "help"
            heading = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record := parameter.get_help_record(ctx):  # None for one that is not shown
                headings[COMMON if is_common else heading].append(record)
        for heading, records in headings.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Group(TyperGroup):
    """A group whose `--help` shows its commands under headings. Without a command it shows its help, as
    an error: a script that lost its arguments must not go on."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(Usage.exit_code)
        return super().parse_args(ctx, args)

    def outlines(self) -> Iterable[tuple[str, Any]]:
        """Each command with its help."""
        return self.commands.items()

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        panels: dict[str, list[tuple[str, str]]] = {}
        longest = max(map(len, self.commands))
        for name, each in self.outlines():
            # In a narrow window it has several lines, rather than half of its words.
            text = each.get_short_help_str(max(SHORT_HELP, formatter.width - longest - 6))
            panel = getattr(each, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel, []).append((name.ljust(longest), text))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)
