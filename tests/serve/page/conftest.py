"""The page in a real Chromium, desktop and phone: on the real server (`page`) and on one that has everything (`rich`,
page_server.py). PAGE_SHOTS=folder keeps screenshots; PAGE_WAIT_MS=5000 fails sooner."""
import os
from pathlib import Path

import pytest

from nanochat.serve import app as app_module

from ... import missing
from ..conftest import serving
from .page_server import create_app

try:
    from playwright import sync_api as playwright
except ImportError:
    playwright = None
in_browser = [pytest.mark.browser, pytest.mark.skipif(
    not playwright or not missing.find_browser(), reason="no Chromium, or no playwright to drive it")]
ARGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-component-update"]
# To wait before failing: a busy machine takes seconds for what a quiet one does at once.
MILLISECONDS = int(os.environ.get("PAGE_WAIT_MS", 60_000))
SIZES = {"desktop": {"width": 1180, "height": 760}, "phone": {"width": 390, "height": 780}}
UI = Path(app_module.__file__).parent / "ui"
desktop_only = pytest.mark.parametrize("size", ["desktop"], indirect=True)


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=MILLISECONDS)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=missing.find_browser(), chromium_sandbox=False, args=ARGS,
                                       timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def rich_server():
    state = {"bodies": [], "key": ""}
    with serving(create_app(state)) as address:
        yield state, address


def in_page(page, module, code, *args):
    """What `code`, a function of the module's exports and args, gives back."""
    return page.evaluate(f"async (args) => ({code})(await import('./{module}.js'), ...args)", list(args))


@pytest.fixture(params=SIZES)
def size(request):
    return request.param


@pytest.fixture
def visit(browser, size):
    """`visit(url)` opens the page in a context of its own; whatever the browser complains about fails the test."""
    contexts = []

    def open_page(url):
        contexts.append(browser.new_context(viewport=SIZES[size], has_touch=size == "phone", permissions=[
            "clipboard-read", "clipboard-write"]))
        page = contexts[-1].new_page()
        page.set_default_timeout(MILLISECONDS)
        page.problems, page.size = [], size
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        assert [problem for page in context.pages for problem in page.problems] == []
        context.close()


@pytest.fixture
def page(visit, url):
    page = visit(url)
    playwright.expect(page.locator("#model-name")).to_have_text("nanochat-test")
    return page


@pytest.fixture
def rich(visit, rich_server):
    state, address = rich_server
    state["bodies"].clear()
    page = visit(address)
    page.bodies = state["bodies"]
    playwright.expect(page.get_by_label("Checkpoint")).to_have_value("nanochat-sft-d4")
    return page


def say(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    if page.size == "phone":  # where Enter begins a new line
        page.get_by_label("Send", exact=True).click()
    else:
        page.keyboard.press("Enter")


def finished(page, number=None):
    """The texts of all answers, once none is being written."""
    playwright.expect(page.get_by_label("Send", exact=True)).to_be_visible()
    if number is not None:
        playwright.expect(page.locator(".assistant")).to_have_count(number)
    return page.locator(".assistant .body").all_inner_texts()


def sidebar(page):
    if page.size == "phone":
        page.get_by_label("Show conversations").click()
    return page.locator("#sidebar")


def press(page, label, which=-1):
    """Click a button below a message."""
    page.locator(".message").get_by_label(label, exact=True).nth(which).click()


def keep_shot(page, name):
    if folder := os.environ.get("PAGE_SHOTS"):
        page.wait_for_timeout(250)  # the sidebar slides
        page.screenshot(path=Path(folder) / f"{name}-{page.size}.png")


def is_in_view(page, selector):
    return page.locator(selector).evaluate("(e) => { const b = e.getBoundingClientRect();"
                                           " return b.left >= 0 && b.right <= innerWidth && b.bottom <= innerHeight; }")
