"""Whether what is configured fits the devices: the sums that can be known before anything runs.

Only sizes count here; who is on a device at a given moment is the arbiter's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path

from aitherd.config.fleet import Fleet, Model
from aitherd.config.problem import Problem
from aitherd.core.words import HOST, Bytes, DeviceId, ResidencyClass, format_bytes
from aitherd.engines.checkpoint import too_old

MAX_TRIES = 20_000
"""Placements tried before the models count as fitting: no sum may keep the daemon from starting for seconds."""


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """What one device has for the models that come and go."""

    device: DeviceId
    total: Bytes
    reserve: Bytes
    essentials: tuple[tuple[str, Bytes], ...]
    """Essential models that stand on it, and the bytes each has there."""
    left: Bytes
    """Bytes for all others together; negative when the essential models do not fit."""
    others: tuple[tuple[str, Bytes], ...]
    """Models that come and go on it, and the bytes each needs there. More than `left` never fits."""


def check(fleet: Fleet, totals: Mapping[DeviceId, Bytes]) -> tuple[Problem, ...]:
    """See `aitherd.config.check_devices`."""
    sizes = _devices(totals)
    if not sizes:
        return ()
    problems = [problem for model in fleet.models.values() for problem in _model(model, sizes)]
    essentials = _essentials(fleet, sizes)
    if _place(essentials, fleet, sizes) is None:
        return (*problems, _too_much(essentials, fleet, sizes))
    for model in fleet.models.values():
        if model in essentials or not _candidates(model, sizes):
            continue
        if _place((*essentials, model), fleet, sizes) is None:
            problems.append(_never(model, essentials, fleet, sizes))
    return tuple(problems)


def driver_problems(fleet: Fleet, driver: str) -> tuple[Problem, ...]:
    """See `aitherd.config.check_driver`."""
    problem = too_old(driver)
    message, _, remedy = problem.partition("; ")
    models = [model for model in fleet.models.values() if model.checkpoint] if problem else []
    return tuple(Problem(model.path, "checkpoint", "true", message, remedy) for model in models)


def budgets(fleet: Fleet, totals: Mapping[DeviceId, Bytes]) -> tuple[DeviceBudget, ...]:
    """The budget of each device, with the essential models where they fit best.

    Where they fit nowhere together each is counted on the first devices that it may use.
    """
    sizes = _devices(totals)
    essentials = _essentials(fleet, sizes)
    placed = _place(essentials, fleet, sizes)
    if placed is None:
        placed = {model.name: _candidates(model, sizes)[0] for model in essentials}
    out = []
    for device, total in sizes.items():
        here = tuple((m.name, m.share_on(total)) for m in essentials if device in placed[m.name])
        left = total - fleet.settings.reserve - sum(count for _, count in here)
        others = tuple(
            (model.name, model.share_on(total))
            for model in fleet.models.values()
            if model not in essentials and any(device in devices for devices in _candidates(model, sizes))
        )
        out.append(DeviceBudget(device, total, fleet.settings.reserve, here, left, others))
    return tuple(out)


def _devices(totals: Mapping[DeviceId, Bytes]) -> dict[DeviceId, Bytes]:
    return {device: total for device, total in sorted(totals.items()) if device != HOST and total > 0}


def _essentials(fleet: Fleet, sizes: Mapping[DeviceId, Bytes]) -> tuple[Model, ...]:
    return tuple(
        model
        for model in fleet.models.values()
        if model.residency_class is ResidencyClass.ESSENTIAL and _candidates(model, sizes)
    )


def _candidates(model: Model, sizes: Mapping[DeviceId, Bytes]) -> tuple[tuple[DeviceId, ...], ...]:
    """Sets of devices that it may stand on; none for a model that uses no device memory or has too few devices."""
    if not model.vram and model.utilization is None:
        return ()
    allowed = [device for device in sizes if not model.devices or device in model.devices]
    return tuple(islice(combinations(allowed, model.span), MAX_TRIES))


def _place(
    models: Sequence[Model], fleet: Fleet, sizes: Mapping[DeviceId, Bytes]
) -> dict[str, tuple[DeviceId, ...]] | None:
    """Devices for every model so that all fit together above the reserve, or None when there are none."""
    free = {device: total - fleet.settings.reserve for device, total in sizes.items()}
    order = sorted(models, key=lambda model: model.vram_on(max(sizes.values())), reverse=True)
    chosen: dict[str, tuple[DeviceId, ...]] = {}
    tries = MAX_TRIES

    def seat(index: int) -> bool:
        nonlocal tries
        if index == len(order):
            return True
        model = order[index]
        for devices in _candidates(model, sizes):
            shares = {device: model.share_on(sizes[device]) for device in devices}
            tries -= 1
            if tries > 0 and any(share > free[device] for device, share in shares.items()):
                continue
            chosen[model.name] = devices
            for device, share in shares.items():
                free[device] -= share
            if seat(index + 1):
                return True
            for device, share in shares.items():
                free[device] += share
        return False

    return chosen if seat(0) else None


def _model(model: Model, sizes: Mapping[DeviceId, Bytes]) -> Iterator[Problem]:
    """What the devices say about one model by itself."""
    absent = [device for device in model.devices if device not in sizes]
    if absent:
        # Not an error: a device that is lost must not keep the others from serving.
        yield Problem(
            model.path,
            "devices",
            ", ".join(absent),
            "there is no such device now",
            f"there is {', '.join(sizes)}",
            error=False,
        )
    elif (model.vram or model.utilization) and not _candidates(model, sizes):
        yield Problem(
            model.path, "span", str(model.span), f"there are {len(sizes)} devices only", "lower span", error=False
        )
    if model.vram and model.utilization is not None:
        for device in dict.fromkeys(device for devices in _candidates(model, sizes) for device in devices):
            takes = int(model.utilization * sizes[device])
            if takes > model.share_on(sizes[device]):
                yield Problem(
                    model.path,
                    "vram",
                    format_bytes(model.vram),
                    f"--gpu-memory-utilization {model.utilization:.2f} takes {format_bytes(takes)} of {device}",
                    "leave vram out",
                    error=False,
                )


def _too_much(essentials: Sequence[Model], fleet: Fleet, sizes: Mapping[DeviceId, Bytes]) -> Problem:
    largest = max(essentials, key=lambda model: model.vram_on(max(sizes.values())))
    text, detail = _sum(essentials, fleet, sizes)
    return Problem(
        largest.path,
        "vram",
        format_bytes(largest.vram_on(max(sizes.values()))),
        f"the essential models do not fit: {text}",
        "shrink one, or give one another class",
        detail=detail,
    )


def _never(model: Model, essentials: Sequence[Model], fleet: Fleet, sizes: Mapping[DeviceId, Bytes]) -> Problem:
    text, detail = _sum((model, *essentials), fleet, sizes)
    beside = " beside the essential models" if essentials else ""
    return Problem(
        model.path,
        "vram",
        format_bytes(model.vram_on(max(sizes.values()))),
        f"{model.name} can never be loaded{beside}: {text}",
        "a tier takes its next route at once, a request by its name is refused (no_room); shrink it, or move it",
        error=False,
        detail=detail,
    )


def _sum(models: Sequence[Model], fleet: Fleet, sizes: Mapping[DeviceId, Bytes]) -> tuple[str, tuple[str, ...]]:
    """The sum that is too large, in a clause and line by line: of one device where one is to blame, else of all."""
    devices = next((d for d in ((device,) for device in sizes) if _overfull(models, fleet, sizes, d)), tuple(sizes))
    here = [model for model in models if _only_on(model, sizes, devices)]
    rows: list[tuple[str, Bytes, Path | str]] = [
        (model.name, sum(model.share_on(sizes[d]) for d in _candidates(model, sizes)[0] if d in devices), model.path)
        for model in here
    ]
    reserve = fleet.settings.reserve * len(devices)
    rows.append(("reserve", reserve, "aitherd.toml, [arbiter] reserve"))
    need, total = sum(count for _, count, _ in rows), sum(sizes[device] for device in devices)
    where = ", ".join(devices)
    clause = " + ".join(f"{name} {format_bytes(count)}" for name, count, _ in rows)
    if need > total:
        text = f"{clause} = {format_bytes(need)}, but {where} has {format_bytes(total)}"
    else:
        text = f"{clause} cannot be dealt out to {where} with {format_bytes(total)} together"
    results: list[tuple[str, Bytes, Path | str]] = [("together", need, ""), (f"{where} has", total, "")]
    if need > total:
        results.append(("missing", need - total, ""))
    width = max(len(name) for name, _, _ in (*rows, *results))
    lines = [
        f"{name:<{width}}  {format_bytes(count):>9}  {source}".rstrip() for name, count, source in (*rows, *results)
    ]
    return text, tuple(lines)


def _only_on(model: Model, sizes: Mapping[DeviceId, Bytes], devices: Sequence[DeviceId]) -> bool:
    """Whether it has no placement without one of `devices`."""
    return all(any(device in devices for device in placement) for placement in _candidates(model, sizes))


def _overfull(
    models: Sequence[Model], fleet: Fleet, sizes: Mapping[DeviceId, Bytes], devices: Sequence[DeviceId]
) -> bool:
    """Whether the models that need one certain device are too much for it."""
    (device,) = devices
    need = sum(model.share_on(sizes[device]) for model in models if _only_on(model, sizes, devices))
    return need + fleet.settings.reserve > sizes[device]
