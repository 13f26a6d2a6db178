"""The User-Mode Linux process: command line, memory, console, end.

The kernel's command line is described in Documentation/virt/uml/user_mode_linux_howto_v2.rst of the Linux sources.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.machine.vm.errors import VmError

KILL_TIMEOUT_S = 10.0


class Uml:
    """A running machine; `stop` is idempotent and leaves no process behind."""

    def __init__(self, *, base: Path, scratch: Path, console: Path, memory: str, options: Sequence[str]) -> None:
        """Boots `base` copy-on-write.

        `scratch` takes the changed blocks and must not outlive the machine; `memory` is in the kernel's notation
        (`2G`); `options` go to the kernel's command line.
        """
        self.console = console
        command = [
            *_containment(),
            "linux.uml",
            f"mem={memory}",
            f"umid={scratch.name}",
            f"uml_dir={scratch}",
            f"ubd0={scratch / 'cow'},{base}",
            "root=/dev/ubda",
            "rootfstype=ext4",
            "rw",
            "con=null",
            "con0=null,fd:1",
            "init=/usr/lib/systemd/systemd",
            "systemd.show_status=no",
            *options,
        ]
        with console.open("ab") as output:
            # A session of its own: the terminal's signals are for the tests, and the whole group can be ended at once.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(_memory_dir(memory, scratch))},
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Whether the machine still runs."""
        return self.process.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Waits for the machine to power off by itself; False if it has not in time."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Ends the machine as a power cut would."""
        if self.alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            if not self.wait(KILL_TIMEOUT_S):
                raise VmError(f"process {self.process.pid} of the machine does not end")

    def last_lines(self, count: int = 25) -> str:
        """The end of what the console showed, the journal included."""
        text = self.console.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-count:])


def _containment() -> list[str]:
    """Wraps the machine so that it cannot outlive whoever started it.

    The guest's processes are processes of this machine which the kernel holds by ptrace.  Were only the kernel to be
    killed they would run on, and their system calls would be this machine's: so they live in a PID namespace, which
    ends as a whole, and the namespace ends with the parent.
    """
    namespace = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child=SIGKILL"]
    if os.geteuid() != 0:
        namespace[1:1] = ["--user", "--map-current-user"]
    if subprocess.run([*namespace, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
        return ["setpriv", "--pdeathsig=KILL"]
    return ["setpriv", "--pdeathsig=KILL", *namespace, "sh", "-c", '"$@"; exit $?', "sh"]


def _memory_dir(memory: str, scratch: Path) -> Path:
    """Where the guest's memory is mapped from: a file that needs room and a file system that allows execution."""
    shared = Path("/dev/shm")
    units = {"G": 1 << 30, "M": 1 << 20}
    need_bytes = int(memory[:-1]) * units[memory[-1]]
    try:
        state = os.statvfs(shared)
    except OSError:
        return scratch
    roomy = state.f_bavail * state.f_frsize > need_bytes
    return shared if roomy and not state.f_flag & os.ST_NOEXEC and os.access(shared, os.W_OK) else scratch
