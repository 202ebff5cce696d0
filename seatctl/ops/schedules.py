"""A crontab, and systemd services and timers, that run the jobs. It knows no database.

The URI never stands in either, only the name of the file that holds it: they are read by more people
than a password is for.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path, PurePosixPath

from seatctl.errors import Usage

URI_FILE = "/etc/seatctl/uri"
"""Where the URI belongs when it is in no file yet."""
CRONTAB, CRON_DIRECTORY = Path("/etc/crontab"), Path("/etc/cron.d")
NAMED_IN_CRON = re.compile(
    r"""^(?!\s*\#) (?:\s*SEATCTL_URI_FILE\s*=\s* | .*\bseatctl\b.*\ --uri-file[ =])
    ('[^']*' | "[^"]*" | \S+)""",
    re.MULTILINE | re.VERBOSE,
)
"""A setting, or an option of a command."""
WAIT = "5m"
"""How long `recover` waits at boot for a database that starts at the same time."""


def _absolute(path: str) -> str:
    """`path`, if it is absolute and fits into a line. Raises Usage."""
    if not _single_line("the path", path).startswith("/"):
        raise Usage(f"{path!r} is not an absolute path; cron and systemd start in a directory of their own")
    return path


def _single_line(what: str, text: str) -> str:
    """`text`, if it cannot break out of its line. Raises Usage, which calls it `what`."""
    if not text or not text.isprintable():
        raise Usage(f"{what} is empty or has characters that a line cannot contain: {text!r}")
    return text


# --- cron -------------------------------------------------------------------------------------------

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def crontab(program: str, user: str, uri_file: str, database: str | None = None) -> str:
    """The crontab of `user`, for `crontab -u USER FILE`: the absolute path of the program, the file
    with the URI, the database's name where it is not the URI's.

    Raises Usage for a value that no crontab can contain.
    """
    # In each line, not in a variable: pasted alone, a line must not use the embedded MongoDB.
    options = f"-q --uri-file {shlex.quote(_single_line('the path', uri_file))}"
    if database:
        options += f" --database {shlex.quote(_single_line('the database', database))}"
    # A % would end the line for cron, quoted or not.
    command = shlex.quote(_absolute(program)).replace("%", r"\%")
    options = options.replace("%", r"\%")
    settings = {"SHELL": "/bin/sh", "PATH": PATH, "MAILTO": user}
    lines = "\n".join(f"{name}={_crontab_value(name, value)}" for name, value in settings.items())
    return f"""\
# seatctl's jobs. Install with: crontab -u {_single_line("the user", user)} FILE
#
# The MongoDB URI is in a file that only {user} can read:
#   install -D -m 600 -o {user} /dev/stdin {shlex.quote(uri_file)}   (paste the URI, then press Ctrl-D)
#
# The jobs print nothing when they succeed. Cron mails everything else to MAILTO; on a host without
# mail, append `2>&1 | logger -t seatctl` to each command instead.
{lines}

# Repair inconsistent state after a crash. The database may still be starting. The other jobs may already
# run meanwhile, which is safe.
@reboot {command} recover {options} --wait {WAIT}

# Return the seats of overdue bookings and locks, each every minute, half a minute apart; what comes back
# to a closed event stays off sale. Runs may overlap, on one host or on several.
* * * * * {command} expire-bookings {options}
* * * * * sleep 30 && {command} expire-locks {options}

# Also check jobs, backlog, consistency and refunds every quarter of an hour (remove the # to enable):
#7,22,37,52 * * * * {command} health {options}
"""


def uri_files_of_host(*, ask_cron: bool) -> list[str]:
    """The files with a server's URI that this host seems to use: in the usual directory, or named by cron
    entries, of the system and, with `ask_cron`, of this user."""
    texts = []
    for path in (CRONTAB, *sorted(CRON_DIRECTORY.glob("*"))):
        with suppress(OSError):
            texts.append(path.read_text(errors="replace"))
    if ask_cron and (program := shutil.which("crontab")):
        asked = subprocess.run([program, "-l"], capture_output=True, text=True, check=False)  # noqa: S603
        texts.append(asked.stdout)
    found = [match[1] for text in texts for match in NAMED_IN_CRON.finditer(text)]
    usual = [URI_FILE] if os.access(URI_FILE, os.F_OK) else []
    return list(dict.fromkeys([*usual, *(name.strip("\"'") for name in found)]))


