"""A real Ray Serve deployment on this machine: its environment under `build/ray`, and a process that runs it.

What is deployed is `ray_app.py`. `ray.lock` pins `ray[serve]` with all that it needs by hash, for its own environment:
aitherd and its tests need none of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
LOCK, APP = HERE / "ray.lock", HERE / "ray_app.py"
ENVIRONMENT = Path(__file__).parents[2] / "build" / "ray"
INSTALL_TIMEOUT_S = 900.0
READY_TIMEOUT_S = 300.0
END_TIMEOUT_S = 60.0


class RayUnavailable(Exception):
    """Ray cannot be had on this machine; the text says why."""


class RayServe:
    """One deployment, which listens on `port` of the loopback address when `start` has returned."""

    def __init__(self, engine: Sequence[str]) -> None:
        """`engine` is the command of a server that is told its Unix socket by `--host`."""
        self._engine = engine
        # Ray puts sockets there, whose paths have 108 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as plug:
            plug.bind(("127.0.0.1", 0))
            self.port: int = plug.getsockname()[1]

    @property
    def pid(self) -> int:
        """Of the process that holds the deployment together."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it serves. Raises RayUnavailable where Ray cannot be installed."""
        python = installed()
        log = self._folder / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [python, APP, str(self.port), self._folder, *self._engine],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while b"\nready\n" not in log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the deployment does not come up: {log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)

    def end(self) -> None:
        """Ends all of it. Calling it again does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(END_TIMEOUT_S)
            finally:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def installed() -> Path:
    """The interpreter of Ray's environment, which is made if need be. Raises RayUnavailable."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "complete"
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with ENVIRONMENT.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_bytes() == LOCK.read_bytes():
            return python
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        try:
            _run(sys.executable, "-m", "venv", ENVIRONMENT)
            pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
            _run(*pip, "--only-binary", ":all:", "--require-hashes", "-r", LOCK)
        except (OSError, subprocess.SubprocessError) as error:
            said = (
                error.stderr.decode(errors="replace")[-2000:]
                if isinstance(error, subprocess.CalledProcessError)
                else ""
            )
            raise RayUnavailable(f"ray[serve] cannot be installed: {error} {said}") from error
        shutil.copy(LOCK, stamp)
    return python


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=INSTALL_TIMEOUT_S)
