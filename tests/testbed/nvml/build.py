"""Compiles the test library when it is first wanted. What it does is in the C files beside this one."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.testbed.cache import populate

HERE = Path(__file__).parent
LIBRARY = "libnvidia-ml.so.1"
WRAPPER = "with-vram"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class CompilerMissing(Exception):
    """No C compiler is installed; the text names the remedy."""


@cache
def folder() -> Path:
    """A folder with the library and the wrapper, for LD_LIBRARY_PATH and PATH; compiled when it is not there yet."""
    sources = sorted(HERE.glob("*.[ch]"))
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return populate(f"nvml-{digest.hexdigest()[:16]}", _compile)


def _compile(into: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CompilerMissing("the NVML test library needs a C compiler: apt-get install gcc libc6-dev")
    gpu = str(HERE / "gpu.c")
    shared = ("-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", str(into / LIBRARY))
    for arguments in (
        (*shared, str(HERE / "nvml.c"), gpu),
        ("-o", str(into / WRAPPER), str(HERE / "with-vram.c"), gpu),
    ):
        subprocess.run([compiler, *FLAGS, *arguments], check=True, stdin=subprocess.DEVNULL)
