"""What depends on the browser, the keyboard, the screen and the window beside: headings, dialogs, tabs, composing."""
import json

import pytest

from .conftest import desktop_only, finished, in_browser, is_in_view, playwright, press, say, sidebar

pytestmark = in_browser
COMPOSING = {"key": "Enter", "keyCode": 229, "isComposing": False, "bubbles": True, "cancelable": True}


def test_going_to_a_heading_does_not_move_the_page_away(page):
    for number in range(6):
        say(page, f"question {number}")
        finished(page, number + 1)
    height = "document.documentElement.scrollHeight === innerHeight && document.body.scrollHeight === innerHeight"
    assert page.evaluate(height)
    for which in (0, 3, -1):  # as a screen reader's "next heading" does
        page.evaluate("(which) => [...document.querySelectorAll('main h1, main h2')].at(which).scrollIntoView()", which)
        assert page.evaluate("document.scrollingElement.scrollTop + document.body.scrollTop") == 0
        assert is_in_view(page, "#send")
    sidebar(page).locator("#history h2").first.evaluate("(heading) => heading.scrollIntoView()")
    assert page.evaluate(f"{height} && document.scrollingElement.scrollTop === 0")


@desktop_only
def test_enter_that_accepts_a_word_sends_nothing(page):
    say(page, "hello")
    finished(page, 1)

    def compose(label):
        page.get_by_label(label, exact=True).fill("にほん")
        page.get_by_label(label, exact=True).dispatch_event("keydown", COMPOSING)
        playwright.expect(page.get_by_label(label, exact=True)).to_have_value("にほん")

    compose("Message")
    press(page, "Edit", 0)
    compose("Edit the message")
    page.get_by_label("Edit the message").dispatch_event("keydown", {**COMPOSING, "key": "Escape"})
    assert page.get_by_label("Edit the message").input_value() == "にほん", "Escape leaves the word, not the editor"
    page.locator("#history .name").dblclick()
    compose("New name")
    assert page.locator(".user").count() == 1, "nothing was sent, by none of the three"


def test_enter_on_a_touch_keyboard_begins_a_line(page):
    box = page.get_by_label("Message", exact=True)
    box.fill("one")
    box.press("Enter")
    page.keyboard.type("two")
    assert box.input_value() == ("one\ntwo" if page.size == "phone" else "two")
    if page.size == "phone":
        box.press("Control+Enter")
        finished(page, 1)
        press(page, "Edit", 0)
        page.get_by_label("Edit the message").press("Enter")
        playwright.expect(page.get_by_label("Edit the message")).to_have_value("one\ntwo\n")


@desktop_only
def test_copying_without_a_clipboard(page):
    """Plain http from another device: browsers offer no navigator.clipboard there."""
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    say(page, "hello")
    [answer] = finished(page, 1)
    press(page, "Copy")
    playwright.expect(page.locator("#announcer")).to_have_text("Copied")
    page.get_by_label("Message", exact=True).press("Control+v")
    assert page.get_by_label("Message", exact=True).input_value() == answer


def two_tabs(page, url):
    say(page, "first")
    finished(page, 1)
    other = page.context.new_page()
    other.size, other.problems = page.size, []
    other.goto(url)
    sidebar(other).locator(".name", has_text="first").click()
    finished(other, 1)
    return other


@desktop_only
def test_two_tabs_lose_no_answer(page, url):
    page.context.add_init_script("delete globalThis.BroadcastChannel")  # neither hears of the other's message in time
    page.reload()
    other = two_tabs(page, url)
    for tab, text in ((page, "from the left"), (other, "from the right")):
        tab.get_by_label("Message", exact=True).fill(text)
    for tab in (page, other):
        tab.get_by_label("Send", exact=True).click()
    for tab, text in ((page, "from the left"), (other, "from the right")):
        assert finished(tab, 2)[-1].endswith(text), "each tab stays with its own question"
    page.reload()
    page.locator("#history .name", has_text="first").click()
    texts = {finished(page, 2)[-1].split("to: ")[1]}
    other_version = page.locator(".user").last.get_by_label("Previous version")
    step = "Previous version" if other_version.is_enabled() else "Next version"
    page.locator(".user").last.get_by_label(step).click()
    texts.add(finished(page, 2)[-1].split("to: ")[1])
    assert texts == {"from the left", "from the right"}


