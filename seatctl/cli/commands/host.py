"""Commands about this host: db, schedule, roles, demo."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from seatctl.cli.invocation import SYSTEM_DATABASES, Group, Invocation, command
from seatctl.cli.options import SET_UP, ScheduleUser, flag, option
from seatctl.domain.words import count, shorten
from seatctl.errors import ItemsLeft, SeatctlError, Usage
from seatctl.mongo.target import DEFAULT_DATABASE, find_target
from seatctl.output import console, formats, tables

UNLOGGED = ("--verbose",)
"""Their one step is what they print."""

SHOWN_SIZES = {"events": "event", "seatLocks": "lock", "bookings": "booking"}

commands = typer.Typer()
db, schedule = typer.Typer(cls=Group), typer.Typer(cls=Group)
DB = "Manage the embedded MongoDB: start, stop, status, uri."
SCHEDULE = "Print a crontab or systemd units for this host."


@command(
    commands,
    "roles",
    panel=SET_UP,
    finds=("--database",),
    without=UNLOGGED,
    example="seatctl roles --database shop",
)
def roles(call: Invocation) -> None:
    """Print the database roles for mongosh.

    A script that creates the roles and users of the guide `privileges`. Paste it as one block, or save it
    and run `mongosh --file`. It asks for the passwords."""
    from seatctl.help import role_script

    database = find_target(None, None, call.database, {}).database or DEFAULT_DATABASE
    script = role_script(database, DEFAULT_DATABASE).rstrip()
    call.tell({"database": database, "script": script}, script, quiet=script)


# --- the embedded MongoDB ---------------------------------------------------------------------------


@command(db, "start", finds=(), without=UNLOGGED, example="seatctl db start")
def db_start(call: Invocation) -> None:
    """Start the embedded MongoDB.

    The other commands start it themselves when they need it."""
    from seatctl.mongo import embedded

    embedded.ensure_running()
    call.tell(_db_status(), f"The embedded MongoDB is running (pid {embedded.files().pid}).")


@command(db, "stop", finds=(), without=UNLOGGED, example="seatctl db stop")
def db_stop(call: Invocation) -> None:
    """Stop the embedded MongoDB. Its data is kept.

    Only this user's, whatever SEATCTL_URI and SEATCTL_URI_FILE say."""
    from seatctl.mongo import embedded

    files = embedded.files()
    pid = files.pid  # the file that has it goes with the process
    state = f"is stopped (pid {pid})" if embedded.stop() else "was not running"
    call.tell(_db_status(), f"The embedded MongoDB in {files.data} {state}.")


@command(db, "status", finds=(), without=UNLOGGED, example="seatctl db status")
def db_status(call: Invocation) -> None:
    """Show the state and the files of the embedded MongoDB.

    Only this user's, whatever SEATCTL_URI and SEATCTL_URI_FILE say."""
    status = _db_status()
    state = f"is running (pid {status['pid']})" if status["running"] else "is not running"
    if not status["exists"]:
        state = "was never started"
    lines = [f"The embedded MongoDB {state}.", f"data  {status['data']}", f"log   {status['log']}"]
    if status["running"]:
        status["databases"] = contents = _contents()
        for name, sizes in contents.items():
            held = ", ".join(count(sizes[collection], what) for collection, what in SHOWN_SIZES.items())
            lines.append(f"holds {name}: {held}")
        lines += [] if contents else ["holds nothing"]
    call.tell(status, "\n".join(lines))


@command(db, "uri", finds=("--database",), without=UNLOGGED, example='mongosh "$(seatctl db uri)"')
def db_uri(call: Invocation) -> None:
    """Print a URI that mongosh or Compass can open.

    Starts the embedded MongoDB."""
    from seatctl.mongo import embedded

    name = call.target.database or DEFAULT_DATABASE
    uri = embedded.ensure_running().replace("/?", f"/{name}?")
    call.tell({"uri": uri}, uri, quiet=uri)


def _contents() -> dict[str, dict[str, int]]:
    """The databases in it, each with the sizes of its collections."""
    from seatctl.mongo import embedded
    from seatctl.mongo.client import connect
    from seatctl.mongo.store import Store

    def store(name: str) -> Store:
        return Store(connect(embedded.files().uri, name, DEFAULT_DATABASE))

    names = [name for name in store(DEFAULT_DATABASE).databases() if name not in SYSTEM_DATABASES]
    return {name: store(name).sizes() for name in names}


def _db_status() -> dict[str, object]:
    from seatctl.mongo import embedded

    files = embedded.files()
    running = embedded.answers(files)
    return {
        "running": running,
        "exists": embedded.exists(),
        "pid": files.pid if running else None,
        "uri": files.uri,
        "data": str(files.db),
        "log": str(files.log),
    }


# --- schedules --------------------------------------------------------------------------------------

IN_SCHEDULE = ("--uri-file", "--database")
"""Never --uri: a schedule is read by more people than a password is for."""


