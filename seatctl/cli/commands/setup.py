"""Commands that set up and try: init, adopt, roles, demo."""

from __future__ import annotations

import secrets
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import duration, flag, option
from seatctl.domain.timespec import format_duration
from seatctl.domain.words import count
from seatctl.errors import Refused, SeatctlError, Unhealthy, Usage
from seatctl.help import role_script
from seatctl.mongo.target import DEFAULT_DATABASE, find_target
from seatctl.output import adoption as report
from seatctl.output import console, formats, tables

if TYPE_CHECKING:
    from seatctl.mongo.store import Store
    from seatctl.services.adoption_findings import Findings


@command("init", example="seatctl init --retention 30d")
def init(
    call: Invocation,
    retention: Annotated[
        timedelta | None, duration("How long to keep job log entries.", "unchanged; 30d in a new database")
    ] = None,
    check: Annotated[
        bool, flag("--check", "Only report what is missing or wrong; exit with 5 if anything is.")
    ] = False,
    validators: Annotated[
        bool | None,
        typer.Option(
            "--validators/--no-validators",
            help="Install validators.  [default: yes, but not on an adopted database]",
        ),
    ] = None,
    remove: Annotated[bool, flag("--remove", "Remove the indexes and validators that init created.")] = False,
) -> None:
    """Create missing collections, indexes and validators.

    Anything that cannot be created is reported and skipped."""
    if remove and (check or retention or validators is not None):
        raise Usage("--remove cannot be combined with other options of init")
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
    lines.append(f"Removed indexes and validators of `init` from database {store.name}; its data is kept.")
    call.tell({"removed": removed}, "\n".join(lines))


def _create_setup(call: Invocation, retention: timedelta | None, validators: bool | None) -> None:
    from seatctl.mongo.schema import JOB_LOGS, RETENTION_INDEX

    store = call.store(create=True)
    changed = f"{JOB_LOGS}.{RETENTION_INDEX}" if store.retention() else None
    created, left_out = store.init(retention, validators=validators)
    wrong = _wrong(store)
    lines = [f"{'changed' if name == changed else 'created'} {name}" for name in created]
    lines += [f"skipped: {reason}" for reason in left_out] + [f"wrong: {message}" for message in wrong]
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


CONSENT, DELETE = "yes", "delete"
"""What a person types to agree; the second where locks are deleted then, so that nobody agrees unread."""


@command("adopt", example="seatctl adopt --dry-run")
def adopt(
    call: Invocation,
    dry_run: Annotated[
        bool, flag("--dry-run", "Only report; exit with 5 if anything is already wrong.")
    ] = False,
    locks_collection: Annotated[
        str | None, option("--locks-collection NAME", str, "The collection with the other program's locks.")
    ] = None,
    yes: Annotated[bool, flag("--yes", "Do not ask for confirmation.")] = False,
    undo: Annotated[bool, flag("--undo", "Undo an adoption.")] = False,
) -> None:
    """Share another program's database.

    Reports what it finds, and, once you agree, stores how seatctl is to work alongside that program. Changes
    no event, lock or booking. `seatctl help adopt` has all steps."""
    if undo and locks_collection:
        raise Usage("--undo and --locks-collection cannot be combined")
    store = call.store(guard=False)
    if undo:
        _undo(call, store, dry_run=dry_run, yes=yes)
    else:
        _adopt(call, store, locks_collection, dry_run=dry_run, yes=yes)


def _adopt(call: Invocation, store: Store, locks: str | None, *, dry_run: bool, yes: bool) -> None:
    from seatctl.services import adoption

    found = adoption.inspect(store, locks)
    document = found.as_document()
    if not (call.json or call.quiet):
        console.show(*report.parts(document))
    if not dry_run:
        _ask(call, "Adopt this database?", yes=yes)
        adoption.adopt(store, found)
    call.tell({**document, "adopted": not dry_run}, _verdict(found, dry_run=dry_run))
    if dry_run and found.inconsistent:
        raise Unhealthy(f"{_what_is_wrong(found)}; `seatctl help adopt` says what to do first")


