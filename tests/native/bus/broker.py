"""A message bus of one's own, with polkit on it where a test asks for that: the real dbus-daemon, the real polkitd."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLKITD = Path("/usr/lib/polkit-1/polkitd")
POLKIT_SHARE = Path("/usr/share/polkit-1")
REPOSITORY = Path(__file__).parents[3]
PATIENCE = 20.0
"""A test that waits longer than this for anything has failed."""

CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@dataclass(frozen=True)
class Ran:
    """A program that has ended."""

    status: int
    out: str
    err: str


class Broker:
    """A dbus-daemon in `folder`. Both buses of its environment are it: what is told apart is how clients open them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[asyncio.subprocess.Process] = []
        self.address = f"unix:path={folder}/bus"
        self.environment = {
            "PATH": os.environ["PATH"],
            "DBUS_SESSION_BUS_ADDRESS": self.address,
            "DBUS_SYSTEM_BUS_ADDRESS": self.address,
            "XDG_RUNTIME_DIR": str(folder),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    async def open(self) -> None:
        """Starts it."""
        configuration = self._folder / "bus.conf"
        configuration.write_text(CONFIGURATION.format(socket=self._folder / "bus"))
        await self._start("dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile")
        await self.until(self._listens)

    async def open_polkit(self, rule: str) -> None:
        """Starts polkitd with aitherd's actions and one rule. In a mount namespace: where it reads them is fixed."""
        # polkitd gives up root and has to reach them still.
        self.open_to_all()
        actions, rules = self._folder / "actions", self._folder / "rules"
        for folder in (actions, rules):
            folder.mkdir()
        shutil.copy(POLKIT_SHARE / "actions" / "org.freedesktop.policykit.policy", actions)
        shutil.copy(REPOSITORY / "units" / "polkit" / "org.aitheros.Aither1.policy", actions)
        (rules / "10-test.rules").write_text(rule)
        mounts = " && ".join(
            f"mount --bind {source} {POLKIT_SHARE}/{name}"
            for source, name in ((actions, "actions"), (rules, "rules.d"))
        )
        script = f"{mounts} && exec {POLKITD} --no-debug"
        polkitd = await self._start("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
        while (await self.run("busctl", "--system", "status", "org.freedesktop.PolicyKit1")).status != 0:
            assert polkitd.returncode is None, "polkitd ended"
            await asyncio.sleep(0.02)

    def open_to_all(self) -> None:
        """Lets other users reach the bus."""
        self._folder.chmod(0o755)

    async def end_bus(self) -> None:
        """Ends the broker under its clients."""
        self._processes[0].terminate()
        await self._processes[0].wait()

    async def close(self) -> None:
        """Ends what was started."""
        for process in reversed(self._processes):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def run(self, *command: str, user: int | None = None, environment: Mapping[str, str] | None = None) -> Ran:
        """Runs a program on this bus while the test's own service answers."""
        process = await self.start(*command, user=user, environment=environment)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def start(
        self,
        *command: str,
        user: int | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> asyncio.subprocess.Process:
        """Starts a program on this bus, as another user if one is given."""
        other: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**self.environment, **(environment or {})},
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
            **other,
        )
        self._processes.append(process)
        return process

    @staticmethod
    async def until(condition: Callable[[], object]) -> None:
        """Waits until `condition()` holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  what it waits for is in other processes
                await asyncio.sleep(0.005)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._folder / "bus")) == 0

    async def _start(self, *command: str) -> asyncio.subprocess.Process:
        # Nothing is left when the test run is killed.
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "TERM", "--", *command),
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process
