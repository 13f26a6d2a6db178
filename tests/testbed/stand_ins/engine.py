"""Stands in for any HTTP model server: `engine (--socket PATH | --port N) [--vram BYTES] [--fault NAME]… [options]`.

It answers `/health`, `/v1/models`, completions (chat and text), embeddings, speech, images, `/echo` (what arrived, as
JSON) and `/served` (how many requests other than probes it has been sent). Faults, after servers that did so:

exit          ends while it loads, after a line on stderr (a bad flag, a missing file)
never-healthy listens, and `/health` stays 503
hangs         is healthy until the first request, then nothing is ever answered, probes included
dies          is killed in the middle of its answer, after `--dies-after` tokens
ignores-term  goes on after SIGTERM
child         a child in a session of its own holds the device memory, ignores SIGTERM and outlives this process
mute          `/health` is 200 and nothing is ever generated while the file `--mute-while` exists: a GPU that hangs
grows         takes `--host-memory` more bytes of host memory with every request
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import os
import signal
import sys
import time
from pathlib import Path

from tests.testbed.nvml.gpu import OutOfMemory
from tests.testbed.stand_ins.http import Request, Response, reply, serve
from tests.testbed.stand_ins.memory import DeviceMemory, size
from tests.testbed.stand_ins.openai import complete, hang, image, model_list, speech

FAULTS = ("exit", "never-healthy", "hangs", "dies", "ignores-term", "child", "mute", "grows")
EXIT_STATUS = 3
FOREVER_S = 1e6


class Engine:
    """One server's state."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.faults = frozenset(options.fault)
        self.served = 0
        self.hung = False
        self._ballast: list[mmap.mmap] = []

    async def load(self) -> None:
        """Takes memory, then time, as a server does that reads its weights."""
        if "ignores-term" in self.faults:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "child" in self.faults:
            _hold_in_child(self.options.vram)
        elif self.options.vram:
            DeviceMemory().take_or_die(self.options.vram)
        await asyncio.sleep(self.options.load_seconds)
        if "exit" in self.faults:
            print(self.options.says, file=sys.stderr, flush=True)
            os._exit(EXIT_STATUS)

    async def handle(self, request: Request) -> Response:
        """All routes."""
        if self.hung:
            await asyncio.sleep(FOREVER_S)
        match request.method, request.path:
            case "GET", "/health":
                return reply({"status": "loading"}, 503) if "never-healthy" in self.faults else reply({"status": "ok"})
            case "GET", "/served":
                return reply({"served": self.served})
        self.served += 1
        if "hangs" in self.faults:
            self.hung = True
            await asyncio.sleep(FOREVER_S)
        if "grows" in self.faults:
            self._grow()
        match request.method, request.path:
            case "GET", "/v1/models":
                return model_list([self.options.name])
            case "POST", "/v1/chat/completions" | "/v1/completions":
                if "mute" in self.faults and await hang(self.options.mute_while):
                    return reply({"error": {"message": "CUDA error", "type": "server_error"}}, 500)
                return await complete(request, word="word", pace=self.options.token_seconds, on_token=self._on_token)
            case "POST", "/v1/embeddings":
                vector = {"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}
                return reply({"object": "list", "data": [vector], "model": self.options.name})
            case "POST", "/v1/audio/speech":
                return speech()
            case "POST", "/v1/images/generations":
                return image()
            case _, "/echo":
                text = request.body.decode("utf-8", "replace")
                shown = {"method": request.method, "query": request.query, "headers": request.headers, "body": text}
                return reply(shown)
        return reply({"error": {"message": f"no route {request.path}", "type": "not_found"}}, 404)

    def _on_token(self, number: int) -> None:
        if "dies" in self.faults and number >= self.options.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def _grow(self) -> None:
        block = mmap.mmap(-1, self.options.host_memory)
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        self._ballast.append(block)


def _hold_in_child(vram: int) -> None:
    """Returns when the child holds the memory, or has ended without it."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            DeviceMemory().take(vram)
        except OutOfMemory as refused:
            print(refused, file=sys.stderr, flush=True)
            os._exit(1)
        os.write(write, b"held")
        os.close(write)
        while True:
            time.sleep(FOREVER_S)
    os.close(write)
    if os.read(read, 4) != b"held":
        os._exit(1)
    os.close(read)


async def main() -> None:
    """Loads, then serves until it is ended."""
    parser = argparse.ArgumentParser(prog="engine")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket")
    where.add_argument("--port", type=int)
    parser.add_argument("--name", default="stand-in", help="in /v1/models")
    parser.add_argument("--vram", type=size, default=0)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--token-seconds", type=float, default=0.0)
    parser.add_argument("--fault", choices=FAULTS, action="append", default=[])
    parser.add_argument("--says", default="error: the weights are not readable", help="the last line with fault `exit`")
    parser.add_argument("--dies-after", type=int, default=3, help="tokens")
    parser.add_argument("--mute-while", type=Path, help="with fault `mute`; does it say `error`, answers are 500")
    parser.add_argument("--host-memory", type=size, default=size("64MiB"), help="a request, with fault `grows`")
    options = parser.parse_args()
    engine = Engine(options)
    await engine.load()
    await serve(engine.handle, socket=options.socket, port=options.port or 0)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        os._exit(130)
