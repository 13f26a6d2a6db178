"""Host memory and control groups' memory, from the kernel's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitherd.host.memory import host_memory


def test_the_machine_has_memory_and_some_of_it_is_available() -> None:
    memory = host_memory()
    assert 0 < memory.available < memory.total
    assert memory.total > 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cgroup file system with the slice in it."""
    (tmp_path / "aither.slice").mkdir()
    return tmp_path


SLICE = "/aither.slice"


def limited(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / "aither.slice" / f"memory.{name}").write_text(text)


def test_a_slice_may_take_what_is_below_its_lowest_limit_and_drop_what_it_cached(root: Path) -> None:
    limited(root, current="900\n", high="1000\n", max="1200\n", stat="anon 100\nactive_file 300\ninactive_file 400\n")
    assert host_memory(SLICE, root).budget == 800


def test_a_slice_without_limits_has_the_machine(root: Path) -> None:
    limited(root, current="900\n", high="max\n", max="max\n")
    assert host_memory(SLICE, root).budget is None
    assert host_memory("/gone.slice", root).budget is None


def test_pressure_is_that_of_the_slice_or_the_machines(root: Path) -> None:
    quiet = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    limited(root, pressure=quiet.replace("avg10=0.00", "avg10=42.50", 1))
    assert host_memory(SLICE, root).stalled >= 0.425
    assert 0.0 <= host_memory("/gone.slice", root).stalled <= 1.0
