"""Ready files that run the jobs: a crontab, or systemd units. Text only; knows no database.

The URI never stands in them, only the name of the file that holds it: a crontab and a unit file are
read by more people than a password is for.
"""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from seatctl.errors import Usage

URI_FILE = "/etc/seatctl/uri"
"""Where the URI belongs when it is in no file yet."""
PROGRAM, USER = "/usr/local/bin/seatctl", "seatctl"
"""What `crontab.example` is made for."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WAIT = "5m"
"""How long `recover` waits at boot for a database that starts beside it."""


def cron(program: str, user: str, uri_file: str, database: str | None = None) -> str:
    """The crontab of `user`, for `crontab -u USER FILE`: the absolute path of the program, the file
    with the URI, the database's name where it is not the URI's.

    Raises Usage for a value that no crontab can carry.
    """
    command = _cron_command(program)
    settings = {
        "SHELL": "/bin/sh",
        "PATH": PATH,
        "MAILTO": user,
        "SEATCTL_URI_FILE": uri_file,
        **({"SEATCTL_DATABASE": database} if database else {}),
    }
    lines = "\n".join(f"{name}={_cron_value(name, value)}" for name, value in settings.items())
    return f"""\
# seatctl's jobs. Install with: crontab -u {_one_line("the user", user)} FILE
#
# The MongoDB URI stands in the file named below, readable by {user} alone:
#   install -D -m 600 -o {user} /dev/stdin {shlex.quote(uri_file)}   (paste the URI, then Ctrl-D)
#
# The jobs are silent when all is well. What they say goes to MAILTO by mail; on a host without
# mail, put `2>&1 | logger -t seatctl` behind each command instead.
{lines}

# Heal what a crash left, before the first minute's jobs; the database may still be starting.
@reboot {command} recover -q --wait {WAIT}

# Give back what nobody paid for, every minute, half a minute apart. Runs that overlap, here or on
# other hosts, do no harm.
* * * * * {command} expire-bookings -q
* * * * * sleep 30 && {command} expire-locks -q

# Hear also of jobs that do not run, of a backlog and of drift, every quarter of an hour: uncomment.
#7,22,37,52 * * * * {command} health -q
"""


def _cron_command(program: str) -> str:
    """A program's path as a crontab's command: quoted for the shell, and with each % escaped, which
    cron would otherwise take for the end of the line, quoted or not."""
    return shlex.quote(_absolute(program)).replace("%", r"\%")


def _cron_value(name: str, value: str) -> str:
    """A value as cron reads it: no expansion, no escapes, quotes only around the whole."""
    _one_line(name, value)
    if value == value.strip() and value[:1] not in ("'", '"'):
        return value
    quote = next((quote for quote in "\"'" if quote not in value), None)
    if quote is None:
        raise Usage(f"{name} cannot stand in a crontab: {value!r} has both kinds of quotes")
    return f"{quote}{value}{quote}"


# --- systemd ---------------------------------------------------------------------------------------

RECOVER, LOCKS, BOOKINGS = "seatctl-recover", "seatctl-expire-locks", "seatctl-expire-bookings"
FAILURE = "seatctl-failure@"

# What the sandbox would hide, where the program or its interpreter lives: directories, the
# directive as it should be, as it must be then.
HIDDEN = (
    (("/home", "/root", "/run/user"), "ProtectHome=yes", "ProtectHome=read-only"),
    (("/tmp", "/var/tmp"), "PrivateTmp=yes", "PrivateTmp=no"),  # noqa: S108 - names, nothing is written
)


def systemd(
    program: str,
    user: str,
    uri_file: str,
    database: str | None = None,
    *,
    interpreter: str | None = None,
    application: str | None = None,
) -> dict[str, str]:
    """The unit files by name, for /etc/systemd/system.

    `interpreter` is the real path of the Python that runs the program, where that may lie elsewhere.
    `application` is a unit, such as `booking.service`, that shall start after `recover`.
    Raises Usage for a value that no unit file can carry.
    """
    paths = [path for path in (program, interpreter) if path]
    sandbox = _sandbox(paths, user)
    shared = _shared(uri_file, database)
    start = _unit_word(_absolute(program))
    return {
        f"{RECOVER}.service": _recover_service(start, shared, sandbox, application),
        f"{BOOKINGS}.service": _expiry_service("bookings", start, shared, sandbox),
        f"{BOOKINGS}.timer": _timer("bookings", ":00"),
        f"{LOCKS}.service": _expiry_service("locks", start, shared, sandbox),
        f"{LOCKS}.timer": _timer("locks", ":30"),
        f"{FAILURE}.service": _failure_service(),
    }


def bundle(files: dict[str, str]) -> str:
    """All files as one text, each under its name, as `systemctl cat` shows them."""
    return "\n".join(f"# /etc/systemd/system/{name}\n{text}" for name, text in files.items())


def _recover_service(start: str, shared: str, sandbox: str, application: str | None) -> str:
    before = " ".join([f"{BOOKINGS}.service", f"{LOCKS}.service", *([application] if application else [])])
    return f"""\
