"""The page of one file: its forward pass, tokenizer, chat and calculator in node, beside ours."""
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from nanochat import sandbox
from nanochat.formats import page
from nanochat.infer import Engine
from nanochat.infer.inside import look_inside
from nanochat.model import PORTABLE
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat

from .. import missing

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="the page's scripts run in node")
READ = """
const fs = require("fs"), [path, task, input] = JSON.parse(fs.readFileSync(0, "utf8"));
const html = fs.readFileSync(path, "utf8");
const part = (id) => html.split(`id="${id}">`)[1].split("</script>")[0];
const about = JSON.parse(part("model"));
const bytes = new Uint8Array(Buffer.from(part("weights"), "base64")).buffer;
const model = new Model(about.config, unpack(bytes, about.tensors, about.dtype));
const tokenizer = new Tokenizer(about.tokens, about.specials, about.digits);
const tasks = {
  logits: (ids) => ids.map((id) => Array.from(model.read(id))),
  encode: (texts) => texts.map((text) => tokenizer.encode(text)),
  decode: (ids) => tokenizer.decode(ids),
  calculate: (texts) => texts.map(calculate),
  talk: (questions) => {
    const chat = new Chat(model, tokenizer);
    for (const question of questions) for (const _ of chat.answer(question, {temperature: 0}));
    return chat.exchanges;
  },
  again: (question) => ["first", question].map((text) => {  // a new conversation each
    const chat = new Chat(model, tokenizer);
    for (const _ of chat.answer(text, {temperature: 0}));
    return chat.exchanges[0];
  })[1],
  inside: (ids) => [0, 1].map(() => lookInside(model, ids))[1],
};
console.log(JSON.stringify(tasks[task](input)));
"""
FORMS = {"all features": {}, "portable": PORTABLE, "no cap": {"softcap": 0.0}, "groups": {"n_kv_head": 1},
         "documents": {"document_bos": 5},
         "imported": {"smear": False, "gated_smear": True, "backout": True, "windows": [6, 48], "query_key_scale": 1.2}}


