"""Batches of a split, in an order and with an augmentation that depend on nothing but the seed.

Batches are uint8 (B, 3, S, S); the division by 255 happens later, on the device. Array sets
(CIFAR, SVHN, digits) live in memory as one tensor; image folders are decoded as they are needed, or
once, at the first epoch, if they hold small images of one size.
"""

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from errors import InputError
from input_pipeline.decoding import read_image
from input_pipeline.names import compare_classes, doubtful_order
from input_pipeline.splits import (
    Split,
    bytes_fingerprint,
    fingerprint,
    sampled_fingerprint,
    short_fingerprint,
)
from input_pipeline.transforms import DRAWS, KEPT_BYTES, Transform, uniforms
from input_pipeline.workers import loaded, useful_workers

# A folder of equal images up to this side is decoded once and kept, if they are KEPT_BYTES or less.
KEPT_SIDE = 64


class Plan(NamedTuple):
    """One rank's share of a batch: which images, and their place in the epoch."""

    epoch: int
    first: int
    indices: np.ndarray


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    skipped: list[str]


class _Batches(Dataset):
    """Makes the batch of a plan; holds no state, so that any process can make any batch."""

    def __init__(self, split: Split, transform: Transform, seed: int, train: bool, skip_bad: bool):
        self.split, self.transform, self.seed = split, transform, seed
        self.train, self.skip_bad = train, skip_bad

    def __getitem__(self, plan: Plan) -> Batch | InputError:
        # An error travels as a value: a DataLoader would wrap a traceback of the worker around it.
        try:
            return self._make(plan)
        except InputError as error:
            return error

    def _make(self, plan: Plan) -> Batch:
        indices, skipped = plan.indices, list[str]()
        stored = self.split.images
        images: Tensor | Iterator[Tensor]
        if isinstance(stored, Tensor) and self.transform.whole(stored):
            images = torch.from_numpy(stored.numpy()[indices])  # faster than a tensor's indexing
        elif isinstance(stored, Tensor):
            images = (stored[index] for index in indices.tolist())
        elif self.skip_bad:
            readable, indices, skipped = self._read_good(indices)
            images = iter(readable)
        else:
            images = (self._read(index) for index in indices)
        draws = np.empty((len(indices), DRAWS))
        if self.transform.random:
            draws = uniforms(self.seed, plan.epoch, plan.first, len(indices))
        batch = self.transform(images, draws, len(indices))
        return Batch(batch, torch.from_numpy(self.split.labels[indices]), skipped)

    def _read(self, index: int) -> Tensor:
        assert isinstance(self.split.images, np.ndarray)
        return read_image(os.fsdecode(self.split.images[index]))

    def _read_good(self, indices: np.ndarray) -> tuple[list[Tensor], np.ndarray, list[str]]:
        """Read images around broken files: the next good one in training, else nothing."""
        images, used, skipped = [], [], []
        total = len(self.split.labels)
        for wanted in indices.tolist():
            for index in range(wanted, wanted + total if self.train else wanted + 1):
                try:
                    images.append(self._read(index % total))
                    used.append(index % total)
                    break
                except InputError as error:
                    skipped.append(str(error))
        return images, np.array(used, dtype=np.int64), skipped


def check_batch_size(batch_size: int, train: bool) -> None:
    """Raise InputError for fewer than one image a batch, or two to train on (BatchNorm)."""
    if batch_size < (2 if train else 1):
        raise InputError(f"batch size {batch_size}: must be at least {2 if train else 1}")


def training_batches(images: int, batch_size: int, processes: int) -> int:
    """Count the batches of an epoch; a rest of less than two images for each process is left out.

    Deviation: the released code trains on whatever is left, even a single image per process.
    """
    full, rest = divmod(images, batch_size)
    return full + (rest >= 2 * processes)


def _one_of_each_part(labels: np.ndarray, parts: int) -> np.ndarray:
    """Return an image of each of so many equal parts, of the class with which the part begins.

    Which one is drawn, always alike: equal steps may be those of the file names, which tell views
    of a thing or frames of a film. labels (N,): sorted by class.
    """
    edges = np.arange(parts + 1) * len(labels) // parts
    first, after = edges[:-1], edges[1:]
    ends = np.append(np.flatnonzero(np.diff(labels)) + 1, len(labels))  # of the classes
    after = np.minimum(after, ends[np.searchsorted(ends, first, side="right")])
    return first + (uniforms(0, 0, 0, parts)[:, 0] * (after - first)).astype(np.int64)


