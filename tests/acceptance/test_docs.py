"""The README is held against the program: its commands run, and print what it says they print."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import typer
from conftest import read
from integration.test_privileges import ROLES

from seatctl import errors
from seatctl.cli.app import app
from seatctl.mongo import embedded

README = read("README.md")
SCRIPTS = sysconfig.get_path("scripts")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
VARIABLE = (
    (re.compile(r"\b[0-9a-f]{24}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"\(\d+ ms\)"), "(N ms)"),
    (re.compile(r"│ +\d+ │ [\w.-]+ +│ +│$", re.MULTILINE), "│ N │ HOST │ │"),
    (re.compile(r"[╭├╰][─┬┼┴]+[╮┤╯]"), "RULE"),
    (re.compile(r" +"), " "),
)


def test_the_readme_begins_with_a_block_of_two_commands() -> None:
    assert README.startswith("```")
    assert len(BLOCKS[0][1].splitlines()) == 2


def settle(text: str) -> str:
    """`text` with what differs from run to run taken out."""
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    return text.strip()


def tour() -> list[tuple[str, str]]:
    """All commands of the console blocks, with the output that stands below each."""
    steps = []
    for language, text in BLOCKS:
        if language == "console":
            for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, output = step.partition("\n")
                steps.append((command, output))
    return steps


def play(commands: list[str], home: Path) -> list[str]:
    """The output of each command, stdout and stderr together, in one shell that keeps its variables."""
    mark = "=== next ==="
    script = "\n".join(f"{command}\nstatus=$?\necho '{mark}'\n(exit $status)" for command in commands)
    environment = {"HOME": str(home), "PATH": f"{SCRIPTS}:{os.defpath}", "LANG": "C.UTF-8"}
    shell = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],  # noqa: S607 - whichever the reader has
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return shell.stdout.split(f"{mark}\n")[:-1]


def test_each_command_of_the_tour_prints_what_stands_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        printed = play([command for command, _ in tour()], tmp_path)
    finally:
        embedded.stop()
    for (command, expected), output in zip(tour(), printed, strict=True):
        assert settle(expected) == settle(output), command


def leaves(error: type[errors.SeatctlError]) -> list[type[errors.SeatctlError]]:
    return [error] + [leaf for kind in error.__subclasses__() for leaf in leaves(kind)]


def test_the_table_of_exit_codes_has_those_of_all_errors_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+(?: / \d+)?) \|", README, re.MULTILINE)
    listed = {int(code) for row in rows for code in row.split("/")}
    raised = {error.exit_code for error in leaves(errors.SeatctlError)}

    assert listed == raised | {0, 130, 143}


def known_commands() -> dict[str, set[str]]:
    """Each command, `db` and `schedule` with their second word, and its options."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        for path, leaf in [(name, command)] + [
            (f"{name} {sub}", leaf) for sub, leaf in getattr(command, "commands", {}).items()
        ]:
            found[path] = {option for param in leaf.params for option in param.opts} | {"--help"}
    return found


def mentions() -> list[tuple[str, str]]:
    """The command lines of seatctl in the README's code: each command, and what follows it."""
    blocks = "\n".join(text for language, text in BLOCKS if language in ("sh", "console"))
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))
    code = "\n".join([blocks, *spans])
    return sorted(set(re.findall(r"(?<!-u )\bseatctl ((?:(?:db|schedule) )?[a-z][a-z-]+)([^|&)\n]*)", code)))


@pytest.mark.parametrize(("command", "rest"), mentions())
def test_a_mentioned_command_line_names_a_command_and_options_that_exist(command: str, rest: str) -> None:
    known = known_commands()
    assert command in known
    assert set(re.findall(r"(?<= )(--[a-z-]+|-[a-z])\b", rest)) <= known[command]


def test_no_command_is_missing() -> None:
    assert {name.split()[0] for name in known_commands()} <= set(re.findall(r"[a-z-]+", README))


def test_the_roles_are_those_that_the_tests_found_to_be_the_least() -> None:
    written: dict[str, set[tuple[str, str]]] = {}
    for role, text in re.findall(
        r'role: "(\w+)", roles: \[\], privileges: \[(.*?)^\]\}\)', README, re.MULTILINE | re.DOTALL
    ):
        grants = re.findall(r'collection: "(\w*)" \}, actions: \[([^\]]*)\]', text)
        written[role] = {(action, name) for name, actions in grants for action in re.findall(r"\w+", actions)}

    assert written == ROLES
    granted = re.findall(r"^db\.createUser\(.* roles: \[(.*)\] \}\)$", README, re.MULTILINE)
    assert {role for roles in granted for role in re.findall(r"\w+", roles)} == set(ROLES)
