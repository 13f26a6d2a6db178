"""Benchmarks: each measures beside a reference in one interleaved run and yields rows. Never part of the tests."""
