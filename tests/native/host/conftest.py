"""One private service manager for all tests of the host that need one: they leave nothing in it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from sdbus import SdBus
from sdbus.sd_bus_internals import sd_bus_open_user

from tests.testbed.manager import ManagerUnavailable, UserManager


@pytest.fixture(scope="package")
def user() -> Iterator[UserManager]:
    """The manager, its bus and its journal."""
    bed = UserManager()
    try:
        bed.__enter__()
    except ManagerUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no private service manager: {problem}")
    yield bed
    bed.__exit__(None, None, None)


@pytest.fixture
async def bus(user: UserManager, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SdBus]:
    """A connection to that manager's bus."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", user.env["DBUS_SESSION_BUS_ADDRESS"])
    connection = sd_bus_open_user()
    yield connection
    connection.close()
