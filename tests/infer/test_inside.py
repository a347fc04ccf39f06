"""The inside of the model, beside a forward pass that is written out a second time."""
import math

import pytest
import torch

from nanochat.infer import inside
from nanochat.infer.inside import Part, look_inside
from nanochat.infer.quantize import FORMS as QUANTIZED
from nanochat.infer.quantize import quantized
from nanochat.model import PORTABLE

BOS = 5
FORMS = {"all features": {}, "portable": PORTABLE, "no cap": {"softcap": 0.0}, "groups": {"n_kv_head": 1},
         "documents": {"document_bos": BOS}, "many parts": {"n_layer": 4, "n_kv_head": 4},
         "imported": {"smear": False, "gated_smear": True, "backout": True, "windows": [3, 20], "query_key_scale": 1.2}}


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


class Twin:
    """The model in float64, one head and one token after the other; `off` is missing for the last token."""

    def __init__(self, model, ids, off=None):
        self.w, self.config = {name: p.detach().double() for name, p in model.named_parameters()}, model.config
        self.ids, self.off, self.patterns = ids, off, []
        x = self.smeared(rms(self.w["model.embed_tokens.weight"][ids]))
        self.states, x0 = [], x
        for layer in range(self.config.n_layer):
            if self.config.residual_scalars:
                x = self.w["model.residual_scalars"][layer] * x + self.w["model.embedding_scalars"][layer] * x0
            if not self.states:
                self.states.append(x[-1])
            block = f"model.layers.{layer}."
            x = x + self.attended(layer, rms(x)) @ self.w[f"{block}self_attn.o_proj.weight"].T
            added = (rms(x) @ self.w[f"{block}mlp.fc1.weight"].T).relu().square() @ self.w[f"{block}mlp.fc2.weight"].T
            if off == Part("mlp", layer):
                added[-1] = 0
            x = x + added
            self.states.append(x[-1])
            if layer == self.config.n_layer // 2:
                middle = x
        self.last = x[-1] - self.w["model.backout"] * middle[-1] if self.config.backout else x[-1]

    def smeared(self, x):
        previous = torch.cat((torch.zeros_like(x[:1]), x[:-1]))
        for t, token in enumerate(self.ids):
            if token == self.config.document_bos or self.off == Part("smear") and t == len(self.ids) - 1:
                previous[t] = 0
        if self.config.smear:
            return rms(x + self.w["model.smear"] * previous)
        if self.config.gated_smear:
            gate = torch.sigmoid(x @ self.w["model.smear_gate.weight"].T)
            return x + self.w["model.smear_share"] * gate * previous
        return x

    def turned(self, x, t):
        half = len(x) // 2
        angles = t * self.config.rope_base ** (-torch.arange(half).double() / half)
        first, second = x[:half], x[half:]
        return torch.cat((first * angles.cos() + second * angles.sin(), second * angles.cos() - first * angles.sin()))

    def attended(self, layer, x):
        config, block, D = self.config, f"model.layers.{layer}.self_attn.", self.config.head_dim
        q, k, plain = (x @ self.w[f"{block}{name}_proj.weight"].T for name in "qkv")
        values = plain.clone()
        if config.has_value_embedding(layer):
            gates = 2 * torch.sigmoid(x @ self.w[f"{block}gate.weight"].T)
            table = self.w[f"model.value_embeds.{layer}.weight"][self.ids]
            values = values + gates.repeat_interleave(D, 1) * table
        out, patterns = torch.zeros_like(q), []
        for head in range(config.n_head):
            own, shared = slice(head * D, head * D + D), head // (config.n_head // config.n_kv_head) * D
            group = slice(shared, shared + D)
            for t in range(len(x)):
                first = max(0, t - config.windows[layer]) if config.windows else 0
                query = rms(self.turned(q[t, own], t)) * config.query_key_scale
                scores = torch.stack([query @ rms(self.turned(k[s, group], s)) * config.query_key_scale / D ** 0.5
                                      for s in range(first, t + 1)])
                is_last = t == len(x) - 1
                seen = plain if is_last and self.off == Part("value_embedding", layer) else values
                out[t, own] = scores.softmax(0) @ seen[first:t + 1, group]
                if is_last and self.off == Part("head", layer, head):
                    out[t, own] = 0
            patterns.append(torch.cat((torch.zeros(first).double(), scores.softmax(0))))
        self.patterns.append(torch.stack(patterns))
        return out

    def nats(self, state):
        raw = self.w["lm_head.weight"] @ rms(state)
        cap = self.config.softcap
        return (cap * torch.tanh(raw / cap) if cap else raw).log_softmax(0)


