"""The collections of one database together, as they are, or as one transaction or snapshot sees them."""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from seatctl.domain.documents import Kind, Operator, StoredDocument
from seatctl.domain.rules import RETENTION
from seatctl.domain.settings import NOT_ADOPTED, DeletingIndex, Settings
from seatctl.errors import CursorLost, Misconfigured
from seatctl.mongo import schema, settings
from seatctl.mongo.aggregations import Aggregations
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.collection import Documents
from seatctl.mongo.events import Events
from seatctl.mongo.job_logs import JobLogs
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.operations import Operations
from seatctl.mongo.refunds import Refunds
from seatctl.mongo.transactions import lone_write
from seatctl.mongo.validators import create_validators, missing_validators, own_validators, remove_validators

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from seatctl.mongo.client import Deployment
    from seatctl.mongo.transactions import Attempt


T = TypeVar("T")
log = logging.getLogger(__name__)
SNAPSHOT_RETRIES = 5
"""How often a point in time is read, where the server drops it."""

LOST = (
    "were lost. seatctl changes nothing here until they are restored, from a backup or from the bookings: "
    "`seatctl help adopt`"
)
LOST_OR_ELSEWHERE = (
    "are elsewhere, or were lost; seatctl changes nothing here. If another program keeps them under another "
    "name, or deletes them by a TTL index, `seatctl adopt` sets that up"
)


class MadeByAdopt(NamedTuple):
    """What `adopt` made of a database, and `init` after it."""

    harmless: list[DeletingIndex]
    """TTL indexes, as they were before."""
    removable: list[str]
    """Indexes, validators and empty collections."""
    kept: list[str]
    """Collections with documents in them."""


@cache
def this_operator() -> Operator:
    """Whoever runs this process. A user id without an account (in a container) is told as its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return Operator(user, socket.gethostname(), os.environ.get("SUDO_USER"))


def _plain(name: str) -> str:
    """A collection's name without what programs spell differently."""
    return name.lower().replace("_", "")


