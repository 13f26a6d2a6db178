"""`python -m tests.bench [--only proxy,plan]`: runs the parts in order, prints the table, writes `build/bench.json`.

A budget that does not hold is said in the table and is no failure: figures depend on the machine. What fails is a part
that cannot run.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.bench.interpreter import switch
from tests.bench.rows import Row, save, table
from tests.testbed.errors import ManagerUnavailable
from tests.testbed.llama import LlamaUnavailable

RESULT = Path(__file__).parents[2] / "build" / "bench.json"
PARTS = ("plan", "activation", "idle", "cold-start", "overload", "proxy", "policy")


def module(part: str) -> str:
    """The module whose `main()` measures `part`."""
    return f"tests.bench.{part.replace('-', '_')}"


def chosen(only: str) -> list[str]:
    """The parts to run. Raises ArgumentTypeError for one that does not exist."""
    there = [part for part in PARTS if find_spec(module(part)) is not None]
    wanted = [part.strip() for part in only.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in there]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(there)}")
    return [part for part in there if part in wanted or not wanted]


def run(part: str) -> list[Row]:
    """Measures one part. Raises SystemExit, with the remedy, when the machine lacks something that it needs."""
    sys.stderr.write(f"{part} …\n")
    cores = os.sched_getaffinity(0)
    try:
        rows: list[Row] = import_module(module(part)).main()
    except (ManagerUnavailable, LlamaUnavailable) as problem:
        raise SystemExit(f"{part} cannot run here: {problem}") from problem
    finally:
        # A part may keep this process to some cores; the next ones start from all of them.
        os.sched_setaffinity(0, cores)
    return rows


def main() -> None:
    """Parses the command line and runs the parts."""
    switch()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmarks beside their references.")
    parser.add_argument("--only", type=chosen, default=chosen(""), metavar="PART,…", help="some of the parts")
    rows = [row for part in parser.parse_args().only for row in run(part)]
    save(rows, RESULT)
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
