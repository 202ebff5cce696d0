"""Draw time per lock against the number of locks, from the JSON of `run.py --growth`.

python tests/benchmarks/plot.py benchmark.json growth.svg
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt


def draw(report: dict[str, Any], picture: Path) -> None:
    """One line for each way, through the medians of its rounds."""
    seconds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for point in report["growth"]:
        seconds[point["way"]][point["locks"]].append(point["secondsPerLock"])
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for way, by_size in seconds.items():
        sizes = sorted(by_size)
        axes.plot(sizes, [median(by_size[size]) * 1e6 for size in sizes], marker="o", label=way)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="overdue locks",
        ylabel="microseconds per lock, whole process",
        title=f"expire-locks ({report['machine']})",
    )
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(picture)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    draw(json.loads(source.read_text()), target)
