"""What commands print: tables, JSON and ids, in pipes and in a terminal, for every reader."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bson import ObjectId
from stories import (
    ID,
    Story,
    database_of,
    everything_once,
    insert_overdue,
    new_shell,
    one_line,
    open_database,
)
from terminal import AS_MODULE, Result, Shell, here

from seatctl import __version__
from seatctl.cli.options import LIST_LIMIT

if TYPE_CHECKING:
    from servers import Server

MORE_THAN_A_PIPE_HOLDS = 800


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    """The program with an empty database of a replica set configured."""
    return new_shell(database_uri, tmp_path)


@pytest.fixture(scope="module")
def story(replica: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with everything_once(replica, tmp_path_factory.mktemp("home")) as story:
        yield story


LISTS = {
    "events": "{event}",
    "locks": "{locks}",
    "locks --event {event} --status active --user 'buyer 2'": "{free}",
    "bookings": "{waiting}\n{paid}",
    "bookings --status CONFIRMED --limit 5": "{paid}",
    "jobs --all": "{runs}",
    "jobs --type recover": "{run}",
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
def test_a_list_or_document_names_the_same_ids_in_each_form_of_output(story: Story, line: str) -> None:
    """Every form names the same documents, and neither a narrow pipe nor a narrow terminal cuts an id; a
    narrow terminal may leave out ids of other documents, and says so."""
    wanted = set(LISTS[line].format(**story.ids).split())
    table, as_json, quiet, seen = forms(story.shell, story(line))
    assert [result.code for result in (table, as_json, quiet, seen)] == [0] * 4
    assert "" == table.stderr == as_json.stderr == quiet.stderr
    documents = as_json.json if isinstance(as_json.json, list) else [as_json.json]
    assert wanted == {document["_id"] for document in documents} == set(quiet.stdout.split())
    assert wanted <= set(ID.findall(table.stdout))
    left_out = set(ID.findall(table.stdout)) - set(ID.findall(seen.stdout))
    assert not left_out & wanted
    assert set(ID.findall(seen.stdout)) <= set(ID.findall(table.stdout))
    assert ("hidden for lack of width: " in seen.stdout) or not left_out
    assert "\x1b" not in table.stdout
    assert "\x1b[" in seen.stdout
    assert all(row.endswith("│") for row in table.stdout.splitlines() if row.startswith("│")), "wrapped"


@pytest.mark.parametrize("line", REPORTS)
def test_a_report_is_a_text_or_one_object_and_nothing_with_q_when_all_is_well(
    story: Story, line: str
) -> None:
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
def test_a_command_that_changes_a_document_tells_it_in_each_form_of_output(
    form: str, database_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence with the id, the document as stored, or only the id; the same when it is called again."""
    assert here(capsys, "init", "--uri", database_uri).code == 0
    ids: dict[str, str] = {}
    for name, line, state in MAKING:
        words = shlex.split(line.format(**ids)) + form.split()
        result = here(capsys, *words, "--uri", database_uri)
        assert (result.code, result.stderr) == (0, ""), line
        told = told_id(result.stdout, form, state)
        assert told == ids.setdefault(name, told)
    with open_database(database_uri) as database:
        assert database.events.find_one()["availableSeats"] == 7
        stored = [each for name in ("events", "seatLocks", "bookings") for each in database[name].find()]
        assert set(ids.values()) == {str(each["_id"]) for each in stored}


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
def test_an_empty_list_is_an_empty_array_for_a_program_and_a_remark_for_a_person(
    shell: Shell, command: str
) -> None:
    assert shell.ok(command, "--json").stdout == "[]\n"
    assert ((silent := shell.ok(command, "-q")).stdout, silent.stderr) == ("", "")
    name = shell.env["SEATCTL_URI"].rpartition("/")[2].partition("?")[0]
    assert one_line(shell.ok(command)) == f"nothing to show in database {name}"


def test_a_list_that_its_limit_cut_says_so_on_stderr(story: Story) -> None:
    assert one_line(story.shell.ok("locks", "--limit", "2")) == "2 rows shown; --limit 0 shows all"
    assert one_line(story.shell.ok("locks", "--limit", "1")) == "1 row shown; --limit 0 shows all"
    assert story.shell.ok("locks", "--limit", "0").stderr == ""


