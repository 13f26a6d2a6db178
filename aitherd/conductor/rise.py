"""Brings a model up: composes and starts its engine unit, or wakes it, and waits until the server really answers.

Room has been made before. A model that fails to come up leaves nothing behind: its unit is stopped and its bytes are
awaited before anybody is told.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aitherd.conductor.books import Book, Clock
from aitherd.conductor.canary import sing
from aitherd.conductor.launch import Host, UnitRequest, properties, socket_path
from aitherd.conductor.meter import Meter
from aitherd.conductor.precheck import Precheck
from aitherd.conductor.records import Event, Records
from aitherd.conductor.steps import Steps
from aitherd.core.residency import Event as Move
from aitherd.core.vitality import Doubt, lies
from aitherd.core.words import NO_BYTES, DeviceId, Endpoint, Seconds, format_bytes, format_seconds
from aitherd.engines.base import Control, EngineRefused, Health
from aitherd.errors import AitherError, HostFailure, HostOutOfMemory, OutOfDeviceMemory, StartFailed, Stopped
from aitherd.failpoints import Point, reach
from aitherd.host.units import JobFailed

if TYPE_CHECKING:
    from aitherd.config import Model
    from aitherd.config.machine import Obstacle
    from aitherd.host.systemd import Systemd, UnitStatus

PROBES: tuple[tuple[Seconds, Seconds], ...] = ((0.5, 0.01), (2.0, 0.02), (10.0, 0.1), (float("inf"), 0.25))
"""How often a starting engine is asked whether it is ready: (up to this age, every so many seconds)."""
OUT_OF_MEMORY = re.compile(r"out of (?:device )?memory|OutOfMemory|cudaMalloc failed|failed to allocate .*buffer", re.I)
"""What CUDA, torch, vLLM and llama.cpp write when the device's memory does not suffice. (their sources)"""
SOCKET_PATH_MAX = 107
"""Bytes that fit in sockaddr_un. unix(7)"""
BACKOFF_FIRST: Seconds = 2.0
BACKOFF_LAST: Seconds = 120.0
"""After a failure the next try waits this long at first, twice as long each time, and never longer than the last."""
BACKOFF_HOST: Seconds = 60.0
"""The first pause after the kernel killed an engine for host memory: it would be killed again."""


