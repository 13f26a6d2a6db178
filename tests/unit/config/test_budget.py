"""Whether what is configured fits the devices, with the sum shown."""

from __future__ import annotations

from aitherd.config.budget import budgets
from aitherd.core.words import HOST
from tests.unit.config.conftest import GIB, Etc

CARD = 32606 * 2**20
"""A card sold as 32 GB."""


def essential(etc: Etc, name: str, vram: str, **keys: str) -> None:
    etc.model(name, vram=f'"{vram}"', **{"class": '"essential"', **keys})


def vllm(etc: Etc, name: str, part: str, **keys: str) -> None:
    command = f'["{etc.program}", "--gpu-memory-utilization", "{part}"]'
    etc.model(name, engine='"vllm"', command=command, **{"vram": "", **keys})


def test_essentials_that_exceed_the_device_are_an_error_with_the_sum(etc: Etc) -> None:
    essential(etc, "orchestrator", "19 GiB")
    essential(etc, "embed", "6 GiB")
    (problem,) = etc.devices(gpu0=24 * GIB)
    assert problem.error
    assert problem.path == etc.models / "orchestrator.toml"
    assert "embed 6 GiB + orchestrator 19 GiB + reserve 512 MiB = 25.5 GiB, but gpu0 has 24 GiB" in problem.message
    assert [line.split("  ")[0] for line in problem.detail] == [
        *("embed", "orchestrator", "reserve", "together", "gpu0 has", "missing"),
    ]
    assert str(etc.models / "embed.toml") in problem.detail[0]
    assert problem.detail[-1].endswith("1.5 GiB")


def test_essentials_that_fit_to_the_last_byte_are_in_order(etc: Etc) -> None:
    essential(etc, "orchestrator", "20 GiB")
    essential(etc, "embed", "3.5 GiB")
    assert etc.devices(gpu0=24 * GIB) == ()
    assert len(etc.devices(gpu0=24 * GIB - 1)) == 1


def test_the_reserve_counts(etc: Etc) -> None:
    essential(etc, "orchestrator", "20 GiB")
    etc.settings('[arbiter]\nreserve = "5 GiB"\n')
    assert [problem.error for problem in etc.devices(gpu0=24 * GIB)] == [True]


def test_a_model_that_never_fits_beside_the_essentials_is_a_note(etc: Etc) -> None:
    vllm(etc, "orchestrator", "0.60", **{"class": '"essential"'})
    etc.model("challenger", vram='"16 GiB"')
    etc.model("vision", vram='"5.2 GiB"')
    (note,) = etc.devices(gpu0=CARD)
    assert not note.error
    assert note.path == etc.models / "challenger.toml"
    assert "challenger 16 GiB + orchestrator 19.1 GiB + reserve 512 MiB = 35.6 GiB" in note.message
    assert "no_room" in note.remedy


def test_models_that_come_and_go_are_not_added_up(etc: Etc) -> None:
    for name in ("a", "b", "c"):
        etc.model(name, vram='"20 GiB"')
    assert etc.devices(gpu0=24 * GIB) == ()


def test_a_part_of_the_device_is_counted_for_each_device_by_its_size(etc: Etc) -> None:
    vllm(etc, "orchestrator", "0.60")
    model = etc.loaded("orchestrator")
    assert (model.vram, model.utilization) == (0, 0.60)
    assert model.vram_on(CARD) == int(0.60 * CARD)
    assert etc.fleet().sized({"gpu0": CARD, HOST: 999 * GIB}).models["orchestrator"].vram == int(0.60 * CARD)
    assert etc.fleet().sized({}).models["orchestrator"].vram == 0


def test_a_declared_footprint_goes_before_the_part_with_a_note_where_it_is_less(etc: Etc) -> None:
    vllm(etc, "embed", "0.5", vram='"2 GiB"')
    assert etc.loaded("embed").vram_on(24 * GIB) == 2 * GIB
    (note,) = etc.devices(gpu0=24 * GIB)
    assert (note.error, note.key, note.value) == (False, "vram", "2 GiB")
    assert "takes 12 GiB of gpu0" in note.message
    assert etc.devices(gpu0=4 * GIB) == ()


def test_essentials_are_dealt_out_to_several_devices(etc: Etc) -> None:
    for name in ("a", "b"):
        essential(etc, name, "20 GiB")
    assert etc.devices(gpu0=24 * GIB, gpu1=24 * GIB) == ()
    essential(etc, "c", "4 GiB")
    (problem,) = etc.devices(gpu0=24 * GIB, gpu1=24 * GIB)
    assert "cannot be dealt out to gpu0, gpu1" in problem.message


def test_a_pinned_essential_counts_where_it_is_pinned(etc: Etc) -> None:
    essential(etc, "a", "20 GiB", devices='["gpu1"]')
    essential(etc, "b", "20 GiB", devices='["gpu1"]')
    (problem,) = etc.devices(gpu0=48 * GIB, gpu1=24 * GIB)
    assert "but gpu1 has 24 GiB" in problem.message


def test_a_model_that_spans_devices_takes_an_equal_part_of_each(etc: Etc) -> None:
    essential(etc, "wide", "40 GiB", span="2")
    assert etc.devices(gpu0=24 * GIB, gpu1=24 * GIB) == ()
    assert [problem.error for problem in etc.devices(gpu0=24 * GIB, gpu1=16 * GIB)] == [True]
    (note,) = etc.devices(gpu0=80 * GIB)
    assert (note.error, note.key) == (False, "span")


def test_a_device_that_is_not_there_is_a_note_and_the_rest_is_served(etc: Etc) -> None:
    essential(etc, "a", "20 GiB", devices='["gpu1"]')
    (note,) = etc.devices(gpu0=8 * GIB)
    assert (note.error, note.value) == (False, "gpu1")


def test_without_measured_devices_nothing_is_said(etc: Etc) -> None:
    essential(etc, "a", "900 GiB")
    assert etc.devices() == ()
    assert etc.devices(host=GIB) == ()


def test_a_model_without_device_memory_fits_everywhere(etc: Etc) -> None:
    essential(etc, "speak", "0 B")
    assert etc.devices(gpu0=GIB) == ()


def test_the_budget_of_each_device_shows_what_is_left(etc: Etc) -> None:
    essential(etc, "a", "20 GiB", devices='["gpu1"]')
    essential(etc, "b", "6 GiB")
    first, second = budgets(etc.fleet(), {"gpu0": 8 * GIB, "gpu1": 24 * GIB, HOST: 64 * GIB})
    assert (first.device, first.essentials, first.left) == ("gpu0", (("b", 6 * GIB),), 3 * GIB // 2)
    assert (second.device, second.essentials, second.left) == ("gpu1", (("a", 20 * GIB),), 7 * GIB // 2)


def test_the_budget_of_a_device_that_is_too_small_is_negative(etc: Etc) -> None:
    essential(etc, "a", "20 GiB")
    (budget,) = budgets(etc.fleet(), {"gpu0": 8 * GIB})
    assert budget.left == 8 * GIB - GIB // 2 - 20 * GIB


def test_many_models_on_many_devices_are_checked_in_bounded_steps(etc: Etc) -> None:
    # Nine do not fit eight devices; to know that for certain, all 8⁹ ways would have to be tried.
    for number in range(9):
        essential(etc, f"m{number}", f"{5 + number / 100} GiB")
    assert etc.devices(**{f"gpu{number}": 9 * GIB for number in range(8)}) == ()
