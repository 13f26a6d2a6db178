"""XTTS behind `xtts-api-server`: speech; it loads its model before it listens, on a port only.

`--host` and `--port` say where (`--listen` would mean every address); ready when `GET /speakers_list` answers. It can
neither free nor sleep, and does not tell whether it is busy: all its work is requests. What it holds stays until it
exits. How it lies: it says nothing while it downloads its weights, minutes the first time. (xtts-api-server, project
page)
"""

from __future__ import annotations

from collections.abc import Sequence

from aitherd.core.words import Endpoint
from aitherd.engines import gpu_check
from aitherd.engines.base import Control, Engine, Health, Launch, listen_on_port, probe


class Xtts(Engine):
    """`python -m xtts_api_server`. It cannot give device memory back while it lives."""

    kind = "xtts"
    listen_options = ("--host", "-hs", "--port", "-p", "--listen")
    watched = frozenset(
        {"/docs", "/openapi.json", "/speakers", "/speakers_list", "/languages", "/get_folders", "/get_models_list"}
        | {"/get_tts_settings"}
    )

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        return Launch((*command, *listen_on_port(endpoint, "--host")))

    def gpu_check(self, executable: str, python: str) -> tuple[str, ...] | None:
        return (python, "-c", gpu_check.TORCH) if python else None

    def gpu_verdict(self, output: str) -> str:
        return gpu_check.torch_verdict(output)

    async def health(self, control: Control) -> Health:
        return await probe(control, "/speakers_list")
