"""The guest's side: runs each command file of the spool as a process of its own.

Runs inside the guest, on the standard library of whichever Python the suite has.  A command is the shell script
`spool/ID.sh`, with its standard input in `spool/ID.in`; it leaves `ID.out`, `ID.err` and, last and atomically, `ID.rc`
with its exit status (minus the signal's number if one ended it).  `ID.kill` asks for the command's whole process
group to be killed.
"""

# pathlib is not imported: the agent starts at every boot and looks at the spool many times a second.
# ruff: noqa: PTH104, PTH110, PTH118, PTH123, PTH208

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

BUSY_POLL_S = 0.004
IDLE_POLL_S = 0.04
BUSY_FOR_S = 1.0
"""How long after a command started or ended the spool is still looked at often: tests come in bursts."""

LOST = "lost"
"""In place of an exit status: the machine restarted while the command ran."""


def write(path: str, text: str) -> None:
    """Writes a file that appears only when it is complete."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


class Job:
    """One running command."""

    def __init__(self, spool: str, ident: str) -> None:
        self.base = os.path.join(spool, ident)
        self.out = os.open(self.base + ".out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.err = os.open(self.base + ".err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        with open(self.base + ".in", "rb") as source:
            self.process = subprocess.Popen(
                ["/bin/bash", self.base + ".sh"],
                stdin=source,
                stdout=self.out,
                stderr=self.err,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Ends the command and what it started, unless that moved to a session of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def finished(self) -> bool:
        """Whether the command has ended; if so its output is on the host before its status is."""
        status = self.process.poll()
        if status is None:
            return False
        for descriptor in (self.out, self.err):
            os.fsync(descriptor)
            os.close(descriptor)
        write(self.base + ".rc", str(status))
        return True


def main(control: str) -> None:
    """Serves the spool for ever."""
    spool = os.path.join(control, "spool")
    ended, wake = os.pipe()
    os.set_blocking(ended, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    # What lies here already was submitted before a reboot (perhaps it asked for it): it must not run again.
    seen = {name.partition(".")[0] for name in os.listdir(spool)}
    for ident in seen:
        if not os.path.exists(os.path.join(spool, ident + ".rc")):
            write(os.path.join(spool, ident + ".rc"), LOST)
    with open("/proc/sys/kernel/random/boot_id") as file:
        write(os.path.join(control, "ready"), file.read())
    jobs: dict[str, Job] = {}
    last = time.monotonic()
    while True:
        for name in sorted(os.listdir(spool)):
            ident, _, kind = name.partition(".")
            if kind == "kill" and ident in jobs:
                jobs[ident].kill()
            elif kind == "sh" and ident not in seen:
                seen.add(ident)
                jobs[ident] = Job(spool, ident)
                last = time.monotonic()
        for ident in [ident for ident, job in jobs.items() if job.finished()]:
            del jobs[ident]
            last = time.monotonic()
        timeout = BUSY_POLL_S if time.monotonic() - last < BUSY_FOR_S else IDLE_POLL_S
        if select.select([ended], [], [], timeout)[0]:
            os.read(ended, 4096)


if __name__ == "__main__":
    main(sys.argv[1])
