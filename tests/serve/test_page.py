"""The page in a real Chromium, desktop and phone, against the real server (`page`) and against one that has everything
(`rich`, page_server.py). PAGE_SHOTS=folder keeps screenshots."""
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from nanochat.serve import app as app_module

from .conftest import LONG_STORY, STORY
from .page_server import create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: bash setup.sh installs it")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(
    not CHROMIUM, reason="NO CHROMIUM: the page is not tested; apt-get install --no-install-recommends chromium")]
ARGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-component-update"]
MILLISECONDS = 60_000  # to wait before failing: a busy machine takes seconds for what a quiet one does at once
SIZES = {"desktop": {"width": 1180, "height": 760}, "phone": {"width": 390, "height": 780}}
UI = Path(app_module.__file__).parent / "ui"
desktop_only = pytest.mark.parametrize("size", ["desktop"], indirect=True)


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=MILLISECONDS)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=ARGS, timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def rich_server():
    state = {"bodies": [], "key": ""}
    server = uvicorn.Server(uvicorn.Config(create_app(state), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield state, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=5)


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


# ---------------------------------------------------------------- against the real server


def test_a_sum_shows_the_tool_call_and_code_is_code(page):
    keep_shot(page, "hello")
    page.get_by_role("button", name="What is 123 * 456?").click()
    finished(page, 1)
    playwright.expect(page.locator(".tool")).to_have_text("calculator123*456→56088")
    playwright.expect(page.locator(".assistant .body")).to_contain_text("123 * 456 = 56088.")
    say(page, "code")
    finished(page, 2)
    playwright.expect(page.locator("pre code")).to_have_text("def f(x):\n    return x < 3")
    assert page.locator(".code .keyword").all_inner_texts() == ["def", "return"]
    assert page.locator(".assistant strong").inner_text() == "a" and page.locator(".assistant img").count() == 0
    page.get_by_label("Copy code").click()
    assert page.evaluate("navigator.clipboard.readText()") == "def f(x):\n    return x < 3"
    keep_shot(page, "talk")


def test_a_story_streams_and_stop_stops(page, worker):
    say(page, "A long story!")
    playwright.expect(page.locator(".assistant .body")).to_contain_text("door number 1")
    page.get_by_label("Message", exact=True).fill("typed meanwhile")
    page.get_by_label("Stop", exact=True).click()
    [text] = finished(page, 1)
    assert text.strip() != LONG_STORY and LONG_STORY.startswith(text.strip())
    playwright.expect(page.locator(".assistant .note")).to_contain_text("stopped")
    page.wait_for_timeout(100)
    assert not worker.open and page.locator(".assistant .body").inner_text() == text  # the server stopped as well
    assert page.get_by_label("Message", exact=True).input_value() == "typed meanwhile"
    say(page, "Tell me a story.")
    assert finished(page, 2)[1].strip() == STORY
    assert re.match(r"\d+ tokens · \d+ per second", page.locator(".assistant .note").last.inner_text())
    playwright.expect(page.get_by_role("meter")).to_contain_text("of 4,096 tokens")


def test_an_answer_goes_on_while_another_conversation_is_read(page):
    say(page, "first")
    finished(page, 1)
    page.keyboard.press("Control+Shift+O")
    say(page, "A long story!")
    playwright.expect(page.locator(".assistant .body")).to_contain_text("door number 1")
    sidebar(page).locator(".name", has_text="first").click()
    assert finished(page, 1)[0].endswith("to: first")
    assert page.locator(".chat .lamp").count() == 1
    page.wait_for_timeout(100)
    sidebar(page).locator(".name", has_text="A long story!").click()
    playwright.expect(page.locator(".assistant .body")).to_contain_text("door number 4")
    page.get_by_label("Stop", exact=True).click()
    assert LONG_STORY.startswith(finished(page, 1)[0].strip())


def test_edit_regenerate_and_branches(page):
    for text in ("first", "second"):
        say(page, text)
        finished(page)
    before = finished(page, 2)
    press(page, "Regenerate")
    after = finished(page, 2)
    assert after[0] == before[0] and after[1] != before[1] and after[1].endswith("to: second")
    assert page.locator(".branches").inner_text() == "2/2"
    press(page, "Previous version")
    playwright.expect(page.locator(".assistant .body").last).to_have_text(before[1])
    press(page, "Edit", 0)
    page.get_by_label("Edit the message").fill("changed")
    keep_shot(page, "edit")
    page.keyboard.press("Enter")
    [only] = finished(page, 1)
    assert only.endswith("to: changed") and page.locator(".user").count() == 1
    page.reload()
    sidebar(page).locator(".name").first.click()
    assert finished(page, 1) == [only]
    press(page, "Previous version", 0)
    assert finished(page, 2) == before, "the other branch, as it was left"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+Shift+N")
    playwright.expect(page.locator(".message")).to_have_count(0)


def test_conversations_are_searched_renamed_deleted_exported_and_imported(page, tmp_path):
    for text in ("about foxes", "about bears"):
        say(page, text)
        finished(page, 1)
        page.keyboard.press("Control+Shift+O")
    names = page.locator("#history .name")
    search = sidebar(page).get_by_label("Search conversations")
    search.fill("FOXES")
    playwright.expect(names).to_have_text(["about foxes"])
    search.fill("nothing like it")
    playwright.expect(page.locator("#history")).to_have_text("Nothing with “nothing like it”.")
    search.fill("")
    page.locator(".chat", has_text="foxes").hover()
    page.get_by_label("Rename about foxes").click()
    page.get_by_label("New name").fill("<b>Foxes</b>")
    keep_shot(page, "menu")
    page.keyboard.press("Enter")
    playwright.expect(names).to_have_text(["about bears", "<b>Foxes</b>"])
    page.locator(".chat", has_text="bears").hover()
    page.get_by_label("Delete about bears").click()
    playwright.expect(names).to_have_text(["<b>Foxes</b>"])
    page.get_by_role("button", name="Undo").click()
    playwright.expect(names).to_have_text(["about bears", "<b>Foxes</b>"])
    page.locator("#open-settings").click()
    files = {}
    for label in ("Export", "Export for training"):
        with page.expect_download() as download:
            page.get_by_role("button", name=label, exact=True).click()
        files[label] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[label])
    lines = [json.loads(line) for line in files["Export for training"].read_text().splitlines()]
    assert [[one["role"] for one in line["messages"]] for line in lines] == [["user", "assistant"]] * 2
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all").click()
    playwright.expect(names).to_have_count(0)
    page.set_input_files("#import-file", list(files.values()))
    playwright.expect(page.locator(".toast")).to_have_text("2 conversations imported.")
    page.reload()
    playwright.expect(names).to_have_count(4)
    sidebar(page).locator(".name", has_text="Foxes").first.click()
    assert finished(page, 1)[0].endswith("to: about foxes")


