"""`exec`: any HTTP server. Its command says where to listen with `{socket}` or `{port}`; its model file names a health
path."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aitherd.core.words import Endpoint, Seconds
from aitherd.engines import canary
from aitherd.engines.base import Control, Engine, Health, Launch, probe


class ExecHttp(Engine):
    """A server that aitherd knows nothing about but its health URL."""

    kind = "exec"
    speaks_unix = True
    listen_options = ()

    def __init__(self, health_path: str = "/health") -> None:
        self.health_path = health_path

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        placeholder, value = ("{socket}", endpoint.socket) if endpoint.socket else ("{port}", str(endpoint.port))
        return Launch(tuple(word.replace(placeholder, str(value)) for word in command))

    def quiet_start(self, command: Sequence[str]) -> bool:
        # Whatever it is, it may be one that measures.
        return True

    async def health(self, control: Control) -> Health:
        return await probe(control, self.health_path)

    async def canary(self, control: Control, can: Collection[str], timeout: Seconds) -> bool:
        """By OpenAI's routes, where its model file says that it can do what they are for."""
        return await canary.by_ability(control, can, timeout, chat="chat" in can)
