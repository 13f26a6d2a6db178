"""Servers that behave as an engine too large to install does, its misbehaviour included.

Each module says what it stands in for. They run as `tests/testbed/bin/NAME` under any Python, inside guests too: only
the standard library, and device memory through the NVML test library where the environment names its file.
"""
