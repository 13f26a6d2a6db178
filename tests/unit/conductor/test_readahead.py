"""Reading ahead reaches the page cache, stops when the machine has other things to do, and can be turned off."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitherd.conductor import readahead
from aitherd.conductor.launch import Host
from aitherd.conductor.readahead import ReadAhead
from aitherd.conductor.records import Records
from aitherd.config import Settings
from aitherd.core.readahead import Pressure
from aitherd.host.memory import HostMemory
from tests.unit.conductor.books import Hands, book

GIB = 1 << 30
SIZE = 8 << 20


class Bench:
    """A model with weights in a file, and a machine that can be put under pressure."""

    def __init__(self, folder: Path) -> None:
        self.hands = Hands()
        self.weights = folder / "weights.gguf"
        self.weights.write_bytes(os.urandom(SIZE))
        command = ("llama-server", "-m", str(self.weights))
        self.book = book(self.hands, command=command, vram=SIZE)
        self.book.frequency, self.book.last_used = 3.0, self.hands.now - 60
        self.pressure: Pressure | None = Pressure(0.0, 0.0)
        self.moves = False
        self.settings = Settings()
        self.tasks: list[asyncio.Task[None]] = []
        self.records = Records(lambda: 0.0)
        self.ahead = ReadAhead(
            {self.book.name: self.book},
            host=Host(True, "/run", str(folder)),
            memory=lambda: HostMemory(64 * GIB, 32 * GIB),
            pressure=lambda: self.pressure,
            moving=lambda: self.moves,
            background=self.begin,
            records=self.records,
            clock=self.hands.clock(),
            settings=lambda: self.settings,
        )
        self.drop()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def consider(self) -> None:
        self.ahead.consider()
        await asyncio.gather(*self.tasks)

    def drop(self) -> None:
        """Empties the page cache of the weights."""
        with self.weights.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def until_cached(self) -> None:
        """Waits until all of the weights are there."""
        deadline = time.monotonic() + 30
        while self.cached() < SIZE:
            assert time.monotonic() < deadline, f"{self.cached()} of {SIZE} bytes are cached"
            time.sleep(0.01)

    def cached(self) -> int:
        """Bytes of the weights in the page cache. mincore(2)"""
        with self.weights.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE,
                                                        flags=mmap.MAP_PRIVATE) as mapped:  # fmt: skip
            pages = (ctypes.c_ubyte * (SIZE // mmap.PAGESIZE))()
            start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
            failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), pages)
            assert failed == 0, os.strerror(ctypes.get_errno())
            return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(readahead, "PAUSE", 0.0)
    monkeypatch.setattr(readahead, "PIECE", 1 << 20)
    return Bench(tmp_path)


async def test_the_weights_of_who_is_likely_next_are_in_the_page_cache(bench: Bench) -> None:
    if bench.cached():
        pytest.skip("this file system does not drop what it has cached")
    await bench.consider()
    await asyncio.to_thread(bench.until_cached)
    assert [(record.event, record.fields["bytes"]) for record in bench.records.latest()] == [("read-ahead", SIZE)]
    # Once: what was read is taken to be there.
    await bench.consider()
    assert len(bench.tasks) == 1


async def test_it_stops_in_the_middle_when_somebody_waits_for_the_disk(bench: Bench) -> None:
    bench.ahead.consider()
    bench.pressure = Pressure(0.0, 50.0)
    await asyncio.gather(*bench.tasks)
    (record,) = bench.records.latest()
    assert record.fields["bytes"] == 1 << 20


async def test_nothing_is_read_while_models_move_or_when_it_is_turned_off(bench: Bench) -> None:
    bench.moves = True
    await bench.consider()
    bench.moves, bench.settings = False, replace(bench.settings, read_ahead=False)
    await bench.consider()
    bench.settings, bench.pressure = Settings(), None
    await bench.consider()
    assert bench.tasks == []
