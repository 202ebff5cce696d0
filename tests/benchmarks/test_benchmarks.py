"""The benchmark in its short form: does it run, and do both sides do their work? No word on time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent
ROWS = [*("1a", "1b", "1c", "2", "3", "4a", "4b", "5", "6a", "6b"), *("7a", "7b", "8a", "8b", "9a", "9b")]
ROWS += ["10", "11", "12"]


@pytest.mark.slow
def test_the_short_form_measures_both_sides_of_every_row(
    tmp_path: Path, rounds: Callable[..., list[str]]
) -> None:
    """Every row finds the right result in the database after each measurement; the growth can be drawn. By
    default some rows stand for all: each starts dozens of processes."""
    rows = rounds(["1a", "1b", "1c", "4a", "4b", "5", "10"], ROWS)
    chosen = ",".join(dict.fromkeys(row.rstrip("abc") for row in rows))
    report, picture = tmp_path / "benchmark.json", tmp_path / "growth.svg"
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "--short", "--growth", "--rows", chosen, "--json", report],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr if ran.returncode else "") == (0, "")
    figures = json.loads(report.read_text())
    assert [row["row"] for row in figures["rows"]] == rows
    assert all(len(row["ours"]) == len(row["bare"]) >= 1 for row in figures["rows"])
    assert {"seatctl", "floor", "one transaction per lock"} == {point["way"] for point in figures["growth"]}
    assert "expire-locks -q, nothing due" in ran.stdout
    subprocess.run([sys.executable, BENCHMARKS / "plot.py", report, picture], check=True)
    assert "one transaction per lock" in picture.read_text()


def test_a_wrong_result_is_no_result() -> None:
    """A program that leaves its work undone is not measured but named."""
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "--short", "--rows", "2", "--seatctl", shutil.which("true")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "WrongResult: the inventory: expected Result(active=0" in ran.stderr
