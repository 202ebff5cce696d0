"""A crontab that runs the jobs. Text only: it knows no database."""

from __future__ import annotations

import shlex

from seatctl.errors import Usage
from seatctl.ops.installation import WAIT, absolute, single_line

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def crontab(program: str, user: str, uri_file: str, database: str | None = None) -> str:
    """The crontab of `user`, for `crontab -u USER FILE`: the absolute path of the program, the file
    with the URI, the database's name where it is not the URI's.

    Raises Usage for a value that no crontab can contain.
    """
    command = _command(program)
    settings = {"SHELL": "/bin/sh", "PATH": PATH, "MAILTO": user, "SEATCTL_URI_FILE": uri_file}
    if database:
        settings["SEATCTL_DATABASE"] = database
    lines = "\n".join(f"{name}={_value(name, value)}" for name, value in settings.items())
    return f"""\
# seatctl's jobs. Install with: crontab -u {single_line("the user", user)} FILE
#
# The MongoDB URI is in the file named below, which only {user} can read:
#   install -D -m 600 -o {user} /dev/stdin {shlex.quote(uri_file)}   (paste the URI, then press Ctrl-D)
#
# The jobs print nothing when they succeed. Cron mails everything else to MAILTO; on a host without
# mail, append `2>&1 | logger -t seatctl` to each command instead.
{lines}

# Repair inconsistent state after a crash, before the other jobs run. The database may still be starting.
@reboot {command} recover -q --wait {WAIT}

# Return the seats of overdue bookings and locks, each every minute, half a minute apart. Runs may
# overlap, on one host or on several.
* * * * * {command} expire-bookings -q
* * * * * sleep 30 && {command} expire-locks -q

# Also check job freshness, backlog and consistency every quarter of an hour (remove the # to enable):
#7,22,37,52 * * * * {command} health -q
"""


def _command(program: str) -> str:
    """A program's path as a crontab's command: quoted for the shell, and with each % escaped, which
    cron would otherwise take for the end of the line, quoted or not."""
    return shlex.quote(absolute(program)).replace("%", r"\%")


def _value(name: str, value: str) -> str:
    """A value as cron reads it: no expansion, no escapes, quotes only around the whole."""
    single_line(name, value)
    if value == value.strip() and value[:1] not in ("'", '"'):
        return value
    quote = next((quote for quote in "\"'" if quote not in value), None)
    if quote is None:
        raise Usage(f"{name} cannot be written in a crontab: {value!r} has both kinds of quotes")
    return f"{quote}{value}{quote}"
