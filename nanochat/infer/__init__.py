"""Running a trained model: the key/value cache, the sampler, the engine that batches requests and runs the tool."""

from nanochat.infer.engine import Engine
from nanochat.infer.request import Completion, Event, Request

__all__ = ["Completion", "Engine", "Event", "Request"]
