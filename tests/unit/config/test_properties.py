"""Unit properties as written in model files, and as they go over D-Bus."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.config.problem import BadValue
from aitherd.config.properties import REFUSED, RESOURCES, SERVICE, TABLES, read

SIGNATURE = re.compile(r"[bistu]|as|ay|a\([a-z]+\)|\(bas\)")
INFINITY = 2**64 - 1

EVERY = [(table, name) for table, entries in TABLES.items() for name in entries]

TOML = st.recursive(
    st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.booleans()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("table", "name", "written", "sent"),
    [
        ("resources", "MemoryMax", "12G", {"MemoryMax": ("t", 12 * 2**30)}),
        ("resources", "MemoryMax", "infinity", {"MemoryMax": ("t", INFINITY)}),
        ("resources", "MemoryHigh", "50%", {"MemoryHighScale": ("u", 2147483648)}),
        ("resources", "TasksMax", "infinity", {"TasksMax": ("t", INFINITY)}),
        ("resources", "CPUWeight", "idle", {"CPUWeight": ("t", 0)}),
        ("resources", "CPUQuota", "150%", {"CPUQuotaPerSecUSec": ("t", 1_500_000)}),
        ("resources", "CPUQuota", "12.5%", {"CPUQuotaPerSecUSec": ("t", 125_000)}),
        ("resources", "AllowedCPUs", "0-3,8", {"AllowedCPUs": ("ay", b"\x0f\x01")}),
        ("resources", "AllowedCPUs", [0, 2], {"AllowedCPUs": ("ay", b"\x05")}),
        ("resources", "AllowedMemoryNodes", 1, {"AllowedMemoryNodes": ("ay", b"\x02")}),
        ("resources", "LimitNOFILE", "1024:65536", {"LimitNOFILESoft": ("t", 1024), "LimitNOFILE": ("t", 65536)}),
        (
            "resources",
            "LimitMEMLOCK",
            "infinity",
            {"LimitMEMLOCKSoft": ("t", INFINITY), "LimitMEMLOCK": ("t", INFINITY)},
        ),
        (
            "resources",
            "IOReadBandwidthMax",
            "/dev/sda 1M",
            {"IOReadBandwidthMax": ("a(st)", [("/dev/sda", 1_000_000)])},
        ),
        ("resources", "OOMScoreAdjust", -500, {"OOMScoreAdjust": ("i", -500)}),
        ("service", "Environment", ["A=1", "B=x y"], {"Environment": ("as", ["A=1", "B=x y"])}),
        ("service", "Environment", {"A": "1"}, {"Environment": ("as", ["A=1"])}),
        ("service", "EnvironmentFile", "-/etc/x.env", {"EnvironmentFiles": ("a(sb)", [("/etc/x.env", True)])}),
        ("service", "LoadCredential", "key:/etc/key", {"LoadCredential": ("a(ss)", [("key", "/etc/key")])}),
        ("service", "DeviceAllow", ["/dev/kfd rw"], {"DeviceAllow": ("a(ss)", [("/dev/kfd", "rw")])}),
        ("service", "IPAddressDeny", "10.0.0.1/8", {"IPAddressDeny": ("a(iayu)", [(2, b"\x0a\x00\x00\x00", 8)])}),
        (
            "service",
            "IPAddressAllow",
            "localhost",
            {"IPAddressAllow": ("a(iayu)", [(2, b"\x7f\x00\x00\x00", 8), (10, b"\x00" * 15 + b"\x01", 128)])},
        ),
        (
            "service",
            "RestrictAddressFamilies",
            "~AF_NETLINK AF_PACKET",
            {"RestrictAddressFamilies": ("(bas)", (False, ["AF_NETLINK", "AF_PACKET"]))},
        ),
        (
            "service",
            "BindReadOnlyPaths",
            "-/a:/b:norbind /c",
            {"BindReadOnlyPaths": ("a(ssbt)", [("/a", "/b", True, 0), ("/c", "/c", False, 16384)])},
        ),
        ("service", "ProtectHome", True, {"ProtectHome": ("s", "yes")}),
        ("service", "PrivateTmp", "no", {"PrivateTmp": ("b", False)}),
        ("service", "KillSignal", "SIGINT", {"KillSignal": ("i", 2)}),
        ("service", "WorkingDirectory", "-~", {"WorkingDirectory": ("s", "-~")}),
    ],
)
def test_a_property_goes_over_the_bus_as_systemd_takes_it(
    table: str, name: str, written: object, sent: dict[str, object]
) -> None:
    assert read(table, name, written) == sent


@pytest.mark.parametrize(
    ("table", "name", "written"),
    [
        ("resources", "MemoryMax", "12 apples"),
        ("resources", "MemoryMax", "120%"),
        ("resources", "MemoryMax", True),
        ("resources", "CPUWeight", 0),
        ("resources", "CPUWeight", 10001),
        ("resources", "CPUQuota", 150),
        ("resources", "CPUQuota", "0%"),
        ("resources", "AllowedCPUs", "3-1"),
        ("resources", "AllowedCPUs", "all"),
        ("resources", "AllowedCPUs", "99999"),
        ("resources", "Nice", 20),
        ("resources", "OOMPolicy", "ignore"),
        ("resources", "LimitNOFILE", "10:5"),
        ("resources", "IODeviceWeight", "/dev/sda"),
        ("resources", "IOReadBandwidthMax", "/dev/sda fast"),
        ("service", "Environment", ["=x"]),
        ("service", "Environment", ["A=\x1b[2J"]),
        ("service", "Environment", {"A": 1}),
        ("service", "LoadCredential", "/etc/key"),
        ("service", "WorkingDirectory", "models"),
        ("service", "ReadWritePaths", "/srv/../etc"),
        ("service", "DeviceAllow", "nvidia rw"),
        ("service", "IPAddressDeny", "everything"),
        ("service", "BindPaths", "/a:/b:/c"),
        ("service", "KillSignal", "SIGWHATEVER"),
        ("service", "User", ""),
    ],
)
def test_a_value_that_systemd_would_not_take_is_refused_with_a_remedy(table: str, name: str, written: object) -> None:
    with pytest.raises(BadValue) as refused:
        read(table, name, written)
    assert refused.value.message
    assert refused.value.remedy


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize("table", sorted(TABLES))
def test_what_ties_the_unit_to_aitherd_is_refused_with_the_reason(table: str, name: str) -> None:
    with pytest.raises(BadValue, match=r"a model file does not set this: .+"):
        read(table, name, "x")


def test_a_property_in_the_wrong_table_is_told_where_it_belongs() -> None:
    with pytest.raises(BadValue, match=r"does not belong in \[service\]") as refused:
        read("service", "MemoryMax", "1G")
    assert refused.value.remedy == "move it to [resources]"


def test_an_unknown_property_is_told_the_nearest_one() -> None:
    with pytest.raises(BadValue) as refused:
        read("resources", "MemoryMaximum", "1G")
    assert refused.value.remedy == "did you mean MemoryMax?"


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_every_property_takes_its_own_example(table: str, name: str) -> None:
    for _, (signature, _) in read(table, name, TABLES[table][name].example).items():
        assert SIGNATURE.fullmatch(signature)


def test_no_property_is_both_allowed_and_refused() -> None:
    assert not set(RESOURCES) & set(SERVICE)
    assert not {*RESOURCES, *SERVICE} & set(REFUSED)


@given(st.sampled_from(EVERY), TOML)
def test_any_value_is_taken_or_refused(entry: tuple[str, str], value: object) -> None:
    try:
        sent = read(*entry, value)
    except BadValue as refused:
        assert refused.remedy
        return
    assert all(isinstance(signature, str) for signature, _ in sent.values())
