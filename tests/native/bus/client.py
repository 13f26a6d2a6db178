"""A client of the bus that sees what goes over the wire: error names, signals, values with their types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sdbus import DbusFailedError, SdBus, SdBusUnmappedMessageError
from sdbus.sd_bus_internals import SdBusMessage

from aitherd.bus.names import BUS_NAME, MANAGER, MODEL, ROOT, model_path
from tests.native.bus.broker import PATIENCE

PROPERTIES = "org.freedesktop.DBus.Properties"


class BusError(Exception):
    """An error reply."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class Client:
    """Calls the service."""

    def __init__(self, bus: SdBus) -> None:
        self.bus = bus

    async def call(self, path: str, interface: str, member: str, signature: str = "", *arguments: Any) -> Any:
        """The contents of the reply. Raises BusError."""
        message = self.bus.new_method_call_message(BUS_NAME, path, interface, member)
        if signature:
            message.append_data(signature, *arguments)
        try:
            async with asyncio.timeout(PATIENCE):
                return (await self.bus.call_async(message)).get_contents()
        except SdBusUnmappedMessageError as error:
            raise BusError(*error.args) from error
        except DbusFailedError as error:
            raise BusError(error.dbus_error_name, str(error)) from error

    async def manager(self, member: str, signature: str = "", *arguments: Any) -> Any:
        """Calls a method of the manager."""
        return await self.call(ROOT, MANAGER, member, signature, *arguments)

    async def get(self, model: str, name: str) -> Any:
        """A property of a model."""
        return (await self.call(model_path(model), PROPERTIES, "Get", "ss", MODEL, name))[1]

    @asynccontextmanager
    async def signals(self, member: str, path: str | None = None) -> AsyncIterator[list[Any]]:
        """What signals of one name bring, in a list that grows."""
        seen: list[Any] = []

        def receive(message: SdBusMessage) -> None:
            seen.append(message.get_contents())

        slot = await self.bus.match_signal_async(BUS_NAME, path, None, member, receive)
        try:
            yield seen
        finally:
            slot.close()
