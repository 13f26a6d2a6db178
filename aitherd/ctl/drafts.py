"""A model file in the making: what a command line says about its server, and the commented file that comes of it.

Where command lines come from is in `imports.py` and `new.py`; whether the file is right is for `aitherd.config` to say.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from aitherd.config.commands import option, options, utilization
from aitherd.config.kinds import NAME
from aitherd.config.problem import BadValue
from aitherd.config.units import size_text
from aitherd.core.words import Bytes
from aitherd.ctl.failure import Exit, Failure
from aitherd.engines import engine

MIB = 2**20
OVERHEAD = 1.1
"""What a server takes on the device above its weights, as long as nothing is measured: cache and buffers."""

TEMPLATES: Mapping[str, tuple[tuple[str, ...], Bytes]] = {
    "llama-server": (
        ("llama-server", "-hf", "ggml-org/gemma-3-4b-it-GGUF:Q4_K_M", "-ngl", "99", "--jinja"),
        4096 * MIB,
    ),
    "vllm": (("vllm", "serve", "Qwen/Qwen3-4B-AWQ", "--gpu-memory-utilization", "0.25"), 0),
    "comfyui": (("/opt/comfyui/venv/bin/python", "/opt/comfyui/main.py", "--disable-auto-launch"), 8192 * MIB),
    "speaches": (("/opt/speaches/bin/uvicorn", "--factory", "speaches.main:create_app"), 4096 * MIB),
    "whisper-server": (("whisper-server", "--model", "/srv/whisper/ggml-large-v3.bin"), 4096 * MIB),
    "xtts": (("/opt/xtts/bin/python", "-m", "xtts_api_server", "--device", "cuda"), 4096 * MIB),
    "ollama": (("ollama", "serve"), 8192 * MIB),
    "exec": (("/opt/server/bin/server", "--port", "{port}"), 4096 * MIB),
}
"""For each kind of server a command to begin with, and what such a one needs of the device (0: the command tells)."""

LISTEN_NOTES = {
    "port": "For programs that must reach it directly, on 127.0.0.1 where every local user can.",
    "resources": "Limits of its unit, by systemd's own names: systemd.resource-control(5).",
    "service": "What surrounds it, likewise: systemd.exec(5).",
}


@dataclass
class Draft:
    """What is known of a server that is to become a model."""

    name: str
    command: tuple[str, ...]
    kind: str
    vram: Bytes = 0
    """0 when it is not known."""
    vram_from: str = ""
    """Where that comes from, a clause for the comment."""
    serves: tuple[str, ...] = ()
    can: tuple[str, ...] = ()
    residency_class: str = "on-demand"
    idle: str = "5min"
    swap_slot: str = ""
    health: str = ""
    port: int = 0
    """Where it listened, for those who want that kept."""
    memory_max: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a person should know or do, each a line of comment."""


def draft(name: str, words: Sequence[str], vram: Bytes = 0, vram_from: str = "") -> Draft:
    """What a command line says. `vram` in bytes, 0 where it is not known. Raises Failure for what is no server."""
    environment, words = _environment(words)
    if not words:
        raise Failure(f"{name}: there is no command", status=Exit.USAGE)
    if PurePath(words[0]).name in ("docker", "podman"):
        raise Failure(
            f"{name}: {words[0]} would start a container, which systemd could neither limit nor end",
            "install the server itself, and give its own command",
        )
    kind = kind_of(words)
    port = next((int(value or 0) for key, value in options(words) if key == "--port" and (value or "").isdigit()), 0)
    command = _found(_without_place(words, kind))
    made = Draft(
        name, command, kind, vram, vram_from, environment=environment, port=port if 1024 <= port < 65536 else 0
    )
    made.can, made.serves = abilities(kind, command), served(kind, command, name)
    if not vram:
        made.vram, made.vram_from = estimate(kind, command)
    return made


def template(name: str, kind: str) -> Draft:
    """A file to fill in. Raises Failure for an unknown kind."""
    if kind not in TEMPLATES:
        raise Failure(f"there is no engine {kind}", f"take one of {', '.join(sorted(TEMPLATES))}", status=Exit.USAGE)
    command, vram = TEMPLATES[kind]
    made = Draft(name, command, kind, vram, "a guess")
    made.can, made.serves = abilities(kind, command), served(kind, command, name)
    made.notes = ("This is a template: the command, vram and the limits below want your own values.",)
    if kind == "exec":
        made.health = "/health"
    return made


