"""The guides are held against the program and its sources, and `seatctl help` shows them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import read
from examples import (
    GUIDES,
    blocks,
    play_session,
    roles_of_the_guide,
    rows,
    section,
    session,
    users_of_the_guide,
)
from terminal import PROGRAM, Shell, here

from seatctl import errors
from seatctl.domain.faults import EXPLANATIONS
from seatctl.domain.states import Fault
from seatctl.help import TOPICS
from seatctl.mongo.target import DEFAULT_DATABASE

PROJECT = Path(__file__).parents[2]


# --- what they say ----------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [topic for topic in GUIDES if session(GUIDES[topic])])
def test_each_command_of_a_guides_session_prints_what_stands_below_it(
    topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "| jq " in GUIDES[topic] and shutil.which("jq") is None:
        assert not os.environ.get("CI"), "jq must be installed in CI"
        pytest.skip("jq is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    play_session(GUIDES[topic], tmp_path)


def leaves(error: type[errors.SeatctlError]) -> list[type[errors.SeatctlError]]:
    return [error] + [leaf for kind in error.__subclasses__() for leaf in leaves(kind)]


def test_the_table_of_exit_codes_has_those_of_all_errors_and_no_other() -> None:
    listed = {
        int(code)
        for cells in rows(section(GUIDES["scripting"], "Exit codes"))
        for code in cells[0].split("/")
    }
    raised = {error.exit_code for error in leaves(errors.SeatctlError)}
    assert listed == raised | {0, 130, 143}


def test_the_script_that_repeats_a_command_does_so_while_the_database_is_unreachable() -> None:
    """And hands on every other exit code at once."""
    (script,) = blocks(GUIDES["scripting"], "sh")
    function = script[: script.index("\n}\n") + 3].replace("sleep $pause", "echo wait")
    tries = "n=0; twice_unreachable() { n=$((n+1)); [ $n -gt 2 ] || return 10; return 3; }\n"
    for command, waits, code in (("twice_unreachable", 2, 3), ("true", 0, 0), ("(exit 10)", 5, 10)):
        called = f"{tries}{function}f() {{ {command}; }}\ntry f"
        ran = subprocess.run(["bash", "-c", called], capture_output=True, text=True, check=False)  # noqa: S607
        assert (ran.stdout.count("wait"), ran.returncode) == (waits, code)


def test_all_invariants_are_listed_with_what_keeps_and_tests_them() -> None:
    listed = section(GUIDES["guarantees"], "Invariants")
    numbered = dict(re.findall(r"^(\d+)\. (.*)$", listed, re.MULTILINE))
    assert list(numbered) == [str(number) for number in range(1, 15)]

    kept = {int(number): (where, tests) for number, where, tests in rows(listed)}
    assert set(kept) == set(range(1, 15))
    assert {about.invariant for about in EXPLANATIONS.values()} <= set(kept)
    attacks = rows(section(GUIDES["guarantees"], "How the invariants are tested"))
    named = [("seatctl", where) for where, _ in kept.values()]
    named += [("tests", tests) for _, tests in [*kept.values(), *attacks]]
    for directory, files in named:
        for name in files.split(", "):
            assert (PROJECT / directory / name.strip("`")).is_file(), name


def test_each_fault_is_listed_as_it_is_explained() -> None:
    listed = rows(section(GUIDES["guarantees"], "What verify reports"))
    for name, invariant, meaning, remedies in listed:
        about = EXPLANATIONS[Fault(name.strip("`"))]
        assert (int(invariant), meaning) == (about.invariant, about.meaning)
        told = [
            f"{one.decision}: {', '.join(f'`{line}`' for line in one.commands)}" for one in about.remedies
        ]
        assert remedies == ("; ".join(told) or "Nothing."), name
    assert [row[0].strip("`") for row in listed] == [fault.value for fault in EXPLANATIONS]


def test_the_roles_are_those_that_the_tests_found_to_be_the_least() -> None:
    from integration.test_privileges import ROLES

    assert roles_of_the_guide() == ROLES
    users = users_of_the_guide()
    assert {role for roles in users.values() for role in roles} == set(ROLES)
    assert set(users) == {
        cells[0].strip("`") for cells in rows(section(GUIDES["privileges"], "Roles and users"))
    }


def test_the_block_for_mongosh_asks_for_passwords_at_its_very_end() -> None:
    """What is pasted behind a question would be taken for the answer."""
    block, _ = blocks(GUIDES["privileges"], "js")
    assert re.search(r"passwordPrompt\(\), roles \}\)\n\}\n$", block)
    assert block.count("passwordPrompt") == 1
    assert not re.search(r"^use ", block, re.MULTILINE), "no statement: it cannot stand in a block"


def test_the_command_roles_prints_the_block_of_the_guide_for_any_database(
    capsys: pytest.CaptureFixture[str],
) -> None:
    block, _ = blocks(GUIDES["privileges"], "js")
    assert here(capsys, "roles").stdout == here(capsys, "roles", "-q").stdout == block
    other = here(capsys, "roles", "--database", "shop", "--json").json
    assert other["database"] == "shop"
    assert other["script"].startswith('db = db.getSiblingDB("shop")\n')
    assert other["script"].partition("\n")[2] == block.partition("\n")[2].rstrip()
    assert here(capsys, "roles", "--database", 'x"); evil("').code == 11


def test_starting_over_drops_each_user_and_each_role_of_the_guide() -> None:
    _, block = blocks(GUIDES["privileges"], "js")
    users, roles = (set(re.findall(r'"(\w+)"', listed)) for listed in re.findall(r"of \[(.*)\]", block))
    assert users == set(users_of_the_guide())
    assert roles == set(roles_of_the_guide())
    assert f'"{DEFAULT_DATABASE}"' in block


def test_the_packages_and_their_arrows_are_those_of_the_sources() -> None:
    listed = {cells[0].strip("`") for cells in rows(section(GUIDES["contributing"], "Architecture"))}
    packages = {f"seatctl/{path.parent.name}/" for path in (PROJECT / "seatctl").glob("*/__init__.py")}
    assert listed == packages | {"seatctl/errors.py"}
    (drawn,) = blocks(section(GUIDES["contributing"], "Architecture"))
    (layers, *_) = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    checked = [layer.removeprefix("seatctl.").partition(" ")[0] for layer in layers["layers"]]
    assert drawn.strip().split(" → ") == [layer for layer in checked if layer != "__main__"]


def test_each_directory_of_tests_is_explained() -> None:
    listed = {cells[0].strip("`") for cells in rows(section(GUIDES["contributing"], "Tests and checks"))}
    there = {f"tests/{path.parent.name}/" for path in (PROJECT / "tests").glob("*/test_*.py")}
    assert listed == there


def test_the_results_are_rows_of_the_benchmark_with_its_goals() -> None:
    benchmark = read("tests/benchmarks/rows.py")
    for number, _, _, goal, _ in rows(section(GUIDES["performance"], "Results")):
        body = benchmark.partition(f"def row_{number.rstrip('abc')}(")[2].partition("\ndef ")[0]
        assert body, number
        assert f'"{goal}"' in body, (number, goal)


@pytest.mark.parametrize("topic", GUIDES)
def test_a_guide_begins_with_its_topic_and_is_finished(topic: str) -> None:
    assert GUIDES[topic].startswith(f"# {topic.capitalize()}\n\n")
    assert "TBD" not in GUIDES[topic]


# --- how they are shown -----------------------------------------------------------------------------


def test_each_guide_has_a_file_and_a_line_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.stem for path in (PROJECT / "seatctl" / "help").glob("*.md")} == set(TOPICS)
    shown = here(capsys, "help")
    for topic, about in TOPICS.items():
        assert re.search(rf"^  {topic} +{re.escape(about)}$", shown.stdout, re.MULTILINE)
    assert "\n  create-event " in shown.stdout
    assert shown.code == 0


@pytest.mark.parametrize("topic", TOPICS)
def test_a_pipe_gets_the_guide_as_plain_markdown(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(capsys, "help", topic).stdout == GUIDES[topic]
    assert here(capsys, "help", topic, "--json").json == {"topic": topic, "markdown": GUIDES[topic]}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_terminal_gets_it_rendered_with_no_line_of_code_cut_or_broken(topic: str) -> None:
    shown = Shell({"TERM": "xterm"}).tty("help", topic, columns=60)
    assert shown.code == 0
    assert "\x1b[" in shown.stdout
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.stdout)
    code = {line.strip() for block in blocks(GUIDES[topic]) for line in block.splitlines()}
    lines = {line.strip() for line in plain.splitlines()}
    text = [line for line in plain.splitlines() if line.strip() not in code]
    assert not [line for line in text if re.match(r"(#|```|\|)", line)], "markup is left"
    for block in blocks(GUIDES[topic]):
        assert {line.strip() for line in block.splitlines()} <= lines


@pytest.mark.parametrize("columns", [60, 79, 80])
@pytest.mark.parametrize("topic", TOPICS)
def test_no_table_is_wider_than_the_window_and_no_word_in_it_is_cut(topic: str, columns: int) -> None:
    """Only lines of code are longer, and stay whole."""
    shown = Shell({"TERM": "xterm", "LANG": "C.UTF-8"}).tty("help", topic, columns=columns).stdout
    shown = re.sub(r"\x1b\[[\d;]*m", "", shown)
    code = {line.strip() for block in blocks(GUIDES[topic]) for line in block.splitlines()}
    assert not [line for line in shown.splitlines() if len(line) > columns and line.strip() not in code]
    names = {word for cells in rows(GUIDES[topic]) for word in re.findall(r"`([\w./-]+)`", " ".join(cells))}
    assert not [name for name in names if name not in shown]
    assert "…" not in shown


def test_a_dumb_terminal_gets_a_guide_without_escape_sequences() -> None:
    shown = Shell({"TERM": "dumb"}).tty("help", "scripting", columns=80)
    assert (shown.code, "\x1b" in shown.stdout) == (0, False)


def test_a_reader_that_leaves_after_the_first_line_does_no_harm() -> None:
    piped = f"{PROGRAM} help guarantees | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=True)  # noqa: S607
    assert (ran.stdout, ran.stderr) == ("# Guarantees\n0\n", "")


def test_an_unknown_topic_is_a_usage_error_that_names_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = here(capsys, "help", "no-such-topic")
    assert (refused.code, refused.stdout) == (2, "")
    assert not [topic for topic in TOPICS if topic not in refused.stderr]
    assert here(capsys, "help", "scripting", "more").code == 2
