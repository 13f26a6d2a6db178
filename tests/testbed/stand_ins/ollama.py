"""Stands in for Ollama: `ollama serve [--x-…]`, listening where `OLLAMA_HOST` says (`HOST:PORT`).

What it does as Ollama does: it starts with nothing loaded and holds nothing then; a request for a model loads it;
`GET /api/ps` lists the loaded ones; a request with `keep_alive` 0 and no prompt unloads one, which takes effect when it
has no more to do, and answers `done_reason` `unload`; one without a prompt loads it. `expires_at` is set when a request
ends, `--x-keep-alive-seconds` from then, and stays while the next one runs; before the first has ended it is reckoned
anew whenever somebody asks.

What it can do wrong, with `--x-keeps`: it answers `unload` and keeps everything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from datetime import UTC, datetime

from tests.testbed.nvml.gpu import OutOfMemory
from tests.testbed.stand_ins.http import Request, Response, reply, serve
from tests.testbed.stand_ins.memory import DeviceMemory, size

EPOCH = "1970-01-01T00:00:00Z"


class Ollama:
    """One server's state."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.memory = DeviceMemory()
        self.loaded: dict[str, int] = {}
        """Requests in progress by loaded model."""
        self.leaving: set[str] = set()
        self.ends: dict[str, float] = {}
        """When a loaded model is to go, Unix time; absent before its first request has ended."""

    async def handle(self, request: Request) -> Response:
        """All routes."""
        match request.method, request.path:
            case "GET", "/":
                return Response(body=b"Ollama is running", kind="text/plain")
            case "GET", "/api/version":
                return reply({"version": "0.0.0-stand-in"})
            case "GET", "/api/ps":
                return reply({"models": [self._shown(name) for name in self.loaded]})
            case "GET", "/api/tags":
                return reply({"models": [self._shown(name) for name in self.options.x_models]})
            case "POST", "/api/generate":
                return await self._generate(request.json())
        return reply({"error": "not found"}, 404)

    def _shown(self, name: str) -> dict[str, object]:
        weights = self.options.x_weights
        instant = self.ends.get(name, time.time() + self.options.x_keep_alive_seconds)
        ends = datetime.fromtimestamp(instant, UTC).isoformat()
        return {"name": name, "model": name, "size": weights, "size_vram": weights, "expires_at": ends, "digest": ""}

    async def _generate(self, asked: dict[str, object]) -> Response:
        name, prompt = str(asked.get("model", "")), asked.get("prompt")
        if name not in self.options.x_models:
            return reply({"error": f"model '{name}' not found"}, 404)
        base = {"model": name, "created_at": EPOCH, "response": "", "done": True}
        if not prompt and asked.get("keep_alive") == 0:
            if name in self.loaded and not self.options.x_keeps:
                self.leaving.add(name)
                self._settle()
            return reply({**base, "done_reason": "unload"})
        if name not in self.loaded:
            self.loaded[name] = 0
            try:
                self._settle()
            except OutOfMemory as refused:
                del self.loaded[name]
                return reply({"error": f"cudaMalloc failed: out of memory: {refused}"}, 500)
        if not prompt:
            self.ends[name] = time.time() + self.options.x_keep_alive_seconds
            return reply({**base, "done_reason": "load"})
        self.loaded[name] += 1
        try:
            await asyncio.sleep(self.options.x_work_seconds)
        finally:
            self.loaded[name] -= 1
            self.ends[name] = time.time() + self.options.x_keep_alive_seconds
            self._settle()
        return reply({**base, "response": "words", "done_reason": "stop"})

    def _settle(self) -> None:
        """Unloads what is to leave and has nothing to do; takes what is loaded. Raises OutOfMemory."""
        for name in [name for name in self.leaving if not self.loaded.get(name)]:
            self.leaving.discard(name)
            self.loaded.pop(name, None)
            self.ends.pop(name, None)
        self.memory.take(self.options.x_weights * len(self.loaded))


async def main() -> None:
    """Starts, loads nothing, and serves until it is ended."""
    parser = argparse.ArgumentParser(prog="ollama")
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("--x-weights", type=size, default=size("5GiB"), help="device bytes a loaded model")
    parser.add_argument("--x-models", nargs="+", default=["llama3.2:latest"], help="what can be loaded")
    parser.add_argument("--x-work-seconds", type=float, default=0.0)
    parser.add_argument("--x-keep-alive-seconds", type=float, default=300.0)
    parser.add_argument("--x-keeps", action="store_true")
    options = parser.parse_args()
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    await serve(Ollama(options).handle, host=host, port=int(port))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        os._exit(130)
