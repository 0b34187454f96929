"""What only a GPU can tell: CUDA against the CPU, and both mains on it from end to end.

Without CUDA these tests are skipped. GPU_TESTS_ON=cpu runs them on the CPU all the same, which
shows no more than that they work; `benchmarks/gpu_trial.sh` runs them on a GPU.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from helpers import gloo_cases, gpu_cases
from helpers.main_cases import (
    assert_same_run,
    copy_after_each_epoch,
    load,
    metrics,
    read_json,
    run_imp,
    run_transfer,
    skip_pictures,
    write_images,
)
from helpers.network_cases import enliven
from torch import Tensor, nn
from torch.amp import GradScaler

from attack_utils import PGDConfig, check_perturbation, make_pgd, with_restarts
from engine.distributed import Runtime, seed_everything
from engine.steps import Execution, Meter, evaluate, make_sgd, training_step
from evaluation.evaluator import Evaluator, OutcomeMeter, gather_in_order
from models import build_model, compile_passes, compiled, fold_for_evaluation
from pruning_utils import masks, pruning_model

ON = os.environ.get("GPU_TESTS_ON", "cuda")
CUDA = ON == "cuda"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before anything runs on CUDA
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="no CUDA here"),
]
DEVICE = torch.device(ON)
CPU = torch.device("cpu")
ATTACK = PGDConfig(8 / 255, 3, 4 / 255)
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SEARCH = ["--device", ON, "--pretrain_epochs", "1", "--epochs", "2", "--prune_epoch", "1"]
SEARCH += ["--lr", "0.01", "--train_step", "2", "-b", "14"]  # below 16, see models.compiled
TRANSFER = ["--device", ON, "--epochs", "2", "-b", "14", "--eval_from", "0", "--lr", "0.01"]
TRANSFER += ["--train_step", "2", "--test_step", "2"]


@pytest.fixture(autouse=True)
def _set_up(monkeypatch):
    torch._dynamo.reset()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    skip_pictures(monkeypatch)
    seed_everything(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("source") / "data")


def network(arch="resnet20s", pruned=True, device=DEVICE, layout=True) -> nn.Module:
    """The same weights on any device."""
    torch.manual_seed(0)
    model = enliven(build_model(arch, 10, (0.5,) * 3, (0.25,) * 3, width=8))
    if pruned:
        pruning_model(model, 0.5)
    return Execution(device, layout).place(model).train()


def batch(count=16, side=32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (count,), generator=generator)


def weights_of(model: nn.Module) -> Tensor:
    """A copy, as one vector."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def distance(one: Tensor, two: Tensor) -> float:
    """Of its norm."""
    one, two = one.detach().double().cpu(), two.detach().double().cpu()
    return float((one - two).norm() / two.norm().clamp_min(1e-12))


def step(execution: Execution, attack: PGDConfig | None = None, arch: str = "resnet20s"):
    """One step from the same weights: its loss, its logits, and the network after it."""
    model = network(arch, device=execution.device, layout=execution.channels_last)
    if execution.compiled:
        compile_passes(model, execution.layout, execution.cuda_graphs)
    perturb = make_pgd(model, attack, execution.loss_scale) if attack else None
    images, labels = batch()
    optimizer, scaler = make_sgd(model, 0.1, 0.9, 5e-4, execution), execution.scaler()
    images, labels = execution.images(images), labels.to(execution.device)
    loss, logits = training_step(
        model, images, labels, optimizer, execution, perturb, scaler=scaler
    )
    return loss, logits, model


# --- against the CPU ------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("arch", ["resnet20s", "resnet18"])
def test_a_step_is_the_cpus_to_rounding(arch, micro_batch):
    loss, logits, model = step(Execution(DEVICE, micro_batch=micro_batch), arch=arch)
    plain_loss, plain_logits, plain = step(Execution(CPU, micro_batch=micro_batch), arch=arch)
    assert distance(loss, plain_loss) < 1e-4
    assert distance(logits, plain_logits) < 1e-3
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.device.type == ON
        assert distance(parameter.grad, gradients[name]) < 1e-2, name
    for name, value in plain.state_dict().items():
        if value.is_floating_point():
            assert distance(model.state_dict()[name], value) < 1e-3, name


