"""Checkpoints of karpathy/nanochat, whichever form: the same logits, ids, renderings and answers as over there."""
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.formats import upstream
from nanochat.infer import Engine
from nanochat.infer.numba_decode import numba_decoder
from nanochat.model import lora
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import paths
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from nanochat.train import checkpoint
from scripts import import_model

from . import twin

FIXTURES = Path(os.environ.get("NANOCHAT_UPSTREAM")
                or Path(__file__).resolve().parents[3] / "shared" / "data" / "upstream")
THEIRS = {"g0": ("base", "d4"), "g2-windows": ("base", "d5"), "g3": ("base", "d4"), "g5": ("sft", "d4")}
ALL = {**twin.FORMS, **twin.RELATIVES}


def imported(folder, *flags):
    """(model, tokenizer, info) after the command."""
    import_model.main([str(folder), *flags])
    [stage] = [path.name for path in (paths.base_dir() / "checkpoints").glob("*")]
    model, tokenizer, info = checkpoint.load_model(stage)
    return model.eval(), tokenizer, info


@pytest.fixture
def theirs(request, base_dir):
    folder = FIXTURES / request.param
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder, json.loads((folder / "expected.json").read_text()), np.load(folder / "expected.npz")


@pytest.mark.parametrize("theirs", THEIRS, indirect=True)
def test_what_the_other_project_wrote_computes_what_it_computed(theirs):
    folder, expected, arrays = theirs
    model, tokenizer, info = imported(folder / "checkpoint")
    stage, tag = THEIRS[folder.name]
    assert (Path(info["path"]).parent.parent.name, info["tag"]) == (stage, tag)
    assert [tokenizer.encode(text) for text in expected["strings"]] == expected["encoded"]
    ids, mask = chat.render(tokenizer, expected["conversation"])
    assert (ids, mask) == (expected["render_ids"], expected["render_mask"])
    assert chat.render_prompt(tokenizer, expected["conversation"]) == expected["completion_ids"]
    assert tokenizer.specials == expected["specials"]
    for i in range(6):
        with torch.no_grad():
            logits = model(torch.from_numpy(arrays[f"ids_{i}"]).long()[None])[0, arrays[f"pos_{i}"]].numpy()
        apart = min(np.abs(logits - arrays[f"{kind}_{i}"]).max() for kind in ("logits", "alt_logits"))
        assert apart < 1e-4
    prompts = [arrays[f"prompt_{j}"].tolist() for j in range(2)]
    engine = Engine(model, tokenizer, decoder=numba_decoder)
    for j, [completion] in enumerate(engine.generate(prompts, max_tokens=16, temperature=0.0, stop_ids=[])):
        assert completion.ids == arrays[f"greedy_{j}"].tolist()


@pytest.mark.parametrize("name", ALL)
def test_every_form_and_its_relatives(name, base_dir, tmp_path, tokenizer):
    form = replace(ALL[name], vocab=tokenizer.vocab_size if ALL[name].vocab == 300 else ALL[name].vocab)
    if form.vocab != tokenizer.vocab_size:
        tokenizer = type(tokenizer)([*tokenizer._tokens[:-9], *(b"more%d" % i for i in range(form.vocab - 300))], 2)
    folder = twin.write(tmp_path / "theirs", form, tokenizer)
    model, again, _ = imported(folder, f"--softcap={form.softcap:g}")
    assert again._tokens == tokenizer._tokens
    ids = torch.randint(form.vocab, (1, min(form.length, 300)), generator=torch.Generator().manual_seed(1))
    slow = twin.logits(form, twin.tensors(form), ids[0].numpy())
    with torch.no_grad():
        assert np.abs(model(ids)[0].numpy() - slow).max() < 1e-4
    # The same through the cache, a prompt in pieces and then token by token.
    prompt = ids[0, :30].tolist()
    engine = Engine(model, again, step_tokens=7, decoder=numba_decoder)
    [[completion]] = engine.generate([prompt], max_tokens=8, temperature=0.0, stop_ids=[])
    for token in completion.ids:
        assert token == int(model(torch.tensor([prompt]))[0, -1].argmax())
        prompt.append(token)


@pytest.mark.parametrize("name", ["g2", "g5"])
def test_windows_hold_in_batches_of_rows_of_any_length(name, base_dir, tmp_path, tokenizer):
    form = replace(twin.FORMS[name], length=16 if name == "g2" else 600)
    model, again, _ = imported(twin.write(tmp_path / "theirs", form, tokenizer))
    draw = torch.Generator().manual_seed(2)
    length = 14 if name == "g2" else 180
    rows = [torch.randint(300, (n,), generator=draw).tolist() for n in (length - 3, length, length // 2)]
    answers = Engine(model, again).generate(rows, max_tokens=2, temperature=0.0, stop_ids=[])
    alone = [Engine(model, again).generate([row], max_tokens=2, temperature=0.0, stop_ids=[])[0] for row in rows]
    assert answers == alone


def test_training_moves_what_only_imported_models_have(base_dir, tmp_path, tokenizer):
    model, _, _ = imported(twin.write(tmp_path / "theirs", twin.FORMS["g5"], tokenizer))
    optimizer = Optimizer(groups_of(model, matrix_lr=0.02, embedding_lr=0.3, head_lr=0.008))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.randint(300, (2, 33), generator=torch.Generator().manual_seed(3))
    first = model.loss(ids[:, :-1], ids[:, 1:])
    first.backward()
    optimizer.step(Schedule(10), 0)
    assert model.loss(ids[:, :-1], ids[:, 1:]) < first
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    lora.attach(model, 4)
    assert lora.trained(model) and not any("smear" in name for name in lora.trained(model))


def test_of_a_tree_the_checkpoint_that_was_meant(base_dir, tmp_path, tokenizer):
    for stage, tag in (("base", "d3"), ("base", "d3b"), ("chatsft", "d3")):
        folder = twin.write(tmp_path / f"{stage}_checkpoints" / tag, twin.FORMS["g1"], tokenizer)
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        (folder / "tokenizer.pkl").replace(tmp_path / "tokenizer/tokenizer.pkl")
    with pytest.raises(UserError, match="several checkpoints: base_checkpoints/d3, base_checkpoints/d3b, chatsft"):
        import_model.main([str(tmp_path)])
    for words, place in (([str(tmp_path), "--stage=sft"], "sft/d3"),
                         ([str(tmp_path / "base_checkpoints/d3b")], "base/d3b"),
                         ([str(tmp_path / "chatsft_checkpoints"), "--tag=friend"], "sft/friend")):
        import_model.main(words)
        assert (base_dir / "checkpoints" / place / "step_000030/model.safetensors").exists()
    with pytest.raises(UserError, match="sft/d3 is there already"):
        import_model.main([str(tmp_path), "--stage=sft"])
    import_model.main([str(tmp_path), "--stage=sft", "--overwrite"])
    (tmp_path / "base_checkpoints/d3/model_000031.pt").write_bytes(b"")
    with pytest.raises(UserError, match="meta_000031.json is missing"):
        import_model.main([str(tmp_path / "base_checkpoints/d3"), "--tag=newest"])


def test_a_window_that_reaches_everything_is_none(tmp_path, tokenizer):
    config = upstream.read(twin.write(tmp_path, replace(twin.FORMS["g5"], length=100), tokenizer)).config
    assert config.windows == [128, 128, 100] and config.query_key_scale == 1.2
