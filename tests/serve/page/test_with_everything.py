"""What needs answers of every kind, against a server that has everything."""
import json
import re

import pytest

from .conftest import finished, in_browser, is_in_view, keep_shot, playwright, press, say, sidebar

pytestmark = in_browser


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
    rich.get_by_label("Message", exact=True).focus()
    playwright.expect(rich.locator(".card")).to_have_count(0)
    rich.locator(".token").nth(0).focus()
    playwright.expect(rich.locator("#announcer")).to_contain_text("Once, 60.0 %")
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
    playwright.expect(note).to_contain_text("cut at the limit")
    playwright.expect(rich.get_by_role("meter")).to_have_text("100 of 184 tokens")  # 16 of 200 are the answer's
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
    assert "seed" not in rich.bodies[-1] and len(rich.bodies[-1]["messages"]) == 2, "the system prompt stays"
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
        say(page, "hello")
        playwright.expect(page.locator(".error")).to_contain_text("This server wants its API key.")
        page.locator(".error").get_by_role("button", name="Open settings").click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="This server wants an API key").click()
        box = page.get_by_label("API key, if this server wants one")
        playwright.expect(box).to_be_focused()
        box.fill("open sesame")
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Try again").click()
        playwright.expect(page.locator(".assistant .body")).to_have_text("Once upon a time.\nThe fox")
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
    press(rich, "What the model read")
    playwright.expect(rich.locator(".prompt .token").first).to_be_visible()
    press(rich, "Good answer")
    check("prompt")
    press(rich, "What the model read")
    for label in ("Edit", "Correct the answer"):
        press(rich, label)
        check(label)
        rich.keyboard.press("Escape")
    press(rich, "Answers side by side")
    rich.get_by_role("button", name="Ask", exact=True).click()
    finished(rich, 6)
    check("answers side by side")
    rich.get_by_label("Checkpoint").select_option("nanochat-base-d4")
    playwright.expect(rich.locator("#notice")).to_contain_text("has not learnt to converse")
    for text in ("long ago", "table", "formulas"):
        say(rich, text)
        finished(rich)
    check("a base model, a mark of memory, formulas")
    rich.locator("#open-settings").click()
    check("settings")
    rich.get_by_role("button", name="Export for training").click()
    check("export for training")
    rich.keyboard.press("Escape")
    rich.keyboard.press("Escape")
    sidebar(rich)
    check("conversations")
    rich.locator("#new-text").click()
    check("text")
