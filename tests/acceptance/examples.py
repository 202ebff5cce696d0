"""README and guides as tests read them: their code, their sessions, the command lines that they mention."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from conftest import read

from seatctl.cli.app import program
from seatctl.help import TOPICS
from seatctl.mongo import embedded

SCRIPTS = sysconfig.get_path("scripts")
README = read("README.md")
GUIDES = {topic: read(f"seatctl/help/{topic}.md") for topic in TOPICS}
DOCUMENTS = {"README": README, **GUIDES}
VARIABLE = (
    (re.compile(r"\b[0-9a-f]{24}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"\(\d+ ms\)"), "(N ms)"),
    (re.compile(r"\(\d+\.\d s\)"), "(N s)"),
    (re.compile(r"│ +\d+ │ (?!\d+ )[\w.-]+ +│$", re.MULTILINE), "│ N │ HOST │"),
    (re.compile(r"│ \w+ on "), "│ USER on "),
    (re.compile(r" on [\w.-]+ +│"), " on HOST │"),
    (re.compile(r"│ (?:\d+[dhms])+ left +│"), "│ TIME LEFT │"),
    (re.compile(r"│ \d+[smh](?:\d+[smh])? +│"), "│ AGO │"),
    (re.compile(r"[╭├╰][─┬┼┴]+[╮┤╯]"), "RULE"),
    (re.compile(r" +"), " "),
)


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks in one of these languages; of all languages when none is given."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in found if not languages or language in languages]


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def prose(text: str) -> str:
    """The text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables, without headings."""
    lines = re.findall(
        r"^\|(.*)\|$", re.sub(r"^\|.*\|\n\|[-|]+\|$", "", text, flags=re.MULTILINE), re.MULTILINE
    )
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def settle(text: str) -> str:
    """`text` with what differs from run to run taken out."""
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    return text.strip()


def session(text: str) -> list[tuple[str, str]]:
    """All commands of the console blocks, with the output that stands below each. A command goes on in lines
    that begin with `> `."""
    steps = []
    for code in blocks(text, "console"):
        for step in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
            first, *rest = step.split("\n")
            more = list(takewhile(lambda line: line.startswith("> "), rest))
            command = "\n".join([first, *(line.removeprefix("> ") for line in more)])
            steps.append((command, "\n".join(rest[len(more) :])))
    return steps


def play(commands: Sequence[str], home: Path, **environment: str) -> list[tuple[str, int]]:
    """The output of each command, stdout and stderr together, and its exit code, in one shell that keeps
    its variables."""
    mark = "=== next ==="
    script = "\n".join(f"{command}\nstatus=$?\necho '{mark}'$status\n(exit $status)" for command in commands)
    known = {"HOME": str(home), "PATH": f"{SCRIPTS}:{os.defpath}", "LANG": "C.UTF-8", **environment}
    shell = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}\ntrue"],  # noqa: S607 - whichever the reader has
        env=known,
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    parts = re.split(rf"{mark}(\d+)\n", shell.stdout)
    return [(output, int(code)) for output, code in zip(parts[::2], parts[1::2], strict=False)]


def play_session(text: str, home: Path) -> None:
    """Each command prints what stands below it, on a fresh embedded MongoDB in `home`, which is `HOME`."""
    try:
        printed = play([command for command, _ in session(text)], home)
    finally:
        embedded.stop()
    for (command, expected), (output, _) in zip(session(text), printed, strict=True):
        assert settle(expected) == settle(output), command


def known_commands() -> dict[str, set[str]]:
    """Each command, `db` and `schedule` with their second word, and its options."""
    found = {}
    for name, command in program.commands.items():
        for path, leaf in [(name, command)] + [
            (f"{name} {sub}", leaf) for sub, leaf in getattr(command, "commands", {}).items()
        ]:
            found[path] = {option for param in leaf.params for option in param.opts} | {"--help"}
    return found


def mentions(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The command lines of seatctl in these texts' code: each command, and what follows it."""
    code = []
    for text in texts:
        code += [*blocks(text, "sh", "console"), *re.findall(r"`([^`\n]+)`", prose(text))]
    line = r"(?<!-u )\bseatctl ((?:(?:db|schedule) )?[a-z][a-z-]+)([^|&)\n]*)"
    return sorted(set(re.findall(line, "\n".join(code))))


def options_in(words: str) -> set[str]:
    return set(re.findall(r"(?<= )(--[a-z-]+|-[a-z])\b", words.partition(" #")[0]))


def roles_of_the_guide() -> dict[str, set[tuple[str, str]]]:
    """Each role's grants: an action, and the collection that it is for."""
    roles: dict[str, set[tuple[str, str]]] = {}
    block, _ = blocks(GUIDES["privileges"], "js")
    for role, body in re.findall(
        r'role: "(\w+)", roles: \[\], privileges: \[(.*?)^\]\}\)', block, re.MULTILINE | re.DOTALL
    ):
        roles[role] = set()
        for words in re.findall(r"^  on\((.*)\),$", body, re.MULTILINE):
            collection, *actions = re.findall(r'"(\w*)"', words)
            roles[role] |= {(action, collection) for action in actions}
    assert block.count("createRole") == len(roles)
    return roles


def users_of_the_guide() -> dict[str, list[str]]:
    """Each user's roles."""
    block, _ = blocks(GUIDES["privileges"], "js")
    granted = re.findall(r"^  (\w+): \[(.*)\],$", block.partition("users = {")[2], re.MULTILINE)
    return {user: re.findall(r'"(\w+)"', roles) for user, roles in granted}
