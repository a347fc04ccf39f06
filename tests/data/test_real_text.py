"""The laptop's recipe on real text from a hub, here a stand-in for TinyStories, beside the village's lessons."""
import importlib
import re
from dataclasses import replace

import pytest

from nanochat import dial, recipe
from nanochat.data import hub as hub_module
from nanochat.data import shards
from nanochat.system import files, paths
from nanochat.system.files import UserError
from runs import laptop
from tests.data.toy_hub import FIRST, LAST, REPO, SECOND

TEXT = "--text=tinystories"


def stages(*flags, out):
    options = recipe.parse([*flags, f"--out={out}"], "")
    return options, laptop.stages(options)


def test_the_text_is_the_hubs_and_the_lessons_are_the_villages(hub, base_dir, monkeypatch):
    names = dict(zip((FIRST, SECOND, LAST), ("data/train-0", "data/train-1", "data/validation-0")))
    hub.contents = {f"{name}.parquet": hub.contents[shard] for shard, name in names.items()}
    monkeypatch.setitem(hub_module.HUB, "tinystories", replace(hub_module.HUB["tinystories"], repo=REPO))
    _, planned = stages(TEXT, "--minutes=0.02", out=base_dir)
    assert [stage.name for stage in planned[:3]] == ["text", "lessons", "conversations"]
    for stage in planned[:3]:
        importlib.import_module(stage.module).main(stage.words()[2:])
    assert next(shards.iter_texts(shards.train_shards())) == "Story 0.0 of a hub."
    assert next(shards.iter_texts(shards.validation_shards())) == "Story 3.0 of a hub."
    chats = {path.stem for path in (paths.data_dir() / "chat").iterdir()}
    taught = set(re.findall(r"[a-z]+", next(s for s in planned if s.name == "sft").flags["mixture"])) - {"text"}
    assert taught <= chats
    exams = {path.name for path in (paths.data_dir() / "kindergarten").iterdir()}
    assert {"facts-test.jsonl", "problems-train.jsonl", "suggestions.json"} <= exams


def test_as_many_documents_of_it_are_among_the_lessons(tmp_path):
    village = laptop.stages(recipe.parse([f"--out={tmp_path}"], ""))
    _, real = stages(TEXT, out=tmp_path)
    shares = [float(re.search(r"text\*([\d.]+)", stage.flags["mixture"])[1]) for stages_ in (village, real)
              for stage in stages_ if stage.name == "mid"]
    assert shares[0] * laptop.VILLAGE_DOCUMENTS == pytest.approx(shares[1] * laptop.DOCUMENTS_PER_SHARD, rel=1e-2)


@pytest.mark.parametrize("flags, depth, row_len", [
    ([], 4, 256), (["--minutes=0.4"], 4, 256), (["--minutes=60"], 5, 512), (["--minutes=60", "--depth=7"], 7, 512)])
def test_more_minutes_are_more_model_in_the_same_time(tmp_path, flags, depth, row_len):
    options, planned = stages(TEXT, *flags, out=tmp_path)
    base = next(stage.flags for stage in planned if stage.name == "base")
    assert (base["depth"], base["max_seq_len"]) == (depth, row_len)
    assert base["device_batch_size"] * row_len == base["total_batch_size"] == 4096
    work = dial.grown(options.minutes, options.depth)[2]
    assert base["num_iterations"] * work == pytest.approx(1000 * options.minutes / 10, rel=0.03)


def test_another_text_is_another_run(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="both name the text"):
        recipe.parse([TEXT, f"--data={tmp_path}"], "")
    options = recipe.parse([f"--out={tmp_path / 'out'}"], "")
    recipe.run("laptop", [], options)
    before = files.read_json(tmp_path / "out/run.json")
    with pytest.raises(UserError, match="text=None, and this command has text=tinystories"):
        recipe.run("laptop", [], recipe.parse([TEXT, f"--out={tmp_path / 'out'}"], ""))
    del before["settings"]["text"]  # a run of an older version
    files.write_json(tmp_path / "out/run.json", before)
    recipe.run("laptop", [], options)
