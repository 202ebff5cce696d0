"""Counting in English. Pure."""

from __future__ import annotations


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
