"""Stands in for vLLM's server: `vllm serve MODEL [--uds PATH | --host HOST --port N] [vLLM's options] [--x-…]`.

What it does as vLLM does: it checks at start that its share of the device is free, profiles memory and aborts if free
memory grew meanwhile; listens only when loaded; `/health` says nothing about sleep; sleep and wake take their
parameters in the query only and exist only with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1` (404 otherwise);
`mode` defaults to `abort`; level 2 drops the weights, which answer nonsense until `reload_weights`. With
`--runner pooling` it embeds instead of writing.

What it does wrong, as vLLM does: a sleep with requests in flight and without `mode=wait` answers 200 and kills the
engine; so does a request while it is not fully awake; a wake without room fails and leaks what it had mapped.
`--x-sleep-keeps BYTES` stay on the device while asleep. With `--x-sleep dies` it answers 200 and dies of it without any
request; with `--x-wake fails` it finds no room although there is some, and leaks. With `--x-core` the device memory
belongs to a child in a session of its own, which goes on holding it when its server is killed. While the file
`--x-mute-while` exists its GPU hangs: `/health` is 200, `/metrics` counts what runs, and no token comes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from tests.testbed.nvml.gpu import OutOfMemory
from tests.testbed.stand_ins.http import Request, Response, reply, serve
from tests.testbed.stand_ins.memory import DeviceMemory, size
from tests.testbed.stand_ins.openai import complete, hang, model_list

TAGS = ("weights", "kv_cache")
CORE = (sys.executable, "-c", "import time; time.sleep(1e6)")
"""The process that holds the device memory, and outlives its server."""
DEATH_S = 0.05
"""How long the process lives on after its engine has died: long enough for the answer that is under way."""


class Vllm:
    """One server's state."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.memory = DeviceMemory()
        self.awake = set(TAGS)
        self.weights_valid = True
        self.level = 0
        self.leaked = 0
        self.dead = False
        self.active = 0
        self.generated = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._deaths: list[asyncio.TimerHandle] = []
        if options.x_core:
            core = subprocess.Popen(CORE, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            self.memory.pid = core.pid

    async def load(self) -> None:
        """Takes memory as a start does. Ends the process with a reason if it cannot."""
        options = self.options
        share = int(options.gpu_memory_utilization * self.memory.total)
        if options.x_kv is None:
            # A server sizes its cache by what its share leaves; one that is told the size does not look at the share.
            if self.memory.free < share:
                _fail(
                    f"ValueError: {self.memory.free} bytes are free, less than the {share} of --gpu-memory-utilization"
                )
            options.x_kv = max(share - options.x_weights - options.x_context, 0)
        await asyncio.sleep(options.x_load_seconds)
        self.memory.take_or_die(options.x_context + options.x_weights)
        before = self.memory.free
        await asyncio.sleep(options.x_profile_seconds)
        if self.memory.free > before:
            _fail(f"AssertionError: free memory grew from {before} to {self.memory.free} bytes while it was profiled")
        self._hold()

    def _hold(self) -> None:
        options = self.options
        kept = options.x_context + self.leaked + (options.x_sleep_keeps if len(self.awake) < len(TAGS) else 0)
        parts = {"weights": options.x_weights, "kv_cache": options.x_kv}
        self.memory.take(kept + sum(parts[tag] for tag in self.awake))

    def _map(self) -> None:
        if self.options.x_wake == "fails":
            raise OutOfMemory("fragmented")
        self._hold()

    def _die(self, reason: str) -> None:
        print(reason, file=sys.stderr, flush=True)
        self.dead = True
        self._deaths.append(asyncio.get_running_loop().call_later(DEATH_S, os._exit, 1))

    async def handle(self, request: Request) -> Response:
        """All routes."""
        match request.method, request.path:
            case "GET", "/health":
                return Response(503 if self.dead else 200)
            case "GET", "/v1/models":
                return model_list(self.options.served_model_name or [self.options.model])
            case "GET", "/version":
                return reply({"version": "0.0.0+stand-in"})
            case "GET", "/load":
                return reply({"server_load": self.active})
            case "GET", "/metrics":
                text = f"vllm:num_requests_running {float(self.active)}\nvllm:num_requests_waiting 0.0\n"
                text += f"vllm:generation_tokens_total {float(self.generated)}\n"
                return Response(body=text.encode(), kind="text/plain")
            case "POST", "/v1/embeddings" if self.options.runner == "pooling":
                return self._embed(request)
            case "POST", "/v1/chat/completions" | "/v1/completions" if self.options.runner != "pooling":
                return await self._complete(request)
        if self.options.enable_sleep_mode and os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            return await self._control(request)
        return reply({"detail": "Not Found"}, 404)

    async def _control(self, request: Request) -> Response:
        match request.method, request.path:
            case "GET", "/is_sleeping":
                return reply({"is_sleeping": len(self.awake) < len(TAGS)})
            case "POST", "/sleep":
                return await self._sleep(int(request.first("level", "1")), request.first("mode", "abort"))
            case "POST", "/wake_up":
                return await self._wake(request.query.get("tags", list(TAGS)))
            case "POST", "/collective_rpc":
                if request.json().get("method") == "reload_weights" and "weights" in self.awake:
                    await asyncio.sleep(self.options.x_load_seconds)
                    self.weights_valid = True
                return reply({"results": [None]})
            case "POST", "/reset_prefix_cache" | "/reset_mm_cache" | "/reset_encoder_cache":
                return Response()
        return reply({"detail": "Not Found"}, 404)

    async def _sleep(self, level: int, mode: str) -> Response:
        if mode == "wait":
            await self._idle.wait()
        elif self.active:
            self._die("CUDA error: an illegal memory access was encountered")
            return Response()
        await asyncio.sleep(self.options.x_sleep_seconds)
        self.awake.clear()
        self.level = level
        self.weights_valid = level < 2
        self._hold()
        if self.options.x_sleep == "dies":
            self._die("EngineCore encountered a fatal error: an illegal memory access was encountered")
        return Response()

    async def _wake(self, tags: list[str]) -> Response:
        await asyncio.sleep(self.options.x_wake_seconds)
        for tag in tags:
            if tag not in TAGS:
                return reply({"error": f"unknown tag {tag}"}, 400)
            self.awake.add(tag)
            try:
                self._map()
            except OutOfMemory as refused:
                self.awake.discard(tag)
                self._leak()
                return reply({"error": {"message": f"CUDA out of memory: {refused}", "code": 500}}, 500)
        return Response()

    def _leak(self) -> None:
        """A failed wake keeps the blocks that it had mapped: half of what is left."""
        found = self.memory.free // 2
        self.leaked += found
        self._hold()

    def _embed(self, request: Request) -> Response:
        asked = request.json().get("input")
        texts = asked if isinstance(asked, list) else [asked]
        vectors = [{"object": "embedding", "index": at, "embedding": [0.0, 1.0]} for at in range(len(texts))]
        return reply({"object": "list", "data": vectors, "model": self.options.model})

    async def _complete(self, request: Request) -> Response:
        if len(self.awake) < len(TAGS):
            self._die("EngineCore encountered a fatal error: the cache is not mapped")
        if self.dead:
            return reply({"error": {"message": "the engine is dead", "type": "InternalServerError", "code": 500}}, 500)
        word = "word" if self.weights_valid else "!"
        self._enter()
        try:
            await hang(self.options.x_mute_while)
            response = await complete(request, word=word, pace=self.options.x_token_seconds, on_token=self._on_token)
        except BaseException:
            self._leave()
            raise
        if isinstance(response.body, bytes):
            self._leave()
            return response
        return replace(response, body=self._until_left(response.body))

    async def _until_left(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            self._leave()

    def _on_token(self, number: int) -> None:
        self.generated += 1
        if self.dead:
            raise ConnectionError("the engine is dead")

    def _enter(self) -> None:
        self.active += 1
        self._idle.clear()

    def _leave(self) -> None:
        self.active -= 1
        if self.active == 0:
            self._idle.set()


def _fail(reason: str) -> None:
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--uds")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--runner", choices=("auto", "generate", "pooling"), default="auto")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    parser.add_argument("--kv-cache-memory-bytes", "--x-kv", dest="x_kv", type=size, help="size of the KV cache")
    parser.add_argument("--x-weights", type=size, default=size("6GiB"))
    parser.add_argument("--x-context", type=size, default=size("1.4GiB"), help="what stays while asleep")
    parser.add_argument("--x-sleep-keeps", type=size, default=0)
    parser.add_argument("--x-sleep", choices=("works", "dies"), default="works")
    parser.add_argument("--x-mute-while", type=Path)
    parser.add_argument("--x-core", action="store_true")
    parser.add_argument("--x-wake", choices=("works", "fails"), default="works")
    for name, default in (("load", 0.1), ("profile", 0.1), ("sleep", 0.0), ("wake", 0.0), ("token", 0.0)):
        parser.add_argument(f"--x-{name}-seconds", type=float, default=default)
    # Options of a real command line that change nothing here are taken and ignored.
    options, ignored = parser.parse_known_args()
    if ignored:
        print(f"ignored: {json.dumps(ignored)}", flush=True)
    return options


async def main() -> None:
    """Loads, then serves until it is ended."""
    options = _options()
    vllm = Vllm(options)
    await vllm.load()
    await serve(vllm.handle, socket=options.uds, host=options.host, port=options.port)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        os._exit(130)
