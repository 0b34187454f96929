"""Two processes give what one gives; only rank 0 decides; how a run is started."""

import copy
import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.gloo_cases import WORLD, fork_ranks, free_port, two_gloo_processes
from helpers.main_cases import (
    HERE,
    TINY,
    Interrupted,
    assert_same_bits,
    assert_same_run,
    copy_after_each_epoch,
    die,
    load,
    read_json,
    run_imp,
)
from helpers.main_cases import write_images as write_classes
from helpers.process_cases import Process
from PIL import Image
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.optim import SGD

from attack_utils import PGDConfig, make_pgd
from engine import launching, run_folder
from engine.distributed import (
    Runtime,
    barrier,
    broadcast_from_main,
    is_main,
    main_first,
    own_random_starts,
    seed_everything,
    sum_gradients,
    sum_over_ranks,
)
from engine.launching import Launch, launch, processes_per_node
from engine.steps import Execution, evaluate, train_one_epoch, training_step
from errors import InputError
from files.checkpoints import load_checkpoint, save_checkpoint
from files.run_args import recorded_batch, recorded_processes
from models import build_model
from pruning_utils import masks, prune_at_random, prune_by_magnitude

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ATTACK = PGDConfig(16 / 255, 2, 8 / 255, random_start=False)
GLOBAL_BATCH, SHARE = 15, 8  # rank 0 gets 8 of the 15 images, rank 1 the other 7


# --- one state of a ticket search, by one process or by two ---------------------------------------


def write_images(root: Path) -> None:
    """30 training, 24 validation images: four batches of 7 at most, the last one smaller."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 15), ("val", 12)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:02d}.png")


def small_network():
    torch.manual_seed(0)
    return build_model("resnet20s", 2, MEAN, STD, width=8)


class JointNorm(nn.Module):
    """Normalises over the images of all processes together, as SyncBatchNorm does on GPUs alone."""

    def forward(self, features):
        count = torch.full_like(features[0], len(features))
        sums = torch.stack([features.sum(0), features.square().sum(0), count])
        total, squares, count = all_reduce(sums) if dist.is_initialized() else sums
        mean = total / count
        return (features - mean) / (squares / count - mean.square() + 1e-5).sqrt()


def gradients_through_joint_norm(images, labels) -> dict:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), JointNorm(), nn.Linear(6, 2))
    optimizer = SGD(model.parameters(), 0.05)
    training_step(model, images, labels, optimizer, Execution(), global_batch=GLOBAL_BATCH)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def one_state(runtime: Runtime, root: str) -> dict:
    """What a run does in one state: validation, a first step, an epoch, a prune."""
    from dataset import DataSpec, build_loaders

    rank, world = runtime.rank, runtime.world_size
    train, val, _ = build_loaders(
        DataSpec("folder", root, 8, "none", hflip=False),
        batch_size=GLOBAL_BATCH, eval_batch_size=7, workers=0, seed=0,
    )  # fmt: skip
    model = small_network()
    execution = Execution(channels_last=False, micro_batch=SHARE)
    perturb = make_pgd(model, ATTACK)
    found: dict = {}
    for name, attack in (("sa", None), ("ra", perturb)):
        batches = val.epoch(0, 0, rank, world)
        found[name] = vars(evaluate(model, batches, execution=execution, perturb=attack))
    one_batch = [val.epoch(0, 0)] if rank == 0 else [iter(())]  # nothing at all for rank 1
    found["one batch"] = vars(evaluate(model, one_batch[0], execution=execution))

    model.train()
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    images, labels = next(train.epoch(0, 0, rank, world))
    found["share"] = len(labels)
    images = execution.images(images)
    training_step(model, images, labels, optimizer, execution, perturb, GLOBAL_BATCH)
    found["joint"] = gradients_through_joint_norm(images, labels)
    found["gradients"] = {n: copy.deepcopy(p.grad) for n, p in model.named_parameters()}

    metrics = train_one_epoch(
        model,
        train.epoch(1, 0, rank, world),
        optimizer,
        execution=execution,
        learning_rate=lambda step: 0.05,
        perturb=perturb,
        global_batch=train.images_in_batch,
    )
    found["train"] = vars(metrics)
    found["own statistics"] = model.get_buffer("bn1.running_mean").clone()
    broadcast_from_main(model.buffers())
    found["weights"] = {name: p.detach().clone() for name, p in model.named_parameters()}
    found["buffers"] = {name: value.clone() for name, value in model.named_buffers()}
    prune_by_magnitude(model, 0.2)
    found["masks"] = {name: mask.clone() for name, mask in masks(model).items()}
    return found


def rank_zero_decides(runtime: Runtime) -> dict:
    """Everything starts different on the ranks; what is broadcast ends equal."""
    rank = runtime.rank
    torch.manual_seed(rank)
    model = small_network().to(memory_format=torch.channels_last)
    torch.manual_seed(rank)
    prune_at_random(model, 0.5)
    model = model.to(memory_format=torch.channels_last)
    own = {name: mask.clone() for name, mask in masks(model).items()}
    broadcast_from_main(masks(model).values())
    several = {
        "bool scalar": torch.tensor(rank == 0),
        "count": torch.tensor(10 + rank),
        "strided": torch.arange(24.0).view(1, 2, 3, 4).add(rank).transpose(1, 3),
        "half": torch.full((2, 3), float(rank), dtype=torch.float16),
    }
    broadcast_from_main(several.values())
    sums = sum_over_ranks(torch.tensor([rank + 1.0, 10.0], dtype=torch.float64))
    barrier()
    return {
        "own masks": own,
        "masks": {n: v.clone() for n, v in model.state_dict().items() if n.endswith("_mask")},
        "several": several,
        "sums": sums,
        "is main": is_main(),
        "runtime": [rank, runtime.world_size, runtime.nodes, str(runtime.device)],
    }


def work(runtime: Runtime, root: str) -> None:
    torch.set_num_threads(1)
    found = {"state": one_state(runtime, root), "zero": rank_zero_decides(runtime)}
    save_checkpoint(Path(root) / f"rank{runtime.rank}.pth.tar", found)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(what one process finds, what rank 0 of two finds, what rank 1 finds)."""
    threads, root = torch.get_num_threads(), tmp_path_factory.mktemp("images")
    write_images(root)
    with pytest.MonkeyPatch.context() as patch:
        fork_ranks(patch)
        launch(work, str(root), two_gloo_processes())
    ranks = [load_checkpoint(root / f"rank{rank}.pth.tar") for rank in range(WORLD)]
    launch(work, str(root), Launch("cpu"))
    torch.set_num_threads(threads)
    return load_checkpoint(root / "rank0.pth.tar"), *ranks


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one_with_micro_batches(runs):
    one, *ranks = (run["state"] for run in runs)
    assert [rank["share"] for rank in ranks] == [8, 7]
    for rank in ranks:
        for name, gradient in one["gradients"].items():
            difference = (rank["gradients"][name] - gradient).norm()
            assert difference <= 1e-5 * gradient.norm(), name


