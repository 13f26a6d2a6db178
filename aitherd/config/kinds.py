"""What one value of a configuration file may be: text from outside becomes a typed value, or BadValue says why not.

Which keys there are, and what they mean, is in `written.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from aitherd.config.addresses import MAX_PRICE, parse_credential, parse_file, parse_price, parse_route, parse_url
from aitherd.config.problem import BadValue, suggestion
from aitherd.config.properties import TABLES
from aitherd.config.units import parse_duration, parse_endless, parse_size
from aitherd.core.upstreams import Node, Route
from aitherd.core.words import Bytes, Priority, ResidencyClass, Seconds
from aitherd.engines import ENGINES, engine

ABILITIES = (
    *("chat", "completions", "vision", "tools", "reasoning", "embeddings", "rerank"),
    *("transcriptions", "translations", "speech", "images", "messages"),
)
"""What a model can do, named after the routes of the OpenAI API and what a chat request may ask for;
messages is Anthropic's."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
RESERVED = ("-engine", "-checkpoint", "-check")
"""Ends of the names of the units that belong to a model's own."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Values that clients give `reasoning_effort`."""
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_SERVED_NAME = 255


UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(service|scope|slice)")
UNLOADERS = tuple(kind for kind in ENGINES if engine(kind).unloads)


def check_name(name: str) -> str:
    """A model's name, which becomes part of unit names and paths. Raises BadValue."""
    if not NAME.fullmatch(name) or ".." in name or name.endswith((".", *RESERVED)):
        reserved = name.endswith(RESERVED)
        raise BadValue(
            "names that end in -engine, -check or -checkpoint are taken by the units of engines"
            if reserved
            else "not a name for a model",
            "use up to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, as in vision.toml",
        )
    return name


def _name(value: object) -> str:
    return check_name(_line(value))


def _unit(value: object) -> str:
    unit = _line(value)
    if not UNIT.fullmatch(unit):
        raise BadValue("not the name of a unit", "write it as systemctl shows it, as in ollama.service")
    if unit.startswith("aither"):
        raise BadValue("that unit is aitherd's own", "name one of a service that is not run by aitherd")
    return unit


