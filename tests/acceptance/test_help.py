"""`--help`, its examples, and completion."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import open_store
from stories import NOBODY, Story, everything_once, new_event, new_lock
from terminal import Shell, here

from seatctl.cli.app import program
from seatctl.errors import RefundDue
from seatctl.services.blocks import BlockRequest, block
from seatctl.services.payments import fail_payment, pay
from seatctl.services.sales import ConfirmRequest, confirm

if TYPE_CHECKING:
    from servers import Server


@pytest.fixture(scope="module")
def story(replica: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with everything_once(replica, tmp_path_factory.mktemp("home")) as story:
        yield story


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("seatctl lock ", "{event}"),
        ("seatctl confirm ", "{lock}\n{free}"),
        ("seatctl cancel-event ", "{event}"),
        ("seatctl unblock ", ""),
        ("seatctl pay ", "{waiting}"),
        ("seatctl sched", "schedule"),
    ],
)
def test_the_shell_completes_commands_and_the_ids_that_a_command_takes(
    story: Story, words: str, wanted: str
) -> None:
    asked = {"_SEATCTL_COMPLETE": "complete_bash", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    completed = story.shell.with_env(**asked)()
    assert set(wanted.format(**story.ids).split()) == set(completed.stdout.split())
    assert completed.stderr == ""


def test_completion_without_a_database_completes_says_and_starts_nothing(tmp_path: Path) -> None:
    asked = {"_SEATCTL_COMPLETE": "complete_bash", "COMP_WORDS": "seatctl lock ", "COMP_CWORD": "2"}
    for settings in ({}, {"SEATCTL_URI": NOBODY}, {"SEATCTL_URI": "nonsense"}):
        completed = Shell({"HOME": str(tmp_path), **settings, **asked})()
        assert (completed.stdout.strip(), completed.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def all_commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in (group or program).commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = {" ".join(path): command for path, command in all_commands()}
ELSEWHERE = re.compile(r"demo|db |schedule|watch|help|batch|roles|follow")
"""Commands whose examples are not for a database that is given: tried by tests of their own."""
ID = re.compile(r"[A-Z]+_ID")


def example_of(command: Any) -> list[str]:
    """The words of a help's example behind `seatctl` and the command's name."""
    shown = command.epilog.split("Example:")[1]
    return shlex.split(shown.strip().replace("\\\n", ""))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_a_purpose_grouped_options_and_a_valid_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usage, _, purpose, after, *rest = here(capsys, *name.split(), "--help").stdout.splitlines()
    assert usage.startswith(f"Usage: seatctl {name}")
    assert not re.search(r"[{}]", usage)
    assert here(capsys, *name.split(), "-h").stdout.splitlines()[3:] == [after, *rest]
    assert not re.search(r"\d:\d\d:\d\d|default: \(|<=", " ".join(rest)), "a default as nobody types it"
    assert purpose.startswith("  ")
    assert purpose.endswith(".")
    assert after == ""
    assert [line for line in rest if line.startswith("Common")] == ["Common options:"]
    words = example_of(COMMANDS[name])
    if "seatctl" in words:
        arguments = words[words.index("seatctl") + 1 :]
        arguments = arguments[: next((n for n, word in enumerate(arguments) if word in ">|&"), None)]
        assert arguments[: len(name.split())] == name.split()
        words = [ID.sub("a" * 24, word) for word in arguments[len(name.split()) :]]
        COMMANDS[name].make_context(name, words)


@pytest.mark.parametrize("name", [name for name in COMMANDS if not ELSEWHERE.match(name)])
def test_each_example_works_once_its_ids_are_real(
    name: str, database_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(database_uri)
    event = new_event(store, "Gala", 9)
    lock, booked = (new_lock(store, event, "ada").id for _ in range(2))
    booking = confirm(store, ConfirmRequest(booked)).booking.id
    blocked = block(store, BlockRequest(event, 1)).lock.id
    ids = {"EVENT_ID": event, "LOCK_ID": lock, "BOOKING_ID": booking, "BLOCK_ID": blocked}
    if name in ("rebook", "refund"):
        fail_payment(store, booking)
        with pytest.raises(RefundDue):
            pay(store, booking, "pi_3QK")
        ids["REFUND_ID"] = store.refunds.of_booking(booking)[0].id
    store.deployment.close()
    real = {name: str(each) for name, each in ids.items()}
    _, *arguments = [real.get(word, word) for word in example_of(COMMANDS[name])]
    result = here(capsys, *arguments, "--uri", database_uri)
    assert result.code == (5 if name == "health" else 0), result


def test_the_list_of_commands_shows_each_purpose_in_80_columns(story: Story) -> None:
    """Without a command, the list is printed as a usage error."""
    shown = story.shell.ok("--help").stdout
    assert "..." not in shown.partition("Operate:")[2]
    assert max(map(len, shown.splitlines())) <= 80
    for group in ("db", "schedule"):
        assert "..." not in story.shell.ok(group, "--help").stdout.partition("Commands:")[2]
    alone = story.shell()
    assert (2, "", shown) == (alone.code, alone.stdout, alone.stderr)
    assert story.shell("db").code == 2


FINDS = ("--uri", "--uri-file", "--database")
IGNORES = {
    "db start": (*FINDS, "--verbose"),
    "db stop": (*FINDS, "--verbose"),
    "db status": (*FINDS, "--verbose"),
    "db uri": ("--uri", "--uri-file", "--verbose"),
    "schedule cron": ("--uri", "--verbose"),
    "schedule systemd": ("--uri", "--verbose"),
    "demo": ("--database",),
    "help": (*FINDS, "--quiet", "--verbose"),
    "roles": ("--uri", "--uri-file", "--verbose"),
    "watch": ("--json", "--quiet", "--verbose"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_each_common_option_and_shows_those_that_it_uses(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script may add the same ones to every line."""
    shown = here(capsys, *name.split(), "--help").stdout
    for option in (*FINDS, "--json", "--quiet", "--verbose"):
        offered = option not in IGNORES.get(name, ())
        assert offered == bool(re.search(rf"^  (-\w, )?{option} ", shown, re.MULTILINE))
    every = [word for option in FINDS for word in (option, "x")] + ["--json", "--quiet", "--verbose", "-qv"]
    taken: Any = COMMANDS[name].make_context(name, every, resilient_parsing=True)
    unused = [option for option in FINDS if option in IGNORES.get(name, ())]
    assert taken.unused == tuple(unused)


