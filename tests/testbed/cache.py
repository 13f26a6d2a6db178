"""What is built once and kept: one folder outside the work tree, populated atomically.

Nothing that is specific to a run belongs here; every entry can be deleted at any time and is built again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """The cache folder, created on first use.

    `AITHER_TESTBED_CACHE` names it; else it is `aither-testbed` in `XDG_CACHE_HOME`, which defaults to `~/.cache`.
    """
    named = os.environ.get("AITHER_TESTBED_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    path = Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "aither-testbed"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock `name`; waits for another process that holds it. Released even by a killed holder."""
    with (root() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def populate(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cache entry `name`; when it is missing, `build` fills an empty folder that then becomes the entry.

    An entry is complete or absent, never half built: `build` works in a folder of its own which is renamed at the end,
    and only one process builds an entry while others wait. Put everything that decides the content into `name`.
    """
    entry = root() / name
    if entry.is_dir():
        return entry
    with locked(name):
        if entry.is_dir():
            return entry
        work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root()))
        try:
            work.chmod(0o755)
            build(work)
            work.rename(entry)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return entry
