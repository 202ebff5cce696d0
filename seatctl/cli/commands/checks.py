"""Commands that check a database: verify, health, explain."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.list_command import ListCall, list_command
from seatctl.cli.options import WINDOW, duration, flag, option
from seatctl.domain.states import Fault
from seatctl.domain.words import count
from seatctl.errors import Misconfigured, Unhealthy, Unreachable, Usage
from seatctl.output import console, formats, lists
from seatctl.output.formats import Format
from seatctl.output.health import health_parts

MAX_AGE = timedelta(minutes=3)
RECOVER_AS = (
    "This database user may not run `seatctl recover`: use the URI of the jobs' user (role seatctlJobs)"
)


@list_command("verify", "violations", example="seatctl verify --json", in_part=False)
def verify(call: ListCall) -> None:
    """Check all invariants; change nothing.

    NDJSON and CSV print a line for each violation, `--format ids` the id of the document with the fault."""
    from seatctl.services import verify as verification
    from seatctl.services.explain import with_recorded_sales

    form, columns, store = call.output_format, call.columns, call.store(writes=False)
    found = list(with_recorded_sales(store, verification.verify(store)))
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
        print(f"All invariants hold ({formats.sizes_in_words(sizes)}).")
        if not any(sizes.values()):
            call.note(f"database {store.name} is empty; check its name if it should not be")
    if wrong:
        problem = f"{count(wrong, 'violation')} found; {where} says what to do about each"
        if any(violation.is_for_recovery for violation in found) and not store.job_logs.may_insert():
            problem += f". {RECOVER_AS}"
        raise Unhealthy(problem)


@command("health", example="seatctl health --max-age 3m")
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
        bool, flag("--per-event", "With --prometheus: include the seats of each event.")
    ] = False,
) -> None:
    """Check jobs, backlog, consistency and refunds."""
    from seatctl.services.health import check

    if per_event and prometheus is None:
        raise Usage("--per-event requires --prometheus; `seatctl events` lists the seats of each event")
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
        # The screen may be longer than the window, so that what it begins with is out of sight.
        listed = state.problems if call.quiet or call.json else [*map(_in_short, state.problems)]
        raise Unhealthy(f"unhealthy: {'; '.join(listed)}")


def _in_short(problem: str) -> str:
    """`LOCK_EXPIRY has not run for 13m12s` of what then says since when, and what to do."""
    return re.split(r": | \(|; ", problem, maxsplit=1)[0]


@command("explain", example="seatctl explain consumed_without_booking")
def explain(
    call: Invocation,
    fault: Annotated[
        Fault, typer.Argument(metavar="FAULT", help="The fault, as `verify` names it.", case_sensitive=False)
    ],
) -> None:
    """Explain a fault: meaning, cause, and what to do.

    Fills in the ids of the current violations if the database can be reached; -q prints only these ids."""
    from seatctl.services.explain import explain as explained

    try:
        explanation = explained(call.store(writes=False), fault)
    except (Misconfigured, Unreachable) as error:
        call.note(f"shown without ids: {error}")
        explanation = explained(None, fault)
    if call.json:
        formats.print_json(explanation.as_document())
    elif call.quiet:
        formats.print_ids({"_id": each} for each in explanation.ids)
    else:
        console.show(*explanation.lines)
