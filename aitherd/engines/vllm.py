"""vLLM's OpenAI server, with sleep mode where the command asks for it.

`/health` looks at the engine but not at sleep: a sleeping server answers 200, so `/is_sleeping` is asked as well.
`/sleep` and `/wake_up` take their parameters in the query only; `mode=wait` drains instead of aborting. The control
routes exist only with `VLLM_SERVER_DEV_MODE=1`. Level 1 moves the weights to host memory, level 2 drops them and needs
`reload_weights` between waking the weights and the KV cache. (vLLM documentation, "Sleep Mode")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aitherd.core.words import Endpoint, Seconds
from aitherd.engines.base import Control, Engine, Health, Launch, Rung, fields, listen_on_port, probe, require

CONTEXT_BYTES = 1536 * 2**20
"""Device bytes that stay while asleep until measured: published residues lie between 1.4 and 1.8 GiB."""


class Vllm(Engine):
    """`vllm serve`. Device memory must stay quiet while it starts: it profiles free memory and aborts if it grows."""

    kind = "vllm"
    speaks_unix = True
    listen_options = ("--host", "--port", "--uds")
    quiet_start = True

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        environment = {"VLLM_SERVER_DEV_MODE": "1"} if "--enable-sleep-mode" in command else {}
        if endpoint.socket is not None:
            return Launch((*command, "--uds", endpoint.socket), environment)
        return Launch((*command, *listen_on_port(endpoint, "--host")), environment)

    def ladder(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[Rung, ...]:
        if "--enable-sleep-mode" not in command:
            return ()
        return (
            Rung(level=1, residue=CONTEXT_BYTES, keeps_weights=True, seconds=3.0, wake=3.0),
            Rung(level=2, residue=CONTEXT_BYTES, keeps_weights=False, seconds=1.0, wake=10.0),
        )

    async def health(self, control: Control) -> Health:
        health = await probe(control, "/health")
        if health is Health.READY:
            answer = await control.get("/is_sleeping")
            if answer is not None and answer.is_success and fields(answer).get("is_sleeping") is True:
                return Health.ASLEEP
        return health

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
