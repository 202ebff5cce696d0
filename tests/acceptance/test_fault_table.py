"""The tests of each row of the table of faults in the guide "guarantees": for each exit code that the row
promises, those that assert that code, or the error that has it. A row without them fails here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from examples import GUIDES, rows, section

TESTS = Path(__file__).parents[1]
HOST, FAULTS, MAJORITY = "acceptance/test_host.py", "chaos/test_server_faults.py", "chaos/test_no_majority.py"
CODES, EMBEDDED = "acceptance/test_exit_codes.py", "integration/test_embedded.py"
FAILOVER, LOST = "chaos/test_failover.py", "chaos/test_lost_answers.py"
CONTESTED, ABANDONED = "integration/test_contested.py", "integration/test_abandoned.py"
CLIENT, PAYMENTS, CONFIRM = (f"integration/test_{name}.py" for name in ("client", "payments", "confirm"))

IN_TIME = "is_refused_by_the_servers_clock"
ROLLED_BACK = f"{FAILOVER}::test_what_only_the_old_primary_had_is_rolled_back_and_was_never_said_to_be_done"
INTERRUPTED = f"{CODES}::test_an_interrupted_job_ends_between_two_transactions"
SILENT = f"{MAJORITY}::test_a_signal_ends_a_command_in_the_middle_of_what_it_reads_from_a_silent_server"

TESTED: dict[str, dict[int, list[str]]] = {
    "No server answers, or the replica set has no primary when the command starts": {
        10: [
            f"{CODES}::test_an_unreachable_server_is_named_with_the_reason",
            f"{CLIENT}::test_a_member_that_never_becomes_primary_is_given_up",
        ]
    },
    "The primary dies or steps down during a command": {
        0: [f"{FAILOVER}::test_no_acknowledged_purchase_is_lost_or_made_twice_when_the_primary_dies"],
        10: [f"{LOST}::test_an_unknown_outcome_is_exit_10_and_the_same_key_gets_the_lock"],
    },
    "The primary is cut off, and changes that only it has are rolled back": {
        0: [ROLLED_BACK],
        10: [ROLLED_BACK],
    },
    "The primary has lost its majority but has not stepped down": {
        10: [f"{MAJORITY}::test_without_a_majority_every_change_ends_with_an_unknown_outcome"]
    },
    "One member is down": {
        0: [f"{MAJORITY}::test_with_one_member_down_everything_works_also_where_nobody_ran_init"]
    },
    "The server stops answering during a transaction (stopped, or network down)": {
        10: [f"{MAJORITY}::test_a_server_that_falls_silent_is_exit_10"]
    },
    "One connection is dead, others work": {
        0: [f"{MAJORITY}::test_a_command_whose_connection_is_dead_is_done_over_another_one"]
    },
    "An answer is lost after the change was made": {
        0: [f"{LOST}::test_a_command_whose_answer_from_the_server_is_lost_is_done_once"]
    },
    "Every answer is slow": {
        0: [f"{HOST}::test_a_command_is_done_although_each_answer_takes_long"],
        10: [f"{HOST}::test_a_command_that_a_slow_network_ends_says_how_slow_it_is"],
    },
    "Other writers keep changing the same event": {
        1: [
            f"{CONTESTED}::test_a_buyer_whose_event_is_kept_hears_that_and_not_that_it_is_sold_out",
            f"{CONTESTED}::test_one_event_that_is_kept_costs_a_sweep_one_wait_and_short_ones_to_find_it",
        ]
    },
    "Another seatctl process was killed or stopped during a transaction": {
        0: [
            f"{ABANDONED}::test_an_event_that_a_killed_command_held_is_free_again_soon",
            f"{ABANDONED}::test_a_command_that_was_stopped_in_the_middle_starts_over_when_it_wakes_up",
        ]
    },
    "A batch is too large for the server's cache": {
        0: [f"{FAULTS}::test_a_batch_that_the_cache_cannot_take_is_halved"],
        1: [f"{FAULTS}::test_a_single_item_that_the_cache_cannot_take_is_skipped_and_named"],
    },
    "The server drops a cursor or snapshot that is being read": {
        0: [f"{FAULTS}::test_verify_reads_a_range_again_whose_snapshot_is_lost"],
        1: [f"{FAULTS}::test_a_sweep_whose_list_is_always_lost_gives_up_and_asks_for_another_run"],
    },
    "The server's disk is full": {
        10: [
            f"{FAULTS}::test_a_full_disk_is_named_where_the_server_says_so",
            f"{EMBEDDED}::test_a_server_that_does_not_start_is_reported_with_its_last_words",
        ]
    },
    "A command was killed while it started the embedded server": {
        0: [f"{EMBEDDED}::test_a_server_that_an_ended_command_left_on_its_way_is_waited_for"],
        10: [f"{EMBEDDED}::test_a_server_that_an_ended_command_left_on_its_way_is_waited_for"],
    },
    "The embedded server dies during a job": {
        10: [f"{MAJORITY}::test_a_sweep_whose_embedded_server_dies_is_logged_as_failed"]
    },
    "A limit of the shell (`ulimit`) would kill the embedded server": {
        0: [f"{EMBEDDED}::test_a_limit_that_may_be_raised_is_raised_for_the_server"],
        11: [f"{EMBEDDED}::test_a_server_that_a_limit_of_the_shell_would_end_is_not_started"],
    },
    "The host allows too few threads or too little memory": {
        1: [
            f"{HOST}::test_without_a_thread_a_command_does_nothing_and_says_what_is_missing",
            f"{HOST}::test_a_sweep_without_threads_for_its_batches_says_so_and_the_next_run_does_the_rest",
        ]
    },
    "The host's clock is wrong or jumps": {0: [f"{HOST}::test_the_clock_of_the_host_decides_nothing"]},
    "A command is suspended past a deadline (SIGSTOP, a sleeping host)": {
        3: [
            f"{PAYMENTS}::test_a_payment_that_slept_past_its_deadline_{IN_TIME}",
            f"{CONFIRM}::test_a_confirm_that_slept_past_the_locks_deadline_{IN_TIME}",
        ]
    },
    "SIGTERM or Ctrl-C": {
        130: [
            INTERRUPTED,
            f"{MAJORITY}::test_a_signal_ends_a_command_in_the_middle_of_what_it_reads_from_a_silent_server",
        ],
        143: [
            INTERRUPTED,
            f"{MAJORITY}::test_a_signal_ends_a_command_in_the_middle_of_what_it_reads_from_a_silent_server",
        ],
    },
    "A second signal": {
        130: [
            f"{MAJORITY}::test_a_signal_ends_a_command_in_the_middle_of_what_it_reads_from_a_silent_server"
        ],
        143: [f"{MAJORITY}::test_without_a_majority_sigterm_ends_a_command_at_once"],
    },
}


def test_each_row_has_tests_for_each_exit_code_that_it_promises() -> None:
    listed = {row[0]: row for row in rows(section(GUIDES["guarantees"], "Faults"))}
    assert list(listed) == list(TESTED)
    for fault, (*_, promised, files) in listed.items():
        assert {int(code) for code in re.findall(r"\d+", promised)} == set(TESTED[fault]), fault
        tested_in = {test.partition("::")[0] for tests in TESTED[fault].values() for test in tests}
        assert set(files.replace("`", "").split(", ")) == tested_in, fault


def test_each_test_of_a_row_is_collected() -> None:
    named = {test for by_code in TESTED.values() for tests in by_code.values() for test in tests}
    files = sorted({test.partition("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "--no-header", *files]
    told = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False).stdout
    collected = {line.partition("[")[0].removeprefix("tests/") for line in told.splitlines() if "::" in line}
    assert named - collected == set(), told[-2_000:]
