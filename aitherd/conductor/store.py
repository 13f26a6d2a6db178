"""What outlives the daemon: holds, leases, what a person stopped, what was learned. One JSON file, replaced atomically.

Losing the file costs knowledge, never a running model: which engines run is read from systemd, not from here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import structlog

from aitherd.core.learning import Learned
from aitherd.core.words import Bytes, DeviceId, Seconds
from aitherd.failpoints import Point, reach

VERSION = 1


@dataclass(frozen=True, slots=True)
class KeptLease:
    """A lease that was granted to an outside program."""

    bytes: Bytes
    device: DeviceId
    purpose: str
    pid: int
    """Of its holder."""
    started: int
    """When the holder started (`host.processes.Origin`): another process may get its PID one day."""
    since: Seconds
    """Unix time."""
    ends: Seconds
    """Unix time; 0 when it ends with its holder only."""


@dataclass(slots=True)
class State:
    """The content of the file."""

    held: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    """Models that a person stopped and that would otherwise come up by themselves."""
    levels: Mapping[str, int] = field(default_factory=dict)
    """Sleep levels of the models that sleep; an engine does not tell its own."""
    lost: Mapping[str, Mapping[DeviceId, Bytes]] = field(default_factory=dict)
    """Bytes that models left behind on devices and that had not come back, by model."""
    learned: dict[str, Learned] = field(default_factory=dict)
    """Key from `learning_key`."""
    leases: Mapping[str, KeptLease] = field(default_factory=dict)
    """By id. A lease exists as long as its descriptor is kept, too."""


def learning_key(model: str, fingerprint: str, driver: str) -> str:
    """What a footprint or a load time belongs to: other flags or another driver make it another one."""
    return f"{model} {fingerprint} {driver or '-'}"


class Store:
    """The file. Reading and writing never raise: a full or broken disk must not stop a model from serving."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self._log = structlog.get_logger("aitherd")
        self._written = ""

    def load(self) -> State:
        """What was saved last; an empty state when there is nothing, or nothing that can be read."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            self._log.warning(f"cannot read {self._path}: {error.strerror}; holds and learned sizes are not known")
            return State()
        try:
            return _parse(json.loads(data.decode()))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            aside = self._path.with_suffix(".broken")
            self._log.warning(f"{self._path} is damaged ({error}); kept as {aside.name}, beginning anew")
            try:
                self._path.replace(aside)
            except OSError as failure:
                self._log.warning(f"cannot rename {self._path}: {failure.strerror}")
            return State()

    def save(self, state: State) -> None:
        """Writes `state` if it differs from what was written last."""
        text = json.dumps(
            {
                "version": VERSION,
                "held": sorted(state.held),
                "stopped": sorted(state.stopped),
                "levels": dict(sorted(state.levels.items())),
                "lost": {name: dict(sorted(lost.items())) for name, lost in sorted(state.lost.items())},
                "learned": {key: learned.to_json() for key, learned in sorted(state.learned.items())},
                "leases": {key: asdict(lease) for key, lease in sorted(state.leases.items())},
            },
            indent=1,
        )
        if text == self._written:
            return
        new = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with new.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            reach(Point.SAVE_WRITTEN)
            new.replace(self._path)
            reach(Point.SAVE_REPLACED)
        except OSError as error:
            self._log.warning(f"cannot write {self._path}: {error.strerror}; holds would not survive a restart")
            return
        self._written = text


def _parse(data: Mapping[str, object]) -> State:
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']!r} instead of {VERSION}")
    learned, levels = data["learned"], data["levels"]
    leases, lost = data.get("leases", {}), data.get("lost", {})
    if not isinstance(learned, dict) or not isinstance(levels, dict) or not isinstance(leases, dict):
        raise TypeError("learned, levels and leases are tables")
    if not isinstance(lost, dict) or not all(isinstance(found, dict) for found in lost.values()):
        raise TypeError("lost is a table of tables")
    return State(
        held=_names(data["held"]),
        stopped=_names(data["stopped"]),
        lost={str(name): {str(at): int(count) for at, count in found.items()} for name, found in lost.items()},
        levels={str(name): int(level) for name, level in levels.items()},
        learned={str(key): Learned.from_json(value) for key, value in learned.items()},
        leases={str(key): _lease(value) for key, value in leases.items()},
    )


def _lease(value: object) -> KeptLease:
    if not isinstance(value, dict):
        raise TypeError("a lease is a table")
    return KeptLease(
        bytes=int(value["bytes"]),
        device=str(value["device"]),
        purpose=str(value["purpose"]),
        pid=int(value["pid"]),
        started=int(value["started"]),
        since=float(value["since"]),
        ends=float(value["ends"]),
    )


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("not a list of names")
    return frozenset(value)
