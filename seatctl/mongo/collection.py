"""What the collection classes share: a collection seen through a transaction or a snapshot, or neither."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from bson import MaxKey, ObjectId
from pymongo.errors import DuplicateKeyError, OperationFailure

from seatctl.domain.documents import RunId, StoredDocument
from seatctl.domain.settings import NOT_ADOPTED, Settings
from seatctl.errors import CursorLost, StaleRead
from seatctl.mongo import schema
from seatctl.mongo.document import Document
from seatctl.mongo.failures import CURSOR_LOST, DOCUMENT_VALIDATION_FAILED, translate
from seatctl.mongo.transactions import lone_write

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from seatctl.mongo.client import Deployment

T = TypeVar("T")

CURSOR_BATCH = 5_000
BAD_VALUE = 2
EVERY: Document = {"$nin": []}
"""A condition that excludes nothing. It names a field that an index begins with, so that the planner uses it
and skips from one of the field's values to the next."""
BY_ID = [("_id", 1)]
"""Every compare-and-set is of known ids. Without this hint, one of many ids in one state would scan all that
are in this state."""
FIRST_ID = ObjectId("0" * 24)
NO_OBJECT_ID: Document = {"$not": {"$gte": FIRST_ID}}
"""No ObjectId, or nothing; unlike `$type`, a range on an index."""


class Documents:
    """One collection. Each method is one statement, its condition in the filter."""

    name: str

    def __init__(
        self, deployment: Deployment, session: ClientSession | None, settings: Settings = NOT_ADOPTED
    ) -> None:
        self._deployment = deployment
        self._session = session
        self._settings = settings
        self._documents: Collection[Document] = deployment.database[self.name]
        self._exists = False

    def ensure_collection(self) -> None:
        """Create the collection where there is none yet. A transaction that creates it is no guard: another
        one, in a snapshot of the same moment, may see what it changed elsewhere, and not the collection."""
        if self._exists:
            return
        if self.name not in self._deployment.database.list_collection_names(authorizedCollections=True):
            schema.ensure_collection(self._deployment.database, self.name)
        self._exists = True

    def insert_as_stored(self, document: Document) -> None:
        """Insert a document as another program would, for the demo and the tests."""
        self._insert(document)

    def _insert(self, document: Document) -> None:
        # In a transaction, only the commit can leave open what was done.
        alone = lone_write(self._deployment.client) if self._session is None else nullcontext()
        with refusals(), alone:
            self._documents.insert_one(document, session=self._session)

    def _insert_new(self, document: Document) -> None:
        """Insert it. Raises StaleRead where another writer has inserted the same by now."""
        try:
            self._insert(document)
        except DuplicateKeyError as error:
            raise StaleRead from error

    def _find(
        self, where: Document, fields: Iterable[str] | None = None, **options: Any
    ) -> Iterator[Document]:
        """What matches, as it is read. Raises CursorLost when the server drops the list."""
        projection = None if fields is None else dict.fromkeys(fields, 1)
        try:
            yield from self._documents.find(
                where,
                projection,
                batch_size=CURSOR_BATCH,
                collation=schema.EXACT,
                session=self._session,
                **options,
            )
        except OperationFailure as error:
            # Within a transaction it is the transaction that starts over.
            if error.code in CURSOR_LOST and not error.has_error_label("TransientTransactionError"):
                raise CursorLost from error
            raise

    def _one(self, where: Document, fields: Iterable[str] | None = None) -> Document | None:
        projection = None if fields is None else dict.fromkeys(fields, 1)
        return self._documents.find_one(where, projection, collation=schema.EXACT, session=self._session)

    def _aggregate(self, pipeline: list[Document]) -> Iterator[Document]:
        yield from aggregate(self._documents, pipeline, self._session)

    def _count(self, where: Document) -> int:
        return self._documents.count_documents(where, collation=schema.EXACT, session=self._session)

    def _compare_and_set(self, where: Document, changes: Document) -> Document | None:
        """Change the one document that is still as `where` says; returns it as it is then, or None."""
        with refusals():
            return self._documents.find_one_and_update(
                where,
                changes,
                return_document=True,
                collation=schema.EXACT,
                hint=BY_ID,
                session=self._session,
            )

    def _compare_and_set_many(self, where: Document, changes: Document) -> int:
        """Change the documents that are still as `where` says; returns how many."""
        with refusals():
            done = self._documents.update_many(
                where, changes, collation=schema.EXACT, hint=BY_ID, session=self._session
            )
            return done.matched_count

    def stored(self, document_id: object) -> StoredDocument | None:
        """A document as it is stored, with all fields."""
        return self._one(id_is(document_id))

    def newest(
        self, where: Mapping[str, object], limit: int, by: str = "_id", fields: Iterable[str] | None = None
    ) -> Iterator[StoredDocument]:
        """What matches, newest first, as it is stored; 0 for all. An ObjectId carries its second of
        creation, and every document has one, which cannot be said of `createdAt`."""
        yield from self.sorted({by: -1}, where, limit, fields)

    def sorted(
        self,
        order: Mapping[str, int],
        where: Mapping[str, object],
        limit: int,
        fields: Iterable[str] | None = None,
    ) -> Iterator[StoredDocument]:
        """What matches, in this order, with these fields or all; 0 for all documents. The server sorts."""
        yield from self._find(dict(where), fields, sort=list(order.items()), limit=limit)


