"""One command line: the values of its common options, the database that it works on, and what it prints.
Knows no command."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import typer

from seatctl.domain.timespec import format_duration
from seatctl.domain.validation import text
from seatctl.domain.words import printable, wrapped
from seatctl.errors import Misconfigured, Unreachable
from seatctl.mongo.target import DEFAULT_DATABASE, Target, find_target
from seatctl.output.formats import print_json

if TYPE_CHECKING:
    from pathlib import Path

    from seatctl.mongo.client import Deployment
    from seatctl.mongo.store import Store
    from seatctl.services.jobs import Progress

SYSTEM_DATABASES = ("admin", "config", "local")
NO_EMBEDDED_DATABASE = (
    "no database is configured: set SEATCTL_URI, SEATCTL_URI_FILE or --uri "
    "(the embedded MongoDB has no database {}, and only init and create-event create one)"
)


GOOD_FOR = 1.0
"""Seconds for which a line of a batch relies on what another one checked."""


class Session:
    """What the command lines of a batch share: their connections, and the options of `batch` itself. A
    command line outside of a batch has a session of its own."""

    def __init__(self, batch: Invocation | None = None) -> None:
        self.batch = batch
        self.made: object = None
        """The id that the last line made."""
        self._warnings: set[str] = set()
        self._checked: dict[Target, tuple[float, Store]] = {}

    @cached_property
    def connect(self) -> Callable[[str, str | None, str], Deployment]:
        """As `mongo.client.connect`, once for all lines."""
        from seatctl.mongo.client import connect

        return cache(connect)

    def known_store(self, target: Target) -> Store | None:
        """A database that a line opened and checked a moment ago. A command alone relies for longer on what
        it checked at its start; asking each time would make a line half as fast."""
        checked, store = self._checked.get(target, (0.0, None))
        return store if time.monotonic() - checked < GOOD_FOR else None

    def keep(self, target: Target, store: Store) -> None:
        self._checked[target] = time.monotonic(), store

    def unheard(self, warnings: Sequence[str]) -> list[str]:
        """Those that no line gave yet."""
        new = [warning for warning in warnings if warning not in self._warnings]
        self._warnings.update(new)
        return new

    def forget(self) -> None:
        """Check each database again: a line may have changed what it is."""
        self._checked.clear()


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

    @cached_property
    def session(self) -> Session:
        return self.obj or Session()

    @cached_property
    def target(self) -> Target:
        """The configured database; warnings about its safety go to stderr, with -q and --json too.
        Raises Usage, Misconfigured."""
        uri, uri_file, database = self.uri, self.uri_file, self.database
        if batch := self.session.batch:
            if uri is None and uri_file is None:
                uri, uri_file = batch.uri, batch.uri_file
            database = batch.database if database is None else database
        target = find_target(uri, uri_file, database)
        for warning in self.session.unheard(target.warnings):
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
        from seatctl.mongo.store import Store

        reason = None if self.reason is None else text("reason", self.reason)
        if known := self.session.known_store(self.target):
            return known.for_reason(reason)
        uri, database = self.target.uri or self._start_embedded(create), self.target.database
        store = Store.open(self.session.connect(uri, database, DEFAULT_DATABASE), reason)
        if self.target.uri is None:
            store.deployment.revive = partial(self._start_embedded, create=False)
        if store.name in SYSTEM_DATABASES:
            raise Misconfigured(
                f"{store.name} is one of MongoDB's own databases; name another one in the URI's path or with "
                "--database (if the user was created in admin, add authSource=admin to the URI)"
            )
        if guard and not store.exists():
            self._check_new_name(store, create)
        elif guard:
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

    def progress(self, *, unless: bool = False) -> Progress:
        """A bar for a person. None with -q, nor where -v or a batch shows how far the work is."""
        from seatctl.output import progress
        from seatctl.services.jobs import SILENT

        hidden = unless or self.quiet or self.verbose or self.session.batch
        return SILENT if hidden else progress.Progress()

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

    def tell(
        self, document: Mapping[str, object], sentence: str, quiet: object = None, *, planned: bool = False
    ) -> None:
        """Print a result: the document with --json, with -q only `quiet` (None: nothing), else the
        sentence. What is only `planned` is printed without the id that it would not have."""
        if planned:
            document, quiet = {field: value for field, value in document.items() if field != "_id"}, None
        self.session.made = quiet
        if self.json:
            print_json(document)
        elif not self.quiet:
            print(sentence)
        elif quiet is not None:
            print(quiet)
