"""The guides that `seatctl help TOPIC` shows: Markdown files beside this one, shipped with the package."""

from __future__ import annotations

import json
import re
from importlib.resources import files

TOPICS = {
    "guarantees": "Invariants, protocol, failures, recovery, faults of verify.",
    "operations": "Schedules, a day of sales, backup, upgrade, uninstall.",
    "adopt": "Sharing another program's database, step by step.",
    "privileges": "Database roles and users for each task, for mongosh.",
    "scripting": "Exit codes, JSON, CSV, batches, idempotency keys.",
    "scenarios": "Three stories as one batch, with expected results.",
    "performance": "How fast it is, and how to measure it.",
    "contributing": "The code, the tests, how to add a command.",
}
"""Each guide's name, and what it is about."""


def guide(topic: str) -> str:
    return files(__name__).joinpath(f"{topic}.md").read_text(encoding="utf-8")


def role_script(database: str, named: str) -> str:
    """The script of the guide `privileges` that creates roles and users, for this database in place of the
    one that is `named` there."""
    script = re.findall(r"^```js\n(.*?)^```$", guide("privileges"), re.MULTILINE | re.DOTALL)[0]
    return str(script).replace(json.dumps(named), json.dumps(database))
