"""Time and peak memory of one process.

Run as a program it is the launcher: small, because Linux counts the memory of whoever starts a
process into that process's peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Spent:
    """What one process took."""

    seconds: float
    peak_bytes: int
    output: str


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> Spent:
    """Run a command to its end. Raises CalledProcessError when it fails."""
    launched = subprocess.run(
        [sys.executable, "-I", "-S", __file__, *command],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    output, _, report = launched.stdout.rpartition("\n\0")
    told = json.loads(report)
    if told["status"]:
        raise subprocess.CalledProcessError(told["status"], command, output)
    return Spent(told["seconds"], told["peak_bytes"], output)


def _launch(command: Sequence[str]) -> None:
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    kilobyte = 1 if sys.platform == "darwin" else 1024
    told = {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "peak_bytes": usage.ru_maxrss * kilobyte,
    }
    sys.stdout.write("\n\0" + json.dumps(told))


if __name__ == "__main__":
    _launch(sys.argv[1:])
