"""How things look to a person: tables, colours, sizes and times. Colours only on a terminal, and not with NO_COLOR."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from aitherd.core.words import HOST, Bytes, DeviceId, Seconds, format_bytes, format_seconds

STYLES: Mapping[str, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
"""SGR parameters, ECMA-48."""

RESIDENCIES: Mapping[str, tuple[str, str]] = {
    "ready": ("●", "green"),
    "sleeping": ("◐", "green"),
    "starting": ("↻", "yellow"),
    "stopping": ("↻", "yellow"),
    "absent": ("○", ""),
    "failed": ("×", "red"),
    "quarantined": ("×", "red"),
}
"""Mark and style of each residency, much as systemctl has them for units."""

DAY: Seconds = 86400.0

BAR = 16
"""Width of a bar, in characters."""


def coloured(stream: TextIO | None = None) -> bool:
    """Whether colours are wanted. https://no-color.org"""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, name: str) -> str:
    """`text` in a style, where colours are wanted."""
    return f"\033[{STYLES[name]}m{text}\033[0m" if name and coloured() else text


def printable(text: str) -> str:
    """`text` on one line, without what would change the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    wide = (2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
    return sum(wide)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Mapping[str, str] | None = None,
    *,
    indent: int = 0,
) -> str:
    """Aligned columns below `head`, which may be empty. A cell whose text is a key of `styles` gets that style.

    On a terminal lines are cut at its edge; elsewhere nothing is lost.
    """
    cells = [[printable(cell) for cell in row] for row in ((head, *rows) if head else rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(cells[0]))] if cells else []
    edge = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else None
    lines = []
    for number, row in enumerate(cells):
        parts: list[str] = []
        left = edge
        for column, cell in enumerate(row):
            if left is not None and left <= 0:
                break
            shown = cell if left is None else cut(cell, left)
            pad = "" if column == len(row) - 1 else " " * (widths[column] - width(shown) + 2)
            left = None if left is None else left - widths[column] - 2
            look = "bold" if head and number == 0 else (styles or {}).get(cell, "")
            parts.append((style(shown, look) if shown else "") + pad)
        lines.append(" " * indent + "".join(parts).rstrip())
    return "\n".join(lines)


def cut(text: str, columns: int) -> str:
    """`text`, or what of it fits with an ellipsis."""
    if width(text) <= columns:
        return text
    while text and width(text) >= columns:
        text = text[:-1]
    return text + "…" if columns > 0 else ""


def residency_styles() -> Mapping[str, str]:
    """For `table`."""
    return {residency: name for residency, (_, name) in RESIDENCIES.items()}


def bar(part: Bytes, whole: Bytes) -> str:
    """How full something is."""
    filled = round(BAR * min(max(part / whole, 0.0), 1.0)) if whole > 0 else 0
    return f"[{'█' * filled}{'░' * (BAR - filled)}]"


def nobodys(device: DeviceId) -> str:
    """What memory of a device is called that no process which is known of holds."""
    return "in use" if device == HOST else "driver"


def size(count: Bytes) -> str:
    """Bytes, or a dash for none."""
    return format_bytes(count) if count else "-"


def instant(at: Seconds) -> str:
    """A Unix time as systemctl writes it, and how long ago it was."""
    stamp = time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(at))
    age = max(time.time() - at, 0.0)
    return f"{stamp}; {format_seconds(age) if age < 2 * DAY else f'{age // DAY:.0f} days'} ago"


def print_json(value: Any) -> None:
    """For programs: on a terminal indented, else on one line."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))