@pytest.mark.slow
def test_unequal_shares_give_the_gradients_of_one_process_through_synchronised_batchnorm(runs):
    one, *ranks = (run["state"]["joint"] for run in runs)
    for rank in ranks:
        for name, gradient in one.items():
            difference = (rank[name] - gradient).norm()
            assert difference <= 1e-5 * gradient.norm() + 1e-7, name


@pytest.mark.slow
def test_the_ranks_weights_never_part(runs):
    _, first, second = (run["state"] for run in runs)
    for kind in ("gradients", "weights", "buffers", "masks"):
        for name, value in first[kind].items():
            assert torch.equal(second[kind][name], value), name
    assert not torch.equal(first["own statistics"], second["own statistics"])
    assert torch.equal(second["buffers"]["bn1.running_mean"], first["own statistics"])


@pytest.mark.slow
def test_masks_after_a_state_are_those_of_one_process(runs):
    one, two, _ = (run["state"]["masks"] for run in runs)
    differ = sum(int((two[name] != mask).sum()) for name, mask in one.items())
    total = sum(mask.numel() for mask in one.values())
    assert differ <= 1e-4 * total
    assert sum(map(torch.sum, two.values())) == sum(map(torch.sum, one.values()))


@pytest.mark.slow
def test_training_figures_are_over_all_processes(runs):
    one, first, second = (run["state"]["train"] for run in runs)
    assert first == second
    assert first["images"] == one["images"] == 30
    assert first == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sa", "ra"])
def test_sharded_evaluation_gives_the_unsharded_figures_exactly(runs, what):
    one, first, second = (run["state"][what] for run in runs)
    assert one["images"] == 24
    assert first == second == one


@pytest.mark.slow
def test_a_rank_without_any_batch_agrees_with_the_others(runs):
    one, first, second = (run["state"]["one batch"] for run in runs)
    assert first == second == one


