"""An engine that answers at once and costs next to nothing: `python -m tests.bench.engine PORT`.

It looks at nothing but the path: `/v1/completions` gets 700 bytes of JSON, `/v1/chat/completions` and `/v1/responses` a
stream of events, 20 and 50 a second, each with the time at which it was written.
"""

from __future__ import annotations

import asyncio
import sys
from time import monotonic_ns
from typing import cast

import uvloop

BODY = b'{"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":"' + b"x" * 600 + b'"}]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PACES = {b"POST /v1/chat": 0.05, b"POST /v1/resp": 0.02}
"""Seconds between the events of one stream, by the beginning of its request."""
EVENTS = 60
"""In one stream."""
FILLER = b"y" * 170


class Server(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.events = 0
        self.pace = 0.0
        self.asked = b""

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST"):
            self.asked = data[:13]
        if not data.endswith(b"}"):
            # Some send the head first. Everybody's body is a JSON object.
            return
        pace = PACES.get(self.asked)
        if pace is None:
            self.transport.write(ANSWER)
        else:
            self.pace = pace
            self.events = 0
            self.transport.write(STREAM)
            self.next_event()

    def next_event(self) -> None:
        """Writes an event and plans the next."""
        if self.transport.is_closing():
            return
        if self.events == EVENTS:
            self.transport.write(b"0\r\n\r\n")
            return
        self.events += 1
        event = b"data: @%020d@ %b\n\n" % (monotonic_ns(), FILLER)
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        asyncio.get_running_loop().call_later(self.pace, self.next_event)


async def main() -> None:
    """Serves until it is killed."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