@desktop_only
def test_tabs_tell_each_other_names_marks_and_the_theme(page, url):
    other = two_tabs(page, url)
    page.locator("#history .name", has_text="first").dblclick()
    page.get_by_label("New name").fill("renamed")
    page.keyboard.press("Enter")
    playwright.expect(other.locator("#history .name")).to_have_text("renamed")
    press(page, "Good answer")
    playwright.expect(other.get_by_label("Good answer")).to_have_attribute("aria-pressed", "true")
    page.locator("#theme").click()
    theme = page.evaluate("document.documentElement.dataset.theme")
    playwright.expect(other.locator("html")).to_have_attribute("data-theme", theme)


@desktop_only
def test_what_was_typed_outlives_a_reload(page):
    box = page.get_by_label("Message", exact=True)
    box.fill("half a thought")
    page.reload()
    playwright.expect(box).to_have_value("half a thought")
    say(page, "whole")
    finished(page, 1)
    page.reload()
    playwright.expect(box).to_have_value("")


@pytest.mark.parametrize("width, height", [(320, 640), (844, 390), (1600, 900)])
@desktop_only
def test_nothing_sticks_out_or_is_cut(rich, width, height):
    rich.set_viewport_size({"width": width, "height": height})
    playwright.expect(rich.locator(".hello")).to_be_visible()
    assert rich.locator("#scroll").evaluate("(scroll) => scroll.scrollTop") == 0, "the greeting begins at its beginning"
    say(rich, "table")
    finished(rich, 1)
    cell = rich.locator("td").first
    assert cell.evaluate("(cell) => cell.offsetHeight") < 45, "words stay whole; the table scrolls sideways"
    for name in ("What the model read", "Token probabilities", "Answers side by side"):
        if rich.locator(".message").get_by_label(name).count():
            press(rich, name)
    rich.get_by_role("button", name="Ask", exact=True).click()
    finished(rich, 4)
    assert rich.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert rich.locator("#log").evaluate("(log) => log.scrollWidth <= log.clientWidth")
    assert is_in_view(rich, "#send")


@desktop_only
def test_text_from_right_to_left_runs_so_wherever_it_is_typed_or_shown(page):
    def direction(locator):
        return locator.first.evaluate("(element) => getComputedStyle(element).direction")

    hebrew = "שלום, מה שלומך?"
    say(page, f"/system {hebrew}")
    page.get_by_label("Message", exact=True).fill(hebrew)
    places = [page.get_by_label("Message", exact=True), page.locator(".system")]
    assert [direction(place) for place in places] == ["rtl"] * 2
    say(page, hebrew)
    finished(page, 1)
    press(page, "Correct the answer")
    page.get_by_label("What the answer should be").fill(f"| {hebrew} |\n|---|\n| {hebrew} |\n\n- {hebrew}")
    assert direction(page.get_by_label("What the answer should be")) == "rtl"
    page.get_by_role("button", name="Save").click()
    places = [page.locator(css) for css in (".bubble", "td", ".assistant li", "#history .name span")]
    assert [direction(place) for place in places] == ["rtl"] * 4
    page.locator("#open-settings").click()
    assert direction(page.get_by_label("System prompt")) == "rtl"
    page.keyboard.press("Escape")
    page.locator("#new-text").click()
    page.get_by_label("Text", exact=True).fill(hebrew)
    assert direction(page.get_by_label("Text", exact=True)) == "rtl"


