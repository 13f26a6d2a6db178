"""Leases: device bytes that outside programs hold, from their grant to their end.

A lease lives as long as the other end of its descriptor is open, its time has not run out and nobody releases it. The
service manager keeps our end, so that a daemon that comes back has it still. How a lease comes to be granted is in
`granting.py`. What the holder does with its bytes is not policed: what it uses beyond them is foreign.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from aitherd.conductor.books import Clock
from aitherd.conductor.operations import Lease
from aitherd.conductor.records import Event, Records
from aitherd.conductor.store import KeptLease
from aitherd.core.placement import used_by
from aitherd.core.words import Bytes, Claim, DeviceId, DeviceView, format_bytes, format_seconds
from aitherd.errors import UnknownLease
from aitherd.failpoints import Point, reach
from aitherd.host import notify
from aitherd.host.processes import origin_of

MOST = 64
"""So many leases there are at most; FileDescriptorStoreMax= of the daemon's units has room for as many."""
NAME = "lease-"
"""Beginning of the names that the service manager keeps descriptors under; the id follows."""
ANCESTORS = 64
"""So far up is looked for a process's ancestor that holds a lease."""


@dataclass(eq=False, slots=True)
class Granted:
    """A lease that is in force."""

    id: str
    terms: KeptLease
    ours: socket.socket
    """The holder has the other end, and may have given it to others."""
    timer: asyncio.TimerHandle | None = None


