"""The live page in a real Chromium, from a real daemon with a real llama-server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.native.daemon.conftest import engine, gpu, start_rig
from tests.testbed import llama, models
from tests.testbed.rig import Rig

__all__ = ["gpu", "start_rig"]

CHROMIUM = Path("/usr/bin/chromium")
SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"
DESKTOP, PHONE = (1280, 860), (360, 780)
PATIENCE_MS = 60_000
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


@pytest.fixture
def rig(start_rig: Callable[..., Rig]) -> Rig:
    """A fleet with an essential model and one that sees, which is a real llama-server."""
    try:
        rig = start_rig(path=(llama.programs(),))
    except llama.LlamaUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no llama-server: {problem}")
    rig.model("orchestrator", engine("17 GiB", kind="essential"))
    rig.model("embed", engine("2 GiB", kind="resident", more='can = ["embeddings"]\ndescription = "Embeddings"'))
    rig.model("imagine", engine("9 GiB", idle="1h", more='can = ["images"]\ndescription = "Pictures from words"'))
    command = json.dumps(["with-vram", "5.2GiB", "--", "llama-server", *models.llama_flags(vision=True)])
    rig.model(
        "vision",
        'engine = "llama-server"\nclass = "on-demand"\nserves = ["qwen2.5-vl"]\ncan = ["chat", "vision"]\n'
        f'vram = "5.2 GiB"\nidle = "1h"\ndescription = "Captions and questions about pictures"\ncommand = {command}\n',
    )
    return rig


@pytest.fixture
def url(rig: Rig) -> str:
    """Where the page is, once the fleet has come up."""
    url = rig.tcp()
    rig.ctl("list")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the essential model")
    return url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. While it is there playwright keeps an event loop running: no asynchronous test may be near."""
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            raise AssertionError("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # Root has no sandbox to use, and the page is ours.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a window of its own, and all that it complained of."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.complaints: list[str] = []
        context.add_init_script(VIOLATIONS)
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#model-rows tr")
        self.page.wait_for_selector("#timeline svg")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    @property
    def violations(self) -> list[str]:
        """What the content security policy has stopped."""
        found: list[str] = self.page.evaluate("window.violations")
        return found

    def row(self, model: str) -> Any:
        """The model's row in the table."""
        return self.page.locator(f'#model-rows tr[data-key="{model}"]')


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Callable[..., Visit]]:
    """Opens the page in a window of some size and colours."""
    contexts: list[BrowserContext] = []

    def open_page(size: tuple[int, int] = DESKTOP, colours: str = "dark") -> Visit:
        scale = 2 if size == PHONE else 1
        viewport: Any = {"width": size[0], "height": size[1]}
        scheme: Any = colours
        context = browser.new_context(viewport=viewport, device_scale_factor=scale, color_scheme=scheme)
        contexts.append(context)
        return Visit(context, url)

    yield open_page
    for context in contexts:
        context.close()
