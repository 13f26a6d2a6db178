"""Stands in for xtts-api-server: `xtts [--host HOST] --port N [its options] [--x-…]`.

What it does as xtts-api-server does: it loads its model before it listens; `GET /speakers_list` and `/languages` answer
from then on; `POST /tts_to_audio/` speaks, `--x-work-seconds` long. It has no health route, and no route of OpenAI's.
"""

from __future__ import annotations

import argparse
import asyncio
import os

from tests.testbed.stand_ins.http import Request, Response, reply, serve
from tests.testbed.stand_ins.memory import DeviceMemory, size
from tests.testbed.stand_ins.openai import WAVE


class Xtts:
    """One server's state."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    async def handle(self, request: Request) -> Response:
        """All routes."""
        match request.method, request.path:
            case "GET", "/speakers_list":
                return reply(["female", "male"])
            case "GET", "/languages":
                return reply({"languages": {"English": "en", "German": "de"}})
            case "POST", "/tts_to_audio/":
                asked = request.json()
                if not asked.keys() >= {"text", "speaker_wav", "language"}:
                    return reply({"detail": [{"type": "missing", "msg": "Field required"}]}, 422)
                await asyncio.sleep(self.options.x_work_seconds)
                return Response(body=WAVE + bytes(4), kind="audio/wav")
        return reply({"detail": "Not Found"}, 404)


async def main() -> None:
    """Loads, then serves until it is ended."""
    parser = argparse.ArgumentParser(prog="xtts")
    parser.add_argument("--host", "-hs", default="localhost")
    parser.add_argument("--port", "-p", type=int, default=8020)
    parser.add_argument("--x-vram", type=size, default=size("2.6GiB"), help="device bytes from the start on")
    parser.add_argument("--x-load-seconds", type=float, default=0.0)
    parser.add_argument("--x-work-seconds", type=float, default=0.0)
    # Options of a real command line that change nothing here are taken and ignored.
    options, _ = parser.parse_known_args()
    DeviceMemory().take_or_die(options.x_vram)
    await asyncio.sleep(options.x_load_seconds)
    await serve(Xtts(options).handle, host=options.host, port=options.port)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        os._exit(130)
