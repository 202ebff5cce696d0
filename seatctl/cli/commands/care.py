"""Commands that check a database and prepare it: verify, health, explain, init."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.listing import ListCall, list_command
from seatctl.cli.options import CHECK, SET_UP, WINDOW, duration, flag, option
from seatctl.domain.states import Fault
from seatctl.domain.timespec import format_duration
from seatctl.domain.words import count
from seatctl.errors import Misconfigured, Unhealthy, Unreachable, Usage
from seatctl.output import console, formats
from seatctl.output.formats import Format
from seatctl.output.health import health_parts

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

MAX_AGE = timedelta(minutes=3)
RECOVER_AS = (
    "This database user may not run `seatctl recover`: use the URI of the jobs' user (role seatctlJobs)"
)

checks, setup = typer.Typer(), typer.Typer()


@list_command(checks, "verify", "violations", panel=CHECK, example="seatctl verify --json", page=False)
def verify(call: ListCall) -> None:
    """Check all invariants; change nothing.

    NDJSON and CSV have a line for each violation, and `--format ids` the document that it is about."""
    from seatctl.output import lists
    from seatctl.services import verify as verification
    from seatctl.services.explanations import with_records

    form, columns, store = call.form, call.columns, call.store(writes=False)
    found = list(with_records(store, verification.verify(store)))
    violations = [violation.as_document() for violation in found]
    wrong = sum(not violation.accepted for violation in found)
    sizes = store.sizes()
    where = "`seatctl verify`"
    if form is Format.JSON:
        shown = list(formats.only(violations, columns)) if columns else violations
        formats.print_json({"consistent": not wrong, "checked": sizes, "findings": shown})
    elif form is Format.IDS and not call.quiet:
        formats.print_ids({"_id": violation.subject} for violation in found)
    elif not call.quiet and (violations or form is not Format.TABLE):
        where = "the table" if form is Format.TABLE else where
        lists.print_list("violations", violations, form, columns)
    if not wrong and form is Format.TABLE:
        names = {"events": "event", "seatLocks": "lock", "bookings": "booking"}
        checked = ", ".join(count(sizes[collection], name) for collection, name in names.items())
        print(f"All invariants hold ({checked}).")
        if not any(sizes.values()):
            call.note(f"database {store.name} is empty; check its name if it should not be")
    if wrong:
        problem = f"{count(wrong, 'violation')} found; {where} says what to do about each"
        if any(violation.is_for_recovery for violation in found) and not store.job_logs.may_insert():
            problem += f". {RECOVER_AS}"
        raise Unhealthy(problem)


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
    """Check jobs, backlog, consistency and refunds."""
    from seatctl.services.health import check

    if per_event and prometheus is None:
        raise Usage("--per-event goes with --prometheus only; `seatctl events` lists the seats of each event")
    if prometheus is not None and call.json:
        raise Usage("--prometheus and --json are two output formats; use one of them")
    state = check(call.store(writes=False), max_age=max_age, window=window, per_event=per_event)
    if prometheus is not None:
        from seatctl.ops import prometheus as metrics

        # A scraper reads the metrics. They say what is wrong; the exit code need not.
        metrics.write(state, prometheus)
        return
    document = state.as_document()
    if call.json:
        formats.print_json(document)
    elif not call.quiet:
        console.show(*health_parts(document))
    if not state.healthy:
        listed = "; ".join(state.problems) if call.quiet or call.json else "the problems are listed above"
        raise Unhealthy(f"unhealthy: {listed}")


@command(checks, "explain", panel=CHECK, example="seatctl explain consumed_without_booking")
def explain(
    call: Invocation,
    fault: Annotated[
        Fault, typer.Argument(metavar="FAULT", help="As `verify` names it.", case_sensitive=False)
    ],
) -> None:
    """Explain a fault: its meaning, its cause, and the way out.

    With the ids of what `verify` finds now, if the database can be reached; -q prints those alone."""
    from seatctl.services.explanations import explain as explained

    try:
        explanation = explained(call.store(writes=False), fault)
    except (Misconfigured, Unreachable) as error:
        call.note(f"without the ids of a database: {error}")
        explanation = explained(None, fault)
    if call.json:
        formats.print_json(explanation.as_document())
    elif call.quiet:
        formats.print_ids({"_id": each} for each in explanation.ids)
    else:
        console.show(*explanation.lines)


@command(setup, "init", panel=SET_UP, example="seatctl init --retention 30d")
def init(
    call: Invocation,
    retention: Annotated[
        timedelta | None, duration("How long to keep job log entries.", "unchanged; 30d in a new database")
    ] = None,
    check: Annotated[
        bool, flag("--check", "Only report what is missing or wrong; exit 5 if anything is.")
    ] = False,
    validators: Annotated[
        bool | None,
        typer.Option(
            "--validators/--no-validators",
            help="Install validators.  [default: yes, but not on an adopted database]",
        ),
    ] = None,
    remove: Annotated[bool, flag("--remove", "Remove its indexes and validators.")] = False,
) -> None:
    """Create missing collections, indexes and validators.

    Anything that cannot be created is reported and skipped."""
    if remove and (check or retention or validators is not None):
        raise Usage("--remove goes with no other option of init")
    if remove:
        _remove_setup(call)
    elif check:
        _check_setup(call, retention, validators)
    else:
        _create_setup(call, retention, validators)


def _remove_setup(call: Invocation) -> None:
    store = call.store()
    removed = store.remove_setup()
    lines = [f"removed {name}" for name in removed]
    lines.append(f"Database {store.name} has no index and no validator of `init` any more; its data stays.")
    call.tell({"removed": removed}, "\n".join(lines))


def _create_setup(call: Invocation, retention: timedelta | None, validators: bool | None) -> None:
    from seatctl.mongo.schema import JOB_LOGS, RETENTION_INDEX

    store = call.store(create=True)
    changed = f"{JOB_LOGS}.{RETENTION_INDEX}" if store.retention() else None
    created, left_out = store.init(retention, validators=validators)
    wrong = _wrong(store)
    lines = [f"{'changed' if name == changed else 'created'} {name}" for name in created]
    lines += [f"left out: {reason}" for reason in left_out] + [f"wrong: {message}" for message in wrong]
    if store.settings.adopted and validators is None:
        lines.append("no validators and no unique indexes: another program uses this database")
    kept = _retention(store)
    state = "is ready" if created else "is checked" if wrong or left_out else "has all it needs"
    lines.append(f"Database {store.name} {state}; {_kept(kept)}.")
    document = {"created": created, "leftOut": left_out, "missing": [], "wrong": wrong, "retention": kept}
    call.tell(document, "\n".join(lines))


def _check_setup(call: Invocation, retention: timedelta | None, validators: bool | None) -> None:
    from seatctl.services import verify as verification

    store = call.store(writes=False)
    missing, wrong = store.missing(validators=validators), _wrong(store)
    current, kept = store.retention(), _retention(store)
    state = "is checked" if missing or wrong else "has all it needs"
    notes = [violation.message for violation in verification.collations(store)]
    lines = [f"missing {name}" for name in missing] + [f"wrong: {message}" for message in wrong]
    lines += [f"note: {message}" for message in notes]
    lines.append(f"Database {store.name} {state}; {_kept(kept)}.")
    document = {"created": [], "leftOut": [], "missing": missing, "wrong": wrong, "retention": kept}
    if notes:
        document["notes"] = notes
    call.tell(document, "\n".join(lines))
    changes = [f"{count(len(missing), 'object')} missing"] if missing else []
    if current and retention and current != retention:
        changes.append(f"the job log is kept for {kept}, not for {format_duration(retention)}")
    complaints = []
    if changes:
        done = "create them" if len(missing) > 1 else "create it" if missing else "change that"
        complaints.append(f"{' and '.join(changes)}; run it without --check to {done}")
    if wrong:
        where = "`seatctl verify` says" if call.quiet or call.json else "the lines above say"
        complaints.append(f"{count(len(wrong), 'index', 'indexes')} wrong; {where} what to do")
    if complaints:
        raise Unhealthy("; ".join(complaints))


def _wrong(store: Store) -> list[str]:
    from seatctl.services import verify as verification

    return [f"{violation.message}; {violation.remedy}" for violation in verification.indexes(store)]


def _kept(retention: str) -> str:
    return (
        "job log entries are never deleted" if retention == "ever" else f"its job log is kept for {retention}"
    )


def _retention(store: Store) -> str:
    """For how long the job log is kept, as a person reads it."""
    current = store.retention()
    return format_duration(current) if current else "ever"
