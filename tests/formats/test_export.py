"""GGUF and Qwen3: what other engines make of the files is what the model makes of the same ids."""

import numpy as np
import pytest
import torch

from nanochat.formats import fold, gguf, qwen3
from nanochat.infer import Engine
from nanochat.model import GPT, PORTABLE, GPTConfig
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat
from nanochat.train import checkpoint
from scripts import export

SHAPE = dict(n_layer=3, n_embd=64, n_head=4, n_kv_head=2, head_dim=16, sequence_len=128, softcap=0.0, scale=0.1)
TALK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you? \U0001f600"},
        {"role": "assistant", "content": "Me."}, {"role": "user", "content": "And <|bos|>12*3?"}]

TOOL = {"type": "function", "function": {"name": "calculator", "description": "arithmetic", "parameters": {
    "type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}


@pytest.fixture(scope="module")
def one_digit(tokenizer):
    return Tokenizer(tokenizer._tokens[:-9], digits=1)


@pytest.fixture
def saved(base_dir, tiny_model, one_digit):
    """`saved(**config)` is the model, which lies in out/checkpoints/sft/d3 with its tokenizer."""
    def make(**config):
        model = tiny_model(**{**PORTABLE, **SHAPE, "vocab_size": one_digit.vocab_size, **config}).eval()
        one_digit.save(paths.tokenizer_dir())
        checkpoint.save(paths.checkpoint_dir("sft", "d3"), 1, model, None, {})
        return model
    return make


def weights_of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def qwen3_logits(config, w, ids):
    """Qwen3's forward pass as its paper has it (arXiv:2505.09388): the slow twin of every engine."""
    def norm(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight

    def rotate(x):
        angles = torch.outer(torch.arange(len(ids)), config.rope_base ** -(torch.arange(0, config.head_dim, 2)
                                                                         / config.head_dim))
        cos, sin = angles.cos().repeat(1, 2)[:, None], angles.sin().repeat(1, 2)[:, None]
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config.n_layer):
        at = {name.split(".", 3)[3].removesuffix(".weight"): tensor for name, tensor in w.items()
              if name.startswith(f"model.layers.{layer}.")}
        h = norm(x, at["input_layernorm"])
        q, k, v = ((h @ at[f"self_attn.{name}_proj"].T).view(len(ids), -1, config.head_dim) for name in "qkv")
        q, k = rotate(norm(q, at["self_attn.q_norm"])), rotate(norm(k, at["self_attn.k_norm"]))
        k, v = (t.repeat_interleave(config.n_head // config.n_kv_head, 1) for t in (k, v))
        scores = torch.einsum("thd,shd->hts", q, k) / config.head_dim**0.5
        scores = scores.masked_fill(~torch.ones(len(ids), len(ids), dtype=torch.bool).tril(), -torch.inf).softmax(-1)
        x = x + torch.einsum("hts,shd->thd", scores, v).flatten(1) @ at["self_attn.o_proj"].T
        h = norm(x, at["post_attention_layernorm"])
        gate = torch.nn.functional.silu(h @ at["mlp.gate_proj"].T)
        x = x + (gate * (h @ at["mlp.up_proj"].T)) @ at["mlp.down_proj"].T
    return norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 4}, {"n_kv_head": 1, "head_dim": 32}, {"n_layer": 1},
                                     {"rope_base": 100_000.0}], ids=str)
def test_folded_weights_are_the_same_model(tiny_model, changes):
    model = tiny_model(**{**PORTABLE, **SHAPE, **changes})
    ids = torch.randint(64, (60,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = qwen3_logits(model.config, fold.fold(model.config, weights_of(model)), ids)
        assert (found - model(ids[None])[0]).abs().max() < 3e-4  # silu is relu² but for |z| of about 1/128


@pytest.mark.parametrize("feature", ["value_embeddings", "residual_scalars", "smear", "windows", "gated_smear",
                                     "backout", "query_key_scale"])
@pytest.mark.parametrize("form", ["gguf", "qwen3"])
def test_what_a_form_cannot_hold_is_refused_with_its_price(saved, feature, form):
    saved(**{feature: {"windows": [3, 3, 128], "query_key_scale": 1.2}.get(feature, True)})
    with pytest.raises(UserError, match=f"cannot hold {feature}.*--portable.*bits per byte"):
        export.main(["--source=sft", f"--to={form}"])
    assert not (paths.base_dir() / "export").exists()


def test_other_refusals(saved, tiny_model, tokenizer, tmp_path):
    model = saved()
    with pytest.raises(UserError, match="--digits=1"):
        gguf.write(tmp_path / "a.gguf", "x", model.config, weights_of(model), tokenizer, "f16")
    with pytest.raises(UserError, match="--to=page has no --dtype=q8_0"):
        export.main(["--to=page", "--dtype=q8_0"])
    with torch.no_grad():
        model.model.layers[0].mlp.fc1.weight[0, 0] = 4.5
    for form in (gguf, qwen3):
        out = tmp_path / "large"
        rest = (model.config, weights_of(model), Tokenizer(tokenizer._tokens[:-9], 1))
        with pytest.raises(UserError, match="--dtype=f32"):
            gguf.write(out, "x", *rest, "f16") if form is gguf else qwen3.write(out, *rest, "f16")
    assert not list(tmp_path.glob("large*")) and not list(tmp_path.glob("*.gguf"))


def test_the_command_writes_a_card_and_replaces_nothing_unasked(saved, capsys):
    saved(softcap=15.0)
    export.main(["--to=gguf", "--dtype=q8_0"])
    assert "soft cap of 15" in capsys.readouterr().out
    folder = paths.base_dir() / "export"
    assert sorted(path.name for path in folder.iterdir()) == [f"nanochat-sft-d3-q8_0.{end}"
                                                              for end in ("Modelfile", "gguf", "md")]
    assert "num_ctx 128" in (folder / "nanochat-sft-d3-q8_0.Modelfile").read_text()
    assert "soft cap" in (folder / "nanochat-sft-d3-q8_0.md").read_text()
    with pytest.raises(UserError, match="--overwrite"):
        export.main(["--to=gguf", "--dtype=q8_0"])
    export.main(["--to=gguf", "--dtype=q8_0", "--overwrite"])
    export.main(["--to=qwen3", "--dtype=f32"])
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / "nanochat-sft-d3-qwen3").iterdir()}
    export.main(["--source=sft"])
    assert (folder / "nanochat-sft-d3.html").exists()


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_the_file_is_read_back_by_gguf(saved, one_digit, tmp_path, dtype):
    reader_of = pytest.importorskip("gguf")
    model = saved()
    gguf.write(tmp_path / "a.gguf", "x", model.config, weights_of(model), one_digit, dtype)
    reader = reader_of.GGUFReader(tmp_path / "a.gguf")
    kinds = {"f32": reader_of.GGMLQuantizationType.F32, "f16": reader_of.GGMLQuantizationType.F16,
             "q8_0": reader_of.GGMLQuantizationType.Q8_0}
    folded = fold.fold(model.config, weights_of(model))
    assert len(reader.tensors) == len(folded) == 11 * 3 + 3
    for tensor, expected in zip(reader.tensors, folded.values()):
        kind = kinds["f32"] if expected.ndim == 1 else kinds[dtype]
        assert tensor.tensor_type == kind and list(tensor.shape) == list(reversed(expected.shape))
        theirs = reader_of.quants.quantize(expected.numpy(), kind)
        assert np.array_equal(np.array(tensor.data).view(np.uint8).ravel(), theirs.view(np.uint8).ravel())
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "qwen3" and fields["qwen3.attention.key_length"] == 16
    assert len(fields["tokenizer.ggml.tokens"]) == one_digit.vocab_size
    assert fields["tokenizer.ggml.tokens"][one_digit.special_id("<|python_end|>")] == "</param></function></tool_call>"


@pytest.mark.peers
def test_the_folder_is_qwen3_in_transformers(saved, one_digit):
    transformers = pytest.importorskip("transformers")
    model = saved()
    export.main(["--to=qwen3", "--dtype=f32"])
    folder = paths.base_dir() / "export" / "nanochat-sft-d3-qwen3"
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(peer).__name__ == "Qwen3ForCausalLM"
    ids = torch.randint(one_digit.vocab_size, (2, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model(ids) - peer(ids).logits).abs().max() < 3e-4
    prompt = chat.render_prompt(one_digit, {"messages": [{"role": "user", "content": "Who are you?"}]})
    [[expected]] = Engine(model, one_digit).generate([prompt], max_tokens=12, temperature=0.0)
    found = peer.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt):].tolist()
    assert found == expected.ids, "without a mask, too: padding is not <|bos|>"


def rendered(messages, **more):
    jinja2 = pytest.importorskip("jinja2")
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(gguf.TEMPLATE).render(
        messages=messages, **more)


def test_the_template_of_a_chat_is_ours_and_nobody_can_end_a_turn(one_digit):
    ours = {"messages": [{**message, "content": message["content"].replace("<|", "< |")} for message in TALK]}
    text = rendered(TALK, add_generation_prompt=True)
    assert text == one_digit.decode(chat.render_prompt(one_digit, ours))
    assert text.count("<|bos|>") == 1


def test_the_template_of_a_call_keeps_the_turn_open(one_digit):
    call = {"role": "assistant", "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "12*3"}}}]}
    messages = [{"role": "user", "content": "12*3?"}, call, {"role": "tool", "content": "36"}]
    parts = [{"type": "python", "text": "12*3"}, {"type": "python_output", "text": "36"}]
    ids, _ = chat.render(one_digit, {"messages": [messages[0], {"role": "assistant", "content": parts}]})
    text = one_digit.decode(ids[:-1])
    for mark, shown in gguf.TOOL_MARKS.items():
        text = text.replace(mark, shown)
    assert rendered(messages, add_generation_prompt=True) == text
    answered = [*messages, {"role": "assistant", "content": "It is 36."}]
    assert rendered(answered) == text + "It is 36.<|assistant_end|>"


def server_params(xllamacpp, path):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 128, 1, 1, False
    return params


@pytest.mark.peers
def test_llama_cpp_says_what_the_engine_says(saved, one_digit, tmp_path):
    """Greedy answers and the likeliest tokens' probabilities, in the real library."""
    xllamacpp = pytest.importorskip("xllamacpp")
    model = saved()
    gguf.write(tmp_path / "a.gguf", "x", model.config, weights_of(model), one_digit, "f32")
    server, num_compared = xllamacpp.Server(server_params(xllamacpp, tmp_path / "a.gguf")), 0
    for text in ("Who are you?", "The cat sat on the mat. 12 + 34", "\U0001f600 é"):
        prompt = chat.render_prompt(one_digit, {"messages": [{"role": "user", "content": text}]})
        [[expected]] = Engine(model, one_digit).generate([prompt], max_tokens=12, temperature=0.0)
        for n, token in enumerate(expected.ids):  # one by one: its answer leaves out tokens that are no whole letter
            ids = [*prompt, *expected.ids[:n]]
            request = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "logprobs": 8}
            answer = server.handle_completions(request)["choices"][0]["logprobs"]
            if not answer or not answer["content"]:
                continue
            [written] = answer["content"]
            with torch.no_grad():
                logprobs = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
            assert written["id"] == token and len(written["top_logprobs"]) == 8
            for other in written["top_logprobs"]:
                assert other["logprob"] == pytest.approx(float(logprobs[other["id"]]), abs=0.03)
            num_compared += 1
    assert num_compared > 12
    answer = server.handle_chat_completions({"messages": TALK, "max_tokens": 2, "temperature": 0.0})
    ours = {"messages": [{**message, "content": message["content"].replace("<|", "< |")} for message in TALK]}
    assert answer["usage"]["prompt_tokens"] == len(chat.render_prompt(one_digit, ours))


@pytest.mark.peers
def test_a_tool_is_called_through_llama_cpp(one_digit, tmp_path):
    """A model that learnt one call by heart: the server hands the call out, and takes the result in."""
    xllamacpp = pytest.importorskip("xllamacpp")
    model = GPT(GPTConfig(128, one_digit.vocab_size, 2, 4, 2, 64, 16, softcap=0.0, **PORTABLE)).init_weights(0)
    call, output = {"type": "python", "text": "12*3"}, {"type": "python_output", "text": "36"}
    question = {"role": "user", "content": "12*3?"}
    rows = [chat.render(one_digit, {"messages": [question, {"role": "assistant", "content": content}]})[0]
            for content in ([call], [call, output, {"type": "text", "text": "It is 36."}])]
    end, optimizer = one_digit.special_id("<|assistant_end|>"), torch.optim.Adam(model.parameters(), 0.01)
    output_start = one_digit.special_id("<|output_start|>")
    for _ in range(60):
        losses = []
        for ids in rows:  # behind a call the turn ends; the output is written by the tool
            targets = [end if token == output_start else token for token in ids[1:]]
            losses.append(model.loss(torch.tensor([ids[:-1]]), torch.tensor([targets])))
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
    gguf.write(tmp_path / "a.gguf", "x", model.config, weights_of(model), one_digit, "f32")
    server = xllamacpp.Server(server_params(xllamacpp, tmp_path / "a.gguf"))
    request = {"messages": [question], "tools": [TOOL], "temperature": 0.0, "max_tokens": 40}
    choice = server.handle_chat_completions(request)["choices"][0]
    [made] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert (made["function"]["name"], made["function"]["arguments"]) == ("calculator", '{"expression":"12*3"}')
    answer = {"role": "tool", "tool_call_id": made["id"], "content": "36"}
    request["messages"] = [question, choice["message"], answer]
    choice = server.handle_chat_completions(request)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is 36.", "stop")


def test_the_licence_of_the_data_is_named(saved):
    saved()
    (paths.data_dir() / "text").mkdir(parents=True)
    assert "not known" in export.licence()
    files.write_json(paths.data_dir() / "text" / "manifest.json", {"origin": "FineWeb-Edu"})
    assert export.licence() == "FineWeb-Edu"

