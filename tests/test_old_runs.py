"""Runs that an earlier version began go on under this one, from the files that it wrote."""

import json

import pytest
import torch
from helpers.main_cases import (
    Interrupted,
    assert_same_run,
    die,
    run_imp,
    run_transfer,
    skip_pictures,
    write_images,
)

from engine import steps

# What the files of version 0.1.0 held, and nothing else.
TRAINING = ("optimizer", "resume")
SEARCH = ("epoch", "arch", "state_dict", "best_acc1", "state_prune", "init", *TRAINING, "history")
TRANSFER = ("best_sa", "best_ra", "result", "epoch", "arch", "state_dict", "scheduler", *TRAINING)
RESUME = ("step", "ranks", "scaler")
SHARED_FLAGS = [
    "mode",
    "input_size",
    "augment",
    "hflip",
    "classes",
    "workers",
    "skip_bad",
    "arch",
    "width",
    "stem",
    "mean",
    "std",
    "init",
    "train_eps",
    "train_step",
    "train_gamma",
    "train_randinit",
    "epochs",
    "batch_size",
    "micro_batch",
    "lr",
    "lr_schedule",
    "decreasing_lr",
    "warmup",
    "momentum",
    "weight_decay",
    "seed",
    "device",
    "gpu",
    "threads",
    "channels_last",
    "amp",
    "tf32",
    "compile",
    "sync_bn",
    "multiprocessing_distributed",
    "nproc",
    "world_size",
    "rank",
    "dist_url",
    "dist_backend",
    "save_dir",
    "tag",
    "print_freq",
    "resume",
    "save_every_steps",
    "dry_run",
    "time_it",
    "evaluate",
    "data",
    "data_content",
    "command",
    "code",
    "packages",
    "hardware",
]
SEARCH_FLAGS = [
    "reset_fc",
    "ticket",
    "rate",
    "prune_epoch",
    "pretrain_epochs",
    "pretrain_lr",
    "keep",
    "export_released",
]
TRANSFER_FLAGS = [
    "dataset",
    "data_number",
    "tickets_file",
    "reinit",
    "test_eps",
    "test_step",
    "test_gamma",
    "test_randinit",
    "eval_from",
    "eval_batch_size",
    "eval_set",
    "save_adv",
    "eval_attack",
    "eval_images",
    "restarts",
    "check_masking",
    "masking_source",
    "save_all",
    "init_content",
    "tickets_file_content",
]


def make_old(folder, keys, flags):
    """Rewrite a folder's files as version 0.1.0 wrote them."""
    for path in folder.glob("*checkpoint.pth.tar"):
        payload = torch.load(path, weights_only=True)
        if "resume" not in payload:  # a bare state dict of --save_all
            continue
        old = {key: payload[key] for key in keys}
        old["resume"] = {key: old["resume"][key] for key in RESUME}
        torch.save(old, path)
    known = {*SHARED_FLAGS, *flags}
    recorded = json.loads((folder / "args.json").read_text())
    old = {name: value for name, value in recorded.items() if name in known}
    old["micro_batch"] = None  # what was recorded where it was left out
    (folder / "args.json").write_text(json.dumps(old, indent=2))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


def interrupted(run, steps_done):
    with pytest.MonkeyPatch.context() as patch:
        die(patch, steps.training_step, steps_done + 1)
        with pytest.raises(Interrupted):
            run()


def test_a_search_of_an_earlier_version_goes_on_to_the_same_bits(tmp_path):
    data = write_images(tmp_path / "data")
    flags = ["--mode", "std", "--epochs", "4", "--prune_epoch", "2", "--save_every_steps", "1"]
    run_imp(data, tmp_path / "whole", *flags)
    interrupted(lambda: run_imp(data, tmp_path / "run", *flags), 8)
    make_old(tmp_path / "run", SEARCH, SEARCH_FLAGS)
    run_imp(data, tmp_path / "run", *flags, "--resume")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_transfer_of_an_earlier_version_goes_on_to_the_same_bits(tmp_path):
    data = write_images(tmp_path / "data")
    run_imp(data, tmp_path / "imp", "--mode", "std", "--epochs", "1", "--prune_epoch", "1")
    flags = ["--mode", "adv", "--epochs", "2", "--eval_from", "0", "--save_every_steps", "1"]
    flags += ["--train_step", "1", "--test_step", "1", "--init", str(tmp_path / "imp/init.pth.tar")]
    flags += ["--tickets_file", str(tmp_path / "imp/1-ticket.safetensors"), "--save_all"]
    run_transfer(data, tmp_path / "whole", *flags)
    interrupted(lambda: run_transfer(data, tmp_path / "run", *flags), 4)
    make_old(tmp_path / "run", TRANSFER, TRANSFER_FLAGS)
    run_transfer(data, tmp_path / "run", *flags, "--resume")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