@pytest.mark.slow
def test_rank_zeros_masks_are_everyones(runs):
    _, first, second = (run["zero"] for run in runs)
    name = "layer1.0.conv1.weight_mask"
    assert not torch.equal(first["own masks"][name], second["own masks"][name])
    assert first["masks"].keys() == first["own masks"].keys()
    for name, mask in first["own masks"].items():
        for rank in (first, second):  # in the model itself, in whatever layout
            assert rank["masks"][name].dtype == torch.bool
            assert torch.equal(rank["masks"][name], mask)


@pytest.mark.slow
def test_broadcasts_take_any_dtype_and_layout_and_keep_rank_zeros(runs):
    expected, first, second = (run["zero"]["several"] for run in runs)
    for name, value in expected.items():
        for rank in (first, second):
            assert rank[name].dtype == value.dtype
            assert torch.equal(rank[name], value), name


@pytest.mark.slow
def test_sums_ranks_and_who_is_main(runs):
    one, first, second = (run["zero"] for run in runs)
    assert one["sums"].tolist() == [1, 10]
    assert first["sums"].tolist() == second["sums"].tolist() == [3, 20]
    assert [run["is main"] for run in (one, first, second)] == [True, True, False]
    assert one["runtime"] == [0, 1, 1, "cpu"]
    assert first["runtime"] == [0, 2, 1, "cpu"]
    assert second["runtime"] == [1, 2, 1, "cpu"]


def complain(runtime: Runtime, message: str) -> None:
    raise InputError(message)


@pytest.mark.slow
def test_wrong_input_in_spawned_processes_ends_the_run_with_its_line_and_status_2(capfd):
    with pytest.raises(SystemExit) as caught:
        launch(complain, "/data: no such folder; expected one", two_gloo_processes())
    assert caught.value.code == 2
    told = capfd.readouterr().err
    assert "error: /data: no such folder; expected one\n" in told
    assert "Traceback" not in told


def download(runtime: Runtime, folder: str) -> None:
    with main_first():
        if runtime.rank == 0:
            time.sleep(5)
            (Path(folder) / "data").touch()
        assert (Path(folder) / "data").exists()


@pytest.mark.slow
def test_a_download_by_rank_zero_may_take_longer_than_the_time_out(tmp_path):
    launch(download, str(tmp_path), replace(two_gloo_processes(), timeout=2))


# --- two nodes, and the loaders of several processes ----------------------------------------------

SPAWN = ["--multiprocessing_distributed", "--dist_backend", "gloo", "--mode", "std"]


def as_a_node() -> None:
    fork_ranks()
    run_folder.IN_SIGHT = 0.5  # seconds; here no file comes into sight late


def start_nodes(
    roots: Sequence[Path], folder: Path, *flags: str, port: int, own: Sequence[Sequence[str]]
) -> list[Process]:
    """Two processes that stand for two nodes, each with one process of the run.

    roots, own: the images and the last flags of each.
    """
    shared = [*TINY, *HERE, *SPAWN, "--nproc", "1", "--world_size", "2", *flags]
    shared += ["--save_dir", str(folder), "--dist_url", f"tcp://127.0.0.1:{port}"]
    return [
        Process(
            "imp",
            [str(roots[rank]), *shared, "--rank", str(rank), *own[rank]],
            log=f"{folder.name}-node{rank}.txt",
            before=as_a_node,
        )
        for rank in (0, 1)
    ]


