"""A store in memory, on mongomock: for rules, fast. It proves nothing about races: it has no transactions and
no snapshots, so that a transaction is a plain block here, which a StaleRead begins again."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import wraps
from typing import Any

import mongomock
from bson import Decimal128
from mongomock.aggregate import _Parser

from seatctl.errors import StaleRead
from seatctl.mongo.client import Deployment
from seatctl.mongo.store import Store

TYPES = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "double",
    str: "string",
    datetime: "date",
    Decimal128: "decimal",
}


class MockStore(Store):
    def transaction_attempts(
        self,
        patience: float | None = None,  # noqa: ARG002
        *,
        dry_run: bool = False,
    ) -> Iterator[AbstractContextManager[Store]]:
        assert not dry_run
        for _ in range(100):
            attempt = MockAttempt(self)
            yield attempt
            if attempt.succeeded:
                return
        raise AssertionError("a transaction never ends")

    @contextmanager
    def snapshot(self) -> Iterator[Store]:
        yield self


class MockAttempt(AbstractContextManager[Store]):
    """A block that is begun again after a StaleRead; nothing is rolled back."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.succeeded = False

    def __enter__(self) -> Store:
        now = self.store  # with an operation of its own
        return MockStore(now.deployment, None, now.settings, now.operator)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.succeeded = kind is None
        return kind is StaleRead


def new_store(clock: Callable[[], datetime]) -> MockStore:
    """A fresh, empty database in memory."""
    client = mongomock.MongoClient(tz_aware=True)
    for name in ("seatLocks", "bookings"):
        client.mock.create_collection(name)
    deployment = Deployment(client, "mock", clock=clock)
    deployment.user = None  # it does not know who asks
    deployment.may = lambda *_: True
    return MockStore(deployment)


# --- what mongomock lacks ------------------------------------------------------------------------------


def parse(parser: Any, expression: Any) -> Any:
    match expression:
        case {"$type": field}:
            return _type_of(parser, field)
        case {"$toHashedIndexKey": field}:
            return zlib.crc32(str(parser.parse(field)).encode())
        case {"$literal": value}:
            return value
    return original_parse(parser, expression)


def _type_of(parser: Any, field: Any) -> str:
    try:
        return TYPES.get(type(parser.parse(field)), "object")
    except KeyError:
        return "missing"


def list_collection_names(database: Any, **_: Any) -> list[str]:
    return original_list(database)


def explain(_: Any) -> dict[str, Any]:
    """No index ever saw a list here."""
    plan = {"indexName": "any", "multiKeyPaths": {"status": []}}
    return {"queryPlanner": {"winningPlan": plan}}


def aggregate(collection: Any, pipeline: list[dict[str, Any]], *arguments: Any, **options: Any) -> Any:
    """It looks up whole documents."""
    for stage in pipeline:
        stage.get("$lookup", {}).pop("pipeline", None)
    return original_aggregate(collection, pipeline, *arguments, **options)


def without_hint(method: Callable[..., Any]) -> Callable[..., Any]:
    """It has no planner to mislead."""

    @wraps(method)
    def hintless(*arguments: Any, hint: Any = None, **options: Any) -> Any:  # noqa: ARG001
        return method(*arguments, **options)

    return hintless


for name in ("find", "find_one", "update_many", "find_one_and_update"):
    setattr(mongomock.Collection, name, without_hint(getattr(mongomock.Collection, name)))
mongomock.ignore_feature("collation")  # it knows none, and compares exactly
original_aggregate, mongomock.Collection.aggregate = mongomock.Collection.aggregate, aggregate
original_parse, _Parser.parse = _Parser.parse, parse
original_list = mongomock.Database.list_collection_names
mongomock.Database.list_collection_names = list_collection_names
mongomock.collection.Cursor.hint = lambda cursor, _: cursor
mongomock.collection.Cursor.explain = explain
