"""Update rules and schedules: Muon for matrices, AdamW for everything else."""
from nanochat.optim.groups import Optimizer
from nanochat.optim.schedule import Schedule

__all__ = ["Optimizer", "Schedule"]
