"""What an administrator does to the daemon with systemd's own tools: reload, look at its status, set its log."""

from pathlib import Path

import httpx

from tests.native.daemon.conftest import chat, engine
from tests.testbed.rig import Rig


def test_a_broken_file_fails_the_reload_and_the_status_names_file_and_line(rig: Rig, http: httpx.Client) -> None:
    rig.model("good", engine())
    assert chat(http, "good").status_code == 200
    whole = engine()
    rig.model("other", f"# what it is for\n{whole}colour = 1\n")
    refused = rig.manager.systemctl("reload", "aitherd.service", check=False)
    assert refused.returncode != 0
    line = len(whole.splitlines()) + 2
    place = f"{rig.etc}/models.d/other.toml:{line}: colour = 1: unknown key"
    status = rig.manager.systemctl("status", "--full", "aitherd.service").stdout
    assert f'Status: "the configuration on disk is not in use: {place}' in status
    # The daemon says it once, however it was asked.
    assert rig.said(1000).count(f"the configuration on disk is not taken over: {place}") == 1
    assert chat(http, "good").headers["x-aither-reason"] == "ready"
    assert http.get("/health").status_code == 200

    rig.model("other", whole)
    rig.manager.systemctl("reload", "aitherd.service")
    assert "not in use" not in rig.manager.show("aitherd.service", "StatusText")["StatusText"]
    assert chat(http, "other").status_code == 200


def test_settings_that_keep_the_daemon_from_starting_are_told_at_once(rig: Rig) -> None:
    """The bus would wait for a daemon that has ended already."""
    rig.settings("[arbiter]\nreserv = 1\n")
    refused = rig.ctl("list", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "aitherctl: aitherd does not start: its configuration has errors; "
        "aitherctl --user check-config names them; once mended, systemctl --user start aitherd\n",
    )
    rig.settings("")
    rig.manager.systemctl("start", "aitherd")
    assert rig.ctl("list").stdout == "no model is configured\n"


def test_a_hangup_reads_the_configuration_and_the_manager_sees_begin_and_end(rig: Rig, http: httpx.Client) -> None:
    rig.model("first", engine())
    assert chat(http, "first").status_code == 200
    rig.model("second", engine())
    rig.manager.systemctl("kill", "--signal=HUP", "--kill-whom=main", "aitherd.service")
    rig.wait_for(lambda: "second" in {row["name"] for row in rig.ctl_json("list")}, "the new model")
    rig.wait_for(
        lambda: (
            rig.manager.show("aitherd.service", "ActiveState", "SubState")
            == {"ActiveState": "active", "SubState": "running"}
        ),
        "the reload to be over",
    )
    assert chat(http, "second").status_code == 200


def test_the_daemon_goes_by_its_name(rig: Rig) -> None:
    rig.ctl("list")
    assert Path(f"/proc/{rig.daemon_pid()}/comm").read_text() == "aitherd\n"


def test_the_log_level_is_systemctls_to_set(rig: Rig, http: httpx.Client) -> None:
    rig.model("quiet", engine())
    assert chat(http, "quiet").status_code == 200

    def level(*value: str) -> str:
        return rig.manager.systemctl("service-log-level", "aitherd.service", *value).stdout.strip()

    assert level() == "info"
    debugging = ("-u", "aitherd.service", "PRIORITY=7")
    assert not rig.manager.journal(*debugging)
    level("debug")
    assert level() == "debug"
    rig.ctl("stop", "quiet")
    # systemd has not been told of this model, so no unit follows the hold: nobody's trouble, but worth a line.
    rig.ctl("hold", "quiet")
    rig.wait_for(lambda: "the model unit does not follow" in rig.manager.journal(*debugging), "what debugging shows")
    assert "calls StartTransientUnit of org.freedesktop.systemd1" in rig.manager.journal(*debugging)
    assert rig.manager.systemctl("service-log-target", "aitherd.service").stdout.strip() == "journal"
    # What a configuration says holds again when one is taken over.
    rig.settings('[log]\nlevel = "warning"\n')
    rig.reload()
    assert level() == "warning"
