"""How a model falls asleep and wakes: by its engine or, where that cannot, by having its device state suspended.

The latter is NVIDIA's cuda-checkpoint: it moves what a process has on the device to host memory and releases the
device; the process lives on and waits at its next CUDA call. It must be allowed to trace the engine's processes, so it
runs as a unit of its own, as the engine's user. Which processes are suspended it says itself, so that nothing has to be
remembered over a restart. (cuda-checkpoint, README)

Whether the bytes came back, and what follows if not, is the business of `steps.py` and `rise.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aitherd.conductor.books import Book
from aitherd.conductor.launch import ENGINE_USER, SLICE, Host, Property, checkpoint_unit
from aitherd.core.words import Bytes, DeviceId, Endpoint, Seconds
from aitherd.engines.base import Control, EngineRefused, Health
from aitherd.engines.checkpoint import too_old
from aitherd.errors import HostFailure

if TYPE_CHECKING:
    from aitherd.host.systemd import Systemd

TOGGLE = """
tool=$0 wanted=$1; shift
for pid; do
    if [ "$("$tool" --get-state --pid "$pid" 2>/dev/null)" = "$wanted" ]; then
        "$tool" --toggle --pid "$pid" || exit 1
    fi
done
"""
"""Turns the processes that are in the wanted state, and leaves those that have none."""
CAP_SYS_PTRACE = 1 << 19
"""capabilities(7), linux/capability.h"""
RUNNING, SUSPENDED = "running", "checkpointed"
"""States, as `--get-state` names them."""


class Sleeping:
    """Puts to sleep and wakes."""

    def __init__(
        self, systemd: Systemd, host: Host, connect: Callable[[Endpoint], Control], driver: Callable[[], str]
    ) -> None:
        """`driver` is the version of the device's driver, empty while it is not known."""
        self._systemd = systemd
        self._host = host
        self._connect = connect
        self._driver = driver

    async def sleep(self, book: Book, level: int, timeout: Seconds) -> None:
        """Returns when it says that it sleeps at `level`. Raises EngineRefused."""
        if book.suspends:
            if problem := too_old(self._driver()):
                raise EngineRefused(problem)
            await self._toggle(book, RUNNING, timeout)
            return
        assert book.endpoint is not None
        async with self._connect(book.endpoint) as control:
            await book.engine.sleep(control, level, timeout)

    async def wake(self, book: Book, level: int, timeout: Seconds) -> None:
        """Returns when it says that it is awake. Raises EngineRefused."""
        if book.suspends:
            await self._toggle(book, SUSPENDED, timeout)
            return
        assert book.endpoint is not None
        async with self._connect(book.endpoint) as control:
            await book.engine.wake(control, level, timeout)

    async def health(self, book: Book, held: Mapping[DeviceId, Bytes]) -> Health:
        """What it is, with `held` measured for it: one that is suspended may answer, and holds nothing."""
        assert book.endpoint is not None
        if book.suspends and book.expected() and not held:
            return Health.UNREACHABLE if book.died.is_set() else Health.ASLEEP
        async with self._connect(book.endpoint) as control:
            return await book.engine.health(control)

    async def _toggle(self, book: Book, wanted: str, timeout: Seconds) -> None:
        unit = checkpoint_unit(book.name)
        try:
            pids = await self._systemd.processes(book.unit)
            await self._systemd.start_transient(unit, self._properties(book, wanted, pids), timeout=timeout)
        except HostFailure as error:
            raise EngineRefused(f"cuda-checkpoint failed, see journalctl -u {unit}: {error}") from error

    def _properties(self, book: Book, wanted: str, pids: tuple[int, ...]) -> tuple[Property, ...]:
        argv = ["/bin/sh", "-c", TOGGLE, book.model.checkpoint, wanted, *map(str, pids)]
        found: dict[str, tuple[str, object]] = {
            "Description": ("s", f"device state of {book.name}"),
            "Slice": ("s", SLICE),
            "Type": ("s", "oneshot"),
            "ExecStartEx": ("a(sasas)", [("/bin/sh", argv, ["no-env-expand"])]),
            # What failed is not kept: its name is needed again.
            "CollectMode": ("s", "inactive-or-failed"),
            "NoNewPrivileges": ("b", True),
        }
        if not self._host.user_mode:
            found |= {
                "User": book.model.service.get("User", ("s", ENGINE_USER)),
                "AmbientCapabilities": ("t", CAP_SYS_PTRACE),
                "CapabilityBoundingSet": ("t", CAP_SYS_PTRACE),
                "ProtectSystem": ("s", "strict"),
                "DevicePolicy": ("s", "closed"),
                "DeviceAllow": ("a(ss)", [("char-nvidia*", "rw")]),
            }
        return tuple(found.items())
