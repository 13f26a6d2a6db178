"""Real `llama-server` and `whisper-server`: Debian's own builds with all that they link, for any Linux and for guests.

The folder that `programs()` returns goes to PATH. The packages come from the archive that apt on this machine knows
and are unpacked, not installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.machine.vm import archive
from tests.machine.vm.errors import VmUnavailable
from tests.testbed.cache import populate

SUITE = "forky"
PROGRAM = "llama-server"
PACKAGES = {PROGRAM: "llama.cpp-tools", "whisper-server": "whisper.cpp-tools"}
"""Programs that can be had, and the packages that they are in."""
TIMEOUT_S = 900.0

# The loader carries the program's name, for /proc/PID/comm, and lies beside the compute backends: ggml looks for those
# in the folder of /proc/self/exe, which is the loader.
SCRIPT = """#!/bin/sh
lib=${{0%/*}}/../lib
exec "$lib/{program}" --library-path "$lib" --argv0 {program} "$lib/{program}.bin" "$@"
"""


class LlamaUnavailable(Exception):
    """The program cannot be had on this machine; the text names the remedy."""


def programs(program: str = PROGRAM) -> Path:
    """The folder with the script `program`, whose PID becomes the server's. Downloads about 100 MB once."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    name = f"{program}-{SUITE}-{platform.machine()}-{digest}"
    return populate(name, lambda into: _build(program, into)) / "bin"


def _build(program: str, into: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f"{program}.", dir=into.parent) as scratch:
        tree = Path(scratch)
        _unpack(PACKAGES[program], tree)
        _collect(program, tree / "usr", into)
    answer = subprocess.run(
        [into / "bin" / program, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if answer.returncode != 0:
        raise LlamaUnavailable(f"{program} from {SUITE} does not run here: {answer.stderr or answer.stdout}")


def _unpack(package: str, tree: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise LlamaUnavailable("mmdebstrap is missing: apt-get install mmdebstrap")
    said = ""
    for trusted in (False, True):
        try:
            source = archive.source_line(SUITE, trusted=trusted)
        except VmUnavailable as problem:
            raise LlamaUnavailable(str(problem)) from problem
        command = [
            "mmdebstrap",
            f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
            "--format=tar",
            "--variant=extract",
            f"--include={package}",
            *(f"--aptopt={option}" for option in archive.APT_OPTIONS),
            SUITE,
            str(tree / "packages.tar"),
            source,
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode == 0:
            # Only what belongs to the user: device nodes and owners are of no use here.
            unpack = ["tar", "--extract", "--no-same-owner", f"--directory={tree}", f"--file={tree / 'packages.tar'}"]
            subprocess.run([*unpack, "./usr/bin", "./usr/lib"], check=True, stdin=subprocess.DEVNULL)
            return
        said = done.stderr
        if not archive.lacks_key(said):
            break
    raise LlamaUnavailable(f"{package} cannot be fetched from {SUITE}:\n{said[-2000:]}")


def _collect(program: str, usr: Path, into: Path) -> None:
    """Copies the program, the libraries that it and its backends link, and the loader: a tenth of what was unpacked."""
    triplet = next(path.parent for path in usr.glob("lib/*/libc.so.6"))
    loader = next(iter(sorted(triplet.glob("ld-linux-*.so.*"))))
    backends = sorted(triplet.glob("ggml/backends*/*.so"))
    lib, bin_ = into / "lib", into / "bin"
    lib.mkdir()
    bin_.mkdir()
    search = f"{triplet}:{triplet / 'llama'}"
    linked = set()
    for binary in (usr / "bin" / program, *backends):
        listed = subprocess.run(
            [loader, "--library-path", search, "--list", binary], capture_output=True, text=True, check=True
        )
        linked |= {line.split(" => ")[1].split(" (")[0] for line in listed.stdout.splitlines() if " => " in line}
    for library in (*map(Path, linked), *backends):
        shutil.copy(library, lib / library.name)
    shutil.copy(usr / "bin" / program, lib / f"{program}.bin")
    shutil.copy(loader, lib / program)
    script = bin_ / program
    script.write_text(SCRIPT.format(program=program))
    script.chmod(0o755)
