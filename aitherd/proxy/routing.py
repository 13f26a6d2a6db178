"""Where requests go: tiers as configured, what is known about their routes, and what a request says it wants.

The decision itself is `core.routing.route`; carrying it out is a `Journey`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic, time

import structlog

from aitherd.conductor.operations import Operations
from aitherd.conductor.records import Event, Records
from aitherd.core.circuit import Circuit, State
from aitherd.core.retries import Budget
from aitherd.core.routing import (
    Candidate,
    Decision,
    Explanation,
    LocalView,
    NoRoute,
    RemoteView,
    Request,
    Snapshot,
    by_name,
    nearest,
    route,
)
from aitherd.core.stickiness import Homes
from aitherd.core.upstreams import Route, Tier, Upstream, UpstreamStatus
from aitherd.core.words import Residency, Seconds
from aitherd.errors import AitherError
from aitherd.proxy.metrics import NodeSample
from aitherd.proxy.needs import Needs
from aitherd.proxy.probes import watch
from aitherd.proxy.refusals import BadRequest, UnknownTier
from aitherd.proxy.remotes import Remotes
from aitherd.proxy.spend import Spend
from aitherd.proxy.wire import Wish

Look = Callable[[str], LocalView | None]
SAVE_AFTER: Seconds = 1.0


class Routing:
    """The routing of one proxy. Without tiers it costs a request one look into an empty table."""

    def __init__(
        self,
        operations: Operations,
        *,
        look: Look | None = None,
        records: Records | None = None,
        state: Path | None = None,
        remotes: Remotes | None = None,
        clock: Callable[[], Seconds] = monotonic,
        unix: Callable[[], Seconds] = time,
    ) -> None:
        """`look` tells how a local model is; without one its status does. Spending is kept in the directory `state`."""
        self.clock = clock
        self.spend = Spend(state, unix)
        self.remotes = remotes or Remotes(records)
        self.budget = Budget()
        self.named: Mapping[str, Tier] = {}
        """Every name that a tier goes by -> the tier."""
        self._operations = operations
        self._look = look or self._status
        self._records = records
        self._tiers: Mapping[str, Tier] = {}
        self._efforts: Mapping[str, Tier] = {}
        self._locals: dict[str, Circuit] = {}
        """Of local models whose engines failed a request lately."""
        self._homes = Homes()
        self.full: Callable[[str], bool] = lambda model: False
        """Whether a model of this machine has as many requests as it is given at once."""
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._probes: list[asyncio.Task[None]] = []
        self._saving: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("aitherd")

    # --- life ----------------------------------------------------------------------------------------------------

    def apply(self, tiers: Mapping[str, Tier], upstreams: Mapping[str, Upstream]) -> None:
        """Takes over a configuration, and probes its upstreams from now on. To be called while the loop runs."""
        self._tiers = tiers
        self.named = {name: tier for tier in tiers.values() for name in (*tier.serves, tier.name)}
        self._efforts = {effort: tier for tier in tiers.values() for effort in tier.efforts}
        self.remotes.apply(upstreams)
        for task in self._probes:
            task.cancel()
        self._probes = [
            asyncio.get_running_loop().create_task(watch(remote, peer, self.clock), name=f"probe of {peer}")
            for remote in self.remotes.by_name.values()
            for peer in remote.peers
        ]

    async def close(self) -> None:
        """Ends what goes on in the background. What is being loaded goes on."""
        tasks = [*self._probes, *self._loading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._saving is not None:
            self._saving.cancel()
        self.spend.save()

    # --- choosing a tier -----------------------------------------------------------------------------------------

    def tier(self, asked: str, wish: Wish | None) -> Tier | None:
        """The tier that a request is for, by its headers or its `model`; None for a model asked for by its name.

        Raises UnknownTier, and BadRequest for an effort that chooses none.
        """
        if wish is not None:
            if wish.tier:
                found = self._tiers.get(wish.tier)
                if found is None:
                    meant = " or ".join(nearest(wish.tier, self._tiers))
                    hint = f"did you mean {meant}; " if meant else ""
                    known = f"the tiers are: {', '.join(sorted(self._tiers))}" if self._tiers else "none is configured"
                    raise UnknownTier(f"there is no tier {wish.tier!r}", remedy=f"{hint}{known}")
                return found
            if wish.effort:
                found = self._efforts.get(wish.effort)
                if found is None:
                    there = ", ".join(sorted(self._efforts))
                    known = f"the efforts are: {there}" if there else "no tier names any"
                    raise BadRequest(f"no tier is for the effort {wish.effort!r}", remedy=known)
                return found
        return self.named.get(asked)

    def by_effort(self, tier: Tier, needs: Needs, wish: Wish | None) -> Tier:
        """The tier that the body's own effort chooses, unless a header has chosen one already."""
        if wish is not None and (wish.tier or wish.effort):
            return tier
        return self._efforts.get(needs.effort, tier)

    # --- deciding ------------------------------------------------------------------------------------------------

    def decide(self, tier: Tier, request: Request) -> Decision | NoRoute:
        """Who may answer, as things are now."""
        now = self.clock()
        locals_: dict[str, LocalView] = {}
        remotes: dict[Route, RemoteView] = {}
        upstreams = {}
        for entry in tier.routes:
            if not entry.upstream:
                found = self._local(entry.model, now)
                if found is not None:
                    locals_[entry.model] = found
                continue
            remote = self.remotes.by_name.get(entry.upstream)
            if remote is not None:
                model = remote.upstream.model(entry.model)
                remotes[entry] = RemoteView(model.name, model.can, bool(model.prompt_price or model.answer_price))
                upstreams[entry.upstream] = remote.view(now, self.spend)
        home = self._homes.find(request.conversation, now) if request.conversation else None
        return route(tier, request, Snapshot(locals_, upstreams, remotes, home))

    def settle(self, request: Request, where: Candidate) -> None:
        """A request was answered: its conversation has its cache there now."""
        if request.conversation:
            self._homes.settle(request.conversation, where.route, where.node, request.size, self.clock())

    def _local(self, model: str, now: Seconds) -> LocalView | None:
        found, circuit = self._look(model), self._locals.get(model)
        if found is not None and found.ready and self.full(model):
            found = replace(found, full=True)
        return found if found is None or circuit is None else replace(found, circuit=circuit.state(now))

    def explain(self, asked: str, tier: str, effort: str, request: Request) -> Explanation:
        """Where a request would go now (`bus.upstream.Routes`)."""
        found = self.tier(asked, Wish(tier, effort, request.local_only) if tier or effort else None)
        if found is None:
            model = self._operations.resolve(asked)
            view = self._local(model, self.clock())
            assert view is not None
            return Explanation(asked, "", by_name(model, view), ("",))
        outcome = self.decide(found, request)
        return Explanation(asked, found.name, outcome, tuple(self._places(outcome)))

    def _places(self, outcome: Decision | NoRoute) -> Iterator[str]:
        for one in () if isinstance(outcome, NoRoute) else outcome.candidates:
            upstream = one.route.upstream
            yield str(self.remotes.by_name[upstream].peers[one.node].address) if upstream else ""

    def circuit(self, model: str) -> Circuit:
        """Of a local model, from its first failure on."""
        return self._locals.setdefault(model, Circuit())

    def begin(self, model: str) -> Circuit | None:
        """A request is sent to a local model; its circuit if it has one."""
        circuit = self._locals.get(model)
        if circuit is not None:
            circuit.begin(self.clock())
        return circuit

    def well(self, model: str) -> None:
        """A local model answered."""
        if model in self._locals:
            del self._locals[model]

    def statuses(self) -> tuple[UpstreamStatus, ...]:
        """All upstreams, by name."""
        return tuple(remote.status(self.clock(), self.spend) for _, remote in sorted(self.remotes.by_name.items()))

    def status(self, upstream: str) -> UpstreamStatus | None:
        """One upstream; None when it is not configured."""
        remote = self.remotes.by_name.get(upstream)
        return None if remote is None else remote.status(self.clock(), self.spend)

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Calls `changed` as `bus.upstream.Routes` says."""
        return self.remotes.subscribe(changed)

    def samples(self) -> Iterator[NodeSample]:
        """Every node, for metrics."""
        now = self.clock()
        for name, remote in sorted(self.remotes.by_name.items()):
            for peer in remote.peers:
                up = peer.circuit.state(now) is not State.OPEN
                reason = "" if up else peer.circuit.reason
                spent, cap = self.spend.today(name), remote.upstream.daily_cap
                yield NodeSample(name, str(peer.address), up, peer.in_flight, spent, cap, reason)

    # --- meanwhile -----------------------------------------------------------------------------------------------

    def bring_in(self, model: str, tier: str, bridge: str = "") -> None:
        """Has a local model loaded although this request does not wait for it, or not to the end; `bridge` answers."""
        if model in self._loading:
            return
        if bridge and self._records is not None:
            message = f"{bridge} answers for the tier {tier} while {model} is brought in"
            self._records.add(Event.BRIDGE, message, model=model, tier=tier, bridge=bridge)
        task = asyncio.get_running_loop().create_task(self._load(model), name=f"preload of {model}")
        self._loading[model] = task
        task.add_done_callback(lambda _: self._loading.pop(model, None))

    async def _load(self, model: str) -> None:
        """Waits like a request, so that it is bound by all that binds requests; its claim ends at once."""
        try:
            use = await self._operations.use(model)
        except AitherError as error:
            # The reason is in the conductor's records already.
            self._log.debug("a model that was wanted for later is not up", aither_model=model, problem=str(error))
        else:
            use.release()

    def spent(self, upstream: str, cost: float) -> None:
        """An answer cost so much."""
        before = self.spend.today(upstream)
        self.spend.add(upstream, cost)
        self.remotes.changed(upstream)
        remote = self.remotes.by_name.get(upstream)
        cap = None if remote is None else remote.upstream.daily_cap
        if cap is not None and before < cap <= self.spend.today(upstream) and self._records is not None:
            message = f"the upstream {upstream} has spent its cap of today, {cap:g}: its models with a price rest"
            self._records.add(Event.UPSTREAM, message, upstream=upstream, spent=self.spend.today(upstream))
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_AFTER, self._save)

    def _save(self) -> None:
        self._saving = None
        self.spend.save()

    def _status(self, model: str) -> LocalView | None:
        """A view from what anybody may know: nothing about how long it would take."""
        try:
            status = self._operations.status(model)
        except AitherError:
            return None
        ready = status.residency is Residency.READY
        return LocalView(ready, 0.0 if ready else 60.0, frozenset(status.can), failed="" if ready else status.error)
