"""Carries out the steps that make room: free, sleep, stop. They believe only what is measured.

Each step moves the residency of its book. A step that had to give bytes back is over when the device shows them back;
where it does not, the next harder step follows, and in the end the bytes are quarantined. What to do is decided by the
arbiter; when, by the scheduler; how a model comes up is in `rise.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from signal import Signals
from typing import TYPE_CHECKING, Protocol

from aitherd.conductor.books import Book, Clock
from aitherd.conductor.meter import Meter
from aitherd.conductor.records import Event, Records
from aitherd.conductor.sleeping import Sleeping
from aitherd.core.ledger import Accounts, outstanding
from aitherd.core.residency import Event as Move
from aitherd.core.words import NO_BYTES, Bytes, DeviceId, Endpoint, Residency, Seconds, format_bytes, format_seconds
from aitherd.engines.base import Control, Engine, EngineRefused, Health
from aitherd.errors import HostFailure
from aitherd.failpoints import Point, reach

if TYPE_CHECKING:
    from aitherd.config import Settings
    from aitherd.host.systemd import Systemd

RETURN_POLL: Seconds = 0.05
"""How often the devices are measured while bytes are awaited."""
SETTLED: Seconds = 2.0
"""An engine that gave some bytes back and no more for this long has given what it gives."""
SLEEP_TIMEOUT: Seconds = 60.0
"""How long an engine may take to answer that it sleeps: moving 30 GiB to host memory takes seconds."""
STOP_MARGIN: Seconds = 15.0
"""How much longer than the model's own time to stop systemd may take before the control group is killed by name."""
SLOTS_TIMEOUT: Seconds = 30.0
"""How long an engine may take to write or read one of the caches that it keeps for clients."""
BUSY_POLL: Seconds = 1.0
"""How often an engine with a queue of its own is asked whether it is done, while it drains."""


