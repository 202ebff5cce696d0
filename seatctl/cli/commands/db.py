"""Manage the embedded MongoDB: start, stop, status, uri."""

from __future__ import annotations

from seatctl.cli.command import command
from seatctl.cli.invocation import SYSTEM_DATABASES, Invocation
from seatctl.cli.options import DATABASE_OPTIONS
from seatctl.mongo import embedded
from seatctl.mongo.target import DEFAULT_DATABASE
from seatctl.output import formats

IGNORED = (*DATABASE_OPTIONS, "--verbose")


@command("db start", ignores=IGNORED, example="seatctl db start")
def db_start(call: Invocation) -> None:
    """Start the embedded MongoDB.

    The other commands start it themselves when they need it."""
    embedded.ensure_running()
    call.tell(_db_status(), f"The embedded MongoDB is running (pid {embedded.files().pid}).")


@command("db stop", ignores=IGNORED, example="seatctl db stop")
def db_stop(call: Invocation) -> None:
    """Stop the embedded MongoDB. Its data is kept.

    Only this user's, whatever SEATCTL_URI and SEATCTL_URI_FILE say."""
    files = embedded.files()
    pid = files.pid  # the file that has it goes with the process
    state = f"is stopped (pid {pid})" if embedded.stop() else "was not running"
    call.tell(_db_status(), f"The embedded MongoDB in {files.data} {state}.")


@command("db status", ignores=IGNORED, example="seatctl db status")
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
            lines.append(f"holds {name}: {formats.sizes_in_words(sizes)}")
        lines += [] if contents else ["holds nothing"]
    call.tell(status, "\n".join(lines))


@command("db uri", ignores=("--uri", "--uri-file", "--verbose"), example='mongosh "$(seatctl db uri)"')
def db_uri(call: Invocation) -> None:
    """Print a URI that mongosh or Compass can open.

    Starts the embedded MongoDB."""
    name = call.target.database or DEFAULT_DATABASE
    uri = embedded.ensure_running().replace("/?", f"/{name}?")
    call.tell({"uri": uri}, uri, quiet=uri)


def _contents() -> dict[str, dict[str, int]]:
    """The databases in it, each with the sizes of its collections."""
    from seatctl.mongo.client import connect
    from seatctl.mongo.store import Store

    def store(name: str) -> Store:
        return Store(connect(embedded.files().uri, name, DEFAULT_DATABASE))

    names = [name for name in store(DEFAULT_DATABASE).databases() if name not in SYSTEM_DATABASES]
    return {name: store(name).sizes() for name in names}


def _db_status() -> dict[str, object]:
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
