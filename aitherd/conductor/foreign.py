"""Services that are not aitherd's and give device memory back when asked (Ollama): what they hold, if they work.

Others start and stop them; aitherd may have them unload, and nothing more. When is the arbiter's to say, and whether it
worked is measured as for a model (`steps.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aitherd.conductor.books import Clock
from aitherd.config import Service
from aitherd.core.ledger import Accounts
from aitherd.core.words import NO_BYTES, Bytes, DeviceId, Endpoint, ModelView, Residency, ResidencyClass, Seconds
from aitherd.engines import engine
from aitherd.engines.base import Control

LEFT_ALONE: Seconds = 60.0
"""How long a service that gave nothing back is not asked again."""
LOOK_AGAIN: Seconds = 2.0
"""How soon one that works may have come to rest; nothing tells when it does."""
RELOAD: Seconds = 10.0
"""What bringing back what it unloaded is taken to cost its users."""


class Guest:
    """One such service, as known now (`steps.Freed`)."""

    def __init__(self, service: Service, clock: Clock) -> None:
        self.service = service
        self.engine = engine(service.engine)
        self.endpoint = Endpoint(port=service.port)
        self.measured: Mapping[DeviceId, Bytes] = NO_BYTES
        self.busy = False
        self.stage = ""
        self._clock = clock
        self._since: Seconds = 0.0
        """Since when it has held anything, monotonic."""
        self._used: Seconds = 0.0
        """When it was last seen at work."""
        self._not_before: Seconds = 0.0

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def asked(self) -> bool:
        """Whether it may be asked to unload at all: it holds something, and did not refuse a moment ago."""
        return bool(self.measured) and self._clock.monotonic() >= self._not_before

    def measure(self, held: Mapping[DeviceId, Bytes]) -> None:
        """Takes note of what its processes hold."""
        if held and not self.measured:
            self._since = self._clock.monotonic()
        self.measured = held

    async def refresh_busy(self, connect: Callable[[Endpoint], Control]) -> None:
        """Asks it whether it works."""
        async with connect(self.endpoint) as control:
            self.busy = await self.engine.busy(control)
        if self.busy:
            self._used = self._clock.monotonic()

    def say(self, stage: str) -> None:
        """What is being done to it now."""
        self.stage = stage

    def freed(self, *, given: bool) -> None:
        """It was asked to unload, and did, or not."""
        if not given:
            self._not_before = self._clock.monotonic() + LEFT_ALONE

    def view(self) -> ModelView:
        """As the arbiter sees it: all that it holds can be had back, in one way only."""
        held = sum(self.measured.values())
        return ModelView(
            name=self.name,
            residency_class=ResidencyClass.ON_DEMAND,
            residency=Residency.READY,
            vram=held,
            devices=tuple(self.measured),
            span=max(len(self.measured), 1),
            held_bytes=self.measured,
            freeable=held,
            busy=self.busy,
            ready_since=self._since,
            last_used=self._used,
            start_seconds=RELOAD,
            foreign=True,
        )


class Guests:
    """All of them."""

    def __init__(self, clock: Clock, connect: Callable[[Endpoint], Control]) -> None:
        self._clock = clock
        self._connect = connect
        self._all: dict[str, Guest] = {}

    def apply(self, services: Mapping[str, Service]) -> None:
        """Takes over what is configured."""
        self._all = {
            name: known if (known := self._all.get(name)) and known.service == service else Guest(service, self._clock)
            for name, service in services.items()
        }

    def get(self, name: str) -> Guest | None:
        """The service of that name, if there is one."""
        return self._all.get(name)

    @property
    def units(self) -> Mapping[str, str]:
        """Unit -> name."""
        return {guest.service.unit: name for name, guest in self._all.items()}

    def read(self, accounts: Accounts) -> None:
        """Takes note of what was measured."""
        for name, guest in self._all.items():
            guest.measure(accounts.services.get(name, NO_BYTES))

    async def refresh_busy(self) -> None:
        """Asks whether they work; those that were not known to hold anything, too, as that may be about to change."""
        await asyncio.gather(*(guest.refresh_busy(self._connect) for guest in self._all.values()))

    def views(self) -> dict[str, ModelView]:
        """Those who hold something and may be asked for it; what the others hold is only foreign."""
        return {name: guest.view() for name, guest in self._all.items() if guest.asked}
