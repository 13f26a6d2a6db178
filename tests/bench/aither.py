"""The proxy alone, with every model ready: `python -m tests.bench.aither PORT ENGINE_PORT JOURNAL`.

Routing, metrics and records are on, the records sent as the daemon sends them to the journal's socket.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from aitherd.conductor.operations import ModelStatus
from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.words import DeviceView, Endpoint, Plan, Refusal, Residency, ResidencyClass, Seconds
from aitherd.errors import UnknownModel
from aitherd.host import log
from aitherd.proxy.server import Proxy

NAMES = {f"model-{number}": f"model-{number}" for number in range(11)} | {"bench": "model-0"}


@dataclass(slots=True)
class Claim:
    """As cheap as the conductor's."""

    model: str
    endpoint: Endpoint
    waited: Seconds = 0.0
    why: str = "ready"

    def moved(self) -> None:
        """Nobody looks at it."""

    def failed(self) -> None:
        """The same."""

    def release(self) -> None:
        """Nothing to end."""


class Ready:
    """A dozen models, all ready, all on one engine."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def resolve(self, name: str) -> str:
        """The model behind a name."""
        model = NAMES.get(name)
        if model is None:
            raise UnknownModel(f"there is no model {name!r}")
        return model

    def look(self, model: str, method: str, path: str) -> None:
        return None

    def try_use(self, model: str) -> Claim:
        """Always."""
        return Claim(model, self._endpoint)

    async def use(self, model: str, timeout: Seconds | None = None, caller: Caller = ANYBODY) -> Claim:
        """Always."""
        return Claim(model, self._endpoint)

    async def start(self, model: str) -> None:
        """It is."""

    hold = release = start

    async def stop(self, model: str, *, force: bool = False) -> None:
        """Not here."""

    async def sleep(self, model: str, level: int = 0) -> None:
        """Not here."""

    async def wake(self, model: str) -> None:
        """Not here."""

    async def plan(self, model: str) -> Plan | Refusal:
        """Nothing to do."""
        return Plan(model, (), (), {}, "ready")

    def status(self, model: str) -> ModelStatus:
        """As a ready model's is."""
        return ModelStatus(
            name=model, description="", engine="exec", residency_class=ResidencyClass.ON_DEMAND,
            residency=Residency.READY, level=0, serves=("bench",), can=(), unit="", model_unit="", declared=1 << 30,
            expected=1 << 30, measured={}, in_flight=0, waiting=0, held=False, busy=False, since=0.0, last_used=0.0,
            stops_at=0.0, endpoint=self._endpoint, command=(), error="", stage="",
        )  # fmt: skip

    def statuses(self) -> tuple[ModelStatus, ...]:
        """All of them."""
        return tuple(self.status(name) for name in sorted(set(NAMES.values())))

    def devices(self) -> tuple[DeviceView, ...]:
        """None shown."""
        return ()

    def problems(self) -> tuple[str, ...]:
        """None."""
        return ()

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Nothing changes."""
        return lambda: None


async def main() -> None:
    """Serves until it is killed."""
    log.setup("info")
    journal = log.Journal(Path(sys.argv[3]))
    structlog.configure(processors=[structlog.processors.format_exc_info, journal.write])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    await Proxy(Ready(Endpoint(port=int(sys.argv[2])))).serve([listener])
    gc.freeze()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())
