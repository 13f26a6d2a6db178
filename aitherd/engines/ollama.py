"""Ollama, with models of its own to load and unload.

Ready when `GET /` answers. `GET /api/ps` lists the loaded models; `POST /api/generate` with `keep_alive` 0 and no
prompt unloads one, after what it is working on. It does not tell whether it is busy: all its work is requests. It
cannot sleep; with nothing loaded it holds nothing on the device, as each model runs in a process of its own. How it
lies: `size_vram` is computed and not measured. Where it listens comes from `OLLAMA_HOST`. (Ollama, docs/api.md and
docs/faq.md)
"""

from __future__ import annotations

from collections.abc import Sequence

from aitherd.core.words import Endpoint
from aitherd.engines.base import Control, Engine, Health, Launch, fields, probe, require


class Ollama(Engine):
    """`ollama serve`. It listens on a port only. Freeing it unloads every model."""

    kind = "ollama"
    listen_options = ()
    listen_variables = ("OLLAMA_HOST",)
    frees = True
    watched = frozenset({"/", "/api/ps", "/api/tags", "/api/version", "/v1/models"})

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        if endpoint.port is None:
            raise ValueError(f"{endpoint} is not a loopback port")
        return Launch(tuple(command), {"OLLAMA_HOST": f"127.0.0.1:{endpoint.port}"})

    async def health(self, control: Control) -> Health:
        return await probe(control, "/")

    async def free(self, control: Control) -> None:
        loaded = fields(require(await control.get("/api/ps"), "/api/ps")).get("models")
        for entry in loaded if isinstance(loaded, list) else []:
            name = entry.get("model", entry.get("name")) if isinstance(entry, dict) else None
            if isinstance(name, str):
                require(await control.post("/api/generate", json={"model": name, "keep_alive": 0}), "/api/generate")
