"""What is known of cuda-checkpoint without running it: which drivers it works with, and what it is expected to give."""

from __future__ import annotations

from aitherd.engines.base import Rung

PROGRAM = "cuda-checkpoint"
DRIVER = 570
"""The first major version whose NVML and states it can be relied on with; 550 had a first form of it. (its README)"""
RUNG = Rung(1, 0, keeps_weights=True, seconds=5.0, wake=5.0)
"""Nothing of a suspended process stays on the device; the copy over PCIe takes seconds either way."""


def too_old(driver: str) -> str:
    """Why a driver cannot do it, with what to do about it; empty when it can. An unknown version may well."""
    major = driver.partition(".")[0]
    if not major.isdigit() or int(major) >= DRIVER:
        return ""
    return f"driver {driver} cannot suspend processes; install {DRIVER} or newer, or leave checkpoint out"
