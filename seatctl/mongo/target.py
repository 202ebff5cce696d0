"""Which database: flags, environment, files. Knows no MongoDB and opens no connection."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from seatctl.domain.words import shorten
from seatctl.errors import Misconfigured, Usage
from seatctl.mongo import secrets

DEFAULT_DATABASE = "event_booking_db"
CREDENTIAL = "seatctl-uri"
"""The name under which systemd's LoadCredential= hands the URI over."""

PREFIX = "SEATCTL_"
VARIABLES = tuple(f"{PREFIX}{name}" for name in ("URI", "URI_FILE", "DATABASE", "DEBUG", "MONGOD"))
"""All that seatctl reads."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the data lives. `uri` None: the embedded MongoDB."""

    uri: str | None = field(repr=False)
    database: str | None
    warnings: tuple[str, ...] = ()


def find_target(
    uri: str | None, uri_file: str | None, database: str | None, environment: Mapping[str, str] | None = None
) -> Target:
    """Flags win over the environment, a URI over a file, both over systemd's credentials.

    `environment` is this process's by default; an empty variable counts as not set. Raises Usage when
    two flags contradict each other, Misconfigured when a file cannot be read or holds no URI, or for a
    name that no database can have.
    """
    environment = os.environ if environment is None else environment
    found = _find(uri, uri_file, database, environment)
    return replace(found, warnings=(*found.warnings, *_misspelt(environment)))


def _misspelt(environment: Mapping[str, str]) -> Iterator[str]:
    """Without it, the data would go to another database than the one that is meant."""
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in VARIABLES:
            from difflib import get_close_matches

            known = [each.removeprefix(PREFIX) for each in VARIABLES]
            for close in get_close_matches(name.removeprefix(PREFIX), known, n=1):
                yield f"there is no variable {shorten(name)}; is it {PREFIX}{close}?"


def _find(
    uri: str | None, uri_file: str | None, database: str | None, environment: Mapping[str, str]
) -> Target:
    if uri is not None and uri_file is not None:
        raise Usage("give --uri or --uri-file, not both")
    if database is not None and not database.strip():
        raise Usage("--database must not be empty")
    name = database or environment.get("SEATCTL_DATABASE") or None
    # Checked here, since the driver would blame the URI.
    if name and (not name.isprintable() or re.search(r'[\s/\\."$]', name) or len(name.encode()) > 63):
        raise Misconfigured(
            f"{shorten(ascii(name))} is not a valid database name; use up to 63 letters, digits, - and _"
        )
    if uri is not None:
        return Target(_checked(uri, "--uri"), name)
    if uri_file is None and environment.get("SEATCTL_URI"):
        return Target(_checked(environment["SEATCTL_URI"], "SEATCTL_URI"), name)
    if path := uri_file or environment.get("SEATCTL_URI_FILE"):
        text = _text_of(Path(path))
        return Target(text, name, tuple(_exposure(path, Path(path).stat().st_mode)))
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory, CREDENTIAL)
        if credential.exists():  # its mode says nothing: systemd grants it by an ACL
            return Target(_text_of(credential), name)
    return Target(None, name)


def _exposure(path: str, mode: int) -> Iterator[str]:
    """What others than its owner can do with a file of this mode. Who can write it chooses the database."""
    can = [word for word, bits in (("read", 0o044), ("changed", 0o022)) if mode & bits]
    if can:
        yield f"{path} can be {' and '.join(can)} by other users; run `chmod 600 {path}`"


def _text_of(path: Path) -> str:
    try:
        return _checked(path.read_text(encoding="utf-8"), f"the file {path}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Misconfigured(f"cannot read the URI from {path}: {reason}") from error


def _checked(uri: str, source: str) -> str:
    """The URI without surrounding space, if it looks like one; its secrets are remembered."""
    uri = uri.strip()
    secrets.remember(uri)
    if not uri:
        raise Misconfigured(f"{source} is empty; it must hold a URI like mongodb://host:27017/database")
    if not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise Misconfigured(
            f"{source} does not hold a MongoDB URI; one starts with mongodb:// or mongodb+srv://"
        )
    if re.search(r"\s", uri):
        raise Misconfigured(f"{source} holds more than one URI, or one with spaces in it")
    return uri
