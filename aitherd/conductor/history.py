"""What happened in the last hours, for people: residency, device bytes by owner, waiting times, records.

It is told and remembers, within bounds; nothing is decided by it. The file that it survives restarts in is
`chronicle.py`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

from aitherd import __version__
from aitherd.conductor.books import Book
from aitherd.conductor.records import Records
from aitherd.core.ledger import Accounts
from aitherd.core.words import Bytes, DeviceId, Residency, Seconds

KEPT: Seconds = 24 * 3600.0
"""What is older is forgotten."""
SLOT: Seconds = 15.0
"""Bytes and waits are kept once in so many seconds: the last bytes, the sum of the waits."""
MOST = 2400
"""Entries of one series. A series of bytes or waits that is longer has its older half thinned."""
SHOWN = 600
"""Points of one series in an answer."""
SET_BACK: Seconds = 60.0
"""By so much a clock is corrected; by more it is set."""
SPARE: Seconds = 3600.0
"""What is too old is forgotten so much later, so that it need not be looked for at each entry."""
FOREIGN = "process:"
LEASE = "lease:"
UNATTRIBUTED = "unattributed"
"""How owners of device bytes that are no models are named: by process, by the purpose of a lease, by nobody."""


class Kind(StrEnum):
    """What an entry is about; its subject is in brackets."""

    RESIDENCY = "residency"
    """The model (subject) has been in this state since then: [residency, sleep level]."""
    BYTES = "bytes"
    """Who held how much of the device (subject): {owner: bytes}."""
    WAIT = "wait"
    """Requests that waited for the model (subject): [how many, their seconds, the longest]."""
    RECORD = "record"
    """A decision or transition about the model (subject, may be empty): [event, message]."""
    BEGAN = "began"
    """A daemon began: its version."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    time: Seconds
    """Unix time."""
    kind: Kind
    subject: str
    value: Any
    """As JSON has it."""


Follower: TypeAlias = Callable[[str], None]

_SLOTTED = frozenset({Kind.BYTES, Kind.WAIT})


