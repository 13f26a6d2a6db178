"""The commands about files, without a daemon and without a bus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aitherd.ctl.__main__ import main

MODEL = 'engine = "exec"\nvram = "{vram}"\nclass = "{kind}"\ncommand = ["sleep", "{{port}}"]\n'


@pytest.fixture(autouse=True)
def no_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no daemon to ask."""
    for name in ("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"):
        monkeypatch.setenv(name, "unix:path=/nonexistent")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration directory with one model of 4 GiB."""
    (tmp_path / "models.d").mkdir()
    (tmp_path / "models.d" / "small.toml").write_text(MODEL.format(vram="4 GiB", kind="on-demand"))
    return tmp_path


def test_a_good_configuration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(folder), "--device", "gpu0=8 GiB", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["valid"]
    assert [model["name"] for model in report["models"]] == ["small"]
    assert main(["check-config", str(folder), "--device", "gpu0=8 GiB"]) == 0
    assert "small" in capsys.readouterr().out


def test_essentials_that_do_not_fit_the_device(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "models.d" / "large.toml").write_text(MODEL.format(vram="9 GiB", kind="essential"))
    assert main(["check-config", str(folder), "--device", "gpu0=8 GiB"]) == 1
    assert "the essential models do not fit" in capsys.readouterr().out
    assert main(["check-config", str(folder), "--device", "gpu0=16 GiB"]) == 0


def test_every_problem_is_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "aitherd.toml").write_text("[arbiter]\nreserve = 'much'\n")
    (folder / "models.d" / "odd.toml").write_text('engine = "abacus"\n')
    assert main(["check-config", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {Path(problem["path"]).name for problem in report["problems"]} == {"aitherd.toml", "odd.toml"}


def test_sums_that_were_not_checked_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["check-config", str(folder)])
    captured = capsys.readouterr()
    if "gpu0" in captured.out:
        pytest.skip("there is a GPU here: the sums are checked")
    assert status == 0
    assert "no device is known: whether the models fit was not checked" in captured.err


def test_the_files_that_count_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cat-config", str(folder)]) == 0
    out = capsys.readouterr().out
    assert str(folder / "models.d" / "small.toml") in out
    assert 'vram = "4 GiB"' in out
    assert main(["cat-config", str(folder / "nowhere")]) == 2
    assert "is not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["model", "settings"])
def test_schemas_are_printed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


def test_without_a_bus_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 1
    assert capsys.readouterr().err == "aitherctl: cannot connect to the system bus; is dbus.service running?\n"
