"""whisper.cpp's `whisper-server`: transcription from a ggml file; it listens on a port only.

`GET /health` is 503 while the model loads and 200 after. It can neither free nor sleep, and does not tell whether it is
busy: all its work is requests, one after the other. What it holds stays until it exits. Its route is its own: `POST
/inference`, unless `--inference-path` says otherwise. (whisper.cpp, examples/server/README.md)
"""

from __future__ import annotations

from collections.abc import Sequence

from aitherd.core.words import Endpoint
from aitherd.engines.base import Control, Engine, Health, Launch, listen_on_port, probe


class WhisperServer(Engine):
    """`whisper-server`. It cannot give device memory back while it lives."""

    kind = "whisper-server"
    watched = frozenset({"/", "/health"})

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        return Launch((*command, *listen_on_port(endpoint, "--host")))

    async def health(self, control: Control) -> Health:
        return await probe(control, "/health")
