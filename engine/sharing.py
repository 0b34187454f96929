"""How the images of a step are shared out: to processes, and within each into passes.

Without PyTorch, for the report, which compares runs by it.
"""

from __future__ import annotations


def share(count: int, parts: int, number: int = 0) -> int:
    """How many of `count` are in the part of that number: the first take the rest, 0 the most."""
    return count // parts + (number < count % parts)


def passes(batch: int, processes: int, micro_batch: int | None) -> int:
    """Into how many nearly equal passes each process cuts its share: none is a single image.

    BatchNorm cannot train on one image where maps are 1x1, so three images by two, say, are one
    pass. Shares may differ by an image; the passes are as many on all processes, which wait for
    each other in each with `--sync_bn`.
    """
    largest, smallest = share(batch, processes), batch // processes
    return max(1, min(-(-largest // (micro_batch or largest)), smallest // 2))


def images_per_pass(batch: int, processes: int, micro_batch: int | None) -> int:
    """How many images go through a network at once, and BatchNorm normalises over in training."""
    return share(share(batch, processes), passes(batch, processes, micro_batch))