def test_commands_settings_theme_and_errors(page):
    say(page, "/temperature 0.3")
    playwright.expect(page.locator(".toast")).to_have_text("temperature is now 0.3.")
    say(page, "/topk 500")
    playwright.expect(page.locator(".toast")).to_have_text("/topk is 50; give a number from 1 to 200.")
    say(page, "/nonsense")
    playwright.expect(page.locator(".toast")).to_contain_text("There is no /nonsense")
    say(page, "/help")
    playwright.expect(page.get_by_role("dialog")).to_contain_text("/topk 50")
    page.keyboard.press("Escape")
    page.locator("#sampling").click()
    assert page.get_by_label("Temperature").input_value() == "0.3"
    assert page.get_by_label("Top-p").is_visible() == ("top_p" in page.evaluate(
        "async () => [...(await import('./api.js')).server.chat]"))
    page.get_by_label("Appearance").select_option("dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 25)"
    keep_shot(page, "settings")
    page.get_by_role("button", name="Done").click()
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 250)"
    say(page, "x" * 9000)
    playwright.expect(page.locator(".error")).to_contain_text("9,000 characters")
    assert any("400" in problem for problem in page.problems)  # Chromium logs the status itself
    page.problems.clear()
    say(page, "/clear")
    playwright.expect(page.locator(".message")).to_have_count(0)
    say(page, "/usr/bin is a folder")
    assert finished(page, 1)[0].endswith("/usr/bin is a folder")


def test_a_failing_model_and_a_missing_server_are_told(page, capfd):
    say(page, "break")
    playwright.expect(page.locator(".error")).to_contain_text("no memory left")
    page.context.set_offline(True)
    page.get_by_role("button", name="Try again").click()
    playwright.expect(page.locator(".error")).to_contain_text("can't be reached")
    playwright.expect(page.locator("#model-name")).to_contain_text("trying again")
    page.context.set_offline(False)
    playwright.expect(page.locator("#model-name")).to_have_text("nanochat-test")
    say(page, "hello")
    assert finished(page)[-1].endswith("hello")
    page.problems.clear()  # Chromium logs every request that failed


