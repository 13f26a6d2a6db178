"""Reads published traces of requests and makes traces of our fleet of them. None is kept here: they are downloaded.

BurstGPT (HPMLL/BurstGPT, csv), the Azure LLM inference traces (Azure/AzurePublicDataset, csv), Mooncake (kvcache-ai, a
JSON object a line) and chutes (harvardMadsys/chutes_metadata, csv). Where a trace names models, the most asked for
becomes the first of the fleet, and so on, round and round; where it names none, each request draws one by Zipf's law.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aitherd.core.words import Seconds
from tests.simulator.traces import ZIPF, Arrival, Kind, Trace

PREFILL = 2000.0
"""Tokens of a prompt that are read in a second."""
DECODE = 50.0
"""Tokens that are written in a second."""


class NotThatFormat(ValueError):
    """A row is not of the format that it is read as; the message names the line."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a published trace."""

    at: Seconds
    model: str | None
    prompt: int
    answer: int


def burstgpt(lines: Iterable[str]) -> list[Asked]:
    """`Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`; seconds since the first day. Requests
    that failed (no response tokens) are left out."""
    rows = _csv(
        lines,
        lambda row: Asked(
            float(row["Timestamp"]), row["Model"], int(row["Request tokens"]), int(row["Response tokens"])
        ),
    )
    return [asked for asked in rows if asked.answer]


def azure(lines: Iterable[str]) -> list[Asked]:
    """`TIMESTAMP,ContextTokens,GeneratedTokens`; timestamps with seven decimals, in 2024 with an offset. No models."""
    return _csv(
        lines,
        lambda row: Asked(_instant(row["TIMESTAMP"]), None, int(row["ContextTokens"]), int(row["GeneratedTokens"])),
    )


def mooncake(lines: Iterable[str]) -> list[Asked]:
    """`{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": […]}`; milliseconds. No models."""
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
                asked = Asked(row["timestamp"] / 1000, None, int(row["input_length"]), int(row["output_length"]))
            except (ValueError, KeyError, TypeError) as error:
                raise NotThatFormat(f"line {number}: {error!r}") from error
            found.append(asked)
    return found


def chutes(
    lines: Iterable[str],
    *,
    model: str = "chute_id",
    start: str = "started_at",
    prompt: str = "input_tokens",
    answer: str = "output_tokens",
) -> list[Asked]:
    """A csv that names a model for each request; its columns may be named otherwise from release to release."""
    return _csv(lines, lambda row: Asked(_instant(row[start]), row[model], int(row[prompt]), int(row[answer])))


def trace(requests: Sequence[Asked], fleet: Sequence[Kind], seed: int = 0, *, stretch: float = 1.0) -> Trace:
    """The requests, for our fleet, from instant 0 on; `stretch` above 1 makes them come slower."""
    if not requests:
        return ()
    chance = random.Random(f"public {seed}")
    popular = [name for name, _ in Counter(asked.model for asked in requests if asked.model).most_common()]
    place = {name: index % len(fleet) for index, name in enumerate(popular)}
    weights = [1 / rank**ZIPF for rank in range(1, len(fleet) + 1)]
    first = min(asked.at for asked in requests)
    made = []
    for asked in requests:
        kind = fleet[place[asked.model]] if asked.model else chance.choices(fleet, weights)[0]
        work = asked.prompt / PREFILL + asked.answer / DECODE
        made.append(Arrival((asked.at - first) * stretch, kind.name, work))
    return tuple(sorted(made, key=lambda arrival: (arrival.at, arrival.model)))


def _csv(lines: Iterable[str], read: Callable[[Mapping[str, str]], Asked]) -> list[Asked]:
    found = []
    for number, row in enumerate(csv.DictReader(lines), 2):
        try:
            found.append(read(row))
        except (ValueError, KeyError, TypeError) as error:
            raise NotThatFormat(f"line {number}: {error!r}") from error
    return found


def _instant(text: str) -> Seconds:
    """Unix seconds of an ISO time, in UTC unless it says otherwise, or a number as it is."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    whole, dot, rest = text.partition(".")
    digits = "".join(character for character in rest[:7] if character.isdigit())
    offset = rest[len(digits) :] if dot else ""
    at = datetime.fromisoformat(f"{whole}{dot}{digits[:6]}{offset}")
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
