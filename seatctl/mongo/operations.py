"""The collection `operations`: what an operator's command changed, who ran it, and why (invariant 13)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from seatctl.domain.documents import BookingId, EventId, LockId, Operator, Refund, RunId, StoredDocument
from seatctl.domain.settings import NOT_ADOPTED, Settings
from seatctl.mongo import schema
from seatctl.mongo.collection import Documents
from seatctl.mongo.document import Document
from seatctl.mongo.ids import new_run_id

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from seatctl.mongo.client import Deployment


NOTHING: StoredDocument = MappingProxyType({})


class Operations(Documents):
    """Within a transaction, `id` is that of the entry which its command records: what it ends names it."""

    name = schema.OPERATIONS

    def __init__(
        self,
        deployment: Deployment,
        session: ClientSession | None,
        operator: Operator,
        settings: Settings = NOT_ADOPTED,
    ) -> None:
        super().__init__(deployment, session, settings)
        self._operator = operator
        self.id = new_run_id()

    def record(
        self,
        command: str,
        now: datetime,
        event: EventId | None = None,
        lock: LockId | None = None,
        booking: BookingId | None = None,
        *,
        refund: Refund | None = None,
        others: Iterable[object] = (),
        before: StoredDocument = NOTHING,
        after: StoredDocument = NOTHING,
        operation_id: RunId | None = None,
    ) -> None:
        """Insert the entry of a command, within the transaction that makes the change: which documents it
        changed, with the ids of `others`, and how they were before and after."""
        refund_id = None if refund is None else refund.id
        ids = {"eventId": event, "lockId": lock, "bookingId": booking, "refundId": refund_id}
        named = {field: value for field, value in ids.items() if value is not None}
        reason = {} if self._operator.reason is None else {"reason": self._operator.reason}
        entry: Document = {
            "_id": operation_id or self.id,
            "at": now,
            "command": command,
            "actor": self._actor(),
            "host": self._operator.host,
            **reason,
            **named,
            "ids": [*named.values(), *others],
            "before": dict(before),
            "after": dict(after),
        }
        self._insert(entry)

    def _actor(self) -> Document:
        actor: Document = {"systemUser": self._operator.system_user}
        if self._operator.sudo_user is not None:
            actor["sudoUser"] = self._operator.sudo_user
        if (user := self._deployment.user) is not None:
            actor["databaseUser"] = user
        return actor

    def concerning(
        self, document_ids: Iterable[object], *, newest_first: bool = False
    ) -> Iterator[StoredDocument]:
        """The operations that changed any of these documents, each once, the earliest first."""
        order = -1 if newest_first else 1
        yield from self._find({"ids": {"$in": list(document_ids)}}, sort=[("at", order), ("_id", order)])