class Leases:
    """The leases in force."""

    def __init__(
        self,
        clock: Clock,
        records: Records,
        devices: Callable[[], Mapping[DeviceId, DeviceView]],
        *,
        save: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`save` makes `kept` outlive the daemon, `changed` tells that leases changed."""
        self._clock = clock
        self._records = records
        self._devices = devices
        self._save = save
        self._changed = changed
        self._granted: dict[str, Granted] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._granted

    def __len__(self) -> int:
        return len(self._granted)

    @property
    def kept(self) -> Mapping[str, KeptLease]:
        """What has to outlive the daemon, by id."""
        return {lease.id: lease.terms for lease in self._granted.values()}

    def restore(self, kept: Mapping[str, KeptLease], descriptors: Mapping[str, socket.socket]) -> None:
        """Takes over what an earlier daemon granted: what was saved, as far as the manager kept its descriptor."""
        for id, ours in descriptors.items():
            if id in kept:
                self._watch(Granted(id, kept[id], ours))
            else:
                notify.let_go(NAME + id)
                ours.close()
        for id in kept.keys() - descriptors.keys():
            self._note_end(id, kept[id], "its holder ended or let go of it while aitherd was away")

    def begin(self, id: str, terms: KeptLease) -> socket.socket:
        """Puts a lease in force. Returns the holder's end, which the caller owns."""
        ours, theirs = socket.socketpair()
        self._watch(Granted(id, terms, ours))
        # In this order: the next daemon closes a descriptor that it does not know the terms of.
        self._save()
        reach(Point.LEASE_SAVED)
        notify.keep(NAME + id, ours.fileno())
        reach(Point.LEASE_KEPT)
        used = self.used(id)
        until = f" for {format_seconds(terms.ends - terms.since)}" if terms.ends else ""
        self._records.add(
            Event.LEASED,
            f"{title(id, terms.purpose)} has {format_bytes(terms.bytes)} on {terms.device}{until}, PID {terms.pid}"
            + (f", which uses {format_bytes(used)} already" if used else ""),
            lease=id,
            bytes=terms.bytes,
            device=terms.device,
            pid=terms.pid,
        )
        self._changed()
        return theirs

    def release(self, id: str) -> None:
        """Ends a lease. Raises UnknownLease."""
        lease = self._granted.get(id)
        if lease is None:
            raise UnknownLease(f"there is no lease {id!r}", remedy="see aitherctl leases")
        self._end(lease, "it was released")

    def close(self) -> None:
        """Lets go of the descriptors without ending a lease: the daemon goes away, and the manager keeps them."""
        for lease in self._granted.values():
            self._unwatch(lease)
        self._granted.clear()

    # --- for decisions -------------------------------------------------------------------------------------------

    def claims(self) -> tuple[Claim, ...]:
        """What is promised. A lease whose holder is gone, and that lives in other hands, is nobody's: PID 0."""
        alive = self._holders()
        return tuple(
            Claim(one.terms.purpose, one.terms.pid if one.terms.pid in alive else 0, one.terms.device, one.terms.bytes)
            for one in self._granted.values()
        )

    def promised(self, pid: int, device: DeviceId) -> Bytes:
        """Bytes that a process holds leases of on a device."""
        return sum(
            one.terms.bytes for one in self._granted.values() if one.terms.pid == pid and one.terms.device == device
        )

    def kin(self, pids: Iterable[int]) -> Mapping[int, int]:
        """Those of `pids` that hold a lease or descend from a process that does, each with its nearest holder."""
        holders = self._holders()
        found: dict[int, int] = {}
        if not holders:
            return found
        for pid in pids:
            one = pid
            for _ in range(ANCESTORS):
                if one in holders:
                    found[pid] = one
                    break
                origin = origin_of(one)
                if origin is None or origin.parent <= 1:
                    break
                one = origin.parent
        return found

    def _holders(self) -> frozenset[int]:
        """PIDs of the holders that there still are."""
        return frozenset(
            one.terms.pid
            for one in self._granted.values()
            if (origin := origin_of(one.terms.pid)) is not None and one.terms.started in (0, origin.started)
        )

    # --- for people ----------------------------------------------------------------------------------------------

    def used(self, id: str) -> Bytes:
        """What the holder and its descendants use on the lease's device; its other leases there come first if older."""
        terms = self._granted[id].terms
        view = self._devices().get(terms.device)
        left = used_by(terms.pid, view) if view is not None else 0
        same = [one for one in self._granted.values() if (one.terms.pid, one.terms.device) == (terms.pid, terms.device)]
        for one in same[:-1]:
            if one.id == id:
                return min(left, terms.bytes)
            left -= min(left, one.terms.bytes)
        return left

    def list(self) -> tuple[Lease, ...]:
        """The leases in force, oldest first."""
        return tuple(
            Lease(
                id=one.id,
                purpose=one.terms.purpose,
                bytes=one.terms.bytes,
                device=one.terms.device,
                used=self.used(one.id),
                pid=one.terms.pid,
                since=one.terms.since,
                ends=one.terms.ends,
            )
            for one in self._granted.values()
        )

    # --- its end -------------------------------------------------------------------------------------------------

    def _watch(self, lease: Granted) -> None:
        lease.ours.setblocking(False)
        self._granted[lease.id] = lease
        loop = asyncio.get_running_loop()
        loop.add_reader(lease.ours, self._hear, lease)
        if lease.terms.ends:
            left = max(lease.terms.ends - self._clock.unix(), 0.0)
            lease.timer = loop.call_later(left, self._end, lease, "its time ran out")

    def _unwatch(self, lease: Granted) -> None:
        asyncio.get_running_loop().remove_reader(lease.ours)
        lease.ours.close()
        if lease.timer is not None:
            lease.timer.cancel()

    def _hear(self, lease: Granted) -> None:
        """The other end has something to say, which does not matter, or is closed."""
        try:
            if lease.ours.recv(4096):
                return
        except BlockingIOError:
            return
        except ConnectionResetError:
            # Closed with something unread in it: closed all the same.
            pass
        self._end(lease, "its holder ended or let go of it")

    def _end(self, lease: Granted, why: str) -> None:
        del self._granted[lease.id]
        self._unwatch(lease)
        notify.let_go(NAME + lease.id)
        self._save()
        self._note_end(lease.id, lease.terms, why)
        self._changed()

    def _note_end(self, id: str, terms: KeptLease, why: str) -> None:
        self._records.add(
            Event.ENDED,
            f"{title(id, terms.purpose)} has ended: {why}; {format_bytes(terms.bytes)} on {terms.device} "
            "are no longer promised",
            lease=id,
            bytes=terms.bytes,
            device=terms.device,
            seconds=round(max(self._clock.unix() - terms.since, 0.0), 3),
        )


def title(id: str, purpose: str) -> str:
    """What a lease is called in sentences. No model has such a name: it has blanks."""
    return f"lease {id} ({purpose})"


def descriptors(passed: dict[str, list[socket.socket]]) -> Mapping[str, socket.socket]:
    """Takes the descriptors of leases out of what the service manager passed; by id."""
    found: dict[str, socket.socket] = {}
    for name in [name for name in passed if name.startswith(NAME)]:
        first, *more = passed.pop(name)
        found[name.removeprefix(NAME)] = first
        for other in more:
            other.close()
    return found
