"""The service manager of the simulated machine, with the interface of `host/systemd.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from signal import Signals
from typing import Any

from aitherd.conductor.launch import ENDPOINT_FIELD, PLACEMENT_FIELD, engine_unit, model_of
from aitherd.core.words import Endpoint, Seconds
from aitherd.host.systemd import JOB_TIMEOUT, JobFailed, Property, Systemd, UnitExists, UnitStatus
from tests.simulator.engines import Engine, within
from tests.simulator.machine import Machine


@dataclass(slots=True)
class Unit:
    """An engine unit as the manager knows it."""

    name: str
    invocation: str
    fields: dict[str, str]
    engine: Engine
    state: str = "active"
    result: str = "success"


class Manager(Systemd):
    """Makes engine units out of what it is told, as the real one does; model units are names that are active or not."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.units: dict[str, Unit] = {}
        self.active: set[str] = set()
        """Model units that are."""
        self._watching: list[Callable[[str], None]] = []
        self._invocations = 0
        machine.died = self._died

    def watch(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._watching.append(callback)
        return lambda: self._watching.remove(callback)

    def unwatch(self) -> None:
        """The daemon is gone."""
        self._watching.clear()

    async def stopping(self) -> bool:
        return False

    async def start_transient(
        self, unit: str, properties: Sequence[Property], *, timeout: Seconds = JOB_TIMEOUT
    ) -> None:
        model = model_of(unit)
        assert model is not None
        if unit in self.units:
            raise UnitExists(unit)
        given: dict[str, Any] = {name: value for name, (_, value) in properties}
        fields = dict(entry.decode().split("=", 1) for entry in given["LogExtraFields"])
        placement = tuple(device for device in fields[PLACEMENT_FIELD].split(",") if device)
        self._machine.audit.starts(model, placement)
        self._invocations += 1
        engine = Engine(self._machine, model, self._machine.pid(), Endpoint.parse(fields[ENDPOINT_FIELD]), placement)
        self._machine.engines[model] = engine
        self.units[unit] = Unit(unit, f"{self._invocations:032x}", fields, engine)
        self._tell(unit)

    async def start_unit(self, unit: str, *, timeout: Seconds = JOB_TIMEOUT) -> None:
        self.active.add(unit)
        self._tell(unit)

    async def stop_unit(self, unit: str, *, timeout: Seconds = JOB_TIMEOUT) -> None:
        found = self.units.get(unit)
        if found is None:
            self.active.discard(unit)
            self._tell(unit)
            return
        engine = found.engine
        if not engine.ended.is_set():
            self._machine.audit.stops(engine.model)
            found.state = "deactivating"
            engine.doomed = True
            nature = engine.nature
            # Done as soon as it has ended, by itself or because it was told to.
            if nature.stubborn:
                if not await within(engine.ended.wait(), timeout):
                    raise JobFailed(unit, "unfinished")
            elif not await within(engine.ended.wait(), nature.stop):
                self._end(found)
        if self.units.get(unit) is found and found.state != "failed":
            del self.units[unit]
            self._tell(unit)

    async def kill_unit(self, unit: str, signal: Signals) -> None:
        found = self.units.get(unit)
        if found is not None and not found.engine.nature.stubborn:
            self._end(found)

    async def reset_failed(self, unit: str) -> None:
        found = self.units.get(unit)
        if found is not None and found.state == "failed":
            del self.units[unit]

    async def unit(self, name: str) -> UnitStatus | None:
        found = self.units.get(name)
        if found is not None:
            return self._status(found)
        return (
            UnitStatus(name, "loaded", "active", "exited", "success", 0, 0, 0, "", "", {}, 0.0)
            if (name in self.active)
            else None
        )

    async def list_units(self, *patterns: str) -> tuple[UnitStatus, ...]:
        names = [*self.units, *self.active]
        matching = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        return tuple([status for name in matching if (status := await self.unit(name)) is not None])

    def _status(self, unit: Unit) -> UnitStatus:
        alive = not unit.engine.ended.is_set()
        return UnitStatus(
            name=unit.name,
            load_state="loaded",
            active_state=unit.state,
            sub_state="running" if alive else "failed",
            result=unit.result,
            exec_main_code=0 if alive else 2,
            exec_main_status=0 if alive else int(Signals.SIGKILL),
            main_pid=unit.engine.pid if alive else 0,
            invocation_id=unit.invocation,
            control_group=f"/aither.slice/{unit.name}" if alive else "",
            log_extra_fields=unit.fields,
            active_enter_monotonic=0.0,
        )

    def _end(self, unit: Unit) -> None:
        if self._machine.engines.get(unit.engine.model) is unit.engine:
            del self._machine.engines[unit.engine.model]
        unit.engine.end()

    def _died(self, model: str) -> None:
        unit = self.units.get(engine_unit(model))
        if unit is not None:
            unit.state, unit.result = "failed", "signal"
            self._tell(unit.name)

    def _tell(self, unit: str) -> None:
        for callback in self._watching:
            self._machine.loop.call_soon(callback, unit)
