"""--compile: each graph is compiled once in a run, and gives what the plain network gives.

What counts here is traced as for a GPU, but run as it is ("eager") or by a backend that treats
memory as CUDA graphs do, which needs no GPU either. How fast it is only a GPU tells.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.main_cases import (
    assert_same_run,
    copy_after_each_epoch,
    run_imp,
    run_transfer,
    skip_pictures,
    write_images,
)
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.optim import SGD

import pruning_utils
from attack_utils import PGDConfig, make_pgd
from engine.steps import Execution, training_step
from errors import RunFailed
from models import build_model, compile_passes, compiled, fold_for_evaluation, resnet20s
from pruning_utils import convolutions, pruning_model

ATTACK = PGDConfig(8 / 255, 2, 4 / 255)
# States 0 (dense), 1 and 2; steps of 16, 16 and 4 images in passes of 8, 8, 8, 8 and 4. (From 16
# images on the CPU convolves otherwise in float32; it does not in bf16: steps of 30 and 6 images.)
SEARCH = ["--pretrain_epochs", "2", "--epochs", "4", "--prune_epoch", "2", "--lr", "0.01"]
SEARCH += ["--train_step", "2"]
FP32 = ["-b", "16", "--micro_batch", "8"]
BF16 = ["--amp", "bf16", "-b", "30"]
# 12 images by 11: the last pass of an evaluation has a single one.
TRANSFER = ["--epochs", "2", "--eval_batch_size", "11", "--train_step", "2"]
TRANSFER += ["--test_step", "2", "--eval_from", "0", "--restarts", "2"]


class Counter:
    """A backend that runs a graph as it is, and counts how many it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _nothing_compiled(monkeypatch):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def counter(monkeypatch):
    made = Counter()
    monkeypatch.setattr(compiled, "BACKEND", made)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("source") / "data")


@pytest.fixture
def _short_runs(monkeypatch):
    """No pictures, and a network of 8 layers: how many graphs there are does not depend on it."""
    skip_pictures(monkeypatch)
    monkeypatch.setattr(resnet20s, "BLOCKS_PER_STAGE", 1)