def test_an_attacks_images_are_the_cpus_but_for_signs_of_tiny_gradients():
    images, labels = batch()
    found = []
    for device in (DEVICE, CPU):
        execution = Execution(device)
        model = execution.place(fold_for_evaluation(network(device=device)))
        perturb = make_pgd(model, PGDConfig(8 / 255, 3, 4 / 255, random_start=False))
        with execution.passes(model):
            adversarial = perturb(execution.images(images), labels.to(device))
        check_perturbation(adversarial, execution.images(images), 8 / 255)
        found.append(adversarial.cpu())
    assert ((found[0] - found[1]).abs() > 1e-5).double().mean() < 0.01


def test_masks_are_the_cpus_to_the_bit_and_so_are_rewound_weights():
    there, here = network(pruned=False), network(pruned=False, device=CPU)
    for _ in range(3):
        pruning_model(there, 0.3)
        pruning_model(here, 0.3)
        for name, mask in masks(here).items():
            assert torch.equal(masks(there)[name].cpu(), mask), name


def test_images_become_the_same_floats_but_for_their_last_bit():
    images = batch()[0]
    there, here = Execution(DEVICE).images(images), Execution(CPU).images(images)
    assert there.device.type == ON
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=2**-24)
    assert there.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_and_its_meters_are_the_cpus():
    results = []
    for device in (DEVICE, CPU):
        evaluator = Evaluator(Runtime(device), Execution(device), ATTACK)
        tested = evaluator.network(network(device=device))
        meter = OutcomeMeter(device)
        batches = [batch(24), batch(7)]
        found = evaluate(tested, batches, execution=evaluator.execution, meter=meter)
        attacked = evaluate(
            tested, batches, execution=evaluator.execution, perturb=evaluator.pgd(tested)
        )
        parts = [(24 * place, 1 + right.int()) for place, right in enumerate(meter.correct)]
        results.append((found, attacked, gather_in_order(parts, 31, device)))
    (there, there_attacked, codes), (here, here_attacked, plain_codes) = results
    assert there.images == here.images == 31
    assert there.loss == pytest.approx(here.loss, rel=1e-4)
    assert there_attacked.loss == pytest.approx(here_attacked.loss, rel=0.05)  # other starts
    assert codes.device == CPU
    assert torch.equal(codes, plain_codes)


def test_a_meter_counts_the_steps_before_a_loss_that_is_not_finite():
    meter = Meter(DEVICE)
    logits, labels = torch.eye(6, device=DEVICE), torch.arange(6, device=DEVICE)
    for loss in (1.0, 2.0, float("nan"), 1.0):
        meter.add(logits, labels, torch.tensor(loss, device=DEVICE))
    assert meter.finite_steps() == 2
    assert meter.read().top1 == 100
    assert Meter(DEVICE, meter.sums.tolist(), 4).sums.device.type == ON


def test_restarts_never_raise_ra_and_leave_the_generators_alone():
    evaluator = Evaluator(Runtime(DEVICE), Execution(DEVICE), ATTACK)
    tested = evaluator.network(network())
    images, labels = batch(32)
    images, labels = evaluator.execution.images(images), labels.to(DEVICE)
    with torch.no_grad():
        labels[::2] = tested(images).argmax(1)[::2]  # half are right, so that some survive
    perturb, states, found = make_pgd(tested, ATTACK), [], []
    for attack in (perturb, with_restarts(tested, perturb, 4, seed=7)):
        torch.manual_seed(5)
        adversarial = attack(images, labels)
        states.append(torch.rand(3, device=DEVICE))
        check_perturbation(adversarial, images, ATTACK.eps)
        with torch.no_grad():
            found.append(tested(adversarial).argmax(1) == labels)
    once, again = found
    assert not (again & ~once).any()
    assert torch.equal(*states)


# --- precision, layout, optimizer -----------------------------------------------------------------


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_step_in_half_precision_is_near_one_in_float32(amp):
    execution = Execution(DEVICE, amp=DTYPES[amp])
    loss, logits, model = step(execution, ATTACK)
    plain_loss, plain_logits, _ = step(Execution(DEVICE), ATTACK)
    assert distance(loss, plain_loss) < 0.05
    assert distance(logits, plain_logits) < 0.1
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert (execution.scaler() is not None) == (amp == "fp16")


