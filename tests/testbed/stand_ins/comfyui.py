"""Stands in for ComfyUI where memory is concerned: `comfyui [--listen HOST] --port N [options]`.

What it does as ComfyUI does: a queue of its own that one worker renders; weights cached between prompts; `POST /free`
answers 200 at once and only sets flags, which the worker honours after the running prompt: `unload_models` moves the
weights to host memory, `free_memory` forgets them there, too; the context stays until exit; every route also under
`/api`; `/ws` tells pages about the queue for as long as they are open. `POST /prompt` takes `{"prompt": {"seconds":
2}}`. `/system_stats` says how often it had to read its weights from disk (`x_weights_read`).

What it can do wrong, with `--free`: `ignored` (as with custom nodes that keep their weights), `slow` (acts
`--free-seconds` later), `part` (half of the cached bytes stay).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import itertools
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from tests.testbed.nvml.gpu import OutOfMemory
from tests.testbed.stand_ins.http import Request, Response, reply, serve
from tests.testbed.stand_ins.memory import DeviceMemory, size

WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What the answer to a key is made with. RFC 6455, section 4.2.2"""
TELL_S = 0.02

Entry = tuple[int, str, dict[str, object], dict[str, object], list[str]]
"""Number, prompt id, prompt, extra data, outputs: the shape in `/queue`."""


@dataclass
class Flags:
    """What `/free` asked for."""

    unload_models: bool = False
    free_memory: bool = False


