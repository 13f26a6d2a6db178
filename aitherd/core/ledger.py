"""The measured books: whose bytes lie on which device, and whether bytes that were to come back have come back.

A sample goes in, accounts come out, and on each device they balance: measured + foreign + unattributed + free = total.
Only what the driver reports is booked, nothing that was declared or hoped for. Taking the sample is the host's part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from aitherd.core.words import HOST, NO_BYTES, Bytes, Claim, DeviceId, DeviceView, Seconds, format_bytes

NO_KIN: Mapping[int, int] = MappingProxyType({})
NO_LOSS: Mapping[DeviceId, str] = MappingProxyType({})
NO_UUIDS: Mapping[DeviceId, str] = MappingProxyType({})
NO_SERVICES: Mapping[str, str] = MappingProxyType({})
SLACK: Bytes = 64 * 2**20
"""Bytes that come and go with other programs' contexts and belong to no process: fewer than this are not waited for."""


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process on one device."""

    pid: int
    name: str
    bytes: Bytes | None
    """Device bytes; None where the driver does not tell."""
    cgroup: str
    """Path of its control group below the root, `/aither.slice/…`; empty when it could not be read."""


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One device as the driver reports it."""

    id: DeviceId
    uuid: str
    name: str
    total: Bytes
    free: Bytes
    processes: tuple[ProcessSample, ...] = ()
    watts: float | None = None
    """Power drawn; None where the driver does not tell."""
    busy: float | None = None
    """Part of the time in which it computed lately, 0 to 1; None where the driver does not tell."""
    unified: bool = False
    """Whether its memory is the host's."""