def wait_until(happened: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, process.output
        time.sleep(0.05)


@pytest.mark.slow
def test_two_nodes_record_what_they_share_and_a_cut_network_ends_them_in_time(tmp_path):
    root = write_classes(tmp_path / "data")
    flags = ["--epochs", "400", "--prune_epoch", "400", "-b", "6", "--dist_timeout", "5"]
    first, second = start_nodes(
        [root, root], tmp_path / "run", *flags, port=free_port(), own=[[], []]
    )
    wait_until((tmp_path / "run" / "1-checkpoint.pth.tar").exists, first)
    recorded = read_json(tmp_path / "run" / "args.json")
    assert (recorded["world_size"], recorded["processes"], recorded["global_batch"]) == (2, 2, 12)
    second.signal_group(signal.SIGSTOP)  # what a cut network looks like from the other side
    start = time.monotonic()
    assert first.end() == 1, first.output
    assert time.monotonic() - start < 60
    assert "error: another process of the run died or is out of reach" in first.output
    assert "Traceback" not in first.output
    second.signal_group(signal.SIGKILL)
    second.end()


@pytest.mark.slow
@pytest.mark.parametrize("differ", ["weights", "progress", "images", "folder"])
def test_nodes_that_do_not_see_the_same_files_are_refused(tmp_path, differ):
    """A path may lead to another file on each node; gradients of two networks would be mixed."""
    data = write_classes(tmp_path / "data")
    flags = ["--epochs", "2", "--prune_epoch", "1", "-b", "6"]
    run, roots = tmp_path / "run", [data, data]
    own: list[list[str]] = [[], []]
    if differ == "weights":
        for rank, given in enumerate(own):
            torch.manual_seed(rank)
            network = build_model("resnet20s", 3, MEAN, STD, width=4)
            given += ["--init", str(tmp_path / f"{rank}.pth.tar")]
            torch.save({"state_dict": network.state_dict()}, given[1])
        told = "process 1 has other contents of --init than process 0"
    elif differ == "progress":
        with pytest.MonkeyPatch.context() as patch:
            copy_after_each_epoch(patch, tmp_path / "after")
            run_imp(data, run, "--mode", "std", *flags)
        for rank, given in enumerate(own):
            given += ["--save_dir", str(tmp_path / "after" / str(2 - rank)), "--resume"]
        told = "process 1 has other (epochs, steps) done than process 0 ((1, 0), not (2, 0))"
    elif differ == "images":
        roots[1] = shutil.copytree(data, tmp_path / "other")
        next((roots[1] / "val").rglob("*.png")).unlink()
        told = "process 1 has other contents of --data than process 0"
    else:
        own[1] += ["--save_dir", str(tmp_path / "local")]
        told = "process 1 does not see what process 0 writes there; name a folder that all nodes"
    for node in start_nodes(roots, run, *flags, port=free_port(), own=own):
        assert node.end() == 2, node.output
        assert node.output.count("error: ") == 1
        assert "Traceback" not in node.output
    assert told in node.output
    assert differ == "progress" or not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_resumed_on_fewer_nodes_keeps_its_global_batch_and_says_so(
    tmp_path, capsys, elsewhere
):
    data = write_classes(tmp_path / "data")
    flags = ["--mode", "std", "--epochs", "3", "--prune_epoch", "3"]
    run_imp(data, tmp_path / "whole", *flags)
    with pytest.MonkeyPatch.context() as patch:
        die(patch, train_one_epoch, 2)
        with pytest.raises(Interrupted):
            run_imp(data, tmp_path / "run", *flags)
    path = tmp_path / "run" / "args.json"
    recorded = read_json(path)
    assert (recorded["batch_size"], recorded["global_batch"]) == (12, 12)
    path.write_text(json.dumps({**recorded, "batch_size": 6, "world_size": 2}))  # as of two nodes
    checkpoint = [tmp_path / "run" / "1-checkpoint.pth.tar"] if elsewhere else []
    out = tmp_path / ("elsewhere" if elsewhere else "run")
    run_imp(data, out, *flags, "-b", "6", "--resume", *map(str, checkpoint))
    told = capsys.readouterr().err
    assert "warning: the run began with steps of 12 images over all nodes and keeps them" in told
    assert read_json(out / "args.json")["global_batch"] == 12
    resumed, whole = (load(path / "1-checkpoint.pth.tar") for path in (out, tmp_path / "whole"))
    assert_same_bits(resumed["state_dict"], whole["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["12", 1, [12], 12.5])
def test_a_damaged_global_batch_is_named(tmp_path, batch):
    (tmp_path / "args.json").write_text(json.dumps({"global_batch": batch}))
    with pytest.raises(InputError, match=r"args.json: damaged, its global_batch is"):
        recorded_batch(tmp_path)


@pytest.mark.slow
def test_spawned_processes_with_loaders_stop_by_a_signal_to_all_and_go_on_to_the_bit(tmp_path):
    data = write_classes(tmp_path / "data")
    shared = [str(data), *TINY, *HERE, *SPAWN, "--nproc", "2", "--epochs", "6", "-b", "4"]
    shared += ["--prune_epoch", "3", "-j", "2"]

    def start(name: str, *flags: str) -> Process:
        url = f"tcp://127.0.0.1:{free_port()}"
        return Process(
            "imp",
            [*shared, "--save_dir", str(tmp_path / name), "--dist_url", url, *flags],
            before=fork_ranks,
        )

    whole = start("whole")
    assert whole.end() == 0, whole.output
    stopped = start("run")
    wait_until((tmp_path / "run" / "1-checkpoint.pth.tar").exists, stopped)
    stopped.signal_group(signal.SIGTERM)
    assert stopped.end() == 75, stopped.output
    resumed = start("run", "--resume")
    assert resumed.end() == 0, resumed.output
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_each_of_several_processes_draws_random_starts_of_its_own_and_one_those_of_the_seed():
    def drawn(rank: int, world_size: int, seed: int = 7) -> float:
        torch.manual_seed(seed)
        own_random_starts(Runtime(torch.device("cpu"), rank, world_size))
        return float(torch.rand(()))

    torch.manual_seed(7)
    of_the_seed = float(torch.rand(()))
    assert drawn(0, 1) == of_the_seed
    processes = [(rank, seed) for rank in range(8) for seed in range(1, 11)]
    assert len({drawn(rank, 8, seed) for rank, seed in processes}) == len(processes)


def test_an_absent_node_is_waited_for_with_a_line_and_not_for_ever(monkeypatch, capfd):
    monkeypatch.setattr(launching, "PATIENCE", 0.2)
    values = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "RANK": "0",
        "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="cannot join the process group at env://"):
        launch(note, [], Launch("cpu", timeout=2))
    told = capfd.readouterr().out
    assert f"waiting for all processes of the run, 2 at 127.0.0.1:{values['MASTER_PORT']}" in told


# --- one process ----------------------------------------------------------------------------------


def test_without_a_process_group_nothing_is_summed_or_sent():
    values = torch.tensor([1.0, 2.0])
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    sum_gradients([parameter])
    broadcast_from_main([values])
    barrier()
    assert parameter.grad.tolist() == [3, 4]
    assert sum_over_ranks(values).tolist() == [1, 2]
    assert is_main()


def note(runtime: Runtime, seen: list) -> None:
    seen.append((runtime, dist.is_initialized()))


@pytest.mark.parametrize("how", [Launch("cpu"), Launch("cpu", spawn=True, nproc=1)])
def test_a_single_process_runs_in_place_without_a_group(how):
    seen: list = []
    launch(note, seen, how)
    assert seen == [(Runtime(torch.device("cpu")), False)]


@pytest.fixture
def under_torchrun(monkeypatch):
    values = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "RANK": "0",
        "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("under_torchrun")
def test_a_failed_process_of_torchrun_ends_without_waiting_for_the_others(monkeypatch, capfd):
    destroy, destroyed = dist.destroy_process_group, []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: destroyed.append(True))

    def leave(status):
        raise Interrupted(status)

    monkeypatch.setattr(launching.os, "_exit", leave)
    try:
        with pytest.raises(Interrupted, match="2"):
            launch(complain, "/data: no such folder", Launch("cpu"))
    finally:
        destroy()
    assert "error: /data: no such folder\n" in capfd.readouterr().err
    assert not destroyed  # with NCCL that waits until the time is out


@pytest.mark.usefixtures("under_torchrun")
def test_nodes_of_unequal_numbers_of_processes_are_refused(monkeypatch, capfd):
    def leave(status):
        raise Interrupted(status)

    monkeypatch.setattr(launching.os, "_exit", leave)
    monkeypatch.setattr(launching, "gather_from_ranks", lambda mine: [mine, "2", "2"])
    try:
        with pytest.raises(Interrupted, match="2"):
            launch(note, [], Launch("cpu"))
    finally:
        dist.destroy_process_group()
    assert "torchrun: nodes of 1 and 2 processes; start as many on each" in capfd.readouterr().err


@pytest.mark.usefixtures("under_torchrun")
@pytest.mark.parametrize("spawn", [False, True], ids=["torchrun", "torchrun and spawn flag"])
def test_a_process_of_torchrun_joins_its_group_and_leaves_it(spawn):
    seen: list = []
    launch(note, seen, Launch("cpu", spawn=spawn, nproc=2))
    assert seen == [(Runtime(torch.device("cpu"), 0, 1, 1), True)]
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("flags", "gpus", "count"),
    [
        ({}, 8, 8),
        ({}, 1, 1),
        ({}, 0, 1),
        ({"nproc": 2}, 8, 2),
        ({"nproc": 2}, 0, 2),
        ({"gpu": 3}, 8, 1),  # this one GPU, as without the spawn flags
        ({"begun_with": 1}, 8, 1),
        ({"begun_with": 8}, 4, 4),
        ({"begun_with": 2}, 0, 2),
        ({"begun_with": 2, "nproc": 4}, 8, 4),
    ],
)
def test_as_many_processes_as_gpus_unless_told_otherwise_or_begun_otherwise(flags, gpus, count):
    assert processes_per_node(Launch(spawn=True, **flags), gpus) == count


@pytest.fixture
def three_gpus(monkeypatch):
    """Three GPUs that are not there, and what would be spawned: (processes, where they meet)."""
    spawned: list = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)

    def spawn(work, args, nprocs, join):
        spawned.append((nprocs, args[-1].dist_url))
        raise Interrupted

    monkeypatch.setattr(launching.mp, "spawn", spawn)
    return spawned