def why_unreadable(user: str, path: str) -> str | None:
    """Why owner, group and mode keep this user from reading a file, which may also be a directory on the
    way to it, or that there is none; None when they do not, or when that cannot be known. An access list may
    say otherwise."""
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    file = Path(path).resolve()
    try:
        needed = [(each, each.stat(), 0o1) for each in reversed(file.parents)] + [(file, file.stat(), 0o4)]
    except FileNotFoundError:
        return "there is no such file"
    except OSError:
        return None
    for each, status, bit in needed:
        shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid in groups else 0
        if account.pw_uid != 0 and not status.st_mode & (bit << shift):
            return f"{each} has owner {_name_of(status.st_uid)} and mode {status.st_mode & 0o777:03o}"
    return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _crontab_value(name: str, value: str) -> str:
    """A value as cron reads it: no expansion, no escapes, quotes only around the whole."""
    _single_line(name, value)
    if value == value.strip() and value[:1] not in ("'", '"'):
        return value
    quote = next((quote for quote in "\"'" if quote not in value), None)
    if quote is None:
        raise Usage(f"{name} cannot be written in a crontab: {value!r} has both kinds of quotes")
    return f"{quote}{value}{quote}"


# --- systemd ----------------------------------------------------------------------------------------

RECOVER, LOCKS, BOOKINGS = "seatctl-recover", "seatctl-expire-locks", "seatctl-expire-bookings"
FAILURE = "seatctl-failure@"

HIDDEN = (
    (("/home", "/root", "/run/user"), "ProtectHome=yes", "ProtectHome=read-only"),
    (("/tmp", "/var/tmp"), "PrivateTmp=yes", "PrivateTmp=no"),  # noqa: S108 - names, nothing is written
)
"""Directories that the sandbox hides, with the directive that hides them, and the relaxed one for a
program or interpreter that lives in them."""

STRICT = """\
AmbientCapabilities=
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateUsers=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077
"""


def units(
    program: str,
    user: str,
    uri_file: str,
    database: str | None = None,
    *,
    interpreter: str | None = None,
    application: str | None = None,
) -> dict[str, str]:
    """The unit files by name, for /etc/systemd/system.

    `interpreter` is the real path of the Python that runs the program, where that may be elsewhere.
    `application` is a unit, such as `booking.service`, that must start after `recover`.
    Raises Usage for a value that no unit file can contain.
    """
    settings = f"""\
# systemd reads this file as root and hands the job a copy, so anybody may own it.
LoadCredential=seatctl-uri:{_unit_path(uri_file)}
"""
    if database:
        settings += f"Environment={_unit_word('SEATCTL_DATABASE=' + database)}\n"
    settings += _sandbox([path for path in (program, interpreter) if path], user)
    start = _unit_word(_absolute(program))
    return {
        f"{RECOVER}.service": _recover_service(start, settings, application),
        f"{BOOKINGS}.service": _expiry_service("bookings", start, settings),
        f"{BOOKINGS}.timer": _timer("bookings", "00"),
        f"{LOCKS}.service": _expiry_service("locks", start, settings),
        f"{LOCKS}.timer": _timer("locks", "30"),
        f"{FAILURE}.service": f"""\
[Unit]
Description=Report that %i failed

[Service]
Type=oneshot
# Put your own mail, chat or pager command here. The journal says what went wrong.
ExecStart=/usr/bin/logger -t seatctl -p daemon.err "%i failed: journalctl -n 20 -u %i"
{_sandbox([], "root", network=False)}""",
    }


NEXT_COMMANDS = f"""\
sudo systemctl daemon-reload
sudo systemctl enable --now {RECOVER}.service
sudo systemctl enable --now {LOCKS}.timer {BOOKINGS}.timer"""
"""What starts the jobs once the files are in place."""


