"""Counting in English, and texts that a line, a window or a terminal can take. Pure."""

from __future__ import annotations

import re
import textwrap
import unicodedata

LABEL = re.compile(r" *(?:- |\S+ {2,})?")
"""What stands before the text of a line: its lines after the first begin below that text."""
COMMAND_LINE = " " * 4
"""How a line begins that is a command."""
GLUE = "\0"
NARROWEST = 20
REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the order in which a terminal shows what stands beside them."""


def format_number(number: int) -> str:
    """`number` with thousands separators where it has five digits or more."""
    return f"{number:,}" if abs(number) > 9_999 else str(number)


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 seat`, `3 seats`, `10,000 seats`; `plural` where an s is not enough."""
    return f"{format_number(number)} {singular if number == 1 else plural or singular + 's'}"


def and_more(number: int, named: int = 1) -> str:
    """How a list ends of which only the first are named: ` and 3 more`."""
    return f" and {number - named} more" if number > named else ""


def not_raised(doubt: object) -> str:
    """What a command adds that ended a lock and returned no seats, because no counter went down for it."""
    return "" if doubt is None else f" No counter was raised: {doubt}."


def ref_option(ref: str | None) -> str:
    """How a command line ends that repeats the payment which was named."""
    import shlex

    return "" if ref is None else f" --ref {shlex.quote(ref)}"


def shorten(text: str, limit: int = 60) -> str:
    """`text` short enough for a one-line message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_text(character: str) -> bool:
    """Whether a terminal shows a character and does not obey it. Python calls spaces, joiners, direction
    marks and soft hyphens not printable, and they belong to names in French, Japanese, Persian, Hebrew,
    German and emoji."""
    if character in REORDERING:
        return False
    return character.isprintable() or unicodedata.category(character) in ("Zs", "Cf")


def printable(text: str) -> str:
    """`text` with everything that a terminal would obey as escapes: stored texts come from anybody."""
    return "".join(
        character if is_text(character) else character.encode("unicode_escape").decode() for character in text
    )


def wrapped(text: str, width: int) -> str:
    """Lines broken between words, and never within a command in backticks, so that it can be copied. A line
    that is a command stays as it is."""
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    if len(line) <= width or line.startswith(COMMAND_LINE):
        return line
    label = LABEL.match(line)
    lines = textwrap.wrap(
        re.sub("`[^`]*`", _glued, line),
        max(width, NARROWEST),
        subsequent_indent=" " * (label.end() if label else 0),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(GLUE, " ")


def _glued(command: re.Match[str]) -> str:
    return command.group().replace(" ", GLUE)
