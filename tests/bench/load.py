"""Clients: one by one for latency, many at once for throughput, many streams for the cost and delay of a chunk."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from time import monotonic_ns, perf_counter_ns
from typing import cast

BODY = b'{"model":"bench","prompt":"' + b"p" * 300 + b'","max_tokens":16}'
STAMP = re.compile(rb"@(\d{20})@")


def request(path: bytes) -> bytes:
    """A POST as a common client library sends it."""
    return (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        b"Connection: keep-alive\r\nUser-Agent: bench/1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b"
    ) % (path, len(BODY), BODY)


class Repeater(asyncio.Protocol):
    """Sends a request as soon as the last is answered, `count` times. All answers have the length of the first.

    With `careful` the length of each is read, which costs more than some proxies do.
    """

    def __init__(self, count: int, careful: bool = False) -> None:
        self.careful = careful
        self.data = request(b"/v1/completions")
        self.left = count
        self.length = 0
        self.buffer = b""
        self.seen = 0
        self.sent = 0
        self.times: list[int] = []
        """Nanoseconds each."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        """The next request."""
        self.seen = 0
        if self.careful:
            self.length, self.buffer = 0, b""
        self.sent = perf_counter_ns()
        self.transport.write(self.data)

    def data_received(self, data: bytes) -> None:
        if not self.length:
            self.buffer += data
            head, separator, _ = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                if not self.done.done():
                    self.done.set_exception(RuntimeError(head.decode()))
                return
            body = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            self.length = len(head) + 4 + body
            data = self.buffer
        self.seen += len(data)
        if self.seen >= self.length:
            self.times.append(perf_counter_ns() - self.sent)
            self.left -= 1
            if self.left:
                self.send()
            else:
                self.transport.close()
                self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError("connection lost"))


async def latency(port: int, count: int, *, careful: bool = False) -> list[int]:
    """Nanoseconds of each of `count` requests on one connection."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Repeater(count, careful), "127.0.0.1", port)
    await client.done
    return client.times


async def throughput(port: int, connections: int, each: int, *, careful: bool = False) -> float:
    """Requests a second over `connections` connections."""
    loop = asyncio.get_running_loop()
    began = perf_counter_ns()
    clients: list[Repeater] = []
    for _ in range(connections):
        clients.append((await loop.create_connection(lambda: Repeater(each, careful), "127.0.0.1", port))[1])
    await asyncio.gather(*(client.done for client in clients))
    return connections * each / ((perf_counter_ns() - began) / 1e9)


@dataclass
class Streamer(asyncio.Protocol):
    """Reads one stream to its end."""

    delays: list[int] = field(default_factory=list)
    """Nanoseconds from the engine's write to arrival here, each event."""
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    tail: bytes = b""
    path: bytes = b"/v1/chat/completions"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(request(self.path))

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        self.delays += [now - int(stamp) for stamp in STAMP.findall(data)]
        self.tail = (self.tail + data)[-5:]
        if self.tail == b"0\r\n\r\n":
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def streams(port: int, count: int, path: bytes = b"/v1/chat/completions") -> list[int]:
    """Delays of all events of `count` streams at once, started evenly over the pace of one."""
    loop = asyncio.get_running_loop()
    clients: list[Streamer] = []
    for _ in range(count):
        clients.append((await loop.create_connection(lambda: Streamer(path=path), "127.0.0.1", port))[1])
        await asyncio.sleep(0.05 / count)
    await asyncio.gather(*(client.done for client in clients))
    return [delay for client in clients for delay in client.delays]
