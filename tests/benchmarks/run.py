"""How fast seatctl is, next to the least work that any program could do.

    python tests/benchmarks/run.py [--short] [--rows 1,2] [--growth] [--rounds 3] [--json FILE]

Starts a MongoDB of its own, measures seatctl and each floor alternately in the same run, prints
medians and ratios, and writes every single figure as JSON. `plot.py` draws the growth from it.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1]))

from measure import MEGABYTE
from rows import ROWS, Bench, Comparison, growth
from servers import Server

import seatctl

SHORT_SCALE = 1_000
CACHE_GIGABYTES = 8


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        sys.exit(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    # As `pip install` leaves it: with PYTHONDONTWRITEBYTECODE set, a module that was edited since would be
    # compiled at each start, which takes longer than all else that a start does.
    compileall.compile_dir(Path(seatctl.__file__).parent, quiet=1)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # or its MongoDB would stay
    # On a disk and with a cache that holds the data, as in production; the other tests keep theirs in
    # memory. With a quarter of a gigabyte a million locks do not fit: a sweep of them waits for the disk
    # and takes nine times as long for each.
    directory = Path(tempfile.mkdtemp(prefix="seatctl-benchmark-"))
    server = Server(directory=directory, cache_gigabytes=CACHE_GIGABYTES).start()
    console = Console(stderr=True)
    try:
        with server.client() as client:
            bench = Bench(
                client=client,
                uri=server.uri.replace("/?", "/bench?"),
                program=options.seatctl,
                rounds=1 if options.short else options.rounds,
                scale=SHORT_SCALE if options.short else 1,
            )
            compared = []
            for row in options.rows:
                console.print(f"row {row} …")
                compared += list(ROWS[row](bench))
            points = list(growth(bench)) if options.growth else []
            machine = _machine(client.server_info()["version"])
    finally:
        server.stop()
    Console(width=None if sys.stdout.isatty() else 160).print(table(compared, machine))
    if options.json:
        report = {
            "machine": machine,
            "rounds": bench.rounds,
            "rows": [comparison.as_document() for comparison in compared],
            "growth": points,
        }
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a thousandth of everything: does it run?")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help="1,2,8")
    parser.add_argument("--growth", action="store_true", help="also time per lock up to a million locks")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    installed = Path(sys.executable).parent / "seatctl"
    parser.add_argument("--seatctl", default=str(installed), help="the program to measure")
    return parser


def table(compared: Sequence[Comparison], machine: str) -> Table:
    """Medians of both sides, and the median of the rounds' ratios."""
    shown = Table(title=f"seatctl against its floors ({machine})", title_justify="left")
    for heading in ("#", "work", "floor"):
        shown.add_column(heading)
    for heading in ("seatctl", "floor", "ratio", "goal", "peak MB"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for comparison in compared:
        shown.add_row(
            comparison.row,
            comparison.work,
            comparison.floor,
            f"{median(comparison.ours):,.4g} {comparison.unit}",
            f"{median(comparison.bare):,.4g} {comparison.unit}",
            f"{comparison.ratio:.2f}",
            comparison.goal,
            f"{comparison.peak_bytes / MEGABYTE:.0f}" if comparison.peak_bytes else "",
        )
    return shown


def _machine(mongodb: str) -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, MongoDB {mongodb}"
    )


if __name__ == "__main__":
    main()
