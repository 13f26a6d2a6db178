"""A private service manager with its bus and journal: everything that a user has on a machine that systemd booted.

    with UserManager({"LD_LIBRARY_PATH": str(library)}) as manager:
        manager.install_unit("aitherd.service", text)
        manager.systemctl("start", "aitherd.service")
        assert "ready" in manager.journal("-u", "aitherd.service")

Real `systemd --user`, `dbus-daemon` and `systemd-journald`, in namespaces of their own (see `keeper.py`). Where the
host's controllers are on cgroup v1, resource limits are accepted and have no effect.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess, Popen
from types import TracebackType
from typing import IO

from tests.testbed.errors import ManagerUnavailable
from tests.testbed.keeper import HOME_PREFIX, remove_home

__all__ = ["ManagerUnavailable", "UserManager"]

REPOSITORY = Path(__file__).parents[2]

RUN_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
SYNC_TIMEOUT_S = 30.0
POLL_S = 0.005

BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")

DBUS_SOCKET = """[Unit]
Description=Session bus socket

[Socket]
ListenStream=%t/bus
"""

DBUS_SERVICE = """[Unit]
Description=Session bus
Requires=dbus.socket

[Service]
Type=notify
NotifyAccess=main
ExecStart={daemon} --session --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only
ExecReload={busctl} --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig
"""

BUS_ACTIVATION = """[D-BUS Service]
Name={name}
Exec=/bin/false
SystemdService={unit}
"""


class UserManager:
    """A user's service manager, started on entry; on exit no process, mount or control group of it is left.

    Nor is anything left when the test run crashes: the manager lives as long as this process. Attributes are valid
    between entry and exit.
    """

    env: dict[str, str]
    """For clients: directories, bus address, and what the manager's own units get."""
    home: Path
    """The bed's folder; everything private lies in it. Short, because socket paths are."""
    pid: int
    """Of `systemd --user`, in this process's own PID namespace, as all PIDs here."""
    uid: int
    """As whom everything inside sees itself. Root outside is this ordinary user inside."""
    has_journal: bool
    """Whether a private journal runs; without one, units write to `manager_log` and `journal` raises."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added for the manager, its units and clients; PATH is this process's unless given."""
        self._environment = dict(environment or {})
        self._keeper: Popen[str] | None = None
        self._clients: list[Popen[str]] = []

    def __enter__(self) -> UserManager:
        daemon, busctl = _tool("dbus-daemon", "dbus"), _tool("busctl", "systemd")
        _tool("nsenter", "util-linux")
        self.home = Path(tempfile.mkdtemp(prefix=HOME_PREFIX, dir=_in_memory()))
        self.env = self._lay_out()
        units = self.config / "systemd" / "user"
        (units / "dbus.socket").write_text(DBUS_SOCKET)
        (units / "dbus.service").write_text(DBUS_SERVICE.format(daemon=daemon, busctl=busctl))
        try:
            self._start()
            self.systemctl("start", "dbus.service")
            self.await_bus_name()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def runtime(self) -> Path:
        """XDG_RUNTIME_DIR (`%t` in units), mode 0700; the same path inside and outside."""
        return self.home / "run"

    @property
    def config(self) -> Path:
        """XDG_CONFIG_HOME."""
        return self.home / "config"

    @property
    def state(self) -> Path:
        """XDG_STATE_HOME."""
        return self.home / "state"

    # Commands

    def run(
        self,
        command: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float = RUN_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> CompletedProcess[str]:
        """Runs a command inside, as a user's shell would: same user, mounts and environment as the units.

        `env` is added to the environment. A failure raises CalledProcessError, which a note gives the output.
        """
        done = subprocess.run(
            self._inside(command),
            env={**self.env, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(f"stdout: {done.stdout}\nstderr: {done.stderr}")
            raise error
        return done

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] = subprocess.DEVNULL,
        stdout: int | IO[str] = subprocess.DEVNULL,
        stderr: int | IO[str] = subprocess.DEVNULL,
    ) -> Popen[str]:
        """Starts a command inside; its PID is the command's own. Whatever still runs at exit is killed."""
        client = Popen(
            self._inside(command),
            env={**self.env, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
        self._clients.append(client)
        return client

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = RUN_TIMEOUT_S) -> CompletedProcess[str]:
        """Runs `systemctl --user` with `arguments`."""
        return self.run(["systemctl", "--user", "--no-pager", *arguments], check=check, timeout=timeout)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit as `systemctl show` prints them; all of them when none is named."""
        selected = [f"--property={','.join(properties)}"] if properties else []
        shown = self.systemctl("show", *selected, "--", unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def journal(self, *matches: str, output: str = "cat") -> str:
        """What `journalctl --user` prints for `matches` (`-u NAME`, `FIELD=value`), everything sent so far included."""
        if not self.has_journal:
            raise ManagerUnavailable(f"no private journal here; see {self.manager_log}")
        self._sync_journal()
        return self.run(["journalctl", "--user", "--no-pager", "--quiet", f"--output={output}", *matches]).stdout

    # Installing

    def install_unit(self, name: str, content: str | Path) -> Path:
        """Puts a unit file (text, or a file to copy) into the user's unit folder; takes effect on `reload`."""
        return _write(self.config / "systemd" / "user" / name, content)

    def install_generator(self, name: str, program: str | Path) -> Path:
        """Puts a generator (text with a `#!` line, or a file to copy) where a user's generators belong."""
        path = _write(self.home / "generators" / name, program)
        path.chmod(0o755)
        return path

    def install_bus_name(self, name: str, unit: str) -> Path:
        """Makes the bus start `unit` when somebody calls `name`, as a file in dbus-1/services does."""
        services = self.home / "data" / "dbus-1" / "services"
        path = _write(services / f"{name}.service", BUS_ACTIVATION.format(name=name, unit=unit))
        self.systemctl("reload", "dbus.service")
        return path

    def reload(self) -> None:
        """`daemon-reload`: reads unit files again and runs the generators."""
        self.systemctl("daemon-reload")

    # After a failure

    @property
    def manager_log(self) -> Path:
        """What the manager itself wrote before it could write to the journal, or where there is none."""
        return self.home / "manager.log"

    def save(self, folder: Path) -> None:
        """Keeps what a person needs to understand a failed test: logs, journal, units and their states."""
        folder.mkdir(parents=True, exist_ok=True)
        for log in self.home.glob("*.log"):
            shutil.copyfile(log, folder / log.name)
        if self.has_journal:
            (folder / "journal.txt").write_text(self.journal("--all", output="short-precise"))
            (folder / "journal.json").write_text(self.journal("--all", output="json"))
        states = self.systemctl("list-units", "--all", "--full", check=False)
        (folder / "units.txt").write_text(states.stdout + states.stderr)

    # How

    def _lay_out(self) -> dict[str, str]:
        variables = {
            "XDG_RUNTIME_DIR": self.runtime,
            "XDG_CONFIG_HOME": self.config,
            "XDG_DATA_HOME": self.home / "data",
            "XDG_STATE_HOME": self.state,
            "XDG_CACHE_HOME": self.home / "cache",
            "HOME": self.home / "home",
        }
        for folder in (*variables.values(), self.config / "systemd" / "user", self.home / "generators"):
            folder.mkdir(parents=True, mode=0o700)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            **{name: str(folder) for name, folder in variables.items()},
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime}/bus",
            **self._environment,
        }

    def _start(self) -> None:
        booted = Path("/run/systemd/system").is_dir()
        # The manager that booted the machine owns the control groups and has to be asked for one.
        mode = [] if os.geteuid() == 0 else ["--user"]
        scope = ["systemd-run", *mode, "--scope", "--quiet", "--property=Delegate=yes", "--"] if booted else []
        with (self.home / "keeper.log").open("w") as log:
            self._keeper = Popen(
                [*scope, sys.executable, "-sS", "-m", "tests.testbed.keeper"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        assert self._keeper.stdin is not None and self._keeper.stdout is not None
        order = {"home": str(self.home), "delegated": booted, "environment": self.env}
        self._keeper.stdin.write(json.dumps(order) + "\n")
        self._keeper.stdin.flush()
        answer = self._keeper.stdout.readline()
        if not answer:
            said = (self.home / "keeper.log").read_text().strip()
            raise ManagerUnavailable(f"the keeper of the private service manager died: {said or 'it said nothing'}")
        report = json.loads(answer)
        if "problem" in report:
            raise ManagerUnavailable(report["problem"])
        self.pid, self.uid, self.has_journal = report["pid"], report["uid"], report["journal"]

    def await_bus_name(self) -> None:
        """The manager joins the bus only after it has seen its dbus.service active."""
        ask = ["busctl", "--user", "call", *BUS, "NameHasOwner", "s", "org.freedesktop.systemd1"]
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while self.run(ask).stdout != "b true\n":
            if time.monotonic() > deadline:
                raise ManagerUnavailable("the private service manager does not join its bus")

    def _stop(self) -> None:
        for client in self._clients:
            client.kill()
            client.wait()
        self._clients.clear()
        if self._keeper is not None:
            assert self._keeper.stdin is not None and self._keeper.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.close()
            self._keeper.wait(STOP_TIMEOUT_S)
            self._keeper.stdout.close()
            self._keeper = None
        remove_home(self.home)

    def _inside(self, command: Sequence[str | Path]) -> list[str]:
        # The signal is asked for inside: entering a user namespace clears it.
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--user",
            "--mount",
            "--preserve-credentials",
            f"--wdns={Path.cwd()}",
        ]
        return [*enter, "setpriv", "--pdeathsig=KILL", "--", *map(str, command)]

    def _sync_journal(self) -> None:
        """Waits until the journal has stored everything that was sent to it before this call."""
        inside = Path(f"/proc/{self.pid}/root/run")
        synced = inside / "systemd" / "journal" / "synced"
        before = _text(synced)
        # journalctl --sync asks over a socket that only root may use; the signal does the same.
        os.kill(int(_text(inside / "aither-journald.pid")), signal.SIGRTMIN + 1)
        deadline = time.monotonic() + SYNC_TIMEOUT_S
        while _text(synced) == before:
            if time.monotonic() > deadline:
                raise TimeoutError("the private journal does not answer")
            time.sleep(POLL_S)


def _in_memory() -> Path | None:
    """Where a user's runtime directory lies on a real machine: systemd clears units' directories only there."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or os.statvfs(shared).f_flag & os.ST_NOEXEC:
        return None
    return shared


def _tool(name: str, package: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise ManagerUnavailable(f"{name} is missing: apt-get install {package}")
    return found


def _write(path: Path, content: str | Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.read_bytes() if isinstance(content, Path) else content.encode())
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
