"""aitherd itself on the native test bed: the daemon as a user's service, on a card without silicon.

    with Rig() as rig:
        rig.model("chat", 'engine = "llama-server" …')
        rig.reload()
        answer = rig.http.post("/v1/chat/completions", json={…})

Everything is as in a user's own installation: the same unit files, the bus activates the daemon, the generator makes
the model units. Only where the daemon's program lies is different.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Any

import httpx

from tests.testbed.manager import UserManager
from tests.testbed.nvml import Gpu

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "units"
STAND_INS = REPOSITORY / "tests" / "testbed" / "bin"
BUS_NAME = "org.aitheros.Aither1"
BUS_PATH = "/org/aitheros/Aither1"
WAIT_S = 30.0
NOTIFY_RELOAD = 253
"""The systemd that brought `Type=notify-reload`. The package asks for a later one; what runs here may be older."""
POLL_S = 0.01


class Rig:
    """One private user with aitherd installed. Nothing runs before something asks for it."""

    def __init__(self, gpu: Gpu, *, path: Sequence[Path] = (), environment: Mapping[str, str] | None = None) -> None:
        """`path` is put before PATH, for engines; `environment` goes to every unit."""
        self.gpu = gpu
        seen = gpu.environment
        search = ":".join([*map(str, path), str(STAND_INS), str(Path(sys.executable).parent), seen["PATH"]])
        self.manager = UserManager({**seen, "PATH": search, "PYTHONPATH": str(REPOSITORY), **(environment or {})})
        self._stack = ExitStack()

    def __enter__(self) -> Rig:
        self._stack.enter_context(self.manager)
        try:
            self._install()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # Configuration

    @property
    def etc(self) -> Path:
        """The user's configuration directory of aitherd."""
        return self.manager.config / "aither"

    def settings(self, text: str) -> None:
        """Writes `aitherd.toml`."""
        self.etc.mkdir(parents=True, exist_ok=True)
        (self.etc / "aitherd.toml").write_text(text)

    def model(self, name: str, text: str) -> None:
        """Writes a model file; takes effect on `reload`, or when the daemon starts."""
        models = self.etc / "models.d"
        models.mkdir(parents=True, exist_ok=True)
        (models / f"{name}.toml").write_text(text)

    def reload(self) -> None:
        """Makes the model units, and tells a daemon that runs."""
        self.manager.reload()
        if self.running:
            self.ctl("reload")

    # Using it

    @property
    def running(self) -> bool:
        """Whether the daemon runs."""
        return self.manager.show("aitherd.service", "ActiveState")["ActiveState"] == "active"

    @property
    def socket(self) -> Path:
        """Where the proxy listens."""
        return self.manager.runtime / "aither" / "aither.sock"

    def http(self, timeout: float = 60.0) -> httpx.Client:
        """A client of the proxy; close it."""
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://aither", timeout=timeout, trust_env=False)

    def tcp(self) -> str:
        """Has the proxy listen on a port of the loopback address, too; returns its URL. Before the daemon runs."""
        port = self.offer_tcp()
        self.manager.systemctl("start", "aitherd-tcp.socket")
        return f"http://127.0.0.1:{port}"

    def offer_tcp(self) -> int:
        """Installs aitherd-tcp.socket, on a free port instead of its own, which is returned."""
        with socket.socket() as plug:
            plug.bind(("127.0.0.1", 0))
            port: int = plug.getsockname()[1]
        unit = (UNITS / "user" / "aitherd-tcp.socket").read_text()
        assert "127.0.0.1:8150" in unit
        self.manager.install_unit("aitherd-tcp.socket", unit.replace(":8150", f":{port}"))
        self.manager.reload()
        return port

    def ctl(self, *arguments: str, check: bool = True, timeout: float = WAIT_S) -> CompletedProcess[str]:
        """Runs `aitherctl --user`."""
        command = [sys.executable, "-m", "aitherd.ctl", "--user", *arguments]
        return self.manager.run(command, check=check, timeout=timeout)

    def ctl_json(self, *arguments: str) -> Any:
        """What `aitherctl --json` prints."""
        return json.loads(self.ctl("--json", *arguments).stdout)

    def records(self) -> list[dict[str, Any]]:
        """All records that the daemon keeps, as `aitherctl why` tells them, oldest first."""
        found: list[dict[str, Any]] = self.ctl_json("why", "--lines", "10000")
        return found

    def status(self, model: str) -> dict[str, Any]:
        """The model's properties on the bus, by their names in snake case (`measured_bytes`)."""
        call = ["busctl", "--user", "--json=short", "call", BUS_NAME, f"{BUS_PATH}/model/{model}"]
        call += ["org.freedesktop.DBus.Properties", "GetAll", "s", f"{BUS_NAME}.Model"]
        (found,) = json.loads(self.manager.run(call).stdout)["data"]
        return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): value["data"] for name, value in found.items()}

    def wait_for(self, condition: Callable[[], object], what: str, timeout: float = WAIT_S) -> None:
        """Waits until `condition` holds; fails with `what` and the daemon's own words."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come about within {timeout} s; aitherd said:\n{self.said()}")
            time.sleep(POLL_S)

    def said(self, lines: int = 60) -> str:
        """The end of the daemon's log."""
        return "\n".join(self.manager.journal("-u", "aitherd.service").splitlines()[-lines:])

    def daemon_pid(self) -> int:
        """The daemon's PID."""
        return int(self.manager.show("aitherd.service", "MainPID")["MainPID"])

    # How

    def _install(self) -> None:
        program = f"{sys.executable} -m aitherd --user"
        service = (UNITS / "user" / "aitherd.service").read_text().replace("/usr/lib/aitherd/aitherd --user", program)
        assert program in service
        if int(self.manager.systemctl("--version").stdout.split()[1]) < NOTIFY_RELOAD:
            # Reloading is then the call of ExecReload alone.
            service = service.replace("Type=notify-reload", "Type=notify")
        self.manager.install_unit("aitherd.service", service)
        for unit in ("aitherd.socket", "aither.slice"):
            self.manager.install_unit(unit, UNITS / "user" / unit)
        # A user manager gives its units a PATH of its own.
        self.manager.systemctl("set-environment", f"PATH={self.manager.env['PATH']}")
        self.manager.install_generator("aither-generator", UNITS / "generator" / "aither-generator")
        self.manager.reload()
        self.manager.install_bus_name(BUS_NAME, "aitherd.service")
        self.manager.systemctl("start", "aitherd.socket")