def test_keys_and_words_for_those_who_cannot_see_it(page):
    for text in ("first", "second"):
        say(page, text)
        finished(page)
    playwright.expect(page.locator("#announcer")).to_contain_text("to: second")
    assert page.get_by_role("heading").all_inner_texts()[-4:] == ["You", "nanochat", "You", "nanochat"]
    page.keyboard.press("ArrowUp")
    playwright.expect(page.get_by_label("Edit the message")).to_be_focused()
    page.keyboard.press("Escape")
    playwright.expect(page.locator(".message").get_by_label("Edit", exact=True).last).to_be_focused()
    page.locator(".message").get_by_label("Regenerate").last.focus()
    page.keyboard.press("Enter")
    finished(page, 2)
    page.locator(".message").get_by_label("Previous version").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".branches")).to_have_text("1/2")
    assert page.evaluate("document.activeElement.closest('.message') !== null"), "the focus stays with the message"
    page.keyboard.press("Control+k")
    playwright.expect(page.get_by_label("Search conversations")).to_be_focused()
    page.keyboard.type("first")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#history [aria-current=true]")).to_have_text("first")
    if page.size == "desktop":  # where no keyboard slides in
        playwright.expect(page.get_by_label("Message", exact=True)).to_be_focused()
    assert is_in_view(page, "#send")


# ---------------------------------------------------------------- against one that has everything


def test_probabilities_and_another_token_instead(rich):
    say(rich, "hello")
    finished(rich, 1)
    press(rich, "Token probabilities")
    token = rich.locator(".token").nth(7)
    assert rich.locator(".tokens").inner_text() == "Once upon a time.\nThe fox"
    if rich.size == "phone":
        token.tap()
    else:
        token.hover()
    rows = rich.locator(".card .other")
    playwright.expect(rows).to_have_text(["␣fox60.0 %", "␣<b>wolf</b>20.0 %", "␣cat10.0 %", "<|assistant_end|>10.0 %"])
    assert rich.locator(".card button").count() == 2, "what is said already and what can't be said are no choice"
    assert is_in_view(rich, ".card") and "perplexity 1.67" in rich.locator(".legend").inner_text()
    keep_shot(rich, "tokens")
    rich.locator(".token").nth(0).focus()
    for _ in range(7):
        rich.keyboard.press("ArrowRight")
    playwright.expect(rich.locator("#announcer")).to_contain_text("␣fox, 60.0 %")
    rich.keyboard.press("Enter")
    rich.keyboard.press("Enter")
    playwright.expect(rich.locator(".branches")).to_have_text("2/2")
    playwright.expect(rich.locator(".assistant .body")).to_have_text("Once upon a time.\nThe <b>wolf</b> and on")
    assert rich.bodies[-1]["continue_final_message"] and rich.bodies[-1]["messages"][-1] == {
        "role": "assistant", "content": [{"type": "text", "text": "Once upon a time.\nThe <b>wolf</b>"}]}
    say(rich, "emoji")
    finished(rich, 2)
    press(rich, "Token probabilities")
    assert rich.locator(".tokens").last.inner_text() == "\\xf0\\x9f\\xa6\\x8a!"


def test_continue_and_the_context_meter(rich):
    say(rich, "long ago")
    finished(rich, 1)
    note = rich.locator(".assistant .note")
    playwright.expect(note).to_contain_text("cut at the limit · the first 2 messages no longer fit · nanochat-sft-d4")
    playwright.expect(rich.get_by_role("meter")).to_have_text("100 of 200 tokens")
    press(rich, "Continue")
    playwright.expect(rich.locator(".assistant .body")).to_have_text("Once upon a time.\nThe fox and on")
    assert rich.locator(".branches").count() == 0, "the same answer, longer"
    say(rich, "silence")
    assert "without a word" in finished(rich, 2)[1]


def test_requests_say_what_the_settings_say(rich):
    say(rich, "/system Be <kind>.")
    say(rich, "/topp 0.9")
    say(rich, "/tokens 20")
    rich.get_by_label("Checkpoint").select_option("nanochat-rl-d4")
    say(rich, "hello")
    finished(rich, 1)
    playwright.expect(rich.locator(".system")).to_have_text("Be <kind>.")
    body = rich.bodies[-1]
    assert body["messages"] == [{"role": "system", "content": "Be <kind>."}, {"role": "user", "content": "hello"}]
    assert body["model"] == "nanochat-rl-d4" and body["top_p"] == 0.9 and body["max_tokens"] == 20
    assert body["logprobs"] is True and "seed" not in body and "min_p" not in body
    rich.locator("#open-settings").click()
    rich.get_by_label("Seed").fill("7")
    rich.get_by_label("Min-p").fill("0.1")
    rich.get_by_role("button", name="Done").click()
    press(rich, "Regenerate")
    finished(rich, 1)
    assert rich.bodies[-1]["seed"] == 7 and rich.bodies[-1]["min_p"] == 0.1
    rich.locator("#open-settings").click()
    rich.get_by_role("button", name="Defaults").click()
    press(rich, "Regenerate")
    finished(rich, 1)
    assert "seed" not in rich.bodies[-1] and len(rich.bodies[-1]["messages"]) == 1
    rich.get_by_label("Checkpoint").select_option("nanochat-base-d4")
    sidebar(rich)
    rich.locator("#new").click()
    playwright.expect(rich.get_by_label("Text", exact=True)).to_be_focused()  # a base model does not converse


