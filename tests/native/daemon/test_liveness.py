"""A daemon whose event loop turns and whose work does not is ended by systemd, and the next one takes over."""

from pathlib import Path

import pytest

from tests.native.daemon.conftest import chat, engine
from tests.testbed.nvml import Gpu
from tests.testbed.rig import REPOSITORY, Rig

FAULT = '''
"""Loaded by Python when it starts: in the daemon, the loop that a file in {armed} is named after hangs, once."""

import asyncio
import contextlib
import sys
from pathlib import Path


def arm(kind, name):
    make = kind.__init__

    def made(self, *arguments, **options):
        make(self, *arguments, **options)
        wait = self.turns.wait

        async def wait_or_hang():
            file = Path({armed!r}) / name
            if file.exists():
                file.unlink()
                while True:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
            await wait()

        self.turns.wait = wait_or_hang

    kind.__init__ = made


if sys.orig_argv[1:3] == ["-m", "aitherd"]:
    from aitherd.conductor.observer import Observer
    from aitherd.conductor.scheduler import Scheduler

    arm(Scheduler, "scheduler")
    arm(Observer, "observer")
'''


@pytest.mark.parametrize("loop", ["scheduler", "observer"])
def test_a_loop_that_hangs_is_ended_by_the_watchdog_and_what_runs_is_adopted(
    loop: str, gpu: Gpu, tmp_path: Path
) -> None:
    armed, site = tmp_path / "armed", tmp_path / "site"
    for folder in (armed, site):
        folder.mkdir()
    (site / "sitecustomize.py").write_text(FAULT.format(armed=str(armed)))
    with Rig(gpu, environment={"PYTHONPATH": f"{site}:{REPOSITORY}"}) as rig:
        rig.manager.install_unit("aitherd.service.d/watchdog.conf", "[Service]\nWatchdogSec=4s\n")
        rig.manager.reload()
        rig.model("runs", engine())
        with rig.http() as http:
            assert chat(http, "runs").status_code == 200
        daemon = rig.daemon_pid()
        before = rig.manager.show("aither-runs-engine.service", "InvocationID")
        (armed / loop).touch()
        rig.wait_for(lambda: rig.running and rig.daemon_pid() not in (0, daemon), "another daemon", timeout=90)
        assert "Watchdog timeout" in rig.manager.journal("USER_UNIT=aitherd.service")
        with rig.http() as http:
            assert chat(http, "runs").headers["x-aither-reason"] == "ready"
        assert rig.manager.show("aither-runs-engine.service", "InvocationID") == before
