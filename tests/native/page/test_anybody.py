"""The live page for anybody: on a phone and a desk, in the dark and in the light, by keyboard and by ear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.native.page.conftest import DESKTOP, PATIENCE_MS, PHONE, SCREENSHOTS, Visit
from tests.testbed.rig import Rig

Open = Callable[..., Visit]

CONTRAST = """
() => {
  const parse = (colour) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const bright = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(":disabled, option, .part, .unseen, noscript, script")) continue;
    const svg = element.closest("svg") !== null;
    if (svg && element.tagName === "title") continue;
    const [one, two] = [bright(parse(svg ? style.fill : style.color)), bright(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    const text = walker.currentNode.data.trim().slice(0, 30);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className} ${text}`);
  }
  const root = getComputedStyle(document.documentElement);
  const [panel, ink] = [root.getPropertyValue("--panel"), root.getPropertyValue("--on-colour")].map(parse).map(bright);
  for (let number = 0; number < 10; number += 1) {
    const colour = bright(parse(root.getPropertyValue(`--c${number}`)));
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio(colour, panel) < 3 || ratio(colour, ink) < 4.5) found.push(`colour ${number}`);
  }
  return found;
}
"""
"""WCAG 2.2, 1.4.3 and 1.4.11: text that is less than 4.5 to 1 from what is behind it; colours of models less than 3 to
1 from the panel, or less than 4.5 to 1 from the text on them."""

NAMELESS = """
() => {
  const named = (one) => one.getAttribute("aria-label") || one.labels?.[0]?.textContent.trim() || one.textContent.trim()
    || document.getElementById(one.getAttribute("aria-labelledby"))?.textContent.trim();
  const all = "button, select, input, textarea, a[href], summary, [role=img], [role=region], [role=table]";
  return [...document.querySelectorAll(all)].filter((one) => one.checkVisibility() && !named(one)).map((one) => one.id);
}
"""


def settle(there: Visit, rig: Rig) -> None:
    """A picture worth looking at: three models up, one that fails, an answer."""
    there.page.get_by_role("button", name="Start vision").click()
    expect(there.row("vision").locator(".badge")).to_have_text("ready", timeout=PATIENCE_MS)
    there.page.get_by_label("Model", exact=True).select_option("vision")
    there.page.get_by_label("Prompt").fill("Describe a harbour at dawn.")
    there.page.get_by_label("Tokens", exact=True).fill("32")
    there.page.get_by_role("button", name="Send").click()
    expect(there.page.locator("#trial-state")).to_have_text("the answer is complete", timeout=PATIENCE_MS)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("colours", ["dark", "light"])
def test_everything_can_be_read(visit: Open, rig: Rig, size: tuple[int, int], colours: str) -> None:
    there = visit(size, colours)
    settle(there, rig)
    page = there.page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"page-{'phone' if size == PHONE else 'desktop'}-{colours}.png", full_page=True)
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(NAMELESS) == []
    # Buttons stand below each other, whatever else a row has.
    edges = page.locator("#model-rows .act button:visible").evaluate_all(
        "(all) => all.map((one) => Math.round(one.getBoundingClientRect().right))"
    )
    assert len(edges) > 1 and len(set(edges)) == 1
    assert there.complaints == [] and there.violations == []


def test_the_button_for_colours_goes_round_and_is_remembered(visit: Open, rig: Rig) -> None:
    there = visit(DESKTOP, "dark")
    page = there.page
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    for name in ("dark", "light"):
        page.get_by_role("button", name="Colours:").click()
        expect(page.get_by_role("button", name=f"Colours: {name}")).to_be_visible()
    light = page.evaluate(background)
    assert light != dark
    page.reload()
    assert page.evaluate(background) == light


def outline(page: Page) -> list[dict[str, Any]]:
    """What a screen reader is told there is."""
    found: list[dict[str, Any]] = page.evaluate(
        "[...document.querySelectorAll('header, main, footer, section, h1, h2')].map((one) => "
        "({ tag: one.tagName, named: !!one.getAttribute('aria-labelledby') }))"
    )
    return found


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_screen_reader_finds_its_way(visit: Open, rig: Rig, size: tuple[int, int]) -> None:
    page = visit(size).page
    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    for name in ("Devices", "Models", "Timeline", "Try a model", "Decisions"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
        expect(page.get_by_role("heading", name=name, exact=True, level=2)).to_be_visible()
    table = page.get_by_role("table", name="Models")
    # As a column of cards on a phone it is still a table.
    expect(table.get_by_role("row")).to_have_count(5)
    expect(table.get_by_role("columnheader")).to_have_count(8)
    label = page.get_by_role("img", name="gpu0:").get_attribute("aria-label") or ""
    assert "orchestrator 17.0 GiB" in label and "free" in label
    expect(page.get_by_role("img", name="Timeline of the last")).to_have_count(1)
    assert page.locator("[aria-live=polite]").count() >= 3
    assert all(one["named"] for one in outline(page) if one["tag"] == "SECTION")


def test_it_can_be_used_by_keyboard_and_the_focus_is_seen(visit: Open, rig: Rig) -> None:
    there = visit()
    page = there.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "models"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            "[document.activeElement.getAttribute('aria-label') ?? document.activeElement.id, "
            "getComputedStyle(document.activeElement).outlineStyle]"
        )
        if seen[0] and seen[0] not in reached and page.evaluate("document.activeElement !== document.body"):
            assert seen[1] != "none", f"the focus on {seen[0]} is not seen"
            reached.add(seen[0])
    assert {"Start vision", "Stop embed", "hours", "trial-model", "trial-prompt", "trial-send", "records"} <= reached
    page.get_by_role("button", name="Start vision").focus()
    page.keyboard.press("Enter")
    expect(there.row("vision").locator(".badge")).to_have_text("ready", timeout=PATIENCE_MS)
    assert there.complaints == []
