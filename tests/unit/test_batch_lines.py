"""Lines of a batch mean what they mean in a shell, or are refused before anything runs."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from seatctl.cli import batch_lines
from seatctl.cli.app import program
from seatctl.cli.commands import batch

ID = "a" * 24


def read(*texts: str) -> list[object]:
    return list(batch_lines.read([f"{text}\n" for text in texts], program))


def reason(*texts: str) -> str:
    """Why the only line that cannot be read cannot be."""
    [(_, why)] = [found for found in read(*texts) if isinstance(found, tuple)]
    return why


SHELL = [
    "lock E --user ada --seats 2",
    "create-event 'Spring  gala' --seats 4",
    'create-event "Tom\'s \\"gala\\"" x',
    "create-event Spring\\ gala ''",
    "create-event \"a\\b \\$5 \\\\\" '$5 | >'",
    "lock E # a comment | with > signs",
    "lock E#1 --key a#b",
    'lock "$E" ${E} x$E"y$E" \'$E\'',
    "pre\"fix\"'ed'\\ word",
    "show ☃ '☃ é'",
]


@pytest.mark.parametrize("line", SHELL)
def test_the_words_of_a_line_are_those_that_bash_passes(line: str) -> None:
    script = f'E=65f0; set -- {line}\nprintf "%s\\0" "$@"'
    passed = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True).stdout  # noqa: S607
    assert batch_lines.words_of(line, {"E": "65f0"}) == passed.split("\0")[:-1]


@pytest.mark.parametrize(
    "character",
    ["|", ">", "<", "&", ";", "(", ")", "`x`", "$(date)", "$1", "$", '"$(date)"', '"`x`"', "~/file"],
)
def test_what_only_a_shell_understands_is_refused(character: str) -> None:
    assert "is shell syntax" in reason(f"show {ID} {character}")


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quote_is_closed_on_its_line(quote: str) -> None:
    assert reason(f"create-event {quote}Gala") == f"a quote {quote} is not closed on its line"


def test_expectations_and_names_stand_in_front() -> None:
    found = read(
        f"E = show {ID}",
        "LOCK=lock $E --user ada --seats 1",
        "!3 release $LOCK",
        "! release $LOCK",
        "!0 verify",
        "verify",
    )
    assert [(line.number, line.name, line.expected) for line in found] == [
        (1, "E", 0),
        (2, "LOCK", 0),
        (3, None, 3),
        (4, None, "failure"),
        (5, None, 0),
        (6, None, 0),
    ]
    assert [line.is_met_by(code) for line in found[1:4] for code in (0, 3, 4)] == [
        *(True, False, False),
        *(False, True, False),
        *(False, True, True),
    ]


def test_empty_lines_and_comments_are_no_commands_and_numbers_are_those_of_the_file() -> None:
    assert [
        line.number for line in read("# a file", "", "verify", "  # more", "   ", "health \\", "  --json")
    ] == [
        3,
        6,
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("watch", "watch cannot be part of a batch"),
        ("demo", "demo cannot be part of a batch"),
        ("db stop", "db cannot be part of a batch"),
        ("batch file", "batch cannot be part of a batch"),
        ("seatctl verify", "leave out `seatctl`"),
        ("lokc", "no such command 'lokc'"),
        ("lock", "missing argument 'EVENT_ID'"),
        (f"lock {ID} --user ada --seats x", "'x' is not a whole number"),
        ("events --columns nonsense", "there is no column 'nonsense'"),
        ("events --no-such-option", "no such option"),
        ("schedule", "schedule is incomplete"),
        ("release $LOCK", "$LOCK has no value"),
        ("!3", "write !3 or !, then a space"),
        ("!3lock", "write !3 or !, then a space"),
        ("X =", "there is no command"),
        ("! # nothing", "there is no command"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_the_reason(line: str, why: str) -> None:
    assert why in reason("verify", line, "health")


def test_a_line_that_expects_to_be_refused_as_usage_is_none_that_cannot_be_read() -> None:
    assert (
        len(
            [
                line
                for line in read("!2 lock", "! lock", "!2 events --limit -1")
                if isinstance(line, batch_lines.Line)
            ]
        )
        == 3
    )
    assert "missing argument" in reason("!3 lock")


def test_a_name_has_a_value_only_below_its_line() -> None:
    assert "$E has no value" in reason("show $E", f"E = show {ID}")


def test_help_inside_of_a_batch_prints_nothing_while_it_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(read("lock --help", "help lock")) == 2
    assert capsys.readouterr().out == ""


def test_what_a_line_prints_is_one_document_or_a_list_or_a_text() -> None:
    assert batch._result('{"a": 1}\n') == {"a": 1}
    assert batch._result('{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert batch._result("a,b\r\n1,2\r\n") == "a,b\r\n1,2\r\n"
    assert batch._result("") is None


def test_json_is_asked_for_behind_the_command_where_nothing_else_is() -> None:
    def asked(line: str) -> str:
        return shlex.join(batch._as_json(line.split(), program))

    assert asked("create-event -- --odd") == "create-event --json -- --odd"
    assert asked("schedule cron --user x") == "schedule cron --json --user x"
    for line in ("events --format csv", "events --format=ids", "health --prometheus -"):
        assert asked(line) == line
