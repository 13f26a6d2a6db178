"""Root images: built once a recipe, kept outside the work tree, never written to afterwards.

An image's name holds a hash of everything that went into it: the package list, the masked units, the files under
`root/` and the steps below.  So an image is never out of date with this file; one that nothing names any more may
be deleted from the cache at any time.
"""

import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.machine.vm import archive, setup
from tests.machine.vm.errors import VmError, VmUnavailable
from tests.testbed import cache

OVERLAY = Path(__file__).parent / "root"
"""Copied over the root file system of every image."""

SIZE_BYTES = 6 << 30
"""Of the root file system; the file is sparse and takes about a third of a gigabyte."""

BUILD_TIMEOUT_S = 900.0

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "polkitd",
    "python3",
    "python3-minimal",
    "curl",
    "iproute2",
    "kmod",
    "procps",
    "util-linux",
)

MASKED = (
    # Nobody logs in on the console.
    "console-getty.service",
    "getty.target",
    "serial-getty@.service",
    # Nothing is installed, cleaned or trimmed behind a test's back.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    # The kernel is linked whole, has no firmware behind it, and the network is loopback.
    "dev-hugepages.mount",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
    "systemd-hibernate-clear.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-network-generator.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-udev-load-credentials.service",
    # First-boot work that was done when the image was built.
    "ldconfig.service",
    "systemd-firstboot.service",
    "systemd-journal-catalog-update.service",
    "systemd-machine-id-commit.service",
    "systemd-update-done.service",
)

CUSTOMIZE = (
    f'chroot "$1" systemctl mask --quiet {" ".join(map(shlex.quote, MASKED))}',
    'chroot "$1" systemctl enable --quiet testbed-agent.service',
    'chroot "$1" systemctl set-default --quiet multi-user.target',
    # An id of its own, or the manager would take every boot for the first one and preset all units.
    'echo 7e57bed07e57bed07e57bed07e57bed0 >"$1/etc/machine-id"',
    'echo testbed >"$1/etc/hostname"',
    'mkdir -p "$1/var/log/journal"',
    'chroot "$1" useradd --create-home --shell /bin/bash --uid 1000 alice',
    # Compiled here once, not by every process of every boot.
    'chroot "$1" python3 -m compileall -q /usr/lib/python3 >/dev/null 2>&1 || true',
)
"""Shell steps, $1 being the root of the new tree."""

DPKG_OPTIONS = ("path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*")

MKE2FS = ("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-L", "testbed")
"""No journal: a machine that is thrown away needs no crash safety, and pays for every write."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is in an image."""

    suite: str
    packages: tuple[str, ...] = ()
    """Installed beside PACKAGES."""

    @property
    def key(self) -> str:
        """A short hash of the recipe."""
        digest = hashlib.sha256()
        parts = (
            self.suite,
            *sorted(self.packages),
            "",
            *PACKAGES,
            *CUSTOMIZE,
            *archive.APT_OPTIONS,
            *DPKG_OPTIONS,
            *MKE2FS,
        )
        for part in (*parts, str(SIZE_BYTES)):
            digest.update(part.encode() + b"\0")
        for file in sorted(path for path in OVERLAY.rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(OVERLAY)).encode() + b"\0" + file.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    @property
    def path(self) -> Path:
        """Where the finished image lies, whether or not it is there yet."""
        return cache.root() / f"{self.suite}-{self.key}.img"

    def ensure(self) -> Path:
        """Builds the image unless it is there; of several callers at once, one builds and the others wait."""
        if self.path.exists():
            return self.path
        setup.require()
        with cache.locked(self.path.name):
            if not self.path.exists():
                self._build()
        return self.path

    def _build(self) -> None:
        log = self.path.with_suffix(".log")
        directory = self.path.parent
        with (
            log.open("w+", encoding="utf-8", errors="replace") as output,
            tempfile.NamedTemporaryFile(dir=directory, prefix=f"{self.suite}-", suffix=".tar") as tree,
            tempfile.NamedTemporaryFile(dir=directory, prefix=f"{self.suite}-", suffix=".new") as image,
        ):
            try:
                if (said := self._bootstrap(tree, output, trusted=False)) is not None and archive.lacks_key(said):
                    said = self._bootstrap(tree, output, trusted=True)
                if said is None:
                    image.truncate(SIZE_BYTES)
                    said = _to_file_system(tree, image, output)
            except subprocess.TimeoutExpired as expired:
                raise VmError(f"building {self.suite} took longer than {expired.timeout} s, see {log}") from None
            if said is not None:
                raise VmUnavailable(f"building {self.suite} failed, see {log}; its last lines:\n{_tail(said)}")
            Path(image.name).chmod(0o444)
            self.path.hardlink_to(image.name)

    def _bootstrap(self, tree: IO[bytes], output: IO[str], *, trusted: bool) -> str | None:
        """Writes the root file system to `tree` as a tar archive; returns what the tools said if they failed."""
        tree.truncate(0)
        command = [
            "mmdebstrap",
            f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
            "--format=tar",
            "--variant=minbase",
            f"--include={','.join((*PACKAGES, *self.packages))}",
            *(f"--aptopt={option}" for option in archive.APT_OPTIONS),
            *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
            f"--customize-hook=sync-in {shlex.quote(str(OVERLAY))} /",
            *(f"--customize-hook={step}" for step in CUSTOMIZE),
            self.suite,
            "-",
            archive.source_line(self.suite, trusted=trusted),
        ]
        return _run(command, output, stdin=subprocess.DEVNULL, stdout=tree)


def _to_file_system(tree: IO[bytes], image: IO[bytes], output: IO[str]) -> str | None:
    """Makes the file system that holds the archive `tree` in the file `image`; returns as `_bootstrap`."""
    # Without root this runs in a user namespace, which may not be able to follow our paths but can open what it
    # inherited. It is the same namespace that owns the files of the archive.
    Path(image.name).chmod(0o666)
    tree.seek(0)
    script = (
        "set -e; tree=$(mktemp -d); trap 'rm -rf \"$tree\"' EXIT; "
        'tar --extract --preserve-permissions --numeric-owner --xattrs --directory="$tree"; '
        f'{shlex.join(MKE2FS)} -d "$tree" /proc/self/fd/{image.fileno()}'
    )
    helper = [] if os.geteuid() == 0 else ["mmdebstrap", "--unshare-helper"]
    return _run([*helper, "sh", "-c", script], output, stdin=tree, stdout=output, pass_fds=(image.fileno(),))


def _run(
    command: Sequence[str], output: IO[str], *, stdin: IO[bytes] | int, stdout: IO[Any], pass_fds: Sequence[int] = ()
) -> str | None:
    start = output.tell()
    done = subprocess.run(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=output,
        pass_fds=pass_fds,
        # mke2fs lives in sbin, which an ordinary user's path lacks.
        env={**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    output.seek(start)
    said = output.read()
    return None if done.returncode == 0 else said


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.splitlines()[-lines:])
