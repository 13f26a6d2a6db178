"""The properties of an engine unit: limits pass through, and what ties the unit to aitherd cannot be overridden."""

from typing import Any

import pytest

from aitherd.conductor.launch import (
    ENDPOINT_FIELD,
    ENGINE_OOM_SCORE,
    ESSENTIAL_OOM_SCORE,
    FINGERPRINT_FIELD,
    Host,
    UnitRequest,
    engine_unit,
    model_of,
    properties,
)
from aitherd.core.words import Endpoint, ResidencyClass
from aitherd.engines.base import Launch

SYSTEM = Host(False, "/run", "/var/cache")
USER = Host(True, "/run/user/1000", "/home/alice/.cache")


def request(**changes: Any) -> UnitRequest:
    values: dict[str, Any] = {
        "model": "vision",
        "description": "Looks at pictures",
        "residency_class": ResidencyClass.ON_DEMAND,
        "launch": Launch(("llama-server", "--alias", "$HOME", "%n")),
        "executable": "/usr/bin/llama-server",
        "endpoint": Endpoint(socket="/run/aither-engine/vision/http.sock"),
        "fingerprint": "0123456789abcdef",
        "placement": ("gpu0",),
        "device_uuids": (),
        "stop_seconds": 10.0,
        "resources": {"MemoryMax": ("t", 12 << 30)},
        "service": {},
    }
    return UnitRequest(**{**values, **changes})


def test_the_models_limits_reach_the_unit() -> None:
    made = dict(properties(request(), USER))
    assert made["MemoryMax"] == ("t", 12 << 30)
    assert made["TimeoutStopUSec"] == ("t", 10_000_000)
    assert made["KillMode"] == ("s", "control-group")
    assert made["Slice"] == ("s", "aither.slice")


def test_arguments_reach_the_engine_as_they_are_written() -> None:
    made = dict(properties(request(), USER))
    entry = ("/usr/bin/llama-server", ["llama-server", "--alias", "$HOME", "%n"], ["no-env-expand"])
    assert made["ExecStartEx"] == ("a(sasas)", [entry])


def test_a_unit_says_itself_what_the_next_daemon_has_to_know() -> None:
    made = dict(properties(request(), USER))
    fields = made["LogExtraFields"][1]
    assert f"{ENDPOINT_FIELD}=unix:/run/aither-engine/vision/http.sock".encode() in fields  # type: ignore[operator]
    assert f"{FINGERPRINT_FIELD}=0123456789abcdef".encode() in fields  # type: ignore[operator]


def test_a_model_file_cannot_take_its_unit_away_from_aitherd() -> None:
    hostile = {"Slice": ("s", "system.slice"), "KillMode": ("s", "process"), "ExecStartEx": ("a(sasas)", [])}
    made = dict(properties(request(resources=hostile, service=hostile), USER))
    assert made["Slice"] == ("s", "aither.slice")
    assert made["KillMode"] == ("s", "control-group")
    assert made["ExecStartEx"][1]


@pytest.mark.parametrize(
    ("kind", "score"),
    [
        (ResidencyClass.ESSENTIAL, ESSENTIAL_OOM_SCORE),
        (ResidencyClass.RESIDENT, ENGINE_OOM_SCORE),
        (ResidencyClass.ON_DEMAND, ENGINE_OOM_SCORE),
    ],
)
def test_the_kernel_is_told_whom_to_spare(kind: ResidencyClass, score: int) -> None:
    assert dict(properties(request(residency_class=kind), USER))["OOMScoreAdjust"] == ("i", score)


def test_in_system_mode_an_engine_is_confined_and_not_root() -> None:
    made = dict(properties(request(), SYSTEM))
    assert made["User"] == ("s", "aither-engine")
    assert made["ProtectSystem"] == ("s", "strict")
    assert ("char-nvidia*", "rw") in made["DeviceAllow"][1]  # type: ignore[operator]
    assert "User" not in dict(properties(request(), USER))


def test_an_engine_stays_on_this_machine_unless_it_may_download() -> None:
    made = dict(properties(request(), SYSTEM))
    assert made["IPAddressDeny"] == ("a(iayu)", [(2, bytes(4), 0), (10, bytes(16), 0)])
    assert made["IPAddressAllow"] == ("a(iayu)", [(2, b"\x7f\0\0\0", 8), (10, bytes(15) + b"\1", 128)])
    assert "HF_HUB_OFFLINE=1" in made["Environment"][1]  # type: ignore[operator]
    free = dict(properties(request(download=True), SYSTEM))
    assert not free.keys() & {"IPAddressDeny", "IPAddressAllow"}
    assert "HF_HUB_OFFLINE=1" not in free["Environment"][1]  # type: ignore[operator]
    # A network of its file is one more: without loopback the daemon would not reach it.
    lan = (2, b"\x0a\0\0\0", 8)
    more = dict(properties(request(service={"IPAddressAllow": ("a(iayu)", [lan])}), SYSTEM))
    assert more["IPAddressAllow"][1] == [*made["IPAddressAllow"][1], lan]


def test_each_engine_writes_to_a_directory_of_its_own() -> None:
    made = dict(properties(request(), SYSTEM))
    assert made["CacheDirectory"] == ("as", ["aither-engine/vision"])
    home = "/var/cache/aither-engine/vision"
    assert {f"HOME={home}", f"XDG_CACHE_HOME={home}", f"HF_HOME={home}/huggingface"} <= set(made["Environment"][1])  # type: ignore[call-overload]
    assert "CacheDirectory" not in dict(properties(request(), USER))


def test_devices_of_the_model_file_are_added_to_the_gpus() -> None:
    made = dict(properties(request(service={"DeviceAllow": ("a(ss)", [("/dev/kvm", "rw")])}), SYSTEM))
    assert {("char-nvidia*", "rw"), ("/dev/kvm", "rw")} <= set(made["DeviceAllow"][1])  # type: ignore[call-overload]


def test_the_environment_of_the_file_wins_over_the_engines_and_the_placement_is_told() -> None:
    made = dict(
        properties(
            request(
                launch=Launch(("vllm",), {"A": "engine", "B": "engine"}),
                device_uuids=("GPU-1", "GPU-2"),
                service={"Environment": ("as", ["A=file"])},
            ),
            USER,
        )
    )
    assert set(made["Environment"][1]) == {"A=file", "B=engine", "CUDA_VISIBLE_DEVICES=GPU-1,GPU-2"}  # type: ignore[call-overload]


def test_unit_names_go_both_ways() -> None:
    assert model_of(engine_unit("vision")) == "vision"
    assert model_of("aither-vision.service") is None
    assert model_of("aither--engine.service") is None
