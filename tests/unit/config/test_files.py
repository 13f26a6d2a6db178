"""Which configuration files count, and reading them without trusting them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aitherd.config import directories
from aitherd.config.files import MAX_FILE
from tests.unit.config.conftest import Etc


def test_the_system_and_a_user_have_their_own_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AITHER_CONFIG_DIR", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/me/.config")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert directories(user=False) == (Path("/etc/aither"), Path("/run/aither"), Path("/usr/lib/aither"))
    assert directories(user=True) == (
        Path("/home/me/.config/aither"),
        Path("/run/user/1000/aither"),
        Path("/usr/lib/aither"),
    )


def test_without_xdg_variables_a_users_directories_are_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AITHER_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    home, runtime, _ = directories(user=True)
    assert home == Path("/home/me/.config/aither")
    assert runtime == Path(f"/run/user/{os.getuid()}/aither")


@pytest.mark.parametrize("user", [True, False])
def test_an_environment_variable_replaces_the_directories(monkeypatch: pytest.MonkeyPatch, user: bool) -> None:
    monkeypatch.setenv("AITHER_CONFIG_DIR", "/a:/b")
    assert directories(user=user) == (Path("/a"), Path("/b"))


def test_a_stronger_file_of_the_same_name_replaces_a_weaker_one_whole(
    etc: Etc, directory: Callable[[str], Etc]
) -> None:
    vendor = directory("vendor")
    vendor.settings('[arbiter]\nwait = "1min"\nreserve = "1G"\n')
    vendor.model("vision", serves='["old"]')
    vendor.model("speak")
    etc.settings('[arbiter]\nwait = "2min"\n')
    etc.model("vision")
    fleet, _ = etc.load(vendor.root)
    assert fleet is not None
    assert {name: model.path.parent for name, model in fleet.models.items()} == {
        "vision": etc.models,
        "speak": vendor.models,
    }
    assert "old" not in fleet.names
    assert (fleet.settings.wait, fleet.settings.reserve) == (120.0, 512 * 2**20)


def test_a_broken_file_that_is_overridden_does_no_harm(etc: Etc, directory: Callable[[str], Etc]) -> None:
    vendor = directory("vendor")
    vendor.model("vision", vram='"nonsense"')
    etc.model("vision")
    assert etc.load(vendor.root)[1] == ()


def test_a_link_to_dev_null_masks_a_file(etc: Etc, directory: Callable[[str], Etc]) -> None:
    vendor = directory("vendor")
    vendor.model("vision")
    vendor.settings("nonsense")
    (etc.models / "vision.toml").symlink_to(os.devnull)
    (etc.root / "aitherd.toml").symlink_to(os.devnull)
    fleet, problems = etc.load(vendor.root)
    assert fleet is not None
    assert (fleet.models, problems) == ({}, ())


def test_other_files_in_the_directory_are_left_alone(etc: Etc) -> None:
    for name in ("vision.toml.example", "vision.toml~", ".vision.toml", "README", "vision.toml.dpkg-old"):
        (etc.models / name).write_text("nonsense")
    assert etc.fleet().models == {}


def test_a_link_to_a_file_elsewhere_is_followed(etc: Etc, tmp_path: Path) -> None:
    etc.model("speak").rename(tmp_path / "elsewhere")
    (etc.models / "vision.toml").symlink_to(tmp_path / "elsewhere")
    assert list(etc.fleet().models) == ["vision"]


def test_what_is_no_file_is_a_problem_and_never_waited_for(etc: Etc, tmp_path: Path) -> None:
    (etc.models / "folder.toml").mkdir()
    os.mkfifo(etc.models / "pipe.toml")
    (etc.models / "gone.toml").symlink_to(tmp_path / "nothing")
    (etc.models / "large.toml").write_text("#" * (MAX_FILE + 1))
    (etc.models / "latin.toml").write_bytes(b'a = 1\nb = "\xe9"\n')
    fleet, problems = etc.load()
    assert fleet is None
    said = {problem.path.name: problem for problem in problems}
    assert {name: problem.message for name, problem in said.items()} == {
        "folder.toml": "it is a directory",
        "pipe.toml": "it is not a regular file",
        "gone.toml": "cannot be read: it is a link to nothing",
        "large.toml": "it is larger than 1 MiB",
        "latin.toml": "it is not UTF-8",
    }
    assert (said["latin.toml"].line, said["latin.toml"].column) == (2, 6)
    assert all(problem.remedy for problem in problems)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_a_problem(etc: Etc) -> None:
    etc.model().chmod(0)
    assert "permission denied" in etc.problem().message


def test_a_directory_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    etc = Etc(tmp_path / "etc")
    etc.models.rmdir()
    etc.models.write_text("")
    assert "not a directory" in etc.problem().message


def test_a_file_left_by_an_editor_of_another_system_is_read(etc: Etc) -> None:
    path = etc.model()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert etc.loaded().name == "vision"
