"""What the administrator wrote: files become a checked fleet, or problems that name file, key, value and remedy.

Importing this is cheap; what loading needs is imported when something is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aitherd.config.files import directories
from aitherd.config.fleet import Fleet, Model, Service, Settings, Variant
from aitherd.config.problem import Problem
from aitherd.core.words import Bytes, DeviceId
from aitherd.errors import ConfigurationRefused

__all__ = [
    "Fleet",
    "Model",
    "Problem",
    "Service",
    "Settings",
    "Variant",
    "check_devices",
    "check_driver",
    "directories",
    "fitted",
    "load",
    "model_schema",
    "settings_schema",
]


def load(
    directories: Sequence[Path], *, user: bool = False, partial: bool = False
) -> tuple[Fleet | None, tuple[Problem, ...]]:
    """Reads the configuration in `directories`, strongest first.

    Returns the fleet, None when there is any error, and all problems at once, notes included. Never raises for anything
    that a file may contain. With `user`, commands are looked up as in the user's own session. With `partial`, a model
    whose file has errors is left out and the others are there; an `aitherd.toml` with errors is still None.
    """
    from aitherd.config.loader import load as load_files

    return load_files(directories, user=user, partial=partial)


def check_driver(fleet: Fleet, driver: str) -> tuple[Problem, ...]:
    """What the version of the devices' driver says against models; nothing while it is not known."""
    from aitherd.config.budget import driver_problems

    return driver_problems(fleet, driver)


def check_devices(fleet: Fleet, totals: Mapping[DeviceId, Bytes]) -> tuple[Problem, ...]:
    """What the sizes of the devices say: essential models that do not fit are an error, others that never fit a note.

    `totals` are the measured sizes in bytes; without any there is nothing to say.
    """
    from aitherd.config.budget import check

    return check(fleet, totals)


def fitted(fleet: Fleet, totals: Mapping[DeviceId, Bytes]) -> Fleet:
    """`fleet` with footprints in bytes for devices of these sizes. Raises ConfigurationRefused, with the sum, when its
    essential models do not fit."""
    errors = [str(problem) for problem in check_devices(fleet, totals) if problem.error]
    if errors:
        raise ConfigurationRefused("\n".join(errors))
    return fleet.sized(totals)


def model_schema() -> dict[str, Any]:
    """JSON Schema of a model file."""
    from aitherd.config.schema import model_schema as schema

    return schema()


def settings_schema() -> dict[str, Any]:
    """JSON Schema of `aitherd.toml`."""
    from aitherd.config.schema import settings_schema as schema

    return schema()
