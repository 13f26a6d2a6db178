"""Which of systemd's unit properties a model file may set, in which table, and how each goes over D-Bus.

`[resources]` holds what limits and weighs the engine, `[service]` what surrounds it. What ties the unit to aitherd is
refused with the reason. To let files set another property, add a line here. (org.freedesktop.systemd1(5))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aitherd.config import values as v
from aitherd.config.fleet import Variant
from aitherd.config.problem import BadValue, suggestion


@dataclass(frozen=True, slots=True)
class Property:
    """One property that files may set."""

    signature: str
    parse: Callable[[object], object]
    example: object
    """A value as written; the schema offers it."""
    dbus: str = ""
    """Its name on D-Bus, where that differs from the one in files."""
    scale: str = ""
    """The property (of type `u`) that takes a percentage instead, where one is allowed."""
    soft: str = ""
    """The property that takes the soft limit beside the hard one."""
    system_only: bool = False
    """Whether a user's own systemd cannot set it."""

    def variants(self, name: str, value: object) -> dict[str, Variant]:
        """What goes over D-Bus for `name = value`. Raises BadValue."""
        part = v.fraction(value) if self.scale else None
        if part is not None:
            return {self.scale: ("u", part)}
        parsed = self.parse(value)
        if self.soft:
            assert isinstance(parsed, tuple)
            return {self.soft: (self.signature, parsed[0]), name: (self.signature, parsed[1])}
        return {self.dbus or name: (self.signature, parsed)}


_WEIGHT = v.number(1, 10000)
_COUNT = v.number(0, 2**63, ("infinity", v.INFINITY))


def _memory(name: str, example: str) -> Property:
    return Property("t", v.size, example, scale=f"{name}Scale")


def _limit(name: str, one: Callable[[object], int], example: object) -> Property:
    return Property("t", v.limits(one), example, soft=f"Limit{name}Soft")


def _per_device(amount: Callable[[object], int], example: str, dbus: str = "") -> Property:
    return Property("a(st)", v.items(v.device_number(amount)), example, dbus=dbus)


def _flag() -> Property:
    return Property("b", v.boolean, True)


def _sandbox_paths() -> Property:
    return Property("as", v.items(v.path, words=True), ["/srv/models"])


RESOURCES: Mapping[str, Property] = {
    "MemoryMin": _memory("MemoryMin", "4G"),
    "MemoryLow": _memory("MemoryLow", "4G"),
    "MemoryHigh": _memory("MemoryHigh", "10G"),
    "MemoryMax": _memory("MemoryMax", "12G"),
    "MemorySwapMax": _memory("MemorySwapMax", "0"),
    "MemoryZSwapMax": _memory("MemoryZSwapMax", "0"),
    "CPUWeight": Property("t", v.number(1, 10000, ("idle", 0)), 50),
    "CPUQuota": Property("t", v.cpu_quota, "150%", dbus="CPUQuotaPerSecUSec"),
    "CPUQuotaPeriodSec": Property("t", v.microseconds, "100ms", dbus="CPUQuotaPeriodUSec"),
    "AllowedCPUs": Property("ay", v.mask, "0-7"),
    "AllowedMemoryNodes": Property("ay", v.mask, "0"),
    "IOWeight": Property("t", _WEIGHT, 50),
    "IODeviceWeight": _per_device(_WEIGHT, "/dev/nvme0n1 50"),
    "IOReadBandwidthMax": _per_device(v.bandwidth, "/dev/nvme0n1 500M"),
    "IOWriteBandwidthMax": _per_device(v.bandwidth, "/dev/nvme0n1 200M"),
    "IODeviceLatencyTargetSec": _per_device(v.microseconds, "/dev/nvme0n1 25ms", dbus="IODeviceLatencyTargetUSec"),
    "TasksMax": Property("t", v.number(1, 2**31, ("infinity", v.INFINITY)), 4096, scale="TasksMaxScale"),
    "OOMScoreAdjust": Property("i", v.number(-1000, 1000), 300),
    "OOMPolicy": Property("s", v.choice("continue", "stop", "kill"), "stop"),
    "ManagedOOMSwap": Property("s", v.choice("auto", "kill"), "kill"),
    "ManagedOOMMemoryPressure": Property("s", v.choice("auto", "kill"), "kill"),
    "ManagedOOMMemoryPressureLimit": Property("u", v.pressure, "60%"),
    "ManagedOOMPreference": Property("s", v.choice("none", "avoid", "omit"), "avoid"),
    "Nice": Property("i", v.number(-20, 19), 5),
    "LimitMEMLOCK": _limit("MEMLOCK", v.size, "infinity"),
    "LimitNOFILE": _limit("NOFILE", _COUNT, 65536),
    "LimitNPROC": _limit("NPROC", _COUNT, 4096),
    "LimitSTACK": _limit("STACK", v.size, "8M:infinity"),
    "LimitCORE": _limit("CORE", v.size, 0),
    "LimitAS": _limit("AS", v.size, "infinity"),
}

_FAMILIES = v.filter_list(r"AF_[A-Z0-9]+|none", 'write names such as "AF_UNIX", "AF_INET"')
_CALLS = v.filter_list(r"@?[a-z0-9_-]+(:[A-Za-z0-9]+)?", 'write names such as "@system-service"')

