"""The two stems; the 7x7 stride-2 convolution of ImageNet's has a fast gradient to the images."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


class ImageNetStem(nn.Conv2d):
    """`nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)`, the same to rounding.

    On the CPU the gradient to the images takes oneDNN four times as long as the forward pass, and
    an attack needs it in every step. Images in channels_last get it as `_FastInputGradient`
    computes it; others have the bits of PyTorch's own.
    """

    def __init__(self, width: int, device: str | None = None) -> None:
        super().__init__(3, width, 7, stride=2, padding=3, bias=False, device=device)

    def forward(self, images: Tensor) -> Tensor:
        wanted = images.requires_grad and torch.is_grad_enabled()
        fast = images.device.type == "cpu" and not torch.compiler.is_compiling()
        if not (wanted and fast and images.is_contiguous(memory_format=torch.channels_last)):
            return super().forward(images)
        if torch.is_autocast_enabled("cpu"):
            images = images.to(torch.get_autocast_dtype("cpu"))
        output = _FastInputGradient.apply(images, self.weight.to(images.dtype))
        return output if self.bias is None else output + self.bias[:, None, None]


def make_stem(stem: str, width: int) -> tuple[nn.Conv2d, nn.Module]:
    """The first convolution, from 3 to `width` channels, and the pooling after it.

    'cifar': 3x3 without pooling. 'imagenet': torchvision's 7x7 stride-2 one and its max-pool.
    """
    if stem == "cifar":
        return nn.Conv2d(3, width, 3, padding=1, bias=False), nn.Identity()
    return ImageNetStem(width), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


class _FastInputGradient(torch.autograd.Function):
    """The convolution, its gradient to the images in another order of the sums."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return F.conv2d(images, weight, stride=2, padding=3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight = ctx.saved_tensors
        to_images = to_weight = None
        if ctx.needs_input_grad[0]:
            to_images = _input_gradient(gradient, weight, images.shape)
        if ctx.needs_input_grad[1]:
            to_weight = conv2d_weight(images, weight.shape, gradient, stride=2, padding=3)
        return to_images, to_weight


def _input_gradient(gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """Pixels in even and odd rows and columns are four images of half the side each.

    Each of them is a convolution of stride 1 of the gradient (N, O, H/2, W/2), with every other tap
    of the flipped 7x7 kernel: one convolution with a kernel (3 * 2 * 2, O, 4, 4) gives them all.
    """
    outputs, colours = weight.shape[:2]
    taps = F.pad(weight.flip(2, 3), (0, 1, 0, 1)).reshape(outputs, colours, 4, 2, 4, 2)
    kernel = taps.flip(3, 5).permute(1, 3, 5, 0, 2, 4).reshape(4 * colours, outputs, 4, 4)
    phases = F.conv2d(F.pad(gradient, (1, 2, 1, 2)), kernel)
    return F.pixel_shuffle(phases, 2)[:, :, : shape[2], : shape[3]]


def usual_stem(size: int) -> str:
    """The stem for square images of so many pixels a side."""
    return "cifar" if size < 64 else "imagenet"


def usual_size(stem: str | None) -> int:
    """The side in pixels of the images that networks of a stem are usually for."""
    return 32 if stem == "cifar" else 224
