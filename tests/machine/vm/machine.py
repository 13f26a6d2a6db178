"""One machine from image to power-off."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from types import TracebackType

from tests.machine.vm import setup
from tests.machine.vm.errors import GuestDied, VmError
from tests.machine.vm.guest import Guest
from tests.machine.vm.image import Recipe
from tests.machine.vm.uml import Uml
from tests.testbed import cache

AGENT = Path(__file__).with_name("agent.py")


class Vm:
    """A machine that is built when first wanted, booted on entry and thrown away on exit.

    `share` appears in the guest as /mnt/host, writable; its subdirectory `vm` takes what is left of the machine:
    `console.log`, which holds the journal as far as it came, and after an orderly end `journal.txt` and
    `journal.json`.
    """

    def __init__(
        self,
        suite: str = "trixie",
        share: Path | None = None,
        *,
        shares: Mapping[str, Path] | None = None,
        memory: str = "2G",
        packages: tuple[str, ...] = (),
    ) -> None:
        """`shares` maps mount points to directories, read-only; `packages` are added to the image's own."""
        self.recipe = Recipe(suite, packages)
        self.share = share
        self._shares = dict(shares or {})
        self._memory = memory
        self._scratch: Path | None = None
        self._uml: Uml | None = None
        self._guest: Guest | None = None

    def __enter__(self) -> Guest:
        setup.require()
        base = self.recipe.ensure()
        runs = cache.root() / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self._scratch = Path(tempfile.mkdtemp(dir=runs))
        share = (self.share or self._scratch / "share").absolute()
        control = share / "vm"
        shutil.rmtree(control, ignore_errors=True)
        self._lay_out(share, control)
        # The kernel splits its command line at blanks and the share's path may hold some.
        link = self._scratch / "control"
        link.symlink_to(control)
        self._uml = Uml(
            base=base,
            scratch=self._scratch,
            console=control / "console.log",
            memory=self._memory,
            options=[f"testbed.control={link}/"],
        )
        self._guest = Guest(self._uml, control)
        try:
            self._guest.boot()
        except BaseException:
            self._discard()
            raise
        return self._guest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._guest is not None and self._uml is not None and self._uml.alive():
                self._guest.power_off()
        except (GuestDied, TimeoutExpired) as failure:
            # The machine hangs: the console has what could be saved. An error on its way out matters more.
            if error is None:
                raise VmError(f"the machine did not power off: {failure}") from failure
        finally:
            self._discard()

    def run(self, script: str | Path, timeout: float = 600.0) -> CompletedProcess[str]:
        """Boots, runs one script as root, powers off; output and status also go to `vm/{stdout,stderr,status}`.

        A script that takes longer than `timeout` seconds raises TimeoutExpired with the output so far, and the last
        console lines as a note.
        """
        text = script.read_text() if isinstance(script, Path) else script
        with self as guest:
            command = guest.start(text)
            try:
                done = command.wait(timeout)
            except TimeoutExpired as expired:
                if self._uml is not None:
                    expired.add_note(self._uml.last_lines())
                    self._uml.kill()
                raise
            control = guest.spool.parent
            for name, value in (("stdout", done.stdout), ("stderr", done.stderr), ("status", f"{done.returncode}\n")):
                (control / name).write_text(value)
        return done

    def _lay_out(self, share: Path, control: Path) -> None:
        """Writes what the guest reads while it boots."""
        for directory in (control, control / "spool"):
            directory.mkdir(parents=True)
            # Users of the guest read their scripts here, whatever this process's umask is.
            directory.chmod(0o755)
        shutil.copyfile(AGENT, control / "agent.py")
        mounts = [("rw", "/mnt/host", share)]
        mounts += [("ro", target, source.absolute()) for target, source in self._shares.items()]
        (control / "mounts").write_text("".join("\t".join(map(str, mount)) + "\n" for mount in mounts))

    def _discard(self) -> None:
        if self._uml is not None:
            self._uml.kill()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._guest = self._uml = self._scratch = None