class Rise:
    """Cold starts and wakes."""

    def __init__(
        self,
        systemd: Systemd,
        meter: Meter,
        steps: Steps,
        records: Records,
        clock: Clock,
        host: Host,
        last_line: Callable[[str, str, int], Awaitable[str]],
        obstacle: Callable[[Model], Awaitable[Obstacle | None]],
    ) -> None:
        """`obstacle` looks for what is in the way of a model's first start."""
        self._systemd = systemd
        self._meter = meter
        self._steps = steps
        self._records = records
        self._clock = clock
        self._host = host
        self._last_line = last_line
        """(unit, invocation id, count) -> the last lines that the engine wrote, or nothing."""
        self._precheck = Precheck(systemd, host, last_line, obstacle)

    async def prepare(self, book: Book, placement: tuple[DeviceId, ...]) -> bool:
        """Does what comes before a start and takes time: ends an earlier engine that is still there, and looks at what
        would keep the model from coming up. True if it took time: the plan is stale. Raises as `start` does.
        """
        status = await self._systemd.unit(book.unit)
        ended = status is not None and status.active_state not in ("inactive", "failed")
        if ended:
            await self._steps.end_unit(book)
        endpoint = self._endpoint(book)
        try:
            looked = await self._precheck.look(book, self._request(book, endpoint, placement))
        except AitherError as error:
            book.move(Move.START)
            book.begin(endpoint, placement)
            raise await self._failure(book, error) from error
        return ended or looked

    async def start(self, book: Book, placement: tuple[DeviceId, ...], why: str) -> None:
        """Starts the engine unit and returns when the server answers. Raises StartFailed, or Stopped."""
        began = self._clock.monotonic()
        endpoint = self._endpoint(book)
        book.move(Move.START)
        book.begin(endpoint, placement)
        self._records.add(
            Event.STEP, f"starting {book.name}: {why}", model=book.name, step="start", placement=placement
        )
        book.say("starting its unit")
        reach(Point.START_BOOKED)
        try:
            await self._free_name(book)
            request = self._request(book, endpoint, placement)
            await self._systemd.start_transient(book.unit, properties(request, self._host))
            reach(Point.START_RUNS)
            status = await self._systemd.unit(book.unit)
            if status is None or status.active_state not in ("active", "activating"):
                raise StartFailed("its process ended")
            self.remember(book, status)
            reach(Point.START_LOADING)
            await self.until_ready(book, began)
            reach(Point.START_ANSWERS)
            await self._steps.restore_slots(book)
        except AitherError as error:
            raise await self._failure(book, error) from error
        seconds = self._clock.monotonic() - began
        book.learned.observe_start(seconds)
        self._up(book, f"started in {format_seconds(seconds)}", seconds)

    async def resume(self, book: Book) -> None:
        """Waits for an engine that an earlier daemon started. Raises as `start` does."""
        began = self._clock.monotonic()
        try:
            await self.until_ready(book, began)
        except AitherError as error:
            raise await self._failure(book, error) from error
        self._up(book, "was loading already", self._clock.monotonic() - began)

    async def wake(self, book: Book, why: str) -> bool:
        """Wakes a sleeper and returns True when it answers; where it does not, stops it for a cold start: False."""
        assert book.endpoint is not None
        began = self._clock.monotonic()
        level = book.level
        book.move(Move.WAKE)
        book.died.clear()
        self._records.add(Event.STEP, f"waking {book.name}: {why}", model=book.name, step="wake", level=level)
        book.say("waking up")
        reach(Point.WAKE_BOOKED)
        try:
            await self._steps.sleeping.wake(book, level, book.model.load_timeout)
            reach(Point.WAKE_ASKED)
            await self.until_ready(book, began)
        except (EngineRefused, AitherError) as error:
            book.sleep_broken = True
            self._records.add(
                Event.LAGGING,
                f"{book.name} does not wake: {error}; starting it anew",
                model=book.name,
                problem=str(error),
            )
            await self._abandon(book, None)
            if isinstance(error, Stopped):
                raise
            return False
        seconds = self._clock.monotonic() - began
        book.level = 0
        book.learned.observe_wake(level, seconds)
        self._up(book, f"woke in {format_seconds(seconds)}", seconds)
        return True

    async def until_ready(self, book: Book, began: Seconds) -> None:
        """Returns when the engine answers and its bytes are measured.

        Raises StartFailed when it ended or took too long, Stopped when asked to.
        """
        assert book.endpoint is not None
        deadline = began + book.model.load_timeout
        book.say("waiting for the server to answer")
        async with self._steps.connect(book.endpoint) as control:
            while True:
                if book.stop_wanted:
                    raise Stopped(f"{book.name} was stopped while it was loading")
                if book.died.is_set():
                    raise StartFailed("its process ended")
                if await book.engine.health(control) is Health.READY:
                    if book.vitals.doubt:
                        await self._reassure(book, control)
                    await self._meter.measure()
                    # It may have ended while the devices were measured.
                    if book.died.is_set():
                        continue
                    return
                age = self._clock.monotonic() - began
                if self._clock.monotonic() > deadline:
                    raise StartFailed(
                        f"it did not answer within {format_seconds(book.model.load_timeout)}",
                        remedy="raise load-timeout in its model file if it needs longer",
                    )
                await asyncio.sleep(next(interval for until, interval in PROBES if age < until))

    async def _reassure(self, book: Book, control: Control) -> None:
        """An engine that went through a suspend on its way up or asleep has to do something first.

        Raises StartFailed if it does not.
        """
        book.say("waiting for it to do the least that it can")
        song, why = await sing(book, control)
        if lies(song, occupied=False, moved=None):
            raise StartFailed(f"it calls itself ready and is not: {why}")
        book.vitals.doubt = Doubt.NONE

    def remember(self, book: Book, status: UnitStatus) -> None:
        """Takes over what ties a running unit to its book."""
        book.invocation = status.invocation_id
        book.control_group = status.control_group

    async def failed(self, book: Book, error: AitherError) -> None:
        """Books a failure: the model is not tried again before its back-off is over."""
        book.failures += 1
        first = BACKOFF_HOST if isinstance(error, HostOutOfMemory) else BACKOFF_FIRST
        pause = min(first * 2.0 ** (book.failures - 1), BACKOFF_LAST)
        book.retry_at = self._clock.monotonic() + pause
        book.error = error.message
        self._records.add(
            Event.FAILED,
            error.message,
            model=book.name,
            failures=book.failures,
            retry_in=pause,
        )

    async def ended(self, book: Book) -> StartFailed:
        """Why the engine of `book` ended by itself: systemd's verdict and the last line that it wrote."""
        return await self._explain(book, StartFailed("its process ended"), "ended by itself")

    async def _free_name(self, book: Book) -> None:
        """Frees the unit's name: a unit that failed stays loaded so that people can see why."""
        status = await self._systemd.unit(book.unit)
        if status is not None and status.active_state == "failed":
            await self._systemd.reset_failed(book.unit)
        elif status is not None and status.active_state != "inactive":
            raise StartFailed("an earlier engine of it cannot be ended")

    def _up(self, book: Book, how: str, seconds: Seconds) -> None:
        measured = self._meter.accounts.measured.get(book.name, NO_BYTES)
        if measured:
            book.learned.observe_footprint(sum(measured.values()))
        book.failures = 0
        book.retry_at = 0.0
        book.error = ""
        book.ready_since = self._clock.monotonic()
        book.say("")
        book.move(Move.UP)
        reach(Point.START_READY)
        held = sum(measured.values())
        self._records.add(
            Event.READY,
            f"{book.name} answers: {how}" + (f", holds {format_bytes(held)}" if held else ""),
            model=book.name,
            seconds=round(seconds, 3),
            measured=dict(measured),
        )

    async def _failure(self, book: Book, error: AitherError) -> AitherError:
        """Clears away what did not come up and returns the error that says why."""
        failure = error if isinstance(error, Stopped) else await self._explain(book, error, "did not start")
        await self._abandon(book, failure)
        return failure

    async def _abandon(self, book: Book, error: AitherError | None) -> None:
        before = await self._meter.measure()
        await self._steps.end_unit(book)
        missing = await self._steps.settle(book, before, before.measured.get(book.name, NO_BYTES))
        book.gone(lost=bool(missing))
        if error is not None and not isinstance(error, Stopped):
            await self.failed(book, error)
        book.move(Move.DIED)
        if missing:
            self._steps.quarantine(book, missing, "was stopped")
        elif error is None or isinstance(error, Stopped):
            book.move(Move.CALM)

    async def _explain(self, book: Book, error: AitherError, what: str) -> StartFailed:
        """`error` with what systemd and the engine itself have to say about it."""
        kind: type[StartFailed] = StartFailed
        pause, verdict, remedy, invocation = BACKOFF_FIRST, error.message, error.remedy, book.invocation
        if not isinstance(error, HostFailure) or isinstance(error, JobFailed):
            try:
                status = await self._systemd.unit(book.unit)
            except HostFailure as failure:
                # What is known has to do: an engine that is gone is booked all the same.
                status = None
                verdict = f"{verdict} (why is not known: {failure})"
            if isinstance(error, JobFailed):
                remedy = ""
                if status is not None and status.result not in ("", "success"):
                    # It ended before the manager had called its start done, which is the same to people.
                    verdict, invocation = "its process ended", status.invocation_id
            if status is not None and status.result == "oom-kill":
                limit = dict(book.model.resources).get("MemoryMax")
                size = f" at MemoryMax {format_bytes(limit[1])}" if limit and isinstance(limit[1], int) else ""
                kind, pause = HostOutOfMemory, BACKOFF_HOST
                verdict = f"the kernel killed it for host memory{size} (host_oom)"
            elif status is not None and status.result not in ("", "success"):
                verdict = f"{verdict} ({status.result}, status {status.exec_main_status})"
            if line := await self._last_line(book.unit, invocation, 1):
                verdict = f"{verdict}; it wrote: {line}"
            if kind is StartFailed and book.expected() and OUT_OF_MEMORY.search(verdict):
                kind = OutOfDeviceMemory
        return kind(
            f"{book.name} {what}: {verdict}", remedy=remedy or f"see aitherctl logs {book.name}", retry_after=pause
        )

    def _request(self, book: Book, endpoint: Endpoint, placement: tuple[DeviceId, ...]) -> UnitRequest:
        model = book.model
        uuids = tuple(self._meter.uuids.get(device, "") for device in placement) if len(self._meter.uuids) > 1 else ()
        return UnitRequest(
            model=model.name,
            description=model.description,
            residency_class=model.residency_class,
            launch=book.engine.launch(model.command, endpoint),
            executable=model.executable,
            endpoint=endpoint,
            fingerprint=model.fingerprint,
            placement=placement,
            device_uuids=tuple(uuid for uuid in uuids if uuid),
            stop_seconds=model.stop_timeout,
            download=model.download,
            resources=model.resources,
            service=model.service,
        )

    def _endpoint(self, book: Book) -> Endpoint:
        model = book.model
        if model.port is not None:
            return Endpoint(port=model.port)
        path = socket_path(self._host, model.name)
        if book.engine.speaks_unix and model.unix is not False and len(path.encode()) <= SOCKET_PATH_MAX:
            return Endpoint(socket=path)
        # The kernel picks a port that is free now; one that is taken before the engine binds it fails the start.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return Endpoint(port=probe.getsockname()[1])