def _verdict(found: Findings, *, dry_run: bool) -> str:
    if dry_run:
        return f"Nothing was changed in database {found.database}."
    restore = "restore the locks (`seatctl help adopt`), then " if found.missing_locks else ""
    return (
        f"Database {found.database} is adopted, its locks are in {found.settings.locks}. "
        f"Next: {restore}seatctl recover --dry-run"
    )


def _what_is_wrong(found: Findings) -> str:
    parts = [f"{count(len(found.violations), 'violation')} found"]
    if found.sold_twice:
        parts.insert(0, f"{count(len(found.sold_twice), 'event')} with seats sold twice or on sale again")
    if found.unknown_states:
        parts.append(f"{count(len(found.unknown_states), 'unknown status', 'unknown statuses')}")
    return ", ".join(parts)


def _undo(call: Invocation, store: Store, *, dry_run: bool, yes: bool) -> None:
    from seatctl.services import adoption

    plan = adoption.plan_undo(store)
    if plan is None:
        call.tell({"undone": []}, f"Database {store.name} is not adopted; there is nothing to undo.")
        return
    warning = plan.warning
    if warning:
        call.warn(warning)
    if not dry_run:
        _ask(call, "Undo the adoption of this database?", DELETE if warning else CONSENT, yes=yes)
        adoption.undo(store, plan)
    sentences = plan.sentences(done=not dry_run)
    document: dict[str, object] = {"wouldUndo" if dry_run else "undone": sentences}
    if warning:
        document["warning"] = warning
        sentences = [*sentences, f"Warning: {warning}."]
    call.tell(document, "\n".join(sentences))


def _ask(call: Invocation, question: str, consent: str = CONSENT, *, yes: bool) -> None:
    """Raises Usage where nobody can be asked, Refused where the answer is another one."""
    if yes:
        return
    if call.json or call.quiet or not sys.stdin.isatty():
        raise Usage("nothing was changed; preview it with --dry-run, then repeat the command with --yes")
    print(f"{question} Type {consent}: ", end="", flush=True)
    if sys.stdin.readline().strip().lower() != consent:
        raise Refused("nothing was changed")


@command(
    "roles",
    ignores=("--uri", "--uri-file", "--verbose"),
    example="seatctl roles --database shop",
)
def roles(call: Invocation) -> None:
    """Print the database roles for mongosh.

    A script that creates the roles and users of the guide `privileges`. Paste it as one block, or save it
    and run `mongosh --file`. It asks for the passwords."""
    database = find_target(None, None, call.database, {}).database or DEFAULT_DATABASE
    script = role_script(database, DEFAULT_DATABASE).rstrip()
    call.tell({"database": database, "script": script}, script, quiet=script)


@command("demo", ignores=("--database",), example="seatctl demo")
def demo(call: Invocation) -> None:
    """Play all scenarios in a throwaway database.

    Ignores the environment and uses the embedded MongoDB, unless --uri or --uri-file is given."""
    from seatctl.mongo import embedded
    from seatctl.mongo.client import connect
    from seatctl.mongo.store import Store
    from seatctl.ops.demo import play

    uri = find_target(call.uri, call.uri_file, None, environment={}).uri or embedded.ensure_running()
    store = Store(connect(uri, f"seatctl_demo_{secrets.token_hex(6)}", DEFAULT_DATABASE))
    scenarios = []
    try:
        for number, scenario in enumerate(play(store), 1):
            scenarios.append(scenario)
            if not (call.json or call.quiet):
                checks = tables.checks_table(scenario.checks)
                console.show(f"{number}. {scenario.title}", *scenario.parts, checks, "")
    finally:
        store.drop()
    ok = all(scenario.ok for scenario in scenarios)
    if call.json:
        formats.print_json({"ok": ok, "scenarios": [scenario.as_document() for scenario in scenarios]})
    elif ok and not call.quiet:
        hint = "" if call.uri or call.uri_file else " `seatctl db stop` stops the MongoDB that it ran on."
        print(f"All numbers are as expected, and the throwaway database is dropped.{hint}")
    if not ok:
        raise SeatctlError("a number is not as expected; please report this")
