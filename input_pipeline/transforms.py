"""Image transforms on uint8 tensors, and the random draws behind augmentation.

Everything random about an image comes from `uniforms`, a function of (seed, epoch, position in the
epoch) alone, so neither the number of workers nor a resumed epoch changes a bit of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

# Uniform numbers per image: ten tries of (area, ratio), then top, left, flip and one to spare.
# A multiple of four, the numbers that one step of Philox's counter gives.
DRAWS = 24
_TRIES = 10
_TOP, _LEFT, _FLIP = 20, 21, 22
RATIO = (3 / 4, 4 / 3)

# The most that a split's images may take, decoded or framed, to be kept so for all epochs.
KEPT_BYTES = 512 * 2**20


def uniforms(seed: int, epoch: int, first: int, count: int) -> np.ndarray:
    """Return the (count, DRAWS) float64 numbers in [0, 1) of positions first, first + 1, …

    numpy's Philox counter generator under the key (seed, epoch): the numbers of a position do not
    depend on which block of positions they are drawn in.
    """
    mask = 2**64 - 1
    generator = np.random.Philox(key=np.array([seed & mask, epoch & mask], dtype=np.uint64))
    raw = generator.advance(DRAWS // 4 * first).random_raw(count * DRAWS)
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(count, DRAWS)


def random_resized_box(
    draws: Sequence[float],
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
) -> tuple[int, int, int, int]:
    """Return a crop box (top, left, height, width) made of the DRAWS numbers of one image.

    The distribution is that of torchvision's RandomResizedCrop: ten tries of an area uniform in
    `scale` and a ratio log-uniform in RATIO, the first that fits; then a central crop.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for place in range(0, 2 * _TRIES, 2):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[place])
        aspect = math.exp(low + (high - low) * draws[place + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = draws[_TOP] * (height - h + 1), draws[_LEFT] * (width - w + 1)
            return int(top), int(left), h, w
    return _central_box(height, width)


def _central_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest central box whose aspect ratio lies in RATIO."""
    h, w = height, width
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize one uint8 image (3, H, W), bilinear with antialias, mostly within one level of PIL.

    The kernel is fast for images whose memory is (H, W, 3): what the decoders give.
    """
    if image.shape[1:] == (height, width):
        return image
    # Deviation: the released code resizes with PIL; this differs by one level in few pixels.
    pixels = image[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)[0]


def resize_shorter(image: Tensor, size: int) -> Tensor:
    """Resize so that the shorter side has `size` pixels, the longer rounded down."""
    height, width = image.shape[1:]
    if height <= width:
        return resize(image, size, int(size * width / height))
    return resize(image, int(size * height / width), size)


def center_crop(image: Tensor, size: int) -> Tensor:
    """Cut the central size × size pixels out of an image that is at least that large."""
    top, left = (round((side - size) / 2) for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def random_crop(images: Tensor, draws: np.ndarray, pad: int) -> Tensor:
    """Shift each image (n, 3, S, S) by up to `pad` pixels, zeros coming in: one gather for all."""
    n, channels, height, width = images.shape
    padded = np.zeros((n, channels, height + 2 * pad, width + 2 * pad), dtype=np.uint8)
    padded[:, :, pad : pad + height, pad : pad + width] = images.numpy()
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    top = (draws[:, _TOP] * (2 * pad + 1)).astype(np.int64)
    left = (draws[:, _LEFT] * (2 * pad + 1)).astype(np.int64)
    return torch.from_numpy(windows[np.arange(n), :, top, left])


@dataclass(frozen=True)
class Transform:
    """How images become (size, size) inputs; `framing` is one of

    - random: a random resized crop of area `scale` (its own framing for every epoch),
    - center: the shorter side to `resize` pixels, then the central square,
    - stretch: both sides to `size`, whatever the aspect ratio.

    After that a random crop with `pad` zero pixels around (0: none) and a flip with probability
    0.5 (`hflip`).
    """

    size: int
    framing: Literal["random", "center", "stretch"] = "center"
    resize: int = 0
    pad: int = 0
    hflip: bool = False
    scale: tuple[float, float] = (0.08, 1.0)

    @property
    def random(self) -> bool:
        return self.framing == "random" or self.pad > 0 or self.hflip

    def whole(self, images: Tensor) -> bool:
        """Whether images (N, 3, H, W) are the inputs already, but for the random crop and flip."""
        native = self.framing != "random" and self.resize in (0, self.size)
        return native and images.shape[2:] == (self.size, self.size)

    def prepare(self, images: Tensor) -> Tensor:
        """Bring a whole set (N, 3, H, W) into the memory form in which batches of it are fast.

        It is framed once for all where every epoch frames it alike and the result is small enough.
        """
        alike = self.framing == "center" and self.resize == self.size and not self.whole(images)
        if alike and len(images) * 3 * self.size**2 <= KEPT_BYTES:
            images = self._framed(images, len(images))
        if self.whole(images):
            return images.contiguous()
        return images.contiguous(memory_format=torch.channels_last)

    def __call__(self, images: Tensor | Iterable[Tensor], draws: np.ndarray, count: int) -> Tensor:
        """Transform `count` uint8 images (3, H, W) to one batch (count, 3, size, size).

        draws: the (count, DRAWS) numbers of their positions, unused where nothing is random.
        """
        if self.framing == "random":
            batch = self._random_framed(images, draws, count)
        elif isinstance(images, Tensor) and self.whole(images):
            batch = images.clone(memory_format=torch.contiguous_format)
        else:
            batch = self._framed(images, count)
        if self.pad:
            batch = random_crop(batch, draws, self.pad)
        if self.hflip:
            rows = np.flatnonzero(draws[:, _FLIP] < 0.5)
            pixels = batch.numpy()  # its row copies are many times faster than a tensor's
            pixels[rows] = torch.from_numpy(pixels[rows]).flip(3).numpy()
        return batch

    def _empty(self, count: int) -> np.ndarray:
        """Return (count, 3, size, size) in the memory order of resized images and convolutions."""
        return np.empty((count, self.size, self.size, 3), dtype=np.uint8).transpose(0, 3, 1, 2)

    def _framed(self, images: Tensor | Iterable[Tensor], count: int) -> Tensor:
        batch = self._empty(count)
        for place, image in enumerate(images):
            if self.framing == "stretch":
                batch[place] = resize(image, self.size, self.size).numpy()
            else:
                batch[place] = center_crop(resize_shorter(image, self.resize), self.size).numpy()
        return torch.from_numpy(batch)

    def _random_framed(
        self, images: Tensor | Iterable[Tensor], draws: np.ndarray, count: int
    ) -> Tensor:
        batch = self._empty(count)
        for place, (image, row) in enumerate(zip(images, draws.tolist(), strict=True)):
            height, width = image.shape[1:]
            top, left, h, w = random_resized_box(row, height, width, self.scale)
            crop = image[:, top : top + h, left : left + w]
            batch[place] = resize(crop, self.size, self.size).numpy()
        return torch.from_numpy(batch)
