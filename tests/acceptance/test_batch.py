"""Many commands in one process: the same as each of them in a shell."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import open_store
from stories import NOBODY, database_of, new_event, new_lock, new_shell, one_line
from terminal import Result, Shell, here

from seatctl.cli.app import program
from seatctl.cli.batch_lines import NOT_HERE
from seatctl.services.sales import ConfirmRequest, confirm
from seatctl.services.verify import verify

if TYPE_CHECKING:
    from servers import Server

Batch = Callable[..., Result]
SALE = """\
# A sale
EVENT = create-event "Spring gala" --seats 4 --date 2027-05-01T19:30Z
LOCK = lock $EVENT --user ada --seats 3 --key order-1
!3 lock "$EVENT" --user bob --seats 2
BOOKING = confirm $LOCK
pay $BOOKING
! release ${LOCK}   # it is sold
verify
"""


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    return new_shell(database_uri, tmp_path)


@pytest.fixture
def batch(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Batch:
    """Runs lines in this process, on an empty database."""
    monkeypatch.setenv("SEATCTL_URI", shell.env["SEATCTL_URI"])

    def run(text: str, *options: str) -> Result:
        file = tmp_path / "lines.txt"
        file.write_text(text)
        return here(capsys, "batch", str(file), *options)

    return run


def told(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_batch_prints_a_line_of_json_for_each_of_its_lines(batch: Batch) -> None:
    result = batch(SALE)
    assert result.code == 0, result
    assert re.fullmatch(r"seatctl: 7 lines, all as expected \(\d+\.\d s\)\n", result.stderr)
    lines = told(result)
    assert [line["line"] for line in lines] == [2, 3, 4, 5, 6, 7, 8]
    assert [(line["exitCode"], line["expected"]) for line in lines] == [
        *((0, 0), (0, 0), (3, 3), (0, 0), (0, 0), (3, "failure"), (0, 0))
    ]
    event, lock, refused, *_, verified = lines
    assert lock["command"] == f"lock {event['result']['_id']} --user ada --seats 3 --key order-1"
    assert lock["result"]["seats"] == 3
    assert "result" not in refused
    assert refused["error"]["code"] == "sold_out"
    assert verified["result"]["consistent"]


def test_json_is_one_list_and_quiet_the_ids_that_lines_made(batch: Batch) -> None:
    as_json = batch(SALE, "--json")
    assert [line["line"] for line in as_json.json] == [2, 3, 4, 5, 6, 7, 8]
    assert as_json.stderr == ""
    quiet = batch(SALE, "-q")
    event, lock, booking, paid = quiet.stdout.split()
    assert len({event, lock, booking}) == 3
    assert (booking, quiet.stderr) == (paid, "")


def test_an_unexpected_end_is_named_with_its_line_and_the_rest_is_run(batch: Batch) -> None:
    result = batch(SALE.replace("!3 lock", "lock").replace("pay", "!4 pay"))
    assert result.code == 1
    assert len(told(result)) == 7
    words = one_line(result)
    assert words.startswith("2 of 7 lines did not end as expected: line 4 (exit code 3, expected 0: event ")
    assert "line 6 (exit code 0, expected 4)" in words


def test_stop_on_error_runs_nothing_behind_the_first_unexpected_end(batch: Batch) -> None:
    result = batch(SALE.replace("!3 lock", "lock"), "--stop-on-error")
    assert (result.code, len(told(result))) == (1, 3)
    assert one_line(result).endswith("; stopped at line 4, 4 lines not run")


def test_a_line_whose_name_has_no_value_is_not_run(batch: Batch) -> None:
    result = batch(f"X = show {'a' * 24}\n! release $X\nY = verify\n")
    assert result.code == 1
    failed, missing, no_id = told(result)
    assert (failed["exitCode"], missing["exitCode"], missing["error"]["code"]) == (4, None, "no_value")
    assert (no_id["exitCode"], no_id["error"]["message"]) == (0, "it printed no id, or several")
    assert one_line(result).startswith("3 of 3 lines")


def test_a_name_may_keep_the_only_id_of_a_list(batch: Batch) -> None:
    result = batch(
        "create-event Gala --seats 4 --date +1d\nE = events --limit 1\nlock $E --user ada --seats 4\n"
    )
    assert result.code == 0, result


@pytest.mark.parametrize("option", ["--check", "-q"])
def test_nothing_is_run_where_a_line_cannot_be_read(option: str, batch: Batch, shell: Shell) -> None:
    result = batch(SALE + "lokc\nrelease $NOTHING\n", option)
    assert (result.code, result.stdout) == (2, "")
    words = one_line(result)
    assert words.startswith("2 lines cannot be parsed, nothing was run; line 9: no such command 'lokc'")
    assert "line 10: $NOTHING has no value" in words
    with database_of(shell) as database:
        assert database.events.count_documents({}) == 0


def test_check_says_how_many_lines_can_be_run(batch: Batch, shell: Shell) -> None:
    assert batch(SALE, "--check").stdout == "7 lines can be run.\n"
    assert batch(SALE, "--check", "--json").json == {"lines": 7}
    with database_of(shell) as database:
        assert database.events.count_documents({}) == 0


def test_it_reads_standard_input_and_no_line_reads_what_is_behind_it(shell: Shell) -> None:
    piped = shell.pipeline(
        "printf 'verify\\nhealth\\n' | seatctl batch; printf 'verify\\n' | seatctl batch -"
    )
    assert [json.loads(line)["line"] for line in piped.stdout.splitlines()] == [1, 2, 1]


def test_standard_input_that_is_closed_has_no_lines(shell: Shell) -> None:
    closed = shell.pipeline("seatctl batch <&-")
    assert (closed.code, closed.stderr.startswith("seatctl: 0 lines, ")) == (0, True), closed


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"\xff\n", "is not UTF-8 text")], ids=["missing", "bytes"]
)
def test_a_file_that_cannot_be_read_is_a_usage_error(
    content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "lines").write_bytes(content)
    result = here(capsys, "batch", str(tmp_path / "lines"))
    assert result.code == 2
    assert words in one_line(result)


def test_an_empty_batch_is_done(batch: Batch) -> None:
    result = batch("# nothing\n")
    assert (result.code, result.stdout) == (0, "")


def test_the_options_of_batch_are_those_of_lines_that_have_none(
    batch: Batch, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEATCTL_URI")
    uri = shell.env["SEATCTL_URI"]
    result = batch(f"verify\n!10 verify --uri {NOBODY}\n!11 verify --database never_used\n", "--uri", uri)
    assert result.code == 0, result


def test_no_password_of_a_line_is_printed(batch: Batch) -> None:
    uri = NOBODY.replace("://", "://ada:s3cret-pony@")
    result = batch(f"verify --uri {uri}\n")
    assert result.code == 1
    assert "s3cret-pony" not in result.stdout + result.stderr


def test_verbose_lines_tell_their_story_and_only_theirs(batch: Batch) -> None:
    result = batch("expire-locks -v\nexpire-bookings\n")
    assert "LOCK_EXPIRY on database" in result.stderr
    assert "BOOKING_EXPIRY on database" not in result.stderr


def test_a_database_is_checked_again_behind_what_may_change_it(batch: Batch, shell: Shell) -> None:
    """`adopt` moves the locks: what comes after it works on them."""
    with database_of(shell) as database:
        event = database.events.insert_one({"name": "G", "totalSeats": 9, "availableSeats": 9}).inserted_id
        database.seatlocks.insert_one({"eventId": event, "status": "EXPIRED", "seats": 1})
        database.create_collection("bookings")
    result = batch("!11 verify\nadopt --yes\nverify\n")
    assert result.code == 0, result


# --- the same as in a shell -------------------------------------------------------------------------------


def examples() -> dict[str, str]:
    """Of each command that a batch takes, the example of its help, as far as it is one command."""
    found = {}
    for name, command in program.commands.items():
        leaves = getattr(command, "commands", {"": command})
        for leaf in leaves.values() if name not in NOT_HERE else ():
            shown = leaf.epilog.split("Example:")[1].strip().replace("\\\n", "").partition("seatctl ")[2]
            found[f"{name} {leaf.name}" if leaf is not command else name] = re.split(r" [|>&]", shown)[0]
    return found


EXAMPLES = examples()
VARIABLE = re.compile(
    r'[0-9a-f]{24}|\d{4}-\d\d-\d\dT[\d:.]+Z|"duration": \d+|\d+ ms|"(?:executedAt|checkedAt)"'
)


def ready(uri: str) -> dict[str, str]:
    """A database on which every example finds what it needs."""
    store = open_store(uri)
    store.init()
    event = new_event(store, "Gala", 9)
    lock, booked = (new_lock(store, event, "ada").id for _ in range(2))
    booking = confirm(store, ConfirmRequest(booked)).booking.id
    store.deployment.close()
    return {"EVENT_ID": str(event), "LOCK_ID": str(lock), "BOOKING_ID": str(booking)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_of_a_help_does_the_same_in_a_batch_as_in_a_shell(
    name: str,
    replica: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same exit code, and the same document or error."""
    ended = []
    for way in ("shell", "batch"):
        database = f"test_batch_{way}_{abs(hash((name, str(tmp_path)))) % 10**9}"
        uri = replica.uri.replace("/?", f"/{database}?")
        monkeypatch.setenv("SEATCTL_URI", uri)
        monkeypatch.chdir(tmp_path)
        ids = ready(uri)
        line = re.sub(r"\b[A-Z]+_ID\b", lambda found, ids=ids: ids.get(found[0], "a" * 24), EXAMPLES[name])
        if way == "shell":
            words, other = shlex.split(line), "--format" in line
            result = here(capsys, *words, *([] if other else ["--json"]))
            error = json.loads(result.stderr)["error"] if result.code else None
            printed: Any = result.stdout if other else result.stdout and json.loads(result.stdout)
            ended.append((result.code, error, None if printed == "" else printed))
        else:
            (tmp_path / "lines").write_text(f"{line}\n")
            [outcome] = told(here(capsys, "batch", "lines"))
            ended.append((outcome["exitCode"], outcome.get("error"), outcome.get("result")))
        with replica.client() as client:
            client.drop_database(database)
    shell, batch = (VARIABLE.sub("X", json.dumps(each).replace("_shell_", "_batch_")) for each in ended)
    assert shape(shell) == shape(batch)


