"""What all commands share: the common options and what they mean, the form of `--help`, and the
decorator that registers a command. Knows no command.

Help is plain text: Typer's Rich form doubles the time of `--help`.
"""

from __future__ import annotations

import copy
import json
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from seatctl.cli.boundary import log_steps
from seatctl.cli.session import Session
from seatctl.domain.timespec import format_duration
from seatctl.domain.validation import text
from seatctl.domain.words import printable, wrapped
from seatctl.errors import Misconfigured, Unreachable, Usage
from seatctl.mongo.target import DEFAULT_DATABASE, Target, find_target
from seatctl.output.formats import print_json

if TYPE_CHECKING:
    from pathlib import Path

    from seatctl.mongo.store import Store

COMMON = "Common options"
HELP_OPTION = {"help_option_names": ["-h", "--help"]}
SHORT_HELP = 57
"""Letters that a command's line in `--help` may have."""
SYSTEM_DATABASES = ("admin", "config", "local")
NO_EMBEDDED_DATABASE = (
    "no database is configured: set SEATCTL_URI, SEATCTL_URI_FILE or --uri "
    "(the embedded MongoDB has no database {}, and only init and create-event create one)"
)

Function = TypeVar("Function", bound=Callable[..., None])


class Invocation(typer.Context):
    """One command line: the common options as attributes, and what follows from them.

    It is Typer's own context, so a command gets it by asking for a parameter of this type.
    """

    uri: str | None = None
    uri_file: str | None = None
    database: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    reason: str | None = None
    """Why an operator's command changes something."""
    unused: tuple[str, ...] = ()
    """Options with a value that were given and change nothing."""

    @property
    def session(self) -> Session | None:
        """What this line shares with the others of its batch; None for a command line of its own."""
        return self.obj if isinstance(self.obj, Session) else None

    @cached_property
    def target(self) -> Target:
        """The configured database; warnings about its safety go to stderr, with -q and --json too.
        Raises Usage, Misconfigured."""
        uri, uri_file, database = self.uri, self.uri_file, self.database
        if self.session is not None:
            if uri is None and uri_file is None:
                uri, uri_file = self.session.batch.uri, self.session.batch.uri_file
            database = self.session.batch.database if database is None else database
        target = find_target(uri, uri_file, database)
        for warning in target.warnings if self.session is None else self.session.unheard(target.warnings):
            self.warn(warning)
        return target

    def store(
        self, *, create: bool = False, wait: float = 0, guard: bool = True, writes: bool = True
    ) -> Store:
        """Open the database. Nothing configured means the embedded MongoDB.

        Without `create` the database must exist: a job with a mistyped name must fail, not work on an
        empty database for ever. Without `guard` it may be another program's, which only `adopt` looks at.
        Without `writes` it may have lost its locks: for what only reads, or makes them again.
        Tries for `wait` seconds while the server is unreachable.
        Raises Misconfigured, Unreachable.
        """
        give_up, told = time.monotonic() + wait, False
        while True:
            try:
                store = self._open(create, guard)
                if guard:
                    store.check_locks(writes=writes)
                return store
            except Unreachable as error:
                if time.monotonic() >= give_up:
                    raise
                if not told:
                    self.note(f"waiting up to {format_duration(timedelta(seconds=wait))}: {error}")
                told = True
                logging.getLogger(__name__).info("%s; waiting", error)
                time.sleep(1)

    def _open(self, create: bool, guard: bool) -> Store:
        from seatctl.mongo.client import connect
        from seatctl.mongo.store import Store

        reason = None if self.reason is None else text("reason", self.reason)
        if self.session is not None and (known := self.session.known_store(self.target)):
            return known.for_reason(reason)
        uri, database = self.target.uri or self._start_embedded(create), self.target.database
        reach = connect if self.session is None else self.session.reach
        store = Store.open(reach(uri, database, DEFAULT_DATABASE), reason)
        if self.target.uri is None:
            store.deployment.revive = partial(self._start_embedded, create=False)
        if store.name in SYSTEM_DATABASES:
            raise Misconfigured(
                f"{store.name} is one of MongoDB's own databases; name another one in the URI's path or with "
                "--database (if the user was created in admin, add authSource=admin to the URI)"
            )
        if guard and not store.exists():
            self._check_new_name(store, create)
        elif guard and self.session is not None:
            self.session.keep(self.target, store)
        return store

    def _start_embedded(self, create: bool) -> str:
        from seatctl.mongo import embedded

        is_new, was_running = not embedded.exists(), embedded.answers(embedded.files())
        if is_new and not create:
            raise Misconfigured(NO_EMBEDDED_DATABASE.format(self.target.database or DEFAULT_DATABASE))
        uri = embedded.ensure_running()
        if is_new:
            self.note(f"created the embedded MongoDB in {embedded.files().data}; SEATCTL_URI selects another")
        self._mention_server(embedded.files().data, ask_cron=not was_running)
        return uri

    def _mention_server(self, data: Path, *, ask_cron: bool) -> None:
        """Say once that this host seems to have a server, where the embedded MongoDB is used."""
        from seatctl.ops.schedules import uri_files_of_host

        told = data / "told-of-server"
        if self.quiet or self.json or told.exists() or not (files := uri_files_of_host(ask_cron=ask_cron)):
            return
        self.note(
            f"using the embedded MongoDB, although {files[0]} seems to name this host's server; "
            f"`export SEATCTL_URI_FILE={shlex.quote(files[0])}` selects it (shown once)"
        )
        told.touch()

    def _check_new_name(self, store: Store, create: bool) -> None:
        """Raises Misconfigured unless the database, which nobody has used yet, may be created."""
        names = store.databases()
        missing = f"there is no database {store.name} on this server"
        if store.name in names:
            missing = f"database {store.name} has no events collection"
        elif name := next((name for name in names if name.lower() == store.name.lower()), None):
            raise Misconfigured(f"{missing}, but there is {name}; names are case-sensitive")
        if not create and self.target.uri is None:
            raise Misconfigured(NO_EMBEDDED_DATABASE.format(store.name))
        if not create:
            raise Misconfigured(
                f"{missing} (only init and create-event create one); check the name "
                "in the URI, --database and SEATCTL_DATABASE, and the user's privileges"
            )

    def warn(self, message: str) -> None:
        """A warning on stderr, with -q and --json too."""
        line = json.dumps({"warning": message}) if self.json else f"seatctl: warning: {message}"
        print(printable(line), file=sys.stderr)

    def note(self, message: str) -> None:
        """A remark for a person, on stderr; none with -q or --json."""
        if not (self.quiet or self.json):
            line = f"seatctl: {printable(message)}"
            if sys.stderr.isatty():
                line = wrapped(line, shutil.get_terminal_size().columns)
            print(line, file=sys.stderr)

    def tell(self, document: object, sentence: str, quiet: object = None) -> None:
        """Print a result: the document with --json, with -q only `quiet` (None: nothing), else the
        sentence."""
        if self.session is not None:
            self.session.made = quiet
        if self.json:
            print_json(document)
        elif not self.quiet:
            print(sentence)
        elif quiet is not None:
            print(quiet)

    def tell_plan(self, document: Mapping[str, object], sentence: str) -> None:
        """Print what a dry run would make, without the id that it would not have."""
        self.tell({field: value for field, value in document.items() if field != "_id"}, sentence)


