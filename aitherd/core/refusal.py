"""Why there is no plan, with the sum: of a device's bytes, who keeps how many, and how many are short.

On the device that came closest the sum is exact: total - what the holders keep - reserve + what is short = the need.
Whether there is a plan is decided in `arbiter.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from aitherd.core.eviction import stays
from aitherd.core.placement import allowed, essentials, share
from aitherd.core.policy import Policy
from aitherd.core.words import (
    Bytes,
    DeviceId,
    DeviceView,
    Holder,
    ModelView,
    Refusal,
    RefusalKind,
    Residency,
    Seconds,
    World,
    format_bytes,
)

NAMED = 5
"""So many holders are named in a sentence; the value has all."""


def moving(view: ModelView, world: World) -> Refusal:
    """For a model that is on its way already, or whose bytes have not come back."""
    if view.residency is not Residency.QUARANTINED:
        return Refusal(view.name, RefusalKind.NOT_NOW, 0, (), f"{view.name} is {view.residency}")
    lost = view.held_bytes or {
        device: world.devices[device].quarantined for device in allowed(view, world) if device in world.devices
    }
    holders = tuple(Holder(view.name, device, count, "did not come back") for device, count in lost.items() if count)
    sizes = ", ".join(f"{format_bytes(holder.bytes)} on {holder.device}" for holder in holders) or "its bytes"
    return Refusal(
        view.name,
        RefusalKind.NOT_NOW,
        0,
        holders,
        f"{view.name} is quarantined: {sizes} did not come back when it ended, and it starts again once they have",
    )


def slot_taken(view: ModelView, mate: ModelView, why: str, *, for_ever: bool) -> Refusal:
    """For a model whose swap slot is occupied by `mate`, which stays because of `why`."""
    held = mate.held_bytes.items() or [("", 0)]
    return Refusal(
        view.name,
        RefusalKind.NEVER if for_ever else RefusalKind.NOT_NOW,
        0,
        tuple(Holder(mate.name, device, count, why) for device, count in held),
        f"{view.name} shares the swap slot {view.swap_slot} with {mate.name}, which stays: {why}",
    )


def worth_waiting(
    view: ModelView, world: World, busy: Sequence[str], instead: Sequence[str], placement: Sequence[DeviceId]
) -> Refusal:
    """For a model that could have room now, if `instead` gave way, but better has that of those who are `busy`."""
    holders = tuple(
        Holder(name, device, count, "busy")
        for name in busy
        for device, count in world.models[name].held_bytes.items()
        if device in placement and count > 0
    )
    return Refusal(
        view.name,
        RefusalKind.NOT_NOW,
        0,
        holders,
        f"{view.name} waits until {' and '.join(busy)} has nothing to do: to bring {' and '.join(instead)} back, which "
        "could give way at once, is expected to take longer",
    )


def too_few(view: ModelView, devices: Collection[DeviceId]) -> Refusal:
    """For a model that spans more devices than it may use."""
    return Refusal(
        view.name,
        RefusalKind.NEVER,
        0,
        (),
        f"{view.name} spans {view.span} devices and may use {len(devices)} ({', '.join(devices) or 'none'})",
    )


def only_unseen(view: ModelView, world: World, devices: Sequence[DeviceId], seen: Sequence[DeviceId]) -> bool:
    """Whether a model could at most stand on `devices` that cannot be measured now: not on those that are `seen` alone,
    whoever gave way there."""
    if len(seen) < max(view.span, 1):
        return True
    return len(seen) < len(devices) and never(replace(view, devices=tuple(seen)), world) is not None


def blind(view: ModelView, world: World, devices: Sequence[DeviceId]) -> Refusal:
    """For a model whose devices cannot be measured."""
    problems = []
    for device in devices:
        seen = world.devices.get(device)
        if seen is None:
            problems.append(f"{device} is not there")
        elif not seen.fresh:
            problems.append(f"{device} cannot be measured: {seen.problem}" if seen.problem else f"{device} is stale")
    what = "; ".join(problems) or "no device has been measured"
    return Refusal(view.name, RefusalKind.BLIND, 0, (), f"nothing is loaded for {view.name}: {what}")


def never(view: ModelView, world: World) -> Refusal | None:
    """For a model that no eviction can ever make room for beside the essential ones; None when one may, some day."""
    devices = allowed(view, world)
    if view.vram <= 0 or any(device not in world.devices or world.devices[device].total <= 0 for device in devices):
        return None
    if len(devices) < view.span:
        # A machine whose devices have not been seen says nothing about how many it has.
        return too_few(view, devices) if world.devices else None
    need = share(view)
    keeps = {device: essentials(world, device, view.name) for device in devices}
    ceiling = {
        device: world.devices[device].total
        - world.devices[device].reserve
        - sum(holder.bytes for holder in keeps[device])
        for device in devices
    }
    closest = _closest(ceiling, view.span)
    if ceiling[closest] >= need:
        return None
    return _sum(view, RefusalKind.NEVER, world.devices[closest], need, ceiling[closest], keeps[closest])


def not_now(
    view: ModelView,
    world: World,
    need: Bytes,
    most: Mapping[DeviceId, Bytes],
    promised: Sequence[Holder],
    now: Seconds,
    policy: Policy,
) -> Refusal:
    """For a model that needs `need` bytes on each of its devices, more than there are when all who may gave way.

    `most` is the room that there would be then, on each device that was considered, the model's own bytes included.
    """
    closest = _closest(most, min(view.span, len(most)))
    device = world.devices[closest]
    holders = [
        Holder(claim.owner, closest, claim.bytes, "leased" if claim.holder else "foreign")
        for claim in device.foreign
        if claim.bytes > 0 and claim.service not in world.models
    ]
    holders += [holder for holder in promised if holder.device == closest]
    for model in world.models.values():
        count = model.held_bytes.get(closest, 0)
        if count > 0 and model.name != view.name and (why := stays(model, now, policy)):
            holders.append(Holder(model.name, closest, count, why))
    # What is neither free, nor anybody's, nor to be had: left behind by the dead, or the driver's own.
    rest = device.total - device.reserve - most[closest] - sum(holder.bytes for holder in holders)
    lost = min(device.quarantined, max(rest, 0))
    more = (("quarantine", lost, "did not come back"), ("driver", rest - lost, "belongs to no process"))
    holders += [Holder(name, closest, count, why) for name, count, why in more if count > 0]
    return _sum(view, RefusalKind.NOT_NOW, device, need, most[closest], holders)


def _closest(room: Mapping[DeviceId, Bytes], span: int) -> DeviceId:
    """The device that decides: the one with the least room of the `span` devices that have the most."""
    return sorted(room, key=lambda device: -room[device])[span - 1]


def _sum(
    view: ModelView, kind: RefusalKind, device: DeviceView, need: Bytes, room: Bytes, holders: Sequence[Holder]
) -> Refusal:
    largest = sorted(holders, key=lambda holder: (-holder.bytes, holder.name))
    keeps = [f"{holder.name} keeps {format_bytes(holder.bytes)} ({holder.why})" for holder in largest[:NAMED]]
    if len(largest) > NAMED:
        others = sum(holder.bytes for holder in largest[NAMED:])
        keeps.append(f"{len(largest) - NAMED} others keep {format_bytes(others)}")
    keeps.append(f"{format_bytes(device.reserve)} are reserved")
    wants = f"{format_bytes(need)} on {device.id}, where"
    if view.span > 1:
        wants = f"{format_bytes(need)} on each of {view.span} devices, and on {device.id}"
    free = "ever be free" if kind is RefusalKind.NEVER else "be made free now"
    return Refusal(
        view.name,
        kind,
        need - room,
        tuple(largest),
        f"{view.name} needs {wants} at most {format_bytes(max(room, 0))} can {free}, "
        f"{format_bytes(need - room)} short: of {format_bytes(device.total)}, {', '.join(keeps)}",
    )
