"""The compiled loss of a large model, without a GPU and without its memory: torch.compile traces it on the "meta"
device, where tensors have shapes and no contents. `trace` gives the graphs of the forward and the backward pass as they
would be handed to the code generator, so their tensors can be counted.

Attention is an opaque operator that keeps what FlashAttention keeps: q, k, v, the output and one fp32 number per query.
"""
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import config as inductor_config
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode

from nanochat import dial
from nanochat.model import GPT, GPTConfig, gpt
from nanochat.train import losses


@torch.library.custom_op("nanochat_tests::attention", mutates_args=())
def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    raise NotImplementedError("shapes only")


@fused.register_fake
def _(q, k, v):
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("nanochat_tests::attention_backward", mutates_args=())
def fused_backward(grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
                   lse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    raise NotImplementedError("shapes only")


@fused_backward.register_fake
def _(grad, q, k, v, out, lse):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


fused.register_autograd(lambda ctx, grad, _: fused_backward(grad, *ctx.saved_tensors),
                        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output))


@dataclass(frozen=True)
class Traced:
    """The two graphs of a loss, and its model."""

    forward: torch.fx.GraphModule
    backward: torch.fx.GraphModule
    model: GPT

    def kept_bytes(self) -> int:
        """Of what the forward pass keeps for the backward pass, parameters and inputs left out."""
        inputs = {storage(node) for node in self.forward.graph.nodes if node.op == "placeholder"}
        return sum(size for key, size in {storage(node): storage_bytes(node) for node in outputs(self.forward)}.items()
                   if key not in inputs)

    def backward_peak(self) -> int:
        """The largest sum of kept tensors, gradients and intermediate results that are needed at the same time."""
        kept = {storage(node) for node in outputs(self.forward)}
        kept -= {storage(node) for node in self.forward.graph.nodes if node.op == "placeholder"}
        return peak(self.backward.graph, self.kept_bytes())

    def products(self, graph: torch.fx.GraphModule) -> int:
        """Matrix products and attentions."""
        names = ("aten.mm", "aten.addmm", "nanochat_tests.attention")
        return sum(str(node.target).startswith(names) for node in graph.graph.nodes)


def outputs(module: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    result = next(node for node in module.graph.nodes if node.op == "output").args[0]
    return (node for node in result if isinstance(node, torch.fx.Node) and torch.is_tensor(node.meta.get("val")))


def storage(node: torch.fx.Node) -> int:
    return node.meta["val"].untyped_storage()._cdata


def storage_bytes(node: torch.fx.Node) -> int:
    return node.meta["val"].untyped_storage().nbytes()


def peak(graph: torch.fx.Graph, kept_bytes: int) -> int:
    """The most bytes alive while the nodes run in their order. The graph's inputs are `kept_bytes` in all, and each is
    given back after its last use, as the compiled code does."""
    nodes = list(graph.nodes)
    last_use: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for number, node in enumerate(nodes):
        for used in (node, *node.all_input_nodes):
            if torch.is_tensor(used.meta.get("val")):
                last_use[storage(used)], sizes[storage(used)] = number, storage_bytes(used)
    inputs = {storage(n) for n in nodes if n.op == "placeholder" and torch.is_tensor(n.meta.get("val"))}
    kept = {key for key in inputs}
    alive = sum(sizes[key] for key in kept)
    excess = alive - kept_bytes  # parameters and batches, which are counted elsewhere
    highest, born = alive, set(inputs)
    for number, node in enumerate(nodes):
        if node.op == "placeholder" or not torch.is_tensor(node.meta.get("val")):
            continue
        if storage(node) not in born:
            born.add(storage(node))
            alive += sizes[storage(node)]
        highest = max(highest, alive)
        alive -= sum(sizes[key] for key, at in last_use.items() if at == number and key in born)
    return highest - excess


def large(depth: int, layers: int | None = None, **features) -> GPT:
    """A model of a depth's width, or only some of its layers, without memory."""
    made = dial.make(depth)
    config = GPTConfig(n_layer=layers or depth, n_head=made.n_head, n_kv_head=made.n_head, n_embd=made.n_embd,
                       **features)
    with torch.device("meta"):
        model = GPT(config, torch.bfloat16)
    return model.to("meta")  # the tables of RoPE are made on the CPU


@contextmanager
def opaque_attention() -> Iterator[None]:
    before = gpt.attend
    gpt.attend = lambda q, k, v, mask: fused(q, k, v)[0]
    try:
        yield
    finally:
        gpt.attend = before


def trace(model: GPT, rows: int) -> Traced:
    graphs: list[torch.fx.GraphModule] = []

    def keep(module, inputs):
        graphs.append(module)
        return module

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, decompositions=select_decomp_table(),
                           partition_fn=min_cut_rematerialization_partition)
    ids = torch.zeros(rows, model.config.sequence_len, dtype=torch.int64, device="meta")
    torch._dynamo.reset()
    with opaque_attention(), losses.compiler_settings(ids.device):
        torch.compile(lambda: model.loss(ids, ids, "sum"), backend=backend, dynamic=False, fullgraph=True)()
    torch._dynamo.reset()
    forward, backward = graphs
    return Traced(forward, backward, model)


class NotRun(Exception):
    """Generated code was about to be run."""


class Unrunnable:
    __file__ = "generated"

    def call(self, inputs):
        raise NotRun


def generated(model_of: Callable[[], GPT], rows: int) -> list[str]:
    """The source that Inductor generates for the forward and the backward pass of a loss, without compiling it: for a
    CPU, because the generator for GPUs wants one, but through what the model does on a GPU."""
    sources: list[str] = []

    def keep(graph: GraphLowering) -> Unrunnable:
        sources.append(graph.codegen()[0].value)
        return Unrunnable()

    with ExitStack() as stack:
        stack.enter_context(patch.object(gpt, "use_fused_ops", lambda device: True))
        stack.enter_context(patch.object(GraphLowering, "compile_to_module", keep))
        stack.enter_context(opaque_attention())
        stack.enter_context(losses.compiler_settings(torch.device("cuda")))
        stack.enter_context(inductor_config.patch(fx_graph_cache=False))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        model = model_of()
        ids = torch.zeros(rows, model.config.sequence_len, dtype=torch.int64)
        torch._dynamo.reset()
        with suppress(NotRun):
            torch.compile(lambda: model.loss(ids, ids, "sum"), dynamic=False, fullgraph=True)()
        torch._dynamo.reset()
    return sources
