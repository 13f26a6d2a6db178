"""speaches (faster-whisper-server): transcription and speech, with models of its own to load and unload.

Ready when `/health` answers, which says nothing about its models: the first request for one loads it. `GET /api/ps`
lists the loaded ones, `DELETE /api/ps/ID` unloads one (409 while it is in use, which is all that it tells about being
busy). It cannot sleep. How it lies: models also go by their own time to live, so that what it holds changes by itself;
the CUDA context, about 0.4 GiB, stays until it exits. It is served by uvicorn, whose options come from `UVICORN_*` as
well. (speaches, README)
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from aitherd.core.words import Endpoint
from aitherd.engines import gpu_check
from aitherd.engines.base import Control, Engine, Health, Launch, fields, probe, require


class Speaches(Engine):
    """speaches. Freeing it unloads every model that it is not using."""

    kind = "speaches"
    speaks_unix = True
    listen_options = ("--host", "--port", "--uds", "--fd")
    listen_variables = ("UVICORN_HOST", "UVICORN_PORT", "UVICORN_UDS", "UVICORN_FD")
    frees = True
    watched = frozenset({"/health", "/api/ps", "/v1/models", "/v1/audio/models", "/v1/audio/voices", "/v1/registry"})

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        if endpoint.socket is not None:
            return Launch(tuple(command), {"UVICORN_UDS": endpoint.socket})
        return Launch(tuple(command), {"UVICORN_HOST": "127.0.0.1", "UVICORN_PORT": str(endpoint.port)})

    def gpu_check(self, executable: str, python: str) -> tuple[str, ...] | None:
        return (python, "-c", gpu_check.CTRANSLATE2) if python else None

    def gpu_verdict(self, output: str) -> str:
        return gpu_check.ctranslate2_verdict(output)

    async def health(self, control: Control) -> Health:
        return await probe(control, "/health")

    async def free(self, control: Control) -> None:
        loaded = require(await control.get("/api/ps"), "/api/ps")
        models = fields(loaded).get("models")
        for model in models if isinstance(models, list) else []:
            path = f"/api/ps/{quote(str(model), safe='/')}"
            # 404: it unloaded by its own time to live meanwhile.
            require(await control.delete(path), path, 404)
