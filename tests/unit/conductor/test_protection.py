"""The slice asks the kernel for what its essential models are to keep, and for nobody else."""

from aitherd.conductor.protection import protection
from aitherd.core.words import ResidencyClass
from tests.unit.conductor.books import model

GIB = 1 << 30


def test_the_slice_is_protected_by_as_much_as_its_essential_models_ask_for() -> None:
    essential = ResidencyClass.ESSENTIAL
    models = [
        model("first", residency_class=essential, resources={"MemoryMin": ("t", 4 * GIB), "MemoryHigh": ("t", GIB)}),
        model("second", residency_class=essential, resources={"MemoryMin": ("t", GIB), "MemoryLow": ("t", 2 * GIB)}),
        model("other", resources={"MemoryMin": ("t", 8 * GIB)}),
    ]
    assert protection(models) == (("MemoryMin", ("t", 5 * GIB)), ("MemoryLow", ("t", 2 * GIB)))


def test_where_nobody_asks_nothing_is_protected() -> None:
    assert protection([model("essential", residency_class=ResidencyClass.ESSENTIAL)]) == (
        ("MemoryMin", ("t", 0)),
        ("MemoryLow", ("t", 0)),
    )
