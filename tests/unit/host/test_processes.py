"""What /proc says, from the real one and from files with the lines of other kinds of machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from subprocess import PIPE

import pytest

from aitherd.host.processes import Origin, cgroup_of, name_of, origin_of

GROUP = "/aither.slice/aither-vision-engine.service"
UNIFIED = f"0::{GROUP}\n"
HYBRID = f"12:cpu,cpuacct:/\n1:name=systemd:{GROUP}\n0::{GROUP}\n"
LEGACY = f"4:memory:/\n1:name=systemd:{GROUP}\n0::/\n"


@pytest.mark.parametrize("lines", [UNIFIED, HYBRID, LEGACY])
def test_the_control_group_is_the_one_that_systemd_manages(tmp_path: Path, lines: str) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(lines)
    assert cgroup_of(7, tmp_path) == GROUP


def test_a_path_may_hold_colons(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/a:b.service\n")
    assert cgroup_of(7, tmp_path) == "/a:b.service"


def test_a_living_process_has_a_name_and_a_group() -> None:
    assert cgroup_of(os.getpid()).startswith("/")
    with subprocess.Popen(["/bin/cat"], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin and process.stdout
        process.stdin.write("it runs\n")
        process.stdin.flush()
        process.stdout.readline()
        name = name_of(process.pid)
    assert name == "cat"


def test_a_process_that_is_gone_has_neither() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert (cgroup_of(process.pid), name_of(process.pid)) == ("", "")


def test_a_process_has_a_parent_and_a_beginning_until_it_ends() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=PIPE, stdout=PIPE) as process:
        origin, ours = origin_of(process.pid), origin_of(os.getpid())
        assert origin is not None and ours is not None
        assert origin.parent == os.getpid() and origin.started >= ours.started
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert origin_of(process.pid) is None, "it has ended although nobody has waited for it"
    assert origin_of(process.pid) is None


def test_a_name_may_look_like_the_fields_after_it(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(5, 53))
    (tmp_path / "7" / "stat").write_text(f"7 (a) R 1 (b) S 42 {fields}\n")
    assert origin_of(7, tmp_path) == Origin(parent=42, started=22)
