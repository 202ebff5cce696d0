"""Stored values as one types them into mongosh."""

from __future__ import annotations

import json
from datetime import datetime

from bson import Decimal128, Int64, ObjectId

from seatctl.domain.timespec import format_time


def literal(value: object) -> str:
    """A value as mongosh reads it; what it has no short word for is only said to be there."""
    match value:
        case None:
            return "null"
        case ObjectId():
            return f'ObjectId("{value}")'
        case datetime():
            return f'ISODate("{format_time(value)}")'
        case Decimal128():
            return f'NumberDecimal("{value}")'
        case Int64():
            return f'NumberLong("{value}")'
        case bool() | int() | str():
            return json.dumps(value, ensure_ascii=False)
        case float():
            return json.dumps(value)  # NaN and Infinity are JavaScript's own words, too
        case list() if all(isinstance(item, str | int | float | ObjectId) for item in value):
            return f"[{', '.join(map(literal, value))}]"
    return "{$exists: true}"
