"""What `/events` tells: how things are, whenever that changes, and the daemon's records as they are made.

State (models, devices, leases, upstreams, health) is told in full to a new listener and by difference after that, so
that nobody has to be told what was missed. Records are numbered and kept for a while: a listener that comes back names
the last one that it got. Works only while somebody listens. How a listener is written to is `event_stream.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from aitherd.conductor.operations import Lease, ModelStatus, Operations
from aitherd.conductor.records import Record, Records
from aitherd.core.words import DeviceView
from aitherd.proxy.limits import Limits
from aitherd.proxy.metrics import NodeSample
from aitherd.proxy.scene import Scene, owned

_ID = re.compile(r"([0-9]{1,12})\.([0-9]{1,12})")
_encoder = msgspec.json.Encoder(enc_hook=str)

Key = tuple[str, str]
"""What a piece of state is about: its kind, which is the event's name, and which one."""


class Listener(Protocol):
    """Somebody who listens."""

    def tell(self, text: bytes) -> None:
        """Takes some more events."""

    def close(self) -> None:
        """There will be no more: the daemon ends."""


class Feed:
    """The events of one daemon."""

    def __init__(
        self, operations: Operations, records: Records | None, scene: Callable[[], Scene], limits: Limits, epoch: int
    ) -> None:
        """`epoch` tells this run of the daemon from others."""
        self._operations = operations
        self._records = records
        self._scene = scene
        self._limits = limits
        self._epoch = epoch
        self._listeners: set[Listener] = set()
        self._ends: list[Callable[[], None]] = []
        """Of subscriptions, while somebody listens."""
        self._told: dict[Key, bytes] = {}
        """The state as it was told last."""
        self._number = 0
        """Of the last record that was told."""
        self._quiet = 0.0
        """Seconds since anything was told."""
        self._soon: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self, listener: Listener, last: str = "", records: int = 0) -> None:
        """Tells a new listener how things are, and from now on what changes, until `leave` or its `close`.

        It first gets the records after the one whose id is `last`, or the latest `records` of them.
        """
        if not self._listeners:
            self._begin()
        self._flush()
        self._listeners.add(listener)
        listener.tell(b"retry: 2000\n\n" + b"".join(self._past(last, records)) + b"".join(self._state()))

    def leave(self, listener: Listener) -> None:
        """Tells a listener no more."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._end()

    def close(self) -> None:
        """Ends every listener."""
        for listener in tuple(self._listeners):
            listener.close()

    def _begin(self) -> None:
        self._number = self._records.total if self._records is not None else 0
        self._told = dict(_pieces(self._scene()))
        self._ends.append(self._operations.subscribe(lambda _: self._hurry()))
        if self._records is not None:
            self._ends.append(self._records.subscribe(self._hurry))
        self._later = asyncio.get_running_loop().call_later(self._limits.event_interval, self._look)

    def _end(self) -> None:
        for end in self._ends:
            end()
        self._ends.clear()
        for timer in (self._soon, self._later):
            if timer is not None:
                timer.cancel()
        self._soon = self._later = None

    def _hurry(self) -> None:
        """Something changed. What else changes in the next moment is told with it."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(self._limits.event_pause, self._flush)

    def _look(self) -> None:
        """Some things change without anybody saying so: watts, leases in use, upstreams."""
        self._later = asyncio.get_running_loop().call_later(self._limits.event_interval, self._look)
        self._quiet += self._limits.event_interval
        self._flush()
        if self._quiet >= self._limits.comment_interval:
            self._tell(b": still here\n\n")

    def _flush(self) -> None:
        """Tells what is new."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        now = dict(_pieces(self._scene()))
        parts = [*self._new_records()]
        parts += (_event("gone", _encoder.encode(key)) for key in self._told if key not in now)
        parts += (_event(key[0], text) for key, text in now.items() if self._told.get(key) != text)
        self._told = now
        if parts:
            self._tell(b"".join(parts))

    def _tell(self, text: bytes) -> None:
        self._quiet = 0.0
        for listener in tuple(self._listeners):
            listener.tell(text)

    def _state(self) -> Iterator[bytes]:
        for (kind, _), text in self._told.items():
            yield _event(kind, text)

    def _new_records(self) -> Iterator[bytes]:
        if self._records is not None:
            for number, record in self._records.since(self._number):
                yield self._record(number, record)
            self._number = self._records.total

    def _past(self, last: str, count: int) -> Iterator[bytes]:
        if self._records is None:
            return
        match = _ID.fullmatch(last)
        known = match is not None and int(match[1]) == self._epoch
        after = max(self._number - count, 0)
        if match is not None:
            after = int(match[2]) if known else 0
            if not known:
                yield b": the daemon was started anew; these are the records since\n\n"
        found = self._records.since(after)
        if known and found and found[0][0] > after + 1:
            yield b": %d records in between are kept no more\n\n" % (found[0][0] - after - 1)
        for number, record in found:
            yield self._record(number, record)

    def _record(self, number: int, record: Record) -> bytes:
        about = {
            "number": number, "time": record.time, "event": str(record.event), "model": record.model,
            "message": record.message, "fields": record.fields,
        }  # fmt: skip
        return b"id: %d.%d\n%b" % (self._epoch, number, _event("record", _encoder.encode(about)))


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _pieces(scene: Scene) -> Iterator[tuple[Key, bytes]]:
    """The state in pieces that change by themselves."""
    yield ("health", ""), _encoder.encode({"problems": scene.problems})
    for status in scene.statuses:
        yield ("model", status.name), _encoder.encode(_model(status, scene.tokens.get(status.name, 0)))
    for device in scene.devices:
        yield ("device", device.id), _encoder.encode(_device(device, scene))
    for lease in scene.leases:
        yield ("lease", lease.id), _encoder.encode(_lease(lease))
    for node in scene.nodes:
        yield ("upstream", f"{node.upstream} {node.address}"), _encoder.encode(_upstream(node))


def _model(status: ModelStatus, tokens: int) -> dict[str, object]:
    return {
        "name": status.name, "description": status.description, "engine": status.engine,
        "class": str(status.residency_class), "residency": str(status.residency), "level": status.level,
        "serves": status.serves, "can": status.can, "unit": status.unit, "expected": status.expected,
        "measured": dict(status.measured), "in_flight": status.in_flight, "waiting": status.waiting,
        "held": status.held, "busy": status.busy, "since": status.since, "last_used": round(status.last_used),
        "stops_at": round(status.stops_at), "error": status.error, "stage": status.stage,
        "tokens": tokens,
    }  # fmt: skip


def _device(device: DeviceView, scene: Scene) -> dict[str, object]:
    return {
        "id": device.id, "name": device.name, "total": device.total, "free": device.free, "fresh": device.fresh,
        "problem": device.problem, "watts": device.watts, "busy": device.busy,
        "owners": owned(device, scene.statuses, scene.leases),
        "foreign": [
            {"name": claim.owner, "pid": claim.pid, "bytes": claim.bytes, "leased": bool(claim.holder)}
            for claim in device.foreign
        ],
    }  # fmt: skip


def _lease(lease: Lease) -> dict[str, object]:
    return {
        "id": lease.id, "purpose": lease.purpose, "device": lease.device, "bytes": lease.bytes, "used": lease.used,
        "pid": lease.pid, "since": lease.since, "ends": lease.ends, "waiting": lease.waiting, "stage": lease.stage,
    }  # fmt: skip


def _upstream(node: NodeSample) -> dict[str, object]:
    return {
        "upstream": node.upstream, "address": node.address, "up": node.up, "in_flight": node.in_flight,
        "spent_today": node.spent, "daily_cap": node.cap, "reason": node.reason,
    }  # fmt: skip
