"""Every property that a model file may set, as a real systemd takes it."""

from __future__ import annotations

import json
import re

from aitherd.config.properties import TABLES
from tests.testbed.manager import UserManager

NEWER = {"MemoryZSwapMax": 253}
"""Property to the version of systemd that has it first; others are in every version that is supported."""


def signed(signature: str, value: object) -> list[str]:
    """A value as busctl takes it on its command line."""
    if signature.startswith("a("):
        assert isinstance(value, list)
        return [str(len(value)), *(word for entry in value for word in fields(signature[2:-1], entry))]
    if signature == "(bas)":
        assert isinstance(value, tuple)
        return ["true" if value[0] else "false", str(len(value[1])), *value[1]]
    if signature in ("as", "ay"):
        assert isinstance(value, list | bytes)
        return [str(len(value)), *map(str, value)]
    return [json.dumps(value) if isinstance(value, bool) else str(value)]


def fields(signature: str, entry: object) -> list[str]:
    """The fields of a structure; the one array that any of them holds is of bytes."""
    assert isinstance(entry, tuple)
    kinds = re.findall("ay|.", signature)
    return [word for kind, value in zip(kinds, entry, strict=True) for word in signed(kind, value)]


def test_systemd_takes_every_property_with_its_example(manager: UserManager) -> None:
    version = int(manager.run(["systemctl", "--version"]).stdout.split()[1])
    refused = {}
    for entries in TABLES.values():
        for name, entry in entries.items():
            if NEWER.get(name, 0) > version:
                continue
            sent = entry.variants(name, entry.example)
            properties = [w for key, (kind, value) in sent.items() for w in (key, kind, *signed(kind, value))]
            # Whether the unit then runs depends on the machine; whether it is taken is answered before.
            done = manager.run(
                [
                    *("busctl", "--user", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
                    *("org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"),
                    *(f"aither-{name}-engine.service", "fail", str(len(sent) + 1)),
                    *("ExecStart", "a(sasb)", "1", "/bin/true", "1", "true", "false"),
                    *(*properties, "0"),
                ],
                check=False,
            )
            if done.returncode != 0:
                refused[name] = done.stderr.strip()
    assert refused == {}
