"""What only this machine can tell about a model before it starts, found without running anything: weights, port,
directories. What a program itself has to be asked is not here.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aitherd.config.commands import option
from aitherd.config.fleet import Model
from aitherd.engines import engine

REPOSITORY_OPTIONS = ("-hf", "--hf-repo", "--model", "-m")
"""Options that name weights, as a path or as a repository of them."""
PATH_OPTIONS = ("--mmproj", "--model-folder")
WEIGHTS = frozenset({".safetensors", ".gguf", ".bin", ".pt", ".pth"})
"""How files of weights end."""
SHORT_MODEL = ("llama-server", "whisper-server")
"""Engines to which `-m` is a model; to a Python it is a module."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that certainly keeps a model from coming up."""

    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"


def weight_files(model: Model, caches: Sequence[Path]) -> tuple[Path, ...]:
    """The files that its weights are in, as far as this process may look: those that the command names, or those of a
    repository in one of the `caches` of what engines download."""
    found: list[Path] = []
    for name, value in weights(model):
        try:
            if value.startswith("/"):
                path = Path(value)
                found += sorted(_weights_below(path)) if path.is_dir() else [path]
            elif name in REPOSITORY_OPTIONS and "/" in value:
                repository = value.partition(":")[0]
                for cache in caches:
                    found += sorted(_weights_below(cache / f"models--{repository.replace('/', '--')}"))
                    found += sorted(cache.glob(f"*{repository.replace('/', '_')}*.gguf"))
        except OSError:
            continue
    # A cache has its files under several names.
    return tuple(dict.fromkeys(path.resolve() for path in found))


def _weights_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix in WEIGHTS and path.is_file())


def looks_around(model: Model) -> bool:
    """Whether there is anything that `obstacles` would look at."""
    return model.port is not None or any(value.startswith("/") for _, value in (*weights(model), *directories(model)))


def obstacles(model: Model) -> Iterator[Obstacle]:
    """What is wrong here and now, as far as this process may look. Only what is certain: nothing that is not allowed to
    be looked at."""
    # Where its unit sees other paths than we do, these say nothing.
    if not model.service.keys() & {"BindPaths", "BindReadOnlyPaths"}:
        for name, value in weights(model):
            if value.startswith("/") and _missing(value):
                yield Obstacle(f"{name} {value} is not there", "put the weights there")
        for name, path in directories(model):
            if _missing(path):
                yield Obstacle(f"{name} {path} is not there", f"install -d -o aither-engine {path}")
    if model.port is not None and taken(model.port):
        yield occupied(model.port)


def weights(model: Model) -> Iterator[tuple[str, str]]:
    """Options of the command that name weights, with what they name."""
    for name in (*REPOSITORY_OPTIONS, *PATH_OPTIONS):
        value = option(model.command, name)
        if value and (name != "-m" or engine(model.engine).kind in SHORT_MODEL):
            yield name, value


def directories(model: Model) -> Iterator[tuple[str, str]]:
    """Directories that have to exist, with what names them."""
    wanted = [("--slot-save-path", option(model.command, "--slot-save-path") or "")]
    for name in ("WorkingDirectory", "ReadWritePaths"):
        _, value = model.service.get(name, ("", []))
        wanted += [(name, str(path)) for path in (value if isinstance(value, list) else [value])]
    for name, path in dict.fromkeys(wanted):
        # A minus says that it may be missing.
        if (bare := path.removeprefix("+")).startswith("/"):
            yield name, bare


def taken(port: int) -> bool:
    """Whether somebody listens on the loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def occupied(port: int) -> Obstacle:
    """What is said of a port that is taken."""
    return Obstacle(
        f"somebody else listens on port {port}", f"ss -tlnp 'sport = {port}' says who; stop it, or set another port"
    )


def interpreter(executable: str) -> str:
    """The Python that runs a program: itself, or what its first line names; empty when it is no Python program."""
    if Path(executable).name.startswith("python"):
        return executable
    try:
        with Path(executable).open("rb") as file:
            first = file.readline(256)
    except OSError:
        return ""
    words = first.removeprefix(b"#!").decode(errors="replace").split() if first.startswith(b"#!") else []
    return words[0] if words and Path(words[0]).name.startswith("python") else ""


def _missing(path: str) -> bool:
    """Whether there is certainly nothing at `path`: what may not be looked at may be there."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
