"""Commands about this host: db, schedule, demo."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path

import typer

from seatctl.cli.invocation import Group, Invocation, command
from seatctl.cli.options import SET_UP, Application, ScheduleUser, Write
from seatctl.domain.timespec import shorten
from seatctl.errors import SeatctlError, Usage

commands = typer.Typer()
db = typer.Typer(cls=Group, rich_markup_mode=None)
schedule = typer.Typer(cls=Group, rich_markup_mode=None)


# --- the embedded MongoDB ---------------------------------------------------------------------------


@command(db, "start", example="seatctl db start")
def db_start(call: Invocation) -> None:
    """Start the embedded MongoDB.

    The other commands start it themselves when they need it."""
    from seatctl.mongo import embedded

    embedded.ensure_running()
    _tell_db(call, f"The embedded MongoDB is running (pid {embedded.place().pid}).")


@command(db, "stop", example="seatctl db stop")
def db_stop(call: Invocation) -> None:
    """Stop the embedded MongoDB. Its data is kept."""
    from seatctl.mongo import embedded

    stopped = embedded.stop()
    _tell_db(call, "The embedded MongoDB is stopped." if stopped else "The embedded MongoDB was not running.")


@command(db, "status", example="seatctl db status")
def db_status(call: Invocation) -> None:
    """Show the state and the files of the embedded MongoDB."""
    status = _db_status()
    state = f"is running (pid {status['pid']})" if status["running"] else "is not running"
    if not status["exists"]:
        state = "was never started"
    _tell_db(call, f"The embedded MongoDB {state}.\ndata  {status['data']}\nlog   {status['log']}")


@command(db, "uri", example='mongosh "$(seatctl db uri)"')
def db_uri(call: Invocation) -> None:
    """Print a URI that mongosh or Compass can open.

    Starts the embedded MongoDB."""
    from seatctl.mongo import embedded
    from seatctl.mongo.target import DEFAULT_DATABASE

    name = call.target().database or DEFAULT_DATABASE
    uri = embedded.ensure_running().replace("/?", f"/{name}?")
    if call.json:
        from seatctl.output.formats import print_json

        print_json({"uri": uri})
    else:
        print(uri)


def _tell_db(call: Invocation, sentence: str) -> None:
    if call.json:
        from seatctl.output.formats import print_json

        print_json(_db_status())
    elif not call.quiet:
        print(sentence)


def _db_status() -> dict[str, object]:
    from seatctl.mongo import embedded

    place = embedded.place()
    running = embedded.answers(place)
    return {
        "running": running,
        "exists": embedded.exists(),
        "pid": place.pid if running else None,
        "uri": place.uri,
        "data": str(place.db),
        "log": str(place.log),
    }


# --- schedules --------------------------------------------------------------------------------------


@command(
    schedule,
    "cron",
    example="sudo seatctl schedule cron --user seatctl > jobs && sudo crontab -u seatctl jobs",
)
def schedule_cron(call: Invocation, user: ScheduleUser = None) -> None:
    """Print a crontab that runs the jobs of this installation."""
    from seatctl.ops.cron import crontab

    text = crontab(*_installation(call, user))
    if call.json:
        from seatctl.output.formats import print_json

        print_json({"crontab": text})
    else:
        print(text, end="")


@command(schedule, "systemd", example="sudo seatctl schedule systemd --write /etc/systemd/system")
def schedule_systemd(
    call: Invocation, user: ScheduleUser = None, application: Application = None, write: Write = None
) -> None:
    """Print systemd services and timers that run the jobs of this installation."""
    from seatctl.ops import systemd

    interpreter = str(Path(sys.executable).resolve())
    files = systemd.units(*_installation(call, user), interpreter=interpreter, application=application)
    written = [] if write is None else _write(files, Path(write))
    if call.json:
        from seatctl.output.formats import print_json

        print_json(files)
    elif write is None:
        print(systemd.bundle(files), end="")
    elif not call.quiet:
        print("\n".join(map(str, written)))


def _installation(call: Invocation, user: str | None) -> tuple[str, str, str, str | None]:
    """Program, user, URI file and database of this installation, as a schedule names them."""
    from seatctl.ops.installation import URI_FILE

    user = _host_user(user)
    target = call.target()
    uri_file = call.uri_file or os.environ.get("SEATCTL_URI_FILE")
    if not uri_file:
        call.note(f"the schedule reads the URI from {URI_FILE}; put it there, mode 600")
    program = shutil.which(sys.argv[0]) or shutil.which("seatctl") or sys.argv[0]
    path = os.path.abspath(uri_file or URI_FILE)  # noqa: PTH100 - a link stays a link
    return os.path.abspath(program), user, path, target.database  # noqa: PTH100 - so does this one


def _host_user(name: str | None) -> str:
    """A user of this host, by default the caller. Raises Usage where there is none of that name: neither
    cron nor systemd would run anything."""
    try:
        return (pwd.getpwuid(os.getuid()) if name is None else pwd.getpwnam(name)).pw_name
    except (KeyError, ValueError):
        who = f"user {shorten(name)!r}" if name else "such user"
        raise Usage(f"there is no {who} on this host; create one, or name another with --user") from None


def _write(files: dict[str, str], directory: Path) -> list[Path]:
    paths = [directory / name for name in files]
    try:
        for path, text in zip(paths, files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Usage(f"cannot write to {directory}: {error.strerror}") from error
    return paths


# --- demo -------------------------------------------------------------------------------------------


@command(commands, "demo", panel=SET_UP, example="seatctl demo")
def demo(call: Invocation) -> None:
    """Play all scenarios in a throwaway database.

    Uses the embedded MongoDB whatever the environment says, unless --uri or --uri-file is given."""
    from seatctl.ops.demo import play
    from seatctl.output import console, formats, tables

    scenarios = []
    with call.throwaway_store() as store:
        for number, scenario in enumerate(play(store), 1):
            scenarios.append(scenario)
            if not (call.json or call.quiet):
                checks = tables.checks_table(scenario.checks)
                console.show(f"{number}. {scenario.title}", *scenario.parts, checks, "")
    ok = all(scenario.ok for scenario in scenarios)
    if call.json:
        formats.print_json({"ok": ok, "scenarios": [scenario.as_document() for scenario in scenarios]})
    elif ok and not call.quiet:
        hint = "" if call.uri or call.uri_file else " `seatctl db stop` stops the MongoDB that it ran on."
        print(f"All numbers are as expected, and the throwaway database is dropped.{hint}")
    if not ok:
        raise SeatctlError("a number is not as expected; please report this")
