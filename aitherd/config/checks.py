"""What the keys of one model file mean together: a checked file becomes a Model, or the reasons why not.

Each key by itself has been checked in `written.py`; what several files mean together is checked in `loader.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aitherd.config.commands import find_executable, listening, option, options, search_path, utilization
from aitherd.config.fleet import Model, Settings, Variant
from aitherd.config.problem import BadValue, Problem, shown
from aitherd.config.properties import SERVICE, TABLES, read
from aitherd.config.written import ModelFile
from aitherd.core.words import ResidencyClass, Seconds
from aitherd.engines import engine
from aitherd.engines.checkpoint import PROGRAM

SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
TCP_SOCKET_PORT = 8150
"""Where aitherd-tcp.socket listens."""


class Findings:
    """The problems of one file, as they are found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def error(self, key: str, value: object, message: str, remedy: str) -> None:
        """Adds a reason to refuse the file. A value of None is not shown."""
        self.problems.append(Problem(self.path, key, _value(value), message, remedy))

    def note(self, key: str, value: object, message: str, remedy: str) -> None:
        """Adds something that its author may want to know."""
        self.problems.append(Problem(self.path, key, _value(value), message, remedy, error=False))


def build(name: str, file: ModelFile, settings: Settings, findings: Findings, *, user: bool) -> Model | None:
    """The model that `file` describes, or None when `findings` got an error."""
    before = len(findings.problems)
    executable = _command(file, findings, user=user)
    part = _vllm(file, findings)
    _residency(file, findings)
    _slots(file, findings)
    checkpoint = _checkpoint(file, findings, user=user)
    _place(file, findings)
    if file.vram is None and part is None:
        findings.error(
            "vram", None, "its footprint is missing", 'set vram = "5.2 GiB", or "0 B" if it uses no device memory'
        )
    resources, service = (_properties(table, getattr(file, table), findings, user=user) for table in TABLES)
    _environment(file, service, findings)
    _limits(resources, findings)
    if any(problem.error for problem in findings.problems[before:]):
        return None
    return Model(
        name=name,
        path=findings.path,
        description=file.description,
        engine=file.engine,
        residency_class=file.residency_class,
        vram=file.vram or 0,
        command=tuple(file.command),
        executable=executable,
        load_timeout=file.load_timeout or settings.load_timeout,
        stop_timeout=file.stop_timeout or settings.stop_timeout,
        concurrency=file.concurrency,
        max_waiting=file.max_waiting or settings.max_waiting,
        idle=_idle(file, settings),
        swap_slot=file.swap_slot,
        serves=tuple(dict.fromkeys(served for served in file.serves if served != name)),
        can=tuple(dict.fromkeys(file.can)),
        devices=tuple(dict.fromkeys(file.devices)),
        span=file.span,
        utilization=part,
        port=file.port,
        unix=_unix(file),
        health=file.health,
        download=file.download,
        keep_slots=file.keep_slots,
        checkpoint=checkpoint,
        resources=resources,
        service=service,
    )


def _value(value: object) -> str:
    return "" if value is None else shown(value)


def _idle(file: ModelFile, settings: Settings) -> Seconds | None:
    if file.residency_class is not ResidencyClass.ON_DEMAND:
        return None
    return file.idle if "idle" in file.model_fields_set else settings.idle


def _unix(file: ModelFile) -> bool | None:
    if file.port is not None or file.listen == "port":
        return False
    if file.listen == "unix":
        return True
    if file.engine == "exec":
        return any("{socket}" in word for word in file.command)
    return None


def _command(file: ModelFile, findings: Findings, *, user: bool) -> str:
    """Checks the command; returns the absolute path of its program, empty when there is none."""
    if not file.command or not file.command[0]:
        findings.error("command", file.command, "there is nothing to run", 'set command = ["llama-server", …]')
        return ""
    said = listening(file.command, engine(file.engine).listen_options)
    if said is not None:
        findings.error(
            "command",
            said,
            "where the engine listens is aitherd's business",
            "remove the option; for a fixed port set the key port",
        )
    if file.engine == "exec":
        _exec_place(file, findings)
    try:
        return find_executable(file.command[0], search_path(user))
    except BadValue as bad:
        findings.error("command", file.command[0], bad.message, bad.remedy)
        return ""


def _exec_place(file: ModelFile, findings: Findings) -> None:
    socket, port = (any(place in word for word in file.command) for place in ("{socket}", "{port}"))
    if socket and port:
        findings.error("command", None, "it has both {socket} and {port}", "keep one of them")
    elif socket and (file.port is not None or file.listen == "port"):
        findings.error("command", "{socket}", "the model is to listen on a port", "write {port}, or leave the port out")
    elif port and file.listen == "unix":
        findings.error("command", "{port}", "the model is to listen on a socket", "write {socket}, or leave listen out")
    elif not socket and not port and file.port is None:
        findings.error(
            "command",
            None,
            "it does not say where to listen",
            "write {socket} or {port} where the command takes it, or set the key port to what the server uses",
        )


