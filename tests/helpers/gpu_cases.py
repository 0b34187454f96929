"""What tests on a GPU share: steps over a prune, a run that ends in mid-epoch, two processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import main_imp_pretrain
from attack_utils import PGDConfig, make_pgd
from cli.flags import build_imp_parser
from cli.recipes import apply_recipe
from engine import training
from engine.distributed import Runtime
from engine.steps import Execution, make_sgd, training_step
from helpers.main_cases import HERE, TINY, skip_pictures
from models import ARCHS, compile_passes
from pruning_utils import pruning_model


class Ended(Exception):
    """Stands for whatever ends a process."""


def end_after_steps(patch: pytest.MonkeyPatch, steps: int) -> None:
    """End a run right after its checkpoint of that step."""
    after_step = training.Training._after_step

    def ending(self: training.Training, done: int) -> None:
        after_step(self, done)
        if done == steps:
            raise Ended

    patch.setattr(training.Training, "_after_step", ending)


def losses_over_a_prune(execution: Execution, network: Callable[..., nn.Module]) -> list[float]:
    """The losses of eight adversarial steps, a prune after the fourth, the last ones smaller."""
    model = network(pruned=False, device=execution.device, layout=execution.channels_last)
    if execution.compiled:
        compile_passes(model, execution.layout, execution.cuda_graphs)
    perturb = make_pgd(model, PGDConfig(4 / 255, 2, 2 / 255, random_start=False))
    optimizer = make_sgd(model, 0.01, 0.9, 5e-4, execution)
    generator, losses = torch.Generator().manual_seed(2), []
    for step, count in enumerate((20, 20, 20, 20, 20, 20, 20, 9)):
        if step == 4:
            pruning_model(model, 0.3)
        images = torch.rand(count, 3, 32, 32, generator=generator)
        labels = torch.randint(0, 10, (count,), generator=generator).to(execution.device)
        images = execution.images(images)
        loss, _ = training_step(model, images, labels, optimizer, execution, perturb)
        losses.append(float(loss))
    return losses


def one_of_two(rank: int, device: str, port: int, argv: Sequence[str]) -> None:
    """Be one of two processes of a ticket search on one device, which the mains do not offer."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    args: Any = build_imp_parser(ARCHS).parse_args([*argv[:1], *TINY, *HERE, *argv[1:]])
    apply_recipe(args, "imp")
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        main_imp_pretrain.work(Runtime(place, rank, 2), args)
    dist.destroy_process_group()