def write_units(files: dict[str, str], directory: Path, *, force: bool = False) -> list[str]:
    """Write the files into `directory`. One that exists and says something else, as a person may have
    changed it, is kept unless `force`; returns the paths of those. Raises Usage when it cannot write."""
    kept = []
    try:
        for name, text in files.items():
            path = directory / name
            if not force and path.exists() and path.read_bytes() != text.encode():
                kept.append(str(path))
            else:
                path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Usage(f"cannot write to {directory}: {error.strerror}") from error
    return kept


def bundle(files: dict[str, str]) -> str:
    """All files as one text, each under its name, as `systemctl cat` shows them."""
    return "\n".join(f"# /etc/systemd/system/{name}\n{text}" for name, text in files.items())


def _recover_service(start: str, settings: str, application: str | None) -> str:
    before = " ".join([f"{BOOKINGS}.service", f"{LOCKS}.service", *([application] if application else [])])
    return f"""\
[Unit]
Description=Repair inconsistent seat inventory after a crash
Wants=network-online.target
After=network-online.target mongod.service
# The application must start after this unit too: either name it here, or add
# `Wants={RECOVER}.service` and `After={RECOVER}.service` to it.
Before={_single_line("the application's unit", before)}
OnFailure={FAILURE}%n.service

[Service]
Type=oneshot
ExecStart={start} recover -q --wait {WAIT}
# Up to {WAIT} of waiting for the database, then all of it to read.
TimeoutStartSec=1h
{settings}
[Install]
WantedBy=multi-user.target
"""


def _expiry_service(what: str, start: str, settings: str) -> str:
    return f"""\
[Unit]
Description=Return the seats of overdue {what}
Wants=network-online.target
After=network-online.target mongod.service {RECOVER}.service
OnFailure={FAILURE}%n.service

[Service]
Type=oneshot
ExecStart={start} expire-{what} -q
# A million overdue {what} take less than a minute. At the end of this time systemd sends SIGTERM:
# the transaction in progress ends, and the run logs how far it got.
TimeoutStartSec=10min
{settings}"""


def _timer(what: str, second: str) -> str:
    return f"""\
[Unit]
Description=Return the seats of overdue {what} every minute

[Timer]
# The two timers fire half a minute apart.
OnCalendar=*-*-* *:*:{second} UTC
# systemd's default of one minute would merge them.
AccuracySec=1s
# At boot, one run for all that were missed.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _sandbox(paths: list[str], user: str, *, network: bool = True) -> str:
    """The directives that confine a service; each relaxed one has its reason above it."""
    lines, is_relaxed = "", False
    for directories, strict, relaxed in HIDDEN:
        hidden = [path for path in paths if any(PurePosixPath(path).is_relative_to(at) for at in directories)]
        lines += f"# Relaxed: {hidden[0]} must be visible.\n{relaxed}\n" if hidden else f"{strict}\n"
        is_relaxed = is_relaxed or bool(hidden)
    if network:
        lines += """\
# Relaxed: the database is reached over the network or through a Unix socket.
PrivateNetwork=no
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
"""
    else:
        lines += """\
PrivateNetwork=yes
# Relaxed: the journal listens on a Unix socket.
RestrictAddressFamilies=AF_UNIX
"""
    # The jobs need no rights, so instead of root they get a user of their own; but DynamicUser=
    # does not allow relaxing, and only root can read what is in root's home.
    identity = "DynamicUser=yes" if user == "root" and not is_relaxed else f"User={_unit_word(user)}"
    return f"{identity}\n{lines}{STRICT}"


def _unit_word(text: str) -> str:
    """One word of a unit file, quoted where needed, with its specifiers switched off."""
    _single_line("a unit file's value", text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != text or any(character in text for character in " \t';") else text


def _unit_path(path: str) -> str:
    """A path behind a colon, where systemd has no quotes."""
    if any(character.isspace() for character in path):
        raise Usage(
            f"the path of the URI file has spaces in it, which LoadCredential= does not allow: {path!r}"
        )
    return _absolute(path).replace("%", "%%")
