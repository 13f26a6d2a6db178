"""Which lines of the journal belong to a model."""

from __future__ import annotations

import os

from aitherd.ctl.arguments import parse
from aitherd.ctl.logs import journalctl


def test_the_systems_journal_is_read_by_trusted_fields() -> None:
    command = journalctl(parse(["logs", "vision", "-f", "-n", "20", "--json"]))
    assert command == [
        "journalctl",
        "--system",
        "--follow",
        "--lines=20",
        "--output=json",
        "--no-pager",
        "_SYSTEMD_UNIT=aither-vision-engine.service",
        "+",
        "UNIT=aither-vision-engine.service",
        "_PID=1",
        "+",
        "_SYSTEMD_UNIT=aither-vision.service",
        "+",
        "UNIT=aither-vision.service",
        "_PID=1",
        "+",
        "_SYSTEMD_UNIT=aitherd.service",
        "AITHER_MODEL=vision",
    ]


def test_a_users_journal_has_that_users_units() -> None:
    command = journalctl(parse(["--user", "logs", "vision"]))
    mine = f"_UID={os.getuid()}"
    assert command[:6] == [
        "journalctl", "--user", "--no-pager", "_SYSTEMD_USER_UNIT=aither-vision-engine.service", mine, "+",
    ]  # fmt: skip
    assert command[-3:] == ["_SYSTEMD_USER_UNIT=aitherd.service", mine, "AITHER_MODEL=vision"]
    assert command.count(mine) == 5
