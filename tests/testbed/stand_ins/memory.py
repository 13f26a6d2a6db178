"""Device memory of a stand-in: what it takes on the devices that it may see, and how that fails."""

from __future__ import annotations

import os
import re
import sys

from tests.testbed.nvml.gpu import Card, Gpu, OutOfMemory

UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "GB": 10**9, "MB": 10**6, "": 1}
OUT_OF_MEMORY_STATUS = 1


def size(text: str) -> int:
    """Bytes from `5.2GiB` and the like; ValueError otherwise."""
    match = re.fullmatch(r"([0-9.]+) ?(GiB|MiB|KiB|GB|MB|)", text)
    if match is None:
        raise ValueError(f"not a number of bytes: {text}")
    return int(float(match[1]) * UNITS[match[2]])


class DeviceMemory:
    """What this process holds, shared evenly among the devices in CUDA_VISIBLE_DEVICES (unset: the first)."""

    def __init__(self) -> None:
        gpu = Gpu.attach()
        self.cards = _visible(gpu) if gpu is not None else ()
        self.pid = os.getpid()
        """The process that holds it: this one, or a child of it."""

    def take(self, total: int) -> None:
        """Holds exactly `total` bytes from now on. Raises OutOfMemory, and then holds what it had."""
        for card in self.cards:
            card.claim(self.pid, total // len(self.cards))

    def take_or_die(self, total: int) -> None:
        """As `take`; an engine that cannot get its memory while it loads ends with a line on stderr."""
        try:
            self.take(total)
        except OutOfMemory as refused:
            print(f"torch.OutOfMemoryError: {refused}", file=sys.stderr, flush=True)
            os._exit(OUT_OF_MEMORY_STATUS)

    @property
    def free(self) -> int:
        """Bytes free on its devices together."""
        return sum(card.free for card in self.cards)

    @property
    def total(self) -> int:
        """Bytes of its devices together."""
        return sum(card.total for card in self.cards)


def _visible(gpu: Gpu) -> tuple[Card, ...]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return gpu.cards[:1]
    by_name = {card.uuid: card for card in gpu.cards} | {str(card.index): card for card in gpu.cards}
    return tuple(by_name[word] for word in chosen.split(",") if word)