def test_a_text_is_written_on(rich):
    sidebar(rich).get_by_role("button", name="New text to continue").click()
    sheet = rich.get_by_label("Text", exact=True)
    sheet.fill("In the forest ")
    rich.keyboard.press("Control+Enter")
    whole = "In the forest Once upon a time.\nThe fox"
    playwright.expect(sheet).to_have_value(whole)
    assert rich.bodies[-1]["prompt"] == "In the forest " and rich.bodies[-1]["logprobs"] == 5
    rich.get_by_label("Undo the continuation").click()
    playwright.expect(sheet).to_have_value("In the forest ")
    rich.get_by_role("button", name="Write on").click()
    rich.get_by_label("Another continuation").click()
    playwright.expect(sheet).to_have_value(whole)
    rich.get_by_label("Token probabilities").click()
    keep_shot(rich, "text")
    rich.locator(".token").nth(2).click()
    rich.locator(".card button").first.click()
    playwright.expect(sheet).to_have_value("In the forest Once upon <b>wolf</b>" + "".join(
        ["Once", " upon", " a", " ti", "me", ".\n", "The", " fox"]))
    assert rich.bodies[-1]["prompt"] == "In the forest Once upon <b>wolf</b>" and len(rich.bodies) == 4
    rich.reload()
    sidebar(rich).locator(".name", has_text="In the forest").click()
    playwright.expect(sheet).to_have_value(re.compile("^In the forest Once upon <b>wolf"))


def test_a_server_that_wants_a_key(visit, rich_server):
    state, address = rich_server
    state["key"] = "open sesame"
    try:
        page = visit(address)
        playwright.expect(page.locator("#model-name")).to_contain_text("API key")
        page.locator("#open-settings").click()
        page.get_by_label("API key").fill("open sesame")
        page.get_by_role("button", name="Done").click()
        say(page, "hello")
        assert finished(page, 1) == ["Once upon a time.\nThe fox"]
        page.problems.clear()  # Chromium logs the 401s
    finally:
        state["key"] = ""


def test_hostile_answers_stay_text(rich):
    requests = []
    rich.on("request", lambda request: requests.append(request.url))
    for number, text in enumerate(("hostile", "program"), 1):
        say(rich, text)
        finished(rich, number)
    rich.wait_for_timeout(100)
    assert rich.evaluate("typeof pwned") == "undefined"
    body = rich.locator(".assistant .body").first
    tags = body.locator("*").evaluate_all("(all) => all.map((one) => one.tagName)")
    assert set(tags) == {*"A BLOCKQUOTE BUTTON CODE DIV FIGCAPTION FIGURE H3 LI OL P PRE SPAN STRONG".split(),
                         *"TABLE TBODY TD TH THEAD TR svg use".split()}
    assert body.locator("a").evaluate_all("(all) => all.map((one) => one.getAttribute('href'))") == [
        "http://127.0.0.1:9/x.png", "https://example.com/a?b=c"]
    assert all("noopener" in rel for rel in body.locator("a").evaluate_all("(all) => all.map((one) => one.rel)"))
    assert "pwned = 2" in body.inner_text() and "</code></pre><script>pwned=13</script>" in body.inner_text()
    assert not [url for url in requests if "/v1/chat" not in url], "an answer loads nothing"
    second = rich.locator(".assistant .body").last
    assert second.locator(".tool code").inner_text() == "<b>\nfor x in y:\n  print(x)"
    assert [second.locator(tag).count() for tag in ("td", "h3", "li", "blockquote", "hr")] == [2, 1, 5, 1, 1]
    rich.keyboard.press("Escape")
    assert rich.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def test_axe_finds_nothing(rich):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="bash setup.sh installs axe").Axe()
    rich.emulate_media(color_scheme="light" if rich.size == "desktop" else "dark", reduced_motion="reduce")

    def check(where):
        found = axe.run(rich).response["violations"]
        assert not found, f"{where}: " + json.dumps([(one["id"], [node["html"][:150] for node in one["nodes"]])
                                                     for one in found], indent=1)

    check("empty")
    say(rich, "/system Be kind.")
    for number, text in enumerate(("hostile", "program", "hello"), 1):
        say(rich, text)
        finished(rich, number)
    check("conversation")
    press(rich, "Token probabilities")
    rich.locator(".token").nth(3).click()
    check("tokens")
    rich.keyboard.press("Escape")
    press(rich, "Edit")
    check("edit")
    rich.keyboard.press("Escape")
    rich.locator("#open-settings").click()
    check("settings")
    rich.keyboard.press("Escape")
    sidebar(rich)
    check("conversations")
    rich.locator("#new-text").click()
    check("text")


