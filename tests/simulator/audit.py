"""What must hold whatever happens: every deed of the conductor towards the machine is held against it.

A deed that breaks a rule is noted, with the time and the last records, and `check` fails on it. The rules are those of
the design: bytes are measured before a start, room is made for one model at a time on a device, nothing else moves
where one measures it, busy is never ended, the essential model is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aitherd.core.words import NO_BYTES, Bytes, DeviceId, Residency, ResidencyClass, Seconds

if TYPE_CHECKING:
    from aitherd.conductor.books import Book
    from aitherd.conductor.conductor import Conductor

AGED: Seconds = 1.0
"""A start goes by a measurement that is not older than this."""
UNLEARNED: Bytes = 2 << 30
"""By so much a sleeper may keep more in host memory than is expected of it before that is learned."""
LONGEST_LOAD: Seconds = 150.0
MOVING = frozenset({Residency.STARTING, Residency.STOPPING})


class Broken(AssertionError):
    """A rule was broken."""


class Audit:
    """Watches one conductor."""

    def __init__(self) -> None:
        self.conductor: Conductor | None = None
        self.broken: list[str] = []
        self.starts_of: dict[str, int] = {}
        self.wakes_of: dict[str, int] = {}
        self.liars: set[str] = set()
        """Models that need more than they say."""
        self._adopted: set[str] = set()
        """Models that were on their way already when the daemon came back: it did not choose that they are at once."""
        self._held: dict[str, bool] = {}
        """Of models on their way down, whether they were held when that began."""
        self._free: Mapping[DeviceId, Bytes] = NO_BYTES
        self._taken: Seconds = float("-inf")
        self._disturbed: Seconds = float("-inf")

    def watch(self, conductor: Conductor) -> None:
        """From now on it is this conductor."""
        self.conductor = conductor
        self._held.clear()
        self._adopted = {book.name for book in conductor.books.values() if book.residency in MOVING}
        conductor.subscribe(self._changed)

    def _changed(self, model: str) -> None:
        book = self._book(model)
        if book is None or book.residency not in MOVING:
            self._adopted.discard(model)
        if book is not None and book.residency is Residency.STOPPING:
            self._held.setdefault(model, book.held)
        else:
            self._held.pop(model, None)

    # --- what the machine reports --------------------------------------------------------------------------------

    def measured(self, free: Mapping[DeviceId, Bytes]) -> None:
        """The driver told the truth."""
        self._free, self._taken = free, self._now()

    def disturbed(self) -> None:
        """A foreign program took bytes."""
        self._disturbed = self._now()

    def starts(self, model: str, placement: tuple[DeviceId, ...]) -> None:
        """An engine is started."""
        self.starts_of[model] = self.starts_of.get(model, 0) + 1
        book = self._book(model)
        if book is None or self.conductor is None:
            return
        self._alone(book, placement, quiet=_quiet(book))
        if book.expected() and self._now() - self._taken > AGED:
            self._note(f"{model} starts by a measurement of {self._now() - self._taken:.1f} s ago")
        need = -(-book.expected() // max(len(placement), 1))
        for device in placement:
            room = self._room(device, book)
            if room < need:
                self._note(f"{model} starts on {device}: needs {need}, and {room} are free beyond what is promised")

    def granted(self, lease: str, count: Bytes, device: DeviceId) -> None:
        """A lease was granted, whose holder uses nothing of it yet."""
        if (room := self._room(device)) < 0:
            self._note(f"the lease {lease} was granted {count} on {device}, where {-room} are missing")

    def wakes(self, model: str) -> None:
        """A sleeper is woken."""
        self.wakes_of[model] = self.wakes_of.get(model, 0) + 1
        if (book := self._book(model)) is not None:
            self._alone(book, book.placement, quiet=False)

    def sleeps(self, model: str) -> None:
        """An engine is put to sleep."""
        self._gives_way(model, "put to sleep")

    def slept(self, model: str, available: Bytes) -> None:
        """An engine fell asleep, and so much host memory is left."""
        if self.conductor is None or self.liars:
            return
        if available < self.conductor.fleet.settings.host_reserve - UNLEARNED:
            self._note(f"{model} fell asleep where host memory had no room: {available} are left")

    def frees(self, model: str) -> None:
        """An engine is to drop its caches."""
        self._gives_way(model, "made to drop its caches")

    def stops(self, model: str) -> None:
        """An engine unit is stopped."""
        book = self._book(model)
        # What is left of an earlier engine, or did not come up, is ended in any case.
        if book is not None and book.residency in (Residency.READY, Residency.SLEEPING, Residency.STOPPING):
            self._gives_way(model, "stopped")

    def unserved(self, model: str) -> None:
        """A request was let through to an engine that is not there, or not ready."""
        self._note(f"a request goes to {model}, which does not answer")

    def starved(self, model: str) -> None:
        """An engine ran out of device memory."""
        book = self._book(model)
        if book is None or self.conductor is None or self._now() - self._disturbed <= LONGEST_LOAD:
            return
        # One that needs more than it says, and comes up beside it, takes that from its room.
        if not any(name in self.liars and other.alive for name, other in self.conductor.books.items()):
            self._note(f"{model} ran out of memory though nobody took any")

    # --- the rules -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises Broken for what was noted, and for what does not hold this instant."""
        if self.conductor is not None:
            for book in self.conductor.books.values():
                self._look(book)
            for device in self.conductor.meter.accounts.devices:
                moving = [book for book in self.conductor.books.values() if self._moves_on(book, device)]
                alone = [book for book in moving if book.residency is Residency.STOPPING or _quiet(book)]
                if len(alone) > 1 or (len(moving) > 1 and any(map(_quiet, moving))):
                    self._note(f"{' and '.join(book.name for book in moving)} move on {device} at once")
        if self.broken:
            raise Broken("\n".join(self.broken))

    def _look(self, book: Book) -> None:
        withheld = book.stop_wanted or book.vitals.doubt.withholds
        if book.residency is Residency.READY and book.waiters and not withheld:
            self._note(f"{len(book.waiters)} wait for {book.name}, which is ready")
        if book.in_flight < 0:
            self._note(f"{book.name} has {book.in_flight} requests in flight")

    def _moves_on(self, book: Book, device: DeviceId) -> bool:
        return book.residency in MOVING and device in book.placement and book.name not in self._adopted

    def _promised(self, book: Book, device: DeviceId) -> Bytes:
        """Bytes on `device` that are another's although they are still free."""
        essential = book.model.residency_class is ResidencyClass.ESSENTIAL
        if book.residency is Residency.STARTING or (
            essential and book.residency not in (Residency.READY, Residency.QUARANTINED)
        ):
            devices = book.placement or book.model.devices
            if device in devices:
                return max(-(-book.expected() // len(devices)) - book.measured.get(device, 0), 0)
        return 0

    def _room(self, device: DeviceId, besides: Book | None = None) -> Bytes:
        """Measured free bytes above the reserve that are promised to nobody. What is leased nobody uses here."""
        assert self.conductor is not None
        others = sum(self._promised(other, device) for other in self.conductor.books.values() if other is not besides)
        leased = sum(claim.bytes for claim in self.conductor.leasing.leases.claims() if claim.device == device)
        return self._free.get(device, 0) - self.conductor.fleet.settings.reserve - others - leased

    def _alone(self, book: Book, placement: tuple[DeviceId, ...], *, quiet: bool) -> None:
        """Nobody comes up where another measures the device."""
        assert self.conductor is not None
        for other in self.conductor.books.values():
            minds = quiet or _quiet(other)
            if other is not book and minds and any(self._moves_on(other, device) for device in placement):
                self._note(f"{book.name} comes up while {other.name} is {other.residency}")

    def _gives_way(self, model: str, how: str) -> None:
        book = self._book(model)
        if book is None:
            return
        if book.in_flight and not book.stop_force:
            self._note(f"{model} is {how} with {book.in_flight} requests in flight")
        if book.model.residency_class is ResidencyClass.ESSENTIAL and not book.stop_wanted:
            self._note(f"{model} is essential and is {how}")
        # Who holds it only now, while it goes, has it brought back.
        if book.held and self._held.get(model, True) and not book.stop_wanted:
            self._note(f"{model} is held and is {how}")

    def _book(self, model: str) -> Book | None:
        return self.conductor.books.get(model) if self.conductor is not None else None

    def _now(self) -> Seconds:
        return self.conductor.clock.monotonic() if self.conductor is not None else 0.0

    def _note(self, what: str) -> None:
        self.broken.append(f"{self._now():.2f} s: {what}")


def _quiet(book: Book) -> bool:
    """Whether it starts, and measures its devices meanwhile."""
    cold = book.residency is Residency.STARTING and not book.level
    return cold and book.engine.quiet_start(book.model.command)
