"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.config.problem import BadValue
from aitherd.config.units import (
    MAX_DURATION,
    MAX_SIZE,
    duration_text,
    parse_duration,
    parse_endless,
    parse_size,
    size_text,
)

ANY = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text()))


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (512, 512),
        ("512", 512),
        ("512 B", 512),
        ("10G", 10 * 2**30),
        ("10 GiB", 10 * 2**30),
        ("512 MiB", 512 * 2**20),
        ("1.5k", 1536),
        ("5.2 GiB", int(5.2 * 2**30)),
        (" 2TiB ", 2 * 2**40),
        ("0", 0),
    ],
)
def test_a_size_is_binary_whatever_its_suffix(written: object, count: int) -> None:
    assert parse_size(written) == count


@pytest.mark.parametrize(
    "written",
    ["", "G", "5 apples", "-1", -1, "1e9", "1_000", "5,2 GiB", "٣ GiB", "5 iB", 5.2, True, None, [], "9999999P"],
)
def test_what_is_no_size_is_refused_with_an_example(written: object) -> None:
    with pytest.raises(BadValue) as refused:
        parse_size(written)
    assert "GiB" in refused.value.remedy


def test_a_suffix_that_may_mean_two_sizes_is_refused_with_the_one_meant() -> None:
    with pytest.raises(BadValue, match="GB may mean two sizes") as refused:
        parse_size("16GB")
    assert '"16 GiB"' in refused.value.remedy


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5min", 300),
        ("1h 30min", 5400),
        ("1h30min", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("2 days", 172800),
        ("90", 90),
        (90, 90),
        (0.5, 0.5),
        ("1w", 604800),
    ],
)
def test_a_duration_is_a_time_span_of_systemd(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["infinity", "never"])
def test_only_what_may_be_endless_takes_infinity(written: str) -> None:
    assert parse_endless(written) is None
    with pytest.raises(BadValue, match="must end"):
        parse_duration(written)


@pytest.mark.parametrize(
    "written",
    ["", "min", "5 fortnights", "5M", "-5s", -5, float("nan"), float("inf"), True, None, "5min;", "1000w", "1e3"],
)
def test_what_is_no_duration_is_refused_with_an_example(written: object) -> None:
    with pytest.raises(BadValue) as refused:
        parse_duration(written)
    assert "1h 30min" in refused.value.remedy


@given(st.integers(min_value=0, max_value=MAX_SIZE))
def test_a_size_survives_being_written(count: int) -> None:
    assert parse_size(size_text(count)) == count


@given(st.integers(min_value=0, max_value=int(MAX_DURATION * 1_000_000)))
def test_a_duration_survives_being_written(microseconds: int) -> None:
    assert round(parse_duration(duration_text(microseconds / 1_000_000)) * 1_000_000) == microseconds


def test_an_endless_duration_survives_being_written() -> None:
    assert parse_endless(duration_text(None)) is None


@given(ANY)
def test_any_value_is_a_size_within_bounds_or_refused(value: object) -> None:
    try:
        count = parse_size(value)
    except BadValue:
        return
    assert 0 <= count <= MAX_SIZE


@given(ANY)
def test_any_value_is_a_duration_within_bounds_or_refused(value: object) -> None:
    try:
        seconds = parse_endless(value)
    except BadValue:
        return
    assert seconds is None or 0 <= seconds <= MAX_DURATION


@given(st.text(alphabet="0123456789.hmin s", max_size=20))
def test_nearly_a_duration_is_one_or_refused(text: str) -> None:
    try:
        parse_endless(text)
    except BadValue as refused:
        assert refused.remedy