class Store:
    """One database. Outside of a transaction each statement stands alone."""

    def __init__(
        self,
        deployment: Deployment,
        session: ClientSession | None = None,
        settings: Settings = NOT_ADOPTED,
        operator: Operator | None = None,
    ) -> None:
        self.deployment = deployment
        self._session = session
        self.settings = settings
        self.operator = operator or this_operator()
        self.database = deployment.database
        self.events = Events(deployment, session, settings)
        self.locks = SeatLocks(deployment, session, settings)
        self.bookings = Bookings(deployment, session, settings)
        self.job_logs = JobLogs(deployment, session, settings)
        self.refunds = Refunds(deployment, session, settings)
        self.operations = Operations(deployment, session, self.operator, settings)
        self.aggregations = Aggregations(deployment, session, settings)

    @classmethod
    def open(cls, deployment: Deployment, reason: str | None = None) -> Store:
        """A database with the settings that `adopt` left there, for an operator who gives this reason.
        Raises Misconfigured."""
        operator = this_operator()._replace(reason=reason)
        return cls(deployment, settings=settings.read(deployment.database), operator=operator)

    def for_reason(self, reason: str | None) -> Store:
        """The same database for the same operator, who gives this reason."""
        if reason == self.operator.reason:
            return self
        return Store(self.deployment, self._session, self.settings, self.operator._replace(reason=reason))

    def with_settings(self, settings: Settings) -> Store:
        """The same database as it is with these settings."""
        return Store(self.deployment, self._session, settings, self.operator)

    @property
    def name(self) -> str:
        return self.database.name

    def now(self) -> datetime:
        """The database server's clock in UTC (invariant 10)."""
        return self.deployment.now()

    def transaction_attempts(
        self, patience: float | None = None, *, dry_run: bool = False
    ) -> Iterator[AbstractContextManager[Store]]:
        """All that is written within, or nothing of it:

            for attempt in store.transaction_attempts():
                with attempt as tx:
                    result = change(tx)
            return result

        Starts over when another writer won, or when the body raises StaleRead. The commit is at the end
        of the block, so nothing may leave it by `return` or `break`. A dry run rolls back there instead.
        See `transactions.Attempt`.
        """
        for attempt in self.deployment.attempts(patience, dry_run=dry_run):
            yield self._within(attempt)

    @contextmanager
    def _within(self, attempt: Attempt) -> Iterator[Store]:
        with attempt as session:
            yield Store(self.deployment, session, self.settings, self.operator)

    @contextmanager
    def snapshot(self) -> Iterator[Store]:
        """Reads within see one point in time, as those of a transaction do already. Raises CursorLost when
        the server can keep it no longer."""
        if self._session is not None:
            yield self
            return
        with self.deployment.snapshot() as session:
            yield Store(self.deployment, session, self.settings, self.operator)

    def read_snapshot(self, read: Callable[[Store], T], what: str) -> T:
        """What `read` makes of a snapshot. One that the server drops is read again, and `what` is said.
        Raises CursorLost when it keeps dropping them."""
        for _ in range(SNAPSHOT_RETRIES - 1):
            try:
                with self.snapshot() as at:
                    return read(at)
            except CursorLost:
                log.info("reading %s again: the server dropped the snapshot", what)
        with self.snapshot() as at:
            return read(at)

    # --- the database as a whole ---------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether anybody ever created an event or ran `init` here.

        Raises Misconfigured where this is another program's database whose locks seatctl would not see, and
        so would sell their seats again.
        """
        names = self.collections()
        for wanted in schema.state(self.settings.locks):
            for name in self.spelled_differently(wanted, names):
                raise Misconfigured(
                    f"database {self.name} has a collection {name}, which another program seems to use in "
                    f"place of {wanted}, so seatctl changes nothing here. `seatctl adopt --dry-run` shows "
                    "how to share the database with that program"
                )
        return schema.EVENTS in names

    def check_locks(self, *, writes: bool) -> None:
        """Raises Misconfigured where live bookings name locks, and there is none: their seats would be sold
        again. Reading is refused only where the locks may be elsewhere."""
        locks, adopted = self.settings.locks, self.settings.adopted
        if not self.is_empty(locks) or not self.bookings.has_live():
            return
        # A TTL index tells where they went: the jobs then raise no counter, and `verify` names it.
        if writes if adopted else not self.aggregations.deleting_indexes():
            raise Misconfigured(
                f"database {self.name} has live bookings but no locks in {locks}: they "
                + (LOST if adopted else LOST_OR_ELSEWHERE)
            )

    def spelled_differently(self, wanted: str, names: list[str]) -> list[str]:
        """Those of these collections that have something in them, and a name that differs from this one in
        letter case or an underscore only."""
        return [
            name
            for name in names
            if name != wanted and _plain(name) == _plain(wanted) and not self.is_empty(name)
        ]

    def is_empty(self, collection: str) -> bool:
        return self.database[collection].find_one({}, {"_id": 1}) is None

    def has_collection(self, name: str) -> bool:
        return name in self.collections()

    def collections(self) -> list[str]:
        """The names of those that the user may see."""
        # Those that the user may see: that needs no privilege on the database itself.
        return self.database.list_collection_names(authorizedCollections=True)

    def databases(self) -> list[str]:
        """The databases of this server that the user may see."""
        return self.deployment.client.list_database_names()

    def missing(self, *, validators: bool | None = None) -> list[str]:
        """What `init` would create with or without validators."""
        locks, adopted = self.settings.locks, self.settings.adopted
        missing = schema.missing(self.database, locks, adopted=adopted)
        if self._wants(validators):
            missing += missing_validators(self.database, locks)
        return missing

    def init(self, retention: timedelta | None = None, *, validators: bool | None = None) -> schema.Setup:
        locks, adopted = self.settings.locks, self.settings.adopted
        with lone_write(self.deployment.client):
            done = schema.create(self.database, retention, RETENTION, locks, adopted=adopted)
            if self._wants(validators):
                created, left_out = create_validators(self.database, locks)
                return schema.Setup(done.created + created, done.left_out + left_out)
        return done

    def _wants(self, validators: bool | None) -> bool:
        """By default an adopted database gets none: they could refuse what the other program writes."""
        return not self.settings.adopted if validators is None else validators

    def remove_setup(self) -> list[str]:
        """Take away our own indexes and validators; returns them. Collections and documents stay."""
        locks = self.settings.locks
        return schema.remove(self.database, locks) + remove_validators(self.database, locks)

    # --- adoption ------------------------------------------------------------------------------------

    def write_settings(self, new: Settings) -> None:
        settings.write(self.database, new)

    def remove_settings(self) -> None:
        settings.remove(self.database)

    def neutralise(self, indexes: Sequence[DeletingIndex]) -> None:
        """Make TTL indexes delete nothing any more."""
        for index in indexes:
            schema.set_ttl(self.database, index)

    def made_by_adopt(self) -> MadeByAdopt:
        """What of it is still there."""
        harmless = [index for index in self.settings.ttl_indexes if schema.is_off(self.database, index)]
        locks, created = self.settings.locks, self.settings.created
        removable = [str(index) for index in schema.own_indexes(self.database, locks, created)]
        removable += [f"{name}.validator" for name in own_validators(self.database, locks)]
        names = self.collections()
        collections = [name for name in created if name in names]
        kept = [name for name in collections if not self.is_empty(name)]
        return MadeByAdopt(harmless, removable + [name for name in collections if name not in kept], kept)

    def remove_made(self, made: MadeByAdopt) -> None:
        """Give the TTL indexes their time back, and drop what `adopt` and `init` created, but for the
        collections that are kept."""
        for index in made.harmless:
            schema.set_ttl(self.database, index, index.seconds)
        schema.remove(self.database, self.settings.locks, made.removable)
        remove_validators(self.database, self.settings.locks)
        for name in self.settings.created:
            if name in made.removable and self.is_empty(name):
                self.database.drop_collection(name)

    def retention(self) -> timedelta | None:
        """How long entries of the job log are kept; None: for ever."""
        return schema.retention(self.database)

    def drop(self) -> None:
        """Drop the whole database. Only for one that was made to be thrown away."""
        self.deployment.client.drop_database(self.database.name)

    def sizes(self) -> dict[str, int]:
        """About how many events, locks and bookings there are, by collection, without counting them:
        exact unless the server crashed or is sharded."""
        collections = zip(schema.STATE, schema.state(self.settings.locks), strict=True)
        return {key: self.database[name].estimated_document_count() for key, name in collections}

    def find_anywhere(self, document_id: object) -> tuple[Kind, StoredDocument] | None:
        """The one document with this id, and what it is."""
        kinds: dict[Kind, Documents] = {
            Kind.EVENT: self.events,
            Kind.LOCK: self.locks,
            Kind.BOOKING: self.bookings,
            Kind.JOB_RUN: self.job_logs,
            Kind.REFUND: self.refunds,
            Kind.OPERATION: self.operations,
        }
        for kind, collection in kinds.items():
            document = collection.stored(document_id)
            if document is not None:
                return kind, document
        return None
