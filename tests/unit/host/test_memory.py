"""Host memory and control groups' memory, from the kernel's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitherd.host.memory import GroupMemory, group_memory, host_memory


def test_the_machine_has_memory_and_some_of_it_is_available() -> None:
    memory = host_memory()
    assert 0 < memory.available < memory.total
    assert memory.total > 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cgroup file system with one group, as Linux 6 has it."""
    group = tmp_path / "aither.slice" / "aither-vision-engine.service"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("4096\n")
    (group / "memory.peak").write_text("8192\n")
    (group / "memory.events").write_text("low 0\nhigh 3\nmax 2\noom 1\noom_kill 5\noom_group_kill 0\n")
    return tmp_path


GROUP = "/aither.slice/aither-vision-engine.service"


def test_a_group_tells_what_it_uses_used_and_lost(root: Path) -> None:
    assert group_memory(GROUP, root) == GroupMemory(current=4096, peak=8192, oom_kills=5)


def test_an_old_kernel_does_not_know_the_peak(root: Path) -> None:
    (root / GROUP.lstrip("/") / "memory.peak").unlink()
    assert group_memory(GROUP, root) == GroupMemory(current=4096, peak=None, oom_kills=5)


@pytest.mark.parametrize("group", ["", "/", "/aither.slice/gone.service", "/aither.slice"])
def test_what_is_no_group_with_memory_has_none(root: Path, group: str) -> None:
    assert group_memory(group, root) is None