def test_the_spawn_flag_starts_a_process_for_each_gpu_at_a_free_port(three_gpus):
    with pytest.raises(Interrupted):
        launch(note, [], Launch(spawn=True))
    with pytest.raises(Interrupted):
        launch(note, [], Launch(spawn=True))
    (count, url), (_, other) = three_gpus
    assert count == 3
    assert url.startswith("tcp://127.0.0.1:")
    assert url != other  # two runs on one machine do not meet


@pytest.mark.parametrize(("begun_with", "count"), [(2, 2), (3, 3), (8, 3), (None, 3)])
def test_a_run_that_goes_on_keeps_its_processes_and_says_so(three_gpus, capsys, begun_with, count):
    with pytest.raises(Interrupted):
        launch(note, [], Launch(spawn=True, begun_with=begun_with))
    assert [processes for processes, _ in three_gpus] == [count]
    told = "processes: 2 on this node, as the run began with (--nproc N: others)\n"
    assert capsys.readouterr().out == (told if count == 2 else "")


def test_the_spawn_flag_with_a_gpu_is_one_process_on_that_gpu(three_gpus):
    seen: list = []
    launch(note, seen, Launch(spawn=True, gpu=2))
    assert seen == [(Runtime(torch.device("cuda", 2)), False)]
    assert three_gpus == []


