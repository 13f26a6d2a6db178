"""A wire to a server that can be broken at an instant of the test's choosing, and knows what it broke."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

PIECE_DELAY_S = 0.002
"""Before each piece of a stream, so that there is always one under way."""
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.I)


class Wire:
    """One connection through a link, and how far the answer on it is."""

    def __init__(self, front: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        self._front, self._back = front, back
        self._answer = b""
        """What has been passed on of the answer under way."""

    @property
    def answering(self) -> bool:
        """Whether a part of an answer has been passed on, and not all of it."""
        return bool(self._answer)

    @property
    def streaming(self) -> bool:
        """Whether an event of a stream has been passed on, and not the stream's end."""
        head, _, body = self._answer.partition(b"\r\n\r\n")
        return b"text/event-stream" in head and b"\n" in body.partition(b"data:")[2]

    async def pass_on(self, data: bytes) -> None:
        """Sends a piece of an answer."""
        if self.streaming:
            await asyncio.sleep(PIECE_DELAY_S)
        if self._front.is_closing():
            return
        self._front.write(data)
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if found and (len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")):
            self._answer = b""
        await self._front.drain()

    def close(self) -> None:
        """What was passed on still arrives."""
        self._front.close()
        self._back.close()


class Link:
    """Everybody's way to one server."""

    def __init__(self, server: Path) -> None:
        """`server` is its Unix socket."""
        self._server = server
        self._listener: asyncio.Server | None = None
        self._wires: set[Wire] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._refusing = False
        self.port = 0
        self.streams = asyncio.Event()
        """Set while a stream has begun that is not over."""

    async def open(self, path: Path | None = None) -> None:
        """Listens on the Unix socket `path`, or on a loopback port, which stays the same."""
        self._refusing = False
        if path is not None:
            self._listener = await asyncio.start_unix_server(self._serve, path)
        else:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Nobody listens any more. Connections end at once, but for those in the middle of an answer: after it."""
        self._stop()
        self._refusing = True
        for wire in tuple(self._wires):
            if not wire.answering:
                wire.close()

    def cut(self) -> int:
        """Nobody listens any more, and every connection ends at once. Returns how many streams that broke off."""
        self._stop()
        streams = sum(wire.streaming for wire in self._wires)
        for wire in tuple(self._wires):
            wire.close()
        return streams

    async def close(self) -> None:
        """Ends it, with all that is under way."""
        if self._listener is not None:
            self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self._listener = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listener is None:
            # It was accepted in the turn in which the listener ended.
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        back_reader, back_writer = await asyncio.open_unix_connection(self._server)
        wire = Wire(writer, back_writer)
        self._wires.add(wire)

        async def requests() -> None:
            while data := await reader.read(65536):
                back_writer.write(data)
                await back_writer.drain()

        async def answers() -> None:
            while data := await back_reader.read(65536):
                await wire.pass_on(data)
                if any(one.streaming for one in self._wires):
                    self.streams.set()
                else:
                    self.streams.clear()
                if self._refusing and not wire.answering:
                    return

        tasks = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wire.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._wires.discard(wire)
            self.streams.clear()
