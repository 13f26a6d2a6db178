"""Host memory that the kernel is to leave to the essential models: their slice has to ask for it as well.

A control group is protected only as far as those above it are (memory.min in Documentation/admin-guide/cgroup-v2.rst of
the Linux sources). What a model asks for itself is in its model file, and goes to its unit.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from aitherd.conductor.launch import SLICE, Property
from aitherd.config import Model
from aitherd.core.words import ResidencyClass
from aitherd.errors import HostFailure
from aitherd.host.systemd import Systemd

PROTECTIONS = ("MemoryMin", "MemoryLow")
"""Properties that protect memory, in bytes. systemd.resource-control(5)"""


def protection(models: Iterable[Model]) -> tuple[Property, ...]:
    """What the slice has to ask for, for all essential models together: nothing where none asks."""
    asked = [dict(model.resources) for model in models if model.residency_class is ResidencyClass.ESSENTIAL]
    found: list[Property] = []
    for name in PROTECTIONS:
        values = [resources[name][1] for resources in asked if name in resources]
        found.append((name, ("t", sum(value for value in values if isinstance(value, int)))))
    return tuple(found)


class Protection:
    """Keeps the slice's protection as the configuration has it."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._set: tuple[Property, ...] = protection(())
        self._log = structlog.get_logger("aitherd")

    async def follow(self, models: Iterable[Model]) -> None:
        """Has the slice ask for what the essential ones of `models` need. Where that is refused they go without."""
        wanted = protection(models)
        if wanted == self._set:
            return
        try:
            await self._systemd.set_properties(SLICE, wanted)
        except HostFailure as error:
            self._log.warning(f"the essential models' host memory is not protected: {error}")
            return
        self._set = wanted
