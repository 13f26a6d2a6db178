"""`doctor`: what would keep a model from coming up, found before anybody waits for it. One line a finding.

It starts no model and loads nothing. What the configuration itself says is `check-config`'s; here is what only this
machine can tell: programs, drivers, weights, places to listen, directories, memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aitherd import config
from aitherd.config import Fleet, Model
from aitherd.config.machine import REPOSITORY_OPTIONS, directories, interpreter, occupied, taken, weights
from aitherd.core.ledger import Sample
from aitherd.core.words import HOST, Bytes, Seconds, format_bytes
from aitherd.ctl.configuration import measured
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import print_json, printable, style
from aitherd.engines import engine
from aitherd.host.memory import host_memory

ENGINE_USER = "aither-engine"
ENGINE_CACHE = Path("/var/cache/aither-engine")
"""Below it each engine has a directory of its own."""
"""Who engines of the system's daemon run as, and where they keep what they download. See aither-model(5)."""
GPU_CHECK_TIMEOUT: Seconds = 60.0
"""How long a program may take to say whether it sees the GPU: importing PyTorch takes seconds."""
ERROR, WARNING, FINE = "error", "warning", "ok"
STYLES = {ERROR: "red", WARNING: "yellow", FINE: "green"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    severity: str
    about: str
    """A model, a device, or `configuration`."""
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.about}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


def doctor(arguments: argparse.Namespace) -> int:
    """Looks at the machine for all models, or for those named."""
    fleet, problems = config.load(config.directories(arguments.user), user=arguments.user)
    findings = [Finding(ERROR if problem.error else WARNING, "configuration", str(problem)) for problem in problems]
    sample = asyncio.run(measured())
    findings += _devices(sample)
    if fleet is not None:
        models = _chosen(fleet, arguments.names)
        if not arguments.names:
            findings += _services(fleet)
        totals = {device.id: device.total for device in sample.devices}
        for problem in (*config.check_devices(fleet, totals), *config.check_driver(fleet, sample.driver)):
            findings.append(Finding(ERROR if problem.error else WARNING, "configuration", str(problem)))
        for model in models:
            found = list(_model(model, fleet, sample, user=arguments.user))
            findings += found or [Finding(FINE, model.name, "nothing stands in its way")]
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{style(f'{finding.severity:<7}', STYLES[finding.severity])}  {printable(str(finding))}")
    return Exit.FAILED if any(finding.severity == ERROR for finding in findings) else Exit.OK


def _chosen(fleet: Fleet, names: Sequence[str]) -> Sequence[Model]:
    for name in names:
        if name not in fleet.names:
            known = f"the models are: {', '.join(sorted(fleet.names))}" if fleet.names else "none is configured"
            raise Failure(f"there is no model {name!r}", known, status=Exit.UNKNOWN)
    return [fleet.models[fleet.names[name]] for name in names] or list(fleet.models.values())


def _services(fleet: Fleet) -> Iterator[Finding]:
    """Services that are not ours: whether anybody is there who could be asked."""
    for service in fleet.services.values():
        if taken(service.port):
            yield Finding(FINE, service.name, f"something listens on port {service.port}")
        else:
            yield Finding(
                WARNING,
                service.name,
                f"nothing listens on port {service.port}",
                f"is {service.unit} running? what it holds cannot be had back",
            )


def _devices(sample: Sample) -> Iterator[Finding]:
    if sample.problem or not sample.devices:
        yield Finding(ERROR, "devices", sample.problem or "NVML lists none; look at nvidia-smi")
    for device in sample.devices:
        yield Finding(FINE, device.id, f"{device.name}, {format_bytes(device.total)}, driver {sample.driver}")


def _model(model: Model, fleet: Fleet, sample: Sample, *, user: bool) -> Iterator[Finding]:
    if model.vram or model.utilization:
        yield from _gpu(model)
    yield from _weights(model, user=user)
    yield from _listening(model, user=user)
    yield from _directories(model)
    yield from _memory(model, fleet, max((device.total for device in sample.devices), default=0))


