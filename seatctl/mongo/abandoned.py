"""Transactions that a killed or stopped seatctl left open, and how whoever they keep waiting ends them.

The server ends such a transaction by itself, but only after a minute (`transactionLifetimeLimitSeconds`).
Until then every other writer of the event loses to it.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from seatctl.mongo.document import Document

if TYPE_CHECKING:
    from pymongo import MongoClient

log = logging.getLogger(__name__)

FIRST_LOOK = 0.5
"""Seconds after which a conflict is no passing one."""
IDLE = 5.0
"""Seconds without a statement after which a transaction counts as abandoned: seatctl's own send the next one
within milliseconds. One that was merely slower starts over, as after any conflict."""
DRIVER = "^PyMongo"
LOOK: Document = {"$currentOp": {"idleSessions": True, "allUsers": False}}
"""One's own operations and sessions need no privilege, neither to see nor to end."""


class Abandoned:
    """Transactions of our own user and program that send nothing, as one waiting client sees them."""

    def __init__(self, client: MongoClient[Document]) -> None:
        self._admin = client.get_database("admin", read_concern=ReadConcern("local"))
        self._name = client.options.pool_options.appname
        self._next_look = time.monotonic() + FIRST_LOOK
        self._seen: dict[tuple[bytes, int], int] = {}
        """How many microseconds each transaction had worked when it was last looked at."""

    def end(self) -> None:
        """Called after each lost attempt: looks every IDLE seconds, and ends the transactions that have not
        worked since the last time."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + IDLE
        with suppress(OperationFailure):  # a server or a proxy that does not tell
            before, self._seen = self._seen, {}
            for operation in self._open():
                transaction, session = operation["transaction"], operation["lsid"]["id"]
                key = bytes(session), transaction["parameters"]["txnNumber"]
                self._seen[key] = transaction["timeActiveMicros"]
                if before.get(key) == self._seen[key]:
                    log.info("ending a transaction of %s that was abandoned", operation.get("client"))
                    self._admin.command("killSessions", [{"id": session}])

    def _open(self) -> list[Document]:
        """The open transactions of our own user and application name whose client is not waiting for an
        answer. Another program may have that user and that name, but hardly that driver, too."""
        mine: Document = {
            "type": "idleSession",
            "appName": self._name,
            "clientMetadata.driver.name": {"$regex": DRIVER},
            "transaction": {"$exists": True},
        }
        return list(self._admin.aggregate([LOOK, {"$match": mine}]))
