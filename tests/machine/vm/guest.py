"""Commands in a booted machine, as a test writes them."""

import itertools
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CalledProcessError, CompletedProcess, TimeoutExpired

from tests.machine.vm.agent import LOST
from tests.machine.vm.errors import GuestDied, VmError
from tests.machine.vm.uml import Uml

CONTROL = "/run/testbed"
"""Where the guest sees the control directory."""

POLL_S = 0.003
"""How often the host looks for an answer."""

COMMAND_TIMEOUT_S = 60.0
BOOT_TIMEOUT_S = 180.0
JOURNAL_TIMEOUT_S = 60.0
POWEROFF_TIMEOUT_S = 20.0


class Command:
    """A command that runs in the guest; several may run at once."""

    def __init__(self, guest: "Guest", ident: str, script: str) -> None:
        self._guest = guest
        self._base = guest.spool / ident
        self.script = script

    @property
    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return not self._file("rc").exists()

    @property
    def stdout(self) -> str:
        """What the command has written so far; complete once it has ended."""
        return self._text("out")

    @property
    def stderr(self) -> str:
        """As stdout."""
        return self._text("err")

    def wait(self, timeout: float = COMMAND_TIMEOUT_S, *, check: bool = False) -> CompletedProcess[str]:
        """Waits up to `timeout` seconds; a command that takes longer is killed and TimeoutExpired raised."""
        try:
            self._guest.wait_on(lambda: not self.running, timeout)
        except TimeoutError:
            self.kill()
            raise TimeoutExpired(self.script, timeout, self.stdout, self.stderr) from None
        status = self._file("rc").read_text()
        if status == LOST:
            raise GuestDied(f"the machine restarted during: {self.script}")
        done = CompletedProcess(self.script, int(status), self.stdout, self.stderr)
        if check and done.returncode != 0:
            error = CalledProcessError(done.returncode, self.script, done.stdout, done.stderr)
            error.add_note(f"stdout: {done.stdout}\nstderr: {done.stderr}")
            raise error
        return done

    def kill(self) -> None:
        """Asks for the command's process group to be killed; does not wait."""
        self._file("kill").touch()

    def _file(self, kind: str) -> Path:
        return self._base.with_suffix(f".{kind}")

    def _text(self, kind: str) -> str:
        file = self._file(kind)
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


class Guest:
    """A machine that has booted.

    Every command is a bash script that runs as root in /root with a session of its own.  What a test leaves behind
    stays until the machine is thrown away.  A file that the host changes after the guest has read it may be cached
    there: give changed contents a new name.
    """

    def __init__(self, uml: Uml, control: Path) -> None:
        self._uml = uml
        self._control = control
        self.spool = control / "spool"
        self._numbers = itertools.count(1)

    def run(
        self,
        script: str | Sequence[str],
        *,
        timeout: float = COMMAND_TIMEOUT_S,
        check: bool = False,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> CompletedProcess[str]:
        """Runs a bash script, or an argument list, to its end; `check` raises CalledProcessError if it fails."""
        return self.start(script, user=user, env=env, stdin=stdin).wait(timeout, check=check)

    def start(
        self,
        script: str | Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Command:
        """Starts a script and returns at once; `user` runs it as that user, without a login session."""
        text = script if isinstance(script, str) else shlex.join(script)
        ident = f"{next(self._numbers):05}"
        lines = [f"export {name}={shlex.quote(value)}" for name, value in (env or {}).items()]
        if user is None:
            lines.append(text)
        else:
            (self.spool / f"{ident}.user").write_text(text + "\n")
            lines.append(f"cd / && exec runuser -u {shlex.quote(user)} -- bash {CONTROL}/spool/{ident}.user")
        (self.spool / f"{ident}.in").write_text(stdin)
        new = self.spool / f"{ident}.new"
        new.write_text("\n".join(lines) + "\n")
        new.rename(self.spool / f"{ident}.sh")
        return Command(self, ident, text)

    def wait_until(self, script: str, *, timeout: float = COMMAND_TIMEOUT_S) -> CompletedProcess[str]:
        """Repeats `script` in the guest until it succeeds, and returns the run that did."""
        loop = f"until out=$(\n{script}\n); do sleep 0.05; done; printf '%s\\n' \"$out\""
        return self.run(loop, timeout=timeout)

    def journal(self, *matches: str) -> str:
        """Journal lines that fit the arguments, which are journalctl's (`-u NAME`, `FIELD=value`)."""
        command = shlex.join(["journalctl", "--no-pager", "--output=cat", *matches])
        return self.run(f"journalctl --sync; {command}", check=True).stdout

    def reboot(self, *, timeout: float = BOOT_TIMEOUT_S) -> None:
        """Restarts the machine in an orderly way; its disk keeps what was written."""
        ready = self._control / "ready"
        before = ready.read_text()
        self.start("systemctl reboot")
        self.wait_on(lambda: ready.read_text() != before, timeout)
        self._settle()

    def wait_on(self, condition: Callable[[], bool], timeout: float) -> None:
        """Waits on the host for `condition`; TimeoutError if it does not come true, GuestDied if it no longer can."""
        deadline = time.monotonic() + timeout
        while not condition():
            if not self._uml.alive() and not condition():
                raise GuestDied(f"the machine is gone; its last lines:\n{self._uml.last_lines()}")
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(POLL_S)

    def boot(self, *, timeout: float = BOOT_TIMEOUT_S) -> None:
        """Waits until the machine has finished booting."""
        try:
            self.wait_on((self._control / "ready").exists, timeout)
        except TimeoutError:
            raise VmError(f"no boot within {timeout} s; last lines:\n{self._uml.last_lines()}") from None
        self._settle()

    def power_off(self) -> None:
        """Saves the whole journal on the host and cuts the power."""
        journal = " && ".join(
            f"journalctl --no-pager --output={form} >{CONTROL}/journal.{name}"
            for form, name in (("short-precise", "txt"), ("json", "json"))
        )
        self.run(f"journalctl --sync; {journal}; sync", timeout=JOURNAL_TIMEOUT_S)
        self.start("systemctl poweroff --force --force")
        self._uml.wait(POWEROFF_TIMEOUT_S)

    def _settle(self) -> None:
        # Exit status 1 is a degraded system: a test may ask why, the test bed does not.
        self.run("systemctl is-system-running --wait")
