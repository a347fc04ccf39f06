"""Records docs/page.gif: the chat page in Chromium, talking to a finished model.

    .venv/bin/python docs/record_page.py out rl d4
"""
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SIZE = {"width": 860, "height": 620}
QUESTIONS = ("What is 123 * 456?", "Tell me a story about a fox.", "Who made you?")
FRAMES_PER_SECOND = 6
LAST_FRAME_SECONDS = 3
FLAGS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


def wait_until_ready(url: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def record(page: Page) -> list[Image.Image]:
    """Types the questions and takes pictures while the model answers."""
    frames: list[Image.Image] = []

    def shoot() -> None:
        frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        page.wait_for_timeout(1000 / FRAMES_PER_SECOND)

    for question in QUESTIONS:
        message = page.get_by_label("Message", exact=True)
        for end in range(0, len(question), 6):
            message.fill(question[:end + 6])
            shoot()
        page.keyboard.press("Enter")
        shoot()
        while page.get_by_label("Stop", exact=True).is_visible():
            shoot()
        for _ in range(FRAMES_PER_SECOND):
            shoot()
    return frames


def save(frames: list[Image.Image], path: Path) -> None:
    """An animated GIF with one palette, so that only what changes is stored."""
    palette = frames[-1].quantize(64, dither=Image.Dither.NONE)
    images = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [1000 // FRAMES_PER_SECOND] * (len(images) - 1) + [1000 * LAST_FRAME_SECONDS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)


@contextmanager
def open_page(out: str, stage: str, tag: str, size: dict[str, int], temperature: float) -> Iterator[Page]:
    """The chat page of a model in the out folder `out`, in a browser window of this size."""
    port = free_port()
    command = [sys.executable, "-m", "scripts.chat_web", "-i", stage, "-g", tag, "-p", str(port), "-t",
               str(temperature)]
    server = subprocess.Popen(command, env={"NANOCHAT_BASE_DIR": str(Path(out).absolute()), "PATH": "/usr/bin:/bin"})
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), chromium_sandbox=False, args=FLAGS)
            page = browser.new_page(viewport=size, color_scheme="light")
            page.goto(f"http://127.0.0.1:{port}")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait()


def main(out: str, stage: str, tag: str) -> None:
    with open_page(out, stage, tag, SIZE, 0.6) as page:
        save(record(page), Path(__file__).with_name("page.gif"))


if __name__ == "__main__":
    main(*sys.argv[1:4])
