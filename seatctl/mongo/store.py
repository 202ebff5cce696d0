"""The collections of one database together, as they are, or as one transaction or snapshot sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from seatctl.domain.documents import Kind, StoredDocument
from seatctl.domain.rules import RETENTION
from seatctl.errors import CursorLost, Misconfigured
from seatctl.mongo import schema
from seatctl.mongo.audit import Audit
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.collection import Documents
from seatctl.mongo.events import Events
from seatctl.mongo.job_logs import JobLogs
from seatctl.mongo.locks import SeatLocks

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from seatctl.mongo.client import Attempt, Deployment


T = TypeVar("T")
log = logging.getLogger(__name__)
LOOKS = 5
"""How often a point in time is read, where the server drops it."""


def _plain(name: str) -> str:
    """A collection's name without what programs spell differently."""
    return name.lower().replace("_", "")


class Store:
    """One database. Outside of a transaction each statement stands alone."""

    def __init__(self, deployment: Deployment, session: ClientSession | None = None) -> None:
        self.deployment = deployment
        self._session = session
        self.database = deployment.database
        self.events = Events(deployment, session)
        self.locks = SeatLocks(deployment, session)
        self.bookings = Bookings(deployment, session)
        self.job_logs = JobLogs(deployment, session)
        self.audit = Audit(deployment, session)

    @property
    def name(self) -> str:
        return self.database.name

    def now(self) -> datetime:
        """The database server's clock in UTC (invariant 10)."""
        return self.deployment.now()

    def transaction_attempts(self, patience: float | None = None) -> Iterator[AbstractContextManager[Store]]:
        """All that is written within, or nothing of it:

            for attempt in store.transaction_attempts():
                with attempt as tx:
                    result = change(tx)
            return result

        Starts over when another writer won, or when the body raises StaleRead. The commit is at the end
        of the block, so nothing may leave it by `return` or `break`. See `client.Attempt`.
        """
        for attempt in self.deployment.attempts(patience):
            yield self._within(attempt)

    @contextmanager
    def _within(self, attempt: Attempt) -> Iterator[Store]:
        with attempt as session:
            yield Store(self.deployment, session)

    @contextmanager
    def snapshot(self) -> Iterator[Store]:
        """Reads within see one point in time, as those of a transaction do already. Raises CursorLost when
        the server can keep it no longer."""
        if self._session is not None:
            yield self
            return
        with self.deployment.snapshot() as session:
            yield Store(self.deployment, session)

    def at_one_time(self, read: Callable[[Store], T]) -> T:
        """What `read` makes of a snapshot. A snapshot that the server drops is read again.
        Raises CursorLost when it keeps dropping them."""
        for _ in range(LOOKS - 1):
            try:
                with self.snapshot() as at:
                    return read(at)
            except CursorLost:
                log.info("the server dropped the point in time that was being read; reading again")
        with self.snapshot() as at:
            return read(at)

    # --- the database as a whole ---------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether anybody ever created an event or ran `init` here.

        Raises Misconfigured where this is another program's database whose locks seatctl would not see, and
        so would sell their seats again.
        """
        names = self._collections()
        for wanted in schema.STATE:
            for name in names:
                if name != wanted and _plain(name) == _plain(wanted) and not self._is_empty(name):
                    raise Misconfigured(
                        f"database {self.name} has a collection {name}, which another program uses for what "
                        f"seatctl keeps in {wanted}; seatctl changes nothing here"
                    )
        if self._has_lost_its_locks(names) and self.bookings.has_live():
            raise Misconfigured(
                f"database {self.name} has live bookings but no locks in {schema.LOCKS}: their locks are "
                "elsewhere, or were lost; seatctl changes nothing here"
            )
        return schema.EVENTS in names

    def _has_lost_its_locks(self, names: list[str]) -> bool:
        """Whether there is no lock, and no TTL index that tells where they went: with one, `verify` and the
        jobs say so, and raise no counter."""
        if schema.LOCKS not in names:
            return True
        return self._is_empty(schema.LOCKS) and not list(schema.deleting_indexes(self.database))

    def _is_empty(self, collection: str) -> bool:
        return self.database[collection].find_one({}, {"_id": 1}) is None

    def has_collection(self, name: str) -> bool:
        return name in self._collections()

    def _collections(self) -> list[str]:
        # Those that the user may see: that needs no privilege on the database itself.
        return self.database.list_collection_names(authorizedCollections=True)

    def databases(self) -> list[str]:
        """The databases of this server that the user may see."""
        return self.deployment.client.list_database_names()

    def missing(self) -> list[str]:
        """What `init` would create."""
        return schema.missing(self.database) + schema.missing_validators(self.database)

    def init(self, retention: timedelta | None = None) -> list[str]:
        """Create what is missing; returns what was created or changed."""
        return schema.create(self.database, retention, RETENTION) + schema.create_validators(self.database)

    def retention(self) -> timedelta | None:
        """How long entries of the job log are kept; None: for ever."""
        return schema.retention(self.database)

    def drop(self) -> None:
        """Drop the whole database. Only for one that was made to be thrown away."""
        self.deployment.client.drop_database(self.database.name)

    def sizes(self) -> dict[str, int]:
        """About how many events, locks and bookings there are, by collection, without counting them:
        exact unless the server crashed or is sharded."""
        return {name: self.database[name].estimated_document_count() for name in schema.STATE}

    def find_anywhere(self, document_id: object) -> tuple[Kind, StoredDocument] | None:
        """The one document with this id, and what it is."""
        kinds: dict[Kind, Documents] = {
            Kind.EVENT: self.events,
            Kind.LOCK: self.locks,
            Kind.BOOKING: self.bookings,
            Kind.JOB_RUN: self.job_logs,
        }
        for kind, collection in kinds.items():
            document = collection.stored(document_id)
            if document is not None:
                return kind, document
        return None
