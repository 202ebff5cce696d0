"""Values as programs read them (JSON, CSV, ids) and as one line of text. No Rich, no MongoDB.

Lists are printed as they are read: memory does not grow with their length.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from seatctl.domain.timespec import format_time
from seatctl.domain.words import count, is_text, printable

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument

EXACT = 2**53
"""Up to here every whole number has a float of its own."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - they are meant
"""What a spreadsheet takes for the beginning of a formula, or passes over before one."""


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    IDS = "ids"


def plain(value: object) -> Any:
    """A stored value as JSON can carry it: ids as hex strings, times as ISO 8601 with `Z`, and whole
    numbers whole (the old mongo shell stores 2 as 2.0)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, float):
        whole = whole_number(value)
        return whole if whole is not None else value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)


def whole_number(value: object) -> int | None:
    """`value` as an int if it is a whole number, else None."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= EXACT else None
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def text(value: object) -> str:
    """A value in one line of a table or message; control characters are shown as escapes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return format_time(value.replace(microsecond=0))
    shown = plain(value)
    if isinstance(shown, dict | list):
        shown = json.dumps(shown, ensure_ascii=False)
    return printable(str(shown))


def value_of(document: Mapping[str, Any], field: str) -> Any:
    """A field, or one in another (`details.duration`); None where it is missing."""
    found: Any = document
    for name in field.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def only(documents: Iterable[StoredDocument], columns: Sequence[str]) -> Iterator[StoredDocument]:
    for document in documents:
        yield {column: value_of(document, column) for column in columns}


def print_json(value: object) -> None:
    """Exactly one JSON document on stdout."""
    print(_json(value))


def print_json_list(documents: Iterable[StoredDocument]) -> None:
    before = "["
    for document in documents:
        print(before, _json(document), sep="", end="")
        before = ", "
    print("[]" if before == "[" else "]")


def print_json_lines(documents: Iterable[StoredDocument]) -> None:
    """One JSON document a line. Each line is flushed: whoever reads it may be waiting for it."""
    for document in documents:
        print(_json(document, indent=None), flush=True)


def print_csv(documents: Iterable[StoredDocument], columns: Sequence[str]) -> None:
    """A header with the columns, then a row for each document, as Python's csv module writes them."""
    import csv

    encode = printable if sys.stdout.isatty() else str
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    for document in documents:
        writer.writerow([encode(_csv_cell(value_of(document, column))) for column in columns])


def _csv_cell(value: object) -> str:
    """A text that a spreadsheet would calculate begins with an apostrophe: names come from anybody."""
    shown = plain(value)
    if shown is None:
        return ""
    if not isinstance(shown, str):
        return json.dumps(shown, ensure_ascii=False)
    return f"'{shown}" if shown.lstrip(" ").startswith(FORMULA) else shown


def print_ids(documents: Iterable[StoredDocument]) -> None:
    """The `_id` of each document on a line of its own."""
    for document in documents:
        print(text(document["_id"]))


def sizes_in_words(sizes: Mapping[str, int]) -> str:
    """`3 events, 2 locks, 1 booking` of the sizes of these collections."""
    names = {"events": "event", "seatLocks": "lock", "bookings": "booking"}
    return ", ".join(count(sizes[collection], name) for collection, name in names.items())


def stdout_is_utf8() -> bool:
    """Whether stdout can carry every letter."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _json(value: object, indent: int | None = 2) -> str:
    """Indented in a terminal, which must not obey what stands in a text."""
    terminal = sys.stdout.isatty()
    shown = json.dumps(plain(value), ensure_ascii=not stdout_is_utf8(), indent=indent if terminal else None)
    return _escaped(shown) if terminal else shown


def _escaped(document: str) -> str:
    return "".join(
        character if character == "\n" or is_text(character) else json.dumps(character)[1:-1]
        for character in document
    )
