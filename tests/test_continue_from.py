"""--continue_from: what is left of a run whose checkpoints are lost gives the same tickets."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers.main_cases import (
    assert_same_bits,
    contents,
    load,
    metrics,
    one_error_line,
    read_json,
    run_imp,
    skip_pictures,
    write_images,
)

import main_imp_pretrain
from cli import salvage
from cli.flags import build_imp_parser
from cli.salvage import _passes
from cli.settle import settle_micro_batch
from dataset import DataSpec, build_loaders
from engine.distributed import Runtime
from engine.steps import Execution
from errors import InputError
from files.atomic import write_json
from files.checkpoints import save_checkpoint
from files.salvage import check_density
from files.tickets import load_ticket
from models import ARCHS

# One epoch of dense training, then states 1, 2 and 3 of one epoch each; passes of 6, 6 and then,
# of the last batch of 11 images, of 4, 4, 3: every draw of the attack counts.
SCHEDULE = ["--pretrain_epochs", "1", "--epochs", "3", "--prune_epoch", "1", "--lr", "0.01"]
SCHEDULE += ["-b", "25", "--micro_batch", "5"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("source") / "data")


def whole_run(data, root, mode):
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_imp(data, root / "run", *SCHEDULE, "--mode", mode)
    return root / "run"


@pytest.fixture(scope="module")
def adversarial(data, tmp_path_factory):
    return whole_run(data, tmp_path_factory.mktemp("adv"), "adv")


@pytest.fixture(scope="module")
def standard(data, tmp_path_factory):
    return whole_run(data, tmp_path_factory.mktemp("std"), "std")


def clone(run, folder, state, *others):
    """What a repository keeps of a run that came to `state`: no checkpoint."""
    folder.mkdir(parents=True)
    tickets = [f"{k}-ticket.safetensors" for k in range(state + 1)]
    for name in ("init.pth.tar", *tickets, *others):
        shutil.copy(run / name, folder / name)
    return folder / f"{state}-ticket.safetensors"


def flags(ticket, *more, mode="adv"):
    return [*SCHEDULE, "--mode", mode, "--continue_from", str(ticket), *map(str, more)]


def later_files(state):
    """What a run leaves of a state and of all after it."""
    kinds = ("checkpoint.pth.tar", "model_best.pth.tar")
    trained = [f"{k}-{kind}" for k in range(state, 4) for kind in kinds]
    return [*trained, *(f"{k}-ticket.safetensors" for k in range(5)), "init.pth.tar"]


def assert_same_files(found, expected, files):
    for name in files:
        if name.endswith(".pth.tar"):
            assert_same_bits(load(found / name), load(expected / name), name)
        else:
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name


# --- to the bit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [1, 2, 3])
def test_an_adversarial_run_goes_on_to_the_same_files(data, adversarial, tmp_path, state):
    ticket = clone(adversarial, tmp_path / "clone", state, "metrics.jsonl", "args.json")
    before = contents(tmp_path / "clone")
    run_imp(data, tmp_path / "run", *flags(ticket))
    assert_same_files(tmp_path / "run", adversarial, later_files(state))
    assert metrics(tmp_path / "run") == metrics(adversarial)
    assert contents(tmp_path / "clone") == before
    told = [
        read_json(folder / "args.json")["warnings"] for folder in (tmp_path / "run", adversarial)
    ]
    assert told[0] == told[1]


def test_a_standard_run_goes_on_from_its_last_ticket_and_the_initial_weights_alone(
    data, standard, tmp_path, capsys
):
    clone(standard, tmp_path / "clone", 2)
    ticket = shutil.copy(tmp_path / "clone" / "2-ticket.safetensors", tmp_path / "ticket")
    init = shutil.copy(tmp_path / "clone" / "init.pth.tar", tmp_path / "weights")
    run_imp(data, tmp_path / "run", *flags(ticket, "--init", init, mode="std"))
    found, expected = tmp_path / "run", standard
    for k in (2, 3, 4):
        name = f"{k}-ticket.safetensors"
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    weights = [load(folder / "3-checkpoint.pth.tar")["state_dict"] for folder in (found, expected)]
    assert_same_bits(*weights)
    assert metrics(found) == metrics(expected)[2:]
    assert "the figures of 2 of the 2 epochs before it are not known" in capsys.readouterr().err
    assert not (found / "1-ticket.safetensors").exists()


def test_the_dense_ticket_goes_on_with_state_1(data, adversarial, tmp_path):
    ticket = clone(adversarial, tmp_path / "clone", 0, "metrics.jsonl")
    run_imp(data, tmp_path / "run", *flags(ticket))
    assert_same_files(tmp_path / "run", adversarial, later_files(1))


def test_it_goes_on_in_the_folder_of_the_ticket_too(data, adversarial, tmp_path):
    ticket = clone(adversarial, tmp_path / "run", 2, "metrics.jsonl", "args.json")
    run_imp(data, tmp_path / "run", *flags(ticket, "--resume"))
    assert_same_files(tmp_path / "run", adversarial, later_files(2))
    assert metrics(tmp_path / "run") == metrics(adversarial)


def test_a_run_that_went_on_is_resumed_from_its_own_checkpoints(data, adversarial, tmp_path):
    ticket = clone(adversarial, tmp_path / "clone", 2, "metrics.jsonl")
    run_imp(data, tmp_path / "run", *flags(ticket))
    for name in ("3-checkpoint.pth.tar", "4-ticket.safetensors"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "clone")
    run_imp(data, tmp_path / "run", *flags(ticket, "--resume"))
    assert_same_files(tmp_path / "run", adversarial, later_files(2))
    run_imp(data, tmp_path / "run", *SCHEDULE, "--resume")  # the flag may be left out by now


@pytest.mark.parametrize("micro_batch", [None, 5, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_random_starts_are_counted_as_training_draws_them(data, world, micro_batch):
    spec = DataSpec("imagenet", str(data), 16, "crop", True)
    loader, _, _ = build_loaders(spec, batch_size=25, eval_batch_size=4, workers=0, seed=1)
    execution = Execution(micro_batch=micro_batch)
    for rank in range(world):
        expected = [
            len(piece)
            for step, (images, _) in enumerate(loader.epoch(0, 0, rank, world))
            for piece in images.tensor_split(execution.pieces(loader.images_in_batch(step), world))
        ]
        training = SimpleNamespace(
            runtime=Runtime(torch.device("cpu"), rank, world),
            loader=loader,
            steps=loader.num_batches(world),
            execution=execution,
        )
        assert list(_passes(training)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "left"), [(0, [1, 2, 3]), (2, [2, 3])])
def test_the_plan_is_of_what_is_left(data, standard, tmp_path, capsys, state, left):
    ticket = standard / f"{state}-ticket.safetensors"
    run_imp(data, tmp_path / "run", *flags(ticket, "--dry_run", "--json", mode="std"))
    plan = json.loads(capsys.readouterr().out)
    assert [planned["state"] for planned in plan["states"]] == left
    assert (plan["epochs_taken"], plan["epochs"]) == (4 - len(left), len(left))
    assert {"name": "--continue_from", "path": str(ticket), "missing": False} in plan["inputs"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("recorded", "expected"), [(None, None), (7, 7), ("absent", 256)])
def test_images_per_pass_are_those_of_the_tickets_run(standard, tmp_path, recorded, expected):
    ticket = clone(standard, tmp_path / "clone", 2)
    if recorded != "absent":
        write_json(tmp_path / "clone" / "args.json", {"micro_batch": recorded})
    args = build_imp_parser(ARCHS).parse_args(["data", "--continue_from", str(ticket)])
    settle_micro_batch(args)
    assert args.micro_batch == expected


def test_that_dropout_draws_anew_is_told(data, standard, tmp_path, monkeypatch, capsys):
    told = "draws random numbers in training (dropout)"
    for answer in (False, True):
        monkeypatch.setattr(salvage, "draws_in_training", lambda *_, answer=answer: answer)
        ticket = standard / "3-ticket.safetensors"
        run_imp(data, tmp_path / str(answer), *flags(ticket, mode="std"))
        assert (told in capsys.readouterr().err) == answer
    ticket = clone(standard, tmp_path / "start", 0)
    run_imp(data, tmp_path / "state0", *flags(ticket, "--pretrain_epochs", 0, mode="std"))
    assert told not in capsys.readouterr().err  # nothing was drawn before it


# --- other flags, other files -------------------------------------------------------------------


def test_more_states_can_be_added_to_a_finished_run(data, standard, tmp_path, capsys):
    ticket = standard / "4-ticket.safetensors"
    more = ["--epochs", "4"]
    run_imp(data, tmp_path / "run", *flags(ticket, *more, mode="std"))
    assert f"{ticket}: its run had --epochs 3, not 4" in capsys.readouterr().err
    run_imp(data, tmp_path / "longer", *SCHEDULE, "--mode", "std", *more)
    assert_same_files(tmp_path / "run", tmp_path / "longer", ["5-ticket.safetensors"])


def test_a_checkpoint_of_the_released_code_is_a_ticket_to_go_on_from(data, standard, tmp_path):
    own = load(standard / "2-checkpoint.pth.tar")
    file = {name: value for name, value in own.items() if name not in ("resume", "history")}
    init = {n: v for n, v in load(standard / "init.pth.tar").items() if "normalize" not in n}
    save_checkpoint(tmp_path / "released.pth.tar", {**file, "init": init})
    save_checkpoint(tmp_path / "start.pth.tar", init)
    more = ["--init", tmp_path / "start.pth.tar"]
    run_imp(data, tmp_path / "run", *flags(tmp_path / "released.pth.tar", *more, mode="std"))
    for k in (3, 4):
        name = f"{k}-ticket.safetensors"
        assert_same_bits(load_ticket(tmp_path / "run" / name), load_ticket(standard / name))


def test_the_batch_over_all_nodes_is_that_of_the_tickets_run(data, standard, tmp_path, capsys):
    ticket = clone(standard, tmp_path / "clone", 2, "metrics.jsonl")
    theirs = json.loads((standard / "args.json").read_text())
    of_nodes = {"batch_size": 5, "world_size": 5, "processes": 5}  # 25 images a step, as here
    write_json(tmp_path / "clone" / "args.json", {**theirs, **of_nodes})
    run_imp(data, tmp_path / "run", *flags(ticket, "-b", "5", mode="std"))
    told = capsys.readouterr().err
    assert "the run began with steps of 25 images over all nodes and keeps them" in told
    assert "its run had 5 processes, not 1" in told
    assert_same_files(tmp_path / "run", standard, ["4-ticket.safetensors"])
    run_imp(data, tmp_path / "other", *flags(ticket, "-b", "20", mode="std"))
    assert "its run had --batch_size 5, not 20" in capsys.readouterr().err
    assert json.loads((tmp_path / "other" / "args.json").read_text())["global_batch"] == 20


def refused(data, out, capsys, *words):
    taken: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_imp_pretrain, "main", taken.extend)
        run_imp(data, out, *words)
    line = one_error_line(taken, main_imp_pretrain.main, capsys)
    assert not out.exists()
    return line


def test_what_does_not_belong_together_is_refused_in_one_line(
    data, standard, adversarial, tmp_path, capsys
):
    second, out = standard / "2-ticket.safetensors", tmp_path / "out"
    alone = shutil.copy(second, tmp_path / "alone")
    for words, message in (
        (
            flags(second, "--init", adversarial / "init.pth.tar"),
            "does not hold the initial weights",
        ),
        (flags(second, "--rate", "0.5"), "give the --rate of its run"),
        (flags(standard / "4-ticket.safetensors"), "nothing is left to train"),
        (flags(alone), "init.pth.tar of that run by --init"),
        (flags(standard / "init.pth.tar"), "holds no masks"),
        (flags(tmp_path / "gone"), "no such file"),
        (flags(second, "--ticket", "omp"), "goes with --ticket imp"),
        (flags(second, "--width", "8"), "--width 4"),
    ):
        assert message in refused(data, out, capsys, *words), words


def test_figures_of_another_schedule_are_not_taken_over(data, standard, tmp_path, capsys):
    ticket = clone(standard, tmp_path / "clone", 2, "metrics.jsonl")  # and no args.json
    words = flags(ticket, "--pretrain_epochs", "0", mode="std")
    told = "epoch 0 in state 0, with these flags it is of state 1; give --pretrain_epochs"
    assert told in refused(data, tmp_path / "out", capsys, *words)
    (tmp_path / "clone" / "metrics.jsonl").unlink()
    run_imp(data, tmp_path / "out", *words)
    assert "the figures of 1 of the 1 epochs before it are not known" in capsys.readouterr().err


@pytest.mark.parametrize("state", [1, 4, 12, 24, 40])
def test_a_density_tells_the_rate_at_every_depth(state):
    kept = 10**6
    for _ in range(state):
        kept -= round(0.2 * kept)
    masks = {"conv1.weight_mask": torch.arange(10**6) < kept}
    check_density("ticket", masks, state, 0.2)
    for rate in (0.17, 0.23):
        with pytest.raises(InputError, match=r"density of .* give the --rate of its run"):
            check_density("ticket", masks, state, rate)


def test_only_tickets_of_imp_have_a_state_to_go_on_with(data, standard, tmp_path, capsys):
    init = str(standard / "init.pth.tar")
    run_imp(data, tmp_path / "omp", *SCHEDULE, "--ticket", "omp", "--init", init)
    line = refused(data, tmp_path / "out", capsys, *flags(tmp_path / "omp/2-ticket.safetensors"))
    assert "a ticket of kind omp" in line
