"""Books to test with: a clock that stands still until it is told, and a model in a line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aitherd.conductor.books import Book, Clock
from aitherd.config import Model
from aitherd.core.learning import Learned
from aitherd.core.words import Endpoint, ResidencyClass


@dataclass
class Hands:
    """A clock moved by hand, in seconds, and the names that were reported as changed."""

    now: float = 1000.0
    changed: list[str] = field(default_factory=list)

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now + 1e9)


def model(name: str = "vision", **changes: Any) -> Model:
    """A model with the defaults of a small llama-server."""
    values: dict[str, Any] = {
        "name": name,
        "path": Path(f"/etc/aither/models.d/{name}.toml"),
        "description": "",
        "engine": "llama-server",
        "residency_class": ResidencyClass.ON_DEMAND,
        "vram": 5 << 30,
        "command": ("llama-server",),
        "executable": "/usr/bin/llama-server",
        "load_timeout": 60.0,
        "stop_timeout": 10.0,
        "max_waiting": 3,
        "idle": 300.0,
    }
    return Model(**{**values, **changes})


def book(hands: Hands, **changes: Any) -> Book:
    """A book of an absent model."""
    return Book(model(**changes), hands.clock(), hands.changed.append, hands.changed.append, lambda _: Learned())


def ready(hands: Hands, **changes: Any) -> Book:
    """A book of a model that answers."""
    from aitherd.core.residency import Event

    made = book(hands, **changes)
    made.begin(Endpoint(port=1), ("gpu0",))
    made.move(Event.START)
    made.ready_since = hands.now
    made.move(Event.UP)
    return made
