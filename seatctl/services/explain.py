"""`explain`: all about one fault, with the ids of the violations that are there now. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from seatctl.domain.documents import mapping_in
from seatctl.domain.faults import EXPLANATIONS, Remedy
from seatctl.domain.states import Fault
from seatctl.domain.words import count, shorten
from seatctl.mongo.store import Store
from seatctl.services.history_entries import is_sale
from seatctl.services.verify import verify
from seatctl.services.violations import Violation

EXAMPLES = 5
"""Violations whose commands are written out; their number is always complete."""


class Explained(NamedTuple):
    """A fault, and the violations of its kind that nobody has accepted; None: no database was asked."""

    fault: Fault
    found: Sequence[Violation] | None

    @property
    def ids(self) -> list[object]:
        """What each violation is about: its booking, its lock, its event, or its index."""
        return [one.subject for one in self.found or ()]

    @property
    def lines(self) -> Iterator[str]:
        about = EXPLANATIONS[self.fault]
        yield f"{self.fault} (invariant {about.invariant})"
        yield f"  meaning  {about.meaning}"
        yield f"  cause    {about.cause}"
        found = self.found or ()
        yield f"  decide   {found[0].fill(about.decide) if len(found) == 1 else about.decide}"
        if not found:
            yield from _commands(about.remedies)
        if self.found is not None:
            verb = "is" if len(found) == 1 else "are"
            yield f"There {verb} {count(len(found), 'violation')} of this kind now."
        for one in islice(found, EXAMPLES):
            yield f"- {one.message}"
            yield from _commands(one.remedies)
        if len(found) > EXAMPLES:
            yield f"and {len(found) - EXAMPLES} more: `seatctl verify` lists all"
        if about.remedies and not about.repairable and self.found != []:
            yield (
                "Then run `seatctl recover`: it corrects the counters, and `health` reports a problem until "
                "it succeeds."
            )

    def as_document(self) -> dict[str, object]:
        about = EXPLANATIONS[self.fault]
        document: dict[str, object] = {
            "fault": self.fault.value,
            "invariant": about.invariant,
            "repairable": about.repairable,
            "meaning": about.meaning,
            "cause": about.cause,
            "decide": about.decide,
            "remedies": [one._asdict() for one in about.remedies],
        }
        if self.found is None:
            return document
        listed = [
            {**one.as_document(), "remedies": [remedy._asdict() for remedy in one.remedies]}
            for one in self.found[:EXAMPLES]
        ]
        return {**document, "found": listed, "foundCount": len(self.found)}


def explain(store: Store | None, fault: Fault) -> Explained:
    """All about a fault; of a database also what is wrong there now."""
    if store is None:
        return Explained(fault, None)
    found = [one for one in verify(store) if one.fault is fault and not one.accepted]
    return Explained(fault, list(with_recorded_sales(store, found)))


def with_recorded_sales(store: Store, found: Iterable[Violation]) -> Iterator[Violation]:
    """The violations; of a sold lock without a paid booking also what an operator's command recorded of its
    sale, with the reference of the payment."""
    for violation in found:
        sale = None
        if violation.fault is Fault.CONSUMED_WITHOUT_BOOKING:
            recorded = store.operations.concerning([violation.lock], newest_first=True)
            sale = next(filter(is_sale, recorded), None)
        if sale is None:
            yield violation
            continue
        ref = mapping_in(sale.get("after")).get("paymentRef")
        paid = "" if ref is None else f" with payment {shorten(str(ref))!r}"
        what = f"`{sale.get('command')}` recorded booking {sale.get('bookingId')}{paid}"
        known = None if ref is None else str(ref)
        yield replace(violation, message=f"{violation.message}: {what}", ref=known)


def _commands(remedies: Sequence[Remedy]) -> Iterator[str]:
    for remedy in remedies:
        yield f"  {remedy.decision}:"
        yield from (f"    {command}" for command in remedy.commands)
