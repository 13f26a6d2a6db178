"""The peer that loads models on demand: llama-server's own router, started by hand with the same model file."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.http import get
from tests.bench.peers import free_port
from tests.testbed.llama import PROGRAM, programs
from tests.testbed.models import CONTEXT, chat_model

SECTION = """[{name}]
model = {model}
ctx-size = {context}
n-gpu-layers = 99
jinja = true
threads = 1
"""
START_S = 20.0


@contextmanager
def router(directory: Path, names: list[str]) -> Iterator[tuple[int, int]]:
    """Runs it with models of these names, none loaded; yields its PID and port."""
    library = programs().parent / "lib"
    presets = directory / "presets.ini"
    presets.write_text("\n".join(SECTION.format(name=name, model=chat_model(), context=CONTEXT) for name in names))
    port = free_port()
    # The router runs /proc/self/exe for a model. Here that is the loader, which has to be told the program.
    program = str(library / f"{PROGRAM}.bin")
    command: list[str | Path] = [
        library / PROGRAM,
        program,
        "--models-preset",
        presets,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "--offline"],
        env={**os.environ, "LD_LIBRARY_PATH": str(library), "LLAMA_APP_CMD": program},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        while get(address(port), "/health") != 200:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("llama-server does not start as a router")
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def address(port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Where it listens."""
    return socket.AF_INET, ("127.0.0.1", port)
