"""What the program is called on a bus: names, paths and errors. Shared with aitherctl; nothing is exported here."""

from __future__ import annotations

from sdbus.sd_bus_internals import encode_object_path

BUS_NAME = "org.aitheros.Aither1"
ROOT = "/org/aitheros/Aither1"
"""Path of the manager, which is also the ObjectManager of all other objects."""

MANAGER = f"{BUS_NAME}.Manager"
MODEL = f"{BUS_NAME}.Model"
DEVICE = f"{BUS_NAME}.Device"
UPSTREAM = f"{BUS_NAME}.Upstream"

ERROR = f"{BUS_NAME}.Error"
"""Prefix of error names; the last part is `AitherError.dbus_name`."""


def model_path(model: str) -> str:
    """Path of the object of a model, its name escaped as sd-bus does (`a.b` is `…/model/a_2eb`)."""
    return encode_object_path(f"{ROOT}/model", model)


def device_path(device: str) -> str:
    """Path of the object of a device."""
    return encode_object_path(f"{ROOT}/device", device)


def upstream_path(upstream: str) -> str:
    """Path of the object of an upstream."""
    return encode_object_path(f"{ROOT}/upstream", upstream)