def kind_of(words: Sequence[str]) -> str:
    """The engine that a command runs; `exec` for any other server."""
    program, text = PurePath(words[0]).name, " ".join(words).lower()
    for kind in ("llama-server", "whisper-server"):
        if program == kind:
            return kind
    if program == "vllm" or "vllm.entrypoints" in text:
        return "vllm"
    if program == "ollama":
        return "ollama"
    if "speaches" in text:
        return "speaches"
    if "xtts_api_server" in text:
        return "xtts"
    if any(PurePath(word).name == "main.py" and "comfy" in word.lower() for word in words):
        return "comfyui"
    return "exec"


def abilities(kind: str, command: Sequence[str]) -> tuple[str, ...]:
    """What such a server can do, as far as its command tells."""
    given = {name for name, _ in options(command)}
    if kind == "llama-server":
        if given & {"--embedding", "--embeddings"}:
            return ("embeddings",)
        if given & {"--reranking", "--rerank"}:
            return ("rerank",)
        repository = option(command, "-hf") or option(command, "--hf-repo") or ""
        sees = bool(given & {"--mmproj", "-mm", "--mmproj-url"}) or "-vl-" in repository.lower()
        return ("chat", "completions", *(("vision",) if sees else ()), *(("tools",) if "--jinja" in given else ()))
    if kind == "vllm":
        if option(command, "--runner") == "pooling" or option(command, "--task") in ("embed", "embedding"):
            return ("embeddings",)
        return ("chat", "completions", *(("tools",) if "--enable-auto-tool-choice" in given else ()))
    fixed: Mapping[str, tuple[str, ...]] = {
        "whisper-server": ("transcriptions", "translations"),
        "speaches": ("transcriptions", "translations", "speech"),
        "xtts": ("speech",),
        "ollama": ("chat", "completions", "embeddings"),
    }
    return fixed.get(kind, ())


def served(kind: str, command: Sequence[str], name: str) -> tuple[str, ...]:
    """Names under which its clients know the model: those that the server itself goes by."""
    names = [value for key, value in options(command) if key in ("--alias", "-a", "--served-model-name") and value]
    if kind == "vllm" and not names:
        positional = command[2] if len(command) > 2 and command[1] == "serve" else None
        names = [found for found in (option(command, "--model"), positional) if found and not found.startswith("-")]
    # Some take several names in one word.
    parts = (part.strip() for one in names for part in one.split(","))
    return tuple(dict.fromkeys(part for part in parts if part and part != name and " " not in part))


def estimate(kind: str, command: Sequence[str]) -> tuple[Bytes, str]:
    """Device bytes that a server will need, by the files that its command names, and where that comes from; 0 if they
    are not there, or if its own options tell."""
    if kind == "vllm":
        return 0, ""
    on_device = [option(command, name) for name in ("-m", "--model")]
    if "--no-mmproj-offload" not in command:
        on_device += [option(command, name) for name in ("--mmproj", "-mm")]
    total = 0
    for path in {Path(name) for name in on_device if name}:
        if path.is_file():
            total += path.stat().st_size
    return (round(total * OVERHEAD / MIB) * MIB, "its files and a tenth") if total else (0, "")


def model_file(made: Draft) -> str:
    """The commented file."""
    return "\n".join(_lines(made)) + "\n"


