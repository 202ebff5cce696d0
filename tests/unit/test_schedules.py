"""Crontab and systemd units: what they contain, that the real tools accept them, and that they run."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import pytest

from seatctl.domain.states import JobStatus, JobType
from seatctl.errors import Usage
from seatctl.ops import schedules
from seatctl.ops.schedules import BOOKINGS, FAILURE, LOCKS, RECOVER, URI_FILE

if TYPE_CHECKING:
    from terminal import Shell

EXAMPLE = Path(__file__).parents[2].joinpath("crontab.example").read_text()
INSTALLED = str(Path(sys.executable).with_name("seatctl"))
IN_TMP = "/tmp/venv/bin/seatctl"  # noqa: S108 - a name, nothing is written
ODD = "/opt/50% of it's mine/\\%/seatctl"


def run_tool(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the host; in CI it must be there."""
    if shutil.which(command[0]) is None:
        assert not os.environ.get("CI"), f"{command[0]} must be installed in CI"
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=False)


def settings(crontab: str) -> dict[str, str]:
    """The environment that a crontab sets up, as cron reads it."""
    return dict(re.findall(r"^([A-Z_]+)=[\"']?(.*?)[\"']?$", crontab, re.MULTILINE))


def commands(crontab: str) -> list[str]:
    """The commands of a crontab as cron hands them to the shell: an unescaped % ends one."""
    lines = re.findall(r"^(?:@reboot|(?:[*\d/,-]+ ){5}) ?(.*)$", crontab, re.MULTILINE)
    return [re.split(r"(?<!\\)%", line)[0].replace(r"\%", "%") for line in lines]


