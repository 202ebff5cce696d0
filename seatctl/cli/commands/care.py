"""Commands that check a database and prepare it: verify, health, init."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import (
    CHECK,
    MAX_AGE,
    SET_UP,
    WINDOW,
    Check,
    MaxAge,
    PerEvent,
    Prometheus,
    Retention,
    Window,
)
from seatctl.domain.timespec import format_duration
from seatctl.domain.words import count
from seatctl.errors import Unhealthy, Usage

if TYPE_CHECKING:
    from seatctl.mongo.store import Store
    from seatctl.services.health import Health

checks, setup = typer.Typer(), typer.Typer()


@command(checks, "verify", panel=CHECK, example="seatctl verify --json")
def verify(call: Invocation) -> None:
    """Check all invariants; change nothing."""
    from seatctl.output import console, formats, tables
    from seatctl.services import audit

    store = call.store()
    violations = [violation.as_document() for violation in audit.verify(store)]
    sizes = store.sizes()
    where = "`seatctl verify`"
    if call.json:
        formats.print_json({"consistent": not violations, "checked": sizes, "findings": violations})
    elif violations and not call.quiet:
        where = "the table"
        console.show(tables.violations_table(violations))
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
    max_age: MaxAge = MAX_AGE,
    window: Window = WINDOW,
    prometheus: Prometheus = None,
    per_event: PerEvent = False,
) -> None:
    """Check job freshness, backlog and consistency."""
    from seatctl.services.health import check

    if per_event and prometheus is None:
        raise Usage("--per-event goes with --prometheus only; `seatctl events` lists the seats of each event")
    if prometheus is not None and call.json:
        raise Usage("--prometheus and --json are two output formats; use one of them")
    state = check(call.store(), max_age=max_age, window=window, per_event=per_event)
    if prometheus is None:
        _print_health(call, state)
        return
    from seatctl.ops import prometheus as metrics

    # A scraper reads the metrics. They say what is wrong; the exit code need not.
    if prometheus == metrics.STDOUT:
        print(metrics.text(state), end="")
    else:
        metrics.write(state, prometheus)


def _print_health(call: Invocation, state: Health) -> None:
    from seatctl.output import console, formats, tables

    document = state.as_document()
    if call.json:
        formats.print_json(document)
    elif not call.quiet:
        console.show(*tables.health_parts(document))
    if not state.healthy:
        listed = "; ".join(state.problems) if call.quiet or call.json else "the problems are listed above"
        raise Unhealthy(f"unhealthy: {listed}")


@command(setup, "init", panel=SET_UP, example="seatctl init --retention 30d")
def init(call: Invocation, retention: Retention = None, check: Check = False) -> None:
    """Create missing collections, indexes and validators."""
    from seatctl.output import formats

    store = call.store(create=not check)
    if check:
        _check_init(call, store, retention)
        return
    created = store.init(retention)
    kept = format_duration(store.retention() or timedelta())
    if call.json:
        formats.print_json({"created": created, "missing": [], "wrong": [], "retention": kept})
    elif not call.quiet:
        for name in created:
            print(f"created {name}")
        state = "is ready" if created else "has all it needs"
        print(f"Database {store.name} {state}; its job log is kept for {kept}.")


def _check_init(call: Invocation, store: Store, retention: timedelta | None) -> None:
    """Report what `init` with that retention would do. Raises Unhealthy if that is anything."""
    from seatctl.output import formats
    from seatctl.services import audit

    missing, current = store.missing(), store.retention()
    wrong = [violation.message for violation in audit.indexes(store)]
    kept = format_duration(current) if current else "ever"
    if call.json:
        formats.print_json({"created": [], "missing": missing, "wrong": wrong, "retention": kept})
    elif not call.quiet:
        for line in [f"missing {name}" for name in missing] + [f"wrong: {message}" for message in wrong]:
            print(line)
        state = "is checked" if missing or wrong else "has all it needs"
        print(f"Database {store.name} {state}; its job log is kept for {kept}.")
    changes = [f"{count(len(missing), 'object')} missing"] if missing else []
    if current and retention and current != retention:
        changes.append(f"the job log is kept for {kept}, not for {format_duration(retention)}")
    complaints = (
        [f"{' and '.join(changes)}; the same command without --check changes that"] if changes else []
    )
    if wrong:
        complaints.append(f"{count(len(wrong), 'index', 'indexes')} wrong; `seatctl verify` says what to do")
    if complaints:
        raise Unhealthy("; ".join(complaints))
