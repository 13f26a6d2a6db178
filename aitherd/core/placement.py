"""Where on the devices: how much room there is, where a model stands, and where it may stand.

Measured free bytes are the beginning; what is promised but not yet used is taken off. Who has to give way is decided in
`eviction.py`.
"""

from __future__ import annotations

from aitherd.core.words import HOST, Bytes, DeviceId, DeviceView, Holder, ModelView, Residency, ResidencyClass, World

SETTLED = frozenset({Residency.READY, Residency.QUARANTINED})
"""Where the bytes of a model are all measured as used: nothing is still to come."""


def allowed(model: ModelView, world: World) -> tuple[DeviceId, ...]:
    """Devices that `model` may use: those it names, or all but host memory, which has to be named."""
    return model.devices or tuple(device for device in world.devices if device != HOST)


def share(model: ModelView) -> Bytes:
    """Bytes that `model` needs on each of its devices."""
    return -(-model.vram // model.span)


def stands_on(model: ModelView, world: World) -> tuple[DeviceId, ...]:
    """Where `model` stands as far as one can tell: where it holds bytes, or where it has no choice."""
    held = tuple(sorted(device for device, count in model.held_bytes.items() if count > 0))
    if held:
        return held
    devices = allowed(model, world)
    return devices if len(devices) == model.span else ()


def used_by(holder: int, device: DeviceView) -> Bytes:
    """Bytes that the holder of a lease, or who might become one, uses on `device` already."""
    return sum(claim.bytes for claim in device.foreign if holder == (claim.holder or claim.pid))


def promised(world: World, besides: str) -> tuple[Holder, ...]:
    """Bytes that are promised but not measured as used yet; nothing that was promised to the model `besides`.

    A lease promises its bytes to one process and its descendants: what is measured for them is used, the rest is still
    to come. A model on its way up has been promised its footprint. An essential model has, always: while it is down its
    room is kept for it.
    """
    found: list[Holder] = []
    leased: dict[tuple[DeviceId, int], tuple[str, Bytes]] = {}
    for lease in world.leases:
        _, count = leased.get((lease.device, lease.pid), ("", 0))
        leased[lease.device, lease.pid] = (lease.owner, count + lease.bytes)
    for (device, pid), (owner, count) in leased.items():
        view = world.devices.get(device)
        used = used_by(pid, view) if view is not None else 0
        if count > used:
            found.append(Holder(owner, device, count - used, "leased, not used yet"))
    for model in world.models.values():
        residency = model.residency
        if residency in SETTLED:
            continue
        if residency is Residency.STARTING:
            why = "starting"
        elif model.residency_class is ResidencyClass.ESSENTIAL:
            why = "essential, not loaded"
        else:
            continue
        if model.name != besides and model.vram > 0:
            devices = stands_on(model, world)
            for device in devices:
                rest = -(-model.vram // len(devices)) - model.held_bytes.get(device, 0)
                if rest > 0:
                    found.append(Holder(model.name, device, rest, why))
    return tuple(found)


def essentials(world: World, device: DeviceId, besides: str) -> tuple[Holder, ...]:
    """Bytes on `device` that the essential models keep at all times, loaded or not; `besides` left out.

    What is measured counts while they are ready, otherwise what they are expected to need. One that is not loaded and
    has a choice of devices is counted on none: this must never say too much.
    """
    found: list[Holder] = []
    for model in world.models.values():
        if model.residency_class is ResidencyClass.ESSENTIAL and model.name != besides:
            count = model.held_bytes.get(device, 0)
            devices = stands_on(model, world)
            if device in devices and not (count and model.residency is Residency.READY):
                count = max(count, -(-model.vram // len(devices)))
            if count > 0:
                found.append(Holder(model.name, device, count, "essential"))
    return tuple(found)
