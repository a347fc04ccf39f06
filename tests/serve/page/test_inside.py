"""The inside of the model below an answer: the numbers of the server, by pointer and by keys, on every screen."""
import json
import math
import re

import httpx
import pytest

from .conftest import desktop_only, finished, in_browser, keep_shot, playwright, press, say

pytestmark = in_browser
SUM = "What is 123 * 456?"
WIDTHS = (320, 768, 1600)


def opened(page, text=SUM):
    say(page, text)
    finished(page, 1)
    press(page, "Inside the model")
    panel = page.get_by_role("region", name="Inside the model")
    playwright.expect(panel.locator("h3")).to_have_count(4)
    return panel


def percent(p):
    return "100 %" if p >= 0.9995 else "< 0.1 %" if p < 0.0005 else f"{100 * p:.1f} %"


def test_a_word_is_looked_into(page, url):
    asked = []
    page.on("request", lambda request: asked.append(json.loads(request.post_data)) if "inside" in request.url else None)
    panel = opened(page)
    words = panel.get_by_role("group", name="Words of the answer").get_by_role("button")
    assert words.all_inner_texts()[:6] == ["L", "e", "t", "␣", "m", "e"]
    playwright.expect(panel.get_by_role("status").first).to_contain_text("After <|assistant_start|> the model says L")
    words.nth(2).click()
    playwright.expect(panel.get_by_role("status").first).to_contain_text("After e the model says t")
    assert [body.get("position") for body in asked] == [None, len(SUM) + 4 + 2], "the prompt, and two words"
    got = httpx.post(f"{url}/v1/inside", json=asked[-1]).json()
    layers, _, parts, alike = panel.locator("h3 + p + *").all()
    best = sorted(got["layers"][-1]["top_logprobs"].values())[::-1][:3]
    assert re.findall(r"[\d.]+ %", layers.locator("dd").last.inner_text()) == [
        percent(math.exp(nats)) for nats in best]
    weights = dict(next(part for part in got["parts"] if part["part"] == "head")["attends"])
    shown = panel.locator(".tokens .token").evaluate_all("(all) => all.map((one) => one.title)")
    assert shown == [percent(weights.get(i, 0)) for i in range(got["position"])]
    assert parts.locator("dt").all_inner_texts() == ["nothing is left out", "smear: no share of the preceding word",
                                                     "value embeddings of layer 1", "MLP of layer 1"]
    assert alike.locator("dt").all_inner_texts() == ["embedding", "embedding with smear",
                                                     "value embedding of layer 1"]
    words.get_by_text("<|output_start|>").click()
    playwright.expect(panel.get_by_role("status").first).to_contain_text("the calculator wrote <|output_start|>")
    words.nth(words.all_inner_texts().index("<|output_end|>") + 1).click()
    playwright.expect(panel.get_by_role("status").first).to_contain_text("After <|output_end|> the model says 1")
    keep_shot(page, "inside")
    press(page, "Inside the model")
    playwright.expect(panel).to_have_count(0)


@desktop_only
def test_by_keys_and_on_every_screen(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="bash setup.sh installs axe").Axe()
    panel = opened(page)
    words = panel.get_by_role("group", name="Words of the answer").get_by_role("button")
    words.nth(0).focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(words.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    playwright.expect(panel.get_by_role("status").first).to_contain_text("After L the model says e")
    playwright.expect(words.nth(1)).to_be_focused()
    page.keyboard.press("Tab")
    playwright.expect(panel.get_by_role("group", name="Heads").get_by_role("button").first).to_be_focused()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = axe.run(page).response["violations"]
        assert not found, json.dumps([(one["id"], [node["html"][:150] for node in one["nodes"]]) for one in found])
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        assert panel.evaluate("(box) => [...box.querySelectorAll('*')].every((one) => one.getBoundingClientRect().right"
                              " <= innerWidth && one.scrollWidth <= Math.max(one.clientWidth, one.offsetWidth, 1) + 1)")


@desktop_only
def test_digits_keep_their_places(page):
    """JavaScript lists the keys "2" and "5" of an object by size, wherever they stand."""
    def answer(route):
        response = route.fetch()
        found = response.json()
        for said in (*found["layers"], *(part["without"] for part in found["parts"])):
            said["top_logprobs"] = {"a": -0.2, "5": -1.9, "2": -4.0}
        route.fulfill(response=response, json=found)

    page.route("**/v1/inside", answer)
    panel = opened(page)
    assert panel.locator("dd").first.locator("code").all_inner_texts() == ["a", "5", "2"]
    playwright.expect(panel.get_by_role("status").last).to_contain_text("the most probable word would be a.")
    top = page.evaluate("""async () => (await import("./tokens.js")).read({ tokens: ["a"], token_logprobs: [-0.2],
        top_logprobs: [{ a: -0.2, 5: -1.9, 2: -4 }] })[0].top.map(([text]) => text)""")
    assert top == ["a", "5", "2"]


@desktop_only
def test_an_error_is_shown_and_can_be_tried_again(page):
    page.route("**/v1/inside", lambda route: route.fulfill(status=500, json={"error": {"message": "no memory left"}}))
    say(page, "code")
    finished(page, 1)
    press(page, "Inside the model")
    playwright.expect(page.locator(".inside [role=alert]")).to_have_text("No memory left.")
    page.unroute("**/v1/inside")
    press(page, "Inside the model")
    press(page, "Inside the model")
    playwright.expect(page.locator(".inside h3")).to_have_count(4)
    page.problems.clear()  # Chromium logs the 500


@desktop_only
def test_a_server_without_the_route_gets_no_button(rich):
    say(rich, "hello")
    finished(rich, 1)
    assert rich.get_by_label("Inside the model").count() == 0
