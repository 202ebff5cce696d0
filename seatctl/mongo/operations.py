"""The collection `operations`: what an operator's command changed, who ran it, and why (invariant 13)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from seatctl.domain.documents import Operation, Operator, RunId, StoredDocument
from seatctl.domain.settings import NOT_ADOPTED, Settings
from seatctl.mongo import schema
from seatctl.mongo.collection import Documents
from seatctl.mongo.document import Document

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from seatctl.mongo.client import Deployment


class Operations(Documents):
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

    def record(self, operation_id: RunId, operation: Operation) -> None:
        """Insert the entry, within the transaction that makes the change."""
        involved = {
            "eventId": operation.event,
            "lockId": operation.lock,
            "bookingId": operation.booking,
            "refundId": operation.refund,
        }
        named = {field: value for field, value in involved.items() if value is not None}
        reason = {} if self._operator.reason is None else {"reason": self._operator.reason}
        entry: Document = {
            "_id": operation_id,
            "at": operation.at,
            "command": operation.command,
            "actor": self._actor(),
            "host": self._operator.host,
            **reason,
            **named,
            "ids": [*named.values(), *operation.others],
            "before": dict(operation.before),
            "after": dict(operation.after),
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
