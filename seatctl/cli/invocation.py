"""What all commands share: the common options and what they mean, the form of `--help`, and the
decorator that registers a command. Knows no command.

Help is plain text: Typer's Rich form doubles the time of `--help`.
"""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from seatctl.cli.boundary import log_steps
from seatctl.domain.timespec import printable
from seatctl.errors import Misconfigured, Unreachable, Usage
from seatctl.mongo.target import DEFAULT_DATABASE, Target, find_target

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument
    from seatctl.mongo.store import Store

COMMON = "Common options"
COMPLETION_PATIENCE_MS = 500
SYSTEM_DATABASES = ("admin", "config", "local")

Function = TypeVar("Function", bound=Callable[..., int | None])


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
    _target: Target | None = None

    def target(self) -> Target:
        """The configured database; warnings about it go to stderr. Raises Usage, Misconfigured."""
        if self._target is None:
            self._target = find_target(self.uri, self.uri_file, self.database)
            for warning in self._target.warnings:
                self.note(f"warning: {warning}")
        return self._target

    def store(self, *, create: bool = False, wait: float = 0) -> Store:
        """Open the database. Nothing configured means the embedded MongoDB.

        Without `create` the database must exist: a job with a mistyped name must fail, not work on an
        empty database for ever. Tries for `wait` seconds while the server is unreachable.
        Raises Misconfigured, Unreachable.
        """
        target = self.target()
        give_up = time.monotonic() + wait
        while True:
            try:
                return self._open(target, create)
            except Unreachable as error:
                if time.monotonic() >= give_up:
                    raise
                logging.getLogger(__name__).info("%s; waiting", error)
                time.sleep(1)

    def _open(self, target: Target, create: bool) -> Store:
        from seatctl.mongo.client import connect
        from seatctl.mongo.store import Store

        uri = target.uri or self._start_embedded(target.database, create)
        store = Store(connect(uri, target.database, DEFAULT_DATABASE))
        if store.name in SYSTEM_DATABASES:
            raise Misconfigured(
                f"{store.name} is one of MongoDB's own databases; name another one in the URI's path or with "
                "--database (authSource=admin in the URI names the database that knows the user)"
            )
        if not store.exists():
            _check_new_name(store, create, embedded=target.uri is None)
        return store

    def _start_embedded(self, name: str | None, create: bool) -> str:
        from seatctl.mongo import embedded

        is_new = not embedded.exists()
        if is_new and not create:
            raise Misconfigured(NO_EMBEDDED_DATABASE.format(name or DEFAULT_DATABASE))
        uri = embedded.ensure_running()
        if is_new:
            self.note(f"created the embedded MongoDB in {embedded.place().data}; SEATCTL_URI selects another")
        return uri

    @contextmanager
    def throwaway_store(self) -> Iterator[Store]:
        """A new database that is dropped at the end, on the embedded MongoDB or on the server that an
        option of this command line names. The environment is ignored."""
        from seatctl.mongo import embedded
        from seatctl.mongo.client import connect
        from seatctl.mongo.store import Store

        target = find_target(self.uri, self.uri_file, None, {})
        name = f"seatctl_demo_{secrets.token_hex(6)}"
        store = Store(connect(target.uri or embedded.ensure_running(), name, DEFAULT_DATABASE))
        try:
            yield store
        finally:
            store.drop()

    def glance(self) -> Store | None:
        """The database if it answers at once: for completion, which starts nothing and says nothing."""
        from seatctl.mongo import embedded
        from seatctl.mongo.client import connect
        from seatctl.mongo.store import Store

        target = find_target(self.uri, self.uri_file, self.database)
        if target.uri is None and not (embedded.exists() and embedded.answers(embedded.place())):
            return None
        uri = target.uri or embedded.place().uri
        return Store(connect(uri, target.database, DEFAULT_DATABASE, COMPLETION_PATIENCE_MS))

    def note(self, message: str) -> None:
        """A remark for a person, on stderr; none with -q or --json."""
        if not (self.quiet or self.json):
            print(f"seatctl: {printable(message)}", file=sys.stderr)

    def tell(self, document: StoredDocument, sentence: str) -> None:
        """The result of a command that created or changed one document."""
        if self.json:
            from seatctl.output.formats import print_json

            print_json(document)
        elif self.quiet:
            print(document["_id"])
        else:
            print(sentence)


NO_EMBEDDED_DATABASE = (
    "no database is configured: set SEATCTL_URI, SEATCTL_URI_FILE or --uri "
    "(the embedded MongoDB has no database {}, and only init and create-event create one)"
)


def _check_new_name(store: Store, create: bool, *, embedded: bool) -> None:
    """Raises Misconfigured unless the database, which nobody has used yet, may be created."""
    if name := store.namesake():
        raise Misconfigured(
            f"there is no database {store.name} on this server, but there is {name}; names are case-sensitive"
        )
    if create:
        return
    if embedded:
        raise Misconfigured(NO_EMBEDDED_DATABASE.format(store.name))
    raise Misconfigured(
        f"there is no database {store.name} with events on this server (only init and create-event create "
        "one); check the name in the URI, --database and SEATCTL_DATABASE, and the user's privileges"
    )


# --- the common options -----------------------------------------------------------------------------


def _keep(invocation: Any, option: Any, value: Any) -> Any:
    """Store a common option's value on the invocation."""
    setattr(invocation, option.name, value)
    return value


def _common(*names: str, metavar: str | None = None, help: str) -> TyperOption:  # noqa: A002 - Typer's word
    is_flag = metavar is None
    return TyperOption(
        param_decls=list(names),
        metavar=metavar,
        is_flag=is_flag,
        default=False if is_flag else None,
        help=help,
        rich_help_panel=COMMON,
        expose_value=False,
        callback=_keep,
    )


COMMON_OPTIONS = (
    _common("--uri", metavar="URI", help="MongoDB URI [env: SEATCTL_URI]."),
    _common("--uri-file", metavar="FILE", help="Read the URI from a file [env: SEATCTL_URI_FILE]."),
    _common("--database", metavar="NAME", help="Database name [env: SEATCTL_DATABASE]."),
    _common("--json", help="Print one JSON document."),
    _common("--quiet", "-q", help="Print only ids; jobs print nothing."),
    _common("--verbose", "-v", help="Log each step on stderr."),
)


class Command(TyperCommand):
    """A command that also takes the common options, in any order; its `--help` shows them last."""

    context_class = Invocation

    def __init__(self, *args: Any, params: list[Any], **settings: Any) -> None:
        super().__init__(*args, params=[*params, *COMMON_OPTIONS], **settings)

    def invoke(self, ctx: Any) -> Any:
        if ctx.verbose:
            log_steps()
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        headings: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], COMMON: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_common = parameter in COMMON_OPTIONS or parameter.name == "help"
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                headings[COMMON if is_common else kind].append(record)
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

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        panels: dict[str, list[tuple[str, str]]] = {}
        longest = max(map(len, self.commands))
        for name, each in self.commands.items():
            text = each.get_short_help_str(formatter.width - longest - 6)
            panel = getattr(each, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel, []).append((name.ljust(longest), text))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


def command(
    app: typer.Typer, name: str, *, panel: str | None = None, example: str
) -> Callable[[Function], Function]:
    """Register a function as a command with the common options. What it returns is the exit code (None:
    0); its docstring is the help, with `example` below."""
    return app.command(name, cls=Command, rich_help_panel=panel, epilog=f"\b\nExample:\n  {example}")