# --- counting -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "flags", "graphs"),
    [("std", FP32, 2), ("adv", BF16, 3)],
    ids=["std-fp32", "adv-bf16"],
)
@pytest.mark.usefixtures("_short_runs")
def test_a_ticket_search_compiles_each_graph_once(data, tmp_path, counter, mode, graphs, flags):
    """Training pass, evaluation, attack: over epochs, states, the prunes between, a last batch."""
    run_imp(data, tmp_path / "run", *SEARCH, "--mode", mode, *flags, "--compile")
    assert counter.graphs == graphs
    assert not torch._dynamo.utils.counters["graph_break"]
    run_imp(data, tmp_path / "plain", *SEARCH, "--mode", mode, *flags)
    assert_same_run(tmp_path / "run", tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.usefixtures("_short_runs")
def test_a_transfer_compiles_each_graph_once(data, tmp_path, counter):
    """The four, over epochs, the tests of all networks kept, and images that survive an attack."""
    search = [*SEARCH, "--mode", "std", *FP32]
    run_imp(data, tmp_path / "imp", *search)
    ticket = ["--tickets_file", str(tmp_path / "imp" / "1-ticket.safetensors")]
    run_transfer(data, tmp_path / "run", *TRANSFER, *ticket, *BF16, "--compile")
    assert counter.graphs == 4
    assert not torch._dynamo.utils.counters["graph_break"]
    run_transfer(data, tmp_path / "plain", *TRANSFER, *ticket, *BF16)
    assert_same_run(tmp_path / "run", tmp_path / "plain")


@pytest.mark.usefixtures("_short_runs")
def test_a_run_may_be_resumed_with_and_without_compile(data, tmp_path, counter):
    flags = [*SEARCH, *FP32, "--mode", "std"]
    with pytest.MonkeyPatch.context() as patch:
        copy_after_each_epoch(patch, tmp_path / "copies")
        run_imp(data, tmp_path / "run", *flags)
    run_imp(data, tmp_path / "copies" / "3", *flags, "--compile", "--resume")
    assert counter.graphs == 2
    assert_same_run(tmp_path / "run", tmp_path / "copies" / "3")


def test_copies_of_a_compiled_network_are_plain():
    model = compile_passes(build_model("resnet20s", 3, (0.5,) * 3, (0.5,) * 3, width=4))
    assert compiled.compiled_passes(model)
    assert compiled.compiled_passes(fold_for_evaluation(model)) is None
    assert list(model.state_dict()) == list(fold_keys(model))


def fold_keys(model: nn.Module) -> dict[str, Tensor]:
    return build_model("resnet20s", 3, (0.5,) * 3, (0.5,) * 3, width=4).state_dict()


def test_a_backend_that_fails_is_told_in_a_line(monkeypatch):
    def broken(_graph, _inputs):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    model = compile_passes(small_network())
    with pytest.raises(RunFailed, match=r"--compile: .*no compiler here; leave the flag out$"):
        model(torch.rand(2, 3, 8, 8))


# --- CUDA graphs ----------------------------------------------------------------------------------


class LikeCudaGraphs:
    """A backend that treats memory as CUDA graphs do: PyTorch's documentation of its trees.

    A graph reads weights and buffers where they lay when it was first run, and what it gives lasts
    until the next pass begins: then all results of before are overwritten, here by NaN.
    """

    def __init__(self) -> None:
        # Of memory, not tensors: a gradient that something else holds would be copied.
        self.results: list[tuple[torch.dtype, torch.UntypedStorage]] = []
        self.passes = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return aot_autograd(fw_compiler=self.forward, bw_compiler=self.backward)(graph, inputs)

    def forward(self, graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        metadata = torch._guards.TracingContext.get().fw_metadata
        assert metadata is not None
        static = metadata.static_input_indices
        assert static  # the weights are among them
        places: list[list[int]] = []

        def run(*given: Any) -> Any:
            self.passes += 1
            self.overwrite()
            places.append([given[index].data_ptr() for index in static])
            assert places[-1] == places[0], "a weight has moved: the graph would be recorded anew"
            return self.kept(graph(*given), given)

        return make_boxed(run)

    def backward(self, graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        return make_boxed(lambda *given: self.kept(graph(*given), given))

    def kept(self, results: Any, given: Any) -> Any:
        own = {value.data_ptr() for value in given if isinstance(value, Tensor)}
        made = [value for value in results if isinstance(value, Tensor)]
        self.results += [
            (value.dtype, value.untyped_storage())
            for value in made
            if value.is_floating_point() and value.data_ptr() not in own
        ]
        return results

    def overwrite(self) -> None:
        for dtype, memory in self.results:
            torch.empty(0, dtype=dtype).set_(memory).fill_(torch.nan)
        self.results.clear()


def make_boxed(run: Callable[..., Any]) -> Callable[..., Any]:
    from functorch.compile import make_boxed_func

    return make_boxed_func(run)


def small_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def trained(execution: Execution) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Steps before and after a prune, the last of them smaller: losses, logits, what is left."""
    model = execution.place(small_network()).train()
    if execution.compiled:
        compile_passes(model)  # as for CUDA graphs, but for the mode, which needs CUDA
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    perturb, found = make_pgd(model, ATTACK), []
    generator = torch.Generator().manual_seed(4)
    for step, count in enumerate((12, 12, 6, 12, 5)):
        if step == 3:
            pruning_model(model, 0.4)
        images = torch.rand(count, 3, 8, 8, generator=generator)
        labels = torch.randint(0, 3, (count,), generator=generator)
        torch.manual_seed(step)
        images = execution.images(images)
        found += training_step(model, images, labels, optimizer, execution, perturb)
    return found, model.state_dict()


@pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_nothing_is_read_that_a_cuda_graph_has_overwritten(monkeypatch, micro_batch, amp):
    backend = LikeCudaGraphs()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    plain = Execution(amp=amp, micro_batch=micro_batch)
    graphs = Execution(amp=amp, micro_batch=micro_batch, compiled=True, cuda_graphs=True)
    found, left = trained(graphs)
    backend.overwrite()
    expected, expected_left = trained(plain)
    assert backend.passes >= 5 * 3
    tolerance = {"rtol": 0.05, "atol": 0.02} if amp else {"rtol": 1e-4, "atol": 1e-5}
    for one, other in zip([*found, *left.values()], [*expected, *expected_left.values()],
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, **tolerance)


def test_the_weights_of_a_compiled_network_stay_where_they_are():
    execution = Execution(compiled=True)
    model = compile_passes(small_network())
    places = []
    for rate in (0.0, 0.3, 0.3):
        if rate:
            pruning_utils.pruning_model(model, rate)
        with execution.passes(model):
            weights = {name: module.weight for name, module in convolutions(model)}
            places.append([weight.data_ptr() for weight in weights.values()])
            for name, module in convolutions(model):
                assert torch.equal(weights[name], pruning_utils.effective_weight(module))
                assert not isinstance(weights[name], nn.Parameter)
    assert places[0] == places[1] == places[2]


# --- the compiler itself --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch's compiler needs g++ on the CPU")
def test_what_is_really_compiled_gives_the_same_step_to_rounding():
    execution = Execution(compiled=True)
    found, left = trained(execution)
    expected, expected_left = trained(Execution())
    for one, other in zip([*found, *left.values()], [*expected, *expected_left.values()],
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
