"""One file an engine: how to tell ready, busy and asleep; how to free, sleep and wake.

Adding an engine is adding a file here, a line in the table below and its name to the model file's `engine` values.
"""

from __future__ import annotations

from collections.abc import Callable

from aitherd.engines.base import Engine
from aitherd.engines.comfyui import ComfyUi
from aitherd.engines.exec_http import ExecHttp
from aitherd.engines.llama_server import LlamaServer
from aitherd.engines.ollama import Ollama
from aitherd.engines.speaches import Speaches
from aitherd.engines.vllm import Vllm
from aitherd.engines.whisper_server import WhisperServer
from aitherd.engines.xtts import Xtts

ENGINES: dict[str, Callable[[str | None], Engine]] = {
    "vllm": lambda health: Vllm(),
    "llama-server": lambda health: LlamaServer(),
    "comfyui": lambda health: ComfyUi(),
    "speaches": lambda health: Speaches(),
    "whisper-server": lambda health: WhisperServer(),
    "xtts": lambda health: Xtts(),
    "ollama": lambda health: Ollama(),
    "exec": lambda health: ExecHttp(health or "/health"),
}
"""Engine kind in model files -> the engine; the argument is the model's `health` path, which only `exec` has."""


def engine(kind: str, health: str | None = None) -> Engine:
    """The engine of that kind. Raises KeyError for a kind that is not in the table."""
    return ENGINES[kind](health)
