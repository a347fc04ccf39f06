"""Correcting and rating answers, the file to train on, several answers beside each other, what the model read."""
import json
import re

from nanochat.data import conversations
from scripts import chat_sft

from .conftest import desktop_only, finished, in_browser, keep_shot, playwright, press, say

pytestmark = in_browser


def exported(page, tmp_path):
    """The file of the marked answers, and the command shown beside it."""
    page.locator("#open-settings").click()
    page.get_by_role("button", name="Export for training").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the file").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    command = page.locator("#teach-command code").inner_text()
    keep_shot(page, "teach")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    return path, command


def test_an_answer_is_corrected_and_the_chosen_ones_are_exported(page, tmp_path, monkeypatch, capsys):
    for text in ("first", "What is 123 * 456?", "third"):
        say(page, text)
        finished(page)
    press(page, "Correct the answer", 1)
    box = page.get_by_label("What the answer should be")
    assert box.input_value() == "Let me see: [123*456 → 56088] 123 * 456 = 56088."
    box.fill("[123*456 → 56088] It is **56088**.")
    page.get_by_role("button", name="Save").click()
    playwright.expect(page.locator(".assistant").nth(1).locator(".body")).to_contain_text("It is 56088.")
    assert page.locator(".assistant").nth(1).locator(".tool").count() == 1, "the tool call is one again"
    playwright.expect(page.locator(".assistant .note").nth(1)).to_contain_text("corrected by you")
    playwright.expect(page.locator(".branches")).to_have_text("2/2")
    assert page.locator(".message").count() == 4, "what followed belongs to the first version"
    press(page, "Bad answer", 0)
    path, command = exported(page, tmp_path)
    [line] = map(json.loads, path.read_text().splitlines())
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"] * 2
    assert [message.get("weight") for message in line["messages"]] == [None, 0, None, None], "one answer is learnt"
    assert line["messages"][3]["content"] == [
        {"type": "python", "text": "123*456"}, {"type": "python_output", "text": "56088"},
        {"type": "text", "text": "It is **56088**."}]
    assert conversations.read(path), "the trainer reads it"
    words = re.sub(r'"', "", command).split()
    monkeypatch.setenv("NANOCHAT_PARSE_ONLY", "1")
    assert words[:3] == ["python", "-m", "scripts.chat_sft"] and path.name in command
    try:
        chat_sft.main(words[3:])
    except SystemExit as end:
        assert end.code == 0, capsys.readouterr()
    page.reload()
    page.locator("#history .name").first.evaluate("(name) => name.click()")
    playwright.expect(page.get_by_label("Good answer").last).to_have_attribute("aria-pressed", "true")
    page.locator("#open-settings").click()
    page.get_by_role("button", name="Export for training").click()
    page.get_by_label("All conversations").check()
    playwright.expect(page.locator("#teach-lines")).to_contain_text("0 conversations")  # the first answer is bad
    playwright.expect(page.get_by_role("button", name="Save the file")).to_be_disabled()


@desktop_only
def test_marks_are_undone_and_only_marked_answers_count(page, tmp_path):
    for text in ("one", "two"):
        say(page, text)
        finished(page)
    for number in (0, 1, 0):
        press(page, "Good answer", number)
    path, _ = exported(page, tmp_path)
    [line] = map(json.loads, path.read_text().splitlines())
    assert [message.get("weight") for message in line["messages"]] == [None, 0, None, None]


def test_models_and_samples_side_by_side(rich):
    say(rich, "/system Be kind.")
    rich.locator("#open-settings").click()
    rich.get_by_label("Seed").fill("7")
    rich.keyboard.press("Escape")
    say(rich, "hello")
    finished(rich, 1)
    press(rich, "Answers side by side")
    rich.get_by_label("How many more answers").fill("2")
    rich.get_by_role("button", name="Ask", exact=True).click()
    finished(rich, 7)
    asked = [body for body in rich.bodies if "max_tokens" in body][1:]
    assert sorted(body["model"] for body in asked) == sorted(
        [f"nanochat-{stage}-d4" for stage in ("base", "rl", "sft")] * 2)
    # The base model has not learnt the chat format: it goes on with the question as a text.
    assert {body["model"] for body in asked if "messages" not in body} == {"nanochat-base-d4"}
    assert len({json.dumps(body["messages"]) for body in asked if "messages" in body}) == 1
    assert {body["seed"] for body in asked if "messages" in body} == {7, 8}, "two samples of one model differ"
    assert rich.locator(".columns .author").all_inner_texts().count("nanochat-base-d4") == 2
    playwright.expect(rich.locator(".columns .message").first).to_have_class(re.compile("chosen"))
    keep_shot(rich, "compare")
    rich.get_by_role("button", name="Use this one").nth(1).click()
    playwright.expect(rich.get_by_role("button", name="In use")).to_have_count(1)
    chosen = rich.locator(".columns .chosen .author").inner_text()
    rich.reload()
    rich.locator("#history .name").first.evaluate("(name) => name.click()")
    playwright.expect(rich.locator(".columns .chosen .author")).to_have_text(chosen)
    rich.get_by_label("Show one answer only").click()
    playwright.expect(rich.locator(".assistant")).to_have_count(1)
    assert rich.locator(".assistant .note").inner_text().endswith(chosen)
    say(rich, "and on")
    finished(rich, 2)
    assert [message["role"] for message in rich.bodies[-1]["messages"]] == ["system", "user", "assistant", "user"]


