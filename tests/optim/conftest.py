import pytest
import torch

from nanochat.optim.rule import StepSettings


@pytest.fixture(scope="session")
def settings():
    """`settings(lr=0.1, …)`: what the optimizer tells a rule at one step."""
    def make(**changes) -> StepSettings:
        usual = dict(lr=0.1, weight_decay=0.0, momentum=0.9, betas=(0.8, 0.95), eps=1e-10, num_updates=1,
                     dtype=torch.float32)
        return StepSettings(**usual | changes)

    return make