# --- the common options -----------------------------------------------------------------------------


def common_option(
    *names: str,
    metavar: str | None = None,
    parse: Callable[[str], Any] = str,
    help: str,  # noqa: A002 - Typer's word
) -> TyperOption:
    """An option whose value becomes an attribute of the invocation; without a metavar it is a flag."""

    def keep(call: Any, option: Any, value: Any) -> None:
        try:
            setattr(call, option.name, parse(value) if isinstance(value, str) else value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=call, param=option) from error

    default = False if metavar is None else None
    return TyperOption(
        param_decls=list(names),
        metavar=metavar,
        is_flag=metavar is None,
        default=default,
        help=help,
        expose_value=False,
        callback=keep,
    )


COMMON_OPTIONS = (
    common_option("--uri", metavar="URI", help="MongoDB URI [env: SEATCTL_URI]."),
    common_option("--uri-file", metavar="FILE", help="Read the URI from a file [env: SEATCTL_URI_FILE]."),
    common_option("--database", metavar="NAME", help="Database name [env: SEATCTL_DATABASE]."),
    common_option("--json", help="Print one JSON document."),
    common_option("--quiet", "-q", help="Print only ids; jobs print nothing."),
    common_option("--verbose", "-v", help="Log each step on stderr."),
)


def _unused(option: TyperOption) -> TyperOption:
    """The same, for a command that it changes nothing of: taken, so that a script may add it to every line,
    and not shown."""
    hidden: Any = copy.copy(option)
    hidden.hidden, hidden.callback = True, _remember_unused
    return hidden  # type: ignore[no-any-return]


def _remember_unused(invocation: Any, option: Any, value: object) -> None:
    if value is not None and not option.is_flag:
        invocation.unused += (option.opts[0],)


REASON = common_option("--reason", metavar="TEXT", help="Why, for the record (`seatctl history`).")
FIND_DATABASE = frozenset({"--uri", "--uri-file", "--database"})


class Command(TyperCommand):
    """A command that also takes the common options, in any order; its `--help` shows them last. Of those
    that say where the database is, it uses only `finds`, and of the others those that are not `without`."""

    context_class = Invocation

    def __init__(
        self,
        *args: Any,
        params: list[Any],
        finds: Collection[str] = FIND_DATABASE,
        without: Collection[str] = (),
        changes: bool = False,
        **settings: Any,
    ) -> None:
        unused = (FIND_DATABASE - set(finds)).union(without)
        common = [
            _unused(option) if unused.intersection(option.opts) else option for option in COMMON_OPTIONS
        ]
        reason = [REASON] if changes else []
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
        """The commands by name, as far as a list shows them."""
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


def command(
    app: typer.Typer,
    name: str,
    *,
    panel: str | None = None,
    example: str,
    finds: Collection[str] = FIND_DATABASE,
    without: Collection[str] = (),
    changes: bool = False,
    cls: Callable[..., Command] = Command,
) -> Callable[[Function], Function]:
    """Register a function as a command with the common options. Its docstring is the help, with `example`
    below. One that changes something by an operator's decision takes `--reason`."""
    made: Any = partial(cls, finds=finds, without=without, changes=changes)
    return app.command(
        name,
        cls=made,
        context_settings=HELP_OPTION,
        rich_help_panel=panel,
        epilog=f"\b\nExample:\n  {example}",
    )
