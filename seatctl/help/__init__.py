"""The guides that `seatctl help TOPIC` shows: Markdown files beside this one, shipped with the package."""

from __future__ import annotations

import json
import re
from importlib.resources import files

TOPICS = {
    "guarantees": "What is promised, how it is kept, and what verify reports.",
    "operations": "Schedules, a day of sales, backup, upgrade, uninstall.",
    "adopt": "Beside another program on its database, step by step.",
    "privileges": "The database roles that each task needs, for mongosh.",
    "scripting": "Exit codes, JSON, CSV, batches, idempotency keys.",
    "scenarios": "A batch of three stories with their expected results.",
    "performance": "How fast it is, and how to measure it.",
    "contributing": "The code, the tests, and how to add a command.",
}
"""Each guide's name, and what it is about."""


def guide(topic: str) -> str:
    return files(__name__).joinpath(f"{topic}.md").read_text(encoding="utf-8")


def role_script(database: str, named: str) -> str:
    """The script of the guide `privileges` that creates roles and users, for this database in place of the
    one that is `named` there."""
    script = re.findall(r"^```js\n(.*?)^```$", guide("privileges"), re.MULTILINE | re.DOTALL)[0]
    return str(script).replace(json.dumps(named), json.dumps(database))