[Unit]
Description=Heal the seat inventory after a crash, before anybody sells
Wants=network-online.target
After=network-online.target mongod.service
# The application belongs behind this one too: either name its unit here, or write
# `Wants={RECOVER}.service` and `After={RECOVER}.service` into it.
Before={_one_line("the application's unit", before)}
OnFailure={FAILURE}%n.service

[Service]
Type=oneshot
ExecStart={start} recover -q --wait {WAIT}
# {WAIT} of waiting, then a whole database to read.
TimeoutStartSec=1h
{shared}
{sandbox}
[Install]
WantedBy=multi-user.target
"""


def _expiry_service(what: str, start: str, shared: str, sandbox: str) -> str:
    return f"""\
[Unit]
Description=Give back the seats of {what} whose deadline has passed
Wants=network-online.target
After=network-online.target mongod.service {RECOVER}.service
OnFailure={FAILURE}%n.service

[Service]
Type=oneshot
ExecStart={start} expire-{what} -q
# A million overdue ones take less than a minute. The SIGTERM at the end of this time lets the
# transaction in flight end and logs how far the run came.
TimeoutStartSec=10min
{shared}
{sandbox}"""


def _timer(what: str, second: str) -> str:
    return f"""\
[Unit]
Description=Give back the seats of overdue {what}, every minute

[Timer]
# The two timers fire half a minute apart.
OnCalendar=*-*-* *:*{second}
# systemd's default of one minute would merge them.
AccuracySec=1s
# One run at boot for all those that were missed.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _failure_service() -> str:
    return f"""\
[Unit]
Description=Tell that %i failed

[Service]
Type=oneshot
# Put your own mail, chat or pager command here. What went wrong stands in the journal.
ExecStart=/usr/bin/logger -t seatctl -p daemon.err "%i failed: journalctl -n 20 -u %i"
{_sandbox([], "root", network=False)}"""


def _shared(uri_file: str, database: str | None) -> str:
    lines = [
        "# Read by systemd itself, as root: whoever owns the file, the job gets a copy of its own.",
        f"LoadCredential=seatctl-uri:{_unit_path(uri_file)}",
    ]
    if database:
        lines.append(f"Environment={_unit_word('SEATCTL_DATABASE=' + database)}")
    return "\n".join(lines)


def _sandbox(paths: list[str], user: str, *, network: bool = True) -> str:
    """The directives that confine a service; each that is relaxed has its reason above it."""
    lines, relaxations = [], 0
    for directories, strict, relaxed in HIDDEN:
        inside = next((path for path in paths if _is_in(path, directories)), None)
        if inside:
            lines.append(f"# Relaxed: {inside} must be visible.")
            relaxations += 1
        lines.append(relaxed if inside else strict)
    if network:
        lines += [
            "# Relaxed: the database is reached over the network or through a Unix socket.",
            "PrivateNetwork=no",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        ]
    else:
        lines += [
            "PrivateNetwork=yes",
            "# Relaxed: the journal listens on a Unix socket.",
            "RestrictAddressFamilies=AF_UNIX",
        ]
    # The jobs need no right of their own, so root's run as nobody in particular; but DynamicUser=
    # forbids to relax, and what lies in root's home only root can read.
    identity = "DynamicUser=yes" if user == "root" and not relaxations else f"User={_unit_word(user)}"
    return "\n".join([identity, *lines, *STRICT, ""])


STRICT = (
    "AmbientCapabilities=",
    "CapabilityBoundingSet=",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "NoNewPrivileges=yes",
    "PrivateDevices=yes",
    "PrivateUsers=yes",
    "ProcSubset=pid",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "ProtectSystem=strict",
    "RemoveIPC=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "UMask=0077",
)


def _is_in(path: str, directories: tuple[str, ...]) -> bool:
    return any(PurePosixPath(path).is_relative_to(directory) for directory in directories)


def _unit_word(text: str) -> str:
    """One word of a unit file, quoted where needed, with its specifiers switched off."""
    _one_line("a unit file's value", text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != text or any(character in text for character in " \t';") else text


def _unit_path(path: str) -> str:
    """A path behind a colon, where systemd knows no quotes."""
    if any(character.isspace() for character in path):
        raise Usage(
            f"the path of the URI file has spaces in it, which LoadCredential= cannot carry: {path!r}"
        )
    return _absolute(path).replace("%", "%%")


# --- shared ----------------------------------------------------------------------------------------


def _absolute(path: str) -> str:
    _one_line("the path", path)
    if not path.startswith("/"):
        raise Usage(f"{path!r} is not an absolute path; cron and systemd start in a directory of their own")
    return path


def _one_line(what: str, text: str) -> str:
    """`text`, if it cannot break out of its line."""
    if not text or not text.isprintable():
        raise Usage(f"{what} is empty or has characters that no line can carry: {text!r}")
    return text
