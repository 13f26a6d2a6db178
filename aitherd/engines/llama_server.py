"""llama.cpp's `llama-server`: chat, vision and embeddings from a GGUF file.

Health: `GET /health` is 503 while the model loads, 200 after. Busy while a slot of `/slots` is processing (501 where
that is disabled: not known). It listens on a Unix socket when `--host` ends in `.sock`; `--port` is always given
because its default has moved between releases. It cannot give device memory back while it lives, nor sleep on demand,
and nothing stays when it exits. With `--slot-save-path` it writes a slot's KV cache to a file, and reads it again:
answers 501 for one that it cannot write (pictures in it, until mid-2026), and 400 for a file that is not there or does
not fit. How it lies: some builds read the file and keep nothing of it. (llama.cpp, tools/server/README.md)
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from aitherd.core.words import Endpoint, Seconds
from aitherd.engines import canary, gpu_check
from aitherd.engines.base import (
    Control,
    Engine,
    EngineRefused,
    Health,
    Launch,
    decoded,
    fields,
    listen_on_port,
    probe,
    require,
)

UNFIT = {"save": (501,), "restore": (400, 404, 501)}
"""Statuses that say that a slot's contents cannot be written, or that there is no file that fits it."""


class LlamaServer(Engine):
    """`llama-server`."""

    kind = "llama-server"
    speaks_unix = True
    listen_variables = ("LLAMA_ARG_HOST", "LLAMA_ARG_PORT")
    own_queue = True
    has_pulse = True
    keeps_slots = True
    watched = frozenset({"/", "/health", "/v1/health", "/props", "/slots", "/metrics", "/models", "/v1/models"})

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        if endpoint.socket is not None:
            return Launch((*command, "--host", endpoint.socket, "--port", "8080"))
        return Launch((*command, *listen_on_port(endpoint, "--host")))

    def gpu_check(self, executable: str, python: str) -> tuple[str, ...] | None:
        # Not what wraps it, which may understand the option otherwise.
        return (executable, "--list-devices") if "llama" in executable.rpartition("/")[2] else None

    def gpu_verdict(self, output: str) -> str:
        return gpu_check.llama_verdict(output)

    async def health(self, control: Control) -> Health:
        return await probe(control, "/health")

    async def busy(self, control: Control) -> bool:
        return any(slot.get("is_processing") is True for slot in await self._slots(control))

    async def pulse(self, control: Control) -> str | None:
        """Slots are told by the loop that computes: that it tells them is its pulse, whatever they hold."""
        answer = await control.get("/slots")
        if answer is None:
            return ""
        return str(time.monotonic()) if answer.is_success else None

    async def canary(self, control: Control, can: Collection[str], timeout: Seconds) -> bool:
        return await canary.by_ability(control, can, timeout)

    async def save_slots(self, control: Control, name: str, timeout: Seconds) -> int:
        saved = 0
        for slot in await self._slots(control):
            if await self._act(control, "save", slot.get("id"), name, timeout):
                saved += 1
        return saved

    async def restore_slots(self, control: Control, name: str, timeout: Seconds) -> int:
        restored = 0
        for slot in await self._slots(control):
            if await self._act(control, "restore", slot.get("id"), name, timeout):
                restored += 1
        return restored

    async def _slots(self, control: Control) -> list[dict[str, object]]:
        answer = await control.get("/slots")
        if answer is None or not answer.is_success:
            return []
        found = decoded(answer)
        return [slot for slot in found if isinstance(slot, dict)] if isinstance(found, list) else []

    async def _act(self, control: Control, action: str, slot: object, name: str, timeout: Seconds) -> bool:
        """Saves or restores one slot; whether there was anything in it."""
        path = f"/slots/{slot}"
        body = {"filename": f"{name}-{slot}.bin"}
        answer = await control.post(path, params={"action": action}, json=body, timeout=timeout)
        if answer is not None and answer.status_code in UNFIT[action]:
            return False
        count = fields(require(answer, f"{path}?action={action}")).get(f"n_{action}d")
        if not isinstance(count, int):
            raise EngineRefused(f"{path}?action={action} does not say how much it {action}d")
        return count > 0
