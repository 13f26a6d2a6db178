"""The live page as people use it: it shows what happens, starts and stops models, and has one answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Browser, expect

from tests.native.daemon.conftest import engine
from tests.native.page.conftest import PATIENCE_MS, Visit
from tests.testbed.models import png
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

Open = Callable[..., Visit]


def spans(visit: Visit) -> int:
    """How many stretches of residency the timeline shows."""
    return int(visit.page.locator("#timeline").get_attribute("data-spans") or 0)


def test_a_model_is_started_asked_about_a_picture_and_stopped(visit: Open, rig: Rig) -> None:
    there = visit()
    page = there.page
    state = there.row("vision").locator(".badge")
    expect(state).to_have_text("absent")
    expect(page.locator("#health-text")).to_have_text("healthy")
    before = spans(there)

    page.get_by_role("button", name="Start vision").click()
    expect(state).to_have_text("ready", timeout=PATIENCE_MS)
    expect(page.get_by_role("img", name="gpu0:")).to_have_attribute("aria-label", re.compile("vision 5.2 GiB"))
    expect(page.locator("#records")).to_contain_text("vision answers: started in", timeout=PATIENCE_MS)
    page.wait_for_function("(before) => Number(document.getElementById('timeline').dataset.spans) > before", arg=before)

    page.get_by_label("Model", exact=True).select_option("vision")
    page.get_by_label("Prompt").fill("What is this?")
    page.get_by_label("Picture").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": png()})
    page.get_by_label("Tokens", exact=True).fill("24")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#trial-state")).to_have_text("the answer is complete", timeout=PATIENCE_MS)
    assert len(page.locator("#trial-answer").inner_text().split()) > 5
    facts = page.locator("#trial-facts")
    expect(facts).to_contain_text("vision")
    expect(facts).to_contain_text("tokens/s")
    # The daemon has counted the tokens that went by.
    with rig.http() as http:
        (counted,) = re.findall(r'aither_answer_tokens_total\{model="vision"\} ([0-9.]+)', http.get("/metrics").text)
    assert float(counted) == 24

    page.get_by_role("button", name="Stop vision").click()
    expect(state).to_have_text("absent", timeout=PATIENCE_MS)
    expect(page.locator("#said")).to_have_text("vision has stopped")
    assert there.complaints == [] and there.violations == []


def test_what_a_model_says_against_a_request_is_shown(visit: Open, rig: Rig) -> None:
    there = visit()
    page = there.page
    page.get_by_label("Model", exact=True).select_option("vision")
    page.get_by_label("Prompt").fill("too long " * 5000)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#trial-state")).to_have_text("it failed", timeout=PATIENCE_MS)
    expect(page.locator("#trial-answer .wrong")).not_to_be_empty()
    assert there.violations == []


def test_it_comes_back_with_the_daemon_and_the_past_is_still_there(visit: Open, rig: Rig, gpu: Gpu) -> None:
    rig.ctl("start", "vision")
    there = visit()
    page = there.page
    expect(page.locator("#records")).to_contain_text("vision answers: started in", timeout=PATIENCE_MS)
    rig.ctl("stop", "vision")
    expect(there.row("vision").locator(".badge")).to_have_text("absent", timeout=PATIENCE_MS)
    old = rig.daemon_pid()
    rig.manager.systemctl("restart", "aitherd.service")
    rig.wait_for(lambda: rig.daemon_pid() not in (0, old) and rig.running, "the daemon to come back")
    # It was told anew: what happens now is seen.
    rig.ctl("start", "imagine")
    expect(there.row("imagine").locator(".badge")).to_have_text("ready", timeout=PATIENCE_MS)
    page.reload()
    expect(page.locator("#records")).to_contain_text("vision answers: started in", timeout=PATIENCE_MS)
    page.get_by_text("The timeline as a table").click()
    expect(page.locator("#timeline-rows")).to_contain_text("vision", timeout=PATIENCE_MS)
    expect(page.locator("#timeline .began")).to_have_count(2, timeout=PATIENCE_MS)


def test_where_a_key_is_needed_the_page_asks_for_it(start_rig: Callable[..., Rig], browser: Browser) -> None:
    rig = start_rig()
    rig.settings('[callers.me]\nkey = "page-key"\n')
    rig.manager.install_unit("aitherd.service.d/key.conf", "[Service]\nSetCredential=page-key:sk-open-sesame-1234\n")
    rig.model("vision", engine("2 GiB", kind="resident"))
    url = rig.tcp()
    rig.ctl("list")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.get_by_label("An API key is needed here").fill("sk-open-sesame-1234")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("button", name="Stop vision")).to_be_enabled(timeout=PATIENCE_MS)
    expect(page.locator("#key-form")).to_be_hidden()
    page.close()


def test_others_on_the_card_and_what_is_wrong_with_it_are_shown(visit: Open, rig: Rig, gpu: Gpu) -> None:
    there = visit()
    gpu.card.claim(rig.daemon_pid(), 3 << 30)
    expect(there.page.locator("#device-list")).to_contain_text("3.0 GiB", timeout=PATIENCE_MS)
    rig.model(
        "broken",
        'engine = "exec"\nclass = "resident"\nvram = "1 GiB"\ncommand = ["engine", "--nonsense", "{socket}"]\n',
    )
    rig.reload()
    expect(there.row("broken").locator(".badge")).to_have_text("failed", timeout=PATIENCE_MS)
    expect(there.page.get_by_role("list", name="Problems")).to_contain_text("broken", timeout=PATIENCE_MS)
    expect(there.page.locator("#health-text")).to_have_text("1 problem")
