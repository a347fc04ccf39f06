"""Makes docs/inside-*.png: the four views of the inside, of a finished model.

    .venv/bin/python docs/picture_inside.py out rl d4
"""
import io
import sys
from pathlib import Path

from PIL import Image
from record_page import open_page

SIZE = {"width": 700, "height": 900}
QUESTION, WORD = "What is 123 * 456?", 2
VIEWS = ("layers", "heads", "parts", "alike")
COLOURS = 128


def main(out: str, stage: str, tag: str) -> None:
    with open_page(out, stage, tag, SIZE, 0.0) as page:
        page.get_by_label("Message", exact=True).fill(QUESTION)
        page.keyboard.press("Enter")
        page.get_by_label("Inside the model").click()
        panel = page.get_by_role("region", name="Inside the model")
        panel.locator("h3").first.wait_for()
        with page.expect_response("**/v1/inside"):
            panel.locator(".words button").nth(WORD).click()
        page.wait_for_timeout(500)  # for the views to be drawn
        page.locator("#to-end").evaluate("(button) => button.remove()")
        page.locator("#scroll").evaluate("(box) => { box.style.maskImage = 'none'; }")
        for name, view in zip(VIEWS, panel.locator(".views > section").all(), strict=True):
            picture = Image.open(io.BytesIO(view.screenshot())).convert("RGB")
            picture = picture.quantize(COLOURS, dither=Image.Dither.NONE)
            picture.save(Path(__file__).with_name(f"inside-{name}.png"), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
