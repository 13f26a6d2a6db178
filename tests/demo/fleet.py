"""The fleet of the demonstration: what a workstation with an RTX 5090 has, with engines small enough for any machine.

Each engine is real, or a stand-in that says so; `with-vram` makes it hold the bytes that the real one would.
"""

from __future__ import annotations

from tests.testbed.models import llama_flags, vision_model

SETTINGS = """
[arbiter]
reserve = "512 MiB"
min-residency = "1s"
"""

RELEASE_LAG = 0.7
"""Seconds that the driver takes to give bytes back; half a second to one and a half are usual."""
DESKTOP = 600 << 20
"""Bytes of the desktop, which belongs to nobody's unit."""


def toml(words: tuple[str, ...]) -> str:
    """A command as TOML."""
    return "[" + ", ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words) + "]"


def orchestrator() -> str:
    """The always-on model: 0.60 of the card, whatever happens."""
    command = ("with-vram", "19.1GiB", "--", "llama-server", *llama_flags())
    return f"""
description = "Orchestrator: small, always on"
engine = "llama-server"
class = "essential"
serves = ["aither-orchestrator"]
can = ["chat", "tools"]
vram = "19.1 GiB"
command = {toml(command)}
[resources]
MemoryMin = "64M"
"""


def vision(idle: str) -> str:
    """The model that the story is about, with the flags it has on the workstation."""
    model, projector = vision_model()
    command = (
        *("with-vram", "5.2GiB", "--after", "0.3s", "--", "llama-server", "-m", str(model), "--mmproj", str(projector)),
        *("-ngl", "99", "--no-mmproj-offload", "--ctx-size", "4096", "--alias", "qwen2.5-vl", "--jinja"),
    )
    return f"""
description = "Vision: captions images"
engine = "llama-server"
class = "on-demand"
serves = ["qwen2.5-vl"]
can = ["chat", "vision"]
vram = "5.2 GiB"
idle = "{idle}"
command = {toml(command)}
[resources]
MemoryHigh = "10G"
MemoryMax = "12G"
CPUWeight = 50
"""


def imagine() -> str:
    """ComfyUI between two renders: idle, and with its weights still on the card."""
    command = ("comfyui", "--weights", "8GiB", "--context", "400MiB")
    return f"""
description = "ComfyUI: renders images"
engine = "comfyui"
class = "on-demand"
can = ["images"]
vram = "8.4 GiB"
idle = "never"
command = {toml(command)}
"""
