"""The screen of `top`, made from what the bus says: a bar for each device, a line for each model, the last decisions.

Nothing is asked here, and nothing is remembered between two screens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.text import Text

from aitherd.core.words import HOST, Bytes, format_bytes, format_seconds
from aitherd.ctl.client import Values
from aitherd.ctl.explain import EVENT_WIDTH, EVENTS
from aitherd.ctl.terminal import RESIDENCIES, nobodys, printable

PALETTE = ("blue", "green", "magenta", "cyan", "yellow", "bright_blue", "bright_green", "bright_magenta")
"""Colours of models, in the order of their names: a model keeps its own from screen to screen."""
FOREIGN, LEASE, LOST, RESERVE, FREE = "white", "bright_cyan", "red", "bright_black", ""
FULL, SHADE, EMPTY = "█", "▒", "·"
LEAST = 0.01
"""A part of a device below this is not named in the legend, except a model's."""


@dataclass(frozen=True)
class View:
    """What is shown."""

    daemon: Values
    devices: Sequence[Values]
    models: Sequence[Values]
    records: Sequence[Values]


@dataclass(frozen=True)
class Part:
    """A part of a device's memory."""

    label: str
    bytes: Bytes
    style: str
    mark: str = FULL
    named: bool | None = None
    """Whether it is in the legend; None where that goes by its size."""


def screen(view: View, columns: int, rows: int | None) -> Group:
    """The whole of it, `columns` wide and at most `rows` high, None for as high as it needs to be."""
    lines = [*_head(view, columns)]
    for device in view.devices:
        lines += [*_device(device, view, columns)]
    lines.append(Text())
    table = [*_models(view)]
    # At least three decisions stay in sight: they say why.
    room = None if rows is None else rows - len(lines) - min(len(view.records), 3) - 1
    if room is not None and len(table) > max(room, 2):
        table = [*table[: max(room, 2) - 1], Text(f"… {len(table) - max(room, 2) + 1} more", "bright_black")]
    lines += [*table, Text()]
    left = 10 if rows is None else max(rows - len(lines), 0)
    lines += [*_records(view.records[-left:] if left else ())]
    return Group(*(_cut(line, columns) for line in (lines if rows is None else lines[:rows])))


def parts(device: Values, view: View) -> list[Part]:
    """Who holds what of a device; together they are all of it."""
    found = []
    for index, model in enumerate(view.models):
        held = model["measured_bytes"].get(device["id"], 0)
        if held:
            asleep = model["residency"] == "sleeping"
            label = f"{model['name']} (asleep)" if asleep else model["name"]
            found.append(Part(label, held, PALETTE[index % len(PALETTE)], SHADE if asleep else FULL, named=True))
    for lease in view.daemon["leases"]:
        if lease["device"] == device["id"] and not lease["waiting"]:
            found.append(Part(f"{printable(lease['purpose'])} (lease)", max(lease["used"], 0), LEASE, named=True))
    for name, count in _by_name(device["foreign"]):
        found.append(Part(f"{printable(name)} (foreign)", count, FOREIGN, SHADE))
    if device["quarantined"]:
        found.append(Part("quarantined", device["quarantined"], LOST, named=True))
    reserve = min(device["reserve"], device["free"])
    known = sum(part.bytes for part in found) + device["free"]
    if device["total"] - known > device["total"] * LEAST:
        found.append(Part(nobodys(device["id"]), device["total"] - known, FOREIGN, SHADE))
    found.append(Part("free", device["free"] - reserve, FREE, EMPTY, named=False))
    found.append(Part("reserve", reserve, RESERVE, SHADE))
    return found


def _head(view: View, columns: int) -> Iterator[Text]:
    daemon = view.daemon
    health = "green" if daemon["healthy"] else "red"
    ready = sum(model["residency"] == "ready" for model in view.models)
    waiting = sum(model["waiting"] for model in view.models)
    text = f"aitherd {daemon['version']}   {ready} of {len(view.models)} models ready"
    if waiting:
        text += f"   {waiting} requests wait"
    yield _spread(
        Text.assemble(("● ", health), (text, "bold")), Text(time.strftime("%H:%M:%S"), "bright_black"), columns
    )
    for problem in daemon["problems"]:
        yield Text(f"  {printable(problem)}", "red")
    for lease in daemon["leases"]:
        if lease["waiting"]:
            stage = f": {lease['stage']}" if lease["stage"] else ""
            yield Text(f"  {printable(lease['purpose'] + stage)} waits for {format_bytes(lease['bytes'])}", "yellow")


