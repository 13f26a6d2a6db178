"""Whose part of a device is how large: its bytes by kind of owner, for people who look at it as a whole.

Nothing decides by these: what may be loaded is the ledger's and the arbiter's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from aitherd.core.words import Bytes, DeviceView, Residency


class Share(StrEnum):
    """The kinds of owner. Together they own all bytes of a device."""

    MODELS = "models"
    """Measured in the units of models that are up, or on their way up or down."""
    SLEEPERS = "sleepers"
    """What models hold on to while they sleep."""
    LEASES = "leases"
    """Promised to outside programs, used or not, and what those use beyond it."""
    FOREIGN = "foreign"
    """Used by programs that asked nobody."""
    QUARANTINE = "quarantine"
    """Left behind by models that are gone."""
    OTHER = "other"
    """Used by nobody who is listed: the driver's own. Of host memory, all that is used."""
    RESERVE = "reserve"
    """Free, and not to be planned with."""
    FREE = "free"
    """Free for anybody."""


def shares(device: DeviceView, models: Iterable[tuple[Residency, Bytes]], promised: Bytes = 0) -> Mapping[Share, Bytes]:
    """The bytes of each kind of owner on one device.

    `models` are the residency and measured bytes there of each model, `promised` the leased bytes that their holders do
    not use. The sum is the size of the device, or more in the moments in which processes claim more than the device
    says is used.
    """
    found = dict.fromkeys(Share, 0)
    for residency, count in models:
        if residency is Residency.SLEEPING:
            found[Share.SLEEPERS] += count
        elif residency is not Residency.QUARANTINED:
            found[Share.MODELS] += count
    for claim in device.foreign:
        found[Share.LEASES if claim.holder else Share.FOREIGN] += claim.bytes
    used = device.total - device.free
    found[Share.QUARANTINE] = min(device.quarantined, max(used - sum(found.values()), 0))
    found[Share.OTHER] = max(used - sum(found.values()), 0)
    kept = min(promised, device.free)
    found[Share.LEASES] += kept
    found[Share.RESERVE] = min(device.reserve, device.free - kept)
    found[Share.FREE] = device.free - kept - found[Share.RESERVE]
    return found
