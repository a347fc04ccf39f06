"""CORE's bundle: from a server, a file and a folder into our layout; and bundles that are none."""
import io
import zipfile

import pytest

from nanochat import dataset
from nanochat.data import core_bundle
from nanochat.eval import core
from nanochat.system import files
from nanochat.system.files import UserError
from tests.pipeline import hub_double


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
