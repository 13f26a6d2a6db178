"""The services of `aitherd.toml` that are not aitherd's: checked together with the models, and made values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from aitherd.config.fleet import Service
from aitherd.config.problem import Problem, shown
from aitherd.config.written import SettingsFile


def services(
    path: Path, written: SettingsFile, names: Mapping[str, str], problems: list[Problem]
) -> Mapping[str, Service]:
    """The services of the file; what is wrong with them is added to `problems`.

    `names` is what clients may ask for, and the model.
    """
    found = {
        name: Service(name, section.engine, section.unit, section.port) for name, section in written.foreign.items()
    }
    problems.extend(_twice(path, found, names))
    return MappingProxyType(found)


def _twice(path: Path, services: Mapping[str, Service], names: Mapping[str, str]) -> Iterator[Problem]:
    units: dict[str, str] = {}
    for service in services.values():
        key = f"foreign.{service.name}"
        if (model := names.get(service.name)) is not None:
            yield Problem(
                path, key, shown(service.name), f"the model {model} goes by that name", "let one go by another name"
            )
        if (owner := units.setdefault(service.unit, service.name)) != service.name:
            yield Problem(path, f"{key}.unit", shown(service.unit), f"it is {owner} already", "name each unit once")
