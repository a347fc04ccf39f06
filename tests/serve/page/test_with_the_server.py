"""What people do on the page, against the real server with a scripted model."""
import json
import re

from ..conftest import LONG_STORY, STORY
from .conftest import finished, in_browser, is_in_view, keep_shot, playwright, press, say, sidebar

pytestmark = in_browser


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
    playwright.expect(page.get_by_role("meter")).to_be_visible()
    say(page, "Tell me a story.")
    assert finished(page, 2)[1].strip() == STORY
    assert re.match(r"\d+ tokens · \d+ per second", page.locator(".assistant .note").last.inner_text())
    playwright.expect(page.get_by_role("meter")).to_contain_text("of 3,072 tokens")  # the other quarter is the answer's


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
    page.locator(".editor").get_by_role("button", name="Send").click()
    [only] = finished(page, 1)
    assert only.endswith("to: changed") and page.locator(".user").count() == 1
    playwright.expect(page.locator("#history .name")).to_have_text("changed")  # the first question is the title
    playwright.expect(page.locator(".branches")).to_have_css("opacity", "1")  # the old version is not hidden
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
        if label != "Export":
            page.get_by_role("button", name=label).click()
            playwright.expect(page.locator("#teach-lines")).to_contain_text("2 conversations")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the file" if label != "Export" else label, exact=True).click()
        files[label] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[label])
    lines = [json.loads(line) for line in files["Export for training"].read_text().splitlines()]
    assert [[one["role"] for one in line["messages"]] for line in lines] == [["user", "assistant"]] * 2
    page.keyboard.press("Escape")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all").click()
    playwright.expect(names).to_have_count(0)
    page.set_input_files("#import-file", list(files.values()))
    playwright.expect(page.locator("dialog .toast")).to_have_text("2 conversations imported, 2 already here.")
    playwright.expect(names).to_have_count(2)
    page.reload()
    playwright.expect(names).to_have_count(2)
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
    playwright.expect(page.locator(".error")).to_contain_text(re.compile("9,00[04]"))
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
    page.get_by_label("Message", exact=True).press("ArrowUp")
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
