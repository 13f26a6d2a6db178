"""Carries out what the core decides and verifies every step. The only writer of residency."""
