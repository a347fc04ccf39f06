"""The page in a real Chromium against the real server; desktop and phone. Also: PAGE_SHOTS=folder keeps screenshots."""

import os
import shutil
from pathlib import Path

import pytest

from .conftest import LONG_STORY, STORY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: bash setup.sh installs it")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(
    not CHROMIUM, reason="NO CHROMIUM: the page is not tested; apt-get install --no-install-recommends chromium")]
ARGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-component-update"]
MILLISECONDS = 60_000  # to wait before failing: a busy machine takes seconds for what a quiet one does at once
SIZES = {"desktop": {"width": 1180, "height": 760}, "phone": {"width": 390, "height": 780}}


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=MILLISECONDS)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=ARGS, timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(browser, url, request):
    context = browser.new_context(viewport=SIZES[request.param], has_touch=request.param == "phone")
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    page.problems, page.size = [], request.param
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.goto(url)
    playwright.expect(page.locator("#model")).to_have_text("nanochat-test")
    yield page
    assert page.problems == []
    context.close()


def say(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def finished(page, number=None):
    """The texts of all answers, once none is being written."""
    playwright.expect(page.get_by_label("Send", exact=True)).to_be_visible()
    if number is not None:
        playwright.expect(page.locator(".assistant")).to_have_count(number)
    return page.locator(".assistant .body").all_inner_texts()


def keep_shot(page, name):
    if folder := os.environ.get("PAGE_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}-{page.size}.png")


def test_a_sum_shows_the_tool_call(page):
    keep_shot(page, "hello")
    page.get_by_role("button", name="What is 123 * 456?").first.click()
    finished(page, 1)
    playwright.expect(page.locator(".tool")).to_have_text("calculator123*456→56088")
    playwright.expect(page.locator(".assistant .body")).to_contain_text("123 * 456 = 56088.")
    say(page, "code")
    finished(page, 2)
    playwright.expect(page.locator("pre code")).to_have_text("def f(x):\n    return x < 3")
    assert page.locator(".assistant strong").inner_text() == "a" and page.locator(".assistant img").count() == 0
    keep_shot(page, "talk")


def test_a_story_streams_and_stop_stops(page, worker):
    say(page, "A long story!")
    playwright.expect(page.locator(".assistant .body")).to_contain_text("door number 1")
    page.get_by_label("Stop", exact=True).click()
    [text] = finished(page, 1)
    assert text.strip() != LONG_STORY and LONG_STORY.startswith(text.strip())
    playwright.expect(page.locator(".assistant .actions")).to_contain_text("stopped")
    page.wait_for_timeout(100)
    assert not worker.open and page.locator(".assistant .body").inner_text() == text  # the server stopped as well
    say(page, "Tell me a story.")
    assert finished(page, 2)[1].strip() == STORY
    keep_shot(page, "story")


def test_edit_regenerate_new_and_reload(page):
    for text in ("first", "second"):
        say(page, text)
        finished(page)
    before = finished(page, 2)
    page.get_by_role("button", name="Regenerate").last.click()
    after = finished(page, 2)
    assert after[0] == before[0] and after[1] != before[1] and after[1].endswith("to: second")
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit the message").fill("changed")
    keep_shot(page, "edit")
    page.keyboard.press("Enter")
    [only] = finished(page, 1)
    assert only.endswith("to: changed") and page.locator(".user").count() == 1
    page.reload()
    if page.size == "phone":
        page.get_by_label("Show conversations").click()
        keep_shot(page, "menu")
    page.locator(".chat .name").first.click()  # kept in the browser
    assert finished(page, 1) == [only]
    page.keyboard.press("Control+Shift+N")
    playwright.expect(page.locator(".message")).to_have_count(0)


def test_commands_settings_and_errors(page):
    say(page, "/temperature 0.3")
    playwright.expect(page.locator(".notice")).to_have_text("temperature is now 0.3.")
    say(page, "/help")
    playwright.expect(page.locator(".notice").last).to_contain_text("/topk")
    page.get_by_label("Settings").first.click()
    assert page.locator("[name=temperature]").input_value() == "0.3"
    keep_shot(page, "settings")
    page.get_by_role("button", name="Done").click()
    say(page, "x" * 9000)
    playwright.expect(page.locator(".error")).to_contain_text("9,000 characters")
    keep_shot(page, "error")
    assert any("400" in problem for problem in page.problems)  # Chromium logs the status itself
    page.problems.clear()
    say(page, "/clear")
    playwright.expect(page.locator(".message")).to_have_count(0)
