"""The README is held against the program: its commands run, and print what it says they print."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import open_store
from examples import (
    DOCUMENTS,
    GUIDES,
    README,
    blocks,
    known_commands,
    mentions,
    options_in,
    play,
    play_session,
    roles_of_the_guide,
    rows,
    section,
    users_of_the_guide,
)
from pymongo import MongoClient
from servers import Server
from stories import new_event

from seatctl.domain.documents import UserId
from seatctl.help import TOPICS
from seatctl.mongo.schema import OWN, STATE
from seatctl.mongo.settings import SETTINGS
from seatctl.mongo.store import Store
from seatctl.ops.schedules import NEXT_COMMANDS
from seatctl.services import payments, sales
from seatctl.services.blocks import BlockRequest
from seatctl.services.blocks import block as take_off_sale
from seatctl.services.cancellation import CancelRequest, cancel
from seatctl.services.sales import ConfirmRequest, confirm

LONGEST = 320
PASSWORD = "c0rrect-horse"  # noqa: S105 - of a server that lives as long as the test


def test_the_readme_begins_with_its_title_a_sentence_and_two_blocks_of_one_command() -> None:
    before, _, rest = README.partition("```")
    assert re.match(r"# seatctl\n\nSeat inventory[^#]+\.\n", before)
    assert rest.startswith("sh\n")
    install, test = (block.strip() for block in blocks(README)[:2])
    assert re.fullmatch(r"python3 -m venv .*pip install .*seatctl demo", install)
    assert re.fullmatch(r".*pip install .*python -m pytest", test)
    assert len(README.splitlines()) <= LONGEST


def test_each_command_of_the_tour_prints_what_stands_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    play_session(README, tmp_path)


@pytest.mark.parametrize(("command", "rest"), mentions(DOCUMENTS.values()))
def test_a_mentioned_command_line_names_a_command_and_options_that_exist(command: str, rest: str) -> None:
    known = known_commands()
    assert command in known
    assert options_in(rest) <= known[command]


def test_no_command_is_missing() -> None:
    mentioned = {command.split()[0] for command, _ in mentions(DOCUMENTS.values())}
    mentioned |= set(re.findall(r"`([a-z-]+)`", "".join(DOCUMENTS.values())))
    assert {name.split()[0] for name in known_commands()} <= mentioned


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_block_for_a_shell_is_one_that_bash_can_read(name: str) -> None:
    for block in blocks(DOCUMENTS[name], "sh"):
        checked = subprocess.run(["bash", "-n", "-c", block], capture_output=True, text=True, check=False)  # noqa: S607
        assert (checked.returncode, checked.stderr) == (0, ""), block


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_file_that_is_named_exists(name: str) -> None:
    project = Path(__file__).parents[2]
    named = set(re.findall(r"(?<![./\w])((?:seatctl|tests)/[\w/]+(?:\.\w+)?)", DOCUMENTS[name]))
    assert not [path for path in named if not (project / path).exists()]


def test_the_readme_links_to_each_guide_in_both_forms() -> None:
    linked = {
        cells[0].partition("(")[2].partition(")")[0]: cells[1] for cells in rows(section(README, "Guides"))
    }
    assert linked == {f"seatctl/help/{topic}.md": f"`seatctl help {topic}`" for topic in TOPICS}


# --- the set-up on a server, as it stands there -----------------------------------------------------


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A replica set with authentication, with the roles and users of the guide."""
    key = tmp_path_factory.mktemp("auth") / "key"
    key.write_text("bm90IGEgc2VjcmV0")
    key.chmod(0o600)
    server = Server(tcp=True, options=("--auth", "--keyFile", str(key))).start()
    with server.client() as first:  # nobody exists yet: the localhost exception
        first.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
    with MongoClient(server.uri, username="root", password=PASSWORD) as root:
        database = root["event_booking_db"]
        for role, grants in roles_of_the_guide().items():
            privileges = [
                {"resource": {"db": database.name, "collection": collection}, "actions": [action]}
                for action, collection in sorted(grants)
            ]
            database.command("createRole", role, privileges=privileges, roles=[])
        for user, roles in users_of_the_guide().items():
            database.command("createUser", user, pwd=PASSWORD, roles=roles)
    yield server
    server.stop()


def of_this_host(commands: str, directory: Path) -> list[str]:
    """Commands of the README as they can be run here: without sudo, with files of the test's own."""
    commands = re.sub(r"\bsudo (-u seatctl )?", "", commands)
    commands = commands.replace("/etc/seatctl", str(directory)).replace("/etc/systemd/system", str(directory))
    commands = commands.replace("--user seatctl", f"--user {getpass.getuser()}")
    return [line.partition(" #")[0] for line in commands.splitlines() if line.startswith("seatctl ")]


def write_uri(server: Server, user: str, path: Path) -> None:
    """A URI file with the README's URI, of a user on this server."""
    (uris,) = blocks(section(README, "Install on a server"), "text")
    (uri,) = {re.sub(r"//\w+:", f"//{user}:", line) for line in uris.splitlines()}
    uri = uri.replace("PASSWORD", PASSWORD).replace("db1,db2,db3", server.host)
    path.write_text(uri.replace("replicaSet=rs0", f"replicaSet={server.replica_set}"))
    path.chmod(0o600)


