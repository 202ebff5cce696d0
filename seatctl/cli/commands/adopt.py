"""The command that makes seatctl at home in another program's database: adopt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import SET_UP, flag, option
from seatctl.domain.words import count
from seatctl.errors import Refused, Unhealthy, Usage
from seatctl.output import console

if TYPE_CHECKING:
    from seatctl.mongo.store import Store
    from seatctl.services.adoption_findings import Findings

commands = typer.Typer()

CONSENT, DELETE = "yes", "delete"
"""What a person types to agree; the second where locks are deleted then, so that nobody agrees unread."""


@command(commands, "adopt", panel=SET_UP, example="seatctl adopt --dry-run")
def adopt(
    call: Invocation,
    dry_run: Annotated[bool, flag("--dry-run", "Only report; exit 5 if anything is wrong already.")] = False,
    locks_collection: Annotated[
        str | None, option("--locks-collection NAME", str, "Where the other program keeps its locks.")
    ] = None,
    yes: Annotated[bool, flag("--yes", "Do it without asking.")] = False,
    undo: Annotated[bool, flag("--undo", "Take back what adopt made.")] = False,
) -> None:
    """Share another program's database.

    Reports what is there, and, once you agree, how seatctl works beside that program is stored in the
    database. Changes no event, no lock and no booking. `seatctl help adopt` has all steps."""
    if undo and locks_collection:
        raise Usage("--undo goes without --locks-collection")
    store = call.store(guard=False)
    if undo:
        _undo(call, store, dry_run=dry_run, yes=yes)
    else:
        _adopt(call, store, locks_collection, dry_run=dry_run, yes=yes)


def _adopt(call: Invocation, store: Store, locks: str | None, *, dry_run: bool, yes: bool) -> None:
    from seatctl.output import adoption as report
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
        parts.append(f"{count(len(found.unknown_states), 'state')} that seatctl does not know")
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
        _ask(call, "Take the adoption of this database back?", DELETE if warning else CONSENT, yes=yes)
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
        raise Usage("nothing was changed; look with --dry-run, then repeat the command with --yes")
    print(f"{question} Type {consent}: ", end="", flush=True)
    if sys.stdin.readline().strip().lower() != consent:
        raise Refused("nothing was changed")
