"""The command line as people and scripts meet it: the installed program in a process of its own,
with an empty environment, in pipes and in a terminal."""

from __future__ import annotations

import json
import re
import shlex
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from bson import ObjectId
from conftest import open_store
from pymongo import MongoClient
from servers import Server, free_port
from terminal import AS_MODULE, Result, Shell, here

from seatctl import __version__, errors
from seatctl.cli.app import LIST_LIMIT, app
from seatctl.domain.model import BookingStatus, JobType, LockStatus
from seatctl.services import jobs as joblog
from seatctl.services import sales as booking
from seatctl.services.audit import find_all

if TYPE_CHECKING:
    from pymongo.database import Database

PAST = datetime(2020, 1, 1, tzinfo=UTC)
IN_11_MINUTES, IN_16_MINUTES = ("--as-of", "+11m", "--force"), ("--as-of", "+16m", "--force")
ID = re.compile(r"\b[0-9a-f]{24}\b")
NOBODY = f"mongodb://127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=50"
MANY = 1_500
MORE_THAN_A_PIPE_HOLDS = 800


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    """The program with a fresh database of a replica set configured."""
    return Shell({"SEATCTL_URI": database_uri, "HOME": str(tmp_path)})


@contextmanager
def open_database(uri: str) -> Iterator[Database[dict[str, Any]]]:
    """A database, past seatctl."""
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        yield client.get_default_database()


def database_of(shell: Shell) -> AbstractContextManager[Database[dict[str, Any]]]:
    """The database that `shell` uses, past seatctl."""
    return open_database(shell.env.get("SEATCTL_URI") or shell.ok("db", "uri").stdout.strip())


