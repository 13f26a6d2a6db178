"""Host memory of the essential model is protected up to the slice that it lives in."""

from tests.native.daemon.conftest import engine
from tests.testbed.rig import Rig


def test_the_slice_follows_what_essential_models_ask_for(rig: Rig) -> None:
    rig.model("orchestrator", engine(kind="essential", more='[resources]\nMemoryMin = "64M"'))
    rig.model("other", engine(more='[resources]\nMemoryMin = "512M"'))
    rig.reload()
    rig.ctl("list")
    rig.wait_for(lambda: protected(rig) == 64 << 20, "the slice to be protected")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the essential model")
    assert rig.manager.show("aither-orchestrator-engine.service", "MemoryMin")["MemoryMin"] == str(64 << 20)
    rig.model("orchestrator", engine(kind="essential", more='[resources]\nMemoryMin = "96M"'))
    rig.reload()
    rig.wait_for(lambda: protected(rig) == 96 << 20, "the slice to follow the configuration")


def protected(rig: Rig) -> int:
    return int(rig.manager.show("aither.slice", "MemoryMin")["MemoryMin"])
