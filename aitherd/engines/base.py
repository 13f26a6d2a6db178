"""What every engine must be able to say and do, and the HTTP client they say it over.

An engine object holds no state about a running server: it is asked with a `Control` for one endpoint. Policy (when to
free, sleep or stop, and whether it worked) belongs to the arbiter and the conductor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from aitherd.core.words import Bytes, Endpoint, Seconds

if TYPE_CHECKING:
    import httpx

PROBE_TIMEOUT: Seconds = 2.0
"""How long a health or busy probe may take before it counts as no answer."""
LARGEST_ANSWER: Bytes = 16 * 2**20
"""A longer one counts as none."""


class Health(Enum):
    """What a probe found."""

    UNREACHABLE = "unreachable"
    """Nothing listens, or no answer in time."""
    LOADING = "loading"
    """It listens and says that it is not ready."""
    READY = "ready"
    ASLEEP = "asleep"


class EngineRefused(Exception):
    """The engine answered a control request with an error, or not at all."""


class EngineSilent(EngineRefused):
    """It did not answer in time."""


def require(answer: httpx.Response | None, path: str, *also: int) -> httpx.Response:
    """The answer, if it is a success or one of the statuses in `also`. Raises EngineRefused otherwise."""
    if answer is None:
        raise EngineSilent(f"{path} does not answer")
    if not answer.is_success and answer.status_code not in also:
        raise EngineRefused(f"{path} answered {answer.status_code}")
    return answer


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run, as systemd is told."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rung:
    """A sleep level that the engine offers, with what is expected before anything is learned."""

    level: int
    residue: Bytes
    """Device bytes that stay while asleep (the CUDA context)."""
    keeps_weights: bool
    """Whether the weights move to host memory, so that the sleeper holds about its device bytes there."""
    seconds: Seconds
    wake: Seconds


class Control:
    """HTTP to one engine's endpoint, for health and control only; requests of clients take the data path."""

    def __init__(self, endpoint: Endpoint) -> None:
        # Importing httpx costs more than everything else at activation: only a daemon that talks to an engine pays it.
        import httpx

        self.endpoint = endpoint
        transport = httpx.AsyncHTTPTransport(uds=endpoint.socket, verify=False)
        base = "http://engine" if endpoint.socket is not None else f"http://127.0.0.1:{endpoint.port}"
        plain = {"Accept-Encoding": "identity"}
        self._client = httpx.AsyncClient(transport=transport, base_url=base, headers=plain, trust_env=False)

    async def __aenter__(self) -> Control:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, *, timeout: Seconds = PROBE_TIMEOUT) -> httpx.Response | None:
        """The answer to a GET, or None when nothing answers within `timeout` seconds."""
        return await self._send("GET", path, None, None, timeout)

    async def post(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: object = None,
        timeout: Seconds = PROBE_TIMEOUT,
    ) -> httpx.Response | None:
        """The answer to a POST, or None when nothing answers within `timeout` seconds."""
        return await self._send("POST", path, params, json, timeout)

    async def delete(self, path: str, *, timeout: Seconds = PROBE_TIMEOUT) -> httpx.Response | None:
        """The answer to a DELETE, or None when nothing answers within `timeout` seconds."""
        return await self._send("DELETE", path, None, None, timeout)

    async def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, json: object, timeout: Seconds
    ) -> httpx.Response | None:
        import httpx

        # The client's own time-outs begin anew with each piece: an engine that drips would hold up whoever asks.
        request = self._client.build_request(method, path, params=params, json=json, timeout=timeout)
        body = bytearray()
        try:
            async with asyncio.timeout(timeout):
                answer = await self._client.send(request, stream=True)
                try:
                    # Raw: what it makes of a coding that it was not asked for is nobody's concern.
                    async for piece in answer.aiter_raw():
                        body += piece
                        if len(body) > LARGEST_ANSWER:
                            return None
                finally:
                    await answer.aclose()
        except (httpx.TransportError, TimeoutError):
            return None
        kind = {"Content-Type": answer.headers["Content-Type"]} if "Content-Type" in answer.headers else {}
        return httpx.Response(answer.status_code, headers=kind, content=bytes(body), request=request)