def test_a_command_says_which_database_options_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told = here(capsys, "db", "status", "--database", "shop", "--uri", "mongodb://nowhere", "-v")
    assert told.code == 0
    assert told.stderr == "seatctl: `seatctl db status` ignores --database and --uri\n"


def test_an_option_of_a_few_other_commands_is_said_to_be_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    refused = here(capsys, "verify", "--as-of", "+11m")
    assert refused.code == 2
    assert "verify takes no --as-of; expire-locks, expire-bookings and recover do (see" in refused.stderr
    assert "lock takes no --prometheus; health does (see" in here(capsys, "lock", "--prometheus").stderr


def test_the_help_of_events_explains_the_signs_of_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert "█ sold, ▒ locked, · available" in here(capsys, "events", "--help").stdout


def test_help_shows_the_same_as_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert here(capsys, "help", "lock") == here(capsys, "lock", "--help")
    assert here(capsys, "help", "db", "start") == here(capsys, "db", "start", "--help")
    assert here(capsys, "help").stdout == here(capsys, "--help").stdout
    assert here(capsys, "help", "no-such-command").code == 2


def test_no_line_of_help_is_wider_than_a_narrow_window(story: Story) -> None:
    for arguments in (("--help",), ("jobs", "--help"), ("cancel-event", "--help")):
        shown = story.shell.with_env(COLUMNS="40").ok(*arguments).stdout
        lines = [line for line in shown.splitlines() if not line.startswith("    seatctl ")]
        assert max(map(len, lines)) < 40, "but for the examples, which are to be copied"
    assert "Cancel an event with" in shown
