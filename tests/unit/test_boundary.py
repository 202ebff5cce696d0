"""Whatever is raised, a person reads one line that says what is wrong, and a script a documented code."""

import io
import os
import re
import signal

import pytest
from pymongo import errors as driver
from terminal import here

from seatctl import errors
from seatctl.cli import streams
from seatctl.cli.invocation import Invocation
from seatctl.services import jobs  # noqa: F401 - so that every error of ours is known

CODES = {0, 1, 2, 3, 4, 5, 10, 11}


def all_of(root):
    """A class, and all those below it."""
    return [root, *(each for below in root.__subclasses__() for each in all_of(below))]


OURS = [error for error in all_of(errors.SeatctlError) if error is not errors.Interrupted]
DETAILS = {"errmsg": "no", "code": 1, "writeErrors": [], "writeConcernErrors": []}


def of_driver(kind):
    """An error of the driver, as it raises it."""
    if issubclass(kind, driver.BulkWriteError):
        return kind(DETAILS)
    if issubclass(kind, driver.ClientBulkWriteException):
        return kind({"error": None}, verbose=False)
    if issubclass(kind, driver.EncryptedCollectionError):
        return kind(ValueError("no"), {})
    if issubclass(kind, driver.EncryptionError):
        return kind(ValueError("no"))
    return kind("no")


def shown(monkeypatch, capsys, error):
    """What a command says that meets this error."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Invocation, "store", fail)
    told, as_json = here(capsys, "events"), here(capsys, "events", "--json")
    assert told.code == as_json.code == as_json.error["exitCode"]
    assert (told.stdout, as_json.stdout) == ("", "")
    assert re.fullmatch(r"seatctl: .{2,}\n", told.stderr)
    return told, as_json.error


@pytest.mark.parametrize("kind", OURS)
def test_no_error_of_ours_is_told_by_a_name_that_only_the_code_knows(monkeypatch, capsys, kind):
    told, error = shown(monkeypatch, capsys, kind())

    assert told.code in CODES - {0}
    assert kind.__name__ not in told.stderr
    assert re.fullmatch("[a-z_]+", error["code"])


@pytest.mark.parametrize("kind", [errors.StaleRead, errors.CursorLost, errors.Contention])
def test_what_starts_over_within_the_program_asks_for_another_try_when_it_gets_out(monkeypatch, capsys, kind):
    told, error = shown(monkeypatch, capsys, kind())

    assert "try again" in told.stderr.lower()
    assert error["code"] in {"contention", "cursor_lost"}


@pytest.mark.parametrize("kind", all_of(driver.PyMongoError))
def test_no_error_of_the_driver_is_a_traceback(monkeypatch, capsys, kind):
    told, error = shown(monkeypatch, capsys, of_driver(kind))

    assert told.code in CODES - {0}
    if issubclass(kind, driver.ConnectionFailure):
        assert (told.code, error["code"]) == (10, "unreachable")


@pytest.mark.parametrize("code", [64, 91, 100, 189, 11602])
def test_a_majority_that_is_missing_is_an_unknown_outcome(monkeypatch, capsys, code):
    told, error = shown(monkeypatch, capsys, driver.WriteConcernError("no", code, {"errmsg": "no"}))

    assert (told.code, error["code"]) == (10, "outcome_unknown")
    assert "repeat the command, with the same --key" in told.stderr


def test_what_nobody_thought_of_says_where_to_look(monkeypatch, capsys):
    told, error = shown(monkeypatch, capsys, RuntimeError("odd"))

    assert (told.code, error["code"]) == (1, "error")
    assert "RuntimeError: odd" in told.stderr


def test_a_line_gets_out_at_once_also_with_pythonunbuffered():
    """Containers set it. What `follow` warns of must not wait for its end."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with io.FileIO(reader) as read, io.FileIO(writer, "w") as write:
        unbuffered = io.TextIOWrapper(io.BufferedWriter(write), write_through=True)
        stream = streams._open_stream(unbuffered, writer)
        print("connection lost", file=stream)
        assert read.read() == b"connection lost\n"


@pytest.mark.parametrize("line", ["--version", "nonsense"])
def test_signals_mean_after_a_command_line_what_they_meant_before(capsys, line):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    here(capsys, line)

    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
