"""Print a crontab or systemd units for this host."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import Annotated

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import flag, option
from seatctl.domain.words import shorten
from seatctl.errors import ItemsLeft, Usage
from seatctl.ops import schedules
from seatctl.output import formats

IGNORED = ("--uri", "--verbose")
"""A schedule is read by more people than a password is for."""
User = Annotated[str | None, option("--user USER", str, "The user who runs the jobs.  [default: you]")]


@command(
    "schedule cron",
    ignores=IGNORED,
    example="sudo seatctl schedule cron --user seatctl --uri-file /etc/seatctl/uri \\\n"
    "    > seatctl.crontab && sudo crontab -u seatctl seatctl.crontab",
)
def schedule_cron(call: Invocation, user: User = None) -> None:
    """Print a crontab that runs the jobs of this installation."""
    program, user, uri_file, database = _installation(call, user)
    text = schedules.crontab(program, user, uri_file, database)
    _check_readable(call, user, uri_file)
    if call.json:
        formats.print_json({"crontab": text})
    else:
        print(text, end="")


@command(
    "schedule systemd",
    ignores=IGNORED,
    example="sudo seatctl schedule systemd --user seatctl \\\n"
    "    --uri-file /etc/seatctl/uri --write /etc/systemd/system",
)
def schedule_systemd(
    call: Invocation,
    user: User = None,
    application: Annotated[
        str | None, option("--application UNIT", str, "A unit that must start after recovery.")
    ] = None,
    write: Annotated[
        Path | None, option("--write DIRECTORY", Path, "Write the files there instead of printing them.")
    ] = None,
    force: Annotated[bool, flag("--force", "Replace files that exist and differ.")] = False,
) -> None:
    """Print systemd units that run the jobs of this installation."""
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
    if reason := schedules.why_unreadable(user, uri_file):
        call.warn(f"{user} cannot read {uri_file}, so every job would fail: {reason}")


def _installation(call: Invocation, user: str | None) -> tuple[str, str, str, str | None]:
    """Program, user, URI file and database of this installation, as a schedule names them. Raises Usage
    for a user that this host does not have: neither cron nor systemd would run anything."""
    try:
        user = (pwd.getpwuid(os.getuid()) if user is None else pwd.getpwnam(user)).pw_name
    except (KeyError, ValueError):
        who = f"user {shorten(user)!r}" if user else "such user"
        raise Usage(f"there is no {who} on this host; create one, or name another with --user") from None
    database = call.target.database
    uri_file = call.uri_file or os.environ.get("SEATCTL_URI_FILE")
    if not uri_file:
        call.note(f"the schedule reads the URI from {schedules.URI_FILE}; put it there, mode 600")
    program = shutil.which(sys.argv[0]) or shutil.which("seatctl") or sys.argv[0]
    path = os.path.abspath(uri_file or schedules.URI_FILE)  # noqa: PTH100 - a link stays a link
    return os.path.abspath(program), user, path, database  # noqa: PTH100 - so does this one
