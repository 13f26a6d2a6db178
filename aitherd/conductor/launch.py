"""What systemd is told about an engine unit: pure composition of transient-unit properties, nothing is sent from here.

Precedence, weakest first: what every engine unit gets, what its class adds, `[resources]`, `[service]`; what ties the
unit to aitherd (its command, slice, runtime directory, identity) comes last and cannot be overridden.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aitherd.core.words import DeviceId, Endpoint, ResidencyClass
from aitherd.engines.base import Launch

Variant: TypeAlias = tuple[str, object]
Property: TypeAlias = tuple[str, Variant]

SLICE = "aither.slice"
ENGINE_USER = "aither-engine"
"""In system mode engines run as this unprivileged user, whose group aitherd is a member of to reach their sockets."""
ENGINE_DIRECTORY = "aither-engine"
"""Name under the runtime and cache directories, below which each engine has a directory of its own."""

MODEL_FIELD = "AITHER_MODEL"
ENDPOINT_FIELD = "AITHER_ENDPOINT"
FINGERPRINT_FIELD = "AITHER_FINGERPRINT"
PLACEMENT_FIELD = "AITHER_DEVICES"

FORBIDDEN_CALLS = ("@clock", "@cpu-emulation", "@module", "@mount", "@obsolete", "@raw-io", "@reboot", "@swap")
"""Groups of system calls that no model server has a use for. systemd.exec(5), SystemCallFilter."""

# Networks as IPAddressAllow has them on D-Bus: address family as Linux numbers it, address, prefix length.
EVERYWHERE = ((2, bytes(4), 0), (10, bytes(16), 0))
LOOPBACK = ((2, bytes((127, 0, 0, 0)), 8), (10, bytes(15) + b"\1", 128))

ADDED_TO = ("DeviceAllow", "IPAddressAllow")
"""Lists of which a model file can only write more: without ours the engine could not do its work."""

ESSENTIAL_OOM_SCORE = -500
"""The kernel's out-of-memory killer takes every other engine, and most of the system, before the essential one."""
ENGINE_OOM_SCORE = 300


@dataclass(frozen=True, slots=True)
class Host:
    """What the composition needs to know about where the daemon runs."""

    user_mode: bool
    runtime_directory: str
    """`/run`, or XDG_RUNTIME_DIR in user mode."""
    cache_directory: str
    """`/var/cache`, or XDG_CACHE_HOME in user mode."""


def engine_unit(model: str) -> str:
    """Name of the transient service that runs `model`."""
    return f"aither-{model}-engine.service"


def model_unit(model: str) -> str:
    """Name of the unit that people start and stop to hold `model` resident."""
    return f"aither-{model}.service"


def checkpoint_unit(model: str) -> str:
    """Name of the transient service that suspends and resumes the device state of `model`'s engine."""
    return f"aither-{model}-checkpoint.service"


def check_unit(model: str) -> str:
    """Name of the transient service in which the program of `model` is asked something before its first start."""
    return f"aither-{model}-check.service"


def model_of(unit: str) -> str | None:
    """The model whose engine unit `unit` is, or None."""
    if unit.startswith("aither-") and unit.endswith("-engine.service"):
        return unit.removeprefix("aither-").removesuffix("-engine.service") or None
    return None


def socket_path(host: Host, model: str) -> str:
    """Where an engine that speaks Unix sockets listens: in its own runtime directory, which goes with the unit."""
    return f"{host.runtime_directory}/{ENGINE_DIRECTORY}/{model}/http.sock"


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """One engine unit to be composed."""

    model: str
    description: str
    residency_class: ResidencyClass
    launch: Launch
    executable: str
    """Absolute path of the first word of the command."""
    endpoint: Endpoint
    fingerprint: str
    placement: tuple[DeviceId, ...]
    device_uuids: tuple[str, ...]
    """UUIDs of the placement, given to the engine as CUDA_VISIBLE_DEVICES; empty where there is nothing to choose."""
    stop_seconds: float
    """How long the engine may take to stop before its control group is killed."""
    resources: Mapping[str, Variant]
    service: Mapping[str, Variant]
    download: bool = False
    """Whether it may reach beyond this machine."""


def properties(request: UnitRequest, host: Host) -> tuple[Property, ...]:
    """The properties for StartTransientUnit, in a stable order."""
    merged: dict[str, Variant] = {}
    merged.update(_defaults(request, host))
    merged.update(request.resources)
    merged.update(
        {name: value for name, value in request.service.items() if name != "Environment" and name not in ADDED_TO}
    )
    for name in ADDED_TO:
        merged.update(_added(name, request.service, merged))
    merged.update(_identity(request, host))
    return tuple(merged.items())