class Engine:
    """The manners of one kind of server. The defaults fit a server that can neither free, sleep nor tell it is busy."""

    kind: ClassVar[str]
    """The name in model files."""
    speaks_unix: ClassVar[bool] = False
    """Whether it can listen on a Unix socket."""
    listen_options: ClassVar[tuple[str, ...]] = ("--host", "--port")
    """Options of its command that say where it listens, which is aitherd's to say."""
    listen_variables: ClassVar[tuple[str, ...]] = ()
    """Environment variables that say so."""
    frees: ClassVar[bool] = False
    """Whether `free` gives device bytes back while it stays ready."""
    unloads: ClassVar[bool] = False
    """Whether `free` gives all device bytes back, so that it can be asked to where it is a service that is not ours."""
    own_queue: ClassVar[bool] = False
    """Whether it may work with no request of ours in flight, and can tell, so that `busy` has to be asked: it has a
    queue of its own, or other programs reach it by its own port."""
    keeps_slots: ClassVar[bool] = False
    """Whether it can write down what it has cached for clients before it stops, and take it up again."""
    watched: ClassVar[frozenset[str]] = frozenset()
    """Paths that tell about it and make it do nothing; see `only_looks`."""
    has_pulse: ClassVar[bool] = False
    """Whether `pulse` tells whether it works."""

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        """How to run `command` so that it listens at `endpoint` and nowhere else."""
        raise NotImplementedError

    def quiet_start(self, command: Sequence[str]) -> bool:
        """Whether device memory must not change under a server started like this while it starts: it measures what is
        free. It may whatever others do when it only takes what it needs."""
        return False

    def ladder(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[Rung, ...]:
        """Sleep levels that a server started like this offers, shallowest first."""
        return ()

    def gpu_check(self, executable: str, python: str) -> tuple[str, ...] | None:
        """A command whose output `gpu_verdict` reads: whether its runtime sees a GPU. None where nothing would tell.

        `python` is the interpreter that runs it; empty when none does.
        """
        return None

    def gpu_verdict(self, output: str) -> str:
        """What is wrong, and what to do about it, by what the command of `gpu_check` wrote; empty when nothing is."""
        return ""

    def only_looks(self, method: str, path: str) -> bool:
        """Whether a client's request, `path` without its query, makes it do nothing that is worth being loaded for.

        Such a request is answered while the model is ready, and neither brings it in, nor keeps it from idling out or
        giving way: pages and monitors send them all the time. `method` is in upper case.
        """
        return method in ("GET", "HEAD", "OPTIONS") and path in self.watched

    async def health(self, control: Control) -> Health:
        """Whether it answers requests now. Never wakes it, never counts as activity."""
        raise NotImplementedError

    async def busy(self, control: Control) -> bool:
        """Whether it says that it works on something; asked only where `own_queue` is set.

        An engine that gives no answer counts as busy if it has a queue that only it knows, and is left alone. Where
        all its work comes as requests it does not: then nothing but a stop helps.
        """
        return False

    async def pulse(self, control: Control) -> str | None:
        """A text that differs from the last one if it has worked meanwhile; None where it does not tell.

        Without an answer it is the same text each time: an engine that hangs does not get on.
        """
        return None

    async def canary(self, control: Control, can: Collection[str], timeout: Seconds) -> bool:
        """Has it do the least work there is, for a model that `can` do such things; False where it takes none.

        Raises EngineSilent when nothing comes within `timeout` seconds, EngineRefused for an error or a wrong answer.
        """
        return False

    async def free(self, control: Control) -> None:
        """Asks it to drop caches. Returning says only that it was asked. Raises EngineRefused."""
        raise EngineRefused(f"{self.kind} keeps no caches that it could drop")

    async def sleep(self, control: Control, level: int, timeout: Seconds) -> None:
        """Asks it to sleep at `level`. Returning says only that it answered. Raises EngineRefused."""
        raise EngineRefused(f"{self.kind} cannot sleep")

    async def wake(self, control: Control, level: int, timeout: Seconds) -> None:
        """Wakes it from `level`. Raises EngineRefused."""
        raise EngineRefused(f"{self.kind} cannot sleep")

    async def save_slots(self, control: Control, name: str, timeout: Seconds) -> int:
        """Has it write its caches to files that begin with `name`; returns how many hold anything.

        Raises EngineRefused when it cannot, and that costs nothing but the caches.
        """
        raise EngineRefused(f"{self.kind} keeps no slots")

    async def restore_slots(self, control: Control, name: str, timeout: Seconds) -> int:
        """Has it take up what `save_slots` wrote; returns how many caches it has again. Raises EngineRefused."""
        raise EngineRefused(f"{self.kind} keeps no slots")


def fields(answer: httpx.Response) -> dict[str, object]:
    """The JSON object of an answer; empty when the body is anything else, as a dying server's may be."""
    body = decoded(answer)
    return body if isinstance(body, dict) else {}


def decoded(answer: httpx.Response) -> object:
    """What the JSON of an answer says; None when the body is anything else."""
    try:
        found: object = answer.json()
    except (ValueError, RecursionError):
        return None
    return found


async def probe(control: Control, path: str) -> Health:
    """Health by one GET: 2xx is ready, any other answer is loading."""
    answer = await control.get(path)
    if answer is None:
        return Health.UNREACHABLE
    return Health.READY if answer.is_success else Health.LOADING


def listen_on_port(endpoint: Endpoint, host_flag: str, port_flag: str = "--port") -> tuple[str, ...]:
    """Arguments that make a server listen on the loopback port of `endpoint`. Raises ValueError for a socket."""
    if endpoint.port is None:
        raise ValueError(f"{endpoint} is not a loopback port")
    return (host_flag, "127.0.0.1", port_flag, str(endpoint.port))