class History:
    """The last hours. Implements `operations.Past`."""

    def __init__(self, clock: Callable[[], Seconds], began: str = __version__) -> None:
        """`clock` gives Unix time."""
        self._clock = clock
        self._series: dict[tuple[Kind, str], list[Entry]] = {}
        self._fresh: dict[tuple[Kind, str, int], Entry] = {}
        """Not written down yet; the number tells entries of a series apart."""
        self._number = 0
        self._read = 0
        """Number of the last record that was taken."""
        self._wake: Callable[[], None] = lambda: None
        self._books: Mapping[str, Book] = {}
        self._add(Kind.BEGAN, "", began)

    def on_news(self, wake: Callable[[], None]) -> None:
        """Has `wake` called when there is something to write down."""
        self._wake = wake
        wake()

    def take(self) -> list[Entry]:
        """What has not been written down yet, oldest first. An entry may come again, with a later value."""
        fresh, self._fresh = self._fresh, {}
        return list(fresh.values())

    def recall(self, written: Iterable[Entry]) -> None:
        """Puts what earlier daemons wrote down, oldest first, before what happened since this one began."""
        since = sorted((entry for series in self._series.values() for entry in series), key=lambda entry: entry.time)
        self._series.clear()
        for entry in written:
            self._keep(entry)
        for entry in since:
            last = self._last(entry.kind, entry.subject)
            if entry.kind is not Kind.RESIDENCY or last is None or last.value != entry.value:
                self._keep(entry)
        for (kind, name), series in list(self._series.items()):
            if kind is Kind.RESIDENCY and name not in self._books and series[-1].value[0] != Residency.ABSENT:
                self._add(kind, name, [str(Residency.ABSENT), 0])

    # --- what it is told -----------------------------------------------------------------------------------------

    def follow(self, books: Mapping[str, Book], accounts: Callable[[], Accounts], records: Records) -> Follower:
        """Takes everything as it is now, and is to be told by what it returns what changes: a model by its name, the
        devices by an empty one. That is called for every request, too, and cheap when nothing did.

        What happened while nobody looked is not known.
        """
        self._books = books

        def look(name: str) -> None:
            if not name:
                self._look_at_devices(accounts())
            elif (book := books.get(name)) is not None:
                self._residency(name, book.residency, book.level)

        def read() -> None:
            for number, record in records.since(self._read):
                self._read = number
                self._add(Kind.RECORD, record.model, [str(record.event), record.message], record.time)

        for name in ("", *books):
            look(name)
        read()
        records.subscribe(read)
        return look

    def waited(self, model: str, seconds: Seconds) -> None:
        """A request waited so long for `model` and went on, or away."""
        now = self._clock()
        last = self._last(Kind.WAIT, model)
        count, total, longest = last.value if last is not None and _same_slot(last.time, now) else (0, 0.0, 0.0)
        self._add(Kind.WAIT, model, [count + 1, round(total + seconds, 3), round(max(longest, seconds), 3)], now)

    def _residency(self, name: str, residency: Residency, level: int) -> None:
        last = self._last(Kind.RESIDENCY, name)
        if last is None or last.value[0] != residency or last.value[1] != level:
            self._add(Kind.RESIDENCY, name, [str(residency), level])

    def _look_at_devices(self, accounts: Accounts) -> None:
        for device in accounts.devices.values():
            if device.fresh:
                held = dict(owners(accounts, device.id))
                last = self._last(Kind.BYTES, device.id)
                if last is None or last.value != held:
                    self._add(Kind.BYTES, device.id, held)

    # --- what it is asked ----------------------------------------------------------------------------------------

    def since(self, instant: Seconds) -> Mapping[str, object]:
        """What happened from the Unix time `instant` on, as JSON has it; see `GET /api/history` in aitherd(8).

        Each series begins with what held at `instant`.
        """
        told: dict[Kind, dict[str, list[list[Any]]]] = {kind: {} for kind in Kind}
        for (kind, subject), series in self._series.items():
            start = bisect_left(series, instant, key=lambda entry: entry.time)
            carried = kind in (Kind.RESIDENCY, Kind.BYTES)
            shown = series[max(start - 1, 0) if carried else start :]
            if kind in _SLOTTED and len(shown) > SHOWN:
                # The last one says how it is now.
                shown = shown[:: -(-len(shown) // SHOWN)] + shown[-1:]
            if shown:
                told[kind][subject] = [
                    [entry.time, *entry.value] if isinstance(entry.value, list) else [entry.time, entry.value]
                    for entry in shown
                ]
        records = [
            [time, event, subject, message]
            for subject, entries in told[Kind.RECORD].items()
            for time, event, message in entries
        ]
        return {
            "from": instant,
            "now": self._clock(),
            "residency": told[Kind.RESIDENCY],
            "bytes": told[Kind.BYTES],
            "waits": told[Kind.WAIT],
            "records": sorted(records, key=lambda row: row[0])[-SHOWN:],
            "began": told[Kind.BEGAN].get("", []),
        }

    # --- how it is kept ------------------------------------------------------------------------------------------

    def _last(self, kind: Kind, subject: str) -> Entry | None:
        series = self._series.get((kind, subject))
        return series[-1] if series else None

    def _add(self, kind: Kind, subject: str, value: Any, time: Seconds | None = None) -> None:
        entry = self._keep(Entry(self._clock() if time is None else time, kind, subject, value))
        self._number += 1
        slot = int(entry.time // SLOT) if kind in _SLOTTED else -self._number
        # One that takes another's place does so here as well, written down already or not.
        self._fresh[kind, subject, slot] = entry
        self._wake()

    def _keep(self, entry: Entry) -> Entry:
        """Keeps an entry, as it is returned."""
        series = self._series.setdefault((entry.kind, entry.subject), [])
        if series and entry.time < series[-1].time:
            if series[-1].time - entry.time < SET_BACK:
                entry = replace(entry, time=series[-1].time)
            else:
                # What is known of a time that has not come is of no use, and the order counts.
                del series[bisect_left(series, entry.time, key=lambda one: one.time) :]
        if series and entry.kind in _SLOTTED and _same_slot(series[-1].time, entry.time):
            series[-1] = entry
            return entry
        series.append(entry)
        if len(series) > MOST:
            if entry.kind in _SLOTTED:
                del series[: MOST // 2 : 2]
            else:
                del series[: MOST // 10]
        elif series[0].time < entry.time - KEPT - SPARE:
            # One stays that says how it was at the beginning.
            old = bisect_left(series, entry.time - KEPT, key=lambda one: one.time)
            del series[: max(old - 1, 0)]
        return entry


def owners(accounts: Accounts, device: DeviceId) -> Iterator[tuple[str, Bytes]]:
    """Who holds bytes of a device: models by name, others as the constants above say. Nobody with none."""
    view = accounts.devices[device]
    others: dict[str, Bytes] = {}
    for claim in view.foreign:
        name = f"{LEASE if claim.holder else FOREIGN}{claim.owner}"
        others[name] = others.get(name, 0) + claim.bytes
    for model, held in accounts.measured.items():
        if held.get(device):
            yield model, held[device]
    yield from ((name, count) for name, count in others.items() if count)
    known = accounts.unattributed.get(device)
    rest = view.total - view.free if known is None else known
    if rest > 0:
        yield UNATTRIBUTED, rest


def _same_slot(before: Seconds, now: Seconds) -> bool:
    return before // SLOT == now // SLOT
