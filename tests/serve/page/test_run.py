"""/run in Chromium while a real run trains: curve, words and stages; killed and resumed; a chat with a checkpoint."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from nanochat.serve.app import create_app
from nanochat.serve.live import LiveModels
from nanochat.system import runtime
from scripts import chat_web

from ..conftest import DEFAULTS, serving
from . import toy_run
from .conftest import MILLISECONDS, desktop_only, in_browser, in_page, keep_shot, playwright, sidebar

pytestmark = in_browser


def violations(page):
    """What axe finds: [(rule, elements)]."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="bash setup.sh installs axe").Axe()
    return [(found["id"], [node["html"][:150] for node in found["nodes"]])
            for found in axe.run(page).response["violations"]]


class Run:
    """The toy recipe in a process group of its own."""

    def __init__(self, out):
        self.out, self.process = out, None

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NANOCHAT_")}
        with open(self.out.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "tests.serve.page.toy_run", self.out], stdout=log,
                                            stderr=log, env=environment, start_new_session=True)

    def signal(self, sign):
        os.killpg(self.process.pid, sign)

    def wait_for(self, pattern):
        deadline = time.monotonic() + MILLISECONDS / 1000
        while not list(self.out.glob(pattern)):
            assert self.process.poll() is None and time.monotonic() < deadline, self.out.with_suffix(".log").read_text()
            time.sleep(0.02)


@pytest.fixture
def run(tmp_path, tokenizer, sentences):
    made = Run(tmp_path / "out")
    toy_run.prepare(made.out, tokenizer, sentences)
    yield made
    if made.process and made.process.poll() is None:
        made.signal(signal.SIGKILL)


