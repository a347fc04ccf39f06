"""What tests of several rooms share: an out folder of their own, a tiny tokenizer, a tiny model, one thread."""
import os
import re
import shutil
import signal
import subprocess
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; sums in one order, and no fight over cores

import pytest

from nanochat.system.container import usable_cores

from . import missing

for name in ("http_proxy", "https_proxy", "all_proxy"):  # the servers of the tests are on this machine
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
# The chat page, and the clients that pip installs. (openai-node needs npm, which is hundreds of packages.)
IN_CI = re.compile(r"serve/page|real_clients\[with_(?!openai_node)")
SENTENCES = ["The cat sat on the mat. ", "A dog ran to the red house! ", "Who are you? I am a small model.\n",
             "12 + 34 = 46, and 7 * 8 = 56. ", "She said: the cat and the dog sat in the house.\n"]


def pytest_terminal_summary(terminalreporter):
    """The last lines of every run name what this machine cannot test: without them a green run looks complete."""
    for line in missing.report():
        terminalreporter.write_line(line)


# The two hooks of pytest-xdist, for test.sh. Without it the tests run one after the other.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    return min(8, usable_cores())  # each takes up to 1 GB of memory


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One of several processes runs the tests of a file; those of pipeline/ all, because they share a run."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "tests/pipeline" if file.startswith("tests/pipeline/") else file

    return Files(config, log)


def pytest_sessionfinish(session):
    """In CI some tests fail when they are skipped: .ci/run installs the browser and the clients that they need."""
    if hasattr(session.config, "workerinput"):  # one of several processes: the first of all has the results
        return
    skipped = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    names = [report.nodeid for report in skipped if IN_CI.search(report.nodeid)]
    if os.environ.get("CI") == "true" and names:
        print(f"\nCI: {len(names)} tests were skipped that must run there, the first is {names[0]}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def nothing_of_the_machine(tmp_path_factory):
    """A finished run in the user's out folder, settings of the user or of torchrun must not change what a test sees."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") or name.startswith("NANOCHAT_") and name != "NANOCHAT_DATA":
                patch.delenv(name)
        patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path_factory.mktemp("no-run")))
        # A shell starts what runs in the background with Ctrl-C ignored, nohup with SIGHUP ignored.
        for sign, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
            if signal.getsignal(sign) == signal.SIG_IGN:
                signal.signal(sign, handler)
        yield


@pytest.fixture(autouse=True)
def same_draws():
    """Every test draws the same random numbers, alone or among others."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def sentences():
    return SENTENCES


@pytest.fixture
def base_dir(tmp_path, monkeypatch):
    """A fresh out folder, and no data but what the test makes."""
    monkeypatch.delenv("NANOCHAT_DATA", raising=False)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "out"))
    return tmp_path / "out"


@pytest.fixture
def mount_disk(tmp_path):
    """`mount_disk("64k")` → the folder of a file system of that size."""
    folder = tmp_path / "disk"

    def mount(size: str):
        folder.mkdir()
        program = shutil.which("mount")
        if os.geteuid() or not program or subprocess.run(
                [program, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("needs the right to mount a small tmpfs")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)  # an error that pytest keeps may hold a file open


@pytest.fixture(scope="session")
def tokenizer():
    """300 tokens, learnt from `SENTENCES` by the slow twin (the fast trainer would be compiled first)."""
    from nanochat.tokenizer import Tokenizer, reference
    tokens = [bytes([byte]) for byte in range(256)]
    words = [word.encode() for word in reference.split(" ".join(SENTENCES))]
    for first, second in reference.learn(words, 35):
        tokens.append(tokens[first] + tokens[second])
    return Tokenizer(tokens)


@pytest.fixture(scope="session")
def tiny_model():
    """`tiny_model(seed=0, **config)`: a GPT of 2 layers, 16 wide, in which every weight does something.

    (Fresh from `init_weights` the blocks are identities: outputs, gates and embedding scalars would hide mistakes.)
    """
    import torch

    from nanochat.model import GPT, GPTConfig

    def make(seed: int = 0, scale: float = 0.3, **config) -> GPT:
        settings = dict(sequence_len=32, vocab_size=64, n_layer=2, n_head=4, n_kv_head=2, n_embd=16, head_dim=4)
        model = GPT(GPTConfig(**{**settings, **config})).init_weights(seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        return model

    return make
