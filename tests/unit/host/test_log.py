"""Records on their way to the journal and to stderr: a real datagram socket stands where the journal's is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from aitherd.host import log
from aitherd.host.log import Journal


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What the journal gets, while stderr counts as connected to it."""
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(path))
        ours.settimeout(5)
        journal = Journal(path)
        monkeypatch.setattr(log, "Journal", lambda: journal)
        monkeypatch.setattr(log, "under_journal", lambda: True)
        yield ours
        journal.close()


def entry(received: socket.socket) -> dict[str, str]:
    """The next entry's fields, read as the protocol says, from the datagram or the file passed with it."""
    data, descriptors, _, _ = socket.recv_fds(received, 1 << 20, 1)
    for descriptor in descriptors:
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            data += file.read()
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + length], data[8 + length + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def test_a_record_has_its_message_priority_and_fields(received: socket.socket) -> None:
    log.setup()
    structlog.get_logger("aitherd").warning("no room", aither_model="vision", missing=7, devices=("gpu0",), of={"a": 1})
    assert entry(received) == {
        "MESSAGE": "no room",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "aitherd",
        "AITHER_MODEL": "vision",
        "MISSING": "7",
        "DEVICES": '["gpu0"]',
        "OF": '{"a": 1}',
    }


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_levels_are_syslog_priorities(received: socket.socket, level: str, priority: int) -> None:
    log.setup("debug")
    getattr(structlog.get_logger(), level)("x")
    assert entry(received)["PRIORITY"] == str(priority)


def test_a_value_of_several_lines_cannot_make_fields_of_its_own(received: socket.socket) -> None:
    log.setup()
    structlog.get_logger().info("first\nPRIORITY=0", why="a\nMESSAGE=forged\n")
    found = entry(received)
    assert (found["MESSAGE"], found["PRIORITY"], found["WHY"]) == ("first\nPRIORITY=0", "6", "a\nMESSAGE=forged\n")


def test_field_names_are_made_what_the_journal_takes(received: socket.socket) -> None:
    log.setup()
    structlog.get_logger().info("x", **{"message": "other", "_pid": 1, "2nd": 2, "a-b c": 3, "ü": 4, "l" * 99: 5})
    found = entry(received)
    assert found.pop("MESSAGE") == "x"
    assert found["AITHER_MESSAGE"] == "other"
    assert (found["PID"], found["AITHER_2ND"], found["A_B_C"], found["AITHER_"], found["L" * 64]) == tuple("12345")


def test_an_entry_too_large_for_a_datagram_arrives_whole(received: socket.socket) -> None:
    log.setup()
    structlog.get_logger().info("x" * (4 << 20), model="vision")
    found = entry(received)
    assert len(found["MESSAGE"]) == 4 << 20
    assert found["MODEL"] == "vision"


def test_an_exception_is_told_with_its_traceback(received: socket.socket) -> None:
    log.setup()
    try:
        dict[str, int]()["nothing"]
    except KeyError:
        structlog.get_logger().exception("it failed")
    message = entry(received)["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert message.endswith("KeyError: 'nothing'")


def test_the_level_changes_for_loggers_that_are_in_use(received: socket.socket) -> None:
    log.setup("warning")
    logger = structlog.get_logger("aitherd")
    logger.info("dropped")
    log.set_level("debug")
    logger.debug("kept")
    log.set_level("err")
    logger.warning("dropped")
    logger.error("kept, too")
    assert [entry(received)["MESSAGE"] for _ in range(2)] == ["kept", "kept, too"]
    assert log.get_level() == "err"
    with pytest.raises(ValueError, match="not a log level"):
        log.set_level("loud")


def test_a_full_journal_neither_blocks_nor_raises(received: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    for number in range(5000):
        structlog.get_logger().info("x", number=number)
    assert entry(received)["NUMBER"] == "0"
    assert capsys.readouterr().err == ""


def test_without_the_journal_records_still_reach_stderr(
    received: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.setup()
    (tmp_path / "journal").unlink()
    structlog.get_logger().error("it is gone", model="vision")
    assert capsys.readouterr().err.endswith(" error: it is gone (model=vision)\n")


def test_at_a_terminal_records_are_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.setup()
    structlog.get_logger().info("vision is ready", waited=1.5)
    structlog.get_logger().debug("dropped")
    assert capsys.readouterr().err[8:] == " info: vision is ready (waited=1.5)\n"


def test_the_journal_is_used_only_when_stderr_is_connected_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open("w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        found = os.fstat(stderr.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert log.under_journal()
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not log.under_journal()
        monkeypatch.setenv("JOURNAL_STREAM", json.dumps("nonsense"))
        assert not log.under_journal()
