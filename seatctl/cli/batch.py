"""Lines of a batch: read as a shell reads them, and run by the functions of the command line."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import typer

from seatctl.cli import boundary
from seatctl.cli.session import Session
from seatctl.errors import Interrupted, SeatctlError, Usage
from seatctl.mongo import secrets

NOT_HERE = frozenset({"watch", "follow", "demo", "db", "batch"})
"""Commands that need a terminal, never end, or make a database or a batch of their own."""
SETTING_UP = frozenset({"adopt", "init"})
"""Commands after which a database may be another one."""
OTHER_OUTPUT = frozenset({"--format", "--list", "--prometheus"})
"""Options that say what is printed: beside them --json would be another format."""
ANY_FAILURE = "failure"
SOME_ID = "0" * 24

TOKEN = re.compile(
    r"""(?P<space>\s+)
    | '(?P<single>[^']*)'
    | "(?P<double>(?:\\.|[^"\\])*)"
    | \\(?P<escaped>.)
    | \$(?P<brace>\{)?(?P<name>[A-Za-z_]\w*)(?(brace)\})
    | (?P<plain>[^\s'"\\$|&;<>()`~]+|(?<!\s)~)""",
    re.VERBOSE | re.ASCII,
)
IN_DOUBLE_QUOTES = re.compile(
    r"""\\(?P<escaped>["\\$`])|\$\{?(?P<name>[A-Za-z_]\w*)\}?|(?P<plain>[^$`])""", re.ASCII
)
EXPECTED = re.compile(r"!(?P<code>\d{1,3})?(?=\s)\s*", re.ASCII)
NAME = re.compile(r"(?P<name>[A-Za-z_]\w*)\s*=\s*", re.ASCII)


class NoValue(Exception):
    """A name whose line made no id."""


@dataclass(frozen=True, slots=True)
class Line:
    """One command of a batch: its number in the file, its text, what its exit code should be, and the name of
    the id that it makes."""

    number: int
    text: str
    expected: int | str = 0
    name: str | None = None

    def is_met_by(self, code: int | None) -> bool:
        return code not in (0, None) if self.expected == ANY_FAILURE else code == self.expected


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a line ended: its exit code, None where it could not be run; the command as it was run; what it
    printed, and what went wrong."""

    line: Line
    code: int | None
    command: str
    result: object = None
    error: Mapping[str, object] | None = None
    made: object = None
    """The id that it made."""

    @property
    def is_as_expected(self) -> bool:
        return self.line.is_met_by(self.code) and (self.error is None or self.code != 0)

    def as_document(self) -> dict[str, object]:
        document: dict[str, object] = {
            "line": self.line.number,
            "command": self.command,
            "exitCode": self.code,
            "expected": self.line.expected,
        }
        if self.result is not None or self.error is None:
            document["result"] = self.result
        return document if self.error is None else {**document, "error": self.error}


# --- reading ------------------------------------------------------------------------------------------


def read(texts: Iterable[str], program: Any) -> Iterator[Line | tuple[int, str]]:
    """The commands of a batch; for each that cannot be read, its number and why."""
    names: dict[str, str] = {}
    for number, text in _joined(texts):
        try:
            line = _line(number, text)
            words = words_of(line.text, names)
            if not words and line == Line(number, text):
                continue  # nothing, or a comment
            _check(words, program, line)
        except (ValueError, NoValue, SeatctlError) as error:
            yield number, str(error)
            continue
        if line.name:
            names[line.name] = SOME_ID
        yield line


def _joined(texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Each line with its number; one that ends with a backslash goes on in the next."""
    begun, first = "", 0
    for number, text in enumerate(texts, 1):
        first = first if begun else number
        begun += text.rstrip("\r\n")
        if re.search(r"(?<!\\)(\\\\)*\\$", begun) and not begun.lstrip().startswith("#"):
            begun = begun[:-1] + " "
            continue
        yield first, begun.strip()
        begun = ""
    if begun:
        yield first, begun.strip()


def _line(number: int, text: str) -> Line:
    if text.startswith("!"):
        if (found := EXPECTED.match(text)) is None:
            raise ValueError("write !3 or !, then a space, before a command that should fail")
        code = found["code"]
        return Line(number, text[found.end() :], ANY_FAILURE if code is None else int(code))
    if found := NAME.match(text):
        return Line(number, text[found.end() :], name=found["name"])
    return Line(number, text)


def words_of(text: str, values: Mapping[str, str]) -> list[str]:
    """The words of a command as a shell would pass them. Raises ValueError for what means something else in a
    shell, NoValue for a name without a value."""
    words: list[str] = []
    word, at = None, 0
    while at < len(text) and not (word is None and text[at] == "#"):
        token = TOKEN.match(text, at)
        if token is None:
            raise ValueError(_reason(text[at]))
        at = token.end()
        if token["space"]:
            words += [] if word is None else [word]
            word = None
            continue
        word = (word or "") + _value(token, values)
    return words if word is None else [*words, word]


def _value(token: re.Match[str], values: Mapping[str, str]) -> str:
    if token["name"]:
        return _named(token["name"], values)
    if token["double"] is None:
        return token["single"] or token["escaped"] or token["plain"] or ""
    value, at = "", 0
    while at < len(token["double"]):
        part = IN_DOUBLE_QUOTES.match(token["double"], at)
        if part is None:
            raise ValueError(_reason(token["double"][at]))
        value += _named(part["name"], values) if part["name"] else part["escaped"] or part["plain"]
        at = part.end()
    return value


def _named(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        raise NoValue(f"${name} has no value: no earlier line sets it")
    return values[name]


def _reason(character: str) -> str:
    if character in "'\"":
        return f"a quote {character} is not closed on its line"
    return f"{character} is shell syntax, which a batch does not support; put it in single quotes"


def _check(words: list[str], program: Any, line: Line) -> None:
    """Raises Usage for what the program would refuse with exit code 2, unless the line expects that."""
    if not words:
        raise Usage("there is no command")
    if words[0] == "seatctl":
        raise Usage("leave out `seatctl`: a line begins with the command")
    if words[0] in NOT_HERE:
        raise Usage(f"{words[0]} cannot be part of a batch")
    try:
        _parse(words, program)
    except Exception as error:
        reason = boundary.in_words(error)
        if not line.is_met_by(reason.exit_code):
            raise Usage(str(boundary.as_document(reason)["message"])) from error


def _parse(words: list[str], program: Any) -> None:
    """Understand a command line without running it."""
    command, rest = program, list(words)
    context = program.context_class(program, info_name="seatctl")
    while hasattr(command, "commands") and rest:
        name, command, rest = command.resolve_command(context, rest)
        if hasattr(command, "commands"):
            context = command.context_class(command, info_name=name, parent=context)
    if hasattr(command, "commands"):
        raise Usage(f"{words[-1]} is incomplete (see `seatctl {words[-1]} --help`)")
    with redirect_stdout(io.StringIO()), suppress(typer.Exit):
        command.make_context(name, rest, parent=context)


# --- running ------------------------------------------------------------------------------------------


class _Captured(io.StringIO):
    encoding = "utf-8"


def run(line: Line, program: Any, session: Session, values: dict[str, str]) -> Outcome:
    """Run one line; the id that it makes is in `values` afterwards under its name."""
    if line.name:
        values.pop(line.name, None)
    printed, session.made = _Captured(), None
    command, reason, code = line.text, None, None
    try:
        words = words_of(line.text, values)
        command = shlex.join(words)
        with redirect_stdout(printed), _own_log():
            code = boundary.execute(program, _as_json(words, program), session)
            reason = SeatctlError() if code else None
    except NoValue as error:
        return Outcome(line, None, secrets.scrub(command), error=_no_value(str(error)))
    except BaseException as error:  # noqa: BLE001 - the next line is run all the same
        reason = boundary.in_words(error)
        code = reason.exit_code
    if command.partition(" ")[0] in SETTING_UP:  # also where it failed halfway
        session.forget()
    result = _result(printed.getvalue())
    if reason is not None:
        return Outcome(line, code, secrets.scrub(command), result, boundary.as_document(reason))
    made = session.made or _only_id(result)
    if line.name and made is not None:
        values[line.name] = str(made)
    elif line.name:
        return Outcome(line, code, secrets.scrub(command), result, _no_value("it printed no id, or several"))
    return Outcome(line, code, secrets.scrub(command), result, made=made)


def signal_of(outcome: Outcome) -> int | None:
    """The signal that ended the line."""
    interrupted = outcome.error is not None and outcome.error["code"] == Interrupted.code
    return outcome.code - 128 if interrupted and outcome.code else None


def _no_value(message: str) -> dict[str, object]:
    return {"code": "no_value", "message": message, "exitCode": None}


def _as_json(words: list[str], program: Any) -> list[str]:
    """The command line with --json, which comes behind the command's name."""
    if any(word.partition("=")[0] in OTHER_OUTPUT for word in words):
        return words
    name = 2 if hasattr(program.commands.get(words[0]), "commands") else 1
    return [*words[:name], "--json", *words[name:]]


def _result(printed: str) -> object:
    """One JSON document, or a list of one for each line, or the text."""
    with suppress(ValueError):
        return json.loads(printed)
    with suppress(ValueError):
        return [json.loads(line) for line in printed.splitlines()] or None
    return printed


def _only_id(result: object) -> object:
    """The id that -q would print alone."""
    if isinstance(result, list) and len(result) == 1 and isinstance(result[0], dict):
        return result[0].get("_id")
    return None


@contextmanager
def _own_log() -> Iterator[None]:
    """`-v` of one line ends with it."""
    logger = logging.getLogger("seatctl")
    handlers, level = list(logger.handlers), logger.level
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
