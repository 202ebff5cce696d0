"""What `adopt` found, for people: built from `Findings.as_document()`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seatctl.domain.words import printable
from seatctl.output import tables

if TYPE_CHECKING:
    from seatctl.output.console import Part

CHOICES: dict[str, tables.Field] = {
    "for": "purpose",
    "collection": "collection",
    "documents #": "documents",
    "why": "why",
}
STATES: dict[str, tables.Field] = {
    "collection": "collection",
    "status": "status",
    "documents #": "number",
    "seatctl knows it": "known",
}
FAULTS: dict[str, tables.Field] = {"fault": "fault", "number #": "number", "first one": "first"}
ADVICE: dict[str, tables.Field] = {"what": "what", "otherwise": "otherwise"}


def parts(found: Mapping[str, Any]) -> list[Part]:
    """The report in the order in which a person decides: what is taken for what, what was found, what is
    wrong already, what to switch off, what `adopt` does."""
    shown: list[Part] = [
        tables.list_table(found["collections"], CHOICES, "collections that seatctl will use")
    ]
    if found["states"]:
        shown.append(tables.list_table(found["states"], STATES, "states"))
    shown.append(_lines("found:", found["remarks"]))
    if found["soldTwice"]:
        shown.append(
            _lines("seats sold twice or on sale again:", [sold["message"] for sold in found["soldTwice"]])
        )
    if found["findings"]:
        title = "already wrong (`seatctl help guarantees` explains each fault)"
        shown.append(tables.list_table(found["findingsByFault"], FAULTS, title))
    else:
        shown.append("already wrong: nothing")
    shown.append(tables.list_table(found["switchOff"], ADVICE, "switch off in the other program"))
    shown.append(_lines("adopt will:", found["plan"]))
    return shown


def _lines(heading: str, sentences: list[str]) -> str:
    return "\n".join([heading, *(printable(f"- {sentence}") for sentence in sentences)])