class Loader:
    """Batches of one split, in an order and with an augmentation fixed by (seed, epoch).

    classes: names in the order of the labels. notes: one line for each thing about the whole data
    set that may surprise; every loader of the set has the same. skipped: the broken files met.
    len(loader) is the number of global batches of an epoch. Training shuffles; evaluation keeps the
    order of the set. A trailing training batch with less than two images for each process is left
    out: BatchNorm cannot train on a single one.
    workers: loader processes; None: as many as help, where the run has `processes` on this machine,
    of `threads` each. tell: is given a line for each broken file; else a Python warning says so.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        classes: Sequence[str],
        *,
        batch_size: int,
        workers: int | None = 0,
        processes: int = 1,
        threads: int | None = None,
        seed: int = 0,
        train: bool = False,
        skip_bad: bool = False,
        pin_memory: bool = False,
        notes: Sequence[str] = (),
        tell: Callable[[str], None] = warnings.warn,
    ):
        check_batch_size(batch_size, train)
        self.classes, self.num_classes = tuple(classes), len(classes)
        self.notes, self.tell = tuple(notes), tell
        self.num_images = len(split.labels)
        self.batch_size, self.pin_memory = batch_size, pin_memory
        self.workers, self.processes, self.threads = workers, processes, threads
        if train and self.num_images < 2:
            raise InputError(f"{self.num_images} training image: at least 2 are needed")
        # Losses and attacks take no other; a reader may give bytes, or -1 for an image without one.
        split = split._replace(labels=split.labels.astype(np.int64, copy=False))
        lowest, highest = (split.labels.min(), split.labels.max()) if self.num_images else (0, 0)
        if lowest < 0 or highest >= self.num_classes:
            raise InputError(
                f"labels from {lowest} to {highest}: of {self.num_classes} classes they are 0 to "
                f"{self.num_classes - 1}"
            )
        self._source = split if not train or isinstance(split.images, np.ndarray) else None
        if isinstance(split.images, Tensor):
            split = split._replace(images=transform.prepare(split.images))
        self._batches = _Batches(split, transform, seed, train, skip_bad)
        self._content = short_fingerprint(split, classes) if train else ""
        self._sizes_known = False  # before the first epoch
        self.skipped: set[str] = set()

    def __len__(self) -> int:
        return self.num_batches()

    def described(self) -> str:
        """What is in a training split: counts, and a fingerprint that does not depend on paths."""
        return f"{self.num_images} images of {self.num_classes} classes ({self._content})"

    def sampled(self) -> str:
        """A short fingerprint of any split: names and sizes of its files, or some of its pixels."""
        if self._source is None:
            return self._content
        return sampled_fingerprint(self._source, self.classes)

    def sampled_bytes(self) -> str:
        """The same by the first bytes of some of its files, not by their sizes."""
        if self._source is None:
            return self._content
        return bytes_fingerprint(self._source, self.classes)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the split's classes, labels and images, in their order.

        Image files are read whole. Training images that lie in memory are not kept as they came:
        `described` is for these.
        """
        assert self._source is not None
        return fingerprint(self._source, self.classes)

    def compare_classes(self, theirs: Sequence[str], holder: str, offer: str) -> str | None:
        """Say in what the classes of a file differ from these, if at all; `names` has the rules."""
        return compare_classes(theirs, self.classes, holder, offer)

    def doubtful_order(self) -> str | None:
        """Say why another program may number these classes otherwise; None if that is unlikely."""
        return doubtful_order(self.classes)

    def some(self, images: int | None) -> "Loader":
        """A loader of so many of an evaluation split's images, in its order; of all, if None.

        They are the first, or, where the split is sorted by class, one of each of `images` equal
        parts, so that a class keeps its share. A rare one may be left out: `labels_held` tells.
        """
        assert not self._batches.train
        if images is None or images >= self.num_images:
            return self
        split, found = self._batches.split, copy.copy(self)
        chosen = np.arange(images)
        if np.count_nonzero(np.diff(split.labels)) < len(np.unique(split.labels)):
            chosen = _one_of_each_part(split.labels, images)
        found._batches = copy.copy(self._batches)
        found._batches.split = split.take(chosen)
        found._source = self._source and self._source.take(chosen)
        found.num_images, found.skipped = images, set()
        return found

    @property
    def labels_held(self) -> frozenset[int]:
        """The classes, by number, of which there is an image."""
        return frozenset(np.unique(self._batches.split.labels).tolist())

    def num_batches(self, world: int = 1) -> int:
        """Count the global batches of an epoch that `world` processes share."""
        if self._batches.train:
            return training_batches(self.num_images, self.batch_size, world)
        return -(-self.num_images // self.batch_size)

    def images_in_batch(self, step: int) -> int:
        """Count the images of global batch `step`, over all processes."""
        return min(self.batch_size, self.num_images - step * self.batch_size)

    def epoch(
        self,
        epoch: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        *,
        keep_empty: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 (B, 3, S, S), labels int64 (B,)) from global batch start_step on.

        Training: `rank` gets its contiguous share of every batch. Evaluation: it gets the batches
        rank, rank + world, …; the epoch makes no difference. (Images saved as floats stay floats.)
        keep_empty: yield a batch even if none of its images can be read (skip_bad).
        """
        self._keep_small_images()
        plans = self._plans(epoch, start_step, rank, world)
        for batch in self._run(plans):
            if isinstance(batch, InputError):
                raise batch
            for message in batch.skipped:
                if message not in self.skipped:
                    self.skipped.add(message)
                    self.tell(f"skipped {message}")
            if len(self.skipped) == self.num_images and batch.skipped:
                raise InputError(f"no image can be read; the last: {batch.skipped[-1]}")
            if keep_empty or len(batch.labels):
                yield batch.images, batch.labels

    def _run(self, plans: list[Plan]) -> Iterator[Batch | InputError]:
        workers = self.workers
        if workers is None:
            stored, transform = self._batches.split.images, self._batches.transform
            ready = isinstance(stored, Tensor) and transform.whole(stored)
            workers = useful_workers(ready, self.processes, self.threads)
        if workers == 0 or len(plans) < 2:
            for plan in plans:
                batch = self._batches[plan]
                if self.pin_memory and isinstance(batch, Batch):
                    batch = Batch(
                        batch.images.pin_memory(), batch.labels.pin_memory(), batch.skipped
                    )
                yield batch
            return
        yield from loaded(self._batches, plans, min(workers, len(plans)), self.pin_memory)

    def _plans(self, epoch: int, start_step: int, rank: int, world: int) -> list[Plan]:
        steps = range(start_step, self.num_batches(world))
        bounds = [
            (s * self.batch_size, min((s + 1) * self.batch_size, self.num_images)) for s in steps
        ]
        if not self._batches.train:
            own = [pair for s, pair in zip(steps, bounds, strict=True) if s % world == rank]
            return [Plan(0, first, np.arange(first, last)) for first, last in own]
        words = np.random.SeedSequence([self._batches.seed % 2**64, epoch]).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))
        order = torch.randperm(self.num_images, generator=generator).numpy()
        plans = []
        for first, last in bounds:
            share = np.array_split(np.arange(first, last), world)[rank]
            plans.append(Plan(epoch, int(share[0]), order[share]))
        return plans

    def _keep_small_images(self) -> None:
        """Decode a set of small equal image files once, in the process that forks the workers."""
        split, batches = self._batches.split, self._batches
        if self._sizes_known or isinstance(split.images, Tensor):
            return
        self._sizes_known = True
        try:
            shape = batches._read(0).shape
            if max(shape) > KEPT_SIDE or shape.numel() * self.num_images > KEPT_BYTES:
                return
            kept = np.empty((self.num_images, *shape), dtype=np.uint8)
            for index in range(self.num_images):
                image = batches._read(index)
                if image.shape != shape:
                    return
                kept[index] = image.numpy()
        except InputError:  # told, or skipped, when its batch is made
            return
        images = batches.transform.prepare(torch.from_numpy(kept))
        batches.split = split._replace(images=images)
