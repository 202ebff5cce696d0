"""Files that are replaced in one step, so that nobody reads half of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def replace(target: Path, parts: Iterable[str]) -> None:
    """Put these parts in place of what is in the file, readable by everybody whatever the umask. Nothing
    stays of a file that could not be completed. Raises OSError."""
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with beside.open("w") as file:
            file.writelines(parts)
        beside.chmod(0o644)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
