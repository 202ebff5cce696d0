"""The live screen, as a person sees it in windows of every size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bson import ObjectId
from conftest import open_store
from terminal import Shell

from seatctl.domain.model import JobType
from seatctl.ops import watch
from seatctl.services import jobs as joblog
from seatctl.services import sales as booking

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

ID = re.compile(r"\b[0-9a-f]{24}\b")
LONG = "An event whose name is longer than any window that anybody has on a desk or a wall"


@pytest.fixture
def server_store(database_uri: str) -> Iterator[Store]:
    """Two events, a lock and bookings of each kind, and a run of each job."""
    store = open_store(database_uri)
    store.init()
    for name in ("Spring gala ☃", LONG):
        event = booking.create_event(store, name, 100, timedelta(days=9)).document["_id"]
        locks = [booking.lock(store, event, f"buyer {n}", 7).document["_id"] for n in range(3)]
        waiting = [booking.confirm(store, lock).document["_id"] for lock in locks[:2]]
        booking.pay(store, waiting[0])
    for job in JobType:
        joblog.run(store, job, lambda _: None)
    yield store
    store.deployment.close()


@pytest.fixture
def shell(database_uri: str, tmp_path: Path) -> Shell:
    environment = {"SEATCTL_URI": database_uri, "HOME": str(tmp_path)}
    return Shell({**environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"})


def test_a_screen_of_80_by_24(server_store: Store, shell: Shell) -> None:
    """The smallest usual window has all four sections, whole lines, and Ctrl-C ends it with success."""
    with shell.screen("watch", columns=80, lines=24) as screen:
        lines = screen.picture("Ctrl-C ends")
        screen.type("\x03")
        ended = screen.end()

    assert len(lines) == 24
    assert max(map(len, lines)) == 80
    headings = [line.split("  ")[0] for line in lines if re.match(r"event|job run|lock|booking", line)]
    assert headings == ["event", "job run", "lock", "booking"]
    assert re.match(r"Spring gala ☃ +█▒▒\S+ +21% +79 +14 +7 +$", lines[2])
    assert re.match(r"An event whose name \S+.*… ", lines[1])
    shown = "\n".join(lines)
    assert re.search(r"^RECOVERY +SUCCESS +\d+s ago ", shown, re.MULTILINE)
    assert re.search(r"^ACTIVE +9m\d+s +7 +buyer 2 +Spring gala ☃ +$", shown, re.MULTILINE)
    assert re.search(r"^PAYMENT_PENDING +14m\d+s +buyer 1 ", shown, re.MULTILINE)
    assert re.search(r"^CONSUMED {10,}7", shown, re.MULTILINE)
    assert not ID.search(shown)
    assert re.match(rf"Ctrl-C ends, again every 2s  \S+Z  {server_store.name[:20]}", lines[-1])
    assert ended.code == 0
    assert ended.stdout.endswith("\x1b[?25h\x1b[?1049l"), "the window is left as it was"


@pytest.mark.usefixtures("server_store")
def test_a_wide_screen(shell: Shell) -> None:
    """Where there is room, each row begins with its whole id, and names are whole."""
    with shell.screen("watch", columns=190, lines=50) as screen:
        shown = "\n".join(screen.picture("Ctrl-C ends"))

    assert len(ID.findall(shown)) == 2 + 3 + 6 + 4
    assert LONG in shown


@pytest.mark.usefixtures("server_store")
def test_a_low_and_narrow_screen(shell: Shell) -> None:
    """What is most wanted stays: the events' numbers, then the jobs; nothing is wrapped."""
    with shell.screen("watch", columns=50, lines=10) as screen:
        lines = screen.picture("Ctrl-C ends")

    assert [len(line) for line in lines] == [50] * 10
    assert re.match(r"event +available +locked +sold +$", lines[0])
    assert lines[4].startswith("job run")
    assert "lock " not in "\n".join(line[:5] for line in lines)


def test_it_looks_again(server_store: Store, shell: Shell) -> None:
    """What changes in the database is on the screen with the next look."""
    with shell.screen("watch", "--interval", "1s") as screen:
        before = screen.picture("Ctrl-C ends")
        booking.create_event(server_store, "Brand new", 1, timedelta(days=1))
        after = screen.picture("Brand new")

    assert "Brand new" not in "\n".join(before)
    assert len(after) == len(before)


@pytest.mark.parametrize("where", ["pipe", "dumb terminal", "json"])
def test_it_refuses_where_it_cannot_draw(shell: Shell, where: str) -> None:
    """Without a terminal, in one that cannot move its cursor, and for a program: a usage error."""
    if where == "dumb terminal":
        result = shell.with_env(TERM="dumb").tty("watch")
        said = result.stdout
    else:
        result = shell("watch", *(["--json"] if where == "json" else []))
        said = result.stderr

    assert result.code == 2
    assert "watch needs a terminal" in said


# --- what gets how much room --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "needs", "rows"),
    [
        (23, (50, 50, 50, 50), (4, 4, 4, 3)),
        (23, (1, 3, 50, 50), (1, 3, 6, 5)),
        (23, (0, 0, 0, 50), (1, 1, 1, 12)),
        (49, (2, 3, 4, 5), (2, 3, 4, 5)),
        (9, (50, 50, 50, 50), (3, 2)),
        (7, (50, 50, 50, 50), (5,)),
        (1, (50, 50, 50, 50), (1,)),
    ],
)
def test_share(lines: int, needs: tuple[int, ...], rows: tuple[int, ...]) -> None:
    """Sections share the height, what one does not need goes to the others, and the last go first."""
    documents = {name: [{}] * need for name, need in zip(watch.SECTIONS, needs, strict=True)}
    shared = watch.share(lines, documents)

    assert shared == dict(zip(watch.SECTIONS, rows, strict=False))
    assert sum(shared.values()) + 2 * len(shared) <= max(lines, 3)


def test_odd_documents(store: Store) -> None:
    """Documents of other programs, of any shape, are shown as far as they go."""
    odd = [
        {"status": "ACTIVE", "eventId": [1], "expiresAt": "soon"},
        {"status": "ACTIVE", "eventId": ObjectId()},
    ]
    store.database.seatLocks.insert_many(odd)
    store.database.bookings.insert_one({"status": "PAYMENT_PENDING", "paymentExpiresAt": store.now()})
    store.database.jobLogs.insert_one({"executedAt": "yesterday", "error": 7})
    store.database.events.insert_one({"totalSeats": "many"})
    sight = watch.look(store, 9)

    for width in (10, 80, 200):
        watch.picture(sight, width, 24, timedelta(seconds=2))
    locks = watch._locks(sight, sight.documents["seatLocks"])[1]
    assert {(row[2], str(row[5])) for row in locks} == {("soon", "[1]"), (None, str(odd[1]["eventId"]))}
    assert watch._bookings(sight, sight.documents["bookings"])[1][0][2] == "overdue 0s"
    assert watch._runs(sight, sight.documents["jobLogs"])[1][0][3] == "yesterday"