def test_a_step_that_the_scaler_skips_leaves_no_trace_in_the_next():
    execution, moved = Execution(DEVICE, amp=torch.float16), []
    for skipped in (True, False):
        model, (images, labels) = network(), batch()
        optimizer, scaler = make_sgd(model, 0.1, 0.9, 5e-4, execution), GradScaler(ON, 256.0)
        images, labels = execution.images(images), labels.to(DEVICE)
        before = weights_of(model)
        if skipped:
            spoilt = images.clone()
            spoilt[0, 0, 0, 0] = torch.inf
            training_step(model, spoilt, labels, optimizer, execution, scaler=scaler)
            assert torch.equal(weights_of(model), before)
        training_step(model, images, labels, optimizer, execution, scaler=scaler)
        moved.append(weights_of(model) - before)
    assert moved[1].norm() > 0
    assert distance(*moved) < 0.01


@pytest.mark.parametrize("amp", DTYPES)
def test_channels_last_gives_the_same_step_to_rounding(amp):
    results = [step(Execution(DEVICE, layout, DTYPES[amp])) for layout in (True, False)]
    (loss, logits, model), (plain_loss, plain_logits, _) = results
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert distance(loss, plain_loss) < (1e-4 if amp == "fp32" else 0.02)
    assert distance(logits, plain_logits) < (1e-3 if amp == "fp32" else 0.05)


def test_sgd_is_fused_and_gives_plain_sgds_step_to_rounding():
    model = network()
    plain = copy.deepcopy(network(pruned=False))
    plain.load_state_dict(network(pruned=False).state_dict())
    model = network(pruned=False)
    ours = make_sgd(model, 0.1, 0.9, 5e-4, Execution(DEVICE))
    assert bool(ours.defaults["fused"]) == CUDA
    theirs = torch.optim.SGD(plain.parameters(), 0.1, 0.9, weight_decay=5e-4, foreach=False)
    for _ in range(3):
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            other.grad = torch.randn_like(other)
            one.grad = other.grad.clone()
        ours.step()
        theirs.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert distance(one, other) < 1e-6
    theirs.load_state_dict(ours.state_dict())  # a run may go on where there is no CUDA


# --- compiled -------------------------------------------------------------------------------------

KINDS = [("compiled", None), ("compiled", 5), ("cuda_graphs", None), ("cuda_graphs", 5)]


@pytest.fixture
def _compiler(monkeypatch):
    if not CUDA:
        monkeypatch.setattr(compiled, "BACKEND", "eager")


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("amp", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "micro_batch"), KINDS)
def test_a_compiled_step_is_the_plain_one_to_rounding(kind, micro_batch, amp):
    """Several steps, for a CUDA graph is recorded in the second and replayed from the third on."""
    plain = Execution(DEVICE, amp=DTYPES[amp], micro_batch=micro_batch)
    graphs = kind == "cuda_graphs" and CUDA
    fast = Execution(DEVICE, True, DTYPES[amp], micro_batch, compiled=True, cuda_graphs=graphs)
    found = [gpu_cases.losses_over_a_prune(execution, network) for execution in (fast, plain)]
    assert found[0] == pytest.approx(found[1], rel=0.02 if amp == "fp32" else 0.1)


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("graphs", [[], ["--cuda_graphs"]], ids=["compile", "cuda_graphs"])
def test_a_compiled_search_compiles_each_graph_once_and_finds_what_a_plain_one_does(
    data, tmp_path, graphs
):
    run_imp(data, tmp_path / "plain", *SEARCH, "--mode", "adv")
    torch._dynamo.utils.counters.clear()
    flags = ["--compile", *(graphs if CUDA else [])]
    run_imp(data, tmp_path / "fast", *SEARCH, "--mode", "adv", *flags)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    fast, plain = ([line["train_loss"] for line in metrics(tmp_path / run)]
                   for run in ("fast", "plain"))  # fmt: skip
    assert fast == pytest.approx(plain, rel=0.05)


# --- both mains -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An adversarial search, and a transfer of its ticket, each copied after every epoch."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        copy_after_each_epoch(patch, root / "imp_copies")
        run_imp(data, root / "imp", *SEARCH)
    ticket = ["--tickets_file", str(root / "imp" / "1-ticket.safetensors")]
    ticket += ["--init", str(root / "imp" / "init.pth.tar")]
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        copy_after_each_epoch(patch, root / "transfer_copies")
        run_transfer(data, root / "transfer", *TRANSFER, *ticket)
    return root, ticket