def run_as_cron(crontab: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run one command in cron's bare environment, but without waiting for its half minute."""
    environment = {**settings(crontab), "HOME": "/nonexistent", "LOGNAME": "nobody"}
    return subprocess.run(
        [environment["SHELL"], "-c", f"sleep() {{ :; }}; {command}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def uri_file(tmp_path: Path, database_uri: str) -> str:
    path = tmp_path / "uri"
    path.write_text(database_uri)
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def shell(tmp_path: Path, uri_file: str) -> Shell:
    from terminal import Shell

    return Shell({"HOME": str(tmp_path), "SEATCTL_URI_FILE": uri_file})


# --- cron ------------------------------------------------------------------------------------------


def test_the_example_is_what_the_command_prints() -> None:
    """`crontab.example` is the crontab of an installation in the standard place."""
    assert schedules.crontab("/usr/local/bin/seatctl", "seatctl", URI_FILE) == EXAMPLE


def test_crontab_runs_every_job() -> None:
    """Recovery at boot, waiting for the database, both sweeps every minute and half a minute apart."""
    assert commands(EXAMPLE) == [
        "/usr/local/bin/seatctl recover -q --uri-file /etc/seatctl/uri --wait 5m",
        "/usr/local/bin/seatctl expire-bookings -q --uri-file /etc/seatctl/uri",
        "sleep 30 && /usr/local/bin/seatctl expire-locks -q --uri-file /etc/seatctl/uri",
    ]
    assert EXAMPLE.count("\n@reboot ") == 1
    assert EXAMPLE.count("\n* * * * * ") == 2


def test_the_health_check_of_the_crontab_works_without_its_comment_sign() -> None:
    enabled = EXAMPLE.replace("\n#7,", "\n7,")

    assert commands(enabled)[3:] == ["/usr/local/bin/seatctl health -q --uri-file /etc/seatctl/uri"]


def test_crontab_sets_its_environment() -> None:
    """The crontab relies on nothing that cron does not provide: shell, path and recipient. A line pasted into
    another crontab names its database itself."""
    crontab = schedules.crontab("/opt/seatctl", "booking", URI_FILE, "tickets")
    assert settings(crontab) == {
        "SHELL": "/bin/sh",
        "PATH": schedules.PATH,
        "MAILTO": "booking",
    }
    for command in commands(crontab):
        assert "-q --uri-file /etc/seatctl/uri --database tickets" in command


def test_crontab_has_no_comment_after_a_command() -> None:
    """Cron would hand such a comment to the shell."""
    for crontab in (EXAMPLE, schedules.crontab(ODD, "seatctl", URI_FILE)):
        assert all("#" not in command for command in commands(crontab))


@pytest.mark.parametrize("program", ["/usr/local/bin/seatctl", ODD, "/opt/$HOME/`id`/seatctl"])
def test_crontab_reaches_the_program_whatever_its_path(program: str, tmp_path: Path) -> None:
    """A path with spaces, quotes, percent signs or what a shell would expand is called as it is."""
    here = tmp_path / program[1:]
    here.parent.mkdir(parents=True)
    here.write_text('#!/bin/sh\necho "$1"\n')
    here.chmod(0o755)
    crontab = schedules.crontab(str(here), "seatctl", URI_FILE)

    answers = [run_as_cron(crontab, command) for command in commands(crontab)]

    assert [run.stdout.strip() for run in answers] == ["recover", "expire-bookings", "expire-locks"]
    assert [run.stderr for run in answers] == ["", "", ""]


@pytest.mark.parametrize("uri_file", ['/it\'s/100% "mine"/uri', "/ spaced ", "/$HOME/`id`"])
def test_crontab_hands_over_the_uri_file_whatever_its_path(uri_file: str, tmp_path: Path) -> None:
    program = tmp_path / "seatctl"
    program.write_text('#!/bin/sh\necho "$4"\n')
    program.chmod(0o755)
    crontab = schedules.crontab(str(program), "seatctl", uri_file)

    assert {run_as_cron(crontab, command).stdout for command in commands(crontab)} == {f"{uri_file}\n"}


@pytest.mark.parametrize(
    ("program", "user", "uri_file", "database"),
    [
        ("seatctl", "seatctl", URI_FILE, None),
        ("/opt/sea\ntctl", "seatctl", URI_FILE, None),
        ("/opt/seatctl", "root\n* * * * * evil", URI_FILE, None),
        ("/opt/seatctl", "", URI_FILE, None),
        ("/opt/seatctl", "seatctl", "/etc/uri\nMAILTO=evil", None),
        ("/opt/seatctl", "seatctl", URI_FILE, "a\nb"),
    ],
)
def test_what_no_schedule_can_contain_is_refused(
    program: str, user: str, uri_file: str, database: str | None
) -> None:
    """A relative program, an empty name or a line break is a usage error, not a broken file."""
    for make in (schedules.crontab, schedules.units):
        with pytest.raises(Usage):
            make(program, user, uri_file, database)


def test_a_crontab_value_with_both_kinds_of_quotes_is_refused() -> None:
    """Cron has no escapes."""
    with pytest.raises(Usage, match="both kinds of quotes"):
        schedules.crontab("/opt/seatctl", "'\"", URI_FILE)


@pytest.mark.parametrize("crontab", [EXAMPLE, schedules.crontab(ODD, "seatctl", URI_FILE, "tickets")])
def test_debians_crontab_accepts_it(crontab: str, tmp_path: Path) -> None:
    file = tmp_path / "crontab"
    file.write_text(crontab)
    checked = run_tool("crontab", "-n", str(file))

    assert checked.returncode == 0, checked.stderr


def test_every_line_of_the_crontab_runs_in_crons_environment(shell: Shell, uri_file: str) -> None:
    """Each succeeds with the crontab's own variables alone, prints nothing, and logs its run."""
    shell.ok("init")
    crontab = schedules.crontab(INSTALLED, "nobody", uri_file)

    for command in commands(crontab):
        run = run_as_cron(crontab, command)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), command

    runs = shell.ok("jobs", "--json").json
    assert {(run["jobType"], run["status"]) for run in runs} == {(job, JobStatus.SUCCESS) for job in JobType}


def test_a_wrong_uri_is_one_line_for_each_run(tmp_path: Path) -> None:
    """A crontab whose URI is missing or leads nowhere says so in one line, without the password."""
    nowhere = tmp_path / "uri"
    socket = quote_plus(str(tmp_path / "no.sock"))
    nowhere.write_text(f"mongodb://user:secret@{socket}/?serverSelectionTimeoutMS=200")
    nowhere.chmod(0o600)
    for uri_file, code in ((str(tmp_path / "absent"), 11), (str(nowhere), 10)):
        crontab = schedules.crontab(INSTALLED, "nobody", uri_file)
        for command in commands(crontab)[1:]:
            run = run_as_cron(crontab, command)
            assert (code, "") == (run.returncode, run.stdout)
            assert re.fullmatch(r"seatctl: [^\n]+\n", run.stderr)
            assert "secret" not in run.stderr


# --- from the shell ---------------------------------------------------------------------------------


def test_schedule_cron_is_for_this_installation(shell: Shell, uri_file: str) -> None:
    """The crontab names this program, this file with the URI, and the user who asks or is named."""
    me = pwd.getpwuid(os.getuid()).pw_name
    assert shell.ok("schedule", "cron").stdout == schedules.crontab(INSTALLED, me, uri_file)
    named = shell.ok("schedule", "cron", "--user", "nobody", "--database", "tickets", "--json")
    assert named.json == {"crontab": schedules.crontab(INSTALLED, "nobody", uri_file, "tickets")}


def test_a_schedule_never_contains_the_uri_itself(shell: Shell, uri_file: str) -> None:
    """Where the URI is in no file, the schedule names the default one, and stderr says so."""
    inline = shell.with_env(SEATCTL_URI_FILE="", SEATCTL_URI=Path(uri_file).read_text())
    printed = inline.ok("schedule", "cron", "--user", "nobody")
    assert printed.stdout == schedules.crontab(INSTALLED, "nobody", URI_FILE)
    assert URI_FILE in printed.stderr


def test_schedule_systemd_is_for_this_installation(shell: Shell, uri_file: str, tmp_path: Path) -> None:
    """The units are printed, or written where --write says; where that fails, nothing is printed."""
    real = str(Path(sys.executable).resolve())
    files = schedules.units(INSTALLED, "nobody", uri_file, interpreter=real, application="booking.service")
    command = ("schedule", "systemd", "--user", "nobody", "--application", "booking.service")
    assert shell.ok(*command).stdout == schedules.bundle(files)
    assert shell.ok(*command, "--json").json == files

    (tmp_path / "units").mkdir()
    told, _, following = shell.ok(*command, "--write", str(tmp_path / "units")).stdout.partition("\n\n")
    assert {Path(path).name: Path(path).read_text() for path in told.split()} == files
    assert following == f"To start the jobs:\n\n{schedules.NEXT_COMMANDS}\n"
    refused = shell(*command, "--write", str(tmp_path / "nowhere"))
    assert (refused.code, refused.stdout) == (2, "")
    assert "cannot write to" in refused.stderr


def test_a_unit_that_somebody_changed_is_kept_and_named(shell: Shell, tmp_path: Path) -> None:
    """All others are written; --force replaces it, too, and what is already right is no difference."""
    command = ("schedule", "systemd", "--write", str(tmp_path))
    edited, other = tmp_path / f"{FAILURE}.service", tmp_path / f"{LOCKS}.timer"
    shell.ok(*command)
    made = edited.read_text()
    edited.write_text(made + "# our pager\n")
    other.unlink()

    kept = shell(*command)
    assert kept.code == 1
    assert kept.stderr == f"seatctl: kept {edited}, which differs; --force replaces it\n"
    assert edited.read_text() == made + "# our pager\n"
    assert other.exists()
    assert str(edited) not in kept.stdout
    assert shell(*command, "--json").error["code"] == "items_left"
    shell.ok(*command, "--force")
    assert edited.read_text() == made
    shell.ok(*command)


def test_the_next_commands_are_those_of_the_guide_and_name_units_that_exist() -> None:
    guide = Path(schedules.__file__).parents[1].joinpath("help/operations.md").read_text()
    units = schedules.units("/usr/bin/seatctl", "seatctl", URI_FILE)

    assert schedules.NEXT_COMMANDS in guide
    enabled = re.findall(r"seatctl-[\w.-]+", schedules.NEXT_COMMANDS)
    assert set(enabled) == {name for name, text in units.items() if "[Install]" in text}


@pytest.mark.parametrize(
    ("mode", "at", "names"),
    [(0o600, 0o755, "uri"), (0o644, 0o755, None), (0o644, 0o700, "private"), (0o604, 0o701, None)],
)
def test_the_schedule_warns_when_the_jobs_could_not_read_the_uri(
    shell: Shell, mode: int, at: int, names: str | None
) -> None:
    """The file, or the directory that keeps the user out, is named with its owner and mode."""
    with tempfile.TemporaryDirectory() as parent:  # everybody may enter what it is in; tmp_path is closed
        Path(parent).chmod(0o755)
        directory = Path(parent, "private")
        directory.mkdir()
        uri_file = directory / "uri"
        uri_file.write_text("mongodb://localhost")
        uri_file.chmod(mode)
        directory.chmod(at)
        me = pwd.getpwuid(os.getuid()).pw_name
        assert schedules.why_unreadable(me, str(uri_file)) is None
        told = shell.ok("schedule", "cron", "--user", "nobody", "--uri-file", str(uri_file)).stderr
        shown = {"uri": (uri_file, mode), "private": (directory, at)}.get(names or "")
        warning = f"warning: nobody cannot read {uri_file}, so every job would fail: "
        assert (warning in told) == (shown is not None)
        if shown:
            assert f"{shown[0]} has owner {me} and mode {shown[1]:03o}" in told


def test_what_cannot_be_looked_at_is_no_reason_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", refuse)
    assert schedules.why_unreadable("nobody", "/no/such/uri") is None


def test_a_schedule_for_a_uri_file_that_is_not_there_is_told(shell: Shell) -> None:
    """One that is named must be there; the standard one may follow, after a warning."""
    assert schedules.why_unreadable("nobody", "/no/such/uri") == "there is no such file"
    for kind, reader in (("cron", "nobody"), ("systemd", "root")):
        assert shell("schedule", kind, "--user", "nobody", "--uri-file", "/no/such/uri").code == 11
        told = shell.with_env(SEATCTL_URI_FILE="").ok("schedule", kind, "--user", "nobody").stderr
        warning = f"warning: {reader} cannot read {URI_FILE}, so every job would fail: there is no such file"
        assert (warning in told) != Path(URI_FILE).exists()


# --- systemd ---------------------------------------------------------------------------------------


def directives(unit: str) -> list[str]:
    return [line for line in unit.splitlines() if line and not line.startswith("#")]


def written(directory: Path, units: dict[str, str]) -> list[str]:
    for name, text in units.items():
        (directory / name).write_text(text)
    return [str(directory / name) for name in units]


def test_units_of_an_installation() -> None:
    """A service and a timer for each sweep, recovery at boot, and a unit that reports failures."""
    assert {
        f"{RECOVER}.service",
        f"{LOCKS}.service",
        f"{LOCKS}.timer",
        f"{BOOKINGS}.service",
        f"{BOOKINGS}.timer",
        f"{FAILURE}.service",
    } == set(schedules.units("/usr/bin/seatctl", "seatctl", URI_FILE))


@pytest.mark.parametrize("name", [RECOVER, LOCKS, BOOKINGS])
def test_each_job_is_a_bounded_oneshot_that_reports_its_failure(name: str) -> None:
    """A job's service ends, has a time limit, calls the failure unit, and gets the URI as a credential."""
    unit = directives(
        schedules.units("/usr/bin/seatctl", "seatctl", "/srv/uri", "tickets")[f"{name}.service"]
    )

    assert {
        "Type=oneshot",
        "OnFailure=seatctl-failure@%n.service",
        "LoadCredential=seatctl-uri:/srv/uri",
        "Environment=SEATCTL_DATABASE=tickets",
        "User=seatctl",
        "ProtectHome=yes",
    } <= set(unit)
    assert any(line.startswith("TimeoutStartSec=") for line in unit)


def test_timers_fire_every_minute_in_utc_half_a_minute_apart() -> None:
    """Both timers are accurate to the second, so that they stay apart, and make up for missed runs."""
    units = schedules.units("/usr/bin/seatctl", "seatctl", URI_FILE)

    assert "OnCalendar=*-*-* *:*:00 UTC" in directives(units[f"{BOOKINGS}.timer"])
    assert "OnCalendar=*-*-* *:*:30 UTC" in directives(units[f"{LOCKS}.timer"])
    for name in (BOOKINGS, LOCKS):
        assert {"AccuracySec=1s", "Persistent=true"} <= set(directives(units[f"{name}.timer"]))


def test_recovery_comes_first() -> None:
    """At boot recovery runs before the sweeps and before the application, waiting for the database."""
    units = schedules.units("/usr/bin/seatctl", "seatctl", URI_FILE, application="booking.service")
    unit = directives(units[f"{RECOVER}.service"])

    assert f"Before={BOOKINGS}.service {LOCKS}.service booking.service" in unit
    assert "ExecStart=/usr/bin/seatctl recover -q --wait 5m" in unit
    assert "WantedBy=multi-user.target" in unit


def test_every_relaxed_directive_has_its_reason_beside_it() -> None:
    """What opens the sandbox stands right below a comment that says why."""
    for program in ("/usr/bin/seatctl", "/home/ann/bin/seatctl", "/root/seatctl", IN_TMP):
        for name, unit in schedules.units(program, "root", URI_FILE).items():
            lines = unit.splitlines()
            for number, line in enumerate(lines):
                if line in ("ProtectHome=read-only", "PrivateTmp=no", "PrivateNetwork=no"):
                    assert lines[number - 1].startswith("# Relaxed: "), f"{name}: {line}"


@pytest.mark.parametrize(
    ("program", "interpreter", "user", "expected"),
    [
        ("/usr/bin/seatctl", None, "root", {"DynamicUser=yes", "ProtectHome=yes", "PrivateTmp=yes"}),
        ("/usr/bin/seatctl", "/usr/bin/python3", "ann", {"User=ann", "ProtectHome=yes", "PrivateTmp=yes"}),
        ("/home/ann/seatctl", None, "ann", {"User=ann", "ProtectHome=read-only", "PrivateTmp=yes"}),
        ("/opt/seatctl", "/root/.local/python", "root", {"User=root", "ProtectHome=read-only"}),
        (IN_TMP, None, "root", {"User=root", "ProtectHome=yes", "PrivateTmp=no"}),
        ("/homework/seatctl", None, "ann", {"ProtectHome=yes"}),
    ],
)
def test_the_sandbox_shows_the_program(
    program: str, interpreter: str | None, user: str, expected: set[str]
) -> None:
    """A program or interpreter in a home or in /tmp stays visible; all else stays closed."""
    units = schedules.units(program, user, URI_FILE, interpreter=interpreter)

    assert expected <= set(directives(units[f"{LOCKS}.service"]))


def test_specifiers_and_quotes_reach_the_program_as_they_are() -> None:
    """A percent sign is no specifier, and a space parts no words."""
    units = schedules.units('/opt/50%/my "own"/seatctl', "seatctl", "/etc/100%", "a b")
    unit = directives(units[f"{LOCKS}.service"])

    assert r'ExecStart="/opt/50%%/my \"own\"/seatctl" expire-locks -q' in unit
    assert "LoadCredential=seatctl-uri:/etc/100%%" in unit
    assert 'Environment="SEATCTL_DATABASE=a b"' in unit


def test_a_credential_needs_a_path_without_spaces() -> None:
    """systemd has no quotes there, so such a path is a usage error."""
    with pytest.raises(Usage, match="spaces"):
        schedules.units("/usr/bin/seatctl", "seatctl", "/etc/my uri")


@pytest.mark.parametrize("program", ["/usr/bin/env", INSTALLED])
def test_systemd_accepts_the_units(program: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about them."""
    files = written(
        tmp_path, schedules.units(program, "root", URI_FILE, "tickets", application="booking.service")
    )
    checked = run_tool("systemd-analyze", "verify", *files)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("user", ["root", "seatctl"])
@pytest.mark.parametrize("program", ["/usr/bin/seatctl", "/home/ann/seatctl", IN_TMP])
def test_systemd_finds_the_services_well_confined(program: str, user: str, tmp_path: Path) -> None:
    """`systemd-analyze security` gives every service an exposure of 2.0 ("OK") or less."""
    files = written(tmp_path, schedules.units(program, user, URI_FILE))
    for file in files:
        if file.endswith(".service"):
            checked = run_tool("systemd-analyze", "security", "--offline=true", "--threshold=20", file)
            assert checked.returncode == 0, checked.stdout.splitlines()[-1]


def test_bundle_names_each_file() -> None:
    """Printed as one text, each file stands under its name."""
    units = schedules.units("/usr/bin/seatctl", "seatctl", URI_FILE)

    for name, text in units.items():
        assert f"# /etc/systemd/system/{name}\n{text}" in schedules.bundle(units)


# --- a host that has a server -----------------------------------------------------------------------------


def test_the_uri_files_of_a_host_are_the_usual_one_and_those_of_cron(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, crontab, directory = tmp_path / "uri", tmp_path / "crontab", tmp_path / "cron.d"
    for name, path in {"URI_FILE": str(usual), "CRONTAB": crontab, "CRON_DIRECTORY": directory}.items():
        monkeypatch.setattr(schedules, name, path)
    assert schedules.uri_files_of_host(ask_cron=False) == []

    usual.touch()
    directory.mkdir()
    text = schedules.crontab("/usr/bin/seatctl", "u", "/srv/the uri ")
    (directory / "seatctl").write_text(text)
    crontab.write_text("#SEATCTL_URI_FILE=/old\nSEATCTL_URI_FILE=/srv/b\n")
    assert schedules.uri_files_of_host(ask_cron=False) == [str(usual), "/srv/b", "/srv/the uri "]


def test_a_users_own_crontab_is_asked_for_if_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "crontab"
    program.write_text("#!/bin/sh\necho SEATCTL_URI_FILE=/srv/mine\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert "/srv/mine" in schedules.uri_files_of_host(ask_cron=True)
    assert "/srv/mine" not in schedules.uri_files_of_host(ask_cron=False)