def _gpu(model: Model) -> Iterator[Finding]:
    manners = engine(model.engine, model.health)
    command = manners.gpu_check(model.executable, interpreter(model.executable))
    if command is None:
        return
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=GPU_CHECK_TIMEOUT, check=False, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(WARNING, model.name, f"{command[0]} could not be asked whether it sees the GPU: {error}")
        return
    if verdict := manners.gpu_verdict(done.stdout + done.stderr):
        message, _, remedy = verdict.partition("; ")
        yield Finding(ERROR, model.name, f"{model.executable}: {message}", remedy)


def _weights(model: Model, *, user: bool) -> Iterator[Finding]:
    for name, value in weights(model):
        if value.startswith("/"):
            if not os.access(value, os.R_OK):
                yield Finding(ERROR, model.name, f"{name} {value} cannot be read", "put the weights there")
        elif "/" in value and name in REPOSITORY_OPTIONS and not _downloaded(value.partition(":")[0], model, user=user):
            written = any("HF_HUB_OFFLINE=1" in entry for entry in _environment(model))
            offline = written or not (model.download or user)
            yield Finding(
                ERROR if offline else WARNING,
                model.name,
                f"the weights of {value} are not here yet",
                ("take HF_HUB_OFFLINE away, or download them" if written else "set download = true, or download them")
                if offline
                else "the first start downloads them: raise load-timeout, or download them before",
            )


def _downloaded(repository: str, model: Model, *, user: bool) -> bool:
    """Whether the cache that the engine would use has something of a repository of models."""
    own = {entry.partition("=")[0]: entry.partition("=")[2] for entry in _environment(model)}
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = cache if user else str(ENGINE_CACHE / model.name)
    home = own.get("HF_HOME") or f"{cache}/huggingface"
    llama = own.get("LLAMA_CACHE") or f"{cache}/llama.cpp"
    name = repository.replace("/", "--")
    return (Path(home) / "hub" / f"models--{name}").is_dir() or any(
        Path(llama).glob(f"*{repository.replace('/', '_')}*")
    )


def _environment(model: Model) -> list[str]:
    _, entries = model.service.get("Environment", ("as", []))
    return [str(entry) for entry in entries] if isinstance(entries, list) else []


def _listening(model: Model, *, user: bool) -> Iterator[Finding]:
    if _active(model.name, user=user):
        return
    if model.port is not None and taken(model.port):
        found = occupied(model.port)
        yield Finding(ERROR, model.name, found.message, found.remedy)
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") if user else "/run"
    left = Path(runtime) / "aither-engine" / model.name / "http.sock"
    if left.exists():
        yield Finding(WARNING, model.name, f"an earlier engine left {left}", f"rm {left}")


def _active(name: str, *, user: bool) -> bool:
    command = ["systemctl", *(("--user",) if user else ()), "is-active", "--quiet", f"aither-{name}-engine.service"]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


def _directories(model: Model) -> Iterator[Finding]:
    for name, path in directories(model):
        if not Path(path).is_dir():
            yield Finding(ERROR, model.name, f"{name} {path} is not a directory", f"install -d -o {ENGINE_USER} {path}")


def _memory(model: Model, fleet: Fleet, largest: Bytes) -> Iterator[Finding]:
    """Whether host memory takes what a sleeper moves there."""
    rungs = engine(model.engine).ladder(model.command, {})
    need = max((model.vram_on(largest) - rung.residue for rung in rungs if rung.keeps_weights), default=0)
    if need <= 0:
        return
    memory = host_memory()
    _, limit = model.resources.get("MemoryMax", ("t", None))
    if isinstance(limit, int) and limit < need:
        yield Finding(
            ERROR,
            model.name,
            f"asleep it keeps up to {format_bytes(need)} in host memory, above its MemoryMax of {format_bytes(limit)}",
            "raise MemoryMax",
        )
    if memory.available < need:
        yield Finding(
            WARNING,
            model.name,
            f"asleep it keeps up to {format_bytes(need)} in host memory, of which {format_bytes(memory.available)} "
            f"are available on {HOST} now",
            "it is stopped instead of put to sleep where memory is short",
        )