def _vllm(file: ModelFile, findings: Findings) -> float | None:
    """Checks vLLM's options; returns the part of the device that it takes, if the command tells."""
    floor = file.min_gpu_memory_utilization
    if file.engine != "vllm":
        if floor is not None:
            findings.error("min-gpu-memory-utilization", floor, "only vllm has this", "leave it out")
        return None
    try:
        part = utilization(file.command)
    except BadValue as bad:
        findings.error("command", None, bad.message, bad.remedy)
        return None
    if floor is not None and (part is None or part < floor):
        said = "no --gpu-memory-utilization" if part is None else f"--gpu-memory-utilization {part:.2f}"
        findings.error(
            "min-gpu-memory-utilization",
            floor,
            f"the command has {said}",
            f"set --gpu-memory-utilization to {floor:.2f} or more: below its minimum the engine may crash as it starts",
        )
    given = {name for name, _ in options(file.command)}
    if part is None and not given & {"--kv-cache-memory-bytes", "--gpu-memory-utilization"}:
        findings.note(
            "command",
            None,
            "without --gpu-memory-utilization vLLM takes nine tenths of the device, whatever vram says",
            "give it the part of the device that it may take",
        )
    if "--enforce-eager" in given:
        findings.note(
            "command", "--enforce-eager", "every token costs more without CUDA graphs", "remove it if memory allows"
        )
    return part


def _residency(file: ModelFile, findings: Findings) -> None:
    has_idle = file.idle is not None
    if file.residency_class is ResidencyClass.ESSENTIAL:
        if has_idle:
            findings.error(
                "idle",
                f"{file.idle:g}s",
                "an essential model is never stopped",
                'remove it, or set class = "on-demand"',
            )
        if file.swap_slot is not None:
            findings.error(
                "swap-slot",
                file.swap_slot,
                "an essential model gives way to nobody, so that no other member could ever come in",
                'remove it, or set class = "resident"',
            )
    elif file.residency_class is ResidencyClass.RESIDENT and has_idle:
        findings.note(
            "idle",
            f"{file.idle:g}s",
            "a resident model stays without requests",
            'remove it, or set class = "on-demand"',
        )


def _slots(file: ModelFile, findings: Findings) -> None:
    if not file.keep_slots:
        return
    if not engine(file.engine).keeps_slots:
        findings.error("keep-slots", True, f"{file.engine} cannot write its caches down", "leave it out")
    elif option(file.command, "--slot-save-path") is None:
        findings.error(
            "keep-slots",
            True,
            "the command does not say where to",
            'add "--slot-save-path" and a directory that the engine may write to, as /var/cache/aither-engine/NAME',
        )


def _checkpoint(file: ModelFile, findings: Findings, *, user: bool) -> str:
    """The absolute path of cuda-checkpoint where the model is to be suspended by it, else empty."""
    if not file.checkpoint:
        return ""
    if file.residency_class is ResidencyClass.ESSENTIAL:
        findings.error("checkpoint", True, "an essential model never sleeps", "leave it out")
    elif engine(file.engine).ladder(file.command, {}):
        findings.error("checkpoint", True, "the engine sleeps by itself", "leave it out")
    try:
        return find_executable(PROGRAM, search_path(user))
    except BadValue as bad:
        findings.error("checkpoint", True, f"{PROGRAM}: {bad.message}", f"{bad.remedy}, or leave checkpoint out")
        return ""


def _place(file: ModelFile, findings: Findings) -> None:
    if file.listen == "unix" and file.port is not None:
        findings.error("listen", "unix", "a fixed port is set as well", "keep one of listen and port")
    elif file.listen == "unix" and not engine(file.engine).speaks_unix:
        findings.error("listen", "unix", f"{file.engine} cannot listen on a Unix socket", 'set listen = "port"')
    if file.port == TCP_SOCKET_PORT:
        findings.error("port", file.port, "aitherd itself listens there (aitherd-tcp.socket)", "take another port")
    if file.health is not None and file.engine != "exec":
        findings.error("health", file.health, f"aitherd knows how {file.engine} tells that it is ready", "leave it out")
    if file.devices and file.span > len(set(file.devices)):
        findings.error(
            "span",
            file.span,
            f"it may use {len(set(file.devices))} devices only",
            "name more in devices, or lower span",
        )


def _properties(table: str, written: Mapping[str, object], findings: Findings, *, user: bool) -> dict[str, Variant]:
    out: dict[str, Variant] = {}
    for name, value in written.items():
        try:
            out |= read(table, name, value)
        except BadValue as bad:
            findings.error(f"{table}.{name}", value, bad.message, bad.remedy)
            continue
        if user and table == "service" and SERVICE[name].system_only:
            findings.error(f"{table}.{name}", value, "the systemd of a user cannot set this", "leave it out")
        elif name == "User" and value in ("root", "0"):
            findings.error(f"{table}.{name}", value, "engines do not run as root", "name an unprivileged user")
    return out


def _environment(file: ModelFile, service: Mapping[str, Variant], findings: Findings) -> None:
    for name in _variables(service):
        if name in engine(file.engine).listen_variables:
            findings.error(
                "service.Environment", name, "where the engine listens is aitherd's business", "remove the variable"
            )
        elif SECRET.search(name.upper()):
            findings.note(
                "service.Environment",
                name,
                "everyone on this machine can read it over D-Bus",
                "keep secrets in a file that only the engine reads, and name it in EnvironmentFile or LoadCredential",
            )


def _variables(service: Mapping[str, Variant]) -> Iterator[str]:
    _, entries = service.get("Environment", ("as", []))
    assert isinstance(entries, Sequence)
    return (str(entry).partition("=")[0] for entry in entries)


def _limits(resources: Mapping[str, Variant], findings: Findings) -> None:
    sizes = {name: value for name, (_, value) in resources.items() if isinstance(value, int)}
    for lower, upper in (("MemoryHigh", "MemoryMax"), ("MemoryMin", "MemoryMax"), ("MemoryLow", "MemoryHigh")):
        if lower in sizes and upper in sizes and sizes[lower] > sizes[upper]:
            findings.note(f"resources.{lower}", None, f"it is above {upper} and never acts", f"set it below {upper}")
