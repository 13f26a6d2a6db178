"""whisper.cpp's `whisper-server`: transcription from a ggml file; it listens on a port only.

`GET /health` is 503 while the model loads and 200 after. (whisper.cpp, examples/server/README.md)
"""

from __future__ import annotations

from collections.abc import Sequence

from aitherd.core.words import Endpoint
from aitherd.engines.base import Control, Engine, Health, Launch, listen_on_port, probe


class WhisperServer(Engine):
    """`whisper-server`. It cannot give device memory back while it lives."""

    kind = "whisper-server"

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        return Launch((*command, *listen_on_port(endpoint, "--host")))

    async def health(self, control: Control) -> Health:
        return await probe(control, "/health")
