"""The file behind the history: lines of JSON, appended now and then, in two files of which the older is dropped.

What is in the lines is `history.py`. A full or broken disk costs the past, nothing else; a line torn by a crash
is passed over.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import structlog

from aitherd.conductor.history import Entry, History, Kind
from aitherd.core.words import Bytes, Seconds

PAUSE: Seconds = 10.0
"""From the first entry that is not written to its writing, with all that came meanwhile: a crash loses so much."""
MOST: Bytes = 4 * 2**20
"""Of each of the two files."""


class Chronicle:
    """`history.jsonl`, and `history.1.jsonl` before it. Reading and writing never raise."""

    def __init__(self, directory: Path, most: Bytes = MOST) -> None:
        self._path = directory / "history.jsonl"
        self._older = directory / "history.1.jsonl"
        self._most = most
        self._failed = False
        self._log = structlog.get_logger("aitherd")

    def read(self) -> list[Entry]:
        """What was written, in its order."""
        return [entry for path in (self._older, self._path) for entry in self._lines(path)]

    async def keep(self, history: History, pause: Seconds = PAUSE) -> None:
        """Has `history` recall what was written, and writes down what it has, until cancelled; sleeps in between."""
        history.recall(await asyncio.to_thread(self.read))
        news = asyncio.Event()
        history.on_news(news.set)
        try:
            while True:
                await news.wait()
                await asyncio.sleep(pause)
                news.clear()
                # A disk may take its time.
                await asyncio.to_thread(self.append, history.take())
        finally:
            self.append(history.take())

    def append(self, entries: Iterable[Entry]) -> None:
        """Writes at the end of the file; begins a new one when it is full."""
        lines = "".join(
            json.dumps([round(entry.time, 3), entry.kind, entry.subject, entry.value], separators=(",", ":")) + "\n"
            for entry in entries
        )
        if not lines:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                if file.tell() + len(lines) > self._most:
                    self._path.replace(self._older)
                    self._begin(lines)
                else:
                    file.write(lines.encode())
        except OSError as error:
            if not self._failed:
                self._log.warning(f"cannot write {self._path}: {error.strerror}; a restart would forget the history")
            self._failed = True
        else:
            self._failed = False

    def _begin(self, lines: str) -> None:
        with self._path.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(lines.encode())

    def _lines(self, path: Path) -> Iterator[Entry]:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            self._log.warning(f"cannot read {path}: {error.strerror}; the history begins anew")
            return
        for line in text.splitlines():
            try:
                time, kind, subject, value = msgspec.json.decode(line)
                entry = Entry(float(time), Kind(kind), str(subject), value)
            except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
                continue
            if _well_formed(entry):
                yield entry


def _well_formed(entry: Entry) -> bool:
    """Whether the value is what its kind says, so that nothing that reads it need ask."""
    value = entry.value
    match entry.kind:
        case Kind.RESIDENCY:
            return isinstance(value, list) and [type(one) for one in value] == [str, int]
        case Kind.RECORD:
            return isinstance(value, list) and [type(one) for one in value] == [str, str]
        case Kind.WAIT:
            return isinstance(value, list) and len(value) == 3 and all(isinstance(one, int | float) for one in value)
        case Kind.BYTES:
            return isinstance(value, dict) and all(isinstance(count, int) for count in value.values())
        case Kind.BEGAN:
            return isinstance(value, str)
