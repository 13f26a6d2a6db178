"""`python -m tests.fuzz [--seconds 30] [TARGET…]`: fuzzes each target for a bounded time, guided by coverage.

Begins with what lies in `tests/fuzz/corpus`. What reaches something new is left in `build/fuzz`, and with `--keep` put
into the corpus, which a unit test replays. Bytes under which something does not hold make the run fail.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
WORK = Path(__file__).parents[2] / "build" / "fuzz"
NAMES = ("requests", "responses", "chunks", "bodies", "forms", "paths")


def fuzz(name: str, options: list[str]) -> None:
    """Fuzzes one target; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["aitherd.proxy"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    """Parses the command line and runs the targets one after another, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes the proxy's edge.")
    parser.add_argument("--seconds", type=int, default=30, help="how long each target is fuzzed")
    parser.add_argument("--keep", action="store_true", help="add what is new to tests/fuzz/corpus")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(NAMES)}")
    arguments = parser.parse_args()
    if arguments.run:
        fuzz(arguments.run[0], arguments.run[1:])
    failed = []
    for name in arguments.targets or NAMES:
        found, kept = WORK / name, CORPUS / name
        for folder in (found, kept):
            folder.mkdir(parents=True, exist_ok=True)
        one = [sys.executable, "-m", "tests.fuzz", "--run", name]
        limits = [
            f"-max_total_time={arguments.seconds}",
            "-max_len=2048",
            "-timeout=10",
            f"-artifact_prefix={found}/bad-",
        ]
        print(f"{name} …", flush=True)
        ended = subprocess.run([*one, *limits, f"-artifact_prefix={found}/bad-", found, kept], check=False)
        if ended.returncode:
            failed.append(name)
        elif arguments.keep:
            for path in found.iterdir():
                shutil.copyfile(path, kept / path.name)
    if failed:
        raise SystemExit(f"something does not hold: {', '.join(failed)}; see build/fuzz")


if __name__ == "__main__":
    main()