@command(
    schedule,
    "cron",
    finds=IN_SCHEDULE,
    without=UNLOGGED,
    example="sudo seatctl schedule cron --user seatctl --uri-file /etc/seatctl/uri \\\n"
    "    > seatctl.crontab && sudo crontab -u seatctl seatctl.crontab",
)
def schedule_cron(call: Invocation, user: ScheduleUser = None) -> None:
    """Print a crontab that runs the jobs of this installation."""
    from seatctl.ops.schedules import crontab

    program, user, uri_file, database = _installation(call, user)
    text = crontab(program, user, uri_file, database)
    _check_readable(call, user, uri_file)
    if call.json:
        formats.print_json({"crontab": text})
    else:
        print(text, end="")


@command(
    schedule,
    "systemd",
    finds=IN_SCHEDULE,
    without=UNLOGGED,
    example="sudo seatctl schedule systemd --user seatctl \\\n"
    "    --uri-file /etc/seatctl/uri --write /etc/systemd/system",
)
def schedule_systemd(
    call: Invocation,
    user: ScheduleUser = None,
    application: Annotated[
        str | None, option("--application UNIT", str, "A unit that must start after recovery.")
    ] = None,
    write: Annotated[
        Path | None, option("--write DIRECTORY", Path, "Write the files there instead of printing them.")
    ] = None,
    force: Annotated[bool, flag("--force", "Replace files that exist and differ.")] = False,
) -> None:
    """Print systemd units that run the jobs of this installation."""
    from seatctl.ops import schedules

    interpreter = str(Path(sys.executable).resolve())
    program, user, uri_file, database = _installation(call, user)
    files = schedules.units(
        program, user, uri_file, database, interpreter=interpreter, application=application
    )
    _check_readable(call, "root", uri_file)  # systemd hands it on
    kept = [] if write is None else schedules.write_units(files, write, force=force)
    if call.json:
        formats.print_json(files)
    elif write is None:
        print(schedules.bundle(files), end="")
    elif not call.quiet:
        print(*(path for name in files if (path := str(write / name)) not in kept), sep="\n")
        print(f"\nTo start the jobs:\n\n{schedules.NEXT_COMMANDS}")
    if kept:
        differs, them = ("which differs", "it") if len(kept) == 1 else ("which differ", "them")
        raise ItemsLeft(f"kept {', '.join(kept)}, {differs}; --force replaces {them}")


def _check_readable(call: Invocation, user: str, uri_file: str) -> None:
    from seatctl.ops.schedules import why_unreadable

    if reason := why_unreadable(user, uri_file):
        call.warn(f"{user} cannot read {uri_file}, so every job would fail: {reason}")


def _installation(call: Invocation, user: str | None) -> tuple[str, str, str, str | None]:
    """Program, user, URI file and database of this installation, as a schedule names them. Raises Usage
    for a user that this host does not have: neither cron nor systemd would run anything."""
    from seatctl.ops.schedules import URI_FILE

    try:
        user = (pwd.getpwuid(os.getuid()) if user is None else pwd.getpwnam(user)).pw_name
    except (KeyError, ValueError):
        who = f"user {shorten(user)!r}" if user else "such user"
        raise Usage(f"there is no {who} on this host; create one, or name another with --user") from None
    database = call.target.database
    uri_file = call.uri_file or os.environ.get("SEATCTL_URI_FILE")
    if not uri_file:
        call.note(f"the schedule reads the URI from {URI_FILE}; put it there, mode 600")
    program = shutil.which(sys.argv[0]) or shutil.which("seatctl") or sys.argv[0]
    path = os.path.abspath(uri_file or URI_FILE)  # noqa: PTH100 - a link stays a link
    return os.path.abspath(program), user, path, database  # noqa: PTH100 - so does this one


# --- demo -------------------------------------------------------------------------------------------


@command(commands, "demo", panel=SET_UP, finds=("--uri", "--uri-file"), example="seatctl demo")
def demo(call: Invocation) -> None:
    """Play all scenarios in a throwaway database.

    Ignores the environment and uses the embedded MongoDB, unless --uri or --uri-file is given."""
    from seatctl.mongo import embedded
    from seatctl.mongo.client import connect
    from seatctl.mongo.store import Store
    from seatctl.ops.demo import play

    uri = find_target(call.uri, call.uri_file, None, environment={}).uri or embedded.ensure_running()
    store = Store(connect(uri, f"seatctl_demo_{secrets.token_hex(6)}", DEFAULT_DATABASE))
    scenarios = []
    try:
        for number, scenario in enumerate(play(store), 1):
            scenarios.append(scenario)
            if not (call.json or call.quiet):
                checks = tables.checks_table(scenario.checks)
                console.show(f"{number}. {scenario.title}", *scenario.parts, checks, "")
    finally:
        store.drop()
    ok = all(scenario.ok for scenario in scenarios)
    if call.json:
        formats.print_json({"ok": ok, "scenarios": [scenario.as_document() for scenario in scenarios]})
    elif ok and not call.quiet:
        hint = "" if call.uri or call.uri_file else " `seatctl db stop` stops the MongoDB that it ran on."
        print(f"All numbers are as expected, and the throwaway database is dropped.{hint}")
    if not ok:
        raise SeatctlError("a number is not as expected; please report this")
