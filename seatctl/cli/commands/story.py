"""Commands that tell what happened and what to do about it: history, explain."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import INSPECT, LIST_LIMIT, Limit, parse_id, parser
from seatctl.domain.words import count
from seatctl.output import console, formats, tables

commands = typer.Typer()


@command(commands, "history", panel=INSPECT, example="seatctl history BOOKING_ID")
def history(
    call: Invocation,
    document_id: Annotated[
        Any,
        typer.Argument(
            metavar="[ID]", parser=parser(parse_id), help="Any id.  [default: what was done last, of all]"
        ),
    ] = None,
    limit: Limit = None,
) -> None:
    """Tell what happened to a document, by whom and why.

    In order, with the runs of the jobs. Without an id: what operators and jobs did last, newest first."""
    from seatctl.services import history as story

    store = call.store()
    rows = (0 if call.json or call.quiet else LIST_LIMIT) if limit is None else limit
    entries = (
        story.newest(store, rows) if document_id is None else iter(story.history(store, document_id, rows))
    )
    documents = (entry.as_document() for entry in entries)
    if call.json:
        formats.print_json_list(documents)
    elif call.quiet:
        records = (entry.get("operation") or entry.get("run") for entry in documents)
        formats.print_ids({"_id": record} for record in records if record is not None)
    elif listed := list(documents):
        console.show(tables.history_table(listed, store.now()))
        if len(listed) == rows:
            call.note(f"{count(rows, 'row')} shown; --limit 0 shows all")
    else:
        call.note("nothing to show")
