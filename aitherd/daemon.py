"""The composition root: makes the parts, ties them together, and takes them apart in the right order.

Nothing is decided here. `python -m aitherd` (see `__main__.py`) runs it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import sdbus
import structlog

from aitherd import __version__
from aitherd.bus.authority import Authority
from aitherd.bus.service import BusService
from aitherd.conductor.books import Clock
from aitherd.conductor.chronicle import Chronicle
from aitherd.conductor.conductor import Conductor
from aitherd.conductor.history import History
from aitherd.conductor.launch import Host
from aitherd.conductor.leases import descriptors
from aitherd.conductor.outlook import Outlooks
from aitherd.conductor.records import Event, Records
from aitherd.conductor.store import Store
from aitherd.config import Fleet, Problem, Settings, directories, load
from aitherd.core.words import Residency, format_bytes
from aitherd.errors import ConfigurationRefused, HostFailure
from aitherd.host import journal, log, notify, suspend
from aitherd.host.nvml import Nvml
from aitherd.host.systemd import Systemd
from aitherd.proxy.callers import Callers
from aitherd.proxy.limits import Limits
from aitherd.proxy.routing import Routing
from aitherd.proxy.server import Proxy

EX_CONFIG = 78
"""Exit status for a configuration with errors. sysexits(3); the unit does not restart on it."""
EX_TEMPFAIL = 75
"""Exit status when a restart may help. sysexits(3)"""
STATUS_PAUSE = 1.0
"""The status line that systemd shows is rewritten at most this often, in seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the daemon was called."""

    user: bool
    """For the user's own systemd manager and session bus instead of the system's."""


class Daemon:
    """One run of aitherd."""

    def __init__(self, options: Options, fleet: Fleet, faults: Mapping[str, str], nvml: Nvml) -> None:
        """`faults` say which models had to be left out, by name, and why."""
        self._options = options
        self._fleet = fleet
        self._nvml = nvml
        self._faults = faults
        self._log = structlog.get_logger("aitherd")
        self._ending = asyncio.Event()
        self._changed = asyncio.Event()
        self._status_code = 0
        self._taken: Fleet | None = None
        """The configuration that the last reload took over."""
        self._refused = ""
        """Why the configuration on disk is not the one in use."""

    async def run(self) -> int:
        """Serves until told to end; returns the exit status.

        Raises ConfigurationRefused, or HostFailure when systemd or the bus cannot be had.
        """
        async with AsyncExitStack() as stack:
            user = self._options.user
            bus = open_bus(user)
            stack.callback(bus.close)
            systemd = await Systemd.connect(bus)
            stack.push_async_callback(systemd.close)
            clock = Clock(time.monotonic, time.time, suspend.slept)
            records = Records(clock.unix)
            conductor = Conductor(
                self._fleet,
                systemd=systemd,
                sampler=self._nvml,
                records=records,
                clock=clock,
                host=host(user),
                store=Store(state_directory(user)),
                last_line=journal.last_line,
            )
            passed = notify.listen_sockets()
            await conductor.open(self._faults, descriptors(passed))
            scheduler = conductor.scheduler
            look = Outlooks(conductor.books, scheduler.forecast, scheduler.execution.world, clock)
            routing = Routing(conductor, look=look, records=records, state=state_directory(user))
            routing.apply(conductor.fleet.tiers, conductor.fleet.upstreams)
            callers = Callers(records)
            callers.apply(conductor.fleet.callers)
            chronicle = Chronicle(state_directory(user))
            history = History(clock.unix)
            conductor.subscribe(history.follow(conductor.books, lambda: conductor.meter.accounts, records))
            proxy = Proxy(
                conductor,
                limits(conductor.fleet.settings),
                routing,
                callers,
                leasing=conductor.leasing,
                records=records,
                past=history,
            )
            await proxy.serve(list(proxy_sockets(user, passed)))

            async def reload() -> None:
                self._reload(conductor, routing, callers)

            service = BusService(
                bus,
                conductor,
                conductor.leasing,
                records,
                routing,
                reload,
                Authority(bus, user=user),
                log,
                tokens=proxy.tokens,
            )
            await service.start()
            conductor.subscribe(lambda _: self._changed.set())
            self._on_signals(conductor, routing, callers)
            notify.ready(self._status(conductor))
            self._log.info("aitherd is up", version=__version__, models=len(conductor.books), user=user)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(conductor.run(), name="conductor"),
                    group.create_task(self._keep_alive(conductor), name="watchdog"),
                    group.create_task(self._keep_status(conductor), name="status"),
                    group.create_task(chronicle.keep(history), name="history"),
                    group.create_task(warm_up(), name="warm-up"),
                    group.create_task(self._until_disconnected(service), name="bus"),
                    group.create_task(suspend.watch(bus, conductor.resumed), name="suspend"),
                ]
                await self._ending.wait()
                notify.stopping("draining requests in flight")
                proxy.close_listeners()
                await proxy.drain(conductor.fleet.settings.drain_timeout)
                await service.stop()
                for task in tasks:
                    task.cancel()
            self._log.info("aitherd ends; engines run on")
            return self._status_code

    def _reload(self, conductor: Conductor, routing: Routing, callers: Callers) -> None:
        """Takes over the configuration on disk.

        Raises ConfigurationRefused, which it has logged as well, and then nothing has changed. `systemctl reload` comes
        here twice, by its signal and by a call that brings the result: the second time there is nothing left to do.
        """
        notify.reloading("reading the configuration")
        try:
            fleet = read_configuration(self._options.user)
            if fleet != self._taken:
                conductor.apply(fleet)
                routing.apply(fleet.tiers, fleet.upstreams)
                callers.apply(fleet.callers)
                log.set_level(fleet.settings.log_level)
                conductor.records.add(Event.CONFIGURATION, f"configuration read: {len(fleet.models)} models")
            self._taken, self._refused = fleet, ""
        except ConfigurationRefused as error:
            if str(error) != self._refused:
                self._log.error(f"the configuration on disk is not taken over: {error}")
            self._refused = str(error)
            raise
        finally:
            notify.ready(self._status(conductor))

    def _on_signals(self, conductor: Conductor, routing: Routing, callers: Callers) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, conductor, routing, callers)

    def _hang_up(self, conductor: Conductor, routing: Routing, callers: Callers) -> None:
        with suppress(ConfigurationRefused):
            self._reload(conductor, routing, callers)

    async def _keep_alive(self, conductor: Conductor) -> None:
        """Feeds the watchdog each time that the loops which schedule and measure have gone round, and only then."""
        interval = notify.watchdog_interval()
        while interval is not None:
            for turns in (conductor.scheduler.turns, conductor.observer.turns):
                await turns.prove()
            notify.watchdog()
            await asyncio.sleep(interval)

    async def _until_disconnected(self, service: BusService) -> None:
        """Without its bus the daemon ends, and systemd starts it anew: it then adopts what runs."""
        await service.disconnected()
        self._log.error("the connection to the bus is gone; ending to come back")
        self._status_code = EX_TEMPFAIL
        self._ending.set()

    async def _keep_status(self, conductor: Conductor) -> None:
        last = ""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if (status := self._status(conductor)) != last:
                notify.status(status)
                last = status
            await asyncio.sleep(STATUS_PAUSE)

    def _status(self, conductor: Conductor) -> str:
        counts = [
            f"{count} {residency}"
            for residency in Residency
            if residency is not Residency.ABSENT
            and (count := sum(book.residency is residency for book in conductor.books.values()))
        ]
        devices = [
            f"{device.id} {format_bytes(device.free)} of {format_bytes(device.total)} free"
            for device in conductor.devices()
            if device.fresh
        ]
        refused = [f"the configuration on disk is not in use: {line}" for line in self._refused.splitlines()[:1]]
        return "; ".join([*refused, ", ".join(counts) or "no model is up", *devices, *conductor.problems()])


def read_configuration(user: bool) -> Fleet:
    """The configuration on disk, without any error. Raises ConfigurationRefused with all of them."""
    fleet, problems = load(directories(user), user=user)
    if fleet is None:
        raise ConfigurationRefused("\n".join(str(problem) for problem in problems if problem.error))
    return fleet


def open_bus(user: bool) -> sdbus.SdBus:
    """The bus that the daemon lives on. Raises HostFailure when there is none."""
    try:
        return sdbus.sd_bus_open_user() if user else sdbus.sd_bus_open_system()
    except sdbus.SdBusBaseError as error:
        name = "user's" if user else "system"
        raise HostFailure(f"cannot connect to the {name} bus: {error}", remedy="is dbus.service running?") from error


def limits(settings: Settings) -> Limits:
    """The proxy's bounds, as configured."""
    return Limits(
        head=settings.max_head,
        body=settings.max_body,
        header_timeout=settings.head_timeout,
        keep_alive=settings.keep_alive,
        write_timeout=settings.write_timeout,
        first_byte_timeout=settings.first_byte_timeout,
        stall_timeout=settings.stall_timeout,
        hosts=frozenset(settings.hosts),
    )