@pytest.mark.parametrize(
    ("recorded", "processes"),
    [
        ({}, None),
        ({"processes": 8, "world_size": 2, "nproc": None}, 4),
        ({"processes": 1, "world_size": 1, "multiprocessing_distributed": True}, 1),
        ({"multiprocessing_distributed": False, "nproc": None, "world_size": 1}, 1),  # 0.1.0
        ({"multiprocessing_distributed": True, "nproc": 2, "world_size": 1}, 2),
        ({"multiprocessing_distributed": True, "nproc": None, "world_size": 1}, None),
    ],
)
def test_a_folder_knows_how_many_processes_its_run_began_with(tmp_path, recorded, processes):
    assert recorded_processes(tmp_path) is None
    (tmp_path / "args.json").write_text(json.dumps(recorded))
    assert recorded_processes(tmp_path) == processes


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
@pytest.mark.parametrize("how", [Launch("cuda"), Launch(gpu=0), Launch("cuda", spawn=True)])
def test_cuda_asked_for_and_not_there_is_wrong_input(how):
    with pytest.raises(InputError, match="no CUDA device"):
        launch(note, [], how)


def test_nccl_on_the_cpu_is_wrong_input(monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(InputError, match="nccl needs CUDA"):
        launch(note, [], Launch("cpu", dist_backend="nccl"))


def test_a_seed_repeats_and_zero_is_a_seed():
    drawn = []
    for seed in (0, 1, 0, 1):
        seed_everything(seed)
        drawn.append(torch.rand(4).tolist())
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_a_step_has_two_images_for_each_process_at_least(tmp_path):
    from dataset import DataSpec, build_loaders
    from engine.training import StopSignals, Training

    write_images(tmp_path)
    spec, cpu = DataSpec("folder", str(tmp_path), 8, "none", hflip=False), torch.device("cpu")

    def training(batch: int) -> Training:
        loader, *_ = build_loaders(spec, batch_size=batch, eval_batch_size=4, workers=0, seed=0)
        model = small_network()
        runtime = Runtime(cpu, 0, 4)
        return Training(
            model, SGD(model.parameters(), 0.1), loader, Execution(cpu), runtime, None,
            stop=StopSignals(), save=lambda: None,
        )  # fmt: skip

    assert training(8).steps == 3  # of 30 images: the last 6 are less than two for each
    with pytest.raises(InputError, match=r"two images for each of the 4 processes, so -b 8"):
        training(7)
