"""Values as programs read them (JSON, ids) and as one line of text. No Rich, no MongoDB.

Lists are printed as they are read: memory does not grow with their length.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from seatctl.domain.timespec import format_time, printable

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument

EXACT = 2**53
"""Up to here every whole number has a float of its own."""


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


def print_json(value: object) -> None:
    """Exactly one JSON document on stdout."""
    print(_json(value))


def print_json_list(documents: Iterable[StoredDocument]) -> None:
    """A list as one JSON document."""
    before = "["
    for document in documents:
        print(before, _json(document), sep="", end="")
        before = ", "
    print("[]" if before == "[" else "]")


def print_ids(documents: Iterable[StoredDocument]) -> None:
    """The `_id` of each document on a line of its own."""
    for document in documents:
        print(text(document["_id"]))


def stdout_is_utf8() -> bool:
    """Whether stdout can carry every letter."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _json(value: object) -> str:
    indent = 2 if sys.stdout.isatty() else None
    return json.dumps(plain(value), ensure_ascii=not stdout_is_utf8(), indent=indent)
