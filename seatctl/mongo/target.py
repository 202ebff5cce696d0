"""Which database: flags, environment, files. Knows no MongoDB and opens no connection."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from seatctl.domain.timespec import shorten
from seatctl.errors import Misconfigured, Usage
from seatctl.mongo import secrets

DEFAULT_DATABASE = "event_booking_db"
CREDENTIAL = "seatctl-uri"
"""The name under which systemd's LoadCredential= hands the URI over."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the data lives. `uri` None: the embedded MongoDB."""

    uri: str | None = field(repr=False)
    database: str | None
    warnings: tuple[str, ...] = ()


def find_target(
    uri: str | None,
    uri_file: str | None,
    database: str | None,
    environment: Mapping[str, str] | None = None,
) -> Target:
    """Flags win over the environment, a URI over a file, both over systemd's credentials.

    `environment` is this process's by default; an empty variable counts as not set. Raises Usage when
    two flags contradict each other, Misconfigured when a file cannot be read or holds no URI, or for a
    name that no database can have.
    """
    environment = os.environ if environment is None else environment
    if uri is not None and uri_file is not None:
        raise Usage("give --uri or --uri-file, not both")
    if database is not None and not database.strip():
        raise Usage("--database must not be empty")
    name = _checked_name(database or environment.get("SEATCTL_DATABASE") or None)
    if uri is not None:
        return Target(_clean(uri, "--uri"), name)
    if uri_file is not None:
        return _from_file(Path(uri_file), name, "--uri-file")
    if environment.get("SEATCTL_URI"):
        return Target(_clean(environment["SEATCTL_URI"], "SEATCTL_URI"), name)
    if environment.get("SEATCTL_URI_FILE"):
        return _from_file(Path(environment["SEATCTL_URI_FILE"]), name, "SEATCTL_URI_FILE")
    if environment.get("CREDENTIALS_DIRECTORY"):
        credential = Path(environment["CREDENTIALS_DIRECTORY"], CREDENTIAL)
        if credential.exists():
            found = _from_file(credential, name, "the credential seatctl-uri")
            # systemd grants it by an ACL, whose mask looks like a group that may read.
            return replace(found, warnings=())
    return Target(None, name)


def _checked_name(name: str | None) -> str | None:
    # Checked here, since the driver would blame the URI.
    if name is None or (
        name.isprintable() and not re.search(r'[\s/\\."$]', name) and len(name.encode()) < 64
    ):
        return name
    raise Misconfigured(
        f"{shorten(ascii(name))} cannot be a database's name; use up to 63 letters, digits, - and _"
    )


def _from_file(path: Path, database: str | None, source: str) -> Target:
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Misconfigured(f"cannot read the URI from {path} ({source}): {reason}") from error
    warnings: tuple[str, ...] = ()
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings = (f"{path} can be read by others than its owner; run `chmod 600 {path}`",)
    return Target(_clean(text, f"the file {path}"), database, warnings)


def _clean(uri: str, source: str) -> str:
    uri = uri.strip()
    secrets.remember(uri)
    if not uri:
        raise Misconfigured(f"{source} is empty; it must hold a URI like mongodb://host:27017/database")
    if not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise Misconfigured(
            f"{source} does not hold a MongoDB URI; one starts with mongodb:// or mongodb+srv://"
        )
    if any(character.isspace() for character in uri):
        raise Misconfigured(f"{source} holds more than one URI, or one with spaces in it")
    return uri
