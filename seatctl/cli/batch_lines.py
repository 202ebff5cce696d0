"""The lines of a batch, read as a shell reads them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import typer

from seatctl.cli import boundary
from seatctl.errors import SeatctlError, Usage

NOT_HERE = frozenset({"watch", "follow", "demo", "db", "batch"})
"""Commands that need a terminal, never end, or make a database or a batch of their own."""
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
        reason = boundary.as_seatctl_error(error)
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