def node(path, task, content):
    done = subprocess.run(["node", "-e", page.scripts() + READ], input=json.dumps([str(path), task, content]),
                          capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def written(path, model, tokenizer, dtype="f32"):
    weights = {name: p.detach() for name, p in model.named_parameters()}
    page.write(path, "a <b> model", model.config, weights, tokenizer, dtype)
    return path


@needs_node
@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_the_models(form, tiny_model, tokenizer, tmp_path):
    model = tiny_model(vocab_size=tokenizer.vocab_size, sequence_len=48, **FORMS[form]).eval()
    ids = torch.randint(300, (1, 40), generator=torch.Generator().manual_seed(1))
    ids[0, 9] = 5
    with torch.no_grad():
        expected = model(ids)[0]
    found = np.array(node(written(tmp_path / "page.html", model, tokenizer), "logits", ids[0].tolist()))
    assert np.abs(found - expected.numpy()).max() < 5e-5
    halves = np.array(node(written(tmp_path / "f16.html", model, tokenizer, "f16"), "logits", ids[0].tolist()))
    assert 0 < np.abs(halves - found).max() < 0.05


TEXTS = ["", " ", "\n", "Who are you? I'm a small model.", "12 + 345 = 357", "it'S we'LL 'ſ", "a  b\t\n\n c   ",
         "你好 🙂 é", "\u0085x\ufeffy\u00a0z\u2028", "<|bos|> </script>",
         "x" * 50, "½ ² Ⅷ 123456", "\u200d\u200b", "...!!!\r\n\r\n"]


@needs_node
@pytest.mark.parametrize("digits", [1, 2])
def test_the_ids_are_the_tokenizers(digits, tiny_model, tokenizer, tmp_path):
    tokenizer = Tokenizer(tokenizer._tokens[:-9], digits)
    path = written(tmp_path / "page.html", tiny_model(vocab_size=300), tokenizer)
    assert node(path, "encode", TEXTS) == [tokenizer.encode(text) for text in TEXTS]
    assert node(path, "decode", tokenizer.encode(TEXTS[7])) == TEXTS[7]
    assert path.read_text().count("</script>") == 4, "no token ends a script"


@needs_node
def test_the_calculator_agrees_or_refuses(tiny_model, tokenizer, tmp_path):
    texts = ["12*3", "48/2", "7/2", "0.1+0.2", "1/3", "1,200*3", "-3+5", "--5", "2**10", "-2**2", "17 % 5", "-7//2",
             "-7%3", "(1+2)*(3-4)", " 5 ", "' banana'.count('a')",
             "len(' hello')-1", 'len("hello")', "2*(3+4)*5", "1e-7", "1/0", "1+",
             "(1", "", "a", "open('/etc/passwd')", "9**9**9", "'a'.x", "1 2", "x.constructor", "0.1*3/7", "10/4*2",
             "2**-1", "alert(1)", "this", "100/8", "3.50+1", "5 // 0", "[1]", "'a'+'b'"]
    found = node(written(tmp_path / "page.html", tiny_model(vocab_size=300), tokenizer), "calculate", texts)
    for text, value in zip(texts, found):
        expected = sandbox.calculate(text) or "error"
        assert value == expected or (value == "error" and text in ("1e-7", "'a'+'b'")), text


@needs_node
def test_a_chat_says_what_the_engine_says(tiny_model, tokenizer, tmp_path):
    """Greedy, over several turns, with calls of the calculator and past the context."""
    model = tiny_model(vocab_size=300, sequence_len=96, seed=3).eval()
    with torch.no_grad():  # a random model that likes to call
        model.lm_head.weight[tokenizer.special_id("<|python_start|>")] *= 2
        model.lm_head.weight[tokenizer.special_id("<|python_end|>")] *= 2
    engine, questions = Engine(model, tokenizer, sandbox.calculate), ["Who?", "12 + 34", "The cat sat on the mat.", "x"]
    expected, history = [], []
    for question in questions:
        asked = chat.render_prompt(tokenizer, {"messages": [{"role": "user", "content": question}]})[1:]
        while history and 1 + len(asked) + sum(map(len, history)) > 48:
            history.pop(0)
        prompt = [tokenizer.bos_id, *sum(history, []), *asked]
        [[completion]] = engine.generate([prompt], max_tokens=10**6, temperature=0.0)
        ids = [*asked, *completion.ids]
        end = tokenizer.special_id("<|assistant_end|>")
        history.append(ids if ids[-1] == end else [*ids, end])
        expected = [*history]
    assert node(written(tmp_path / "page.html", model, tokenizer), "talk", questions) == expected


@needs_node
def test_a_new_conversation_knows_nothing_of_the_last(tiny_model, tokenizer, tmp_path):
    path = written(tmp_path / "page.html", tiny_model(vocab_size=300, sequence_len=96, seed=3), tokenizer)
    assert [node(path, "again", "second")] == node(path, "talk", ["second"])


@needs_node
@pytest.mark.parametrize("form", FORMS)
def test_the_inside_is_the_models(form, tiny_model, tokenizer, tmp_path):
    model = tiny_model(vocab_size=tokenizer.vocab_size, sequence_len=48, **FORMS[form]).eval()
    ids = torch.randint(300, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    found = node(written(tmp_path / "page.html", model, tokenizer), "inside", ids)
    expected = look_inside(model, ids, num_alternatives=300)
    for shares, (_, best) in zip(found["layers"], expected.layers, strict=True):
        assert [shares[token] for token, _ in best] == pytest.approx([np.exp(nats) for _, nats in best], abs=1e-4)
    for head in found["heads"]:
        weights = [0.0] * head["first"] + head["weights"]
        assert weights == pytest.approx(expected.patterns[head["layer"], head["head"]].tolist(), abs=1e-4)
    assert len(found["heads"]) == 8


def test_what_no_browser_can_hold_is_refused(tiny_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_PARAMETERS", 1000)
    with pytest.raises(UserError, match="--to=gguf"):
        written(tmp_path / "page.html", tiny_model(vocab_size=300), tokenizer)
    assert not (tmp_path / "page.html").exists()


def test_the_page_asks_for_nothing_from_elsewhere(tiny_model, tokenizer, tmp_path):
    text = written(tmp_path / "page.html", tiny_model(vocab_size=300), tokenizer).read_text()
    assert not re.search(r"https?://|src=|href=|fetch\(|import\(|XMLHttp|eval\(|innerHTML", text.split('id="model"')[0])
    assert "<title>a &lt;b&gt; model</title>" in text


@pytest.mark.browser
def test_the_file_opens_from_disk_and_answers(tiny_model, tokenizer, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    if not (chromium := missing.find_browser()):
        pytest.skip("no Chromium")
    path = written(tmp_path / "page.html", tiny_model(vocab_size=300, sequence_len=96), tokenizer, "f16")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, chromium_sandbox=False, timeout=120_000)
        view = browser.new_page(viewport={"width": 390, "height": 780}, offline=True)
        view.set_default_timeout(60_000)
        problems = []
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
        view.goto(path.as_uri())
        playwright.expect(view.locator("#state")).to_have_text("ready", timeout=60_000)
        view.get_by_label("Message").fill("Who are you?")
        view.get_by_label("Message").press("Enter")
        playwright.expect(view.locator("#state")).to_contain_text("tokens per second", timeout=60_000)
        assert view.locator(".user").inner_text() == "Who are you?" and view.locator(".answer").inner_text()
        view.locator("summary").click()
        view.get_by_label("Word of the answer").select_option(index=2)
        assert view.locator(".inside ul").first.locator("li").count() == 3, "before the first layer, after each of two"
        view.get_by_role("button", name="New").click()
        assert not view.locator(".user").count() and not problems
        browser.close()
