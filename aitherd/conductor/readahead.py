"""Has the kernel read the weights of the model that is likely next, a piece at a time, while the machine can spare it.

Which model, and whether now, is `core/readahead.py`'s to say. Nothing waits for it: a model that is wanted starts as it
would have, and finds in the page cache what was read by then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from aitherd.conductor.books import Book, Clock
from aitherd.conductor.launch import ENGINE_DIRECTORY, Host
from aitherd.conductor.records import Event, Records
from aitherd.config import Settings
from aitherd.config.machine import weight_files
from aitherd.core.readahead import Candidate, Pressure, likely, spare
from aitherd.core.words import Bytes, Residency, Seconds, format_bytes
from aitherd.host.memory import HostMemory

PIECE: Bytes = 64 * 2**20
PAUSE: Seconds = 0.25
"""After each piece: no more than a quarter of a gibibyte in a second, and time to see what it did to others."""
AGAIN: Seconds = 1800.0
"""How long what was read is taken to be cached still."""


class ReadAhead:
    """Reads ahead for one model at a time."""

    def __init__(
        self,
        books: Mapping[str, Book],
        *,
        host: Host,
        memory: Callable[[], HostMemory],
        pressure: Callable[[], Pressure | None],
        moving: Callable[[], bool],
        background: Callable[[Coroutine[Any, Any, None]], None],
        records: Records,
        clock: Clock,
        settings: Callable[[], Settings],
    ) -> None:
        """`moving` says whether a transition runs, which has the disk and the memory to itself."""
        self._books = books
        self._caches = tuple(
            Path(host.cache_directory, *(() if host.user_mode else (ENGINE_DIRECTORY,)), name)
            for name in ("huggingface/hub", "llama.cpp")
        )
        self._memory = memory
        self._pressure = pressure
        self._moving = moving
        self._background = background
        self._records = records
        self._clock = clock
        self._settings = settings
        self._reading = False
        self._not_before: dict[str, Seconds] = {}
        """When it may be read for a model again."""

    def consider(self) -> None:
        """Begins to read where that is worth it. Called at intervals."""
        if self._reading or not self._settings().read_ahead:
            return
        now = self._clock.monotonic()
        candidates = {
            book.name: Candidate(
                book.name, book.expected(), book.frequency, book.last_used, book.learned.start_seconds()
            )
            for book in self._books.values()
            if book.residency is Residency.ABSENT and self._not_before.get(book.name, now) <= now
        }
        name = likely(candidates.values(), now)
        if name is not None and self._may(candidates[name].weights):
            self._reading = True
            self._background(self._read(self._books[name]))

    def _may(self, weights: Bytes) -> bool:
        if self._moving():
            return False
        try:
            available = self._memory().available
        except OSError:
            # Without a descriptor for that there is none to read with.
            return False
        return spare(self._pressure(), available, weights, self._settings().host_reserve)

    async def _read(self, book: Book) -> None:
        self._not_before[book.name] = self._clock.monotonic() + AGAIN
        read = 0
        try:
            for path in await asyncio.to_thread(weight_files, book.model, self._caches):
                at = 0
                while (count := await asyncio.to_thread(advise, path, at)) > 0:
                    at += count
                    read += count
                    await asyncio.sleep(PAUSE)
                    if book.residency is not Residency.ABSENT or not self._may(PIECE):
                        return
        finally:
            self._reading = False
            if read:
                self._records.add(
                    Event.READ_AHEAD,
                    f"{book.name} is likely next: {format_bytes(read)} of its weights were read ahead",
                    model=book.name,
                    bytes=read,
                )


def advise(path: Path, at: Bytes) -> Bytes:
    """Has the kernel read a piece of a file into the page cache; how many bytes of the file that is, 0 at its end.

    It returns before they are there. A file that may not be read has nothing to read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        count = min(PIECE, os.fstat(descriptor).st_size - at)
        if count > 0:
            os.posix_fadvise(descriptor, at, count, os.POSIX_FADV_WILLNEED)
        return max(count, 0)
    finally:
        os.close(descriptor)
