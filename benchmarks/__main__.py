"""`make bench [NAME ...]`: every speed and size goal, one table, and build/bench.json. Exit code 1 if a goal is not met."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.result import Result, not_run
from shared.embedded_postgres import EmbeddedPostgres

BENCHMARKS = (
    "start", "append", "command", "gate", "matrix", "memory", "merkle", "verify", "log", "projection", "aggregate",
    "visible", "relay", "doors", "subscribers", "recovery",
)  # fmt: skip
OUTPUT = Path("build/bench.json")

Measure = Callable[[str, Path], Coroutine[None, None, list[Result]]]
"""Takes the URL of a PostgreSQL server and a scratch folder."""


def main(names: list[str]) -> int:
    """Runs the named benchmarks, or all."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="prooftrail-bench-") as scratch:
        Path(scratch).chmod(0o755)
        with EmbeddedPostgres.start(Path(scratch) / "postgres") as server:
            results = [
                result for name in names or BENCHMARKS for result in _measured(console, name, server.dsn, Path(scratch))
            ]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    console.print(_table(results))
    return 0 if all(result.met for result in results) else 1


def _measured(console: Console, name: str, server_url: str, scratch: Path) -> list[Result]:
    measure: Measure = import_module(f"benchmarks.{name}").measure
    console.print(f"measuring {name} …")
    try:
        return uvloop.run(measure(server_url, scratch))
    except Exception as error:  # noqa: BLE001 -- one benchmark that fails must not hide the others
        traceback.print_exc()
        return [not_run(name=name, why=f"{type(error).__name__}: {error}", unit="")]


def _table(results: list[Result]) -> Table:
    table = Table("goal", "ours", "peer or limit", "unit", "ratio", "at least", "met")
    for one in results:
        table.add_row(
            one.name,
            _number(one.ours),
            f"{_number(one.peer)} {one.peer_name}",
            one.unit,
            _number(one.ratio),
            _number(one.goal),
            "yes" if one.met else "NO",
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