def aggregate(
    collection: Collection[Document], pipeline: list[Document], session: ClientSession | None = None
) -> Iterator[Document]:
    """What a pipeline makes of a collection, texts compared exactly."""
    yield from collection.aggregate(
        pipeline, collation=schema.EXACT, session=session, allowDiskUse=True, batchSize=CURSOR_BATCH
    )


def is_guarded(collection: Collection[Document], guard: schema.Index) -> bool:
    """Whether an index, by whatever name, does what this guard is for; not one that is being built."""
    for name, index in collection.index_information().items():
        if guard.is_met_by(index):
            try:
                collection.find_one({}, {"_id": 1}, hint=name)
            except OperationFailure as error:
                if error.code != BAD_VALUE:
                    raise
            else:
                return True
    return False


def none_of(collection: Collection[Document], index: schema.Index, values: Iterable[str]) -> Document:
    """A condition: the status is none of these values.

    `$nin` passes over a list that holds one of them, and what has a list for a state cannot be read. To find
    lists all documents must be read, so it is asked first whether the index ever saw one (0.5 ms).
    """
    plain = {"status": {"$nin": sorted(values)}}
    try:
        # Explaining reads, too: at the end of the index, which is not behind what a sweep has just removed.
        plan = collection.find({"status": MaxKey()}).hint(index.name).limit(1).explain()
    except OperationFailure as error:
        if error.code != BAD_VALUE:
            raise
        paths = None  # there is no such index to tell
    else:
        paths = next(_multikey_paths(plan["queryPlanner"]["winningPlan"]), {}).get("status")
    return plain if paths == [] else {"$or": [plain, {"status": {"$type": "array"}}]}


def _multikey_paths(plan: object) -> Iterator[Document]:
    """Of each index in a plan: by field, the parts of its path that are lists."""
    if isinstance(plan, dict):
        if "indexName" in plan:
            yield plan.get("multiKeyPaths", {})
        for part in plan.values():
            yield from _multikey_paths(part)


@contextmanager
def refusals() -> Iterator[None]:
    """A validator's refusal as WriteRefused; everything else passes."""
    try:
        yield
    except OperationFailure as error:
        if error.code == DOCUMENT_VALIDATION_FAILED:
            raise translate(error) from error
        raise


def id_is(wanted: object) -> Document:
    """A condition: the document with this id. An id may come out of another document, where it may be
    anything: `{"$ne": 1}` is nobody's id and must not match everybody's."""
    return {"_id": {"$eq": wanted}}


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def status_change(
    status: str, now: datetime, *, old: str | None = None, ended_by: RunId | None = None
) -> Document:
    """The update that moves a document to a state; `old` is kept where a job changed it, and `ended_by` names
    the run or the operation that ended it."""
    optional = {"oldStatus": old, "endedBy": ended_by}
    given = {field: value for field, value in optional.items() if value is not None}
    return {"$set": {"status": status, "updatedAt": now, **given}}