def file_name(text: str) -> str:
    """A model's name that is as close as possible to what another tool calls it."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower().replace(":", "-")).strip("-._")[:63].removesuffix("-engine")
    name = re.sub(r"\.{2,}", ".", name)
    return name if NAME.fullmatch(name) else "model"


def _lines(made: Draft) -> Iterator[str]:
    yield f"# The name of this file is the name of the model: aitherctl start {made.name}, aither-{made.name}.service."
    yield "# After a change: aitherctl check-config, then systemctl reload aitherd. Every key: aither-model(5)."
    for note in made.notes:
        yield f"# {_printable(note)}"
    yield ""
    yield f"engine = {_text(made.kind)}"
    yield 'description = ""'
    yield ""
    yield "# How firmly it stays: essential (never evicted), resident (evicted last), on-demand (stopped when idle)."
    yield f"class = {_text(made.residency_class)}"
    if made.residency_class == "on-demand":
        yield f"idle = {_text(made.idle)}"
    if made.swap_slot:
        yield "# At most one of this slot is awake at a time."
        yield f"swap-slot = {_text(made.swap_slot)}"
    yield ""
    yield "# Names that clients may ask for besides the model's own, and what it can do."
    yield f"serves = {_list(made.serves)}"
    yield f"can = {_list(made.can)}"
    yield ""
    if made.vram:
        yield f"# Device memory that it needs when ready: {made.vram_from or 'as given'}. What is measured takes over."
        yield f"vram = {_text(size_text(made.vram))}"
    elif made.kind == "vllm" and _utilization(made.command):
        yield "# Device memory follows from --gpu-memory-utilization."
    else:
        yield "# Device memory that it needs when ready is not known: set it. What is measured takes over."
        yield '#vram = "5.2 GiB"'
    yield ""
    yield "# One word an entry; nothing passes through a shell. Where it listens is not said here: aitherd tells it."
    yield "command = ["
    yield from (f"    {', '.join(_text(word) for word in group)}," for group in _groups(made.command))
    yield "]"
    if made.health:
        yield ""
        yield "# The path that answers 2xx when it is ready."
        yield f"health = {_text(made.health)}"
    yield ""
    yield f"# {LISTEN_NOTES['port']}"
    yield f"#port = {made.port or 8300}"
    yield ""
    yield f"# {LISTEN_NOTES['resources']}"
    yield "[resources]"
    if made.memory_max:
        yield f"MemoryMax = {_text(made.memory_max)}"
    else:
        yield '#MemoryHigh = "10G"   # beyond this it is slowed down'
        yield '#MemoryMax  = "12G"   # beyond this the kernel ends it, and nothing else'
    yield "CPUWeight = 50"
    yield ""
    yield f"# {LISTEN_NOTES['service']}"
    yield "[service]"
    if made.environment:
        yield f"Environment = {_list([f'{key}={value}' for key, value in made.environment.items()])}"
    else:
        yield '#Environment = ["HF_HUB_OFFLINE=1"]'


def _environment(words: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Assignments that stand before a command, as in a shell, and the command."""
    words = list(words)
    if words and PurePath(words[0]).name == "env":
        words.pop(0)
    out: dict[str, str] = {}
    while words and (found := re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", words[0], re.DOTALL)):
        out[found[1]] = found[2]
        words.pop(0)
    return out, tuple(words)


def _without_place(words: Sequence[str], kind: str) -> tuple[str, ...]:
    """The command without options that say where to listen; of an `exec`, its port becomes a place to fill in."""
    names = engine(kind).listen_options if kind != "exec" else ("--port",)
    kept: list[str] = []
    rest = iter(enumerate(words))
    for index, word in rest:
        name, equals, _ = word.partition("=")
        if index and name.replace("_", "-") in names:
            if not equals:
                next(rest, None)
            if kind == "exec":
                kept += [f"{name}={{port}}"] if equals else [name, "{port}"]
        else:
            kept.append(word)
    return tuple(kept)


def _found(command: tuple[str, ...]) -> tuple[str, ...]:
    """With the program's whole path where systemd would not find it by its name."""
    if "/" in command[0]:
        return command
    found = shutil.which(command[0])
    usual = ("/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/", "/usr/bin/")
    return command if found is None or found.startswith(usual) else (found, *command[1:])


def _utilization(command: Sequence[str]) -> bool:
    try:
        return utilization(command) is not None
    except BadValue:
        return False


def _groups(command: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """An option with its value on one line."""
    index = 0
    while index < len(command):
        pair = command[index].startswith("-") and "=" not in command[index]
        if pair and index + 1 < len(command) and not command[index + 1].startswith("-"):
            yield tuple(command[index : index + 2])
            index += 2
        else:
            yield (command[index],)
            index += 1


def _text(text: str) -> str:
    """A TOML basic string. TOML 1.0, "String"."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(_text(word) for word in words)}]"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def split(line: str, what: str) -> tuple[str, ...]:
    """The words of a shell's command line. Raises Failure."""
    try:
        return tuple(shlex.split(line, comments=True))
    except ValueError as error:
        raise Failure(
            f"{what}: {error} in the command line", "correct its quotation marks", status=Exit.USAGE
        ) from error
