"""A Ray Serve deployment of a real llama-server behind OpenAI's API. Runs in Ray's own environment, see `ray_serve.py`.

`python ray_app.py PORT FOLDER COMMAND...`: serves on that loopback port what COMMAND serves on the Unix socket that is
appended to it, prints `ready`, and ends on SIGTERM.
"""

# mypy: disable-error-code="import-not-found,misc,untyped-decorator,attr-defined"

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

STORE = 80 * 2**20
"""Bytes of Ray's object store, near the least that it takes."""
STARTS_WITHIN_S = 120.0


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Engine:
    """A replica: a llama-server of its own, and the way to it."""

    def __init__(self, folder: str, command: list[str]) -> None:
        self._path = f"{folder}/engine.sock"
        # It ends with the replica, however that ends.
        self._command = ["setpriv", "--pdeathsig", "TERM", *command, "--host", self._path, "--port", "8080"]
        self._up: asyncio.Task[aiohttp.ClientSession] | None = None

    async def __call__(self, request: Request) -> StreamingResponse:
        """Any request of the API, answered as the answer comes."""
        if self._up is None:
            self._up = asyncio.create_task(self._start())
        session = await self._up
        kind = {"Content-Type": request.headers.get("content-type", "application/json")}
        path, body = request.url.path, await request.body()
        answer = await session.request(request.method, path, data=body, headers=kind)

        async def pieces() -> AsyncIterator[bytes]:
            async with answer:
                async for piece in answer.content.iter_any():
                    yield piece

        return StreamingResponse(pieces(), answer.status, media_type=answer.headers["Content-Type"])

    async def _start(self) -> aiohttp.ClientSession:
        null = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=null, stdout=null, stderr=null)
        session = aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(self._path))
        async with asyncio.timeout(STARTS_WITHIN_S):
            while True:
                try:
                    async with session.get("/health") as answer:
                        if answer.status == 200:
                            return session
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)


def main(port: int, folder: str, command: list[str]) -> None:
    """Runs until SIGTERM."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=STORE,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Engine.bind(folder, command), route_prefix="/")
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