def test_both_mains_end_with_their_results(whole):
    root, _ = whole
    found = read_json(root / "transfer" / "results.json")
    assert all(0 <= found["last"][name] <= 100 for name in ("sa", "ra"))
    checkpoint = load(root / "imp" / "2-checkpoint.pth.tar")
    assert all(value.device == CPU for value in checkpoint["state_dict"].values())


def test_the_same_seed_gives_the_same_bits(whole, data, tmp_path):
    root, ticket = whole
    run_imp(data, tmp_path / "imp", *SEARCH)
    assert_same_run(root / "imp", tmp_path / "imp")
    run_transfer(data, tmp_path / "transfer", *TRANSFER, *ticket)
    assert_same_run(root / "transfer", tmp_path / "transfer")


@pytest.mark.parametrize("epoch", ["1", "2"])
def test_a_resumed_search_goes_on_to_the_bit(whole, data, tmp_path, epoch):
    root, _ = whole
    shutil.copytree(root / "imp_copies" / epoch, tmp_path / "run")
    run_imp(data, tmp_path / "run", *SEARCH, "--resume")
    assert_same_run(root / "imp", tmp_path / "run")


def test_a_resumed_transfer_goes_on_to_the_bit(whole, data, tmp_path):
    root, ticket = whole
    shutil.copytree(root / "transfer_copies" / "1", tmp_path / "run")
    run_transfer(data, tmp_path / "run", *TRANSFER, *ticket, "--resume")
    assert_same_run(root / "transfer", tmp_path / "run")


def test_a_run_that_ends_in_mid_epoch_goes_on_to_the_bit(whole, data, tmp_path, monkeypatch):
    root, ticket = whole
    gpu_cases.end_after_steps(monkeypatch, 2)
    with pytest.raises(gpu_cases.Ended):
        run_transfer(data, tmp_path / "run", *TRANSFER, *ticket, "--save_every_steps", "1")
    monkeypatch.undo()
    run_transfer(data, tmp_path / "run", *TRANSFER, *ticket, "--resume")
    assert metrics(tmp_path / "run") == metrics(root / "transfer")


@pytest.mark.parametrize("amp", ["bf16", *(["fp16"] if CUDA else [])])
def test_both_mains_run_in_half_precision(data, tmp_path, amp):
    run_imp(data, tmp_path / "imp", *SEARCH, "--amp", amp)
    ticket = ["--tickets_file", str(tmp_path / "imp" / "1-ticket.safetensors")]
    run_transfer(data, tmp_path / "transfer", *TRANSFER, *ticket, "--amp", amp)
    found = read_json(tmp_path / "transfer" / "results.json")
    assert found["last"]["ra"] is not None


def test_evaluate_repeats_the_runs_own_test(whole, data):
    root, ticket = whole
    run_transfer(data, root / "transfer", *TRANSFER, *ticket, "--evaluate")
    found, last = read_json(root / "transfer" / "eval.json"), None
    last = read_json(root / "transfer" / "results.json")["last"]
    assert (found["sa"], found["ra"]) == (last["sa"], last["ra"])


def test_a_run_of_the_cpu_goes_on_here(data, tmp_path):
    on_cpu = [*SEARCH, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        copy_after_each_epoch(patch, tmp_path / "copies")
        run_imp(data, tmp_path / "cpu", *on_cpu)
    run_imp(data, tmp_path / "copies" / "1", *SEARCH, "--resume")
    losses = [[line["train_loss"] for line in metrics(folder)]
              for folder in (tmp_path / "copies" / "1", tmp_path / "cpu")]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_two_processes_share_one_device_by_gloo(data, tmp_path):
    """As on two GPUs, but for nccl: the same search by two processes on the CPU, to rounding."""
    flags = [str(data), *SEARCH, "--mode", "std"]
    losses = []
    for name, device in (("there", ON), ("here", "cpu")):
        folder = tmp_path / name
        argv = [*flags, "--device", device, "--save_dir", str(folder)]
        mp.spawn(gpu_cases.one_of_two, (device, gloo_cases.free_port(), argv), nprocs=2)
        losses.append([line["train_loss"] for line in metrics(folder)])
        assert Path(folder / "3-ticket.safetensors").is_file()
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
