"""vLLM's OpenAI server, with sleep mode where the command asks for it.

Ready: `/health` looks at the engine but not at sleep: a sleeping server answers 200, so `/is_sleeping` is asked as
well. Busy: `vllm:num_requests_running` and `_waiting` in `/metrics`. Asleep: `/sleep` and `/wake_up` take their
parameters in the query only; `mode=wait` drains instead of aborting, where the release knows it, so nothing may be in
flight anyway. Level 1 moves the weights to host memory, level 2 drops them and needs `reload_weights` between waking
the weights and the KV cache. The control routes exist only with `VLLM_SERVER_DEV_MODE=1`; without them they answer 404,
and the model is stopped and started instead. (vLLM documentation, "Sleep Mode") While it sleeps `/sleep` is answered
with 200 and ignored (`Executor.sleep`), and to be woken for a deeper sleep it would need its device bytes: the level is
chosen when it falls asleep, and who has to leave host memory later is stopped.

How it lies: `/sleep` answers 200 and the engine dies of a request that it still had; less comes back than it held; a
wake without room fails and keeps what it had mapped; a request while it is not fully awake kills it. Killed alone, its
server process leaves children that hold the device memory: units are killed as whole control groups.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from aitherd.core.words import Endpoint, Seconds
from aitherd.engines import canary, gpu_check
from aitherd.engines.base import Control, Engine, Health, Launch, Rung, fields, listen_on_port, probe, require

CONTEXT_BYTES = 1536 * 2**20
"""Device bytes that stay while asleep until measured: published residues lie between 1.4 and 1.8 GiB."""

SLEEP_MODE = "--enable-sleep-mode"
KV_BYTES = frozenset({"--kv-cache-memory-bytes", "--kv-cache-memory"})
"""The option's name, and the short one that its log recommends."""
LEVEL_1 = (3.0, 3.0)
"""Seconds to fall asleep and to wake until measured. Published wakes of level 1 take 0.1 to 6 s, 64 GiB about 3 s: it
is the copy over PCIe."""
LEVEL_2 = (1.0, 10.0)
"""The same for level 2: published wakes take 0.8 to 2.6 s without the weights, which are read again, from disk
perhaps."""

_REQUESTS = re.compile(
    r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? ([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)$", re.MULTILINE
)
_WORK = re.compile(r"^vllm:(?:generation_tokens|prompt_tokens|iteration_tokens_total_count).*$", re.MULTILINE)
"""Counters that grow with every step of the engine, whatever its requests are at."""


class Vllm(Engine):
    """`vllm serve`. Unless it is told the bytes of its KV cache it profiles free memory while it starts: it makes the
    cache as large as what it finds, and aborts if free memory grows meanwhile."""

    kind = "vllm"
    speaks_unix = True
    listen_options = ("--host", "--port", "--uds")
    own_queue = True
    has_pulse = True
    watched = frozenset({"/health", "/ping", "/metrics", "/version", "/load", "/v1/models"})

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        environment = {"VLLM_SERVER_DEV_MODE": "1"} if _sleeps(command) else {}
        if endpoint.socket is not None:
            return Launch((*command, "--uds", endpoint.socket), environment)
        return Launch((*command, *listen_on_port(endpoint, "--host")), environment)

    def quiet_start(self, command: Sequence[str]) -> bool:
        # With the bytes given it "skipped memory profiling". (vLLM, `Worker.determine_available_memory`)
        return not any(word.partition("=")[0].replace("_", "-") in KV_BYTES for word in command)

    def ladder(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[Rung, ...]:
        if not _sleeps(command):
            return ()
        return (
            Rung(1, CONTEXT_BYTES, keeps_weights=True, seconds=LEVEL_1[0], wake=LEVEL_1[1]),
            Rung(2, CONTEXT_BYTES, keeps_weights=False, seconds=LEVEL_2[0], wake=LEVEL_2[1]),
        )

    def gpu_check(self, executable: str, python: str) -> tuple[str, ...] | None:
        return (python, "-c", gpu_check.TORCH) if python else None

    def gpu_verdict(self, output: str) -> str:
        return gpu_check.torch_verdict(output)

    async def health(self, control: Control) -> Health:
        health = await probe(control, "/health")
        if health is Health.READY:
            answer = await control.get("/is_sleeping")
            if answer is not None and answer.is_success and fields(answer).get("is_sleeping") is True:
                return Health.ASLEEP
        return health

    async def busy(self, control: Control) -> bool:
        answer = await control.get("/metrics")
        if answer is None or not answer.is_success:
            return False
        return any(float(count) > 0 for count in _REQUESTS.findall(answer.text))

    async def pulse(self, control: Control) -> str | None:
        answer = await control.get("/metrics")
        if answer is None:
            return ""
        return "\n".join(_WORK.findall(answer.text)) or None

    async def canary(self, control: Control, can: Collection[str], timeout: Seconds) -> bool:
        return await canary.by_ability(control, can, timeout)

    async def sleep(self, control: Control, level: int, timeout: Seconds) -> None:
        await self._ask(control, "/sleep", {"level": str(level), "mode": "wait"}, None, timeout)

    async def wake(self, control: Control, level: int, timeout: Seconds) -> None:
        if level < 2:
            await self._ask(control, "/wake_up", {}, None, timeout)
            return
        await self._ask(control, "/wake_up", {"tags": "weights"}, None, timeout)
        await self._ask(control, "/collective_rpc", {}, {"method": "reload_weights"}, timeout)
        await self._ask(control, "/wake_up", {"tags": "kv_cache"}, None, timeout)

    async def _ask(
        self, control: Control, path: str, params: Mapping[str, str], json: object, timeout: Seconds
    ) -> None:
        require(await control.post(path, params=params, json=json, timeout=timeout), path)


def _sleeps(command: Sequence[str]) -> bool:
    return any(word.replace("_", "-") == SLEEP_MODE for word in command)
