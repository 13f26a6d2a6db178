"""How a call is carried out: who asks and whether they may, in a task of its own that ends with the service.

What a call does is written where it is exported, in `manager.py` and `model.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from sdbus import DbusFailedError, SdBus, SdBusBaseError, SdBusUnmappedMessageError, get_current_message
from sdbus.sd_bus_internals import SdBusMessage

from aitherd.bus.authority import Action, Authority
from aitherd.bus.refusals import refusal
from aitherd.errors import AitherError, ShuttingDown, Stopped

T = TypeVar("T")

BROKER = "org.freedesktop.DBus"
BROKER_PATH = "/org/freedesktop/DBus"


class Calls:
    """The calls that are being carried out."""

    def __init__(self, bus: SdBus, authority: Authority) -> None:
        self._bus = bus
        self._authority = authority
        self._closing = False
        self._work: set[asyncio.Task[Any]] = set()
        self._replies: set[asyncio.Task[Any]] = set()
        self._log = structlog.get_logger("aitherd")

    async def run(
        self,
        work: Callable[[], Awaitable[T]],
        action: Action | None = None,
        model: str = "",
        *,
        withdraw: bool = False,
    ) -> T:
        """Carries out `work` for the caller of the current message and returns what it returns.

        `action` on `model` is checked first; None needs no permission. With `withdraw` the work is cancelled when its
        caller leaves the bus: a demand that nobody waits for any more. Raises the D-Bus error that the caller gets.
        """
        # Before the first await: afterwards there might be another current message.
        sender = get_current_message().sender or ""
        reply = asyncio.current_task()
        assert reply is not None
        self._replies.add(reply)
        reply.add_done_callback(self._replies.discard)
        task = asyncio.create_task(self._checked(work, sender, action, model))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        if self._closing:
            task.cancel()
        tasks: list[asyncio.Task[Any]] = [task]
        if withdraw:
            tasks.append(asyncio.create_task(self._leaves(sender)))
        ended: AitherError = Stopped("the caller left before it was done")
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # sdbus cancels the replies of an object that is exported no more. Its caller would wait for ever: this
            # task, which is only that reply, still ends at once, with an error.
            ended = Stopped(f"{model or 'what was asked for'} is no longer configured")
        for one in tasks:
            one.cancel()
        await asyncio.wait(tasks)
        if task.cancelled():
            raise refusal(ShuttingDown("aitherd is going away", remedy="try again") if self._closing else ended)
        return self._outcome(task)

    async def pid_of(self, sender: str) -> int:
        """The process behind a unique name, as the broker knows it: a caller cannot say that it is another one.

        Raises Stopped when it is not on the bus any more.
        """
        call = self._bus.new_method_call_message(BROKER, BROKER_PATH, BROKER, "GetConnectionUnixProcessID")
        call.append_data("s", sender)
        try:
            (pid,) = (await self._bus.call_async(call)).parse_to_tuple()
        except (DbusFailedError, SdBusUnmappedMessageError) as error:
            raise Stopped("the caller left before it was done") from error
        return int(pid)

    async def close(self) -> None:
        """Cancels the work; returns when every caller has an answer. Calls that come later are refused."""
        self._closing = True
        for task in self._work:
            task.cancel()
        while self._replies:
            await asyncio.wait(self._replies)

    async def _checked(self, work: Callable[[], Awaitable[T]], sender: str, action: Action | None, model: str) -> T:
        if action is not None:
            await self._authority.check(sender, action, model)
        return await work()

    def _outcome(self, task: asyncio.Task[T]) -> T:
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, AitherError):
            raise refusal(error) from error
        self._log.error("a call over D-Bus failed unexpectedly", exc_info=error)
        failure = AitherError(f"internal error: {error!r}", remedy="see journalctl -u aitherd")
        raise refusal(failure) from error

    async def _leaves(self, name: str) -> None:
        """Returns when the owner of a unique name is not on the bus any more."""
        left = asyncio.Event()

        def changed(message: SdBusMessage) -> None:
            who, _, owner = message.parse_to_tuple()
            if who == name and not owner:
                left.set()

        try:
            slot = await self._bus.match_signal_async(BROKER, BROKER_PATH, BROKER, "NameOwnerChanged", changed)
            try:
                # It may have left before anybody listened.
                call = self._bus.new_method_call_message(BROKER, BROKER_PATH, BROKER, "NameHasOwner")
                call.append_data("s", name)
                if (await self._bus.call_async(call)).get_contents():
                    await left.wait()
            finally:
                slot.close()
        except SdBusBaseError:
            # Without the bus nobody can leave it; the daemon learns of that loss elsewhere.
            await asyncio.Future()
