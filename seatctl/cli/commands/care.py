"""Commands that check a database and prepare it: verify, health, init."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import CHECK, SET_UP, WINDOW, duration, flag, option
from seatctl.domain.timespec import format_duration
from seatctl.domain.words import count
from seatctl.errors import Unhealthy, Usage
from seatctl.output import console, formats, tables

MAX_AGE = timedelta(minutes=3)

checks, setup = typer.Typer(), typer.Typer()


@command(checks, "verify", panel=CHECK, example="seatctl verify --json")
def verify(call: Invocation) -> None:
    """Check all invariants; change nothing."""
    from seatctl.services import audit

    store = call.store()
    violations = [violation.as_document() for violation in audit.verify(store)]
    sizes = store.sizes()
    where = "`seatctl verify`"
    if call.json:
        formats.print_json({"consistent": not violations, "checked": sizes, "findings": violations})
    elif violations and not call.quiet:
        where = "the table"
        console.show(tables.list_table(violations, tables.VIOLATIONS))
    elif not call.quiet:
        names = {"events": "event", "seatLocks": "lock", "bookings": "booking"}
        checked = ", ".join(count(sizes[collection], name) for collection, name in names.items())
        print(f"All invariants hold ({checked}).")
        if not any(sizes.values()):
            call.note(f"database {store.name} is empty; check its name if it should not be")
    if violations:
        raise Unhealthy(f"{count(len(violations), 'violation')} found; {where} says what to do about each")


@command(checks, "health", panel=CHECK, example="seatctl health --max-age 3m")
def health(
    call: Invocation,
    max_age: Annotated[timedelta, duration("Maximum age of an expiry job's last run.", MAX_AGE)] = MAX_AGE,
    window: Annotated[timedelta, duration("How far back to count runs.", WINDOW)] = WINDOW,
    prometheus: Annotated[
        str | None,
        option(
            "--prometheus FILE", str, "Write metrics for node_exporter's textfile collector (- = stdout)."
        ),
    ] = None,
    per_event: Annotated[
        bool, flag("--per-event", "With --prometheus: also the seats of each event.")
    ] = False,
) -> None:
    """Check job freshness, backlog and consistency."""
    from seatctl.services.health import check

    if per_event and prometheus is None:
        raise Usage("--per-event goes with --prometheus only; `seatctl events` lists the seats of each event")
    if prometheus is not None and call.json:
        raise Usage("--prometheus and --json are two output formats; use one of them")
    state = check(call.store(), max_age=max_age, window=window, per_event=per_event)
    if prometheus is not None:
        from seatctl.ops import prometheus as metrics

        # A scraper reads the metrics. They say what is wrong; the exit code need not.
        metrics.write(state, prometheus)
        return
    document = state.as_document()
    if call.json:
        formats.print_json(document)
    elif not call.quiet:
        console.show(*tables.health_parts(document))
    if not state.healthy:
        listed = "; ".join(state.problems) if call.quiet or call.json else "the problems are listed above"
        raise Unhealthy(f"unhealthy: {listed}")


@command(setup, "init", panel=SET_UP, example="seatctl init --retention 30d")
def init(
    call: Invocation,
    retention: Annotated[
        timedelta | None, duration("How long to keep job log entries.", "unchanged; 30d in a new database")
    ] = None,
    check: Annotated[
        bool, flag("--check", "Only report what is missing or wrong; exit 5 if anything is.")
    ] = False,
) -> None:
    """Create missing collections, indexes and validators."""
    from seatctl.mongo.schema import JOB_LOGS, RETENTION_INDEX
    from seatctl.services import audit

    store = call.store(create=not check)
    before = store.retention()
    created = [] if check else store.init(retention)
    missing = store.missing() if check else []
    wrong = [f"{each.message}; {each.remedy}" for each in audit.indexes(store)] if check else []
    current = store.retention()
    kept = format_duration(current) if current else "ever"
    state = "is ready" if created else "is checked" if missing or wrong else "has all it needs"
    changed = f"{JOB_LOGS}.{RETENTION_INDEX}" if before else None
    lines = [f"{'changed' if name == changed else 'created'} {name}" for name in created]
    lines += [f"missing {name}" for name in missing] + [f"wrong: {message}" for message in wrong]
    lines.append(f"Database {store.name} {state}; its job log is kept for {kept}.")
    document = {"created": created, "missing": missing, "wrong": wrong, "retention": kept}
    call.tell(document, "\n".join(lines))
    changes = [f"{count(len(missing), 'object')} missing"] if missing else []
    if current and retention and current != retention:
        changes.append(f"the job log is kept for {kept}, not for {format_duration(retention)}")
    complaints = []
    if changes:
        complaints.append(f"{' and '.join(changes)}; the same command without --check changes that")
    if wrong:
        where = "`seatctl verify` says" if call.quiet or call.json else "the lines above say"
        complaints.append(f"{count(len(wrong), 'index', 'indexes')} wrong; {where} what to do")
    if complaints:
        raise Unhealthy("; ".join(complaints))
