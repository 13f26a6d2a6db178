"""aitherd on the native test bed for benchmarks, and what a process costs as the kernel counts it."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.interpreter import search_path
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

MODELS = 12
MAPPING = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(?P<file>/.*)?.*\n(?:(?!Rss:).*\n)+"
    r"Rss: +(?P<rss>\d+) kB\n(?:(?!Anonymous:).*\n)+Anonymous: +(?P<anonymous>\d+) kB",
    re.MULTILINE,
)
"""One mapping in /proc/PID/smaps. (proc_pid_smaps(5))"""
SETTINGS = """
[arbiter]
min-residency = "0s"
"""
STAND_IN = """
engine = "exec"
vram = "1 GiB"
idle = "never"
command = ["engine", "--socket", "{socket}", "--vram", "1GiB"]
[resources]
MemoryMax = "10G"
"""


@contextmanager
def installed(*, path: Sequence[Path] = ()) -> Iterator[Rig]:
    """A user with aitherd and twelve models, `model-0` and so on, on one card. Nothing runs yet."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Rig(Gpu.create(Path(directory) / "gpu"), path=path, environment={"PYTHONPATH": search_path()}) as rig,
    ):
        rig.settings(SETTINGS)
        for index in range(MODELS):
            rig.model(f"model-{index}", STAND_IN)
        rig.reload()
        yield rig


def family(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time so far, from the scheduler's own account in nanoseconds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in _tasks(pids)) / 1e9


def wake_ups(pids: Sequence[int]) -> int:
    """How often their threads have waited for something so far."""
    return sum(_field(task / "status", "voluntary_ctxt_switches") for task in _tasks(pids))


def resident(pid: int) -> int:
    """Resident bytes of one process, whether others have the pages as well or not."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def together(pids: Sequence[int]) -> int:
    """Resident bytes of several processes, what they have of the same file counted once, as a control group counts."""
    private, shared = 0, dict[str, int]()
    for pid in pids:
        files = Counter[str]()
        for mapping in MAPPING.finditer(Path(f"/proc/{pid}/smaps").read_text()):
            size = int(mapping["rss"]) * 1024
            # Pages of a file that were written to are the process's own.
            own = int(mapping["anonymous"]) * 1024 if mapping["file"] else size
            private += own
            files[mapping["file"] or ""] += size - own
        shared = {file: max(shared.get(file, 0), files[file]) for file in {*shared, *files}}
    return private + sum(shared.values())


def _tasks(pids: Sequence[int]) -> Iterator[Path]:
    for pid in pids:
        yield from Path(f"/proc/{pid}/task").iterdir()


def _field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
