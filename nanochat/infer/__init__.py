"""Running a trained model: the engine that batches requests and runs the tool, the sampler, the key/value cache."""

from nanochat.infer.engine import Engine
from nanochat.infer.request import Completion, Event, Request
from nanochat.infer.sampling import SamplingParams

__all__ = ["Completion", "Engine", "Event", "Request", "SamplingParams"]
