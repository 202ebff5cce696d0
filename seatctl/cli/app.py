"""The commands: arguments in, exit code out. No rules and no MongoDB; each imports what it needs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from seatctl.cli import boundary as edge
from seatctl.cli.boundary import Call, command
from seatctl.domain.model import (
    LOCK_TTL,
    PAYMENT_TTL,
    BookingStatus,
    Document,
    JobStatus,
    JobType,
    LockStatus,
    whole,
)
from seatctl.domain.timespec import format_duration, format_time, parse_duration, parse_time, resolve, shorten
from seatctl.errors import FutureRefused, ItemsLeft, SeatctlError, Unhealthy, Usage

if TYPE_CHECKING:
    from seatctl.mongo.store import Store
    from seatctl.services.health import Health
    from seatctl.services.jobs import Run

LIST_LIMIT, LARGEST_LIMIT = 100, 1_000_000_000
BATCH, LARGEST_BATCH = 5_000, 10_000  # expiry's, whose import would cost `--help` its speed
OPERATE, LOOK, JOBS, CARE, TRY = "Operate", "Look", "Jobs (for cron and systemd)", "Care", "Set up and try"

app = typer.Typer(
    cls=edge.GroupedGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Seat inventory for an event booking system: no seat is ever sold twice or lost.",
    epilog="Exit codes: 0 done · 1 error · 2 usage · 3 refused · 4 not found · 5 something is wrong · "
    "10 database unreachable · 11 configuration · 130/143 interrupted. "
    "`seatctl COMMAND --help` has an example for each command.",
)
db = typer.Typer(cls=edge.GroupedGroup, rich_markup_mode=None)
app.add_typer(db, name="db", rich_help_panel=TRY, help="The embedded MongoDB: start, stop, status, uri.")
schedule = typer.Typer(cls=edge.GroupedGroup, rich_markup_mode=None)
app.add_typer(
    schedule,
    name="schedule",
    rich_help_panel=CARE,
    help="Print a crontab or systemd units for this host.",
)


def main() -> NoReturn:
    """The console script."""
    edge.open_streams()
    edge.leave(edge.run(app, sys.argv[1:]))


def _version(asked: bool) -> None:
    if asked:
        from seatctl import __version__

        print(f"seatctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    pass


# --- arguments as people type them ------------------------------------------------------------------


def _parser(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as an option's type: its ValueError becomes a usage error."""

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value  # a default
        try:
            return parse(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return convert


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        raise ValueError(f"{shorten(text, 40)!r} is not a whole number")
    return int(text)


def _between(smallest: int, largest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = _whole(text)
        if not smallest <= number <= largest:
            raise ValueError(f"{number} is not a number from {smallest:,} to {largest:,}")
        return number

    return parse


def _not_empty(text: str) -> str:
    """A filter that a script left empty must not come out as "nothing to show"."""
    if not text.strip():
        raise ValueError("it must not be empty")
    return text


def _option(*names: str, parse: Callable[[str], Any], metavar: str, help: str) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(*names, parser=_parser(parse), metavar=metavar, help=help)


def _duration(help: str) -> Any:  # noqa: A002 - Typer's word
    return _option(parse=parse_duration, metavar="DURATION", help=help)


Limit = Annotated[
    int | None,
    _option(
        parse=_between(0, LARGEST_LIMIT),
        metavar="N",
        help=f"At most so many, 0 for all [default: {LIST_LIMIT} in a table, all with --json or -q].",
    ),
]
EventFilter = Annotated[str | None, typer.Option("--event", metavar="ID", help="Only of this event.")]
UserFilter = Annotated[
    str | None, _option("--user", parse=_not_empty, metavar="USER", help="Only of this user.")
]


def _ids(collection: str, where: Document) -> Callable[[str], list[str]]:
    """The newest ids for the shell to complete; none where the database does not answer at once."""

    def complete(incomplete: str) -> list[str]:
        try:
            store = Call().glance()
            found = store.newest(collection, where, 50) if store else []
        except Exception:  # noqa: BLE001 - a shell that completes must never see an error
            return []
        return [str(document["_id"]) for document in found if str(document["_id"]).startswith(incomplete)]

    return complete


EventId = Annotated[
    str,
    typer.Argument(metavar="EVENT_ID", help="The event's id.", autocompletion=_ids("events", {})),
]
LockId = Annotated[
    str,
    typer.Argument(
        metavar="LOCK_ID", help="The lock's id.", autocompletion=_ids("seatLocks", {"status": "ACTIVE"})
    ),
]
BookingId = Annotated[
    str,
    typer.Argument(
        metavar="BOOKING_ID",
        help="The booking's id.",
        autocompletion=_ids("bookings", {"status": "PAYMENT_PENDING"}),
    ),
]
Seats = Annotated[
    int, _option("--seats", parse=_whole, metavar="N", help="How many seats, from 1 to 1,000,000.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
AsOf = Annotated[
    Any, _option("--as-of", parse=parse_time, metavar="TIME", help='Move "now": ISO 8601 or +11m.')
]
Force = Annotated[bool, typer.Option("--force", help="Allow an --as-of in the future without --dry-run.")]
BatchSize = Annotated[
    int, _option(parse=_between(1, LARGEST_BATCH), metavar="N", help="Items in one transaction.")
]


# --- operate ------------------------------------------------------------------------------------------


def _tell(call: Call, document: Document, sentence: str) -> None:
    """The result of a command that makes or changes one document."""
    if call.json:
        from seatctl.output.tables import print_json

        print_json(document)
    elif call.quiet:
        print(document["_id"])
    else:
        print(sentence)


@command(
    app,
    "create-event",
    panel=OPERATE,
    example='seatctl create-event "Spring gala" --seats 100 --date 2027-05-01T19:30Z',
)
def create_event(
    call: Call,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the event is called.")],
    seats: Seats,
    date: Annotated[
        Any, _option(parse=parse_time, metavar="TIME", help="When it takes place: ISO 8601 or +30d.")
    ],
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="A longer text.")] = None,
) -> None:
    """Create an event with all its seats available."""
    from seatctl.services import sales as booking

    store = call.store()
    if call.target().uri is None and not store.exists():
        store.init()
    event = booking.create_event(store, name, seats, date, description).document
    when = format_time(event["eventDate"])
    if event["eventDate"] < event["createdAt"]:
        call.note(f"the date of this event is past: {when}")
    _tell(call, event, f"Created event {event['_id']} with {_seats(seats)} on {when}.")


@command(app, "lock", panel=OPERATE, example="seatctl lock EVENT_ID --user ada --seats 2 --key order-1017")
def lock(
    call: Call,
    event_id: EventId,
    user: Annotated[str, typer.Option(metavar="USER", help="Who the seats are for.")],
    seats: Seats,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Idempotency key: the same request again is the same lock."),
    ] = None,
    ttl: Annotated[timedelta, _duration("How long to hold them.")] = LOCK_TTL,
) -> None:
    """Lock seats for a buyer; the lock runs out on its own."""
    from seatctl.services import sales as booking

    done = booking.lock(call.store(), event_id, user, seats, key=key, ttl=ttl)
    held = done.document
    if done.changed:
        sentence = f"Locked {_seats(seats)} until {format_time(held['expiresAt'])}; {done.available} left."
    else:
        sentence = f"This key locked them before; the lock is {held.get('status')}."
    _tell(call, held, f"{sentence} Lock {held['_id']}.")


@command(app, "confirm", panel=OPERATE, example="seatctl confirm LOCK_ID --payment-ttl 15m")
def confirm(
    call: Call,
    lock_id: LockId,
    payment_ttl: Annotated[timedelta, _duration("How long to wait for the payment.")] = PAYMENT_TTL,
) -> None:
    """Turn a lock into a booking that waits for its payment."""
    from seatctl.services import sales as booking

    done = booking.confirm(call.store(), lock_id, payment_ttl=payment_ttl)
    made = done.document
    sentence = f"Booking {made['_id']} has to be paid by {format_time(made['paymentExpiresAt'])}."
    if not done.changed:
        sentence = f"This lock has booking {made['_id']} already; it is {made['status']}."
    _tell(call, made, sentence)


@command(app, "pay", panel=OPERATE, example="seatctl pay BOOKING_ID")
def pay(
    call: Call,
    booking_id: BookingId,
    failed: Annotated[
        bool, typer.Option("--failed", help="The payment failed: give the seats back.")
    ] = False,
) -> None:
    """Settle a booking's payment: paid, or failed.

    A payment that comes too late is refused, and the message says that a refund is due."""
    from seatctl.services import sales as booking

    done = (booking.fail if failed else booking.pay)(call.store(), booking_id)
    state = done.document["status"]
    before = "" if done.changed else " already"
    _tell(call, done.document, f"Booking {done.document['_id']} is{before} {state}.")


@command(app, "release", panel=OPERATE, example="seatctl release LOCK_ID")
def release(call: Call, lock_id: LockId) -> None:
    """Give a lock without a booking back before its deadline."""
    from seatctl.services import sales as booking

    held = booking.release(call.store(), lock_id).document
    _tell(call, held, f"Lock {held['_id']} is EXPIRED; {_seats(whole(held['seats']))} back.")


def _seats(count: int) -> str:
    return f"{count} seat{'' if count == 1 else 's'}"


# --- look ---------------------------------------------------------------------------------------------


def _list(call: Call, store: Store, collection: str, where: Document, limit: int | None) -> None:
    from seatctl.services import lookup as lists

    limit = _limit(call, limit)
    _print_list(call, collection, lists.newest(store, collection, where, limit), limit)


def _limit(call: Call, limit: int | None) -> int:
    """How many to list, 0 for all: a program cannot see that a list is not the whole."""
    if limit is None:
        return 0 if call.json or call.quiet else LIST_LIMIT
    return limit


def _print_list(call: Call, collection: str, documents: Iterator[Document], limit: int) -> None:
    from seatctl.output import tables as output

    if call.json:
        output.print_json_list(documents)
    elif call.quiet:
        output.print_ids(documents)
    elif listed := list(documents):
        output.show(output.TABLES[collection](listed))
        if len(listed) == limit:
            call.note(f"these are the first {limit}; --limit 0 shows all")
    else:
        call.note("nothing to show")


class Order(StrEnum):
    """How `events` sorts."""

    NEWEST = "newest"
    FULLEST = "fullest"


@command(app, "events", panel=LOOK, example="seatctl events --sort fullest --limit 10")
def events(
    call: Call,
    sort: Annotated[Order, typer.Option(case_sensitive=False, help="Which come first.")] = Order.NEWEST,
    limit: Limit = None,
) -> None:
    """List events, newest first, and how full each is."""
    from seatctl.services import lookup as lists

    store, limit = call.store(), _limit(call, limit)
    found = lists.fullest(store, limit) if sort is Order.FULLEST else lists.newest(store, "events", {}, limit)
    _print_list(call, "events", found, limit)


@command(app, "locks", panel=LOOK, example="seatctl locks --event EVENT_ID --status active")
def locks(
    call: Call,
    event: EventFilter = None,
    status: Annotated[
        LockStatus | None, typer.Option(case_sensitive=False, help="Only in this state.")
    ] = None,
    user: UserFilter = None,
    limit: Limit = None,
) -> None:
    """List locks, newest first."""
    _list(call, call.store(), "seatLocks", _filters(eventId=event, status=status, userId=user), limit)


@command(app, "bookings", panel=LOOK, example="seatctl bookings --status payment_pending --json")
def bookings(
    call: Call,
    event: EventFilter = None,
    status: Annotated[
        BookingStatus | None, typer.Option(case_sensitive=False, help="Only in this state.")
    ] = None,
    user: UserFilter = None,
    limit: Limit = None,
) -> None:
    """List bookings, newest first."""
    _list(call, call.store(), "bookings", _filters(event=event, status=status, user=user), limit)


@command(app, "jobs", panel=LOOK, example="seatctl jobs --type lock_expiry --status failed")
def jobs(
    call: Call,
    job: Annotated[
        JobType | None, typer.Option("--type", case_sensitive=False, help="Only runs of this job.")
    ] = None,
    status: Annotated[
        JobStatus | None, typer.Option(case_sensitive=False, help="Only with this outcome.")
    ] = None,
    limit: Limit = None,
    summary: Annotated[bool, typer.Option("--summary", help="Sum the runs up, a line for each job.")] = False,
    since: Annotated[
        timedelta | None,
        _duration("Only runs that started so long ago at most [default: all, 24h with --summary]."),
    ] = None,
) -> None:
    """List the runs of the jobs, newest first."""
    if summary:
        if status is not None or limit is not None:
            raise Usage("--summary sums up all runs of a job; it goes with --type and --since only")
        _summarize_runs(call, [job] if job else list(JobType), since or timedelta(hours=24))
        return
    store, where = call.store(), _filters(jobType=job, status=status)
    if since is not None:
        where["executedAt"] = {"$gte": store.now() - since}
    _list(call, store, "jobLogs", where, limit)


def _summarize_runs(call: Call, jobs: list[JobType], since: timedelta) -> None:
    from seatctl.output import tables as output
    from seatctl.services import lookup as lists

    store = call.store()
    rows = lists.summary(store, jobs, store.now() - since)
    if call.json:
        output.print_json(rows)
    elif not call.quiet:
        output.show(output.summary_table(rows))


def _filters(**filters: str | None) -> Document:
    from seatctl.mongo.store import object_id, user_id

    convert = {"eventId": object_id, "event": object_id, "userId": user_id, "user": user_id}
    return {field: convert.get(field, str)(value) for field, value in filters.items() if value is not None}


@command(app, "show", panel=LOOK, example="seatctl show LOCK_ID")
def show(call: Call, document_id: Annotated[str, typer.Argument(metavar="ID", help="Any id.")]) -> None:
    """Show any document by its id, and what belongs to it."""
    from seatctl.output import tables as output
    from seatctl.services import lookup as lists

    shown = lists.show(call.store(), document_id)
    if call.json:
        output.print_json(shown.as_document())
    elif call.quiet:
        output.print_ids([shown.document])
    else:
        related = [
            output.TABLES[name](documents, name) for name, documents in shown.related.items() if documents
        ]
        output.show(output.document_table(shown.document, shown.kind), *related)


@command(app, "watch", panel=LOOK, example="seatctl watch --interval 5s")
def watch(
    call: Call,
    interval: Annotated[timedelta, _duration("How often to look.")] = timedelta(seconds=2),
) -> None:
    """Look on, live, until Ctrl-C.

    Ctrl-C is how it ends, and no failure: exit 0."""
    dumb = os.environ.get("TERM") in ("dumb", "unknown")
    if call.json or call.quiet or dumb or not sys.stdout.isatty():
        raise Usage("watch needs a terminal to draw on; a script can repeat `seatctl events --json`")
    from seatctl.ops import watch

    watch.watch(call.store(), interval)


# --- jobs ---------------------------------------------------------------------------------------------


def _add_sweep(job: JobType, name: str, purpose: str, example: str) -> None:
    def sweep(
        call: Call,
        dry_run: DryRun = False,
        as_of: AsOf = None,
        force: Force = False,
        batch_size: BatchSize = BATCH,
    ) -> int:
        return _sweep(call, job, dry_run, as_of, force, batch_size)

    sweep.__doc__ = f"{purpose}\n\nOne run; schedule it every minute."
    command(app, name, panel=JOBS, example=example)(sweep)


_add_sweep(
    JobType.LOCK_EXPIRY,
    "expire-locks",
    "Give back the seats of locks past their deadline.",
    "seatctl expire-locks --dry-run --as-of +11m",
)
_add_sweep(
    JobType.BOOKING_EXPIRY,
    "expire-bookings",
    "Give back the seats of bookings not paid in time.",
    "seatctl expire-bookings -v",
)


def _sweep(
    call: Call, job: JobType, dry_run: bool, as_of: datetime | timedelta | None, force: bool, batch_size: int
) -> int:
    from seatctl.services import expiry
    from seatctl.services import jobs as joblog
    from seatctl.services.rehearsal import Rehearsal
    from seatctl.services.seats import Terms

    store = call.store(create=False)
    now = store.now()
    moment = now if as_of is None else _resolve(as_of, now)
    if moment > now and not (dry_run or force):
        raise FutureRefused(
            f"--as-of is {format_duration(moment - now)} from now and would take away live locks; "
            "look with --dry-run, or add --force if that is what you want"
        )
    place = Rehearsal(store) if dry_run else store
    kind = (expiry.lock_sweep if job is JobType.LOCK_EXPIRY else expiry.booking_sweep)(place)

    def work(run: Run) -> None:
        terms = Terms(now, overdue_at=moment)
        with _progress(
            call, kind.status.lower(), lambda: store.count_overdue(kind.status, moment)
        ) as advance:
            for batch in expiry.sweep(
                place, kind, terms, batch_size=batch_size, dry_run=dry_run, go_on=run.go_on
            ):
                run.record(batch)
                advance(batch.locks if job is JobType.LOCK_EXPIRY else batch.bookings)
        run.checkpoint()

    return _report(call, *joblog.run(store, job, work, dry_run=dry_run))


@contextmanager
def _progress(call: Call, what: str, count: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """A function that takes how many items were done; it draws only in a terminal."""
    if call.quiet or call.verbose or not sys.stderr.isatty():
        yield lambda _: None
        return
    from seatctl.output.tables import Progress

    bar = Progress(what, count)
    try:
        yield bar.advance
    finally:
        bar.close()


def _resolve(time: datetime | timedelta, now: datetime) -> datetime:
    try:
        return resolve(time, now)
    except OverflowError:
        raise Usage("--as-of is too far in the future") from None


@command(app, "recover", panel=JOBS, example="seatctl recover --dry-run")
def recover(
    call: Call,
    dry_run: DryRun = False,
    wait: Annotated[timedelta | None, _duration("Wait so long for the database to come up.")] = None,
    batch_size: BatchSize = BATCH,
) -> int:
    """Heal whatever a crash left half done.

    Gives back what is overdue, mends locks and bookings that disagree, corrects counters that drifted."""
    from seatctl.services import jobs as joblog
    from seatctl.services import recovery

    store = call.store(create=False, wait=wait.total_seconds() if wait else 0)

    def work(run: Run) -> None:
        recovery.recover(store, run, batch_size=batch_size)

    entry, run = joblog.run(store, JobType.RECOVERY, work, dry_run=dry_run)
    if not dry_run:
        return _report(call, entry, run)
    with suppress(ItemsLeft):  # in a plan, it is something wrong like the rest
        _report(call, entry, run)
    if run.set_aside or run.steps or run.processed:
        raise Unhealthy("; ".join(filter(None, ("there is something to recover", entry.get("error")))))
    return 0


def _report(call: Call, entry: Document, run: Run) -> int:
    """The outcome of a job, on stdout; what it had to set aside, on stderr and in the exit code."""
    from seatctl.output import tables as output

    if call.json:
        output.print_json(entry)
    elif not call.quiet:
        details = entry["details"]
        would = "would be " if run.dry_run else ""
        counts = [_count(run.locks, "lock"), f"{would}expired"]
        if run.job is not JobType.LOCK_EXPIRY:
            counts.insert(0, f"{_count(run.bookings, 'booking')} and")
        outcome = f"{' '.join(counts)}, {_seats(details['seatsRestored'])} {would}restored"
        if counters := _corrected_counters(run):
            outcome += f", {_count(counters, 'counter')} {would}corrected"
        print(f"{run.job.value}: {outcome} ({details['duration']} ms).")
        if run.steps:
            output.show(output.findings_table(run.steps, "outcome"))
    if "error" in entry:
        raise ItemsLeft(entry["error"])
    return 0


def _corrected_counters(run: Run) -> int:
    from seatctl.services.audit import Fault
    from seatctl.services.recovery import DONE, PLANNED

    return sum(
        step["fault"] == Fault.COUNTER_DRIFT and step["outcome"] in (DONE, PLANNED) for step in run.steps
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# --- care ---------------------------------------------------------------------------------------------


@command(app, "verify", panel=CARE, example="seatctl verify --json")
def verify(call: Call) -> int:
    """Prove that no seat is lost or sold twice; change nothing."""
    from seatctl.output import tables as output
    from seatctl.services import audit as findings

    store = call.store(create=False)
    found = findings.find_all(store)
    counts = store.sizes()
    where = "`seatctl verify`"
    if call.json:
        documents = [finding.as_document() for finding in found]
        output.print_json({"consistent": not found, "checked": counts, "findings": documents})
    elif found and not call.quiet:
        where = "the table"
        output.show(output.findings_table(finding.as_document() for finding in found))
    elif not call.quiet:
        names = {"events": "event", "seatLocks": "lock", "bookings": "booking"}
        checked = ", ".join(_count(counts[name], what) for name, what in names.items())
        print(f"All invariants hold ({checked}).")
        if not any(counts.values()):
            call.note(f"database {store.name} is empty; if it should not be, its name is mistyped")
    if found:
        raise Unhealthy(f"{_count(len(found), 'violation')} found; {where} says what to do about each")
    return 0


@command(app, "init", panel=TRY, example="seatctl init --retention 30d")
def init(
    call: Call,
    retention: Annotated[
        timedelta | None, _duration("How long to keep job log entries [default: as it is, at first 30d].")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing or wrong; exit 5 if anything is.")
    ] = False,
) -> None:
    """Create collections, indexes and validators; repeatable."""
    from seatctl.output import tables as output

    store = call.store(create=not check)
    if check:
        _check_init(call, store, retention)
        return
    made = store.init(retention)
    kept = format_duration(store.retention() or timedelta())
    if call.json:
        output.print_json({"created": made, "missing": [], "wrong": [], "retention": kept})
    elif not call.quiet:
        for name in made:
            print(f"created {name}")
        state = "is ready" if made else "has all it needs"
        print(f"Database {store.name} {state}; its job log is kept for {kept}.")


def _check_init(call: Call, store: Store, retention: timedelta | None) -> None:
    """Tell what `init` with that retention would do. Raises Unhealthy if that is anything."""
    from seatctl.output import tables as output
    from seatctl.services import audit as findings

    missing, limit = store.missing(), store.retention()
    wrong = [finding.message for finding in findings.indexes(store)]
    kept = format_duration(limit) if limit else "ever"
    if call.json:
        output.print_json({"created": [], "missing": missing, "wrong": wrong, "retention": kept})
    elif not call.quiet:
        for name in missing:
            print(f"missing {name}")
        for message in wrong:
            print(f"wrong: {message}")
        state = "is checked" if missing or wrong else "has all it needs"
        print(f"Database {store.name} {state}; its job log is kept for {kept}.")
    complaints = [f"{_count(len(missing), 'thing')} missing"] if missing else []
    if limit and retention and limit != retention:
        complaints.append(f"the job log is kept for {kept}, not for {format_duration(retention)}")
    if complaints:
        complaints = [f"{' and '.join(complaints)}; the same without --check changes that"]
    if wrong:
        complaints.append(f"{_count(len(wrong), 'thing')} wrong; `seatctl verify` says what to do")
    if complaints:
        raise Unhealthy("; ".join(complaints))


# --- schedules ----------------------------------------------------------------------------------------


def _installation(call: Call, user: str | None) -> tuple[str, str, str, str | None]:
    """Program, user, file with the URI and database of this installation, as a schedule names them."""
    import shutil

    from seatctl.ops.schedules import URI_FILE

    user = _host_user(user)
    target = call.target()
    uri_file = call.uri_file or os.environ.get("SEATCTL_URI_FILE")
    if not uri_file:
        call.note(f"the schedule reads the URI from {URI_FILE}; put it there, mode 600")
    program = shutil.which(sys.argv[0]) or shutil.which("seatctl") or sys.argv[0]
    path = os.path.abspath(uri_file or URI_FILE)  # noqa: PTH100 - a link stays a link
    return os.path.abspath(program), user, path, target.database  # noqa: PTH100 - so does this one


def _host_user(name: str | None) -> str:
    """A user of this host, by default the one who asks. Raises Usage where there is none of that name:
    neither cron nor systemd would run anything."""
    import pwd

    try:
        return (pwd.getpwuid(os.getuid()) if name is None else pwd.getpwnam(name)).pw_name
    except (KeyError, ValueError):
        who = f"user {shorten(name)!r}" if name else "such user"
        raise Usage(f"there is no {who} on this host; create one, or name another with --user") from None


User = Annotated[str | None, typer.Option("--user", metavar="USER", help="Who runs the jobs [default: you].")]


@command(
    schedule, "cron", example="sudo seatctl schedule cron --user seatctl > it && sudo crontab -u seatctl it"
)
def schedule_cron(call: Call, user: User = None) -> None:
    """Print a crontab that runs the jobs of this installation."""
    from seatctl.ops import schedules as schedule
    from seatctl.output import tables as output

    text = schedule.cron(*_installation(call, user))
    if call.json:
        output.print_json({"crontab": text})
    else:
        print(text, end="")


@command(schedule, "systemd", example="sudo seatctl schedule systemd --write /etc/systemd/system")
def schedule_systemd(
    call: Call,
    user: User = None,
    application: Annotated[
        str | None, typer.Option(metavar="UNIT", help="A unit that must start after recovery.")
    ] = None,
    write: Annotated[
        str | None, typer.Option(metavar="DIRECTORY", help="Write the files there instead of printing them.")
    ] = None,
) -> None:
    """Print systemd services and timers that run the jobs of this installation."""
    from pathlib import Path

    from seatctl.ops import schedules as schedule
    from seatctl.output import tables as output

    interpreter = str(Path(sys.executable).resolve())
    files = schedule.systemd(*_installation(call, user), interpreter=interpreter, application=application)
    if write is not None:
        try:
            for name, text in files.items():
                Path(write, name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise Usage(f"cannot write to {write}: {error.strerror}") from error
    if call.json:
        output.print_json(files)
    elif write is None:
        print(schedule.bundle(files), end="")
    elif not call.quiet:
        print("\n".join(str(Path(write, name)) for name in files))


# --- the embedded MongoDB -----------------------------------------------------------------------------


def _db_status() -> Document:
    from seatctl.mongo import embedded

    where = embedded.place()
    running = embedded.answers(where)
    return {
        "running": running,
        "exists": embedded.exists(),
        "pid": where.pid if running else None,
        "uri": where.uri,
        "data": str(where.db),
        "log": str(where.log),
    }


def _tell_db(call: Call, sentence: str) -> None:
    if call.json:
        from seatctl.output.tables import print_json

        print_json(_db_status())
    elif not call.quiet:
        print(sentence)


@command(db, "start", example="seatctl db start")
def db_start(call: Call) -> None:
    """Start the embedded MongoDB.

    The other commands do so themselves when they need it."""
    from seatctl.mongo import embedded

    embedded.ensure_running()
    _tell_db(call, f"The embedded MongoDB runs (pid {embedded.place().pid}).")


@command(db, "stop", example="seatctl db stop")
def db_stop(call: Call) -> None:
    """Stop the embedded MongoDB. Its data stay."""
    from seatctl.mongo import embedded

    stopped = embedded.stop()
    _tell_db(call, "The embedded MongoDB is stopped." if stopped else "The embedded MongoDB was not running.")


@command(db, "status", example="seatctl db status")
def db_status(call: Call) -> None:
    """Say whether the embedded MongoDB runs, and where its files are."""
    status = _db_status()
    state = f"runs (pid {status['pid']})" if status["running"] else "does not run"
    if not status["exists"]:
        state = "was never started"
    _tell_db(call, f"The embedded MongoDB {state}.\ndata  {status['data']}\nlog   {status['log']}")


@command(db, "uri", example='mongosh "$(seatctl db uri)"')
def db_uri(call: Call) -> None:
    """Print a URI that mongosh or Compass can open.

    Starts the embedded MongoDB."""
    from seatctl.mongo import embedded
    from seatctl.mongo import target as config

    name = call.target().database or config.DEFAULT_DATABASE
    uri = embedded.ensure_running().replace("/?", f"/{name}?")
    if call.json:
        from seatctl.output.tables import print_json

        print_json({"uri": uri})
    else:
        print(uri)


@command(app, "demo", panel=TRY, example="seatctl demo")
def demo(call: Call) -> int:
    """Watch overdue seats come back, in a throwaway database.

    Uses the embedded MongoDB whatever is configured, unless --uri says otherwise.
    """
    from seatctl.ops import demo as story
    from seatctl.output import tables as output

    with call.throwaway_store() as store:
        scenarios = []
        for number, scenario in enumerate(story.play(store), 1):
            scenarios.append(scenario)
            if not (call.json or call.quiet):
                output.show(
                    f"{number}. {scenario.title}", *scenario.parts, output.checks_table(scenario.checks), ""
                )
    ok = all(scenario.ok for scenario in scenarios)
    if call.json:
        output.print_json({"ok": ok, "scenarios": [scenario.as_document() for scenario in scenarios]})
    elif ok and not call.quiet:
        server = "" if call.uri or call.uri_file else " `seatctl db stop` ends the MongoDB that it ran on."
        print(f"Every number is as promised, and the throwaway database is gone.{server}")
    if not ok:
        raise SeatctlError("a number is not as promised; please report this")
    return 0


@command(app, "health", panel=CARE, example="seatctl health --max-age 3m")
def health(
    call: Call,
    max_age: Annotated[timedelta, _duration("How old the last run of an expiry job may be.")] = timedelta(
        minutes=3
    ),
    window: Annotated[timedelta, _duration("How far back to count runs.")] = timedelta(hours=24),
    prometheus: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write metrics for node_exporter's textfile collector; - for stdout."
        ),
    ] = None,
    per_event: Annotated[
        bool, typer.Option("--per-event", help="With --prometheus: also the seats of each event.")
    ] = False,
) -> None:
    """Say whether jobs, backlog and inventory are well."""
    from seatctl.services import health as checkup

    if per_event and prometheus is None:
        raise Usage("--per-event goes with --prometheus only; `seatctl events` lists the seats of each event")
    if prometheus is not None and call.json:
        raise Usage("--prometheus and --json are two forms of output; give one of them")
    state = checkup.check(call.store(create=False), max_age=max_age, window=window, per_event=per_event)
    if prometheus is None:
        _tell_health(call, state)
        return
    from seatctl.ops import prometheus as metrics

    # What a scraper reads is the metrics; they say what is wrong, the exit code need not.
    if prometheus == metrics.STDOUT:
        print(metrics.text(state), end="")
    else:
        metrics.write(state, prometheus)


def _tell_health(call: Call, state: Health) -> None:
    from seatctl.output import tables as output

    document = state.as_document()
    if call.json:
        output.print_json(document)
    elif not call.quiet:
        output.show(*output.health_tables(document))
    if not state.healthy:
        listed = "; ".join(state.problems) if call.quiet or call.json else "what is wrong stands above"
        raise Unhealthy(f"unhealthy: {listed}")
