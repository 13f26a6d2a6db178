"""What is wrong with the configuration, for the person who wrote it. Nothing is found here, only said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class BadValue(ValueError):
    """A value that does not do; whoever knows the file and the key makes a Problem of it."""

    def __init__(self, message: str, remedy: str, *, secret: bool = False) -> None:
        """`secret`: the value may be one, and is not to be shown."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.secret = secret


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one file, or worth knowing about it."""

    path: Path
    key: str
    """Dotted as in TOML (`resources.MemoryMax`); empty when it is not about a key."""
    value: str
    """As written; empty when there is none to show."""
    message: str
    """What is wrong, one line."""
    remedy: str
    """What to do about it; empty only where the message says so already."""
    error: bool = True
    """False for a note: the configuration is accepted."""
    line: int = 0
    """1-based line where one can be told, else 0."""
    column: int = 0
    """1-based column of a mistake of syntax, else 0."""
    detail: tuple[str, ...] = ()
    """Lines that prove the message, such as a sum; for reports, not part of `str()`."""

    def __str__(self) -> str:
        place = ":".join([str(self.path), *(str(part) for part in (self.line, self.column) if part)])
        subject = f"{self.key} = {self.value}" if self.key and self.value else self.key or self.value
        text = f"{place}: {subject}: {self.message}" if subject else f"{place}: {self.message}"
        return printable(f"{text}; {self.remedy}" if self.remedy else text)


def printable(text: str) -> str:
    """`text` on one line, with what a terminal or a log would not show as such escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """A value much as TOML writes it, shortened, for `Problem.value`."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, list):
        text = f"[{', '.join(shown(item) for item in value[:20])}]"
    elif isinstance(value, dict):
        text = "{…}"
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was most likely meant to be, or None when none is like it."""
    import difflib  # only a configuration with mistakes pays for it

    folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower()[:100], folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy that offers the nearest known name, or `otherwise` when none is like it."""
    name = nearest(word, known)
    return f"did you mean {name}?" if name else otherwise
