"""What holds for all of the source: who imports whom, that no transaction is left before its commit, and
that the invariants in docstrings are those of the contract."""

import ast
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from seatctl.cli.app import program
from seatctl.cli.command import registered

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "seatctl").rglob("*.py"))
GUIDE = (ROOT / "seatctl/help/guarantees.md").read_text()
INVARIANTS = {
    int(number): text
    for number, text in re.findall(r"^(\d+)\. (.+)", GUIDE.partition("\n|")[0], re.MULTILINE)
}
"""The numbered list of the guide "guarantees", before its table; some are still to come."""

LOOPS = (ast.For, ast.While, ast.AsyncFor)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def test_each_package_imports_only_those_below_it():
    """The rules are the import-linter's, in pyproject.toml."""
    linter = Path(sysconfig.get_path("scripts"), "lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken\.", done.stdout)


def test_only_health_reads_the_clock_of_the_host():
    """It compares it with the server's, which decides everything (invariant 10)."""
    clocks = re.compile(r"datetime\.now|datetime\.utcnow|date\.today|\btime\.time\(")
    assert [path.name for path in SOURCES if clocks.search(path.read_text())] == ["health.py"]


def test_the_table_of_commands_is_complete():
    for path in (ROOT / "seatctl/cli/commands").glob("[!_]*.py"):
        import_module(f"seatctl.cli.commands.{path.stem}")
    assert {name.split()[0] for name in registered} == set(program.commands)


# --- transactions ---------------------------------------------------------------------------------------


def attempts(tree: ast.AST) -> Iterator[ast.With]:
    """The blocks that one attempt at a transaction is made of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for item in node.items:
                if isinstance(item.context_expr, ast.Name) and item.context_expr.id == "attempt":
                    yield node


def ways_out(block: list[ast.stmt], *, in_loop: bool = False) -> Iterator[ast.stmt]:
    """Statements that leave a block before its end; a `break` within a loop of its own does not."""
    for statement in block:
        if isinstance(statement, ast.Return) or (
            isinstance(statement, ast.Break | ast.Continue) and not in_loop
        ):
            yield statement
        if isinstance(statement, SCOPES):
            continue
        yield from ways_out(getattr(statement, "body", []), in_loop=in_loop or isinstance(statement, LOOPS))
        for branch in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
            yield from ways_out(branch.body, in_loop=in_loop)
        for name in ("orelse", "finalbody"):  # the `else` of a loop is outside of it
            yield from ways_out(getattr(statement, name, []), in_loop=in_loop)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_no_transaction_is_left_before_its_commit(source):
    """`__exit__` commits, and a `return` before it would give out what may be rolled back; a `break` would
    end the loop that tries again."""
    left = [
        statement.lineno
        for block in attempts(ast.parse(source.read_text()))
        for statement in ways_out(block.body)
    ]
    assert left == []


def test_there_are_transactions_to_look_at():
    blocks = [block for source in SOURCES for block in attempts(ast.parse(source.read_text()))]

    assert len(blocks) >= 6


TRANSACTION = """
def work(store):
    for attempt in store.transaction_attempts():
        with attempt as tx:
            {}
    return tx
"""


@pytest.mark.parametrize(
    "body",
    [
        "return tx",
        "break",
        "continue",
        "if tx:\n                return tx",
        "if tx:\n                pass\n            else:\n                break",
        "for each in tx:\n                return each",
        "for each in tx:\n                pass\n            else:\n                break",
        "try:\n                work(tx)\n            except OSError:\n                continue",
        "try:\n                work(tx)\n            finally:\n                return 1",
        "match tx:\n                case 1:\n                    return tx",
        "with tx:\n                while True:\n                    return tx",
    ],
)
def test_a_transaction_that_is_left_is_noticed(body):
    (block,) = attempts(ast.parse(TRANSACTION.format(body)))

    assert len(list(ways_out(block.body))) == 1


@pytest.mark.parametrize(
    "body",
    [
        "result = tx",
        "for each in tx:\n                break",
        "while tx:\n                continue",
        "def inner():\n                return tx",
        "result = [each for each in tx]",
        "raise ValueError",
    ],
)
def test_a_transaction_that_is_not_left_is_not_blamed(body):
    (block,) = attempts(ast.parse(TRANSACTION.format(body)))

    assert list(ways_out(block.body)) == []


# --- invariants -----------------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    """The invariants that a text names: `invariant 9`, `invariants 1 to 5, 8 and 11`."""
    found = []
    for names in re.findall(r"[Ii]nvariants?\s+(\d+(?:(?:\s*,\s*|\s+to\s+|\s+and\s+)\d+)*)", text):
        for first, last in re.findall(r"(\d+)(?:\s+to\s+(\d+))?", names):
            found += range(int(first), int(last or first) + 1)
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_the_invariants_that_the_source_names_are_those_of_the_contract(source):
    assert set(numbers(source.read_text())) <= set(INVARIANTS)


def test_every_invariant_that_the_program_keeps_today_is_named_somewhere():
    named = {number for source in SOURCES for number in numbers(source.read_text())}

    assert list(INVARIANTS) == list(range(1, 15))
    assert named == {number for number, text in INVARIANTS.items() if not text.startswith("Not yet")}


def test_numbers_of_invariants_are_read_as_people_write_them():
    assert numbers("(invariants 1 to 5, 8 and 11) and Invariant 2") == [1, 2, 3, 4, 5, 8, 11, 2]
    assert numbers("the invariants hold; 12 of them") == []