@pytest.mark.parametrize("command", ["events", "locks", "bookings", "jobs"])
def test_a_list_for_a_program_is_complete_unless_it_asks_for_less(
    shell: Shell, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person gets the first hundred and is told so; --json and -q get all, or what --limit says."""
    database_uri = shell.env["SEATCTL_URI"]
    collection = {"locks": "seatLocks", "jobs": "jobLogs"}.get(command, command)
    with open_database(database_uri) as database:
        database[collection].insert_many([{} for _ in range(LIST_LIMIT + 1)])
    listed = (command, "--uri", database_uri)

    assert len(here(capsys, *listed, "--json").json) == LIST_LIMIT + 1
    assert here(capsys, *listed, "-q").stdout.count("\n") == LIST_LIMIT + 1
    assert len(here(capsys, *listed, "--json", "--limit", "3").json) == 3
    shown = here(capsys, *listed)
    assert len(ID.findall(shown.stdout)) == LIST_LIMIT
    assert f"{LIST_LIMIT} rows shown" in one_line(shown)


def test_older_runs_are_left_out_of_jobs_and_of_its_summary(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_an_event_with_a_date_in_the_past_is_created_with_a_remark(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    create = ("create-event", "Yesterday", "--seats", "1", "--uri", shell.env["SEATCTL_URI"], "--date")
    late = here(capsys, *create, "2020-01-01")
    assert (late.code, one_line(late)) == (0, "warning: the date of this event is past: 2020-01-01T00:00:00Z")
    assert late.stdout.startswith("Created event")
    assert here(capsys, *create, "2020-01-01", "-q").stderr == ""
    assert here(capsys, *create, "+1d").stderr == ""


def test_init_check_reports_a_retention_that_differs(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = ("--uri", shell.env["SEATCTL_URI"])
    assert here(capsys, "init", "-q", *uri).code == 0
    assert here(capsys, "init", "--check", "--retention", "30d", *uri).code == 0
    differs = here(capsys, "init", "--check", "--retention", "60d", *uri)
    assert differs.code == 5
    assert "the job log is kept for 30d, not for 60d" in one_line(differs)
    assert here(capsys, "init", "--retention", "60d", *uri).stdout.startswith("changed jobLogs.retention\n")
    assert here(capsys, "init", "--check", "--retention", "60d", "--json", *uri).json["retention"] == "60d"


def test_metrics_and_json_cannot_both_be_on_stdout(shell: Shell) -> None:
    result = shell("health", "--prometheus", "-", "--json")
    assert (result.code, result.error["code"], result.stdout) == (2, "usage", "")


def test_a_failed_payment_says_how_many_seats_it_returned(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = ("--uri", shell.env["SEATCTL_URI"])
    event = here(capsys, "create-event", "Gala", "--seats", "9", "--date", "+1d", "-q", *uri).stdout.strip()
    lock = here(capsys, "lock", event, "--user", "ada", "--seats", "2", "-q", *uri).stdout.strip()
    booking = here(capsys, "confirm", lock, "-q", *uri).stdout.strip()
    first, again = (here(capsys, "pay", booking, "--failed", *uri).stdout for _ in range(2))
    assert first == f"Booking {booking} is FAILED; 2 seats returned.\n"
    assert again == f"Booking {booking} is already FAILED.\n"


def test_what_is_given_up_on_an_overbooked_event_ends_and_says_why_no_seats_come_back(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whichever command."""
    uri = ("--uri", shell.env["SEATCTL_URI"])
    event = here(capsys, "create-event", "Gala", "--seats", "90", "--date", "+1d", "-q", *uri).stdout.strip()

    def lock() -> str:
        return here(capsys, "lock", event, "--user", "ada", "--seats", "2", "-q", *uri).stdout.strip()

    def booking() -> str:
        return here(capsys, "confirm", lock(), "-q", *uri).stdout.strip()

    block = here(capsys, "block", event, "--seats", "2", "-q", *uri).stdout.strip()
    commands = {
        ("release", lock()): "no seats returned",
        ("pay", booking(), "--failed"): "no seats returned",
        ("unblock", block): "no seats returned",
        ("cancel", booking()): "no seats returned",
    }
    lock()
    with database_of(shell) as database:
        database.events.update_one({}, {"$set": {"totalSeats": 1, "availableSeats": 0}})
    for number, (command, what) in enumerate(commands.items()):
        said = here(capsys, *command, *uri).stdout
        why = f"No counter was raised: event {event}: locks hold {10 - 2 * number} of 1 seat; see "
        assert f"{what}. {why}`seatctl verify`.\n" in said


def test_a_refund_of_an_unknown_number_of_seats_says_so(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a booking of another program's whose lock is gone."""
    uri = ("--uri", shell.env["SEATCTL_URI"])
    event = here(capsys, "create-event", "Gala", "--seats", "9", "--date", "+1d", "-q", *uri).stdout.strip()
    here(capsys, "lock", event, "--user", "ada", "--seats", "1", *uri)
    booking = ObjectId()
    with database_of(shell) as database:
        fields = {"user": "bob", "seatLockId": ObjectId(), "status": "CONFIRMED"}
        database.bookings.insert_one({"_id": booking, "event": ObjectId(event), **fields})
    said = here(capsys, "cancel", str(booking), *uri).stdout
    listed, as_csv = (here(capsys, "refunds", *form, *uri).stdout for form in ((), ("--format", "csv")))

    assert "no seats returned, its lock is missing, refund due (" in said
    assert ", an unknown number of seats)." in said
    assert " unknown " in listed
    assert f",{event},bob,,CANCELLED," in as_csv


def test_an_error_in_a_terminal_is_one_line_that_the_terminal_wraps(tmp_path: Path) -> None:
    """So that a command in it can be copied whole."""
    shown = Shell({"HOME": str(tmp_path), "TERM": "xterm"}).tty("expire-locks", columns=40)
    assert shown.code == 11
    assert shown.stdout.count("\n") == 1
    assert len(shown.stdout) > 100


def test_json_has_stored_names_hex_ids_and_times_in_utc(story: Story) -> None:
    [event] = story.shell.ok("events", "--json").json
    assert story.ids["event"] == event["_id"]
    assert event["name"] == "Soirée ☃"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", event["eventDate"])
    assert tuple(event[name] for name in ("availableSeats", "locked", "sold", "totalSeats")) == (6, 2, 1, 9)


def test_no_color_removes_colours_and_a_dumb_terminal_every_escape_sequence(story: Story) -> None:
    colour = re.compile(r"\x1b\[[\d;]*3\d")
    assert colour.search(story.shell.with_env(TERM="xterm").tty("locks").stdout)
    assert not colour.search(story.shell.with_env(TERM="xterm", NO_COLOR="1").tty("locks").stdout)
    dumb = story.shell.with_env(TERM="dumb").tty("locks")
    assert dumb.code == 0
    assert "\x1b" not in dumb.stdout


def test_json_in_a_terminal_is_still_json(story: Story) -> None:
    shown = story.shell.with_env(TERM="xterm").tty("events", "--json").stdout
    assert story.ids["event"] == json.loads(shown)[0]["_id"]


@pytest.mark.parametrize(
    "settings",
    [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
    + [{"PYTHONIOENCODING": name} for name in ("ascii", "latin-1")],
    ids=lambda settings: " ".join(settings.values()),
)
def test_a_letter_that_the_encoding_lacks_is_escaped(story: Story, settings: dict[str, str]) -> None:
    shell = story.shell.with_env(**settings)
    assert story.ids["event"] in shell.ok("events").stdout
    assert shell.ok("events", "--json").json[0]["name"] == "Soirée ☃"


def test_a_reader_that_leaves_early_causes_no_noise_and_no_success(shell: Shell) -> None:
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


def test_a_file_gets_the_same_as_a_pipe_whatever_the_width_of_the_window(
    story: Story, tmp_path: Path
) -> None:
    piped = story.shell.ok("jobs", "--all").stdout
    assert story.shell.with_env(COLUMNS="40").pipeline(f"seatctl jobs --all > {tmp_path}/jobs").code == 0
    assert piped == (tmp_path / "jobs").read_text()


@pytest.mark.parametrize(
    ("output", "why"), [("/dev/full", "No space left on device"), ("&-", "it is closed")]
)
def test_a_result_that_cannot_be_written_is_a_failure_that_says_that_all_is_done(
    shell: Shell, output: str, why: str
) -> None:
    shell.ok("init")
    event = shell.ok("create-event", "Gala", "--seats", "9", "--date", "+1d", "-q").stdout.strip()
    for command in (f"lock {event} --user u --seats 1", f"lock {event} --user u --seats 1 -q", "locks"):
        result = shell.pipeline(f"seatctl {command} >{output}")
        assert result.code == 1
        assert one_line(result) == f"the output cannot be written: {why}; the command itself is done"
    assert len(shell.ok("locks", "-q").stdout.split()) == 2
    assert shell.pipeline(f"seatctl expire-locks -q >{output}").code == 0
    assert shell.pipeline(f"seatctl lock {event} --user u --seats 8 >{output}").code == 3


@pytest.mark.parametrize("output", ["/dev/full", "&-"])
def test_a_story_that_cannot_be_written_changes_neither_the_work_nor_the_code(
    shell: Shell, output: str
) -> None:
    with database_of(shell) as database:
        event = insert_overdue(database, 7, available=93)
    swept = shell.pipeline(f"seatctl expire-locks -v 2>{output}")
    assert (swept.code, swept.stdout.split(",")[0]) == (0, "LOCK_EXPIRY: 7 locks expired")
    assert shell.pipeline(f"seatctl lock {event} --user u --seats 101 2>{output}").code == 3
    assert shell.pipeline(f"seatctl locks --no-such-option 2>{output}").code == 2


def test_nothing_is_said_about_warnings_of_python_even_where_they_are_errors(story: Story) -> None:
    strict = story.shell.with_env(PYTHONWARNINGS="error")
    assert strict.ok("locks").stderr == ""


def test_verbose_logs_each_step_with_its_time_on_stderr(shell: Shell) -> None:
    with database_of(shell) as database:
        event = insert_overdue(database, 7, available=93)
    result = shell.ok("expire-locks", "-v", "-q")
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[INFO\] ", line) for line in lines)
    assert f"event {event}: 93 → 100 seats available" in result.stderr
    assert re.search(r"the server's time is \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\n", result.stderr)


def test_verbose_logs_what_became_of_counters_and_states(shell: Shell) -> None:
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


def test_verify_of_an_empty_database_succeeds_with_a_remark(shell: Shell) -> None:
    assert "is empty; check its name if it should not be" in one_line(shell.ok("verify"))
    shell.new_id("create-event", "Gala", "--seats", "10", "--date", "+1d")
    assert shell.ok("verify").stderr == ""


def test_the_summary_of_recover_has_the_counters_that_it_corrects_or_would(shell: Shell) -> None:
    with database_of(shell) as database:
        insert_overdue(database, 1, available=92)
    assert "1 counter would be corrected (" in shell("recover", "--dry-run").stdout
    assert "1 seat returned, 1 counter corrected (" in shell.ok("recover").stdout
    assert "counter" not in shell.ok("recover").stdout


def test_a_plan_of_recover_that_changes_nothing_says_so(shell: Shell) -> None:
    """What needs a person is none of its work; of such a fault `explain` says what comes after the decision,
    with the ids filled in."""
    event = shell.new_id("create-event", "Gala", "--seats", "10", "--date", "+1d")
    lock = shell.new_id("lock", event, "--user", "ann", "--seats", "4")
    with database_of(shell) as database:
        database.seatLocks.update_one({"_id": ObjectId(lock)}, {"$set": {"status": "CONSUMED"}})

    plan = shell("recover", "--dry-run")
    explained = shell.ok("explain", "consumed_without_booking").stdout

    assert plan.code == 5
    said = "recover would change nothing; 1 violation needs a person to decide; `seatctl verify`"
    assert said in one_line(plan)
    assert f"(`seatctl history {lock}`)" in explained
    assert explained.splitlines()[-1].startswith("Then run `seatctl recover`")


def test_seats_that_no_lock_explains_are_shown_in_the_list_of_events(shell: Shell) -> None:
    event = shell.new_id("create-event", "Gala", "--seats", "20", "--date", "+1d")
    lock = shell.new_id("lock", event, "--user", "ann", "--seats", "4")
    assert "unaccounted" not in shell.ok("events").stdout
    with database_of(shell) as database:
        database.seatLocks.update_one({"_id": ObjectId(lock)}, {"$set": {"seats": "four"}})

    header, row = (
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shell.ok("events").stdout.splitlines()[1:4:2]
    )
    cells = dict(zip(header, row, strict=True))
    assert [cells[name] for name in ("available", "locked", "sold", "unaccounted", "total")] == [
        "16",
        "0",
        "0",
        "4",
        "20",
    ]


def test_an_event_on_a_new_database_of_a_server_asks_for_init(shell: Shell) -> None:
    with database_of(shell) as database:
        database.client.drop_database(database.name)
    create = ("create-event", "Gala", "--seats", "10", "--date", "+1d")
    assert "has no indexes or validators yet: run `seatctl init`" in one_line(shell.ok(*create))
    assert shell.ok(*create).stderr == ""


@pytest.mark.parametrize("line", ["events", "locks", "bookings", "jobs", "verify"])
def test_common_options_come_in_any_order_after_the_name(
    story: Story, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = story.shell.env["SEATCTL_URI"]
    options = [["--uri", uri], ["--json"], [f"--database={uri.rpartition('/')[2].partition('?')[0]}"], ["-q"]]
    for start in range(len(options)):
        turned = [word for option in options[start:] + options[:start] for word in option]
        result = here(capsys, line, *turned)
        assert result.code == 0
        assert result.json


def test_the_module_is_the_program_and_needs_no_environment(story: Story) -> None:
    module = replace(story.shell, program=AS_MODULE)
    assert story.ids["event"] == module.ok("events", "-q").stdout.strip()
    bare = Shell(program=AS_MODULE).ok("events", "-q", "--uri", story.shell.env["SEATCTL_URI"])
    assert story.ids["event"] == bare.stdout.strip()
    assert f"seatctl {__version__}\n" == module.ok("--version").stdout
