"""Sizes and durations as people write them, and back. Nothing else has a unit in configuration files.

Sizes are binary whatever the suffix, as in systemd: `10G` and `10 GiB` are the same. Durations are systemd's time
spans; a bare number is seconds. (systemd.resource-control(5), systemd.time(7))
"""

from __future__ import annotations

import re
from fractions import Fraction

from aitherd.config.problem import BadValue
from aitherd.core.words import Bytes, Seconds

MAX_SIZE: Bytes = 2**63 - 1
MAX_DURATION: Seconds = 10 * 365 * 86400.0
MAX_TEXT = 64
"""Characters; no honest size or duration is longer."""

SIZE_PREFIXES = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
DURATION_UNITS: dict[str, Fraction] = {
    name: length
    for names, length in (
        ("us usec µs μs", Fraction(1, 1_000_000)),
        ("ms msec", Fraction(1, 1000)),
        ("s sec second seconds", Fraction(1)),
        ("m min minute minutes", Fraction(60)),
        ("h hr hour hours", Fraction(3600)),
        ("d day days", Fraction(86400)),
        ("w week weeks", Fraction(7 * 86400)),
    )
    for name in names.split()
}
ENDLESS = ("infinity", "never")

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_SIZE = re.compile(_NUMBER + r" *([KMGTP]?)(iB|B|)", re.IGNORECASE)
_SPAN = re.compile(_NUMBER + r" *([A-Za-zµμ]*) *")

_SIZE_REMEDY = 'write a size such as "5.2 GiB", "512 MiB" or "10G"'
_DURATION_REMEDY = 'write a duration such as "5min", "1h 30min" or "250ms"'


def parse_size(value: object) -> Bytes:
    """Bytes of a size: a whole number of bytes, or text with a binary suffix. Raises BadValue."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise BadValue("a size cannot be negative", _SIZE_REMEDY)
        return _bounded(value)
    if not isinstance(value, str):
        raise BadValue("not a size", _SIZE_REMEDY)
    match = _SIZE.fullmatch(value.strip()) if len(value) <= MAX_TEXT else None
    if match is None:
        raise BadValue("not a size", _SIZE_REMEDY)
    number, prefix, unit = match[1], match[2].upper(), match[3]
    if prefix and unit.upper() == "B":
        # Some read it as a power of 1000, some as one of 1024: bytes of device memory are not to be guessed.
        raise BadValue(f"{prefix}B may mean two sizes", f'write "{number} {prefix}iB", which is a power of 1024')
    if not prefix and unit.lower() == "ib":
        raise BadValue("not a size", _SIZE_REMEDY)
    return _bounded(int(Fraction(number) * 1024 ** SIZE_PREFIXES[prefix]))


def size_text(count: Bytes) -> str:
    """A size that `parse_size` reads back exactly, with the largest suffix that leaves no fraction."""
    exponent = 0
    while count and exponent < 5 and count % 1024 == 0:
        count //= 1024
        exponent += 1
    return f"{count} {' KMGTP'[exponent].strip()}{'i' if exponent else ''}B"


def parse_duration(value: object) -> Seconds:
    """Seconds of a duration: a number of seconds, or a time span. Raises BadValue, for `infinity` too."""
    seconds = parse_endless(value)
    if seconds is None:
        raise BadValue("it must end", _DURATION_REMEDY)
    return seconds


def parse_endless(value: object) -> Seconds | None:
    """As `parse_duration`, with None for `infinity` and `never`. Raises BadValue."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadValue("not a duration", _DURATION_REMEDY)
    if isinstance(value, str):
        text = value.strip()
        if text in ENDLESS:
            return None
        seconds = float(_spans(text))
    else:
        seconds = value
    if not 0 <= seconds <= MAX_DURATION:  # not a number is refused here as well
        raise BadValue("not between 0 and 10 years", _DURATION_REMEDY)
    return float(seconds)


def duration_text(seconds: Seconds | None) -> str:
    """A duration that `parse_endless` reads back exactly to the microsecond."""
    if seconds is None:
        return "infinity"
    left = round(seconds * 1_000_000)
    parts = []
    for name, length in (("d", 86400 * 10**6), ("h", 3600 * 10**6), ("min", 60 * 10**6), ("s", 10**6), ("ms", 1000)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{name}")
    if left:
        parts.append(f"{left}us")
    return " ".join(parts) or "0s"


def _spans(text: str) -> Fraction:
    total, position = Fraction(0), 0
    if not text or len(text) > MAX_TEXT:
        raise BadValue("not a duration", _DURATION_REMEDY)
    while position < len(text):
        match = _SPAN.match(text, position)
        if match is None or (match[2] and match[2] not in DURATION_UNITS):
            raise BadValue("not a duration", _DURATION_REMEDY)
        total += Fraction(match[1]) * DURATION_UNITS[match[2] or "s"]
        position = match.end()
    return total


def _bounded(count: int) -> Bytes:
    if count > MAX_SIZE:
        raise BadValue("larger than any machine", _SIZE_REMEDY)
    return count