@pytest.fixture
def run_url(run, monkeypatch):
    """A server with that run, as `chat_web --live` makes it."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(run.out))
    args, here = chat_web.flags(["--live"]), runtime.start("cpu", "float32")
    live = LiveModels(lambda stage: chat_web.load(stage, args, here)[1][0])
    with serving(create_app(live, DEFAULTS, runs=[str(run.out)])) as address:
        yield address
    for worker in chat_web.all_workers(live):
        worker.stop()


@desktop_only
def test_a_run_is_followed_killed_resumed_and_talked_to(run, run_url, visit):
    page = visit(f"{run_url}/run")
    shows = playwright.expect
    shows(page.locator("#words")).to_contain_text("not said anything")
    run.start()
    run.wait_for("checkpoints/base/d1/step_*")
    run.signal(signal.SIGSTOP)  # now nothing changes while the test looks
    shows(page.locator("#stages .running")).to_contain_text("base")
    shows(page.locator("#now")).to_have_text(re.compile(r"^base · step \d+ of 150 · .* left in all$"))
    shows(page.locator("#words section")).to_have_count(5)
    shows(page.locator("#words .fine").first).to_have_text(re.compile(r"^base \d+ %"))
    shows(page.locator("#curves .plot").first).to_have_attribute("aria-label", re.compile("^base: loss.* from 5"))
    shows(page.locator("#talk")).to_have_text(re.compile(r"^Talk to base d1, step \d0$"))

    # ---- Killed. The page says so, and the last checkpoint can be talked to.
    run.signal(signal.SIGKILL)
    run.process.wait()
    shows(page.locator("#stages .stopped")).to_contain_text("base")
    step = int(re.search(r"step (\d+)", page.locator("#talk").inner_text())[1])
    chat = visit(run_url)
    shows(chat.locator("#model-name")).to_have_text(f"nanochat-base-d1, step {step}")
    sidebar(chat).get_by_role("button", name="New text to continue").click()
    chat.get_by_label("Text", exact=True).fill("The cat ")
    chat.get_by_role("button", name="Write on").click()
    shows(chat.get_by_label("Text", exact=True)).to_have_value(re.compile("^The cat .", re.S))

    # ---- Resumed: the curve goes on without a gap, the next stage follows, and the end is told.
    run.start()
    shows(page.locator("#stages .done")).to_have_count(2, timeout=2 * MILLISECONDS)
    shows(page.locator("#now")).to_have_text(re.compile("^finished · "))
    shows(page.locator("#words .fine").first).to_have_text(re.compile("mid 100 %$"))
    shows(page.get_by_role("img", name=re.compile("^base: bits per byte"))).to_have_count(1)
    shows(chat.get_by_label("Checkpoint")).to_have_value("nanochat-mid-d1")

    # ---- The card of the model, and one question to both stages.
    chat.get_by_label("About this model").click()
    shows(chat.locator("#about-title")).to_have_text("nanochat-mid-d1")
    shows(chat.locator("#about-body")).to_contain_text("mid, step 10")
    shows(chat.locator("#about-body .plot")).to_have_count(2)
    shows(chat.get_by_role("link", name="The run")).to_have_attribute("href", "run")
    assert not violations(chat)
    keep_shot(chat, "card")
    chat.get_by_label("Close the card").click()
    sidebar(chat).get_by_role("button", name="New conversation").click()
    chat.get_by_label("Message", exact=True).fill("The cat")
    chat.get_by_label("Ask every model").click()
    shows(chat.locator(".columns .author")).to_have_text(["nanochat-base-d1", "nanochat-mid-d1"])
    shows(chat.get_by_label("Send", exact=True)).to_be_visible()
    shows(chat.locator(".columns .error")).to_have_count(0)
    keep_shot(chat, "stages")
    metrics = [json.loads(line) for line in (run.out / "results/base/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, 151))


EXAMS = {exam: {stage: {"accuracy": 0.2 * number, "stderr": 0.03, "chance": 0.25, "num_items": 9}
                for number, stage in enumerate(("base", "mid", "sft", "rl"), 1)} for exam in ("facts", "choice")}


@pytest.fixture
def finished_url(tmp_path, visit, worker):
    """A server with a run of all stages that has ended."""
    from nanochat.run_folder import RunFolder
    from nanochat.system import files
    out = tmp_path / "out"
    names = ["data", *(name for stage in ("base", "mid", "sft", "rl") for name in (stage, f"chat_eval_{stage}"))]
    files.write_json(out / "run.json", {"stages": dict.fromkeys(names, 60.0)})
    for name in names:
        RunFolder(out).finish(name, ["-m", name], 61.0)
    for stage in ("base", "mid", "sft", "rl"):
        lines = [{"step": step, "train/steps": 30, "train/loss_nats": 3 / step, "speed/tokens_per_second": 1e4 + step,
                  "time/seconds": step, **({"rl/reward_mean": step / 40, "rl/tool_use": 0.5} if stage == "rl" else {}),
                  **({"val/bpb": 1 / step} if step % 10 == 0 else {}),
                  **({"words": [[f"Question {n}?", f"<b>{stage}</b> {step}"] for n in range(5)]}
                     if step % 10 == 0 else {})} for step in range(1, 31)]
        files.write_jsonl(out / f"results/{stage}/metrics.jsonl", lines)
        files.write_json(out / f"results/{stage}/chat_eval.json", {
            "tasks": {exam: scores[stage] for exam, scores in EXAMS.items()}})
    files.write_jsonl(out / "results/base/models/trial/metrics.jsonl", [{"step": 1, "train/loss_nats": 2.0}])
    with serving(create_app({"m": [worker]}, DEFAULTS, runs=[str(out)])) as address:
        yield f"{address}/run"


def test_a_finished_run_on_every_screen_and_axe_finds_nothing(finished_url, visit):
    page = visit(finished_url)
    page.emulate_media(color_scheme="light" if page.size == "desktop" else "dark")
    shows = playwright.expect
    shows(page.locator("#now")).to_have_text("finished · 9 min 09 s in all")
    shows(page.locator("#exams tbody tr")).to_have_count(2)
    assert page.locator("#exams tbody tr").first.inner_text().split() == ["facts", "0.20", "0.40", "0.60", "0.80"]
    shows(page.locator("#words p").first).to_have_text("<b>rl</b> 30")
    shows(page.get_by_role("img", name=re.compile("^rl: answers in practice: right .* from 0.025 to 0.75"))
          ).to_have_count(1)
    assert page.get_by_role("img", name=re.compile("^rl: loss")).count() == 0, "it would mislead"
    keep_shot(page, "run")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert not violations(page)
    page.get_by_label("Which run").select_option("out: trial")
    shows(page.locator("#stages li")).to_have_count(0)
    shows(page.locator("#curves figure")).to_have_count(1)


@desktop_only
def test_it_asks_nothing_while_nobody_looks_and_goes_on_after_trouble(finished_url, visit):
    page = visit(finished_url)
    playwright.expect(page.locator("#now")).to_contain_text("finished")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("""() => { Object.defineProperty(document, "hidden", { value: true, configurable: true });
                             document.onvisibilitychange(); }""")
    page.wait_for_timeout(2500)
    assert not asked
    page.route("**/run/data*", lambda route: route.fulfill(status=503, json={"error": {"message": "gone."}}))
    page.evaluate("() => { delete document.hidden; document.onvisibilitychange(); }")
    playwright.expect(page.locator("#trouble")).to_contain_text("Gone.")
    page.unroute("**/run/data*")
    playwright.expect(page.locator("#trouble")).to_be_hidden()
    assert any("rl=" in url and "run=" in url for url in asked)
    page.problems[:] = [problem for problem in page.problems if "503" not in problem]  # which the console is told


@desktop_only
def test_the_time_left_comes_from_the_last_steps(finished_url, visit):
    page = visit(finished_url)
    lines = [{"step": step, "train/steps": 100, "time/seconds": 50 + 2 * step} for step in range(1, 41)]
    left = """(m, stage, lines) => m.secondsLeft(stage, lines)"""
    running = {"state": "running", "seconds": 30, "expected": 500}
    assert in_page(page, "run", left, running, lines) == 120
    assert in_page(page, "run", left, running, []) == 470 and in_page(page, "run", left, running, lines[:1]) == 470
    assert in_page(page, "run", left, {**running, "state": "done"}, lines) == 0
    assert in_page(page, "plot", "(m) => [m.ticks(0, 1), m.ticks(0.31, 7.6), m.ticks(5, 5)]") == [
        [0, 0.5, 1], [2, 4, 6], [5]]
