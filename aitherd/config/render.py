"""The configuration for people and programs to read: the files as they count, and what came of checking them.

Nothing is checked here; what is rendered has been loaded before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from aitherd.config.budget import budgets
from aitherd.config.files import Source, Unreadable, model_sources, read, settings_source
from aitherd.config.fleet import Fleet, Model
from aitherd.config.problem import Problem, printable
from aitherd.config.render_routing import (
    caller_json,
    caller_rows,
    tier_json,
    tier_rows,
    upstream_json,
    upstream_rows,
)
from aitherd.config.units import duration_text
from aitherd.core.words import HOST, Bytes, DeviceId, format_bytes


def cat(directories: Sequence[Path]) -> str:
    """Every file that counts below a line with its path, as `systemctl cat` shows units; overrides and masks said."""
    settings = settings_source(directories)
    models, problems = model_sources(directories)
    sources = models if settings is None else (settings, *models)
    parts = [*(_shown(source) for source in sources), *(f"# {problem}\n" for problem in problems)]
    if not parts:
        looked = ", ".join(str(directory) for directory in directories)
        return f"# there are no configuration files in {looked}\n"
    return "\n".join(parts)


def report(fleet: Fleet | None, problems: Sequence[Problem], totals: Mapping[DeviceId, Bytes]) -> str:
    """What came of a load, for a person: problems, the models, and the memory of each device as it is spoken for.

    `totals` are the sizes of the devices in bytes, `host` among them where it is known.
    """
    blocks = [_problem(problem) for problem in sorted(problems, key=lambda problem: not problem.error)]
    if fleet is not None:
        if fleet.models:
            blocks.append(_table(_model_rows(fleet, totals)))
        blocks.extend(_routing(fleet))
        blocks.extend(_budgets(fleet, totals))
    blocks.append(_verdict(fleet, problems))
    return "\n\n".join(blocks) + "\n"


def report_json(
    fleet: Fleet | None, problems: Sequence[Problem], totals: Mapping[DeviceId, Bytes]
) -> dict[str, object]:
    """What came of a load, for a program: sizes in bytes, durations in seconds, null for never or unknown."""
    return {
        "valid": _valid(fleet, problems),
        "problems": [asdict(problem) | {"path": str(problem.path)} for problem in problems],
        "settings": None if fleet is None else asdict(fleet.settings),
        "models": [] if fleet is None else [_model_json(model) for model in fleet.sized(totals).models.values()],
        "tiers": [] if fleet is None else [tier_json(tier) for tier in fleet.tiers.values()],
        "upstreams": [] if fleet is None else [upstream_json(upstream) for upstream in fleet.upstreams.values()],
        "callers": [] if fleet is None else [caller_json(rule) for rule in fleet.callers.values()],
        "devices": [] if fleet is None else [asdict(budget) for budget in budgets(fleet, totals)],
    }


def _shown(source: Source) -> str:
    others = ", ".join(str(path) for path in source.overrides)
    if source.masked:
        return printable(f"# {source.path} is masked" + (f", and hides {others}" if others else "")) + "\n"
    header = printable(f"# {source.path}" + (f" (overrides {others})" if others else ""))
    try:
        text = read(source.path)
    except Unreadable as error:
        return f"# {error.problem}\n"
    return f"{header}\n{text}" if text.endswith("\n") else f"{header}\n{text}\n"


def _problem(problem: Problem) -> str:
    lines = [f"{'error' if problem.error else 'note'}: {problem}"]
    lines.extend(f"    {printable(line)}" for line in problem.detail)
    return "\n".join(lines)


def _model_rows(fleet: Fleet, totals: Mapping[DeviceId, Bytes]) -> Iterator[tuple[str, ...]]:
    yield ("MODEL", "CLASS", "ENGINE", "VRAM", "HOST HIGH", "HOST MAX", "IDLE", "SERVES")
    for name, model in sorted(fleet.sized(totals).models.items()):
        unknown = f"{model.utilization:.0%}" if model.utilization else "-"
        kind = str(model.residency_class)
        yield (
            name,
            f"{kind} ({model.swap_slot})" if model.swap_slot else kind,
            model.engine,
            format_bytes(model.vram) if model.vram else unknown,
            *(_size(_limit(model, limit)) for limit in ("MemoryHigh", "MemoryMax")),
            "-" if model.idle is None else duration_text(model.idle),
            " ".join(model.serves) or "-",
        )


def _routing(fleet: Fleet) -> Iterator[str]:
    """Tiers, upstreams and callers: a table for each of which there are any."""
    for rows in (tier_rows(fleet.tiers), upstream_rows(fleet.upstreams), caller_rows(fleet.callers)):
        if len(rows) > 1:
            yield _table(iter(rows))


def _budgets(fleet: Fleet, totals: Mapping[DeviceId, Bytes]) -> Iterator[str]:
    """What each device, and host memory, has and who may take it: a block for each."""
    for budget in budgets(fleet, totals):
        spoken_for = (
            (budget.device, budget.total, ""),
            ("reserve", -budget.reserve, ""),
            *((name, -count, "essential") for name, count in budget.essentials),
            ("for all others", budget.left, ""),
        )
        others = ((f"  {name}", count, _room(count, budget.left)) for name, count in budget.others)
        yield _sums((*spoken_for, *others))
    limits = [(name, _limit(model, "MemoryMax")) for name, model in fleet.models.items()]
    known = [(name, limit) for name, limit in limits if limit is not None]
    if known:
        yield _host(known, len(limits), totals.get(HOST))


def _room(need: Bytes, left: Bytes) -> str:
    return "" if need <= left else f"never fits: {format_bytes(need - left)} too much"


def _sums(rows: Sequence[tuple[str, Bytes, str]]) -> str:
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:<{width}}  {format_bytes(count):>10}  {said}".rstrip() for name, count, said in rows)


def _host(limits: Sequence[tuple[str, Bytes]], models: int, total: Bytes | None) -> str:
    together = sum(limit for _, limit in limits)
    text = f"host memory: {len(limits)} of {models} models are limited, to {format_bytes(together)} together"
    rows = [(name, -limit, "at most (MemoryMax)") for name, limit in limits]
    if total is None:
        return f"{text}\n{_sums(rows)}"
    left = total - together
    said = "" if left >= 0 else "they cannot all take what they may: lower MemoryMax of one"
    return (
        f"{text}; the machine has {format_bytes(total)}\n"
        f"{_sums((('host', total, ''), *rows, ('for all others', left, said)))}"
    )


def _verdict(fleet: Fleet | None, problems: Sequence[Problem]) -> str:
    errors = sum(problem.error for problem in problems)
    notes = len(problems) - errors
    said = ", ".join(
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((errors, "error"), (notes, "note")) if count
    )
    if not _valid(fleet, problems):
        return f"The configuration is refused: {said}."
    return f"The configuration is valid: {said}." if said else "The configuration is valid."


def _valid(fleet: Fleet | None, problems: Sequence[Problem]) -> bool:
    return fleet is not None and not any(problem.error for problem in problems)


def _limit(model: Model, name: str) -> Bytes | None:
    """A size among its resources; None where it is not set, endless or a percentage."""
    _, value = model.resources.get(name, ("", None))
    return value if isinstance(value, int) and value < 2**63 else None


def _size(count: Bytes | None) -> str:
    return "-" if count is None else format_bytes(count)


def _model_json(model: Model) -> dict[str, object]:
    return {
        "name": model.name,
        "path": str(model.path),
        "description": model.description,
        "engine": model.engine,
        "class": str(model.residency_class),
        "swap_slot": model.swap_slot,
        "serves": list(model.serves),
        "can": list(model.can),
        "vram": model.vram,
        "devices": list(model.devices),
        "span": model.span,
        "idle": model.idle,
        "load_timeout": model.load_timeout,
        "stop_timeout": model.stop_timeout,
        "command": list(model.command),
        "executable": model.executable,
        "port": model.port,
        "memory_high": _limit(model, "MemoryHigh"),
        "memory_max": _limit(model, "MemoryMax"),
        "fingerprint": model.fingerprint,
    }


def _table(rows: Iterator[tuple[str, ...]]) -> str:
    cells = list(rows)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
