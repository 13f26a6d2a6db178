"""Who gives way when nobody asked for room, but a device has less left than its reserve: another program grew.

One step at a time; after it the device is measured again. Making room for a model is `arbiter.py`.
"""

from __future__ import annotations

from aitherd.core.eviction import Release, stays, ways
from aitherd.core.policy import DEFAULTS, Policy
from aitherd.core.sleepers import exits
from aitherd.core.words import (
    HOST,
    Bytes,
    DeviceId,
    DeviceView,
    ModelView,
    Seconds,
    Step,
    World,
    format_bytes,
    format_seconds,
)


def relieve(world: World, device: DeviceId, now: Seconds, policy: Policy = DEFAULTS) -> Step | None:
    """The step that helps `device` back to its reserve at the least cost; None when it has it, or nobody may give way.

    Host memory is relieved by models asleep in it, which are stopped: their weights are on the disk as well.
    """
    view = world.devices[device]
    short = view.reserve - view.free
    if short <= 0 or not view.fresh:
        return None
    memory = world.devices.get(HOST)
    options = [
        (helps, way)
        for model in world.models.values()
        if not stays(model, now, policy)
        for helps, way in _options(model, device, now, policy)
        # Nobody falls asleep where host memory has no room for it.
        if helps > 0 and (memory is None or way.host <= max(memory.free - memory.reserve, 0))
    ]
    if not options:
        return None
    enough = [(way.cost, way.model, helps, way) for helps, way in options if helps >= short]
    if enough:
        _, _, helps, way = min(enough, key=lambda option: option[:2])
    else:
        helps, way = min(options, key=lambda option: (option[1].cost / option[0], option[1].model))
    unused = format_seconds(max(now - world.models[way.model].last_used, 0.0))
    return Step(
        verb=way.verb,
        model=way.model,
        takes={device: -helps} if device == HOST else {place: -count for place, count in way.gives.items()},
        seconds=way.seconds,
        why=f"{_need(view)}; unused for {unused}",
        level=way.level,
    )


def _need(view: DeviceView) -> str:
    if view.stalled:
        return f"programs wait for host memory {view.stalled:.0%} of the time"
    return (
        f"{view.id} has {format_bytes(max(view.free, 0))} left, less than its reserve of {format_bytes(view.reserve)}"
    )


def _options(model: ModelView, device: DeviceId, now: Seconds, policy: Policy) -> list[tuple[Bytes, Release]]:
    found = ways(model, now, policy) if device != HOST else exits([model], now, policy)
    return [(way.gives.get(device, 0), way) for way in found]
