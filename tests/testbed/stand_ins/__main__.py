"""Runs the stand-in that the first argument names, whatever the working directory: `python3 …/stand_ins NAME …`."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    # The folder itself is first on the path now, and its modules must not shadow the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parents[3])
    name = sys.argv.pop(1)
    sys.argv[0] = name
    runpy.run_module(f"tests.testbed.stand_ins.{name}", run_name="__main__")