def _device(device: Values, view: View, columns: int) -> Iterator[Text]:
    if device["id"] == HOST:
        name = Text(printable(device["name"]), "bold")
    else:
        name = Text.assemble((f"{device['id']} ", "bold"), (printable(device["name"]), "bright_black"))
    if not device["fresh"]:
        yield Text.assemble(name, (f"  {printable(device['problem'] or 'cannot be measured')}", "red"))
        return
    facts = [f"{format_bytes(max(device['free'] - device['reserve'], 0))} free of {format_bytes(device['total'])}"]
    if device.get("busy") is not None:
        facts.append(f"{device['busy']:.0%} busy")
    if device.get("watts") is not None:
        facts.append(f"{device['watts']:.0f} W")
    yield _spread(name, Text("  ".join(facts)), columns)
    found = parts(device, view)
    yield _bar(found, device["total"], columns)
    yield from _legend(found, device["total"], columns)


def _bar(found: Sequence[Part], total: Bytes, columns: int) -> Text:
    """Each part as long as it is large; rounded so that the whole is as long as the line."""
    line, begun, drawn = Text(), 0, 0
    for part in found:
        begun += part.bytes
        end = min(round(begun / total * columns) if total > 0 else 0, columns)
        line.append(part.mark * max(end - drawn, 0), part.style)
        drawn = max(end, drawn)
    return line


def _legend(found: Sequence[Part], total: Bytes, columns: int) -> Iterator[Text]:
    """What the colours mean, on as many lines as it takes, two at most."""
    line, lines = Text(), 1
    for part in sorted(found, key=lambda part: part.named is not True):
        if not (part.bytes >= total * LEAST if part.named is None else part.named):
            continue
        entry = Text.assemble((part.mark, part.style), f" {part.label} ", (format_bytes(part.bytes), "bright_black"))
        gap = 3 if line else 0
        if line and cell_len(line.plain) + gap + cell_len(entry.plain) > columns:
            yield line
            line, gap, lines = Text(), 0, lines + 1
            if lines > 2:
                return
        line = Text.assemble(line, " " * gap, entry)
    yield line


def _models(view: View) -> Iterator[Text]:
    width = min(max((cell_len(model["name"]) for model in view.models), default=5), 24)
    yield Text(f"  {set_cell_size('MODEL', width)}  RESIDENCY        VRAM  REQUESTS   TOK/S  WHAT", "bold")
    for model in view.models:
        mark, style = RESIDENCIES.get(model["residency"], ("●", ""))
        residency = model["residency"] + (f" {model['level']}" if model["level"] else "")
        held = sum(model["measured_bytes"].values())
        requests = str(model["in_flight"] or "") + (f"+{model['waiting']}" if model["waiting"] else "")
        idle = not model["in_flight"] and not model["waiting"]
        yield Text.assemble(
            (f"{mark} ", style),
            f"{set_cell_size(printable(model['name']), width)}  ",
            (f"{residency:<11}", style),
            f"{format_bytes(held) if held else '-':>10}  ",
            ("busy".rjust(8) if model["busy"] else "-".rjust(8)) if idle else f"{requests:>8}",
            f"{_rate(model):>8}  ",
            _what(model),
        )


def _what(model: Values) -> Text:
    """What happens to it, or will."""
    if model["error"]:
        return Text(printable(model["error"]), "red")
    if model["stage"]:
        return Text(printable(model["stage"]), "yellow")
    if model["held"]:
        return Text("held")
    if model["stops_at"]:
        return Text(f"stops in {format_seconds(max(round(model['stops_at'] - time.time()), 0))}", "bright_black")
    return Text(printable(model["description"]), "bright_black")


def _rate(model: Values) -> str:
    rate = model.get("token_rate")
    return f"{rate:.0f}" if rate else "-"


def _records(records: Sequence[Values]) -> Iterator[Text]:
    for record in records:
        stamp = time.strftime("%H:%M:%S", time.localtime(record["time"]))
        yield Text.assemble(
            (f"{stamp} ", "bright_black"),
            (f"{record['event']:<{EVENT_WIDTH}} ", EVENTS.get(record["event"], "")),
            printable(record["message"]),
        )


def _by_name(foreign: Sequence[Values]) -> list[tuple[str, Bytes]]:
    """Bytes of other programs, by their names: a browser is one however many processes it has. The largest first."""
    held: dict[str, Bytes] = {}
    for one in foreign:
        held[one["name"]] = held.get(one["name"], 0) + one["bytes"]
    return sorted(held.items(), key=lambda entry: -entry[1])


def _spread(left: Text, right: Text, columns: int) -> Text:
    """One at each edge; the left one is cut where they would touch."""
    room = max(columns - cell_len(right.plain) - 2, 0)
    left = _cut(left, room)
    gap = max(columns - cell_len(left.plain) - cell_len(right.plain), 0)
    return Text.assemble(left, " " * gap, right)


def _cut(line: Text, columns: int) -> Text:
    line = line.copy()
    line.truncate(columns, overflow="ellipsis")
    line.no_wrap = True
    return line
