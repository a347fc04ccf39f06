"""Running a trained model: the key/value cache, the sampler, the engine that batches requests and runs the tool."""

from nanochat.infer.engine import Completion, Engine, Event, EventReader, Request

__all__ = ["Completion", "Engine", "Event", "EventReader", "Request"]
