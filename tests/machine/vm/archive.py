"""Which package archive the images come from: the one that apt on this machine is configured with.

No archive is named here.  `AITHER_TESTBED_MIRROR` overrides what apt knows, for instance to build a Debian image on
a machine of another distribution.
"""

import os
import subprocess
from pathlib import Path

from tests.machine.vm.errors import VmUnavailable

ORIGINS = {"trixie": "Debian", "forky": "Debian", "noble": "Ubuntu", "resolute": "Ubuntu"}
"""Suite to the Origin field of its archive's Release file."""

COMPONENTS = {"Debian": "main", "Ubuntu": "main universe"}

APT_OPTIONS = ('Apt::Install-Recommends "false"', 'Acquire::Check-Valid-Until "false"')
"""The testing suite's index may be past its Valid-Until on a mirror that lags."""

KEYRINGS = {
    "Debian": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "Ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}


def mirror(suite: str) -> str:
    """The address of the archive that holds `suite`, without a slash at its end."""
    if chosen := os.environ.get("AITHER_TESTBED_MIRROR"):
        return chosen.rstrip("/")
    origin = _origin(suite)
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listed.stdout.splitlines():
        found, label, address = line.split("|", 2)
        # The label of the security and debug archives differs from the origin; they hold no base system.
        if found == label == origin:
            return address.rstrip("/")
    raise VmUnavailable(
        f"apt has no {origin} archive to build {suite} from; "
        "run `apt-get update`, or set AITHER_TESTBED_MIRROR to the archive's address"
    )


def source_line(suite: str, *, trusted: bool = False) -> str:
    """A line in the form of sources.list(5); `trusted` accepts an archive whose key this machine does not have."""
    origin = _origin(suite)
    keyring = KEYRINGS[origin]
    option = "[trusted=yes] " if trusted else f"[signed-by={keyring}] " if keyring.exists() else ""
    return f"deb {option}{mirror(suite)} {suite} {COMPONENTS[origin]}"


def lacks_key(output: str) -> bool:
    """Whether apt said that it cannot check the archive's signature, so that only `trusted` helps."""
    return "NO_PUBKEY" in output or "is not signed" in output or "Missing key" in output


def _origin(suite: str) -> str:
    try:
        return ORIGINS[suite]
    except KeyError:
        raise VmUnavailable(f"unknown suite {suite!r}; known: {', '.join(ORIGINS)}") from None
