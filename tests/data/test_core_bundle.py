"""CORE's bundle: from a server, a file and a folder into our layout; and bundles that are none."""
import io
import re
import shutil
import subprocess
import zipfile

import pytest
import yaml

from nanochat import dataset
from nanochat.data import core_bundle, download
from nanochat.eval import core
from nanochat.system import files
from nanochat.system.files import UserError
from tests.pipeline import hub_double
from tests.pipeline.conftest import contents

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="Git names the contents")


@pytest.fixture(params=["address", "zip file", "folder"])
def source(request, tmp_path):
    archive = tmp_path / "bundle.zip"
    archive.write_bytes(hub_double.core_bundle())
    if request.param == "zip file":
        yield str(archive)
    elif request.param == "folder":
        zipfile.ZipFile(archive).extractall(tmp_path / "unpacked")
        yield str(tmp_path / "unpacked")
    else:
        server = hub_double.serve()
        yield f"http://127.0.0.1:{server.server_address[1]}/eval_bundle.zip"
        server.shutdown()


def test_it_becomes_what_the_exam_reads(source, tmp_path, capsys):
    dataset.main(["--source=core", f"--core={source}", f"--out={tmp_path}/out"])
    data = tmp_path / "out/data"
    tasks = core.read_tasks(data)
    assert len(tasks) == 22 and {task.kind for task in tasks} == set(hub_double.KINDS)
    assert all(len(files.read_jsonl(task.path)) == 4 and task.baseline == 0.25 for task in tasks)
    assert [task.num_shots for task in tasks] == [0, 1] * 11
    assert [task.delimiter for task in tasks if task.label == "task_2"] == ["\nAnswer: "] and tasks[1].delimiter == " "
    assert not list((data / ".fetching").glob("core/*")), "the archive is gone"
    before = (data / "core_tasks.yaml").stat().st_mtime_ns
    core_bundle.fetch(data, "/nowhere.zip")
    assert "nothing to fetch" in capsys.readouterr().out and (data / "core_tasks.yaml").stat().st_mtime_ns == before


@pytest.fixture
def second(monkeypatch):
    """A server that has the bundle's files and no bundle, with the table of tasks that belongs to them."""
    server = hub_double.serve()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    tasks = yaml.safe_load(server.files["eval_bundle/core.yaml"])["icl_tasks"]
    names = [subprocess.run(["git", "hash-object", "--stdin"], input=server.files[row["dataset_uri"]], check=True,
                            capture_output=True).stdout.decode()[:12] for row in tasks]
    monkeypatch.setattr(core_bundle, "TASKS", "\n".join(
        f"{row['label']} {row['num_fewshot'][0]} 25 {'answer' if 'continuation_delimiter' in row else '-'} "
        f"{row['dataset_uri']} {name}" for row, name in zip(tasks, names)))
    monkeypatch.setattr(core_bundle, "URL", f"{url}/gone.zip")
    monkeypatch.setattr(core_bundle, "FOUNDRY", f"{url}/foundry/")
    monkeypatch.delenv("NANOCHAT_CORE", raising=False)
    yield server
    server.shutdown()


@needs_git
def test_where_the_bundle_is_gone_its_files_are_fetched_one_by_one(second, tmp_path, monkeypatch, capsys):
    (tmp_path / "bundle.zip").write_bytes(hub_double.core_bundle())
    core_bundle.fetch(tmp_path / "from bundle", str(tmp_path / "bundle.zip"))
    core_bundle.fetch(tmp_path / "from files")
    assert "gone.zip" in capsys.readouterr().out
    assert contents(tmp_path / "from files") == contents(tmp_path / "from bundle")
    with pytest.raises(UserError, match="cannot fetch .*gone.zip.*--core=FILE"):
        core_bundle.fetch(tmp_path / "named", core_bundle.URL)  # what a user names is not replaced


@needs_git
def test_a_file_of_another_commit_is_refused_and_fetched_again_next_time(second, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    right, uri = dict(second.files), next(name for name in second.files if name.endswith("task_4.jsonl"))
    second.files[uri] = b'{"a": 1}\n'
    with pytest.raises(UserError, match="task_4.jsonl.*expected [0-9a-f]{12}.*--core=FILE"):
        core_bundle.fetch(tmp_path)
    assert not (tmp_path / "core_tasks.yaml").exists()
    arrived = {path.name for path in (tmp_path / ".fetching").rglob("*.jsonl")}
    assert arrived, "what has arrived is kept, and not fetched again"
    second.files = {name: b"" if name.split("/")[-1] in arrived else content for name, content in right.items()}
    core_bundle.fetch(tmp_path)
    assert len(core.read_tasks(tmp_path)) == 22 and not list((tmp_path / ".fetching").glob("core/*"))


def test_the_table_of_tasks_is_whole():
    rows = [line.split() for line in core_bundle.TASKS.strip().splitlines()]
    assert len({row[0] for row in rows}) == core_bundle.NUM_TASKS and {len(row) for row in rows} == {6}
    assert all(re.fullmatch("[0-9a-f]{12}", row[5]) and 0 <= float(row[2]) < 100 for row in rows)


def packed(change) -> bytes:
    """The bundle with some of its files changed or (None) left out."""
    whole, out = zipfile.ZipFile(io.BytesIO(hub_double.core_bundle())), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in whole.namelist():
            if (content := change(name, whole.read(name))) is not None:
                archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("bundle, said", [
    (b"<html>Welcome</html>", "BadZipFile"), (hub_double.core_bundle(21), "21 tasks, expected 22"),
    (packed(lambda name, data: None if name.endswith("task_1.jsonl") else data), "task_1"),
    (packed(lambda name, data: b'{"a": 1}\n' if name.endswith("task_2.jsonl") else data), "without context"),
    (packed(lambda name, data: data.replace(b"toy/", b"../../") if name.endswith("core.yaml") else data), "outside"),
    (packed(lambda name, data: data.replace(b"task_5", b"other") if name.endswith(".csv") else data), "task_5")])
def test_what_is_not_the_bundle_is_one_line_and_leaves_no_tasks(tmp_path, bundle, said):
    (tmp_path / "bundle.zip").write_bytes(bundle)
    with pytest.raises(UserError, match=f"is not CORE's bundle.*{said}.*--core=FILE"):
        core_bundle.fetch(tmp_path / "data", str(tmp_path / "bundle.zip"))
    assert not (tmp_path / "data/core_tasks.yaml").exists() and not (tmp_path / "core_tasks.yaml").exists()


def test_a_source_that_is_not_there_names_the_way_out(tmp_path):
    with pytest.raises(UserError, match="--core=FILE"):
        core_bundle.fetch(tmp_path / "data", str(tmp_path / "gone.zip"))
