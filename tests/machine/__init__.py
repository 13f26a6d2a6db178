"""Whole-machine tests: a real kernel, system manager, bus and journal, without a workstation."""
