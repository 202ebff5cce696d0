"""What a crontab and systemd units have in common: where things are, and what may stand in a line.

The URI never stands in either, only the name of the file that holds it: they are read by more
people than a password is for.
"""

from __future__ import annotations

from seatctl.errors import Usage

URI_FILE = "/etc/seatctl/uri"
"""Where the URI belongs when it is in no file yet."""
PROGRAM, USER = "/usr/local/bin/seatctl", "seatctl"
"""What `crontab.example` is made for."""
WAIT = "5m"
"""How long `recover` waits at boot for a database that starts at the same time."""


def absolute(path: str) -> str:
    """`path`, if it is absolute and fits into a line. Raises Usage."""
    single_line("the path", path)
    if not path.startswith("/"):
        raise Usage(f"{path!r} is not an absolute path; cron and systemd start in a directory of their own")
    return path


def single_line(what: str, text: str) -> str:
    """`text`, if it cannot break out of its line. Raises Usage, which calls it `what`."""
    if not text or not text.isprintable():
        raise Usage(f"{what} is empty or has characters that a line cannot contain: {text!r}")
    return text
