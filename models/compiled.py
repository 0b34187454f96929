"""The passes of a network as compiled graphs, each of which is compiled once in a run.

A run has four graphs: an attack's pass and the training pass of the network in training, a pass on
clean images and an attack's pass of the network in evaluation.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from errors import RunFailed, first_line

BACKEND = "inductor"  # what compiles; tests that only count take a quicker one


class CompiledPasses:
    """What `network(images)` calls; a network's copies are plain again.

    Nothing that changes in a run compiles a graph anew: not the number of images of a batch, masks
    that come or grow, rewound weights, or another copy of the network for evaluation. (On the CPU
    in float32 PyTorch has two ways to convolve, for 16 images or more and for fewer: two graphs.)

    layout: of the images, whatever it is where they come from; another one is another graph.
    cuda_graphs: replay the kernels of a pass as one recorded CUDA graph. Then a result (logits, a
    gradient) lies where the next run of the graph writes its own: copy what must outlive it.
    """

    def __init__(self, network: nn.Module, layout: torch.memory_format, cuda_graphs: bool) -> None:
        self.network, self.layout = network, layout
        mode = "reduce-overhead" if cuda_graphs else None
        self.run = torch.compile(_forward, backend=BACKEND, mode=mode)
        self.weights: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()

    def __call__(self, images: Tensor) -> Tensor:
        if len(images) == 1 and not self.network.training:
            # A graph for any number of images is one for two or more.
            return self(torch.cat([images, images]))[:1]
        images = images.contiguous(memory_format=self.layout)
        torch._dynamo.maybe_mark_dynamic(images, 0)
        try:
            return self.run(self.network, images)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            raise RunFailed(
                f"--compile: {type(cause).__name__}: {first_line(cause)}; leave the flag out"
            ) from error

    def settle(self, layer: nn.Module, weight: Tensor) -> Tensor:
        """The weight as a tensor that lies where the layer's weight lay before.

        A recorded CUDA graph reads it there; and masked or not, a compiled graph gets a tensor that
        is no parameter. Gradients go on to `weight`.
        """
        place = self.weights.get(layer)
        if place is None or place.dtype != weight.dtype:
            place = self.weights[layer] = torch.empty_like(weight, requires_grad=False)
        return place.detach().copy_(weight)


def compile_passes(
    network: nn.Module,
    layout: torch.memory_format = torch.channels_last,
    cuda_graphs: bool = False,
) -> nn.Module:
    """Have `network(images)` run compiled; its weights, modules and state dict stay as they are."""
    # The attribute is nn.Module.compile()'s own: copies and pickles leave it out.
    network._compiled_call_impl = CompiledPasses(network, layout, cuda_graphs)
    return network


def compiled_passes(network: nn.Module) -> CompiledPasses | None:
    """What `compile_passes` gave a network; None where it runs as it is."""
    found: Any = getattr(network, "_compiled_call_impl", None)
    return found if isinstance(found, CompiledPasses) else None


def _forward(network: nn.Module, images: Tensor) -> Tensor:
    return network.forward(images)