def _line(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue("not text", "put it in quotation marks")
    if not value.isprintable():
        raise BadValue("control characters", "write it on one line")
    return value


def _served(value: object) -> str:
    name = _line(value)
    if not name or " " in name or len(name) > MAX_SERVED_NAME:
        raise BadValue("not a name that clients could ask for", "use up to 255 characters without blanks")
    return name


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue("not text", 'put every word of the command in quotation marks: "-ngl", "99"')
    if "\0" in value:
        raise BadValue("no program can be given a null character", "remove it")
    return value


def _health(value: object) -> str:
    path = _line(value)
    if not path.startswith("/") or " " in path:
        raise BadValue("not a path", 'write it as "/health"')
    return path


def _host(value: object) -> str:
    if not isinstance(value, str) or not HOST_NAME.fullmatch(value):
        raise BadValue("not a name of a machine", 'write it as "box.example", without http:// and without a port')
    return value.lower()


def _device(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"gpu[0-9]{1,3}", value):
        raise BadValue("not a device", 'write "gpu0" for the first GPU that nvidia-smi lists, "gpu1" for the next')
    return value


def _timeout(value: object) -> Seconds:
    seconds = parse_duration(value)
    if seconds == 0:
        raise BadValue("no time at all", 'write a duration such as "5min"')
    return seconds


def _whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadValue(f"not a whole number from {low} to {high}", "take one from that range")
        return value

    return parse


def _part(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise BadValue("no part of a device", "write one above 0, up to 1: 0.60")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue("neither true nor false", "write true or false, without quotation marks")
    return value


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise BadValue(f"not one of {', '.join(words)}", suggestion(str(value), words, "take one of them"))
        return value

    return parse


def _class(value: object) -> ResidencyClass:
    if value == "swap-slot":
        raise BadValue(
            "a slot is no class", 'set class = "on-demand", and swap-slot = "heavy" or what you call the slot'
        )
    return ResidencyClass(_one_of(*ResidencyClass)(value))


def _urgency(value: object) -> Priority:
    return Priority(_one_of(*Priority)(value))


def _typed(parse: Callable[[object], object], **schema: Any) -> tuple[BeforeValidator, WithJsonSchema]:
    return BeforeValidator(parse), WithJsonSchema(schema)


def tables(table: str) -> dict[str, Any]:
    entries = {
        name: {"description": f"{name}= of systemd", "examples": [entry.example]}
        for name, entry in TABLES[table].items()
    }
    return {"type": "object", "properties": entries, "additionalProperties": False}


_TIME = {"type": ["string", "number"], "examples": ["5min", "1h 30min", "250ms"]}

Size = Annotated[Bytes, *_typed(parse_size, type=["string", "integer"], examples=["5.2 GiB", "512 MiB", "10G"])]
Duration = Annotated[Seconds, *_typed(parse_duration, **_TIME)]
Timeout = Annotated[Seconds, *_typed(_timeout, **_TIME)]
Endless = Annotated[Seconds | None, *_typed(parse_endless, type=["string", "number"], examples=["5min", "infinity"])]
Count = Annotated[int, *_typed(_whole(1, 1_000_000), type="integer", minimum=1, maximum=1_000_000)]
Span = Annotated[int, *_typed(_whole(1, 64), type="integer", minimum=1, maximum=64)]
Port = Annotated[int, *_typed(_whole(1024, 65535), type="integer", minimum=1024, maximum=65535)]
Flag = Annotated[bool, *_typed(_flag, type="boolean")]
Part = Annotated[float, *_typed(_part, type="number", exclusiveMinimum=0, maximum=1)]
Line = Annotated[str, *_typed(_line, type="string")]
Name = Annotated[str, *_typed(_name, type="string", pattern=f"^{NAME.pattern}$")]
Served = Annotated[str, *_typed(_served, type="string", pattern="^[^ ]+$", maxLength=MAX_SERVED_NAME)]
Word = Annotated[str, *_typed(_word, type="string")]
Health = Annotated[str, *_typed(_health, type="string", pattern="^/[^ ]*$")]
Device = Annotated[str, *_typed(_device, type="string", pattern="^gpu[0-9]{1,3}$")]
Class = Annotated[ResidencyClass, *_typed(_class, enum=[str(word) for word in ResidencyClass])]
Unit = Annotated[str, *_typed(_unit, type="string", pattern=f"^{UNIT.pattern}$", examples=["ollama.service"])]
Unloader = Annotated[str, *_typed(_one_of(*UNLOADERS), enum=list(UNLOADERS))]
EngineKind = Annotated[str, *_typed(_one_of(*ENGINES), enum=list(ENGINES))]
Ability = Annotated[str, *_typed(_one_of(*ABILITIES), enum=list(ABILITIES))]
Listen = Annotated[str, *_typed(_one_of("unix", "port"), enum=["unix", "port"])]
HostName = Annotated[str, *_typed(_host, type="string", pattern=f"^{HOST_NAME.pattern}$")]
Level = Annotated[str, *_typed(_one_of(*LOG_LEVELS), enum=list(LOG_LEVELS))]
Way = Annotated[Route, *_typed(parse_route, type="string", pattern="^[^ ]+$", examples=["vision", "spark/reasoning"])]
Url = Annotated[Node, *_typed(parse_url, type="string", pattern="^https?://", examples=["http://spark.local:8120"])]
Credential = Annotated[str, *_typed(parse_credential, type="string", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
File = Annotated[str, *_typed(parse_file, type="string", pattern="^/")]
Price = Annotated[float, *_typed(parse_price, type="number", minimum=0, maximum=int(MAX_PRICE))]
Effort = Annotated[str, *_typed(_one_of(*EFFORTS), enum=list(EFFORTS))]
Shown = Annotated[str, *_typed(_one_of("authorization", "x-api-key"), enum=["authorization", "x-api-key"])]
Leave = Annotated[str, *_typed(_one_of("no", "lan", "cloud"), enum=["no", "lan", "cloud"])]
Kind = Annotated[str, *_typed(_one_of("lan", "cloud"), enum=["lan", "cloud"])]


Urgency = Annotated[Priority, *_typed(_urgency, enum=[str(word) for word in Priority])]
Weight = Annotated[int, *_typed(_whole(1, 1000), type="integer", minimum=1, maximum=1000)]
