"""Ollama, with models of its own to load and unload: run by aitherd, or a service that is not aitherd's.

Ready when `GET /` answers. `GET /api/ps` lists the loaded models; `POST /api/generate` with `keep_alive` 0 and no
prompt unloads one, after what it is working on. Busy, as far as it tells: `expires_at` is set when a request ends, so a
model that is listed after it should have expired works, and so does one whose `expires_at` moves from one look to the
next, because it is reckoned anew while the first request is not done. Anything else looks idle, and loses nothing by
being told to unload. It cannot sleep; with nothing loaded it holds nothing on the device, as each model runs in a
process of its own. How it lies: `size_vram` is computed and not measured. Where it listens comes from `OLLAMA_HOST`.
(Ollama, docs/api.md, docs/faq.md and server/sched.go)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aitherd.core.words import Endpoint, Seconds
from aitherd.engines.base import Control, Engine, Health, Launch, fields, probe, require

if TYPE_CHECKING:
    import httpx

BETWEEN_LOOKS: Seconds = 0.02
"""How long after the first look the second comes."""
EPOCH = datetime.fromtimestamp(0, UTC)
"""An `expires_at` that was never set."""


class Ollama(Engine):
    """`ollama serve`. It listens on a port only. Freeing it unloads every model."""

    kind = "ollama"
    listen_options = ()
    listen_variables = ("OLLAMA_HOST",)
    frees = True
    unloads = True
    watched = frozenset({"/", "/api/ps", "/api/tags", "/api/version", "/v1/models"})

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        if endpoint.port is None:
            raise ValueError(f"{endpoint} is not a loopback port")
        return Launch(tuple(command), {"OLLAMA_HOST": f"127.0.0.1:{endpoint.port}"})

    async def health(self, control: Control) -> Health:
        return await probe(control, "/")

    async def busy(self, control: Control) -> bool:
        before = _loaded(await control.get("/api/ps"))
        if not before:
            return False
        await asyncio.sleep(BETWEEN_LOOKS)
        now = _loaded(await control.get("/api/ps"))
        over = datetime.now(UTC)
        return any(
            ends is not None and ((name in before and before[name] != ends) or EPOCH < ends < over)
            for name, ends in now.items()
        )

    async def free(self, control: Control) -> None:
        for name in _loaded(require(await control.get("/api/ps"), "/api/ps")):
            require(await control.post("/api/generate", json={"model": name, "keep_alive": 0}), "/api/generate")


def _loaded(answer: httpx.Response | None) -> dict[str, datetime | None]:
    """The loaded models, and when each is to go; None where that cannot be read."""
    found: dict[str, datetime | None] = {}
    models = fields(answer).get("models") if answer is not None and answer.is_success else None
    for entry in models if isinstance(models, list) else []:
        name = entry.get("model", entry.get("name")) if isinstance(entry, dict) else None
        if isinstance(name, str):
            found[name] = _instant(entry.get("expires_at"))
    return found


def _instant(text: object) -> datetime | None:
    try:
        ends = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return ends if ends.tzinfo is not None else ends.replace(tzinfo=UTC)