@dataclass(frozen=True, slots=True)
class Sample:
    """All devices at one instant."""

    taken: Seconds
    """Monotonic."""
    driver: str
    """Version of the driver; empty when it does not answer."""
    devices: tuple[DeviceSample, ...]
    problem: str = ""
    """Why nothing can be measured, with the remedy; empty when something can."""
    lost: Mapping[DeviceId, str] = field(default_factory=lambda: NO_LOSS)
    """Devices that cannot be measured while others can: why, with the remedy."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """Who holds what, from one sample."""

    devices: Mapping[DeviceId, DeviceView]
    measured: Mapping[str, Mapping[DeviceId, Bytes]]
    """By model, the bytes of its processes where they hold any."""
    services: Mapping[str, Mapping[DeviceId, Bytes]]
    """The same by configured service that is not ours. Their processes are foreign all the same."""
    unattributed: Mapping[DeviceId, Bytes]
    """Used bytes that no listed process holds: the driver's own, and what the dead left behind.

    Negative when the processes claim more than there is, as they may: they are not read at once.
    """


def believed(sample: Sample, known: Mapping[DeviceId, str] = NO_UUIDS) -> Sample:
    """The sample as far as it can be true, with each device under the id that it was first seen under.

    `known` are the UUIDs of the devices seen before, by id: a driver that lost one numbers the others anew. Those that
    are missing, or reported in numbers that cannot be true, are `lost`. Where nothing is left to believe, that is the
    `problem`.
    """
    if sample.problem:
        return sample
    ids = {uuid: id for id, uuid in known.items() if uuid}
    devices: dict[DeviceId, DeviceSample] = {}
    lost = dict(sample.lost)
    for device in sample.devices:
        id = ids.get(device.uuid, device.id)
        if id in devices:
            return replace(sample, devices=(), problem=f"{id} was reported twice")
        if known.get(id, device.uuid) != device.uuid:
            # A card that was not there before has the number of one that is gone. It gets its own when we start anew.
            continue
        lost.pop(id, None)
        if nonsense := _nonsense(device):
            lost[id] = nonsense
        else:
            devices[id] = device if device.id == id else replace(device, id=id)
    for id in known:
        if id not in devices:
            lost.setdefault(id, "the driver does not list it any more: see `journalctl -k --grep=Xid`")
    problem = "" if devices else "; ".join(f"{id}: {why}" for id, why in sorted(lost.items()))
    return replace(sample, devices=tuple(devices.values()), lost=lost, problem=problem)


def _nonsense(device: DeviceSample) -> str:
    """Why what is reported of a device cannot be true; empty when it can."""
    if device.total <= 0:
        return f"the driver reports a size of {format_bytes(device.total)}"
    if not 0 <= device.free <= device.total:
        return f"the driver reports {format_bytes(device.free)} free of {format_bytes(device.total)}"
    for process in device.processes:
        if process.bytes is not None and not 0 <= process.bytes <= device.total:
            return (
                f"the driver reports {format_bytes(process.bytes)} of {format_bytes(device.total)} "
                f"in use by {process.name} ({process.pid})"
            )
    return ""


def carried(accounts: Accounts, before: Accounts, lost: Mapping[DeviceId, str], reserve: Bytes) -> Accounts:
    """The accounts with the devices that are `lost`, as they were `before` and not fresh, each with its problem."""
    devices, unattributed = dict(accounts.devices), dict(accounts.unattributed)
    measured = {model: dict(held) for model, held in accounts.measured.items()}
    lent = {service: dict(held) for service, held in accounts.services.items()}
    for id, why in lost.items():
        # A device that was never seen still has to be named as the reason why nothing is loaded on it.
        view = before.devices.get(id) or DeviceView(id, "unknown", total=0, free=0, reserve=reserve)
        devices[id] = replace(view, fresh=False, problem=why, watts=None, busy=None)
        unattributed[id] = before.unattributed.get(id, 0)
        for books, earlier in ((measured, before.measured), (lent, before.services)):
            for name, held in earlier.items():
                if id in held:
                    books.setdefault(name, {})[id] = held[id]
    by_number = sorted(devices.items(), key=lambda device: (len(device[0]), device[0]))
    return Accounts(dict(by_number), measured, lent, unattributed)


def account(
    sample: Sample,
    control_groups: Mapping[str, str],
    reserve: Bytes,
    quarantined: Mapping[DeviceId, Bytes] = NO_BYTES,
    leases: Sequence[Claim] = (),
    kin: Mapping[int, int] = NO_KIN,
    services: Mapping[str, str] = NO_SERVICES,
) -> Accounts:
    """The accounts of a sample that is believed.

    `control_groups` names the control group of each model's unit: a process belongs to a model if and only if it is in
    that group or below it. All other processes are foreign; one that uses a lease goes by the lease's name. That is
    its holder, and each process of `kin`, which leads from PIDs to those of the holders that they descend from.
    `reserve` and `quarantined` are bytes a device. `services` leads from units that are not ours to the names of those
    that are configured: a process belongs to one if any control group that it is in has the unit's name.
    """
    owners = {group: model for model, group in control_groups.items() if group.strip("/")}
    purposes = {lease.pid: lease.owner for lease in leases}
    devices: dict[DeviceId, DeviceView] = {}
    measured: dict[str, dict[DeviceId, Bytes]] = {}
    lent: dict[str, dict[DeviceId, Bytes]] = {}
    unattributed: dict[DeviceId, Bytes] = {}
    for device in sample.devices:
        known = 0
        foreign: list[Claim] = []
        for process in _once(device.processes):
            count = process.bytes or 0
            known += count
            model = _owner(process.cgroup, owners)
            if model is None:
                holder = kin.get(process.pid, process.pid)
                owner = purposes.get(holder)
                service = "" if owner else _service(process.cgroup, services)
                name = owner or service or process.name
                foreign.append(Claim(name, process.pid, device.id, count, holder if owner else 0, service))
                if service and count:
                    _add(lent, service, device.id, count)
            elif count:
                _add(measured, model, device.id, count)
        # The two are not read at once: what processes hold is not free, whatever the device said a moment before.
        free = max(min(device.free, device.total - known), 0)
        unattributed[device.id] = device.total - free - known
        devices[device.id] = DeviceView(
            id=device.id,
            name=device.name,
            total=device.total,
            free=free,
            reserve=reserve,
            foreign=tuple(foreign),
            quarantined=quarantined.get(device.id, 0),
            unified=device.unified,
            watts=device.watts,
            busy=device.busy,
        )
    return Accounts(devices, measured, lent, unattributed)


def outstanding(
    before: Accounts, now: Accounts, model: str, expected: Mapping[DeviceId, Bytes]
) -> Mapping[DeviceId, Bytes]:
    """Bytes of `expected` that are not back yet; empty when all are.

    `before` is from before the step began. `expected` is by device and its sign does not matter: bytes that the model,
    or a service that is not ours, held and is to hold no more. They are back when its processes hold so much less and
    no bytes linger on the device that belong to no process. What other programs claim or give back meanwhile changes
    neither. Host memory is not attributed to processes here and is passed over.
    """
    missing: dict[DeviceId, Bytes] = {}
    for device, count in expected.items():
        count = abs(count)
        if device == HOST:
            continue
        held, holds = _held(before, model, device), _held(now, model, device)
        still = min(max(holds - max(held - count, 0), 0), count)
        # Measured around an allocation, accounts may be out of balance the other way; that is nobody's debt.
        lingering = max(now.unattributed.get(device, 0), 0) - max(before.unattributed.get(device, 0), 0)
        short = still + min(max(lingering, 0), count - still)
        if short > min(SLACK, count // 8):
            missing[device] = short
    return missing


def starved(before: Accounts, now: Accounts, model: str, need: Mapping[DeviceId, Bytes]) -> bool:
    """Whether others took so much since `before` that `model` could not get what it was known to `need`, by device.

    Then its failure for lack of memory says nothing about what it needs. What others gave back is not set against it.
    """
    for device, count in need.items():
        taken = max(_foreign(now, device) - _foreign(before, device), 0)
        for other, held in now.measured.items():
            if other != model:
                taken += max(held.get(device, 0) - before.measured.get(other, NO_BYTES).get(device, 0), 0)
        if device in before.devices and before.devices[device].free - taken < count:
            return True
    return False


def _foreign(accounts: Accounts, device: DeviceId) -> Bytes:
    return sum(claim.bytes for claim in accounts.devices[device].foreign) if device in accounts.devices else 0


def _held(accounts: Accounts, name: str, device: DeviceId) -> Bytes:
    return (accounts.measured.get(name) or accounts.services.get(name) or NO_BYTES).get(device, 0)


def _add(books: dict[str, dict[DeviceId, Bytes]], name: str, device: DeviceId, count: Bytes) -> None:
    held = books.setdefault(name, {})
    held[device] = held.get(device, 0) + count


def _service(cgroup: str, services: Mapping[str, str]) -> str:
    return next((services[part] for part in cgroup.split("/") if part in services), "") if services else ""


def lingering(accounts: Accounts, lost: Mapping[DeviceId, Bytes]) -> tuple[Mapping[DeviceId, Bytes], Accounts]:
    """What of bytes that were `lost` earlier may still be used by nobody now, and the accounts as they would be without
    it: against them `outstanding` tells when it is back."""
    left = {device: min(count, max(accounts.unattributed.get(device, 0), 0)) for device, count in lost.items()}
    left = {device: count for device, count in left.items() if count > min(SLACK, lost[device] // 8)}
    without = {device: count - left.get(device, 0) for device, count in accounts.unattributed.items()}
    return left, replace(accounts, unattributed=without)


def _owner(cgroup: str, owners: Mapping[str, str]) -> str | None:
    while cgroup:
        if cgroup in owners:
            return owners[cgroup]
        cgroup = cgroup.rpartition("/")[0]
    return None


def _once(processes: Sequence[ProcessSample]) -> Sequence[ProcessSample]:
    """Each process once: one that computes and draws is listed for both, with the same bytes."""
    largest: dict[int, ProcessSample] = {}
    for process in processes:
        other = largest.get(process.pid)
        if other is None or (other.bytes or 0) < (process.bytes or 0):
            largest[process.pid] = process
    return tuple(largest.values())
