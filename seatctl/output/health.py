"""What `health` found, for people: the verdict, what is wrong, then the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from seatctl.domain.states import JobType
from seatctl.domain.timespec import format_duration
from seatctl.domain.words import count, format_number, printable
from seatctl.output.formats import text
from seatctl.output.tables import STYLES, Field, list_table, table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from seatctl.output.console import Part


def health_parts(state: Mapping[str, Any]) -> list[Part]:
    """`Health.as_document()` for people: the verdict, what is wrong, then jobs, backlog and inventory."""
    from rich.text import Text

    verdict = Text("healthy", "bold green") if state["healthy"] else Text("NOT healthy", "bold red")
    return [
        verdict,
        *(Text(printable(f"problem: {problem}"), "red") for problem in state["problems"]),
        *(Text(printable(f"warning: {warning}"), "yellow") for warning in state["warnings"]),
        _job_health_table(state["jobs"], state["maxAgeSeconds"]),
        _inventory_table(state["backlog"], state["refunds"], state["inventory"]),
    ]


def _job_health_table(jobs: Mapping[str, Mapping[str, Any]], max_age: float) -> Table:
    columns: dict[str, Field] = {
        "job": "job",
        "runs #": "runs",
        "outcomes": lambda facts: ", ".join(
            f"{status} {format_number(runs)}" for status, runs in facts["statuses"].items()
        ),
        "last run": "lastRun",
        "last outcome": lambda facts: _last_outcome(facts, max_age),
    }
    # Where every last run succeeded this column would say nothing, and the table fits 80 columns.
    if any(facts["lastSuccess"] != facts["lastRun"] for facts in jobs.values()):
        columns["last success"] = "lastSuccess"
    return list_table(({"job": job, **facts} for job, facts in jobs.items()), columns)


def _last_outcome(facts: Mapping[str, Any], max_age: float) -> Text:
    """Green only for a run that is not too long ago. Recovery runs at boot, and need not have."""
    from rich.text import Text

    may_be_old = facts["job"] == JobType.RECOVERY
    if facts["lastStatus"] is None:
        return Text("never ran", "dim" if may_be_old else "bold red")
    outcome = text(facts["lastStatus"])
    if facts["ageSeconds"] > max_age and not may_be_old:
        return Text(f"{outcome}, too old", "bold red")
    return Text(outcome, STYLES.get(outcome, ""))


def _inventory_table(
    backlog: Mapping[str, Any], refunds: Mapping[str, Any], inventory: Mapping[str, Any]
) -> Table:
    facts = [
        ("overdue locks", _overdue(backlog["overdueLocks"], backlog["oldestLockSeconds"])),
        ("overdue bookings", _overdue(backlog["overdueBookings"], backlog["oldestBookingSeconds"])),
        ("refunds due", _overdue(refunds["due"], refunds["oldestSeconds"])),
        ("events", inventory["events"]),
        ("total seats", inventory["totalSeats"]),
        ("available", inventory["availableSeats"]),
        ("locked", inventory["lockedSeats"]),
        ("sold", inventory["soldSeats"]),
        ("inconsistent events", _ids(inventory["inconsistentEvents"], inventory["inconsistentEventsCount"])),
    ]
    return table(("what", "now #"), facts)


def _overdue(number: int, oldest: int) -> str | Text:
    from rich.text import Text

    if not number:
        return "none"
    since = format_duration(timedelta(seconds=oldest))
    return Text(f"{format_number(number)}, the oldest for {since}", "yellow")


def _ids(ids: Sequence[object], total: int) -> object:
    """One id a line: side by side a narrow window would cut them."""
    from rich.text import Text

    if not ids:
        return "none"
    lines = [text(item) for item in ids]
    if total > len(ids):
        lines.append(f"and {count(total - len(ids), 'other')}")
    return Text("\n".join(lines), "red")
