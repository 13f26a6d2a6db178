"""What there is: `list`, `status`, `devices`, `version`."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence

from aitherd import __version__
from aitherd.core.words import format_bytes, format_seconds
from aitherd.ctl.client import Client, Values, run
from aitherd.ctl.explain import record_lines
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import (
    RESIDENCIES,
    bar,
    instant,
    nobodys,
    print_json,
    printable,
    residency_styles,
    size,
    style,
    table,
)

MODEL_HEAD = ("MODEL", "CLASS", "RESIDENCY", "VRAM", "NEEDS", "REQUESTS", "STOPS", "DESCRIPTION")


def list_models(arguments: argparse.Namespace) -> int:
    """All models, a line each."""

    async def command(client: Client) -> int:
        models, _ = await client.fleet()
        if arguments.json:
            print_json(models)
        else:
            print(model_table(models))
        return Exit.OK

    return run(arguments, command)


def status(arguments: argparse.Namespace) -> int:
    """Models in full, or the whole fleet in short."""

    async def command(client: Client) -> int:
        if not arguments.names:
            return await fleet_status(client, as_json=arguments.json)
        models = [await client.model(name) for name in dict.fromkeys(arguments.names)]
        for model in models:
            running = model["residency"] != "absent"
            model["host_bytes"] = await client.host_memory(model["engine_unit"]) if running else None
            model["records"] = await client.history(model["name"], arguments.lines)
        if arguments.json:
            print_json(models)
        else:
            print("\n\n".join("\n".join(model_block(model)) for model in models))
        return Exit.OK if all(model["residency"] == "ready" for model in models) else Exit.NOT_READY

    return run(arguments, command)


def devices(arguments: argparse.Namespace) -> int:
    """Who holds what on each device."""

    async def command(client: Client) -> int:
        models, found = await client.fleet()
        leases = (await client.daemon())["leases"]
        for device in found:
            device["models"] = holders(device, models)
            device["leases"] = [one for one in leases if one["device"] == device["id"] and not one["waiting"]]
        if arguments.json:
            print_json(found)
        else:
            print("\n\n".join("\n".join(device_block(device, models)) for device in found) or "no device is known")
        return Exit.OK

    return run(arguments, command)


def version(arguments: argparse.Namespace) -> int:
    """The versions of both programs. Does not start the daemon."""

    async def command(client: Client) -> int:
        daemon = (await client.daemon())["version"] if await client.running() else None
        if arguments.json:
            print_json({"aitherctl": __version__, "aitherd": daemon})
        else:
            print(f"aitherctl {__version__}\naitherd {daemon or 'does not run'}")
        return Exit.OK

    try:
        return run(arguments, command)
    except Failure:
        # Without a bus there still is this program.
        print_json({"aitherctl": __version__, "aitherd": None}) if arguments.json else print(f"aitherctl {__version__}")
        return Exit.OK


async def fleet_status(client: Client, *, as_json: bool) -> int:
    """The daemon, its devices and its models."""
    daemon = await client.daemon()
    models, found = await client.fleet()
    for device in found:
        device["models"] = holders(device, models)
    if as_json:
        print_json({"daemon": daemon, "devices": found, "models": models})
        return Exit.OK
    mark = style("●", "green" if daemon["healthy"] else "red")
    print(f"{mark} aitherd {daemon['version']}" + ("" if daemon["healthy"] else ": it cannot do all its work"))
    for problem in daemon["problems"]:
        print(f"  {style(printable(problem), 'red')}")
    if found:
        print(device_table(found, indent=2))
    for lease in daemon["leases"]:
        print(f"  {printable(lease_line(lease))}")
    print(f"\n{model_table(models)}")
    return Exit.OK


def model_table(models: Sequence[Values]) -> str:
    """A line for each model, and below them one for each that is in trouble, which says all of it."""
    if not models:
        return "no model is configured"
    rows = [
        (
            model["name"],
            model["class"],
            model["residency"],
            size(sum(model["measured_bytes"].values())),
            size(model["expected_bytes"]),
            requests(model),
            stops(model),
            model["stage"] or model["description"],
        )
        for model in models
    ]
    return "\n".join([table(MODEL_HEAD, rows, residency_styles()), *troubles(models)])


def troubles(models: Sequence[Values]) -> Iterator[str]:
    """What is wrong, of each model of which anything is."""
    for model in models:
        if model["error"]:
            named = model["error"].startswith(f"{model['name']} ")
            yield style(printable(f"× {model['error']}" if named else f"× {model['name']}: {model['error']}"), "red")


def requests(model: Values) -> str:
    """In flight and waiting, in a few characters."""
    waiting = f"+{model['waiting']} waiting" if model["waiting"] else ""
    return " ".join(filter(None, [str(model["in_flight"] or ""), waiting])) or ("busy" if model["busy"] else "-")


def stops(model: Values) -> str:
    """When it stops by itself."""
    if model["held"]:
        return "held"
    return f"in {format_seconds(max(model['stops_at'] - time.time(), 0.0))}" if model["stops_at"] else "-"


def model_block(model: Values) -> Iterator[str]:
    """One model in full, as systemctl shows a unit."""
    mark, colour = RESIDENCIES.get(model["residency"], ("●", ""))
    description = printable(model["description"])
    yield f"{style(mark, colour)} {model['name']}" + (f" - {description}" if description else "")
    for label, text in model_facts(model, colour):
        yield f"{label:>12}: {text}"
    if model["records"]:
        yield ""
        yield from record_lines(model["records"])


def model_facts(model: Values, colour: str) -> Iterator[tuple[str, str]]:
    """What is known of a model, each with its label."""
    level = f" (level {model['level']})" if model["level"] else ""
    yield (
        "Residency",
        f"{style(model['residency'] + level, colour)} since {instant(model['since'])}"
        if model["since"]
        else style(model["residency"], colour),
    )
    for label, key in (("Stage", "stage"), ("Error", "error")):
        if model[key]:
            yield label, style(printable(model[key]), colour)
    yield "Class", f"{model['class']}, engine {model['engine']}"
    if model["held"]:
        yield "Held", "until it is released or stopped"
    elif model["stops_at"]:
        yield "Stops", f"{stops(model)} unless it is used"
    used = f"last used {instant(model['last_used'])}" if model["last_used"] else "not used yet"
    yield "Requests", f"{model['in_flight']} in flight, {model['waiting']} waiting; {used}"
    measured = ", ".join(f"{format_bytes(count)} on {device}" for device, count in model["measured_bytes"].items())
    expected, declared = format_bytes(model["expected_bytes"]), format_bytes(model["declared_bytes"])
    yield "VRAM", f"{measured or 'none'} (expected {expected}, declared {declared})"
    if model.get("host_bytes") is not None:
        yield "Memory", format_bytes(model["host_bytes"])
    if model["serves"]:
        yield "Serves", printable(", ".join(model["serves"]))
    yield "Unit", f"{model['unit']}, engine in {model['engine_unit']}"
    if model["endpoint"]:
        yield "Endpoint", printable(model["endpoint"])
    yield "Command", printable(shlex.join(model["command"]))


def holders(device: Values, models: Sequence[Values]) -> dict[str, int]:
    """Bytes of each model on a device, largest first."""
    held = {model["name"]: model["measured_bytes"].get(device["id"], 0) for model in models}
    return {name: count for name, count in sorted(held.items(), key=lambda entry: -entry[1]) if count}


def lease_line(lease: Values) -> str:
    """A lease in one line."""
    promised, on = format_bytes(lease["bytes"]), lease["device"] or "any device"
    if lease["waiting"]:
        doing = lease["stage"] or "no turn yet"
        return f"lease {lease['id']}  {lease['purpose']} waits for {promised} on {on}: {doing}"
    return f"lease {lease['id']}  {lease['purpose']} uses {format_bytes(lease['used'])} of {promised} on {on}"


def device_table(devices: Sequence[Values], *, indent: int = 0) -> str:
    """A line for each device."""
    rows, styles = [], {}
    for device in devices:
        name, used = device["name"], device["total"] - device["free"]
        if device["fresh"]:
            spare = max(device["free"] - device["reserve"], 0)
            holds = f"{format_bytes(used)} of {format_bytes(device['total'])} used, {format_bytes(spare)} free"
            rows.append((device["id"], bar(used, device["total"]), holds, name))
        else:
            rows.append((device["id"], "", device["problem"] or "cannot be measured", name))
            styles[rows[-1][2]] = "red"
    return table((), rows, styles, indent=indent)


def device_block(device: Values, models: Sequence[Values]) -> Iterator[str]:
    """A device and who holds its memory; where it can be measured that is all of it but what is free."""
    yield device_table([device])
    if not device["fresh"]:
        return
    residency = {model["name"]: model["residency"] for model in models}
    rows = [(name, device["models"][name], residency[name]) for name in device["models"]]
    rows += [
        (one["purpose"], max(one["used"], 0), f"of {format_bytes(one['bytes'])}, lease {one['id']}, PID {one['pid']}")
        for one in device["leases"]
    ]
    rows += [(one["name"], one["bytes"], f"foreign, PID {one['pid']}") for one in device["foreign"]]
    if device["quarantined"]:
        rows.append(("quarantined", device["quarantined"], "left behind by stopped models"))
    nobodys_bytes = device["total"] - device["free"] - sum(count for _, count, _ in rows)
    if nobodys_bytes > 0:
        rows.append((nobodys(device["id"]), nobodys_bytes, "by no model"))
    rows.append(("reserve", device["reserve"], "no plan may use it"))
    shown = [(owner, format_bytes(count), what) for owner, count, what in rows]
    yield table(("OWNER", "HOLDS", ""), shown, residency_styles(), indent=2)
