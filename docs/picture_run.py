"""Takes the pictures of a run: docs/run.png, run-phone.png, card.png, in Chromium, from a finished run.

    .venv/bin/python docs/picture_run.py out
"""
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from record_page import FLAGS, free_port, wait_until_ready

DOCS = Path(__file__).parent
SIZES = {"run": {"width": 1180, "height": 900}, "run-phone": {"width": 390, "height": 780}}
COLOURS = 64  # of the pictures: few keep the files small
QUESTION = "What is 12 * 34?"


def keep(page: Page, name: str, whole: bool = False) -> None:
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    path = DOCS / f"{name}.png"
    picture.quantize(COLOURS).save(path, optimize=True)
    print(f"{path.name}: {picture.width} × {picture.height}, {path.stat().st_size / 1000:.0f} kB")


def take(browser: Browser, url: str) -> None:
    for name, size in SIZES.items():
        page = browser.new_page(viewport=size)
        page.goto(f"{url}/run")
        page.locator("#exams tbody th").first.wait_for()
        page.wait_for_timeout(500)
        keep(page, name, whole=name == "run")
    page = browser.new_page(viewport=SIZES["run"])
    page.goto(url)
    page.get_by_label("Message", exact=True).fill(QUESTION)
    page.get_by_label("Ask every model").click()
    page.get_by_label("Send", exact=True).wait_for(timeout=300_000)
    page.wait_for_timeout(500)
    keep(page, "stages")
    page.get_by_label("About this model").click()
    page.locator("#about-body .plot").first.wait_for()
    keep(page, "card")


def main(out: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "scripts.chat_web", "--live", f"--port={port}"], cwd=DOCS.parent,
                              env={**os.environ, "NANOCHAT_BASE_DIR": str(Path(out).absolute())})
    try:
        wait_until_ready(url)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), chromium_sandbox=False, args=FLAGS)
            take(browser, url)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
