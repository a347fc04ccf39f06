"""Results of one model are not lost to those of another, or to a smaller measurement."""
import pytest

from nanochat.system import files, paths, results


def trained(stage, tag, named=False, **more):
    """What a training run from the beginning leaves."""
    folder = results.folder_for_training(stage, tag, named)
    results.begin(stage, tag, folder)
    files.write_jsonl(folder / "metrics.jsonl", [{"step": 1, "of": tag}])
    files.write_json(folder / "run.json", {"of": tag, **more})
    return folder


def examined(stage, tag):
    folder = results.folder_of(stage, tag)
    files.write_json(folder / "chat_eval.json", {"tag": tag})
    return folder


def of(folder):
    return files.read_json(folder / "run.json")["of"]


def test_the_stage_s_folder_is_that_of_the_newest_model_without_a_name(base_dir):
    main = paths.results_dir("sft")
    assert trained("sft", "d4") == examined("sft", "d4") == main
    assert trained("sft", "d12") == main and of(main) == "d12" and results.owner("sft") == "d12"
    assert results.folder_of("sft", "d4") == main / "models/d4" and of(main / "models/d4") == "d4"
    assert (main / "models/d4/chat_eval.json").exists() and not (main / "chat_eval.json").exists()
    assert trained("sft", "d4") == main and of(main) == "d4" and of(main / "models/d12") == "d12"
    assert results.folder_of("sft", "d4") == main


def test_a_model_with_a_name_leaves_that_folder_alone(base_dir):
    main = trained("sft", "d4")
    assert trained("sft", "ada", named=True) == examined("sft", "ada") == main / "models/ada"
    assert of(main) == "d4" and examined("sft", "d4") == main


def test_the_only_model_may_have_a_name(base_dir):
    assert trained("base", "bench", named=True) == paths.results_dir("base") == results.folder_of("base", "bench")


def test_the_same_model_trained_again_moves_what_was_there(base_dir, capsys):
    main = trained("mid", "d4", run=1)
    examined("mid", "d4")
    for number in (2, 3):
        trained("mid", "d4", run=number)
        assert f"earlier/{number - 1}" in capsys.readouterr().out
    kept = [files.read_json(main / place / "run.json")["run"] for place in ("earlier/1", "earlier/2", "")]
    assert kept == [1, 2, 3]
    assert (main / "earlier/1/chat_eval.json").exists() and not (main / "chat_eval.json").exists()


def test_a_run_that_never_finished_leaves_no_results_to_keep(base_dir):
    main = trained("mid", "d4")
    (main / "run.json").unlink()
    trained("mid", "d4")
    assert not (main / "earlier").exists()


@pytest.mark.parametrize("exam, owner", [("chat_eval.json", "d4"), ("base_loss.json", "d4"), ("other.json", "?")])
def test_results_of_older_code(base_dir, exam, owner):
    """They have no model.json: an exam tells the tag, or nobody does."""
    main = paths.results_dir("base")
    files.write_json(main / exam, {"tag": "d4"})
    files.write_json(main / "run.json", {"of": "d4"})
    assert results.owner("base") == owner and results.folder_of("base", "d4") == main
    assert trained("base", "trial", named=True) == main / "models/trial" and of(main) == "d4"
    trained("base", "d6")
    kept = [of(path.parent) for path in main.glob("*/*/run.json")]
    assert of(main) == "d6" and sorted(kept) == ["d4", "trial"]


def test_what_differs_in_its_identity_is_kept(base_dir, capsys):
    path = paths.results_dir("contamination") / "contamination.json"
    for ngram, words in ((13, 1), (13, 2), (8, 3)):
        results.write(path, {"ngram": ngram, "words": words}, ("ngram",))
    assert files.read_json(path)["words"] == 3
    assert files.read_json(path.parent / "earlier/1/contamination.json")["words"] == 2
    assert not (path.parent / "earlier/2").exists() and "contamination.json" in capsys.readouterr().out
    path.write_text("{half")
    results.write(path, {"ngram": 9}, ("ngram",))
    assert files.read_json(path) == {"ngram": 9}


def test_only_the_main_rank_moves_anything(base_dir, monkeypatch):
    main = trained("sft", "d4")
    monkeypatch.setenv("RANK", "1")
    results.begin("sft", "d12", results.folder_for_training("sft", "d12", False))
    results.keep_earlier(main / "run.json")
    results.write(main / "run.json", {}, ("of",))
    assert of(main) == "d4" and results.owner("sft") == "d4"
