"""Ids as people type them, and new ones."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

from bson import ObjectId

from seatctl.domain import validation
from seatctl.domain.documents import RunId, UserId
from seatctl.domain.words import shorten
from seatctl.errors import Usage

LAST_SECOND = 2**32 - 1
"""Of which an id can tell; in the year 2106."""


def parse_document_id(text: str) -> object:
    """24 hex digits as printed, in quotes, or as `ObjectId("…")`. Raises Usage for anything else."""
    match = re.fullmatch(r"""(?:ObjectId\(\s*)?["']?([0-9a-fA-F]{24})["']?(?:\s*\))?""", text.strip())
    if match is None:
        raise Usage(f"{shorten(text)!r} is not an id; an id has 24 hexadecimal digits")
    return ObjectId(match[1])


def parse_user(text: str) -> UserId:
    """A user as the contract stores it: an ObjectId when it has 24 hex digits, else the text without
    surrounding space. Raises Usage."""
    user = validation.text("user", text)
    return UserId(ObjectId(user) if ObjectId.is_valid(user) else user)


def creation_time(document_id: object) -> datetime | None:
    """The second in which an ObjectId was made; None for any other id."""
    return document_id.generation_time if isinstance(document_id, ObjectId) else None


def new_id(now: datetime) -> ObjectId:
    """An id that carries this time, the server's. The driver's own carries the host's, and where hosts differ
    the newest documents would not come first."""
    return ObjectId(first_id_at(now).binary[:4] + ObjectId().binary[4:])


def new_run_id() -> RunId:
    """For the entry of a run or of an operation, before it is written: what it ends names it."""
    return RunId(ObjectId())


def id_of_key(*parts: object) -> ObjectId:
    """The id that what a document is unique on makes: two writers of it exclude each other."""
    return ObjectId(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:12])


def first_id_at(moment: datetime) -> ObjectId:
    """The smallest id that can have been made at this second: ids carry their time."""
    seconds = min(max(0, int(moment.timestamp())), LAST_SECOND)
    return ObjectId(f"{seconds:08x}{0:016x}")


def new_key() -> str:
    """A unique idempotency key, for a lock whose caller gave none."""
    return f"seatctl-{ObjectId()}"
