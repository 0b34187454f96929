"""The arithmetic of a network: what cost estimates and reports are made from."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from errors import InputError, first_line


def estimate_flops(
    model: nn.Module,
    input_size: int | tuple[int, int],
    masks: Mapping[str, Tensor] | None = None,
) -> int:
    """FLOPs of one forward pass of one (3, H, W) image: 2 per multiply-add, conv and linear layers.

    With `masks` ({'conv1.weight_mask': bool tensor}) only the weights they keep are counted: what
    sparse arithmetic would do, not what a dense kernel does. Bias additions, BatchNorm and ReLU are
    not counted. The model is run once on a black image, in evaluation mode; it is left as it was.
    Raises InputError where it cannot take images of that size.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    total = 0

    def count(name: str, layer: nn.Conv2d | nn.Linear):
        mask = None if masks is None else masks.get(f"{name}.weight_mask")
        weights = layer.weight.numel() if mask is None else int(torch.count_nonzero(mask))

        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            nonlocal total
            # Every weight is used once at every position of the output: of a map, or of tokens.
            total += 2 * weights * (output[0].numel() // layer.weight.shape[0])

        return hook

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count(name, layer)) for name, layer in layers]
    try:
        _see_black(model, height, width)
    finally:
        for handle in handles:
            handle.remove()
    return total


def check_input_size(model: nn.Module, input_size: int) -> None:
    """Raise InputError where a network cannot take images of that size: too small, mostly."""
    _see_black(model, input_size, input_size)


def _see_black(model: nn.Module, height: int, width: int) -> None:
    """Run a network on one black image, in evaluation mode; it is left as it was."""
    training = [module for module in model.modules() if module.training]
    parameter = next(model.parameters())
    try:
        with torch.no_grad():
            model.eval()(parameter.new_zeros(1, 3, height, width))
    except RuntimeError as error:
        arch = getattr(model, "arch", type(model).__name__)
        raise InputError(
            f"-a {arch}: takes no images of {height}x{width} pixels; another --input_size "
            f"({first_line(error)})"
        ) from error
    finally:
        for module in training:
            module.training = True


def estimate_activations(model: nn.Module, input_size: int) -> int:
    """Bytes that a training pass keeps per (3, S, S) image for its backward pass, in float32.

    Measured on a copy of the model, with two black images: what autograd saves, but for weights.
    """
    model = copy.deepcopy(model).train()
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.zeros(2, 3, input_size, input_size))
    total = sum(saved.values()) // 2
    del output  # until here it kept the saved tensors, and with them their addresses, apart
    return total
