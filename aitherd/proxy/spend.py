"""What the answers of upstreams cost today: counted from their own account of tokens, and kept across restarts.

A day is one of UTC. Money is in whatever currency the prices are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from aitherd.core.upstreams import RemoteModel
from aitherd.core.words import Bytes, Seconds

_MILLION = 1_000_000
_CHARACTERS_A_TOKEN = 3
"""A low number, so that an estimate is rather too high: languages and tokenisers differ."""
_USAGE = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*([0-9]{1,12})')
_CACHED = re.compile(rb'"cache_(creation|read)_input_tokens"\s*:\s*([0-9]{1,12})')
"""Anthropic counts these apart. They cost less or little more; here they count as any others."""
_ANSWER = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*([0-9]{1,12})')


class Spend:
    """The file `spend.json`. Reading and writing never raise; without the file only the day's sum is forgotten."""

    def __init__(self, directory: Path | None, unix: Callable[[], Seconds]) -> None:
        """`directory` is where state is kept, None to keep none."""
        self._path = None if directory is None else directory / "spend.json"
        self._unix = unix
        self._log = structlog.get_logger("aitherd")
        self._day = ""
        self._spent: dict[str, float] = {}
        self._dirty = False
        self._load()

    def today(self, upstream: str) -> float:
        """What an upstream's answers have cost today."""
        self._turn_page()
        return self._spent.get(upstream, 0.0)

    def add(self, upstream: str, cost: float) -> None:
        """An answer cost so much."""
        self._turn_page()
        self._spent[upstream] = self._spent.get(upstream, 0.0) + cost
        self._dirty = True

    def save(self) -> None:
        """Writes what is not written yet."""
        if self._path is None or not self._dirty:
            return
        self._dirty = False
        new = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps({"day": self._day, "spent": self._spent}) + "\n", encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            self._log.warning(f"cannot write {self._path}: {error.strerror}; a restart would forget today's spending")

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            self._day = str(data["day"])
            self._spent = {str(name): max(float(cost), 0.0) for name, cost in data["spent"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._log.warning(f"{self._path} cannot be read ({error}); today's spending is counted from 0")

    def _turn_page(self) -> None:
        day = datetime.fromtimestamp(self._unix(), UTC).date().isoformat()
        if day != self._day:
            self._day, self._spent, self._dirty = day, {}, True


def cost(model: RemoteModel, sent: Bytes, tail: bytes, pieces: int) -> tuple[float, bool]:
    """What an answer cost, and whether the upstream said so itself.

    `tail` is the end of its body, where the account of tokens is; of a stream its beginning, too, where Anthropic says
    what the request had. Without one the request counts by its size (`sent`)
    and each of the `pieces` of a stream as a token.
    """
    asked, answered = _USAGE.findall(tail), _ANSWER.findall(tail)
    known = bool(asked)
    cached = sum(map(int, dict(_CACHED.findall(tail)).values())) if asked else 0
    prompt = int(asked[-1]) + cached if asked else sent // _CHARACTERS_A_TOKEN
    answer = int(answered[-1]) if answered else 0 if known else max(pieces, len(tail) // _CHARACTERS_A_TOKEN // 4)
    return (prompt * model.prompt_price + answer * model.answer_price) / _MILLION, known