def shape(document: str) -> str:
    """Without numbers that differ from run to run."""
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "N", document)


# --- interruption -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_between_two_lines_and_says_at_which(
    number: signal.Signals, shell: Shell, tmp_path: Path
) -> None:
    event = shell.new_id("create-event", "Gala", "--seats", "5000", "--date", "+1d")
    (tmp_path / "lines").write_text(f"lock {event} --user ada --seats 1\n" * 5000)
    with shell.started("batch", str(tmp_path / "lines")) as process:
        assert process.stdout
        assert process.stderr
        seen = [json.loads(next(process.stdout)) for _ in range(3)]
        process.send_signal(number)
        seen += [json.loads(line) for line in process.stdout]
        said = process.stderr.read().splitlines()[-1]
    assert process.returncode == 128 + number
    assert [line["exitCode"] for line in seen] == [0] * len(seen)
    assert len(seen) < 5000
    assert said == f"seatctl: interrupted after line {len(seen)}, {5000 - len(seen)} lines not run"
    with database_of(shell) as database:
        assert database.seatLocks.count_documents({}) == len(seen)
    store = open_store(shell.env["SEATCTL_URI"])
    assert list(verify(store)) == []
    store.deployment.close()


def test_a_reader_that_leaves_does_not_stop_the_lines(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("create-event Gala --seats 1 --date +1d\n" * 20)
    ended = shell.pipeline(f"set -o pipefail; seatctl batch {tmp_path}/lines | head -1")
    assert ended.stdout.count("\n") == 1
    with database_of(shell) as database:
        assert database.events.count_documents({}) == 20


def test_a_terminal_gets_a_bar_while_the_lines_go_to_a_file(shell: Shell, tmp_path: Path) -> None:
    event = shell.new_id("create-event", "Gala", "--seats", "5000", "--date", "+1d")
    (tmp_path / "lines").write_text(f"lock {event} --user ada --seats 1\n" * 1000)
    program = ("/bin/sh", "-c", f'"{shell.program[0]}" batch "$1" > "$1.out"', "sh")
    shown = Shell({**shell.env, "TERM": "xterm"}, program).tty(str(tmp_path / "lines"))
    assert shown.code == 0, shown
    assert re.search(r"lines .*\d+ of 1000, ", shown.stdout)
    assert (tmp_path / "lines.out").read_text().count("\n") == 1000
