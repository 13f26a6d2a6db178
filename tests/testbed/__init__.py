"""The native test bed: a private service manager, an NVML library without a GPU, real model servers, stand-in engines.

Used by `tests/native`, by the demonstration and by the benchmarks. Nothing here decides what aitherd should do; it
only provides a real world small enough to run on any Linux machine.
"""
