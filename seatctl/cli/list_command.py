"""Commands that list something: the options that all of them take, and the list in the format that is asked
for. Knows no list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from seatctl.cli.command import Command, Function, command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import LARGEST_LIMIT, LIST_LIMIT, between, common_option
from seatctl.cli.streams import reader_has_left
from seatctl.domain.timespec import PastTime, parse_past
from seatctl.domain.validation import ListRequest
from seatctl.domain.words import count, shorten
from seatctl.errors import Usage
from seatctl.output import lists
from seatctl.output.formats import Format
from seatctl.output.tables import columns_of, fields_by_heading

if TYPE_CHECKING:
    from typer.core import TyperOption

    from seatctl.domain.documents import StoredDocument
    from seatctl.mongo.store import Store

    Read = Callable[[Store, ListRequest], Iterator[StoredDocument]]
    Fold = Callable[[Iterator[StoredDocument]], Iterator[StoredDocument]]
    Extend = Callable[[Store, Iterator[StoredDocument]], Iterator[StoredDocument]]


class ListCall(Invocation):
    """One command line that lists something."""

    format: Format | None = None
    columns: tuple[str, ...] | None = None
    limit: int | None = None
    since: PastTime | None = None
    until: PastTime | None = None

    @property
    def output_format(self) -> Format:
        """What --format says, or its short forms. Raises Usage where they contradict each other."""
        short = Format.JSON if self.json else Format.IDS if self.quiet else None
        if short and self.format not in (None, short):
            raise Usage("--json and -q are short for --format json and --format ids; give one format")
        form = self.format or short or Format.TABLE
        if form is Format.IDS and self.columns:
            raise Usage("--format ids prints only ids; use --columns with another format")
        return form

    def show(self, read: Read, fold: Fold | None = None, extend: Extend | None = None) -> None:
        """Print what `read` finds. In a table whose columns were not chosen, `fold` makes one row of several
        documents, and `extend` gives each what only people need."""
        name: str = self.command.listing  # type: ignore[attr-defined] # of a ListCommand
        form, columns = self.output_format, self.columns
        limit = self.limit
        if limit is None:  # a program cannot see that a list is not complete
            limit = LIST_LIMIT if form is Format.TABLE else 0
        if form is not Format.TABLE or columns:
            fold = extend = None
        fields = lists.fields_of(name, form, columns)
        store = self.store(writes=False)
        found = read(store, ListRequest(0 if fold else limit, self.since, self.until, fields))
        if fold:
            found = islice(fold(found), limit or None)
        if extend:
            found = extend(store, found)
        found = takewhile(lambda _: not reader_has_left(), found)
        shown = lists.print_list(name, found, form, columns, store.now)
        if form is Format.TABLE and not shown.rows:
            self.note(f"nothing to show in database {store.name}")
        elif form is Format.TABLE and shown.rows == limit:
            self.note(f"{count(limit, 'row')} shown; --limit 0 shows all")
        if shown.hidden:
            self.note(
                f"hidden for lack of width: {', '.join(shown.hidden)}; widen the window, or use "
                "`seatctl show ID`"
            )


def _parse_format(text: str) -> Format:
    try:
        return Format(text.lower())
    except ValueError:
        raise ValueError(f"{shorten(text)!r} is not one of {', '.join(Format)}") from None


FORMAT = common_option(
    "--format", metavar="FORMAT", parse=_parse_format, help=f"{', '.join(Format)}.  [default: table]"
)
LIMIT = common_option(
    "--limit",
    metavar="N",
    parse=between(0, LARGEST_LIMIT),
    help=f"Maximum number of rows (0 = all).  [default: {LIST_LIMIT} in a table, else all]",
)
TIMES = (
    common_option(
        "--since",
        metavar="TIME",
        parse=parse_past,
        help="Only those created at or after this time: ISO 8601, today, 2h.",
    ),
    common_option("--until", metavar="TIME", parse=parse_past, help="Only those created before this time."),
)


def columns_option(name: str) -> TyperOption:
    known, headings = columns_of(name), fields_by_heading(name)

    def fields(word: str) -> list[str]:
        """A field, or several with space between, or the heading of one in a table."""
        if word not in known and (field := headings.get(word.lower())):
            return [field]
        return [headings.get(one.lower(), one) if one not in known else one for one in word.split()]

    def parse(text: str) -> tuple[str, ...]:
        wanted = tuple(dict.fromkeys(field for word in text.split(",") for field in fields(word.strip())))
        unknown = [column for column in wanted if column not in known]
        if unknown or not wanted:
            said = f"there is no column {shorten(unknown[0])!r}" if unknown else "it must not be empty"
            raise ValueError(f"{said}; the columns are {', '.join(known)}")
        return wanted

    return common_option("--columns", metavar="NAMES", parse=parse, help="Only these columns: a,b,c.")


class ListCommand(Command):
    context_class = ListCall

    def __init__(self, *args: Any, params: list[Any], listing: str, in_part: bool, **settings: Any) -> None:
        self.listing = listing
        more = [LIMIT, *TIMES] if in_part else []
        super().__init__(*args, params=[*params, FORMAT, columns_option(listing), *more], **settings)


def list_command(
    name: str, listing: str, *, example: str, in_part: bool = True
) -> Callable[[Function], Function]:
    """Register a function as a command that lists `listing`, whose columns are in `tables.LISTS`: `in_part`
    with --limit, --since and --until, else always all of it."""
    return command(name, example=example, cls=partial(ListCommand, listing=listing, in_part=in_part))