class ComfyUi:
    """One server's state."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.memory = DeviceMemory()
        self.cached = 0
        self.in_host_memory = False
        self.weights_read = 0
        self.flags = Flags()
        self.running: Entry | None = None
        self.pending: list[Entry] = []
        self.history: dict[str, object] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Condition()
        self._interrupted = asyncio.Event()

    async def work(self) -> None:
        """The prompt worker: render, then look at the flags, for ever."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.pending or self.flags.unload_models or self.flags.free_memory)
            if self.pending:
                await self._render(self.pending.pop(0))
            flags, self.flags = self.flags, Flags()
            if flags.unload_models or flags.free_memory:
                await self._drop()
            if flags.free_memory:
                self.in_host_memory = False

    async def _render(self, entry: Entry) -> None:
        number, ident, prompt, _, _ = entry
        self.running = entry
        self._interrupted.clear()
        status = "success"
        try:
            if self.cached < self.options.weights:
                self.memory.take(self.options.context + self.options.weights)
                self.cached = self.options.weights
                self.weights_read += not self.in_host_memory
                self.in_host_memory = True
            seconds = prompt.get("seconds", self.options.prompt_seconds)
            await asyncio.wait_for(self._interrupted.wait(), float(str(seconds)))
            status = "interrupted"
        except TimeoutError:
            status = "success"
        except OutOfMemory as refused:
            print(f"torch.OutOfMemoryError: {refused}", flush=True)
            status = "error"
        self.running = None
        self.history[ident] = {"prompt": [number, ident, prompt], "outputs": {}, "status": {"status_str": status}}

    async def _drop(self) -> None:
        if self.options.free == "ignored":
            return
        if self.options.free == "slow":
            await asyncio.sleep(self.options.free_seconds)
        self.cached = self.cached // 2 if self.options.free == "part" else 0
        self.memory.take(self.options.context + self.cached)

    async def handle(self, request: Request) -> Response:
        """All routes."""
        path = request.path.removeprefix("/api")
        match request.method, path:
            case "GET", "/system_stats":
                return reply(self._stats())
            case "GET", "/queue":
                return reply({"queue_running": [self.running] if self.running else [], "queue_pending": self.pending})
            case "POST", "/queue":
                asked = request.json()
                gone = asked.get("delete", [])
                keep = [] if asked.get("clear") or not isinstance(gone, list) else self.pending
                self.pending[:] = [
                    entry for entry in keep if entry[1] not in list(gone if isinstance(gone, list) else [])
                ]
                return Response()
            case "POST", "/prompt":
                return await self._queue(request.json())
            case "GET", "/prompt":
                return reply({"exec_info": {"queue_remaining": len(self.pending) + bool(self.running)}})
            case "POST", "/interrupt":
                self._interrupted.set()
                return Response()
            case "GET", "/history":
                return reply(self.history)
            case "POST", "/free":
                async with self._changed:
                    self.flags.unload_models |= request.json().get("unload_models") is True
                    self.flags.free_memory |= request.json().get("free_memory") is True
                    self._changed.notify_all()
                return Response()
            case "GET", "/ws" if (key := request.headers.get("sec-websocket-key")) is not None:
                accept = base64.b64encode(hashlib.sha1((key + WEBSOCKET).encode()).digest()).decode()
                return Response(101, self._tell(), headers={"Sec-WebSocket-Accept": accept})
            case "GET", "/":
                return Response(body=b"<title>ComfyUI</title>", kind="text/html")
        if path.startswith("/history/"):
            ident = path.removeprefix("/history/")
            return reply({ident: self.history[ident]} if ident in self.history else {})
        return reply({"error": "not found"}, 404)

    async def _tell(self) -> AsyncGenerator[bytes, None]:
        """Tells a page how long the queue is, whenever that changes, in frames of a WebSocket."""
        told = -1
        while True:
            left = len(self.pending) + bool(self.running)
            if left != told:
                told = left
                status = {"status": {"exec_info": {"queue_remaining": left}}, "sid": "stand-in"}
                text = json.dumps({"type": "status", "data": status}).encode()
                yield bytes((0x81, len(text))) + text
            await asyncio.sleep(TELL_S)

    async def _queue(self, asked: dict[str, object]) -> Response:
        prompt = asked.get("prompt")
        if not isinstance(prompt, dict):
            return reply({"error": {"type": "no_prompt", "message": "No prompt provided"}, "node_errors": {}}, 400)
        number = next(self._numbers)
        ident = f"prompt-{number}"
        async with self._changed:
            self.pending.append((number, ident, prompt, {}, []))
            self._changed.notify_all()
        return reply({"prompt_id": ident, "number": number, "node_errors": {}})

    def _stats(self) -> dict[str, object]:
        device = {
            "name": "cuda:0",
            "type": "cuda",
            "index": 0,
            "vram_total": self.memory.total,
            "vram_free": self.memory.free,
            "torch_vram_total": self.cached,
            "torch_vram_free": 0,
        }
        system = {"os": "posix", "comfyui_version": "0.0-stand-in", "x_weights_read": self.weights_read}
        return {"system": system, "devices": [device]}


async def main() -> None:
    """Starts, loads nothing, and serves until it is ended."""
    parser = argparse.ArgumentParser(prog="comfyui")
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--context", type=size, default=size("400MiB"), help="device bytes while it lives")
    parser.add_argument(
        "--weights", type=size, default=size("4GiB"), help="device bytes cached from the first prompt on"
    )
    parser.add_argument("--warm", action="store_true", help="start as if a prompt had been rendered")
    parser.add_argument("--prompt-seconds", type=float, default=0.1)
    parser.add_argument("--start-seconds", type=float, default=0.0)
    parser.add_argument("--free", choices=("works", "ignored", "slow", "part"), default="works")
    parser.add_argument("--free-seconds", type=float, default=0.5)
    # Options of a real command line that change nothing here are taken and ignored.
    options, _ = parser.parse_known_args()
    await asyncio.sleep(options.start_seconds)
    comfyui = ComfyUi(options)
    comfyui.cached = options.weights if options.warm else 0
    comfyui.in_host_memory = options.warm
    comfyui.memory.take_or_die(options.context + comfyui.cached)
    async with asyncio.TaskGroup() as group:
        group.create_task(comfyui.work())
        group.create_task(serve(comfyui.handle, host=options.listen, port=options.port))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        os._exit(130)
