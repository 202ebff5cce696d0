"""Work in batches: ordered by event, several at a time, and none begun once somebody asked to stop."""

import threading
from itertools import pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatctl.services.parallel import WORKERS, in_portions, side_by_side

GO_ON = repeat(True).__next__


def portions(items, size, go_on=GO_ON):
    return list(in_portions(iter(items), size, lambda item: item[0], go_on))


# --- in_portions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "size", "wanted"),
    [
        ("", 3, []),
        ("a", 3, ["a"]),
        ("aab", 3, ["aab"]),
        ("aabb", 3, ["aa", "bb"]),
        ("aabbbc", 4, ["aa", "bbbc"]),
        ("aabbc", 4, ["aabb", "c"]),
        ("aaaa", 2, ["aa", "aa"]),
        ("aaaab", 3, ["aaa", "ab"]),
        ("abc", 1, ["a", "b", "c"]),
    ],
)
def test_a_portion_ends_where_an_event_ends_if_it_can(items, size, wanted):
    assert ["".join(portion) for portion, _ in portions(items, size)] == wanted


def test_a_portion_tells_whether_it_shares_an_event_with_the_one_before():
    assert [shares for _, shares in portions("aaaab", 2)] == [False, True, False]
    assert [shares for _, shares in portions("aabb", 2)] == [False, False]


def test_no_portion_is_begun_once_somebody_asked_to_stop():
    answers = iter([True, True, False])

    assert ["".join(portion) for portion, _ in portions("abcdef", 2, answers.__next__)] == ["ab", "cd"]


@given(st.lists(st.integers(0, 4)).map(sorted), st.integers(1, 7))
def test_portions_leave_nothing_out_repeat_nothing_and_are_never_too_large(events, size):
    items = [(event, number) for number, event in enumerate(events)]
    made = portions(items, size)

    assert [item for portion, _ in made for item in portion] == items
    assert all(1 <= len(portion) <= size for portion, _ in made)
    for (before, _), (portion, shares) in pairwise(made):
        assert shares == (before[-1][0] == portion[0][0])
        # An event is torn apart only where it fills the portion before alone.
        assert not shares or {item[0] for item in before} == {portion[0][0]}


# --- side_by_side -------------------------------------------------------------------------------------


def alone(*items):
    return iter([([item], False) for item in items])


def test_results_come_in_order():
    assert list(side_by_side(alone(*range(20)), lambda portion, _: portion[0])) == list(range(20))


def test_nothing_to_do_makes_nothing():
    assert list(side_by_side(iter([]), len)) == []


def test_a_single_portion_is_done_in_the_callers_own_thread():
    threads = list(side_by_side(alone(1), lambda *_: threading.current_thread()))

    assert threads == [threading.current_thread()]


def test_as_many_portions_as_there_are_workers_are_under_way_at_once():
    together = threading.Barrier(WORKERS, timeout=30)

    assert len(list(side_by_side(alone(*range(WORKERS)), lambda *_: together.wait()))) == WORKERS


def test_a_portion_that_shares_an_event_waits_for_the_one_before():
    under_way, most = [0], [0]

    def work(portion, turn):
        turn()
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        ended.wait(0.005)
        under_way[0] -= 1
        return portion[0]

    ended = threading.Event()
    chain = iter([([0], False), *(([number], True) for number in range(1, 10))])

    assert list(side_by_side(chain, work)) == list(range(10))
    assert most == [1]


def test_a_failure_lets_what_is_in_flight_end_and_yields_it_before_the_error():
    def work(portion, _):
        if portion[0] == 3:
            raise ZeroDivisionError
        return portion[0]

    done = []
    with pytest.raises(ZeroDivisionError):
        keep(side_by_side(alone(*range(8)), work), done)

    assert done[:3] == [0, 1, 2]
    assert 3 not in done
    assert len(done) <= 3 + WORKERS


def keep(results, done):
    """Keep each result as it comes."""
    for result in results:
        done.append(result)


def test_a_failure_among_the_last_ones_still_yields_the_others():
    def work(portion, _):
        if portion[0] == 0:
            raise ZeroDivisionError
        return portion[0]

    done = []
    with pytest.raises(ZeroDivisionError):
        keep(side_by_side(alone(0, 1), work), done)

    assert done == [1]


def test_a_portion_that_waits_for_a_worker_does_not_begin_after_a_failure():
    """With a server that does not answer each would take a minute to fail."""
    all_of_them, begun = threading.Barrier(WORKERS), []

    def work(portion, _):
        begun.append(portion[0])
        all_of_them.wait(10)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(side_by_side(alone(*range(2 * WORKERS)), work))

    assert sorted(begun) == list(range(WORKERS))


def test_whoever_asks_to_stop_for_the_second_time_does_not_wait_for_what_is_in_flight():
    hanging, begun = threading.Event(), threading.Semaphore(0)

    def work(*_):
        begun.release()
        hanging.wait(60)

    def portions():
        yield from alone(0, 1)
        begun.acquire()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(side_by_side(portions(), work))
    hanging.set()


def test_a_list_that_is_lost_on_the_way_still_yields_what_was_begun():
    def lost():
        yield from alone(0, 1, 2)
        raise ZeroDivisionError

    done = []
    with pytest.raises(ZeroDivisionError):
        keep(side_by_side(lost(), lambda portion, _: portion[0]), done)

    assert done == [0, 1, 2]