def check(logprob, nats, token):
    assert logprob[0] == pytest.approx(nats[token].item(), abs=1e-4)
    best = nats.topk(5)
    assert [value for _, value in logprob[1]] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert all(nats[other].item() == pytest.approx(value, abs=1e-4) for other, value in logprob[1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 8])
def test_every_number_is_the_models(form, length, tiny_model):
    model = tiny_model(**FORMS[form]).eval()
    ids = torch.randint(64, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    ids[length // 2] = BOS
    found, twin = look_inside(model, ids, 7), Twin(model, ids)
    for logprob, state in zip(found.layers, [*twin.states[:-1], twin.last], strict=True):
        check(logprob, twin.nats(state), 7)
    assert torch.allclose(found.patterns.double(), torch.stack(twin.patterns), atol=1e-5)
    assert list(found.without) == list(inside.all_parts(model)), "in the order of a token's way"
    for part, logprob in found.without.items():
        check(logprob, twin.nats(Twin(model, ids, part).last), 7)
    for part, near in found.neighbours.items():
        name = f"value_embeds.{part.layer}" if part.kind == "value_embedding" else "embed_tokens"
        table = twin.w[f"model.{name}.weight"]
        vector = twin.states[0] if part.kind == "smear" else table[ids[-1]]
        cosines = torch.stack([row @ vector / row.norm() / vector.norm() for row in table])
        assert [value for _, value in near] == pytest.approx(cosines.topk(8).values.tolist(), abs=1e-4)
        assert all(cosines[row].item() == pytest.approx(value, abs=1e-4) for row, value in near)


def test_what_a_model_lacks_is_left_out(tiny_model):
    kinds = {form: {part.kind for part in inside.all_parts(tiny_model(**FORMS[form]))} for form in FORMS}
    assert kinds["all features"] == kinds["imported"] == {"smear", "head", "value_embedding", "mlp"}
    assert kinds["portable"] == {"head", "mlp"}
    found = look_inside(tiny_model(**PORTABLE).eval(), [1, 2])
    assert list(found.neighbours) == [Part("embedding")]


@pytest.mark.parametrize("form", ["float32", "bfloat16", *QUANTIZED])
def test_the_last_layer_says_what_the_model_says(form, tiny_model):
    """In every form in which a model is served; without a token it is the likeliest."""
    model, ids = tiny_model().eval(), [BOS, 9, 33, 2]
    if form == "bfloat16":
        model = model.bfloat16()
        model.compute_dtype = torch.bfloat16
    model = quantized(model, form if form in QUANTIZED else "")
    with torch.no_grad():
        nats = model(torch.tensor([ids]))[0, -1].log_softmax(0)
    found, tolerance = look_inside(model, ids), 1e-2 if form == "bfloat16" else 1e-5
    assert found.layers[-1][0] == found.layers[-1][1][0][1] == pytest.approx(nats.max().item(), abs=tolerance)
    assert all(math.isfinite(logprob[0]) for logprob in found.without.values())
    assert all(near[0] == (2, pytest.approx(1, abs=1e-3)) for part, near in found.neighbours.items()
               if part.kind != "smear"), "a token is its own nearest neighbour"


def test_the_model_is_as_before(tiny_model, monkeypatch):
    model, ids = tiny_model().eval(), torch.tensor([[BOS, 9, 33, 2]])

    def hooks():
        return [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]

    with torch.no_grad():
        before = model(ids)
    look_inside(model, ids[0].tolist())
    with torch.no_grad():
        assert torch.equal(model(ids), before) and not hooks()
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look_inside(model, ids[0].tolist())
    assert not hooks(), "an error leaves none either"
