"""The collection `jobLogs`: an entry for each run of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from pymongo.errors import OperationFailure

from seatctl.domain.documents import JobRun, PastRun, StoredDocument
from seatctl.domain.states import JobStatus, JobType
from seatctl.mongo import schema
from seatctl.mongo.collection import Documents
from seatctl.mongo.document import Document
from seatctl.mongo.failures import UNAUTHORIZED


class JobLogs(Documents):
    name = schema.JOB_LOGS

    def may_insert(self) -> bool:
        """Whether the database user may log a run. Its privileges say so in less than a millisecond. A server
        that does not enforce them inserts all the same, so where one is missing an insert is tried, and
        rolled back."""
        if self._deployment.may("insert", self.name):
            return True
        with self._deployment.client.start_session() as session, session.start_transaction():
            try:
                self._documents.insert_one({}, session=session)
            except OperationFailure as error:
                return error.code != UNAUTHORIZED
            finally:
                session.abort_transaction()
        return True

    def insert(self, run: JobRun) -> None:
        self._insert(dict(as_stored(run)))

    def last(self, job: JobType, until: datetime, status: JobStatus | None = None) -> PastRun | None:
        """The last run of a job. Never one after `until`: an entry from a clock that was wrong must not
        hide that the job stopped."""
        where: Document = {"jobType": job, "executedAt": {"$lte": until, "$not": {"$type": "array"}}}
        if status is not None:
            where["status"] = status
        found = next(self.newest(where, 1, by="executedAt"), None)
        return None if found is None else _past(found)

    def newest_with_work(self, limit: int) -> Iterator[StoredDocument]:
        """The newest runs that changed something, or failed; 0 for all."""
        worked = {"$or": [{"details.recordsProcessed": {"$gt": 0}}, {"status": JobStatus.FAILED.value}]}
        yield from self.newest(worked, limit, by="executedAt")

    def concerning(self, document_id: object) -> Iterator[StoredDocument]:
        """The runs that returned seats to this event, or found a violation that this document is part of,
        the newest first."""
        fields = ("seatsByEvent.event", "findings.event", "findings.lock", "findings.booking")
        named: Document = {"$or": [{f"details.{field}": document_id} for field in fields]}
        yield from self.newest(named, 0, by="executedAt")

    def count_by_status(self, job: JobType, since: datetime) -> dict[str, int]:
        pipeline: list[Document] = [
            {"$match": {"jobType": job, "executedAt": {"$gte": since}}},
            {"$group": {"_id": "$status", "runs": {"$sum": 1}}},
        ]
        return {str(group["_id"]): group["runs"] for group in self._aggregate(pipeline)}

    def durations(self, job: JobType, since: datetime) -> Iterator[Mapping[str, object]]:
        """The runs of a job since then, those of one `status` and `duration` (ms) together: how many
        `runs`, and the `recordsProcessed` and `seatsRestored` of all of them."""
        key = {"status": "$status", "duration": "$details.duration"}
        sums = {name: {"$sum": f"$details.{name}"} for name in ("recordsProcessed", "seatsRestored")}
        pipeline: list[Document] = [
            {"$match": {"jobType": job, "executedAt": {"$gte": since}}},
            {"$group": {"_id": key, "runs": {"$sum": 1}, **sums}},
        ]
        for group in self._aggregate(pipeline):
            yield {**group.pop("_id"), **group}


def _past(entry: StoredDocument) -> PastRun | None:
    executed_at, details, error = entry["executedAt"], entry.get("details"), entry.get("error")
    if not isinstance(executed_at, datetime):  # before the year 1, or a list
        return None
    return PastRun(
        executed_at=executed_at,
        status=str(entry.get("status")),
        host=str(entry.get("host", "unknown host")),
        error=None if error is None else str(error),
        details=details if isinstance(details, dict) else {},
    )


def as_stored(run: JobRun) -> StoredDocument:
    """A run as its entry stands in the database."""
    entry: Document = {
        "jobType": run.job.value,
        "executedAt": run.executed_at,
        "status": run.status.value,
        "details": dict(run.details),
        "host": run.host,
    }
    own_id = {} if run.id is None else {"_id": run.id}
    return {**own_id, **entry, **({} if run.error is None else {"error": run.error})}
