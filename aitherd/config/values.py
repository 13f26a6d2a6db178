"""Values of systemd's unit properties: as written in unit files, to what D-Bus takes. Which property takes which kind
of value is the table in `properties.py`.

Each function takes a TOML value and returns the D-Bus value, or raises BadValue. (systemd.exec(5),
systemd.resource-control(5), org.freedesktop.systemd1(5))
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from aitherd.config.problem import BadValue, suggestion
from aitherd.config.units import parse_endless, parse_size

INFINITY = 2**64 - 1
"""How D-Bus says `infinity` where it takes an unsigned 64-bit number."""
UINT32_MAX = 2**32 - 1
MAX_CPUS = 8192
"""CPUs or memory nodes that a mask may name; the kernel's own limit for x86-64."""
MS_REC = 16384
"""mount(2): the flag of a bind mount that takes the mounts below along."""

YES = ("yes", "true", "on", "1")
NO = ("no", "false", "off", "0")

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_PERCENT = re.compile(r"([0-9]{1,6})(?:\.([0-9]{1,2}))?%")
_RANGES = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?([,\s]+[0-9]{1,5}(-[0-9]{1,5})?)*")


def text(value: object) -> str:
    """One line of text."""
    if not isinstance(value, str):
        raise BadValue("not text", "put it in quotation marks")
    if not value or not value.isprintable():
        raise BadValue("empty, or with control characters", "write it on one line")
    return value


def boolean(value: object) -> bool:
    """`true`, or systemd's `"yes"`."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in YES + NO:
        return value.lower() in YES
    raise BadValue("neither true nor false", "write true or false")


def number(low: int, high: int, *words: tuple[str, int]) -> Callable[[object], int]:
    """A whole number within a range, or one of the words that stand for one."""

    def parse(value: object) -> int:
        for word, meaning in words:
            if value == word:
                return meaning
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            also = "".join(f', or "{word}"' for word, _ in words)
            raise BadValue(f"not a whole number from {low} to {high}{also}", "take one from that range")
        return value

    return parse


def choice(*words: str) -> Callable[[object], str]:
    """One of a closed set of words. `true` and `false` stand for `yes` and `no` where those are among them."""

    def parse(value: object) -> str:
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if not isinstance(value, str) or value not in words:
            known = ", ".join(words)
            raise BadValue(f"not one of {known}", suggestion(str(value), words, "take one of them"))
        return value

    return parse


def size(value: object) -> int:
    """A size, or `infinity`."""
    return INFINITY if value == "infinity" else parse_size(value)


def fraction(value: object) -> int | None:
    """A percentage from 0 to 100 as D-Bus scales it to 32 bits; None when the value is no percentage."""
    if not isinstance(value, str) or not value.endswith("%"):
        return None
    hundredths = _hundredths(value)
    if hundredths > 100_00:
        raise BadValue("more than 100%", "write a part of the whole, such as 60%")
    return (hundredths * UINT32_MAX + 5000) // 10000


def pressure(value: object) -> int:
    """A percentage from 0 to 100 as D-Bus scales it."""
    scaled = fraction(value)
    if scaled is None:
        raise BadValue("not a percentage", 'write it as "60%"')
    return scaled


def cpu_quota(value: object) -> int:
    """CPU time as a percentage of one CPU, in microseconds a second."""
    if value in ("", "infinity"):
        return INFINITY
    if not isinstance(value, str):
        raise BadValue("not a percentage", 'write it as "150%": one and a half CPUs')
    hundredths = _hundredths(value)
    if hundredths == 0:
        raise BadValue("no CPU time at all", 'write it as "150%": one and a half CPUs')
    return hundredths * 100


def microseconds(value: object) -> int:
    """A duration, or `infinity`."""
    seconds = parse_endless(value)
    return INFINITY if seconds is None else round(seconds * 1_000_000)


def mask(value: object) -> bytes:
    """Numbers and ranges (`0-3,8`) as a bit mask, lowest first."""
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    remedy = 'write numbers and ranges such as "0-3,8"'
    if not isinstance(value, str) or not _RANGES.fullmatch(value.strip()):
        raise BadValue("not a list of numbers", remedy)
    bits = bytearray()
    for part in re.split(r"[,\s]+", value.strip()):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if low > high or high >= MAX_CPUS:
            raise BadValue(f"{part} is not a range below {MAX_CPUS}", remedy)
        bits.extend(bytes(max(high // 8 + 1 - len(bits), 0)))
        for bit in range(low, high + 1):
            bits[bit // 8] |= 1 << bit % 8
    return bytes(bits)


def items(one: Callable[[str], object], *, words: bool = False) -> Callable[[object], list[object]]:
    """A list of values, or a single one; with `words` a single text is cut at blanks, as in unit files."""

    def parse(value: object) -> list[object]:
        if isinstance(value, str) and words:
            value = value.split() or ""
        entries = value if isinstance(value, list) else [value]
        return [one(text(entry)) for entry in entries]

    return parse


def path(value: str) -> str:
    """An absolute path; `-` before it means that it may be missing, `+` that it is below the unit's root."""
    bare = value.removeprefix("-").removeprefix("+")
    if not bare.startswith("/") or ".." in bare.split("/"):
        raise BadValue(f"{value} is not an absolute path", "write the whole path, without '..'")
    return value


def directory(value: object) -> str:
    """A directory to work in: an absolute path, or `~`."""
    written = text(value)
    return written if written.removeprefix("-") == "~" else path(written)


