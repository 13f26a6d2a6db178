"""The configuration on disk, with or without the daemon: `check-config`, `cat-config`, `schema`."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aitherd import config
from aitherd.core.ledger import Sample
from aitherd.core.words import HOST, Bytes, DeviceId, Seconds
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import print_json

MEASURING_TIMEOUT: Seconds = 10.0


def check(arguments: argparse.Namespace) -> int:
    """Says what is wrong, and whether the models fit the devices."""
    from aitherd.config.render import report, report_json

    totals = assumed(arguments.device) or known(arguments)
    fleet, problems = config.load(directories(arguments), user=arguments.user)
    if fleet is not None:
        problems = (*problems, *config.check_devices(fleet, totals))
        if any(model.checkpoint for model in fleet.models.values()):
            problems = (*problems, *config.check_driver(fleet, asyncio.run(measured()).driver))
    sizes = {**totals, HOST: host_memory()}
    if arguments.json:
        print_json(report_json(fleet, problems, sizes))
    else:
        print(report(fleet, problems, sizes), end="")
        if not totals:
            print("aitherctl: no device is known: whether the models fit was not checked", file=sys.stderr)
    return Exit.FAILED if fleet is None or any(problem.error for problem in problems) else Exit.OK


def cat(arguments: argparse.Namespace) -> int:
    """Prints the files that count."""
    from aitherd.config.render import cat as render

    text = render(directories(arguments))
    if arguments.json:
        print_json({"directories": [str(path) for path in directories(arguments)], "text": text})
    else:
        print(text, end="")
    return Exit.OK


def schema(arguments: argparse.Namespace) -> int:
    """Prints a JSON Schema."""
    print_json(config.model_schema() if arguments.kind == "model" else config.settings_schema())
    return Exit.OK


def directories(arguments: argparse.Namespace) -> Sequence[Path]:
    """Those given, or the usual ones. Raises Failure for one that does not exist."""
    given = [Path(text) for text in arguments.directory]
    for path in given:
        if not path.is_dir():
            raise Failure(
                f"{path} is not a directory", "name the one that holds aitherd.toml and models.d", status=Exit.USAGE
            )
    return given or config.directories(arguments.user)


def assumed(words: Sequence[str]) -> dict[DeviceId, Bytes]:
    """Sizes from `--device ID=SIZE`. Raises Failure."""
    from aitherd.config.problem import BadValue
    from aitherd.config.units import parse_size

    totals = {}
    for word in words:
        device, _, size = word.partition("=")
        if not re.fullmatch(r"gpu[0-9]+", device):
            raise Failure(f"--device {word}: not a device and its size", "write gpu0=32606MiB", status=Exit.USAGE)
        try:
            totals[device] = parse_size(size)
        except BadValue as bad:
            raise Failure(f"--device {word}: {bad.message}", bad.remedy, status=Exit.USAGE) from bad
    return totals


def known(arguments: argparse.Namespace) -> Mapping[DeviceId, Bytes]:
    """Sizes as the daemon measured them, if it runs; else as they are measured now; empty when they cannot be."""
    return asyncio.run(_known(user=arguments.user))


async def _known(*, user: bool) -> Mapping[DeviceId, Bytes]:
    from aitherd.ctl.client import Client

    try:
        client = Client(user=user)
        if await client.running():
            _, found = await client.fleet()
            if found:
                return {device["id"]: device["total"] for device in found if device["total"]}
    except Failure:
        # No bus, or a daemon that does not answer: not what was asked about.
        pass
    return {device.id: device.total for device in (await measured()).devices}


async def measured() -> Sample:
    """The devices as NVML shows them now, without the daemon."""
    from aitherd.host.nvml import Nvml

    nvml = Nvml()
    try:
        return await nvml.sample(MEASURING_TIMEOUT)
    finally:
        await nvml.close()


def host_memory() -> Bytes:
    """Host memory. proc(5)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
