"""The files of the embedded MongoDB: where it lives, and which binary it is."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from seatctl.errors import Misconfigured
from seatctl.mongo import embedded


@pytest.fixture
def home(monkeypatch):
    """An empty home directory with a short path."""
    directory = Path(tempfile.mkdtemp(prefix="seatctl-"))
    monkeypatch.setenv("HOME", str(directory))
    yield directory
    shutil.rmtree(directory)


# --- where it lives ------------------------------------------------------------------------------------


def test_it_is_in_the_users_data_directory_by_the_xdg_rules(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/u")
    assert embedded.files().data == Path("/home/u/.local/share/seatctl")

    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert embedded.files().data == Path("/data/seatctl")

    monkeypatch.setattr(sys, "platform", "darwin")
    assert embedded.files().data == Path("/home/u/Library/Application Support/seatctl")


def test_without_home_the_users_entry_in_the_password_file_counts(monkeypatch):
    monkeypatch.delenv("HOME")

    assert embedded.files().data.is_absolute()


def test_a_user_without_home_and_account_is_a_matter_of_configuration(monkeypatch):
    """As in a container with a number for a user."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_123)

    with pytest.raises(Misconfigured, match=r"user 4000123 has no home directory.*set SEATCTL_URI or HOME"):
        embedded.files()


def test_a_home_that_cannot_be_entered_is_a_matter_of_configuration(home):
    """Root may enter every directory: a link that leads nowhere stands for one that others may not."""
    (home / ".local").symlink_to(home / ".local")
    assert (embedded.exists(), embedded.stop()) == (False, False)

    with pytest.raises(Misconfigured, match=r"cannot create .*; set SEATCTL_URI instead"):
        embedded.ensure_running()


@pytest.mark.parametrize(("directory", "used"), [("/run/user/1", True), ("/r" + "x" * 99, False)])
def test_a_long_homes_socket_is_in_the_runtime_directory_unless_that_is_long(monkeypatch, directory, used):
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    places = []
    for name in ("x", "y"):
        monkeypatch.setenv("HOME", "/" + name * 120)
        places.append(embedded.files())

    assert [str(where.runtime).startswith(directory) for where in places] == [used, used]
    assert places[0].runtime != places[1].runtime
    assert max(len(os.fsencode(where.socket)) for where in places) <= embedded.SOCKET_PATH_LIMIT


def test_a_socket_has_no_comma_in_its_path_which_ends_an_address(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a,b")
    assert embedded.files().runtime.parent == Path("/tmp")  # noqa: S108 - nothing is created
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/c,d")
    assert "," not in str(embedded.files().socket)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert embedded.files().runtime.parent == Path("/run/user/1")


def test_a_directory_of_another_user_is_not_used(home, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)

    with pytest.raises(Misconfigured, match="belongs to another user"):
        embedded._private(home)


def test_a_link_instead_of_a_directory_is_not_used(home):
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")

    with pytest.raises(Misconfigured, match="belongs to another user"):
        embedded._private(home / "link")


def test_a_directory_that_cannot_be_created_is_named_with_the_way_around(home):
    (home / "file").touch()

    with pytest.raises(Misconfigured, match=r"cannot create .*set SEATCTL_URI instead"):
        embedded._private(home / "file" / "data")


# --- the binary ----------------------------------------------------------------------------------------


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file or directory"),
        ("echo I am no database", "it is not a mongod"),
        ("echo mongod: libssl.so.1.1 is missing >&2; exit 127", "libssl.so.1.1 is missing"),
    ],
)
def test_a_chosen_binary_that_does_not_work_is_named_and_nothing_else_is_tried(home, monkeypatch, text, says):
    chosen = home / "mongod"
    if text is not None:
        script(chosen, text)
    monkeypatch.setenv("SEATCTL_MONGOD", str(chosen))

    with pytest.raises(Misconfigured, match=f"SEATCTL_MONGOD={chosen} cannot be used: .*{says}"):
        embedded.ensure_running()


def test_without_any_mongod_one_message_says_how_to_get_one(home, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(sys, "path", [])

    with pytest.raises(Misconfigured, match=r"none found.*\[embedded\].*SEATCTL_URI to a"):
        embedded.ensure_running()


def test_each_mongod_that_was_tried_is_named_with_the_reason(home, monkeypatch):
    package = home / "site" / "fiftyone" / "db" / "bin"
    package.mkdir(parents=True)
    script(package / "mongod", "echo broken package >&2; exit 1")
    script(home / "mongod", "exit 1")
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "path", [str(home / "site")])

    with pytest.raises(Misconfigured) as raised:
        embedded.ensure_running()
    assert f"{home / 'mongod'}: it is not a mongod" in str(raised.value)
    assert f"{package / 'mongod'}: broken package" in str(raised.value)


def test_the_chosen_binary_wins_over_path_and_path_over_the_package(home, monkeypatch):
    works = "echo db version v7"
    on_path, chosen = script(home / "mongod", works), script(home / "chosen", works)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    assert embedded.find_mongod(embedded.files())[0] == on_path

    monkeypatch.setenv("SEATCTL_MONGOD", str(chosen))
    assert embedded.find_mongod(embedded.files())[0] == chosen