def everything(database: Database[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for name in ("events", "seatLocks", "bookings") for each in database[name].find()]


def insert_overdue(database: Database[dict[str, Any]], locks: int, available: int, total: int = 100) -> str:
    """An event and its overdue locks of a seat each, as another program writes them: no key."""
    event = {"_id": ObjectId(), "name": "Foreign", "totalSeats": total, "availableSeats": available}
    database.events.insert_one(event)
    database.seatLocks.insert_many(
        {"eventId": event["_id"], "userId": f"buyer {n}", "seats": 1, "status": "ACTIVE", "expiresAt": PAST}
        for n in range(locks)
    )
    return str(event["_id"])


def one_line(result: Result) -> str:
    """The only line on stderr, without the program's name."""
    assert result.stderr.startswith("seatctl: "), result
    assert result.stderr.count("\n") == 1, result
    return result.stderr.strip().removeprefix("seatctl: ")


# --- the three scenarios ------------------------------------------------------------------------------


@pytest.fixture(params=["replica", "standalone", "embedded"])
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """The program with a replica set, a standalone server, or nothing at all configured."""
    home = Shell({"HOME": str(tmp_path)})
    if request.param == "embedded":
        yield home
        home.ok("db", "stop")
        return
    server: Server = request.getfixturevalue(request.param)
    name = f"test_{uuid.uuid4().hex}"
    yield home.with_env(SEATCTL_URI=server.uri.replace("/?", f"/{name}?"))
    with server.client() as client:
        client.drop_database(name)


def available(shell: Shell, event: str) -> int:
    return shell.ok("show", event, "--json").json["availableSeats"]


def test_the_three_scenarios_and_the_health_check_read_like_this_from_a_shell(any_shell: Shell) -> None:
    """Spec section 7 as separate commands gives the same numbers wherever the data live."""
    shell = any_shell
    event = shell.new_id("create-event", "Lock expiry", "--seats", "100", "--date", "2027-05-01T19:30Z")
    for buyer in range(5):
        shell.ok("lock", event, "--user", f"buyer {buyer}", "--seats", "1")
    assert available(shell, event) == 95
    assert "5 locks expired, 5 seats restored" in shell.ok("expire-locks", *IN_11_MINUTES).stdout
    assert available(shell, event) == 100

    event = shell.new_id("create-event", "Booking expiry", "--seats", "100", "--date", "+30d")
    for buyer in range(3):
        shell.ok("confirm", shell.new_id("lock", event, "--user", f"buyer {buyer}", "--seats", "1"))
    assert available(shell, event) == 97
    assert len(shell.ok("bookings", "--status", "payment_pending", "--json").json) == 3
    entry = shell.ok("expire-bookings", *IN_16_MINUTES, "--json").json
    assert tuple(entry["details"][name] for name in ("bookingsExpired", "locksExpired", "seatsRestored")) == (
        3,
        3,
        3,
    )
    assert available(shell, event) == 100

    with database_of(shell) as database:
        reduced = insert_overdue(database, 7, available=93)
        untouched = insert_overdue(database, 7, available=100)
        entry = shell.ok("recover", "--json").json
        assert entry["details"]["locksExpired"] == 14
        assert 100 == available(shell, reduced) == available(shell, untouched)

        runs = {run["jobType"]: run for run in database.jobLogs.find()}
        assert set(JobType) == set(runs)
        assert {"SUCCESS"} == {run["status"] for run in runs.values()}
        assert database.jobLogs.count_documents({}) == 3
        assert database.seatLocks.count_documents({"status": "EXPIRED", "oldStatus": "ACTIVE"}) == 22
        assert database.bookings.count_documents({"status": "EXPIRED"}) == 3
    health = shell.ok("health", "--json").json
    assert health["healthy"]
    assert {job: facts["runs"] for job, facts in health["jobs"].items()} == {
        "LOCK_EXPIRY": 1,
        "BOOKING_EXPIRY": 1,
        "RECOVERY": 1,
    }
    assert health["inventory"]["inconsistentEvents"] == []
    assert tuple(health["inventory"][name] for name in ("totalSeats", "availableSeats")) == (400, 400)
    shell.ok("verify")


# --- forms of output ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """A database with something of everything, and a shell that uses it."""

    shell: Shell
    ids: dict[str, str]

    def __call__(self, line: str) -> list[str]:
        return shlex.split(line.format(**self.ids))


@pytest.fixture(scope="module")
def story(replica: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    name = f"test_{uuid.uuid4().hex}"
    uri = replica.uri.replace("/?", f"/{name}?")
    store = open_store(uri)
    store.init()
    event = booking.create_event(store, "Soirée ☃", 9, timedelta(days=9)).document["_id"]
    locks = [booking.lock(store, event, f"buyer {n}", 1, key=f"k{n}").document["_id"] for n in range(3)]
    waiting = booking.confirm(store, locks[0]).document["_id"]
    paid = booking.pay(store, booking.confirm(store, locks[1]).document["_id"]).document["_id"]
    for job in JobType:
        joblog.run(store, job, lambda _: None)
    runs = [run["_id"] for run in store.newest("jobLogs", {}, 0)]
    ids = {
        "event": event,
        "lock": locks[0],
        "free": locks[2],
        "waiting": waiting,
        "paid": paid,
        "run": runs[0],
        "locks": locks,
        "runs": runs,
    }
    told = {
        key: "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in ids.items()
    }
    yield Story(Shell({"SEATCTL_URI": uri, "HOME": str(tmp_path_factory.mktemp("home"))}), told)
    store.drop()
    store.deployment.close()


LISTS = {
    "events": "{event}",
    "locks": "{locks}",
    "locks --event {event} --status active --user 'buyer 2'": "{free}",
    "bookings": "{waiting}\n{paid}",
    "bookings --status CONFIRMED --limit 5": "{paid}",
    "jobs": "{runs}",
    "show {event}": "{event}",
    "show {lock}": "{lock}",
    "show {paid}": "{paid}",
    "show {run}": "{run}",
}
EMPTY = ("events", "locks", "bookings", "jobs")
REPORTS = (
    "verify",
    "health",
    "init --check",
    "expire-locks --dry-run",
    "expire-bookings --dry-run",
    "recover --dry-run",
)


def forms(shell: Shell, arguments: list[str]) -> tuple[Result, Result, Result, Result]:
    """One command's table, JSON and ids in a pipe, and its table in a terminal of 60 columns."""
    narrow = shell.with_env(COLUMNS="40")
    with ThreadPoolExecutor() as side_by_side:
        calls = [side_by_side.submit(narrow, *arguments, *form) for form in ((), ("--json",), ("--quiet",))]
        calls.append(side_by_side.submit(shell.with_env(TERM="xterm").tty, *arguments, columns=60))
    table, as_json, quiet, seen = (call.result() for call in calls)
    return table, as_json, quiet, seen


@pytest.mark.parametrize("line", LISTS)
def test_a_list_or_document_in_each_form_of_output(story: Story, line: str) -> None:
    """Every form names the same documents, and neither a narrow pipe nor a narrow terminal cuts an id."""
    wanted = set(LISTS[line].format(**story.ids).split())
    table, as_json, quiet, seen = forms(story.shell, story(line))
    assert [result.code for result in (table, as_json, quiet, seen)] == [0] * 4
    assert "" == table.stderr == as_json.stderr == quiet.stderr
    documents = as_json.json if isinstance(as_json.json, list) else [as_json.json]
    assert wanted == {document["_id"] for document in documents} == set(quiet.stdout.split())
    assert wanted <= set(ID.findall(table.stdout))
    assert set(ID.findall(table.stdout)) == set(ID.findall(seen.stdout))
    assert "\x1b" not in table.stdout
    assert "\x1b[" in seen.stdout
    assert all(row.endswith("│") for row in table.stdout.splitlines() if row.startswith("│")), "wrapped"


@pytest.mark.parametrize("line", REPORTS)
def test_a_report_in_each_form_of_output(story: Story, line: str) -> None:
    """A report says the same in a pipe and in a terminal, is one object under --json, and holds its
    tongue under -q when all is well."""
    table, as_json, quiet, seen = forms(story.shell, story(line))
    assert [result.code for result in (table, as_json, quiet, seen)] == [0] * 4
    assert isinstance(as_json.json, dict)
    assert "" == quiet.stdout == quiet.stderr == as_json.stderr
    assert table.stdout
    assert seen.stdout


MAKING = (
    ("event", "create-event Gala --seats 9 --date 2027-05-01 --description 'All day'", None),
    ("lock", "lock {event} --user ada --seats 2 --key k", "ACTIVE"),
    ("lock", "lock {event} --user ada --seats 2 --key k", "ACTIVE"),
    ("booking", "confirm {lock}", "PAYMENT_PENDING"),
    ("booking", "confirm {lock}", "PAYMENT_PENDING"),
    ("booking", "pay {booking}", "CONFIRMED"),
    ("booking", "pay {booking}", "CONFIRMED"),
    ("early", "lock {event} --user ada --seats 2", "ACTIVE"),
    ("early", "release {early}", "EXPIRED"),
    ("unpaid", "lock {event} --user ada --seats 2", "ACTIVE"),
    ("failing", "confirm {unpaid}", "PAYMENT_PENDING"),
    ("failing", "pay {failing} --failed", "FAILED"),
    ("failing", "pay {failing} --failed", "FAILED"),
)
"""Whose id a command tells, the command, and the document's state afterwards."""


@pytest.mark.parametrize("form", ["", "--json", "-q"])
def test_commands_that_make_something_in_each_form_of_output(
    form: str, database_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command that makes or changes a document tells it: a sentence with the id, the document
    as stored, or the id alone; and so it does when it is called again."""
    ids: dict[str, str] = {}
    for name, line, state in MAKING:
        words = shlex.split(line.format(**ids)) + form.split()
        result = here(capsys, *words, "--uri", database_uri)
        assert (result.code, result.stderr) == (0, ""), line
        told = told_id(result.stdout, form, state)
        assert told == ids.setdefault(name, told)
    with open_database(database_uri) as database:
        assert database.events.find_one()["availableSeats"] == 7
        assert set(ids.values()) == {str(each["_id"]) for each in everything(database)}


def told_id(shown: str, form: str, state: str | None) -> str:
    if form == "--json":
        document = json.loads(shown)
        assert document.get("status") == state
        return document["_id"]
    assert shown.count("\n") == 1
    if form == "-q":
        return shown.strip()
    assert shown.endswith(".\n")
    return ID.findall(shown)[-1]


@pytest.mark.parametrize("command", EMPTY)
def test_an_empty_list(shell: Shell, command: str) -> None:
    """Nothing to list is `[]` for a program, nothing at all under -q, and a word to a person."""
    assert shell.ok(command, "--json").stdout == "[]\n"
    assert ((silent := shell.ok(command, "-q")).stdout, silent.stderr) == ("", "")
    assert one_line(shell.ok(command)) == "nothing to show"


def test_a_list_says_when_it_is_not_the_whole(story: Story) -> None:
    """A list cut by its limit says so on stderr; limit 0 shows all."""
    assert "first 2; --limit 0 shows all" in one_line(story.shell.ok("locks", "--limit", "2"))
    assert story.shell.ok("locks", "--limit", "0").stderr == ""


@pytest.mark.parametrize("command", ["events", "locks", "bookings", "jobs"])
def test_a_list_for_a_program_is_the_whole_unless_it_asks_for_less(
    database_uri: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person gets the first hundred and is told so; --json and -q get all, or what --limit says."""
    collection = {"locks": "seatLocks", "jobs": "jobLogs"}.get(command, command)
    with open_database(database_uri) as database:
        database[collection].insert_many([{} for _ in range(LIST_LIMIT + 1)])
    listed = (command, "--uri", database_uri)

    assert len(here(capsys, *listed, "--json").json) == LIST_LIMIT + 1
    assert here(capsys, *listed, "-q").stdout.count("\n") == LIST_LIMIT + 1
    assert len(here(capsys, *listed, "--json", "--limit", "3").json) == 3
    shown = here(capsys, *listed)
    assert len(ID.findall(shown.stdout)) == LIST_LIMIT
    assert f"these are the first {LIST_LIMIT}" in one_line(shown)


def test_runs_of_the_last_hours(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """`jobs --since` leaves older runs out, and --summary sums up the job that --type names."""
    uri = ("--uri", shell.env["SEATCTL_URI"])
    with database_of(shell) as database:
        ages = {"LOCK_EXPIRY": (1, 3), "RECOVERY": (2, 30)}
        database.jobLogs.insert_many(
            {"jobType": job, "status": "SUCCESS", "executedAt": datetime.now(UTC) - timedelta(hours=age)}
            for job, hours in ages.items()
            for age in hours
        )

    recent = here(capsys, "jobs", "--since", "150m", "--json", *uri).json
    assert [run["jobType"] for run in recent] == ["LOCK_EXPIRY", "RECOVERY"]
    assert len(here(capsys, "jobs", "--json", *uri).json) == 4
    [row] = here(capsys, "jobs", "--summary", "--type", "recovery", "--json", *uri).json
    assert (row["jobType"], row["runs"]) == ("RECOVERY", 1)
    rows = here(capsys, "jobs", "--summary", "--since", "2d", "--json", *uri).json
    assert [row["runs"] for row in rows] == [2, 0, 2]


def test_a_date_in_the_past(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """An event that is over gets a remark on stderr, and is made all the same."""
    create = ("create-event", "Yesterday", "--seats", "1", "--uri", shell.env["SEATCTL_URI"], "--date")
    late = here(capsys, *create, "2020-01-01")
    assert (late.code, one_line(late)) == (0, "the date of this event is past: 2020-01-01T00:00:00Z")
    assert late.stdout.startswith("Created event")
    assert here(capsys, *create, "2020-01-01", "-q").stderr == ""
    assert here(capsys, *create, "+1d").stderr == ""


def test_a_check_of_the_retention(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """`init --check --retention` tells a retention that differs, in words and by its exit code."""
    uri = ("--uri", shell.env["SEATCTL_URI"])
    assert here(capsys, "init", "-q", *uri).code == 0
    assert here(capsys, "init", "--check", "--retention", "30d", *uri).code == 0
    differs = here(capsys, "init", "--check", "--retention", "60d", *uri)
    assert differs.code == 5
    assert "the job log is kept for 30d, not for 60d" in one_line(differs)
    assert here(capsys, "init", "--retention", "60d", *uri).code == 0
    assert here(capsys, "init", "--check", "--retention", "60d", "--json", *uri).json["retention"] == "60d"


def test_two_forms_of_health_at_once(shell: Shell) -> None:
    """Metrics and JSON cannot both be the one thing on stdout."""
    result = shell("health", "--prometheus", "-", "--json")
    assert (result.code, result.error["code"], result.stdout) == (2, "usage", "")


def test_json_looks_as_stored(story: Story) -> None:
    """Field names as stored, ids as hex, times with Z, text unescaped."""
    [event] = story.shell.ok("events", "--json").json
    assert story.ids["event"] == event["_id"]
    assert event["name"] == "Soirée ☃"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", event["eventDate"])
    assert tuple(event[name] for name in ("availableSeats", "locked", "sold", "totalSeats")) == (6, 2, 1, 9)


def test_plain_terminals_and_no_color_are_respected(story: Story) -> None:
    """NO_COLOR takes the colours away, TERM=dumb every escape sequence."""
    colour = re.compile(r"\x1b\[[\d;]*3\d")
    assert colour.search(story.shell.with_env(TERM="xterm").tty("locks").stdout)
    assert not colour.search(story.shell.with_env(TERM="xterm", NO_COLOR="1").tty("locks").stdout)
    dumb = story.shell.with_env(TERM="dumb").tty("locks")
    assert dumb.code == 0
    assert "\x1b" not in dumb.stdout


def test_json_in_a_terminal_is_still_json(story: Story) -> None:
    """A terminal gets the same document, without colours in it."""
    shown = story.shell.with_env(TERM="xterm").tty("events", "--json").stdout
    assert story.ids["event"] == json.loads(shown)[0]["_id"]


@pytest.mark.parametrize(
    "settings",
    [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
    + [{"PYTHONIOENCODING": name} for name in ("ascii", "latin-1")],
    ids=lambda settings: " ".join(settings.values()),
)
def test_an_encoding_that_cannot_carry_a_name_does_not_stop_the_output(
    story: Story, settings: dict[str, str]
) -> None:
    """A letter of a name is escaped where the encoding has none; JSON stays JSON."""
    shell = story.shell.with_env(**settings)
    assert story.ids["event"] in shell.ok("events").stdout
    assert shell.ok("events", "--json").json[0]["name"] == "Soirée ☃"


def test_a_reader_that_leaves_early(shell: Shell) -> None:
    """`| head -1` makes no noise, and does not turn a bad verdict into a good one."""
    with database_of(shell) as database:
        broken = {"eventId": ObjectId(), "seats": 1, "status": "no such status"}
        database.seatLocks.insert_many([dict(broken) for _ in range(MORE_THAN_A_PIPE_HOLDS)])
    for line, code in {"locks --limit 0": 0, "locks --limit 0 -q": 0, "verify": 5}.items():
        result = shell.pipeline(f"set -o pipefail; seatctl {line} | head -1")
        assert code == result.code
        assert result.stdout.count("\n") == 1
        noise = [said for said in result.stderr.splitlines() if "violations found" not in said]
        assert noise == []
    closed = shell.pipeline("seatctl verify 2>&1 >&-")
    assert closed.code == 5
    assert closed.stdout.count("\n") == 1
    assert shell.pipeline("seatctl verify 2>&-").code == 5


def test_a_redirect_is_not_cut(story: Story, tmp_path: Path) -> None:
    """A file gets the same as a pipe, whatever the window's width."""
    piped = story.shell.ok("jobs").stdout
    assert story.shell.with_env(COLUMNS="40").pipeline(f"seatctl jobs > {tmp_path}/jobs").code == 0
    assert piped == (tmp_path / "jobs").read_text()


def test_a_full_disk_is_one_line(story: Story) -> None:
    """Output that cannot be written is a failure, said in one line."""
    result = story.shell.pipeline("seatctl jobs > /dev/full")
    assert result.code == 1
    assert one_line(result) == "the output cannot be written: No space left on device"


def test_v_tells_the_story_on_stderr(shell: Shell) -> None:
    """-v writes a timestamped line for each step to stderr; stdout stays as it was."""
    with database_of(shell) as database:
        event = insert_overdue(database, 7, available=93)
    result = shell.ok("expire-locks", "-v", "-q")
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[INFO\] ", line) for line in lines)
    assert f"event {event}: 93 → 100 seats available" in result.stderr
    assert re.search(r"deadline before \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\n", result.stderr)


def test_v_tells_of_counters_and_states(shell: Shell) -> None:
    """The operator's commands tell what became of the counter and of the lock, too."""
    event = shell.new_id("create-event", "Gala", "--seats", "10", "--date", "+1d")
    locks = [shell.ok("lock", event, "--user", "u", "--seats", "2", "-q", "-v") for _ in range(3)]
    assert f"event {event}: 8 → 6 seats available (-2)" in locks[1].stderr
    released, paid, failed = (lock.stdout.strip() for lock in locks)

    assert f"event {event}: 4 → 6 seats available (+2)" in shell.ok("release", released, "-v").stderr
    bookings = [shell.ok("confirm", lock, "-q", "-v") for lock in (paid, failed)]
    booked = f"lock {paid} has booking {bookings[0].stdout.strip()}, which is"
    assert f"{booked} PAYMENT_PENDING" in bookings[0].stderr
    assert "is CONFIRMED, its lock CONSUMED" in shell.ok("pay", bookings[0].stdout.strip(), "-v").stderr
    assert f"{booked} CONFIRMED" in shell.ok("confirm", paid, "-v").stderr
    failure = shell.ok("pay", bookings[1].stdout.strip(), "--failed", "-v")
    assert f"event {event}: 6 → 8 seats available (+2)" in failure.stderr


def test_verify_of_an_empty_database(shell: Shell) -> None:
    """Nothing is wrong where nothing is, but a person hears that it is nothing."""
    assert "is empty; if it should not be, its name is mistyped" in shell.ok("verify").stderr
    shell.new_id("create-event", "Gala", "--seats", "10", "--date", "+1d")
    assert shell.ok("verify").stderr == ""


def test_recovery_tells_of_counters(shell: Shell) -> None:
    """The summary of `recover` has the counters that it corrects, or would."""
    with database_of(shell) as database:
        insert_overdue(database, 1, available=92)
    assert "1 counter would be corrected (" in shell("recover", "--dry-run").stdout
    assert "1 seat restored, 1 counter corrected (" in shell.ok("recover").stdout
    assert "counter" not in shell.ok("recover").stdout


@pytest.mark.parametrize("line", ["events", "locks", "bookings", "jobs", "verify"])
def test_common_options_come_in_any_order(
    story: Story, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--uri, --database, --json and -q go anywhere after the command's name."""
    uri = story.shell.env["SEATCTL_URI"]
    options = [["--uri", uri], ["--json"], [f"--database={uri.rpartition('/')[2].partition('?')[0]}"], ["-q"]]
    for start in range(len(options)):
        turned = [word for option in options[start:] + options[:start] for word in option]
        result = here(capsys, line, *turned)
        assert result.code == 0
        assert result.json


def test_the_module_is_the_program(story: Story) -> None:
    """`python -m seatctl` is the same program, and with nothing in its environment --uri is enough."""
    module = replace(story.shell, program=AS_MODULE)
    assert story.ids["event"] == module.ok("events", "-q").stdout.strip()
    bare = Shell(program=AS_MODULE).ok("events", "-q", "--uri", story.shell.env["SEATCTL_URI"])
    assert story.ids["event"] == bare.stdout.strip()
    assert f"seatctl {__version__}\n" == module.ok("--version").stdout


# --- exit codes ---------------------------------------------------------------------------------------

ENDINGS: dict[int, list[tuple[str, str]]] = {
    0: [("", "events"), ("", "release {lock}")],
    1: [("items_left", "expire-locks"), ("damaged_document", "lock {damaged} --user ada --seats 1")],
    2: [("usage", "lock"), ("usage", "no-such-command"), ("usage", "show xyz")],
    3: [
        ("deadline_passed", "confirm {overdue}"),
        ("sold_out", "lock {event} --user ada --seats 10"),
        ("key_reused", "lock {event} --user ada --seats 2 --key k"),
        ("wrong_state", "release {booked}"),
        ("future_refused", "expire-locks --as-of +1h"),
    ],
    4: [("not_found", "show aaaaaaaaaaaaaaaaaaaaaaaa"), ("not_found", "pay {lock}")],
    5: [("unhealthy", "verify"), ("unhealthy", "health"), ("unhealthy", "init --check")],
    10: [("unreachable", f"events --uri {NOBODY}")],
    11: [("configuration", "events --uri nonsense"), ("configuration", "events --uri-file /no/such/file")],
}
SIGNALS = (130, 143)
"""Tried below, where something is there to interrupt."""


@pytest.fixture
def trouble(shell: Shell) -> Story:
    """A small event, a lock of each kind that a command refuses, and documents that are broken."""
    store = open_store(shell.env["SEATCTL_URI"])
    event = booking.create_event(store, "Small", 9, timedelta(days=9)).document["_id"]
    lock = booking.lock(store, event, "ada", 1, key="k").document["_id"]
    booked = booking.lock(store, event, "ada", 1).document["_id"]
    booking.confirm(store, booked)
    overdue = {"_id": ObjectId(), "eventId": event, "seats": 1, "status": "ACTIVE", "expiresAt": PAST}
    broken = {"_id": ObjectId(), "eventId": event, "seats": "two", "status": "ACTIVE", "expiresAt": PAST}
    damaged = {"_id": ObjectId(), "name": "Damaged", "totalSeats": "many", "availableSeats": None}
    store.database.seatLocks.insert_many([overdue, broken])
    store.database.events.insert_one(damaged)
    store.deployment.close()
    ids = {"event": event, "lock": lock, "booked": booked}
    ids |= {"overdue": overdue["_id"], "broken": broken["_id"], "damaged": damaged["_id"]}
    return Story(shell, {key: str(value) for key, value in ids.items()})


@pytest.mark.parametrize("code", ENDINGS)
def test_each_exit_code_and_its_word(
    trouble: Story, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ending has its number, one readable line on stderr, and under --json one object."""
    for word, line in ENDINGS[code]:
        told = trouble.shell(*trouble(line), "--json")
        assert code == told.code, told
        if code:
            assert (word, code) == (told.error["code"], told.error["exitCode"])
            monkeypatch.setenv("SEATCTL_URI", trouble.shell.env["SEATCTL_URI"])
            plain = here(capsys, *trouble(line), "-q")
            assert code == plain.code
            assert told.error["message"].split(" (")[0] in one_line(plain)
        else:
            assert told.stderr == ""


@pytest.mark.parametrize(
    ("command", "code"), [("init --check", 5), ("verify", 5), ("health", 5), ("recover", 1)]
)
def test_a_ttl_index_is_named_by_every_look(
    shell: Shell, command: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that would delete locks is named, with the way to drop it, and is no success."""
    monkeypatch.setenv("SEATCTL_URI", shell.env["SEATCTL_URI"])
    here(capsys, "init")
    with database_of(shell) as database:
        database.seatLocks.create_index("createdAt", name="tidy", expireAfterSeconds=10**9)
    told, as_json = here(capsys, *command.split()), here(capsys, *command.split(), "--json")
    assert (told.code, as_json.code) == (code, code)
    for shown in (told.stdout, as_json.stdout.replace("\\", "")):
        assert 'db.seatLocks.dropIndex("tidy")' in shown


@pytest.mark.parametrize(
    ("form", "where"), [("", "the table"), ("-q", "`seatctl verify`"), ("--json", "`seatctl verify`")]
)
def test_verify_names_no_table_where_it_prints_none(
    trouble: Story, form: str, where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to do about a violation is said to stand where it does."""
    monkeypatch.setenv("SEATCTL_URI", trouble.shell.env["SEATCTL_URI"])

    assert f"found; {where} says what to do about each" in here(capsys, "verify", *form.split()).stderr


@pytest.mark.parametrize("form", ["", "-q", "--json"])
def test_a_counter_left_for_the_next_run_is_no_success(
    standalone: Server, form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a standalone, recovery that may not correct a counter yet complains and says when to repeat it."""
    uri = standalone.uri.replace("/?", f"/test_{uuid.uuid4().hex}?")
    monkeypatch.setenv("SEATCTL_URI", uri)
    here(capsys, "create-event", "X", "--seats", "5", "--date", "+9d")
    with open_database(uri) as database:
        database.events.update_one({}, {"$inc": {"availableSeats": -1}})
    told = here(capsys, "recover", *form.split())

    assert told.code == 1
    assert "run `seatctl recover` again in a minute" in told.stderr


def test_no_exit_code_is_forgotten() -> None:
    """Each code that an error carries, and each that the help promises, is tried by a test here."""
    known = {leaf.exit_code for leaf in all_errors(errors.SeatctlError)}
    assert {0} | known == set(ENDINGS)
    promised = {int(number) for number in re.findall(r"\b\d+\b", app.info.epilog or "")}
    assert promised == {*ENDINGS, *SIGNALS}


def all_errors(root: type[errors.SeatctlError]) -> Iterator[type[errors.SeatctlError]]:
    if root is not errors.Interrupted:  # its code is the signal's
        yield root
    for leaf in root.__subclasses__():
        yield from all_errors(leaf)


@pytest.mark.parametrize(
    "uri",
    [
        NOBODY,
        "mongodb://no-such-host.invalid/?serverSelectionTimeoutMS=50",
        "mongodb://%2Fno%2Fsuch.sock/?serverSelectionTimeoutMS=50",
    ],
    ids=["refused", "no such host", "no such socket"],
)
def test_an_unreachable_server(uri: str, tmp_path: Path) -> None:
    """Whatever keeps the server away: exit 10, and one line that names the host and says why."""
    result = Shell({"HOME": str(tmp_path), "SEATCTL_URI": uri})("expire-locks")
    assert result.code == 10
    assert re.search(r"cannot reach MongoDB at (127|no-such-host|/no/such)\S+ \([\w ]+\)", one_line(result))
    assert result.stdout == ""


# --- interruptions ------------------------------------------------------------------------------------


def insert_overdue_bookings(database: Database[dict[str, Any]], event: str) -> None:
    database.bookings.insert_many(
        {
            "event": ObjectId(event),
            "user": lock["userId"],
            "seatLockId": lock["_id"],
            "status": "PAYMENT_PENDING",
            "paymentExpiresAt": PAST,
        }
        for lock in database.seatLocks.find()
    )


@pytest.mark.slow
@pytest.mark.parametrize("job", ["expire-locks", "expire-bookings", "recover"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_ends_between_two_transactions(
    shell: Shell, job: str, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM in mid-job: the run is logged as far as it came, no seat is lost, and the next
    run does the rest."""
    with database_of(shell) as database:
        event = insert_overdue(database, MANY, available=0, total=MANY)
        if job != "expire-locks":
            insert_overdue_bookings(database, event)
        with shell.started(job, "-v", "--batch-size", "10") as process:
            assert process.stderr
            next(line for line in process.stderr if "expired in this batch" in line)
            process.send_signal(number)
            said = process.stderr.read().splitlines()[-1]
        assert 128 + number == process.returncode

        [run] = database.jobLogs.find()
        expired = database.seatLocks.count_documents({"status": LockStatus.EXPIRED})
        assert 0 < expired < MANY
        processed = run["details"]["recordsProcessed"]
        assert processed == expired * (2 if job == "recover" else 1)
        assert expired == run["details"]["seatsRestored"] == run["details"]["locksExpired"]
        what = {"expire-locks": "locks", "expire-bookings": "bookings"}.get(job, "records")
        assert ("FAILED", f"interrupted after {processed} {what}") == (run["status"], run["error"])
        assert f"seatctl: interrupted after {processed} {what}" == said
        assert expired == database.events.find_one()["availableSeats"]
        if job != "expire-locks":
            assert expired == database.bookings.count_documents({"status": BookingStatus.EXPIRED})
        assert_sound(shell)
        shell.ok(job, "-q")
        assert database.events.find_one()["availableSeats"] == MANY
        assert {"FAILED", "SUCCESS"} == {run["status"] for run in database.jobLogs.find()}


def assert_sound(shell: Shell) -> None:
    store = open_store(shell.env["SEATCTL_URI"])
    assert find_all(store) == []
    store.deployment.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wait_for_the_database_can_be_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """A signal while `recover --wait` waits ends it at once, with the signal's code and one line."""
    shell = Shell({"HOME": str(tmp_path), "SEATCTL_URI": NOBODY})
    with shell.started("recover", "--wait", "1h", "-v") as process:
        assert process.stderr
        next(line for line in process.stderr if "waiting" in line)
        process.send_signal(number)
        *_, said = process.stderr.read().splitlines()
    assert 128 + number == process.returncode
    assert said.startswith("seatctl: ")
    assert "Traceback" not in said


# --- where the data live ------------------------------------------------------------------------------

NEVER_CREATE = ("expire-locks", "expire-bookings", "recover", "health", "verify")


@pytest.mark.parametrize("command", NEVER_CREATE)
def test_jobs_and_judges_never_create_a_database(command: str, tmp_path: Path) -> None:
    """A crontab that forgot the URI fails loudly, and leaves the home as empty as it was."""
    result = Shell({"HOME": str(tmp_path)})(command)
    assert result.code == 11
    assert "no database is configured" in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_jobs_and_judges_do_not_fill_an_empty_embedded_server(tmp_path: Path) -> None:
    """An embedded server that runs (as after `demo`) but holds no database is no database either."""
    shell = Shell({"HOME": str(tmp_path)})
    try:
        shell.ok("db", "start", "-q")
        for command in NEVER_CREATE:
            result = shell(command)
            assert result.code == 11
            assert "no database is configured" in one_line(result)
        with database_of(shell) as database:
            assert database.name not in database.client.list_database_names()
    finally:
        shell.ok("db", "stop", "-q")


def test_the_embedded_database_is_announced_when_it_is_there(tmp_path: Path) -> None:
    """The first command says where the data are now; one that cannot make them says only why not."""
    occupied = tmp_path / "file"
    occupied.touch()
    failed = Shell({"HOME": str(occupied)})("events")
    assert failed.code == 11
    assert one_line(failed).startswith(f"cannot create {occupied}")
    shell = Shell({"HOME": str(tmp_path)})
    try:
        created, empty = shell.ok("events").stderr.splitlines()
        assert re.match(rf"seatctl: created the embedded MongoDB in {tmp_path}/\S+; SEATCTL_URI", created)
        assert empty == "seatctl: nothing to show"
    finally:
        shell.ok("db", "stop", "-q")


def test_the_embedded_server_from_the_shell(tmp_path: Path) -> None:
    """`db` starts, shows and stops it in every form of output; the data stay."""
    shell = Shell({"HOME": str(tmp_path)})
    assert "was never started" in shell.ok("db", "status").stdout
    try:
        assert not shell.ok("db", "status", "--json").json["exists"]
        assert re.search(r"runs \(pid \d+\)", shell.ok("db", "start").stdout)
        assert shell.ok("db", "status", "--json").json["running"]
        assert shell.ok("db", "uri", "--json").json["uri"] == shell.ok("db", "uri", "-q").stdout.strip()
        event = shell.new_id("create-event", "Kept", "--seats", "1", "--date", "+1d")
        assert "is stopped" in shell.ok("db", "stop").stdout
        assert "was not running" in shell.ok("db", "stop").stdout
        assert "does not run" in shell.ok("db", "status").stdout
        assert event == shell.ok("events", "-q").stdout.strip()
    finally:
        assert shell.ok("db", "stop", "-q").stdout == ""


# --- demo and completion ------------------------------------------------------------------------------


def test_demo(replica: Server, shell: Shell) -> None:
    """`demo` tells the three scenarios with their numbers, leaves nothing behind, and does not touch the
    database that is configured."""
    told = shell.ok("demo", "--uri", replica.uri).stdout
    for numbers in ("100 → 95 → 100", "100 → 97 → 100", "93 → 100", "100 → 100, never 107", "\nhealthy\n"):
        assert numbers in told
    assert "WRONG" not in told
    assert "db stop" not in told, "of a server that is not ours"
    played = shell.ok("demo", "--uri", replica.uri, "--json").json
    assert played["ok"]
    assert len(played["scenarios"]) == 5
    with database_of(shell) as database:
        assert database.list_collection_names() == []
        assert not [name for name in database.client.list_database_names() if "seatctl_demo" in name]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("seatctl lock ", "{event}"),
        ("seatctl confirm ", "{lock}\n{free}"),
        ("seatctl pay ", "{waiting}"),
        ("seatctl sched", "schedule"),
    ],
)
def test_completion(story: Story, words: str, wanted: str) -> None:
    """The shell completes commands, and ids of what the command can be about."""
    asked = {"_SEATCTL_COMPLETE": "complete_bash", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    completed = story.shell.with_env(**asked)()
    assert set(wanted.format(**story.ids).split()) == set(completed.stdout.split())
    assert completed.stderr == ""


def test_completion_without_a_database(tmp_path: Path) -> None:
    """Where no database answers, nothing is completed, said or started."""
    asked = {"_SEATCTL_COMPLETE": "complete_bash", "COMP_WORDS": "seatctl lock ", "COMP_CWORD": "2"}
    for settings in ({}, {"SEATCTL_URI": NOBODY}, {"SEATCTL_URI": "nonsense"}):
        completed = Shell({"HOME": str(tmp_path), **settings, **asked})()
        assert (completed.stdout.strip(), completed.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


# --- help ---------------------------------------------------------------------------------------------


def all_commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = {" ".join(path): command for path, command in all_commands()}
ELSEWHERE = re.compile(r"demo|db |schedule|watch")
"""Commands whose examples are not for a database that is given: tried by tests of their own."""


def example_of(command: Any) -> list[str]:
    """The words of a help's example behind `seatctl` and the command's name."""
    shown = command.epilog.split("Example:")[1]
    return shlex.split(shown.strip())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_reads_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of purpose, options in groups, an example that the command accepts."""
    usage, _, purpose, after, *rest = here(capsys, *name.split(), "--help").stdout.splitlines()
    assert usage.startswith(f"Usage: seatctl {name}")
    assert here(capsys, *name.split(), "-h").stdout.splitlines()[3:] == [after, *rest]
    assert not re.search(r"\d:\d\d:\d\d|default: \(|<=", " ".join(rest)), "a default as nobody types it"
    assert purpose.startswith("  ")
    assert purpose.endswith(".")
    assert after == ""
    assert [line for line in rest if line.startswith("Common")] == ["Common options:"]
    words = example_of(COMMANDS[name])
    if "seatctl" in words:
        arguments = words[words.index("seatctl") + 1 :]
        arguments = arguments[: next((n for n, word in enumerate(arguments) if word in ">|&"), None)]
        assert arguments[: len(name.split())] == name.split()
        COMMANDS[name].make_context(name, arguments[len(name.split()) :])


@pytest.mark.parametrize("name", [name for name in COMMANDS if not ELSEWHERE.match(name)])
def test_each_example_works(trouble: Story, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help's examples do what they say, once the ids are real."""
    waiting = trouble.shell.ok("bookings", "-q").stdout.strip() if name == "pay" else ""
    real = {"EVENT_ID": trouble.ids["event"], "LOCK_ID": trouble.ids["lock"], "BOOKING_ID": waiting}
    _, *arguments = [real.get(word, word) for word in example_of(COMMANDS[name])]
    with database_of(trouble.shell) as database:
        database.seatLocks.delete_many({"expiresAt": PAST})
        database.events.delete_one({"_id": ObjectId(trouble.ids["damaged"])})
    result = here(capsys, *arguments, "--uri", trouble.shell.env["SEATCTL_URI"])
    assert result.code == (5 if name == "health" else 0), result


def test_the_list_of_commands_fits_its_lines(story: Story) -> None:
    """`seatctl --help` shows each command's whole purpose; alone, it is the help and a usage error."""
    shown = story.shell.ok("--help").stdout
    assert "..." not in shown.partition("Operate:")[2]
    assert max(map(len, shown.splitlines())) <= 80
    alone = story.shell()
    assert (2, "", shown) == (alone.code, alone.stdout, alone.stderr)
    assert story.shell("db").code == 2