SERVICE: Mapping[str, Property] = {
    "Environment": Property("as", v.environment, ["HF_HUB_OFFLINE=1"]),
    "EnvironmentFile": Property(
        "a(sb)", v.items(v.environment_file), "-/etc/aither/vision.env", dbus="EnvironmentFiles"
    ),
    "UnsetEnvironment": Property("as", v.items(v.variable, words=True), ["LD_PRELOAD"]),
    "LoadCredential": Property("a(ss)", v.items(v.credential), "hf-token:/etc/credstore/hf-token"),
    "LoadCredentialEncrypted": Property("a(ss)", v.items(v.credential), "hf-token:/etc/credstore.encrypted/hf-token"),
    "WorkingDirectory": Property("s", v.directory, "/srv/comfyui"),
    "User": Property("s", v.text, "comfyui", system_only=True),
    "SupplementaryGroups": Property("as", v.items(str, words=True), ["render", "video"], system_only=True),
    "DevicePolicy": Property("s", v.choice("auto", "closed", "strict"), "closed"),
    "DeviceAllow": Property("a(ss)", v.items(v.device_rule), "char-nvidia* rw"),
    "IPAddressAllow": Property("a(iayu)", v.address, ["localhost"]),
    "IPAddressDeny": Property("a(iayu)", v.address, ["any"]),
    "ReadWritePaths": _sandbox_paths(),
    "ReadOnlyPaths": _sandbox_paths(),
    "InaccessiblePaths": _sandbox_paths(),
    "BindPaths": Property("a(ssbt)", v.items(v.bind, words=True), "/srv/models:/models"),
    "BindReadOnlyPaths": Property("a(ssbt)", v.items(v.bind, words=True), "/srv/models:/models"),
    "ProtectSystem": Property("s", v.choice("yes", "no", "full", "strict"), "strict"),
    "ProtectHome": Property("s", v.choice("yes", "no", "read-only", "tmpfs"), "read-only"),
    "PrivateTmp": _flag(),
    "ProtectKernelTunables": _flag(),
    "ProtectKernelModules": _flag(),
    "ProtectKernelLogs": _flag(),
    "ProtectControlGroups": _flag(),
    "ProtectClock": _flag(),
    "ProtectHostname": _flag(),
    "RestrictSUIDSGID": _flag(),
    "RestrictRealtime": _flag(),
    "LockPersonality": _flag(),
    "MemoryDenyWriteExecute": _flag(),
    "NoNewPrivileges": _flag(),
    "RestrictAddressFamilies": Property("(bas)", _FAMILIES, ["AF_UNIX", "AF_INET"]),
    "SystemCallFilter": Property("(bas)", _CALLS, ["@system-service"]),
    "KillSignal": Property("i", v.kill_signal, "SIGINT"),
}

_COMMAND = ("what runs is the model's command", "set the key command")
_SUPERVISED = ("aitherd starts and stops the engine and must see it end", "leave it out")
_REACHED = ("aitherd reaches the engine's socket through it", "leave it out")
_FOUND = ("aitherd and people find the engine's output by it", "leave it out")

REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("ExecStart", "ExecStartEx", "ExecStartPre", "ExecStartPost", "ExecCondition"), _COMMAND),
    **dict.fromkeys(
        (
            *("ExecStop", "ExecStopPost", "ExecReload", "Type", "Restart", "RestartSec", "KillMode", "SendSIGKILL"),
            *("RemainAfterExit", "PIDFile", "NotifyAccess", "BusName", "WatchdogSec", "RuntimeMaxSec", "CollectMode"),
        ),
        _SUPERVISED,
    ),
    **dict.fromkeys(
        ("RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve", "UMask", "Group"), _REACHED
    ),
    **dict.fromkeys(("DynamicUser", "RootDirectory", "RootImage", "PrivateNetwork", "NetworkNamespacePath"), _REACHED),
    **dict.fromkeys(("StandardOutput", "StandardError", "StandardInput", "SyslogIdentifier"), _FOUND),
    **dict.fromkeys(("LogExtraFields", "LogNamespace"), _FOUND),
    "Slice": ("every engine lives in aither.slice, by which its memory is attributed", "leave it out"),
    "Delegate": ("device memory is attributed by the control group that systemd made", "leave it out"),
    "Description": ("it has a key of its own", "set the key description"),
    "TimeoutStartSec": ("it has a key of its own", "set the key load-timeout"),
    "TimeoutStopSec": ("it has a key of its own", "set the key stop-timeout"),
    "TimeoutSec": ("it has keys of its own", "set the keys load-timeout and stop-timeout"),
    "PrivateDevices": ("it would hide the GPU", "set DeviceAllow"),
    "SetCredential": ("everyone could read it over D-Bus", "set LoadCredential"),
}

TABLES: Mapping[str, Mapping[str, Property]] = {"resources": RESOURCES, "service": SERVICE}


def read(table: str, name: str, value: object) -> dict[str, Variant]:
    """What goes over D-Bus for one line of a model file's `[table]`. Raises BadValue."""
    found = TABLES[table].get(name)
    if found is None:
        raise _unknown(table, name)
    return found.variants(name, value)


def _unknown(table: str, name: str) -> BadValue:
    if name in REFUSED:
        reason, remedy = REFUSED[name]
        return BadValue(f"a model file does not set this: {reason}", remedy)
    other = next((other for other, entries in TABLES.items() if other != table and name in entries), None)
    if other is not None:
        return BadValue(f"it does not belong in [{table}]", f"move it to [{other}]")
    known = [*RESOURCES, *SERVICE, *REFUSED]
    return BadValue(
        "not a unit property that a model file may set",
        suggestion(name, known, f"those of [{table}] are in the JSON Schema of model files"),
    )