def test_what_the_model_read_is_shown_token_by_token(rich):
    say(rich, "/system Be brief.")
    for number, text in enumerate(("one", "two", "long ago"), 1):
        say(rich, text)
        finished(rich, number)
    press(rich, "What the model read")
    prompt = rich.locator(".prompt")
    playwright.expect(prompt.locator(".special").first).to_have_text("<|bos|>")
    assert prompt.locator(".token").all_inner_texts() == ["<|bos|>", "Read", " by", " the", " model"]
    read, scored = rich.bodies[-2:]
    assert [message["content"] for message in read["messages"] if message["role"] != "assistant"] == [
        "Be brief.", "two", "long ago"], "without what was forgotten"
    assert scored["echo"] and scored["max_tokens"] == 0 and scored["prompt"] == list(range(100, 108))
    prompt.locator("summary").click()
    playwright.expect(prompt.locator(".forgotten")).to_have_text(["one", "Once upon a time.\nThe fox"])
    prompt.locator(".token").nth(2).focus()
    playwright.expect(rich.get_by_role("dialog", name="Alternatives")).to_be_visible()
    keep_shot(rich, "prompt")
    rich.keyboard.press("Escape")
    press(rich, "What the model read")
    playwright.expect(prompt).to_have_count(0)


@desktop_only
def test_what_the_model_forgot_is_marked(rich):
    for number, text in enumerate(("one", "two", "long ago"), 1):
        say(rich, text)
        finished(rich, number)
    order = rich.locator("#log > .message, #log > .memory").all_inner_texts()
    assert "remembers from here" in order[2] and order[3].strip().endswith("two")
    playwright.expect(rich.locator(".note").last).to_contain_text("the server ignored tools")
    say(rich, "four")
    finished(rich, 4)
    assert rich.locator(".memory").count() == 0, "of the newest answer only"


@desktop_only
def test_the_end_of_an_answer_and_of_a_text(rich):
    say(rich, "an end")
    finished(rich, 1)
    before = rich.locator(".assistant .note").inner_text()
    assert "8 tokens · 400 per second · 92 tokens read in 460 ms" in before, "as the server has timed it"
    press(rich, "Continue")
    playwright.expect(rich.locator(".assistant .note")).to_contain_text("thinks that this is the end")
    assert "8 tokens · 400 per second" in rich.locator(".assistant .note").inner_text(), "the figures stay"
    press(rich, "Continue")
    playwright.expect(rich.locator(".assistant .body")).to_have_text("The end. and it goes on")
    assert rich.bodies[-1]["ignore_eos"]
    playwright.expect(rich.locator(".assistant .note")).to_contain_text("16 tokens")
    rich.locator("#new-text").click()
    sheet = rich.get_by_label("Text", exact=True)
    sheet.fill("The end.")
    rich.get_by_role("button", name="Write on").click()
    playwright.expect(rich.locator("#writer .note")).to_contain_text("thinks that this is the end")
    rich.get_by_role("button", name="Write on").click()
    playwright.expect(sheet).to_have_value(re.compile("^The end.Once"))


@desktop_only
def test_a_text_longer_than_the_context_goes_on_from_its_end(rich):
    rich.locator("#new-text").click()
    for size, prompt in ((100, "x" * 100), (500, [ord("x")] * 184)):  # a context of 200, less 16 for the answer
        sheet = rich.get_by_label("Text", exact=True)
        sheet.fill("x" * size)
        rich.get_by_role("button", name="Write on").click()
        playwright.expect(sheet).to_have_value(re.compile("x" * size + "Once.*fox$", re.S))
        assert rich.bodies[-1]["prompt"] == prompt
    playwright.expect(rich.locator("#writer .note")).to_contain_text("only the last 184 tokens")


@desktop_only
def test_a_refused_question_is_not_sent_again(rich):
    rich.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json={"error": {
        "message": "the system prompt (661 tokens) leaves no room", "code": "context_length_exceeded"}}))
    say(rich, "/system Be long.")
    say(rich, "too long")
    playwright.expect(rich.locator(".error")).to_contain_text("The system prompt (661 tokens) leaves no room.")
    rich.locator(".error").get_by_role("button", name="Open settings").click()
    playwright.expect(rich.get_by_label("System prompt")).to_be_focused()
    playwright.expect(rich.locator("#about-system")).to_contain_text("8 tokens of the 200")
    rich.get_by_label("System prompt").fill("x" * 150)
    playwright.expect(rich.locator("#about-system")).to_contain_text("too long")
    rich.get_by_label("System prompt").fill("")
    rich.keyboard.press("Escape")
    rich.unroute("**/v1/chat/completions")
    say(rich, "short")
    finished(rich, 2)
    assert [message["content"] for message in rich.bodies[-1]["messages"]] == ["short"]
    rich.problems.clear()  # Chromium logs the 400
