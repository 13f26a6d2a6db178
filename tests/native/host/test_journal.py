"""What engines wrote and what the daemon logs, through a real journal."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sdbus import SdBus

from aitherd.host import journal
from aitherd.host.systemd import JobFailed, Property, Systemd
from tests.testbed.manager import UserManager

ENGINE = "aither-writer-engine.service"
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def reads(user: UserManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`journalctl` reads the private journal, from where the manager keeps it."""
    if not user.has_journal:
        pytest.skip("no private journal here")
    real = shutil.which("journalctl")
    wrapper = tmp_path / "journalctl"
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(user._inside([str(real)]))} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.fixture
async def systemd(bus: SdBus) -> AsyncIterator[Systemd]:
    manager = await Systemd.connect(bus)
    yield manager
    await manager.stop_unit(ENGINE)
    await manager.reset_failed(ENGINE)
    await manager.close()


async def ran(systemd: Systemd, *argv: str) -> str:
    """Runs a command as the engine until it has ended; returns the invocation."""
    properties: list[Property] = [
        ("Type", ("s", "oneshot")),
        ("RemainAfterExit", ("b", True)),
        ("ExecStartEx", ("a(sasas)", [(argv[0], list(argv), ["ignore-failure"])])),
    ]
    await systemd.start_transient(ENGINE, properties)
    unit = await systemd.unit(ENGINE)
    assert unit is not None
    return unit.invocation_id


async def test_an_entry_with_two_messages_is_read(systemd: Systemd, reads: None) -> None:
    program = (
        "import socket; plug = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        r"plug.sendto(b'MESSAGE=first\nMESSAGE=second\n', '/run/systemd/journal/socket')"
    )
    invocation = await ran(systemd, "/usr/bin/python3", "-c", program)
    assert await journal.last_line(ENGINE, invocation) in ("first", "second")


async def test_the_last_line_is_told_of_this_run_only(systemd: Systemd, reads: None) -> None:
    first = await ran(systemd, "/bin/sh", "-c", "echo of the first run")
    await systemd.stop_unit(ENGINE)
    second = await ran(systemd, "/bin/sh", "-c", "echo loading; echo CUDA out of memory >&2; echo; echo ' '")
    assert await journal.last_line(ENGINE, first) == "of the first run"
    assert await journal.last_line(ENGINE, second) == "CUDA out of memory"
    assert await journal.last_line(ENGINE, second, 2) == "loading\nCUDA out of memory"
    assert await journal.last_line(ENGINE, second, 9) == "loading\nCUDA out of memory"


async def test_colours_and_control_characters_are_left_out(systemd: Systemd, reads: None) -> None:
    invocation = await ran(systemd, "/bin/sh", "-c", r"printf '\033[1;31merror\033[0m: \033[2Kno\007 \377model\n'")
    assert await journal.last_line(ENGINE, invocation) == "error: no �model"


async def test_an_engine_that_could_not_be_executed_leaves_the_managers_words(systemd: Systemd, reads: None) -> None:
    command: list[Property] = [
        ("Type", ("s", "exec")),
        ("ExecStartEx", ("a(sasas)", [("/nonexistent/engine", ["x"], [])])),
    ]
    with pytest.raises(JobFailed):
        await systemd.start_transient(ENGINE, command)
    unit = await systemd.unit(ENGINE)
    assert unit is not None
    line = await journal.last_line(ENGINE, unit.invocation_id)
    assert "/nonexistent/engine" in line
    assert "No such file" in line


async def test_nothing_written_is_an_empty_line(systemd: Systemd, reads: None) -> None:
    invocation = await ran(systemd, "/bin/true")
    assert await journal.last_line(ENGINE, invocation) == ""
    assert await journal.last_line(ENGINE, "") == ""
    assert await journal.last_line("aither-other-engine.service", invocation) == ""


async def test_a_journal_that_does_not_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow, pid = tmp_path / "journalctl", tmp_path / "pid"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await journal.last_line(ENGINE, "0" * 32, timeout=1) == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_a_machine_without_journalctl_has_no_last_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await journal.last_line(ENGINE, "0" * 32) == ""


LOGS = """
import structlog
from aitherd.host import log
log.setup()
structlog.get_logger("aitherd").error("no room\\nfor vision", aither_model="vision", missing=7)
structlog.get_logger("aitherd").info("x" * 300_000, aither_model="large")
"""


async def test_a_record_of_a_unit_reaches_the_journal_with_its_fields(
    user: UserManager, systemd: Systemd, reads: None
) -> None:
    environment: Property = ("Environment", ("as", [f"PYTHONPATH={REPOSITORY}"]))
    argv = [sys.executable, "-c", LOGS]
    command: Property = ("ExecStartEx", ("a(sasas)", [(argv[0], argv, ["no-env-expand"])]))
    await systemd.start_transient(ENGINE, [("Type", ("s", "oneshot")), environment, command])
    (line,) = user.journal("AITHER_MODEL=vision", output="json").splitlines()
    entry = json.loads(line)
    assert (entry["MESSAGE"], entry["PRIORITY"], entry["MISSING"]) == ("no room\nfor vision", "3", "7")
    assert (entry["SYSLOG_IDENTIFIER"], entry["_SYSTEMD_USER_UNIT"]) == ("aitherd", ENGINE)
    assert user.journal("AITHER_MODEL=large") == "x" * 300_000 + "\n"
