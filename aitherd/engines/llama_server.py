"""llama.cpp's `llama-server`: chat, vision and embeddings from a GGUF file.

Health: `GET /health` is 503 while the model loads, 200 after. It listens on a Unix socket when `--host` ends in
`.sock`; `--port` is always given because its default has moved between releases. (llama.cpp, tools/server/README.md)
"""

from __future__ import annotations

from collections.abc import Sequence

from aitherd.core.words import Endpoint
from aitherd.engines.base import Control, Engine, Health, Launch, listen_on_port, probe


class LlamaServer(Engine):
    """`llama-server`. It cannot give device memory back while it lives."""

    kind = "llama-server"
    speaks_unix = True
    listen_variables = ("LLAMA_ARG_HOST", "LLAMA_ARG_PORT")

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        if endpoint.socket is not None:
            return Launch((*command, "--host", endpoint.socket, "--port", "8080"))
        return Launch((*command, *listen_on_port(endpoint, "--host")))

    async def health(self, control: Control) -> Health:
        return await probe(control, "/health")
