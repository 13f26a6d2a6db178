"""Installs what the test bed needs on a fresh Debian or Ubuntu machine."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from tests.machine.vm.errors import VmUnavailable

TOOLS = {
    "linux.uml": "user-mode-linux",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""Program to the package that has it."""
EMULATOR = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}
"""The same for a machine that is emulated."""


def missing_packages(tools: Mapping[str, str] = TOOLS) -> list[str]:
    """The packages of `tools` whose programs are not on the search path, in order."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return sorted({package for tool, package in tools.items() if shutil.which(tool, path=path) is None})


def require(tools: Mapping[str, str] = TOOLS) -> None:
    """Raises VmUnavailable, with the remedy, if a program is missing."""
    if missing := missing_packages(tools):
        raise VmUnavailable(f"missing packages: apt-get install {' '.join(missing)}")


def install() -> list[str]:
    """Installs the missing packages and returns them; asks the network only if there are any."""
    missing = missing_packages()
    if not missing:
        return []
    if os.geteuid() != 0:
        raise VmUnavailable(f"only root can install: sudo apt-get install {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", "--quiet", *command], env=environment, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise VmUnavailable(f"apt-get {' '.join(command)} failed")
    require()
    return missing
