"""Shipped files are turned on and off, and what a person changed is never lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aitherd.ctl.__main__ import main

MODEL = 'engine = "exec"\nvram = "4 GiB"\ncommand = ["{program}", "{{port}}"]\n'


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shipped files of a model that can run, and of one whose program is not there."""
    directory = tmp_path / "shipped"
    directory.mkdir()
    for name, program in (("good", "sleep"), ("lost", "/opt/nowhere/engine")):
        (directory / f"{name}.toml").write_text(MODEL.format(program=program))
    monkeypatch.setenv("AITHER_SHIPPED_DIR", str(directory))
    return directory


@pytest.fixture
def models(tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files count; nothing is there."""
    monkeypatch.setenv("AITHER_CONFIG_DIR", str(tmp_path / "etc"))
    for name in ("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"):
        monkeypatch.setenv(name, "unix:path=/nonexistent")
    return tmp_path / "etc" / "models.d"


def run(*words: str) -> int:
    return main([*words, "--no-reload"])


def there(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir())


def test_a_shipped_model_is_copied_to_where_it_counts(
    models: Path, shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("enable", "good") == 0
    assert (models / "good.toml").read_text() == (shipped / "good.toml").read_text()
    out = capsys.readouterr().out
    assert f"enabled good ({models / 'good.toml'})" in out
    assert "systemctl daemon-reload && aitherctl reload" in out


def test_one_that_cannot_run_is_put_aside_with_the_reason_and_the_others_count(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("enable", "--all") == 1
    assert there(models) == ["good.toml", "lost.toml.disabled"]
    err = capsys.readouterr().err
    assert "/opt/nowhere/engine does not exist" in err
    assert f"correct {models / 'lost.toml.disabled'} and retry" in err


def test_what_was_corrected_is_what_is_enabled(models: Path) -> None:
    run("enable", "lost")
    corrected = MODEL.format(program="sleep")
    (models / "lost.toml.disabled").write_text(corrected)
    assert run("enable", "lost") == 0
    assert (models / "lost.toml").read_text() == corrected


def test_what_was_changed_outlives_being_disabled(models: Path) -> None:
    run("enable", "good")
    changed = (models / "good.toml").read_text() + 'description = "mine"\n'
    (models / "good.toml").write_text(changed)
    assert run("disable", "good") == 0
    assert there(models) == ["good.toml.disabled"]
    assert run("enable", "good") == 0
    assert (models / "good.toml").read_text() == changed


def test_enabling_twice_changes_nothing(models: Path) -> None:
    run("enable", "good")
    (models / "good.toml").write_text("# broken by hand")
    assert run("enable", "good") == 0
    assert (models / "good.toml").read_text() == "# broken by hand"


def test_others_mistakes_keep_nobody_out(models: Path) -> None:
    models.mkdir(parents=True)
    (models / "broken.toml").write_text("not TOML")
    assert run("enable", "good") == 0
    assert there(models) == ["broken.toml", "good.toml"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("enable",), 2, "name some of good, lost, or --all"),
        (("enable", "godo"), 4, "no model file called godo is shipped; those shipped are good, lost"),
        (("disable", "good"), 4, "those enabled are none"),
    ],
)
def test_what_is_not_there_is_said(
    models: Path, words: tuple[str, ...], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == status
    assert said in capsys.readouterr().err


def test_a_file_elsewhere_can_only_be_masked(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = tmp_path / "vendor" / "models.d"
    vendor.mkdir(parents=True)
    (vendor / "good.toml").write_text(MODEL.format(program="sleep"))
    monkeypatch.setenv("AITHER_CONFIG_DIR", f"{models.parent}:{vendor.parent}")
    assert run("disable", "good") == 4
    assert f"ln -s /dev/null {models / 'good.toml'} masks the file" in capsys.readouterr().err


def test_a_program_learns_what_was_done(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("enable", "good", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"enabled": ["good"], "reloaded": False}