class Freed(Protocol):
    """Who may be asked to drop what it caches: a model (`Book`), or a service that is not ours (`foreign.Guest`)."""

    @property
    def name(self) -> str:
        """As records name it."""

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it is asked."""

    @property
    def engine(self) -> Engine:
        """How it is asked."""

    def say(self, stage: str) -> None:
        """What is being done to it now, for people."""

    def freed(self, *, given: bool) -> None:
        """It was asked, and gave something back, or not."""


class Steps:
    """The steps that give bytes back."""

    def __init__(
        self,
        systemd: Systemd,
        meter: Meter,
        sleeping: Sleeping,
        records: Records,
        clock: Clock,
        settings: Callable[[], Settings],
        connect: Callable[[Endpoint], Control] = Control,
    ) -> None:
        self.connect = connect
        """How engines are talked to, here and in `rise.py`."""
        self.sleeping = sleeping
        self._systemd = systemd
        self._meter = meter
        self._records = records
        self._clock = clock
        self._settings = settings

    async def refresh_busy(self, book: Book) -> bool:
        """Asks an engine that may work without requests in flight whether it does; returns if the model is busy."""
        if book.engine.own_queue and book.endpoint is not None and not (book.in_flight or book.vitals.checking):
            async with self.connect(book.endpoint) as control:
                busy = await book.engine.busy(control)
            if busy:
                book.worked = True
                book.last_used = self._clock.monotonic()
            if busy != book.engine_busy:
                book.engine_busy = busy
                book.changed(book.name)
        return book.busy

    async def free(self, book: Freed, expected: Mapping[DeviceId, Bytes], why: str) -> None:
        """Has the engine drop its caches. Where that gives nothing it is not asked again before its next use."""
        assert book.endpoint is not None
        began = self._clock.monotonic()
        before = await self._meter.measure()
        self._records.add(Event.STEP, f"freeing {book.name}: {why}", model=book.name, step="free", expected=expected)
        book.say(f"dropping caches ({why})")
        problem = ""
        try:
            async with self.connect(book.endpoint) as control:
                await book.engine.free(control)
            reach(Point.FREE_ASKED)
        except EngineRefused as error:
            problem, missing = str(error), expected
        else:
            missing = await self._await_return(book, before, expected, partly=True)
        book.say("")
        given = _without(expected, missing)
        if given:
            book.freed(given=True)
            self._note_returned(book, given, began, "freed")
            return
        book.freed(given=False)
        problem = problem or f"nothing came back within {format_seconds(self._settings().return_timeout)}"
        self._records.add(
            Event.LAGGING, f"freeing {book.name} did not work: {problem}", model=book.name, missing=missing
        )

    async def sleep(
        self, book: Book, level: int, expected: Mapping[DeviceId, Bytes], why: str, *, patience: Seconds = 0.0
    ) -> bool:
        """Puts a model to sleep; if its bytes do not come back, or it refuses, it is stopped instead.

        False when it still works after `patience`, or is held meanwhile: then it stays ready.
        """
        assert book.endpoint is not None
        began = self._clock.monotonic()
        book.move(Move.SLEEP)
        reach(Point.SLEEP_BOOKED)
        if not await self._drained(book, patience):
            return False
        before = await self._meter.measure()
        self._records.add(
            Event.STEP,
            f"putting {book.name} to sleep: {why}",
            model=book.name,
            step="sleep",
            level=level,
            expected=expected,
        )
        book.say(f"falling asleep ({why})")
        problem = ""
        try:
            await self.sleeping.sleep(book, level, SLEEP_TIMEOUT)
            reach(Point.SLEEP_ASKED)
        except EngineRefused as error:
            problem = str(error)
        else:
            missing = await self._await_return(book, before, expected, partly=True)
            given = _without(expected, missing)
            # Bytes also come back from an engine that said yes and dies of it.
            if (found := await self.sleeping.health(book, book.measured)) is not Health.ASLEEP:
                problem = f"it said yes and is {found.value}"
            elif sum(given.values()) > sum(missing.values()):
                book.say("")
                book.level = level
                book.learned.observe_sleep(level, sum(book.measured.values()), self._clock.monotonic() - began)
                book.move(Move.ASLEEP)
                reach(Point.SLEEP_ASLEEP)
                self._note_returned(book, given, began, "asleep")
                return True
            else:
                problem = f"{_sum(missing)} did not come back"
        book.sleep_broken = True
        self._records.add(
            Event.LAGGING, f"{book.name} does not sleep: {problem}; stopping it", model=book.name, problem=problem
        )
        reach(Point.ESCALATION)
        await self._end(book, before, began, why)
        return True

    async def stop(self, book: Book, why: str, *, force: bool = False, patience: Seconds = 0.0) -> bool:
        """Drains and stops a model; it ends absent, or quarantined when its bytes do not come back.

        `force` does not wait for what it is working on. False when it still works after `patience`, or is held
        meanwhile: then it stays.
        """
        began = self._clock.monotonic()
        asleep = book.residency is Residency.SLEEPING
        book.move(Move.STOP)
        reach(Point.STOP_BOOKED)
        self._records.add(Event.STEP, f"stopping {book.name}: {why}", model=book.name, step="stop", force=force)
        if not (force or asleep) and not await self._drained(book, patience):
            return False
        await self._end(book, await self._meter.measure(), began, why)
        return True

    async def restore_slots(self, book: Book) -> None:
        """Has an engine that came up take its caches up again, if an engine configured alike wrote them down."""
        if not book.slots_of or book.slots_of != book.fingerprint or book.endpoint is None:
            return
        book.say("reading its caches")
        try:
            async with self.connect(book.endpoint) as control:
                await book.engine.restore_slots(control, slots_name(book), SLOTS_TIMEOUT)
        except EngineRefused as error:
            self._records.add(
                Event.LAGGING, f"{book.name} does not find its caches: {error}", model=book.name, problem=str(error)
            )

    async def end_unit(self, book: Book) -> None:
        """Ends the engine unit, whatever it takes. Returns when systemd says so, or cannot do more.

        systemd sends SIGTERM, and SIGKILL to the whole control group after the model's time to stop.
        """
        timeout = book.model.stop_timeout + STOP_MARGIN
        try:
            await self._systemd.stop_unit(book.unit, timeout=timeout)
        except HostFailure as error:
            self._records.add(
                Event.LAGGING, f"{book.unit} does not stop ({error}); killing it", model=book.name, problem=str(error)
            )
            reach(Point.KILL_DUE)
            try:
                await self._systemd.kill_unit(book.unit, Signals.SIGKILL)
                await self._systemd.stop_unit(book.unit, timeout=timeout)
            except HostFailure as failure:
                # A process that the kernel cannot end (uninterruptible in the driver): its bytes will tell.
                self._records.add(
                    Event.LAGGING, f"{book.unit} cannot be killed: {failure}", model=book.name, problem=str(failure)
                )

    async def settle(
        self, book: Book, before: Accounts, expected: Mapping[DeviceId, Bytes]
    ) -> Mapping[DeviceId, Bytes]:
        """Waits until `expected` bytes of a model whose engine is gone are back; returns what is not, and books it."""
        missing = await self._await_return(book, before, expected)
        book.lost = missing
        book.lost_since = before if missing else None
        return missing

    def quarantine(self, book: Book, missing: Mapping[DeviceId, Bytes], how: str) -> None:
        """Leaves alone what a model whose engine is gone left on devices, and says so; `how` it came to its end."""
        book.error = f"{_sum(missing)} did not come back after it {how}"
        reach(Point.QUARANTINE_DUE)
        book.move(Move.LOST)
        reach(Point.QUARANTINED)
        self._records.add(
            Event.QUARANTINED,
            f"{book.name}: {book.error}; they are left alone until they return",
            model=book.name,
            missing=missing,
        )

    async def _keep_slots(self, book: Book) -> None:
        """Has an engine write down what it has cached, where its model file asks for it. Not worth a failure."""
        book.slots_of = ""
        if not book.model.keep_slots or book.stop_force or book.endpoint is None:
            return
        book.say("writing its caches down")
        try:
            async with self.connect(book.endpoint) as control:
                saved = await book.engine.save_slots(control, slots_name(book), SLOTS_TIMEOUT)
        except EngineRefused as error:
            self._records.add(
                Event.LAGGING, f"{book.name} does not keep its caches: {error}", model=book.name, problem=str(error)
            )
            return
        if saved:
            book.slots_of = book.fingerprint

    async def drain(self, book: Book) -> None:
        """Returns when a model does nothing any more, or is gone, or is to be stopped by force."""
        await self._drain(book)

    async def _drain(self, book: Book, *, unless_held: bool = False) -> None:
        while True:
            if book.in_flight:
                book.say(f"waiting for {book.in_flight} requests in flight")
            await book.idle.wait()
            # An engine that is gone does not answer, which counts as busy.
            if book.stop_force or book.died.is_set() or (unless_held and book.held):
                return
            if not await self.refresh_busy(book):
                return
            book.say("waiting for the engine to finish what it works on")
            await asyncio.sleep(BUSY_POLL)

    async def _drained(self, book: Book, patience: Seconds) -> bool:
        """Waits until a model does nothing any more. If that takes longer than `patience`, or if somebody comes to hold
        it, it is kept, and False. One that a person wants stopped meanwhile is kept too, for a stop of its own."""
        try:
            # Nobody is waited for without patience: the caller has just asked whether it is busy.
            async with asyncio.timeout(patience):
                if patience > 0 or book.busy:
                    await self._drain(book, unless_held=not book.stop_wanted)
            why = "is held now" if book.held and not book.stop_wanted else ""
        except TimeoutError:
            why = "still works"
        if not why or book.died.is_set():
            return True
        book.say("")
        if book.in_flight:
            # Set for a drain that waited to look again.
            book.idle.clear()
        book.move(Move.KEPT)
        self._records.add(Event.LAGGING, f"{book.name} {why}; it is kept for now", model=book.name)
        return False

    async def _end(self, book: Book, before: Accounts, began: Seconds, why: str) -> None:
        reach(Point.STOP_DRAINED)
        expected = before.measured.get(book.name, NO_BYTES)
        await self._keep_slots(book)
        book.say(f"stopping ({why})")
        stopping = self._clock.monotonic()
        await self.end_unit(book)
        reach(Point.STOP_ENDED)
        missing = await self.settle(book, before, expected)
        book.learned.observe_stop(self._clock.monotonic() - stopping, worked=book.worked)
        book.gone(lost=bool(missing))
        if missing:
            self.quarantine(book, missing, "was stopped")
            return
        book.error = ""
        book.move(Move.DOWN)
        reach(Point.STOP_DOWN)
        self._note_returned(book, expected, began, "stopped")
        self._records.add(
            Event.STOPPED,
            f"{book.name} is stopped: {why}",
            model=book.name,
            seconds=round(self._clock.monotonic() - began, 3),
        )

    async def _await_return(
        self, book: Freed, before: Accounts, expected: Mapping[DeviceId, Bytes], *, partly: bool = False
    ) -> Mapping[DeviceId, Bytes]:
        """What of `expected` is not back within the configured time.

        With `partly`, of an engine that stays alive, it also ends once some is back and no more follows.
        """
        since = self._clock.monotonic()
        deadline = since + self._settings().return_timeout
        last: Mapping[DeviceId, Bytes] = {device: abs(count) for device, count in expected.items()}
        lagging = moved = False
        while True:
            now = await self._meter.measure()
            # Where nothing can be verified nothing will be loaded either, until it can.
            seen = {device: count for device, count in expected.items() if self._meter.sees(device)}
            missing = outstanding(before, now, book.name, seen)
            instant = self._clock.monotonic()
            if not missing or instant >= deadline or (partly and moved and instant - since > SETTLED):
                return missing
            if missing != last:
                last, since, moved = missing, instant, True
            if not lagging:
                lagging = True
                book.say(f"waiting for {_sum(missing)} to come back")
            await asyncio.sleep(RETURN_POLL)

    def _note_returned(self, book: Freed, expected: Mapping[DeviceId, Bytes], began: Seconds, how: str) -> None:
        if not expected:
            return
        seconds = self._clock.monotonic() - began
        free = {device: view.free for device, view in self._meter.accounts.devices.items()}
        self._records.add(
            Event.RETURNED,
            f"{book.name} {how}: {_sum(expected)} measured as returned after {format_seconds(seconds)}",
            model=book.name,
            returned={device: abs(count) for device, count in expected.items()},
            free=free,
            seconds=round(seconds, 3),
        )


def slots_name(book: Book) -> str:
    """What the files begin with that hold the caches of a model between two lives of its engine."""
    return f"aither-{book.name}"


def _without(expected: Mapping[DeviceId, Bytes], missing: Mapping[DeviceId, Bytes]) -> Mapping[DeviceId, Bytes]:
    given = {device: abs(count) - missing.get(device, 0) for device, count in expected.items()}
    return {device: count for device, count in given.items() if count > 0}


def _sum(parts: Mapping[DeviceId, Bytes]) -> str:
    return ", ".join(f"{format_bytes(abs(count))} on {device}" for device, count in sorted(parts.items())) or "0 B"
