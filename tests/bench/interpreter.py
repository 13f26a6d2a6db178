"""Which Python the figures are of: the distribution's, as the package uses it, whatever the environment was made with.

An interpreter that was built without profile-guided optimisation takes a third more for everything.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import structlog

REPOSITORY = Path(__file__).parents[2]
SUITES = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")


def search_path() -> str:
    """PYTHONPATH with which any interpreter of this version finds our code and the environment's packages."""
    return f"{REPOSITORY}:{Path(structlog.__file__).parents[1]}"


def switch() -> None:
    """Runs the same command again with the distribution's interpreter, if it has one of this version."""
    ours = Path(sys.executable).resolve() == SUITES.resolve() and sys.prefix == sys.base_prefix
    if ours or not SUITES.exists():
        return
    os.execve(SUITES, [str(SUITES), *sys.orig_argv[1:]], {**os.environ, "PYTHONPATH": search_path()})