# ---------------------------------------------------------------- the modules by themselves


def in_page(page, module, code, *args):
    """What `code`, a function of the module's exports and args, gives back."""
    return page.evaluate(f"async (args) => ({code})(await import('./{module}.js'), ...args)", list(args))


@desktop_only
def test_markdown_takes_linear_time(page):
    timed = """(m, text) => { const start = performance.now();
                             m.markdown(text); m.codeBlock(text, "py");
                             return (performance.now() - start) / 1000; }"""
    for unit in ("[", "](", "**a ", "*a ", "`", "> ", "- ", "| a |\n|-", "http://", "_a ", "~~~\n", '"\\', "1. "):
        seconds = in_page(page, "markdown", timed, unit * (40_000 // len(unit)))
        assert seconds < 5, f"{unit!r} takes {seconds:.1f} s"


@desktop_only
def test_markdown_while_it_streams(page):
    """Every prefix of a text renders, and no character of code is ever lost."""
    text = "Look: **bo**\n\n```py\nx = '<b>'\n```\n\n1. a\n   - b\n\n| a |\n|---|\n| c |\nend [l](https://a.b) *e*"
    shown = in_page(page, "markdown", """(m, text) => [...Array(text.length + 1).keys()].map((end) => {
        const box = document.createElement("div");
        box.append(...m.markdown(text.slice(0, end)));
        return box.innerText; })""", text)
    assert all("bo" in one for one in shown[len("Look: **bo"):])
    assert all("x = '<b>'" in one for one in shown[text.index("'\n```") + 1:])


@desktop_only
def test_imports_are_not_trusted(page):
    restore = "(m, text) => { try { return m.restore(text); } catch (error) { return error.message; } }"
    for bad in ("", "{", "[]", "null", '{"chats": 5}', '{"chats": [null, 5, {"nodes": "x"}]}',
                '{"messages": [{"role": "system", "content": "x"}]}'):
        assert "no conversation" in in_page(page, "tree", restore, bad)
    nodes = [{"id": "a", "parent": "b", "role": "user", "parts": [{"type": "text", "text": "one"}], "chosen": "a"},
             {"id": "b", "parent": "a", "role": "assistant", "parts": [{"type": "text", "text": 5}, {"type": "evil"}],
              "error": "x", "tokens": "y", "chosen": "a"}, {"id": "c", "parent": "a", "role": "root", "parts": []}]
    file = {"chats": [{"id": "__proto__", "title": 7, "nodes": nodes, "chosen": "b"}]}
    [chat] = in_page(page, "tree", restore, json.dumps(file))
    assert chat["title"] == "one" and chat["id"] != "__proto__"
    assert [(one["role"], one["parts"]) for one in chat["nodes"]] == [
        ("user", [{"type": "text", "text": "one"}]), ("assistant", [{"type": "text", "text": ""}])]
    assert in_page(page, "tree", "(m, chat) => m.path(chat).length", chat) == 2, "no cycle"
    answer = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}, {"type": "text", "text": "2."}]
    line = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]}
    chats = in_page(page, "tree", restore, f"{json.dumps(line)}\n" * 2)
    assert len(chats) == 2 and chats[0]["nodes"][1]["parts"][0] == {"type": "tool", "expression": "1+1", "result": "2"}
    again = in_page(page, "tree", "(m, chats) => m.trainingLines(chats)", chats)
    assert [json.loads(one) for one in again.splitlines()] == [line, line]


def test_the_source_has_no_way_to_make_html_of_text():
    for path in sorted(UI.glob("*.js")):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") < 300, f"{path.name} has {source.count(chr(10))} lines"
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "srcdoc"):
            assert forbidden not in source, f"{path.name}: {forbidden}"
        outside = set(re.findall(r"https?://[\w.]+", source)) - {"http://www.w3.org"}  # the name of SVG
        assert not outside, f"{path.name} names {outside}"
