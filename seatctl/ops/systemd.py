"""systemd services and timers that run the jobs. Text only: it knows no database."""

from __future__ import annotations

from pathlib import PurePosixPath

from seatctl.errors import Usage
from seatctl.ops.installation import WAIT, absolute, single_line

RECOVER, LOCKS, BOOKINGS = "seatctl-recover", "seatctl-expire-locks", "seatctl-expire-bookings"
FAILURE = "seatctl-failure@"

HIDDEN = (
    (("/home", "/root", "/run/user"), "ProtectHome=yes", "ProtectHome=read-only"),
    (("/tmp", "/var/tmp"), "PrivateTmp=yes", "PrivateTmp=no"),  # noqa: S108 - names, nothing is written
)
"""Directories that the sandbox hides, with the directive that hides them, and the relaxed one for a
program or interpreter that lives in them."""

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
    paths = [path for path in (program, interpreter) if path]
    sandbox = _sandbox(paths, user)
    shared = _shared(uri_file, database)
    start = _unit_word(absolute(program))
    return {
        f"{RECOVER}.service": _recover_service(start, shared, sandbox, application),
        f"{BOOKINGS}.service": _expiry_service("bookings", start, shared, sandbox),
        f"{BOOKINGS}.timer": _timer("bookings", "00"),
        f"{LOCKS}.service": _expiry_service("locks", start, shared, sandbox),
        f"{LOCKS}.timer": _timer("locks", "30"),
        f"{FAILURE}.service": _failure_service(),
    }


def bundle(files: dict[str, str]) -> str:
    """All files as one text, each under its name, as `systemctl cat` shows them."""
    return "\n".join(f"# /etc/systemd/system/{name}\n{text}" for name, text in files.items())


def _recover_service(start: str, shared: str, sandbox: str, application: str | None) -> str:
    before = " ".join([f"{BOOKINGS}.service", f"{LOCKS}.service", *([application] if application else [])])
    return f"""\
[Unit]
Description=Repair inconsistent seat inventory after a crash
Wants=network-online.target
After=network-online.target mongod.service
# The application must start after this unit too: either name it here, or add
# `Wants={RECOVER}.service` and `After={RECOVER}.service` to it.
Before={single_line("the application's unit", before)}
OnFailure={FAILURE}%n.service

[Service]
Type=oneshot
ExecStart={start} recover -q --wait {WAIT}
# Up to {WAIT} of waiting for the database, then all of it to read.
TimeoutStartSec=1h
{shared}
{sandbox}
[Install]
WantedBy=multi-user.target
"""


def _expiry_service(what: str, start: str, shared: str, sandbox: str) -> str:
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
{shared}
{sandbox}"""


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


def _failure_service() -> str:
    return f"""\
[Unit]
Description=Report that %i failed

[Service]
Type=oneshot
# Put your own mail, chat or pager command here. The journal says what went wrong.
ExecStart=/usr/bin/logger -t seatctl -p daemon.err "%i failed: journalctl -n 20 -u %i"
{_sandbox([], "root", network=False)}"""


def _shared(uri_file: str, database: str | None) -> str:
    lines = [
        "# systemd reads this file as root and hands the job a copy, so anybody may own it.",
        f"LoadCredential=seatctl-uri:{_unit_path(uri_file)}",
    ]
    if database:
        lines.append(f"Environment={_unit_word('SEATCTL_DATABASE=' + database)}")
    return "\n".join(lines)


def _sandbox(paths: list[str], user: str, *, network: bool = True) -> str:
    """The directives that confine a service; each relaxed one has its reason above it."""
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
    # The jobs need no rights, so instead of root they get a user of their own; but DynamicUser=
    # does not allow relaxing, and only root can read what is in root's home.
    identity = "DynamicUser=yes" if user == "root" and not relaxations else f"User={_unit_word(user)}"
    return "\n".join([identity, *lines, *STRICT, ""])


def _is_in(path: str, directories: tuple[str, ...]) -> bool:
    return any(PurePosixPath(path).is_relative_to(directory) for directory in directories)


def _unit_word(text: str) -> str:
    """One word of a unit file, quoted where needed, with its specifiers switched off."""
    single_line("a unit file's value", text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != text or any(character in text for character in " \t';") else text


def _unit_path(path: str) -> str:
    """A path behind a colon, where systemd has no quotes."""
    if any(character.isspace() for character in path):
        raise Usage(
            f"the path of the URI file has spaces in it, which LoadCredential= does not allow: {path!r}"
        )
    return absolute(path).replace("%", "%%")