@desktop_only
def test_keys_work_under_other_alphabets(page):
    say(page, "hello")
    finished(page, 1)
    press_key = """([key, code, shiftKey]) => document.body.dispatchEvent(new KeyboardEvent("keydown",
        { key, code, shiftKey, ctrlKey: true, bubbles: true, cancelable: true }))"""
    page.evaluate(press_key, ["л", "KeyK", False])
    playwright.expect(page.get_by_label("Search conversations")).to_be_focused()
    page.evaluate(press_key, ["k", "KeyV", False])  # Dvorak: what the key says counts
    page.evaluate(press_key, ["Щ", "KeyO", True])
    playwright.expect(page.locator(".message")).to_have_count(0)


@desktop_only
def test_the_server_was_started_again_with_another_model(rich):
    say(rich, "hello")
    finished(rich, 1)
    refusal = {"error": {"message": "there is no model 'nanochat-sft-d4'", "code": "model_not_found"}}
    rich.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "nanochat-rl-d9"}]}))
    rich.route("**/v1/chat/completions", lambda route: route.fulfill(status=404, json=refusal))
    say(rich, "and now?")
    playwright.expect(rich.locator(".error")).to_contain_text("no model")
    playwright.expect(rich.locator("#model-name")).to_have_text("nanochat-rl-d9")
    rich.unroute("**/v1/chat/completions")
    rich.get_by_role("button", name="Try again").click()
    finished(rich, 2)
    assert rich.bodies[-1]["model"] == "nanochat-rl-d9"
    rich.problems.clear()  # Chromium logs the 404


@desktop_only
def test_a_conversation_of_ten_thousand_turns_and_a_list_of_a_thousand(page, tmp_path):
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(10_000) for role in ("user", "assistant")]
    short = [{"role": "user", "content": "short"}, {"role": "assistant", "content": "yes"}]
    file = tmp_path / "long.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in [turns, *[short] * 600]))
    page.set_input_files("#import-file", file)
    playwright.expect(page.locator("#history")).to_contain_text("and 101 older ones")
    page.get_by_label("Search conversations").fill("assistant 9999")
    page.locator("#history .name").click()
    playwright.expect(page.locator(".message")).to_have_count(200)
    page.get_by_label("Message", exact=True).press_sequentially("and now?")
    page.keyboard.press("Enter")
    finished(page)
    playwright.expect(page.locator(".assistant .body").last).to_contain_text("to: and now?")
    page.get_by_role("button", name="Show earlier messages").click()
    playwright.expect(page.locator(".message")).to_have_count(400)
    assert page.locator("#scroll").evaluate("(scroll) => scroll.scrollTop") > 1000, "what was read stays in view"


@pytest.mark.parametrize("size", ["phone"], indirect=True)
def test_fingers_find_every_button(page):
    say(page, "code")
    finished(page, 1)
    sizes = """(all) => all.filter((e) => e.checkVisibility()).map((e) =>
        [e.getAttribute("aria-label") ?? e.textContent, e.offsetWidth, e.offsetHeight])"""
    small = [size for size in page.locator("main button, .code button").evaluate_all(sizes) if min(size[1:]) < 36]
    assert not small
    page.locator("#open-settings").click()
    letters = "(all) => all.map((e) => parseFloat(getComputedStyle(e).fontSize))"
    assert min(page.locator("textarea, select, input").evaluate_all(letters)) >= 16, "else iOS zooms into the field"


@desktop_only
def test_a_name_given_by_hand_stays(rich):
    rich.locator("#new-text").click()
    sheet = rich.get_by_label("Text", exact=True)
    sheet.fill("Once")
    rich.locator("#history .name", has_text="Once").dblclick()
    rich.get_by_label("New name").fill("my tale")
    rich.keyboard.press("Enter")
    sheet.fill("Once upon")
    rich.wait_for_timeout(700)  # the text is kept 600 ms after the last key
    playwright.expect(rich.locator("#history .name")).to_have_text("my tale")
