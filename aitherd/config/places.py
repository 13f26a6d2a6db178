"""On which line of a file a key is set. The parser of the standard library does not tell, and is asked in another way.

Only a configuration with mistakes pays for it. What is wrong is found elsewhere.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from aitherd.config.files import Unreadable, read
from aitherd.config.problem import Problem

MAX_WORK = 300_000
"""Characters of a file that are parsed at most, over and over; further keys go without a line."""

_INDEX = re.compile(r"\[\d+\].*")


def located(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems, those about a key with its line where that can be told."""
    problems = tuple(problems)
    asked: dict[Path, list[str]] = {}
    for problem in problems:
        if problem.key and not problem.line:
            asked.setdefault(problem.path, []).append(problem.key)
    told = {path: lines_of(_text(path), keys) for path, keys in asked.items()}
    return tuple(
        problem if problem.line else replace(problem, line=told.get(problem.path, {}).get(problem.key, 0))
        for problem in problems
    )


def lines_of(text: str, keys: Iterable[str]) -> dict[str, int]:
    """The 1-based lines on which `keys` (dotted, as Problem has them) begin; one that is not there is left out.

    What is set in an entry of a list is found where the list begins, what is missing in a table where the table does.
    """
    whole = _Start(text)
    document = whole.parsed(len(whole.lines))
    ways = {key: _deepest(document, key) for key in keys}
    found = {key: whole.line_of(way) for key, way in ways.items() if way}
    return {key: line for key, line in found.items() if line}


class _Start:
    """The first so many lines of a file as TOML of their own."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self._work = MAX_WORK

    def parsed(self, end: int) -> Mapping[str, object] | None:
        """None where they end within a value, and when enough has been parsed."""
        text = "\n".join(self.lines[:end]) + "\n"
        self._work -= len(text)
        if self._work < 0:
            return None
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError, OverflowError):
            return None

    def line_of(self, way: tuple[str, ...]) -> int:
        """The line with which a document that lacks `way` begins to have it; 0 if none is found."""
        for at, line in enumerate(self.lines):
            if way[-1] not in line:
                continue
            before = self.parsed(at)
            if before is None or _holds(before, way):
                continue
            for end in range(at + 1, len(self.lines) + 1):
                if (document := self.parsed(end)) is not None:
                    if _holds(document, way):
                        return at + 1
                    break
                if self._work < 0:
                    return 0
        return 0


def _text(path: Path) -> str:
    try:
        return read(path)
    except Unreadable:
        return ""


def _deepest(document: Mapping[str, object] | None, key: str) -> tuple[str, ...]:
    """The names of the tables and keys on the way to `key`, as far as they are there. A name may have dots."""
    found: list[str] = []
    rest = _INDEX.sub("", key).split(".")
    inside: object = document
    while rest and isinstance(inside, Mapping):
        many = next((many for many in range(len(rest), 0, -1) if ".".join(rest[:many]) in inside), 0)
        if not many:
            break
        name, rest = ".".join(rest[:many]), rest[many:]
        found.append(name)
        inside = inside[name]
    return tuple(found)


def _holds(document: Mapping[str, object], way: tuple[str, ...]) -> bool:
    inside: object = document
    for name in way:
        if not isinstance(inside, Mapping) or name not in inside:
            return False
        inside = inside[name]
    return True
