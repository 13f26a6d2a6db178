"""What the devices hold, measured: one sample at a time, attributed to the models' units.

The meter keeps the latest accounts and says when they may not be trusted. It decides nothing: whether bytes came back
is `core/ledger.outstanding`, what to do about it is the steps' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from aitherd.conductor.books import Book, Clock
from aitherd.conductor.foreign import Guests
from aitherd.conductor.leases import Leases
from aitherd.conductor.records import Event, Records
from aitherd.config import Settings
from aitherd.core.host import host_view
from aitherd.core.ledger import Accounts, Sample, account, believed, carried
from aitherd.core.words import HOST, Bytes, DeviceId, DeviceView, Seconds
from aitherd.host.memory import HostMemory, host_memory

SAMPLE_TIMEOUT: Seconds = 5.0
"""How long the driver may take to answer before the devices count as blind; a healthy one takes milliseconds."""

NOTHING = Accounts(devices={}, measured={}, services={}, unattributed={})
"""Before the first sample."""


class Sampler(Protocol):
    """Where samples come from: NVML in the daemon (`host/nvml.py`)."""

    async def sample(self, timeout: Seconds) -> Sample:
        """All devices as they are now. Never raises for what a driver does: the sample says what is wrong."""

    async def renew(self) -> None:
        """Forgets what it has open: the next sample opens the driver anew."""

    async def close(self) -> None:
        """Ends the sampler."""


class Meter:
    """The latest accounts, and a way to have fresh ones."""

    def __init__(
        self,
        sampler: Sampler,
        clock: Clock,
        records: Records,
        settings: Callable[[], Settings],
        books: Callable[[], Iterable[Book]],
        changed: Callable[[], None],
        leases: Leases,
        guests: Guests,
        memory: Callable[[str], HostMemory] = host_memory,
    ) -> None:
        self._sampler = sampler
        self._memory = memory
        self._leases = leases
        self._guests = guests
        self._clock = clock
        self._records = records
        self._settings = settings
        self._books = books
        self._changed = changed
        self._turn = asyncio.Lock()
        self.accounts: Accounts = NOTHING
        self.driver = ""
        """Driver version, part of what a learned footprint is keyed by."""
        self.uuids: Mapping[DeviceId, str] = {}
        """Of all devices that were ever seen."""
        self.problem = ""
        """Why devices cannot be measured; empty while all can."""

    @property
    def totals(self) -> Mapping[DeviceId, Bytes]:
        """Sizes of the devices, as far as they have ever been measured."""
        return {name: view.total for name, view in self.accounts.devices.items() if view.total}

    def sees(self, device: DeviceId) -> bool:
        """Whether `device` was measured the last time."""
        view = self.accounts.devices.get(device)
        return view is not None and view.fresh

    async def measure(self) -> Accounts:
        """Accounts from a sample that was taken after the call; of devices that are lost, the last good ones marked as
        not fresh."""
        async with self._turn:
            self._read(believed(await self._sampler.sample(SAMPLE_TIMEOUT), self.uuids))
        return self.accounts

    async def renew(self) -> None:
        """Measures through a driver opened anew, as after a suspend."""
        async with self._turn:
            await self._sampler.renew()
        await self.measure()

    def _read(self, sample: Sample) -> None:
        lost = sample.lost
        if sample.problem:
            lost = dict.fromkeys(self.accounts.devices.keys() - {HOST} or lost.keys() or {"gpu0"}, sample.problem)
        self._note(sample.problem or "; ".join(f"{id}: {why}" for id, why in sorted(lost.items())))
        before = self.accounts
        books = list(self._books())
        self.driver = sample.driver or self.driver
        self.uuids = {**self.uuids, **{device.id: device.uuid for device in sample.devices}}
        missing: dict[DeviceId, Bytes] = {}
        for book in books:
            for device, count in book.lost.items():
                missing[device] = missing.get(device, 0) + count
        groups = {book.name: book.control_group for book in books if book.control_group}
        leases = self._leases.claims()
        kin = self._leases.kin(process.pid for device in sample.devices for process in device.processes)
        reserve = self._settings().reserve
        accounts = account(sample, groups, reserve, missing, leases, kin, self._guests.units)
        accounts = carried(accounts, before, lost, reserve)
        self._guests.read(accounts)
        self.accounts = replace(accounts, devices={**accounts.devices, HOST: self._host()})
        for book in books:
            measured = self.accounts.measured.get(book.name, {})
            if measured != book.measured:
                book.measured = measured
                book.changed(book.name)
        if self.accounts.devices != before.devices:
            self._changed()

    def _note(self, problem: str) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        said = f"nothing is loaded on a device: {problem}" if problem else "the devices can be measured again"
        self._records.add(Event.DEVICE, said)

    def _host(self) -> DeviceView:
        """Host memory, which sleepers compete for, within what their slice may take.

        As it was, marked as not fresh, where it cannot be read: without a descriptor to be had, for example.
        """
        slices = (book.control_group.rpartition("/")[0] for book in self._books() if book.control_group)
        try:
            memory = self._memory(next(slices, ""))
        except OSError as error:
            known = self.accounts.devices.get(HOST)
            if known is None:
                raise
            return replace(known, fresh=False, problem=f"it cannot be read: {error.strerror}")
        reserve = self._settings().host_reserve
        return host_view(memory.total, memory.available, memory.budget, memory.stalled, reserve)

    async def close(self) -> None:
        """Ends the sampler."""
        await self._sampler.close()
