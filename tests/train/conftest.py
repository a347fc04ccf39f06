import contextlib

import pytest
import torch

from nanochat.data.loader import ListCorpus
from nanochat.optim import Optimizer
from nanochat.optim.groups import groups_of
from nanochat.system.runtime import Runtime
from nanochat.train.journal import Journal


@pytest.fixture(scope="session")
def cpu():
    return Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def learner(tiny_model):
    """`learner(seed=0, double=False, **config)`: a tiny model and its optimizer.

    `double`: in fp64. AdamW divides a gradient by its own size, so that the rounding of a sum that is nearly zero,
    which depends on its order, moves a weight by up to the learning rate (1e-5 in twelve steps here).
    """
    def make(seed: int = 0, double: bool = False, **config):
        model = tiny_model(seed, **config)
        if double:
            model.double().compute_dtype = torch.float64
        return model, Optimizer(groups_of(model, matrix_lr=0.01, embedding_lr=0.02, head_lr=0.002, weight_decay=0.01))

    return make


@pytest.fixture(scope="session")
def corpus():
    """Forty documents of uneven length and with uneven numbers of targets."""
    generator = torch.Generator().manual_seed(0)
    documents = []
    for number in range(40):
        ids = [0, *torch.randint(1, 64, (2 + number % 17,), generator=generator).tolist()]
        documents.append((ids, [int(number % 3 == 0 or i > 2) for i in range(len(ids))]))
    return ListCorpus(documents, group_size=16)


@pytest.fixture(scope="session")
def stopped_behind_a_save():
    """`with stopped_behind_a_save(): …` is interrupted right after its first checkpoint."""
    @contextlib.contextmanager
    def stopped():
        save = Journal.save

        def killed(journal, step):
            save(journal, step)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Journal, "save", killed)
            yield

    return stopped