def test_a_server_is_set_up_and_the_jobs_run_as_the_readme_says(secured: Server, tmp_path: Path) -> None:
    write_uri(secured, "seatctl_init", tmp_path / "init-uri")
    write_uri(secured, "seatctl", tmp_path / "uri")
    (cron, units, health) = blocks(section(README, "Run the jobs"), "sh")
    init = of_this_host(blocks(section(README, "Install on a server"), "sh")[-1], tmp_path)
    schedules = of_this_host(cron + units, tmp_path)
    done = play([f"cd {tmp_path}", *init, *schedules], tmp_path)
    assert [code for _, code in done] == [0] * 5, done

    written = {path.name for path in tmp_path.glob("seatctl-*")}
    assert set(re.findall(r"seatctl-[\w-]+(?:\.service|\.timer)", units)) <= written
    assert "seatctl-failure@.service" in written
    crontab = (tmp_path / "seatctl.crontab").read_text()
    lines = re.findall(r"^(?:@reboot|[* ]{9}) (?:sleep 30 && )?(.*)", crontab, re.MULTILINE)
    assert len(lines) == 3
    settings = {"SEATCTL_URI_FILE": str(tmp_path / "uri")}
    done = play([*lines, *of_this_host(health, tmp_path)], tmp_path, **settings)
    assert [code for _, code in done] == [0] * 4, done
    assert [output for output, _ in done][:3] == [""] * 3


def with_real_ids(store: Store, task: str) -> str:
    """A task on documents of its own, in a state that it is for."""
    event = new_event(store, "Spring gala", 99)
    lock = sales.lock(store, sales.LockRequest(event, UserId("ada"), 4)).lock.id
    ids: dict[str, object] = {"EVENT_ID": event, "LOCK_ID": lock, "ID": lock}
    if "unblock" in task:
        ids["BLOCK_ID"] = take_off_sale(store, BlockRequest(event, 2)).lock.id
    if re.search("BOOKING_ID|REFUND_ID", task):
        booking = ids["BOOKING_ID"] = confirm(store, ConfirmRequest(lock)).booking.id
        if "rebook" in task:
            payments.fail_payment(store, booking)
        if "REFUND_ID" in task:
            payments.pay(store, booking)
            refund = cancel(store, CancelRequest(booking)).refund
            assert refund is not None
            ids["REFUND_ID"] = refund.id
    return re.sub(r"\b(?:[A-Z]+_)?ID\b", lambda name: str(ids[name[0]]), task)


def test_an_operator_may_do_the_daily_tasks_and_look_when_something_is_wrong(
    secured: Server, tmp_path: Path
) -> None:
    """As the user that the README names, with real ids."""
    write_uri(secured, "seatctl_operator", tmp_path / "uri")
    write_uri(secured, "seatctl_init", tmp_path / "init-uri")
    ((_, ready),) = play([f"seatctl init --uri-file {tmp_path}/init-uri"], tmp_path)
    assert ready == 0
    store = open_store((tmp_path / "uri").read_text())
    tasks = re.findall(
        r"`(seatctl [^`]+)`", "\n".join(cells[1] for cells in rows(section(README, "Daily tasks")))
    )
    tasks = [with_real_ids(store, task) for task in tasks if task != "seatctl watch"]
    store.deployment.close()
    (wrong,) = blocks(section(README, "Troubleshooting"), "sh")
    tasks += [line.partition(" #")[0] for line in wrong.splitlines() if line.startswith("seatctl ")]

    for task, (output, code) in zip(
        tasks, play(tasks, tmp_path, SEATCTL_URI_FILE=str(tmp_path / "uri")), strict=True
    ):
        assert code == (5 if task.startswith("seatctl health") and "has never run" in output else 0), (
            task,
            output,
        )


def test_what_was_set_up_is_removed_as_the_guide_says(secured: Server, tmp_path: Path) -> None:
    """The program last of all, since it removes the rest; the collections are all that there are."""
    guide = section(GUIDES["operations"], "Uninstall")
    with MongoClient(secured.uri, username="root", password=PASSWORD) as root:
        database = root["event_booking_db"]
        database.command("createUser", "owner", pwd=PASSWORD, roles=["dbOwner"])
        write_uri(secured, "seatctl_init", tmp_path / "init-uri")
        write_uri(secured, "owner", tmp_path / "owner-uri")
        commands = of_this_host("\n".join(blocks(guide, "sh")), tmp_path)
        try:
            done = play([f"seatctl init --uri-file {tmp_path}/init-uri", *commands], tmp_path)
            left = {index for name in STATE for index in database[name].index_information()}
        finally:
            database.command("dropUser", "owner")
    assert [line.split()[1:3] for line in commands] == [["db", "stop"], ["init", "--remove"]]
    assert [code for _, code in done] == [0] * 3, done
    assert left == {"_id_"}

    (dropped,) = blocks(guide, "js")
    assert set(re.findall(r'"(\w+)"', dropped.partition("of [")[2])) == {*STATE, *OWN, SETTINGS}
    removed = [line for line in "\n".join(blocks(guide, "sh")).splitlines() if " rm " in f" {line} "]
    assert "/usr/local/bin/seatctl" in removed[-1]
    assert set(re.findall(r"/etc/seatctl(?= |$)|/opt/seatctl", " ".join(removed))) == {
        "/etc/seatctl",
        "/opt/seatctl",
    }
    created = set(re.findall(r"seatctl-[\w@-]+\.(?:service|timer)", guide))
    assert created == set(re.findall(r"seatctl-[\w-]+\.(?:service|timer)", NEXT_COMMANDS))
