"""Stands in for speaches: `speaches [--x-…]`, listening where `UVICORN_UDS`, or `UVICORN_HOST` and `UVICORN_PORT`, say.

What it does as speaches does: it starts with nothing loaded; the first request for a model loads it; `GET /api/ps`
lists the loaded ones, `POST /api/ps/ID` loads one (201; 404 unknown; 409 loaded already), `DELETE` unloads one (200;
404 not loaded; 409 in use); the context stays until it exits. A transcription takes `--x-work-seconds`.

What it can do wrong: with `--x-keeps` an unloaded model's bytes stay.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from urllib.parse import unquote

from tests.testbed.nvml.gpu import OutOfMemory
from tests.testbed.stand_ins.http import Request, Response, reply, serve
from tests.testbed.stand_ins.memory import DeviceMemory, size

WHISPER = "Systran/faster-whisper-large-v3"


class Speaches:
    """One server's state."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.memory = DeviceMemory()
        self.loaded: dict[str, int] = {}
        """Requests in progress by loaded model."""
        self.kept = 0

    def hold(self) -> None:
        """Takes what it has loaded. Raises OutOfMemory."""
        self.memory.take(self.options.x_context + self.options.x_weights * (len(self.loaded) + self.kept))

    async def handle(self, request: Request) -> Response:
        """All routes."""
        match request.method, request.path:
            case "GET", "/health":
                return reply({"message": "OK"})
            case "GET", "/api/ps":
                return reply({"models": list(self.loaded)})
            case "GET", "/v1/models":
                data = [{"id": name, "object": "model", "owned_by": "Systran"} for name in self.options.x_models]
                return reply({"object": "list", "data": data})
            case "POST", "/v1/audio/transcriptions" | "/v1/audio/translations":
                return await self._transcribe(request)
        if request.path.startswith("/api/ps/"):
            return self._manage(request.method, unquote(request.path.removeprefix("/api/ps/")))
        return reply({"detail": "Not Found"}, 404)

    def _manage(self, method: str, name: str) -> Response:
        if method == "POST":
            if name not in self.options.x_models:
                return reply({"detail": f"Model '{name}' is not installed locally"}, 404)
            if name in self.loaded:
                return reply({"detail": "Model already loaded"}, 409)
            return self._load(name) or Response(201)
        if method == "DELETE":
            if name not in self.loaded:
                return reply({"detail": f"Model {name} not found"}, 404)
            if self.loaded[name]:
                return reply({"detail": f"Model with ID {name} is in use"}, 409)
            del self.loaded[name]
            self.kept += self.options.x_keeps
            self.hold()
            return Response()
        return reply({"detail": "Method Not Allowed"}, 405)

    def _load(self, name: str) -> Response | None:
        self.loaded[name] = 0
        try:
            self.hold()
        except OutOfMemory as refused:
            del self.loaded[name]
            return reply({"detail": f"CUDA failed with error out of memory: {refused}"}, 500)
        return None

    async def _transcribe(self, request: Request) -> Response:
        found = re.search(rb'name="model"\r\n\r\n([^\r]*)\r\n', request.body)
        name = found[1].decode() if found else ""
        if name not in self.options.x_models:
            return reply({"detail": f"Model '{name}' is not installed locally"}, 404)
        if name not in self.loaded and (refused := self._load(name)):
            return refused
        self.loaded[name] += 1
        try:
            await asyncio.sleep(self.options.x_work_seconds)
        finally:
            self.loaded[name] -= 1
        return reply({"text": "words"})


async def main() -> None:
    """Starts, loads nothing, and serves until it is ended."""
    parser = argparse.ArgumentParser(prog="speaches")
    parser.add_argument("--x-context", type=size, default=size("400MiB"), help="device bytes while it lives")
    parser.add_argument("--x-weights", type=size, default=size("3GiB"), help="device bytes a loaded model")
    parser.add_argument("--x-models", nargs="+", default=[WHISPER], help="what can be loaded")
    parser.add_argument("--x-work-seconds", type=float, default=0.0)
    parser.add_argument("--x-keeps", action="store_true")
    # What uvicorn takes changes nothing here.
    options, _ = parser.parse_known_args()
    speaches = Speaches(options)
    speaches.memory.take_or_die(options.x_context)
    host, port = os.environ.get("UVICORN_HOST", "127.0.0.1"), int(os.environ.get("UVICORN_PORT", "8000"))
    await serve(speaches.handle, socket=os.environ.get("UVICORN_UDS"), host=host, port=port)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        os._exit(130)
