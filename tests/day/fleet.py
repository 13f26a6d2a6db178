"""The shipped model files, with stand-ins of true size as their programs."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.testbed import models

MODELS = Path(__file__).parents[2] / "etc" / "models.d"
PROGRAMS: dict[str, tuple[str, ...]] = {
    "orchestrator": ("vllm", "serve"),
    "embed": ("vllm", "serve"),
    "challenger": ("vllm", "serve"),
    "challenger-offload": ("vllm", "serve"),
    "imagine": ("comfyui",),
    "listen": ("speaches",),
    "speak": ("xtts",),
}
"""What runs in place of the programs; the options of the shipped command follow."""
NO_KEYS: Mapping[str, str | None] = {}
SIZES: dict[str, tuple[str, ...]] = {
    "orchestrator": ("--x-weights", "5.5GiB", "--x-context", "1GiB"),
    "embed": ("--x-weights", "300MiB", "--x-context", "1GiB"),
    "challenger": ("--x-weights", "13GiB"),
    "challenger-offload": ("--x-weights", "6GiB"),
    "imagine": ("--weights", "7GiB", "--context", "500MiB"),
    "listen": ("--x-weights", "3GiB"),
    "speak": ("--x-vram", "2.6GiB"),
}
OF_THE_PROGRAM = {"-m", "vllm.entrypoints.openai.api_server", "--model", "/opt/comfyui/main.py", "xtts_api_server"}
"""Words of the shipped commands that say what runs, and are not options of the stand-in."""


def shipped(
    name: str, *words: str, more: str = "", vision: Sequence[str] = (), keys: Mapping[str, str | None] = NO_KEYS
) -> str:
    """The shipped file of a model, with its stand-in and further words in the command.

    `keys` are written anew, or left out when None. `vision` are the options of the real llama-server, by default for
    files of this machine. Its port is left out unless it is given: other runs of these tests may have it.
    """
    text = (MODELS / f"{name}.toml").read_text()
    # What surrounds it is about directories that are not here; a user's systemd could not set it up.
    text = text.partition("\n[service]\n")[0] + more
    command = tomllib.loads(text)["command"]
    first = 1 if name in PROGRAMS else 0
    # Its folders are not here, and it would be refused for that.
    here = ["/tmp" if word.startswith("/srv/") else word for word in command[first:]]
    options = [word for word in here if word not in OF_THE_PROGRAM]
    if name == "vision":
        options = ["with-vram", "5GiB", "llama-server", *(vision or models.llama_flags(vision=True))]
        keys = {"port": None, **keys}
    new = [*PROGRAMS.get(name, ()), *options, *SIZES.get(name, ()), *words]
    for key, value in {**keys, "command": json.dumps(new)}.items():
        found = re.search(rf"^{key}\s*= (\[.*?^\]|.*?$)", text, re.MULTILINE | re.DOTALL)
        assert found, f"{name}.toml has no {key}"
        line = "" if value is None else f"{key} = {value}"
        text = f"{text[: found.start()]}{line}{text[found.end() :]}"
    return text


SETTINGS = """
[arbiter]
min-residency = "5s"
[models]
idle = "8s"
[tiers.reasoning]
routes = ["challenger", "challenger-offload"]
effort = ["high"]
[foreign.ollama]
engine = "ollama"
unit = "ollama.service"
port = {port}
"""
"""A day in minutes: what has minutes in real life has seconds, and bytes are what they are."""
OLLAMA = """
[Service]
Environment=OLLAMA_HOST=127.0.0.1:{port}
ExecStart={program} serve
"""
"""An Ollama that is not aitherd's, as a unit."""
PACE: dict[str, tuple[str, ...]] = {
    "orchestrator": ("--x-token-seconds", "0.005"),
    "challenger-offload": ("--x-token-seconds", "0.05", "--x-load-seconds", "2"),
    "imagine": ("--start-seconds", "1"),
    "speak": ("--x-load-seconds", "1"),
}
"""How long stand-ins take to load, and to answer."""


def day_file(name: str, *, vision: Sequence[str] = (), port: str | None = None) -> str:
    """The shipped file of a model as the day has it: with its pace, and idle for seconds instead of minutes."""
    words = PACE.get(name, ())
    if name in ("orchestrator", "embed"):
        return shipped(name, *words)
    keys: dict[str, str | None] = {"idle": '"8s"'}
    if name == "vision":
        keys["port"] = port
    return shipped(name, *words, vision=vision, keys=keys)