def host(user: bool) -> Host:
    """Where the daemon runs."""
    if user:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Host(True, runtime_directory(user), cache)
    return Host(False, "/run", "/var/cache")


def runtime_directory(user: bool) -> str:
    """`/run`, or the user's runtime directory."""
    return (os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") if user else "/run"


def state_directory(user: bool) -> Path:
    """What systemd made for the unit (STATE_DIRECTORY), or where it would have made it."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(base if user else "/var/lib") / "aither"


def proxy_sockets(user: bool, passed: Mapping[str, list[socket.socket]]) -> Iterable[socket.socket]:
    """The listening sockets among those that systemd passed; started by hand, one made here."""
    if given := [listening for listeners in passed.values() for listening in listeners]:
        return given
    path = Path(runtime_directory(user)) / "aither" / "aither.sock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    path.chmod(0o600 if user else 0o660)
    made.listen(1024)
    return [made]


async def warm_up() -> None:
    """Imports what the first start of an engine needs, now that nobody waits for it."""
    await asyncio.to_thread(__import__, "httpx")
    # What there is now stays. Looking through it again for garbage would hold up every stream for some 10 ms.
    gc.freeze()


def report(problems: Iterable[Problem]) -> None:
    """Logs what is wrong with the configuration."""
    logger = structlog.get_logger("aitherd")
    for problem in problems:
        (logger.error if problem.error else logger.info)(str(problem))


def main(options: Options) -> int:
    """Runs the daemon and returns its exit status."""
    log.setup("info")
    # Its child loads on another core while the configuration is read here: a third of what activation takes.
    nvml = Nvml()
    nvml.begin()
    # A daemon that comes back must find its running engines even if somebody has broken another model's file since.
    fleet, problems = load(directories(options.user), user=options.user, partial=True)
    report(problems)
    if fleet is None:
        return EX_CONFIG
    faults = {problem.path.stem: str(problem) for problem in problems if problem.error}
    log.set_level(fleet.settings.log_level)
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Daemon(options, fleet, faults, nvml).run())
    except ConfigurationRefused as error:
        structlog.get_logger("aitherd").error(str(error))
        return EX_CONFIG
    except HostFailure as error:
        structlog.get_logger("aitherd").error(str(error))
        return EX_TEMPFAIL
