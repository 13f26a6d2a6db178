"""What outlives the daemon survives writing and reading, and damage never keeps the daemon from starting."""

import json
from pathlib import Path

import pytest

from aitherd.conductor.store import KeptLease, State, Store, learning_key
from aitherd.core.learning import Learned


def learned() -> Learned:
    found = Learned()
    found.observe_footprint(5 << 30)
    found.observe_start(3.5)
    return found


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    key = learning_key("vision", "abc", "570.1")
    state = State(
        held=frozenset({"chat"}),
        stopped=frozenset({"embed"}),
        levels={"challenger": 2},
        lost={"leaky": {"gpu0": 4 << 30}},
        learned={key: learned()},
        leases={"a1": KeptLease(8 << 30, "gpu0", "a game", 4711, 12345, since=1.5, ends=0.0)},
    )
    Store(tmp_path).save(state)
    assert Store(tmp_path).load() == state


def test_nothing_saved_is_an_empty_state(tmp_path: Path) -> None:
    assert Store(tmp_path / "not-there").load() == State()


def test_a_file_from_before_there_were_leases_is_read(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"version": 1, "held": ["chat"], "stopped": [], "levels": {}, "learned": {}}')
    assert Store(tmp_path).load() == State(held=frozenset({"chat"}))


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '"text"',
        '{"version": 99}',
        '{"version": 1, "held": "chat", "stopped": [], "levels": {}, "learned": {}}',
        '{"version": 1, "held": [1], "stopped": [], "levels": {}, "learned": {}}',
        '{"version": 1, "held": [], "stopped": [], "levels": {"a": "deep"}, "learned": {}}',
        '{"version": 1, "held": [], "stopped": [], "levels": {}, "learned": {"a": {"peaks": ["x"]}}}',
        '{"version": 1, "held": [], "stopped": [], "levels": {}, "learned": 3}',
        '{"version": 1, "held": [], "stopped": [], "levels": {}, "learned": {}, "leases": []}',
        '{"version": 1, "held": [], "stopped": [], "levels": {}, "learned": {}, "leases": {"a1": {"bytes": 1}}}',
        '{"version": 1, "held": [], "stopped": [], "levels": {"a": Infinity}, "learned": {}}',
        b'{"version": 1, "held": ["\xff"], "stopped": [], "levels": {}, "learned": {}}',
        "[" * 100_000,
    ],
    ids=lambda damage: str(damage[:90]),
)
def test_a_damaged_file_is_kept_aside_and_not_believed(tmp_path: Path, damage: str | bytes) -> None:
    data = damage if isinstance(damage, bytes) else damage.encode()
    (tmp_path / "state.json").write_bytes(data)
    assert Store(tmp_path).load() == State()
    assert (tmp_path / "state.broken").read_bytes() == data


def test_a_directory_that_cannot_be_written_costs_no_exception(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    Store(blocked / "below").save(State(held=frozenset({"chat"})))


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(State(held=frozenset({"chat"})))
    (tmp_path / "state.new").mkdir()
    store.save(State(held=frozenset({"other"})))
    assert json.loads((tmp_path / "state.json").read_text())["held"] == ["chat"]


def test_the_same_state_is_written_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(State())
    (tmp_path / "state.json").unlink()
    store.save(State())
    assert not (tmp_path / "state.json").exists()