def _defaults(request: UnitRequest, host: Host) -> dict[str, Variant]:
    essential = request.residency_class is ResidencyClass.ESSENTIAL
    out: dict[str, Variant] = {
        "TimeoutStopUSec": ("t", int(request.stop_seconds * 1_000_000)),
        "OOMScoreAdjust": ("i", ESSENTIAL_OOM_SCORE if essential else ENGINE_OOM_SCORE),
        "OOMPolicy": ("s", "stop"),
        "UMask": ("u", 0o007),
        "NoNewPrivileges": ("b", True),
    }
    if not host.user_mode:
        # A user manager cannot set these up without user namespaces; the system manager sandboxes for real.
        out |= {
            "User": ("s", ENGINE_USER),
            "Group": ("s", ENGINE_USER),
            # Of its own: an engine that turns hostile writes into nobody else's weights.
            "CacheDirectory": ("as", [f"{ENGINE_DIRECTORY}/{request.model}"]),
            "CacheDirectoryMode": ("u", 0o750),
            "PrivateTmp": ("b", True),
            "ProtectSystem": ("s", "strict"),
            "ProtectHome": ("s", "read-only"),
            "ProtectKernelTunables": ("b", True),
            "ProtectKernelModules": ("b", True),
            "ProtectKernelLogs": ("b", True),
            "ProtectControlGroups": ("b", True),
            "ProtectClock": ("b", True),
            "ProtectHostname": ("b", True),
            "ProtectProc": ("s", "invisible"),
            "KeyringMode": ("s", "private"),
            "RestrictSUIDSGID": ("b", True),
            "RestrictRealtime": ("b", True),
            "LockPersonality": ("b", True),
            "CapabilityBoundingSet": ("t", 0),
            "RestrictNamespaces": ("t", 0),
            "RestrictAddressFamilies": ("(bas)", (True, ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"])),
            "SystemCallArchitectures": ("as", ["native"]),
            # Not @debug, @privileged, @resources: CUDA shares memory by pidfd_getfd and pins threads to processors.
            "SystemCallFilter": ("(bas)", (False, list(FORBIDDEN_CALLS))),
            "SystemCallErrorNumber": ("i", errno.EPERM),
            # Prompts, weights and keys stay out of core dumps; systemd-coredump honours this, too.
            "LimitCORE": ("t", 0),
            "LimitCORESoft": ("t", 0),
            "DevicePolicy": ("s", "closed"),
            # Both, so that a daemon-reload, which rewrites the device rules, does not take the GPU away.
            "DeviceAllow": ("a(ss)", [("char-nvidia*", "rw"), ("char-drm", "rw")]),
        }
        if not request.download:
            out |= {
                "IPAddressDeny": ("a(iayu)", list(EVERYWHERE)),
                "IPAddressAllow": ("a(iayu)", list(LOOPBACK)),
            }
    return out


def _added(name: str, service: Mapping[str, Variant], merged: Mapping[str, Variant]) -> Mapping[str, Variant]:
    """What the model file writes of a list is added to ours, as systemd adds one line to another."""
    if name not in service:
        return {}
    kind, written = service[name]
    _, given = merged.get(name, (kind, []))
    assert isinstance(written, list) and isinstance(given, list)
    return {name: (kind, [*given, *written])}


def _identity(request: UnitRequest, host: Host) -> dict[str, Variant]:
    log_fields = {
        MODEL_FIELD: request.model,
        ENDPOINT_FIELD: str(request.endpoint),
        FINGERPRINT_FIELD: request.fingerprint,
        PLACEMENT_FIELD: ",".join(request.placement),
    }
    argv = list(request.launch.argv)
    return {
        "Description": ("s", f"{request.description or request.model} (engine of {model_unit(request.model)})"),
        "Slice": ("s", SLICE),
        "Type": ("s", "exec"),
        "ExecStartEx": ("a(sasas)", [(request.executable, argv, ["no-env-expand"])]),
        "KillMode": ("s", "control-group"),
        "Restart": ("s", "no"),
        "RuntimeDirectory": ("as", [f"{ENGINE_DIRECTORY}/{request.model}"]),
        "RuntimeDirectoryMode": ("u", 0o750),
        "Environment": ("as", _environment(request, host)),
        "StandardOutput": ("s", "journal"),
        "StandardError": ("s", "journal"),
        "SyslogIdentifier": ("s", f"aither-{request.model}"),
        "LogExtraFields": ("aay", [f"{key}={value}".encode() for key, value in log_fields.items()]),
    }


def _environment(request: UnitRequest, host: Host) -> Sequence[str]:
    variables: dict[str, str] = {}
    if not host.user_mode:
        # What an engine writes down goes to its own directory, since the rest of the system is read-only to it.
        home = f"{host.cache_directory}/{ENGINE_DIRECTORY}/{request.model}"
        variables |= {"HOME": home, "XDG_CACHE_HOME": home, "HF_HOME": f"{home}/huggingface"}
        if not request.download:
            # What it has is looked for at once, instead of after the time-outs of a network that it may not use.
            variables["HF_HUB_OFFLINE"] = "1"
    if request.device_uuids:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(request.device_uuids)
    variables.update(request.launch.environment)
    _, written = request.service.get("Environment", ("as", []))
    assert isinstance(written, list)
    variables.update(entry.split("=", 1) for entry in written)
    return [f"{key}={value}" for key, value in variables.items()]