def environment(value: object) -> list[str]:
    """`["NAME=value"]`, or a table of names and values."""
    remedy = 'write ["NAME=value"], or a table { NAME = "value" }'
    if isinstance(value, dict):
        entries = [f"{name}={content}" for name, content in value.items() if isinstance(content, str)]
        if len(entries) < len(value):
            raise BadValue("a value that is not text", remedy)
    elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        entries = value
    else:
        raise BadValue("not a list of assignments", remedy)
    for entry in entries:
        if not _ASSIGNMENT.fullmatch(entry):
            raise BadValue(f"{entry} is not an assignment", remedy)
        if any((ord(c) < 32 and c not in "\t\n") or c == "\x7f" for c in entry):
            raise BadValue("control characters in a value", "remove them")
    return list(entries)


def variable(value: str) -> str:
    """The name of an environment variable."""
    if not _ASSIGNMENT.fullmatch(f"{value}="):
        raise BadValue(f"{value} is not the name of a variable", "write names such as HF_HUB_OFFLINE")
    return value


def environment_file(value: str) -> tuple[str, bool]:
    """A file of assignments; `-` before it means that it may be missing."""
    return path(value).removeprefix("-"), value.startswith("-")


def credential(value: str) -> tuple[str, str]:
    """`ID:PATH`."""
    name, _, source = value.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", name) or not source:
        raise BadValue(f"{value} is not ID:PATH", 'write it as "hf-token:/etc/credstore/hf-token"')
    return name, source


def device_rule(value: str) -> tuple[str, str]:
    """A device node or class, and what may be done to it (`/dev/dri/renderD128 rw`)."""
    node, _, access = value.partition(" ")
    access = access.strip() or "rwm"
    if not node.startswith(("/dev/", "char-", "block-")) or not re.fullmatch(r"r?w?m?", access):
        raise BadValue(f"{value} is not a device and its access", 'write it as "char-nvidia* rw"')
    return node, access


def device_number(amount: Callable[[object], int]) -> Callable[[str], tuple[str, int]]:
    """A device or file system, and a number (`/dev/nvme0n1 100`)."""

    def parse(value: str) -> tuple[str, int]:
        node, _, rest = value.partition(" ")
        if not rest.strip():
            raise BadValue(f"{value} is not a path and a number", 'write it as "/dev/nvme0n1 100"')
        return path(node), amount(rest.strip())

    return parse


def bandwidth(value: object) -> int:
    """Bytes a second, or `infinity`. Its suffixes are powers of 1000, as systemd has them here."""
    if value == "infinity":
        return INFINITY
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)", str(value))
    if match is None:
        raise BadValue("not a bandwidth", 'write bytes a second, such as "200M"')
    return int(match[1]) * int(1000 ** " KMGT".index(match[2] or " "))


def bind(value: str) -> tuple[str, str, bool, int]:
    """`SOURCE[:DESTINATION[:rbind|norbind]]`; `-` before it means that the source may be missing."""
    optional = value.startswith("-")
    source, *rest = value.removeprefix("-").split(":")
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in ("rbind", "norbind")):
        raise BadValue(f"{value} is not SOURCE:DESTINATION", 'write it as "/srv/models" or "/srv/models:/models"')
    flags = 0 if rest[1:] == ["norbind"] else MS_REC
    return path(source), path(rest[0] if rest else source), optional, flags


def address(value: object) -> list[tuple[int, bytes, int]]:
    """Networks as (address family, address, prefix length), and systemd's words for some."""
    import ipaddress

    words = {
        "any": ("0.0.0.0/0", "::/0"),
        "localhost": ("127.0.0.0/8", "::1/128"),
        "link-local": ("169.254.0.0/16", "fe80::/64"),
        "multicast": ("224.0.0.0/4", "ff00::/8"),
    }
    networks: list[tuple[int, bytes, int]] = []
    for entry in items(str, words=True)(value):
        for written in words.get(str(entry), (str(entry),)):
            try:
                network = ipaddress.ip_network(written, strict=False)
            except ValueError:
                raise BadValue(
                    f"{written} is not a network", 'write it as "192.168.1.0/24", "any" or "localhost"'
                ) from None
            # AF_INET and AF_INET6 as Linux numbers them.
            networks.append((2 if network.version == 4 else 10, network.network_address.packed, network.prefixlen))
    return networks


def filter_list(pattern: str, remedy: str) -> Callable[[object], tuple[bool, list[str]]]:
    """A list that allows what it names, or with `~` before it, everything but that: (allows, names)."""

    def parse(value: object) -> tuple[bool, list[str]]:
        names = [str(entry) for entry in items(str, words=True)(value)]
        allows = not (names and names[0].startswith("~"))
        if not allows:
            names[0] = names[0].removeprefix("~")
        for name in names:
            if not re.fullmatch(pattern, name):
                raise BadValue(f"{name} is not a name that goes here", remedy)
        return allows, names

    return parse


def kill_signal(value: object) -> int:
    """A signal by name."""
    try:
        return signal.Signals[text(value)].value
    except KeyError:
        names = [member.name for member in signal.Signals]
        raise BadValue("not a signal", suggestion(str(value), names, 'write it as "SIGINT"')) from None


def limits(one: Callable[[object], int]) -> Callable[[object], tuple[int, int]]:
    """A resource limit, or `SOFT:HARD`: (soft, hard)."""

    def parse(value: object) -> tuple[int, int]:
        soft, colon, hard = value.partition(":") if isinstance(value, str) else (value, "", value)
        low, high = one(soft), one(hard if colon else soft)
        if low > high:
            raise BadValue("the soft limit is above the hard one", "write SOFT:HARD")
        return low, high

    return parse


def _hundredths(value: str) -> int:
    match = _PERCENT.fullmatch(value)
    if match is None:
        raise BadValue("not a percentage", 'write it as "60%"')
    return int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
