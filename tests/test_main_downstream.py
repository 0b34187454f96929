"""main_downstream.py: what is measured, kept and written, and runs that go on after a stop."""

import contextlib
import io
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.main_cases import (
    CLASSES,
    HERE,
    PER_CLASS,
    Interrupted,
    assert_same_bits,
    assert_same_run,
    contents,
    copy_after_each_epoch,
    die,
    die_saving,
    documented_fields,
    draw_curves,
    effective_weights,
    load,
    metrics,
    names,
    one_error_line,
    read_json,
    replace,
    run_imp,
    run_transfer,
    skip_pictures,
    write_images,
)
from PIL import Image
from torchvision import transforms

import attack_utils
import main_downstream
import pruning_utils
from attack_utils import PGDConfig, make_advertorch_pgd
from cli.networks import apply_ticket
from engine import log, steps
from engine.distributed import seed_everything
from engine.steps import Metrics
from errors import InputError
from files.atomic import sha256_of, write_json
from files.checkpoints import bare_keys, save_checkpoint
from files.outcomes import read_outcomes
from files.tickets import load_ticket, read_ticket, save_ticket
from models import build_model

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ALWAYS = {
    "args.json",
    "metrics.jsonl",
    "tb",
    "net_train.png",
    "results.json",
    "outcomes.safetensors",
}
STANDARD_FILES = ALWAYS | {"checkpoint.pth.tar", "model_SA_best.pth.tar"}
ADVERSARIAL_FILES = STANDARD_FILES | {"model_RA_best.pth.tar"}
ATTACK = ["--train_step", "2", "--test_step", "3", "--train_eps", "4/255", "--test_eps", "4/255"]
ADV = ["--mode", "adv", "--epochs", "4", "--eval_from", "1", "--tag", "adv", *ATTACK]
ADV += ["--augment", "crop"]  # images of 16 pixels as they are; the others by the recipe, resized
STD = ["--mode", "std", "--epochs", "3", "--lr", "0.05", "--decreasing_lr", "1,2"]

SHORT = ["--mode", "std", "--epochs", "1"]


def tiny(stem="cifar", width=4):
    return build_model("resnet20s", 3, *IMAGENET, stem, width)


def flags_of(data, save_dir, *flags):
    taken: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_downstream, "main", taken.extend)
        run_transfer(data, save_dir, *flags)
    return taken


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    skip_pictures(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("target") / "data", seed=1)


@pytest.fixture(scope="module")
def imp(data, tmp_path_factory):
    """An IMP run of two states to take weights and tickets from."""
    folder = tmp_path_factory.mktemp("imp") / "run"
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_imp(data, folder, "--mode", "std", "--epochs", "2", "--prune_epoch", "1", "--seed", "7")
        run_imp(data, folder, "--mode", "adv", "--export_released", "2")
    return folder


def with_ticket(imp, name="2-ticket.safetensors"):
    return ["--init", str(imp / "init.pth.tar"), "--tickets_file", str(imp / name)]


def whole_run(data, root, *flags):
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        skip_pictures(patch)
        copy_after_each_epoch(patch, root / "copies")
        run_transfer(data, root / "run", *flags)
    lines = printed.getvalue().splitlines()
    return SimpleNamespace(folder=root / "run", copies=root / "copies", flags=flags, lines=lines)


@pytest.fixture(scope="module")
def adversarial(data, imp, tmp_path_factory):
    """A whole adversarial transfer of the ticket of state 2, copied after every epoch."""
    return whole_run(data, tmp_path_factory.mktemp("adv"), *ADV, *with_ticket(imp))


@pytest.fixture(scope="module")
def standard(data, imp, tmp_path_factory):
    """A whole standard transfer of the ticket of state 2, copied after every epoch."""
    return whole_run(data, tmp_path_factory.mktemp("std"), *STD, *with_ticket(imp))


# --- results ------------------------------------------------------------------------------------

RESULT_KEYS = {
    "pretraining", "ticket", "state", "density", "ticket_sha256", "dataset", "mode",
    "data_number", "seed", "arch", "sa_best", "ra_best", "last",
    "attack", "init", "init_sha256", "test_split", "class_names", "warnings",
}  # fmt: skip


def test_results_json_has_these_entries(adversarial, standard, imp):
    for run, mode, tag in ((adversarial, "adv", "adv"), (standard, "std", "unnamed")):
        results = read_json(run.folder / "results.json")
        assert set(results) == RESULT_KEYS | set(log.provenance())
        assert (results["pretraining"], results["ticket"], results["state"]) == (tag, "imp", 2)
        ticket = imp / "2-ticket.safetensors"
        kept = torch.cat(flat(load_ticket(ticket))).double().mean().item()
        assert results["density"] == pytest.approx(kept, abs=1e-12)
        assert results["ticket_sha256"] == sha256_of(ticket)
        assert (results["dataset"], results["mode"]) == ("folder", mode)
        assert (results["data_number"], results["seed"]) == (1.0, 1)
        assert results["arch"] == "resnet20s"
        assert results["init"] == imp.name
        assert results["class_names"] == sorted(CLASSES)
        assert results["warnings"] == []
        pgd = "Linf PGD-3, eps 4/255, step size 2/255, random start"
        assert results["attack"] == (pgd if mode == "adv" else None)
        for role in ("sa_best", "ra_best", "last"):
            assert set(results[role]) == {"sa", "ra"}


def test_the_documented_fields_of_results_json_are_those_that_runs_write(adversarial):
    fields = documented_fields()
    asked = {name for name, told in fields.items() if told.startswith("only with `--")}
    assert asked == {"restarts", "autoattack", "masking_checks"}
    assert fields.keys() - asked == set(read_json(adversarial.folder / "results.json"))


def test_accuracies_are_exactly_the_means_of_the_outcomes(adversarial, standard):
    for run, measures in ((adversarial, {"sa": "clean", "ra": "pgd"}), (standard, {"sa": "clean"})):
        results = read_json(run.folder / "results.json")
        outcomes = read_outcomes(run.folder / "outcomes.safetensors")
        roles = ("sa_best", "ra_best", "last") if len(measures) == 2 else ("sa_best", "last")
        assert set(outcomes.bits) == {(r, m) for r in roles for m in measures.values()}
        for role in roles:
            for name, measure in measures.items():
                assert outcomes.accuracy(role, measure) == results[role][name]
        assert (outcomes.images, outcomes.seed) == (12, 1)
        own = {key: results[key] for key in ("mode", "ticket_sha256", "init_sha256")}
        assert outcomes.run == {key: value for key, value in own.items() if value is not None}


def test_outcomes_are_in_the_order_of_the_split(adversarial, data):
    """Another network's look at each test image alone, in the order of names, agrees."""
    model = tiny()
    weights = bare_keys(load(adversarial.folder / "checkpoint.pth.tar")["state_dict"])
    model.load_state_dict(effective_weights(weights))
    model.eval()
    bits = read_outcomes(adversarial.folder / "outcomes.safetensors").bits["last", "clean"]
    frame = transforms.Compose([transforms.Resize(18), transforms.CenterCrop(16)])
    found = []
    for label, name in enumerate(sorted(CLASSES)):
        for file in sorted((data / "test" / name).iterdir()):
            image = transforms.functional.to_tensor(frame(Image.open(file).convert("RGB")))
            found.append(int(model(image[None]).argmax()) == label)
    assert found == bits.tolist()


def flat(tensors):
    return [tensor.flatten() for tensor in tensors.values()]


@pytest.mark.parametrize("becomes", ["deleted", "another"])
def test_a_ticket_file_that_changes_in_mid_run_does_not_matter(
    data, imp, standard, tmp_path, monkeypatch, becomes
):
    ticket, other = tmp_path / "t.safetensors", imp / "1-ticket.safetensors"
    shutil.copy(imp / "2-ticket.safetensors", ticket)
    train = steps.train_one_epoch

    def train_and_change(*args, **rest):
        ticket.unlink(missing_ok=True)
        if becomes == "another":
            shutil.copy(other, ticket)
        return train(*args, **rest)

    replace(monkeypatch, train, train_and_change)
    init = ["--init", str(imp / "init.pth.tar"), "--tickets_file", str(ticket)]
    run_transfer(data, tmp_path / "run", *STD, *init)
    found, expected = (
        {key: read_json(run / "results.json")[key] for key in RESULT_KEYS}
        for run in (tmp_path / "run", standard.folder)
    )
    assert found == expected


def test_ra_is_null_where_it_was_not_measured(adversarial, standard):
    results = read_json(standard.folder / "results.json")
    assert results["ra_best"] == {"sa": None, "ra": None}
    assert results["sa_best"]["ra"] is results["last"]["ra"] is None
    assert results["sa_best"]["sa"] is not None
    results = read_json(adversarial.folder / "results.json")
    for role in ("sa_best", "ra_best", "last"):
        assert all(0 <= value <= 100 for value in results[role].values())


def measured(path, data, *, eps=None, resize=16):
    """Accuracy of a saved network on the test images, in percent, by PIL and advertorch."""
    state = load(path)["state_dict"]
    model = tiny()
    weights = {name.removeprefix("1."): value for name, value in state.items()}
    weights = {
        f"normalize.{name[2:]}" if name.startswith("0.") else name: value
        for name, value in weights.items()
    }
    model.load_state_dict(effective_weights(weights))
    model.eval()
    framed = transforms.Compose(
        [transforms.Resize(resize), transforms.CenterCrop(16), transforms.ToTensor()]
    )
    images, labels = [], []
    for label, name in enumerate(sorted(CLASSES)):
        for file in sorted((data / "test" / name).iterdir()):
            images.append(framed(Image.open(file)))
            labels.append(label)
    batch = torch.stack(images)
    target = torch.tensor(labels)
    if eps is not None:
        seed_everything(1)
        attack = PGDConfig(eps, 3, 2 / 255)
        batch = make_advertorch_pgd(model, attack)(batch, target)
    with torch.no_grad():
        return 100 * (model(batch).argmax(1) == target).double().mean().item()


FILE_OF = {
    "sa_best": "model_SA_best.pth.tar",
    "ra_best": "model_RA_best.pth.tar",
    "last": "checkpoint.pth.tar",
}


def test_the_figures_are_accuracies_on_the_test_images_of_the_files_kept(
    adversarial, standard, data
):
    one_image = 100 / (3 * PER_CLASS["test"])
    results = read_json(adversarial.folder / "results.json")
    for role, name in FILE_OF.items():
        path = adversarial.folder / name
        assert results[role]["sa"] == pytest.approx(measured(path, data))
        by_advertorch = measured(path, data, eps=4 / 255)
        assert results[role]["ra"] == pytest.approx(by_advertorch, abs=one_image + 1e-9)
    results = read_json(standard.folder / "results.json")
    for role in ("sa_best", "last"):
        path = standard.folder / FILE_OF[role]
        by_pil = measured(path, data, resize=16 * 256 // 224)
        assert results[role]["sa"] == pytest.approx(by_pil, abs=one_image + 1e-9)


def test_the_final_test_equals_evaluate_of_the_same_file(adversarial, standard, data, tmp_path):
    for run, roles in ((adversarial, FILE_OF), (standard, ("sa_best", "last"))):
        results = read_json(run.folder / "results.json")
        for role in roles:
            path = run.folder / FILE_OF[role]
            out = tmp_path / run.folder.parent.name / role
            run_transfer(data, out, *run.flags, "--evaluate", "--resume", str(path))
            assert names(out) == {"eval.json", "eval.outcomes.safetensors"}
            written = read_json(out / "eval.json")
            assert written["checkpoint"] == str(path)
            assert {key: written[key] for key in ("sa", "ra")} == results[role]


def test_the_final_test_and_evaluate_draw_the_same_random_starts(data, imp, tmp_path, monkeypatch):
    crafted = []
    make = attack_utils.make_pgd

    def spy(model, config, *rest):
        perturb = make(model, config, *rest)

        def perturb_and_keep(images, labels):
            crafted.append(perturb(images, labels))
            return crafted[-1]

        return perturb_and_keep

    replace(monkeypatch, make, spy)
    # without steps what is crafted is the random start; of one epoch, the last is the best
    flags = [*ADV, *with_ticket(imp), "--epochs", "1", "--test_step", "0"]
    run_transfer(data, tmp_path / "run", *flags)
    in_the_run = crafted[-1]
    torch.manual_seed(1234)
    run_transfer(data, tmp_path / "run", *flags, "--evaluate")
    assert torch.equal(crafted[-1], in_the_run)
    run_transfer(data, tmp_path / "run", *flags, "--evaluate", "--seed", "2")
    assert not torch.equal(crafted[-1], in_the_run)


def test_evaluate_takes_the_newest_checkpoint_of_the_folder(adversarial, data, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(adversarial.folder, folder)
    before = contents(folder)
    run_transfer(data, folder, *adversarial.flags, "--evaluate")
    written = read_json(folder / "eval.json")
    assert written["checkpoint"] == str(folder / "checkpoint.pth.tar")
    last = read_json(folder / "results.json")["last"]
    assert (written["sa"], written["ra"]) == (last["sa"], last["ra"])
    (folder / "eval.json").unlink()
    (folder / "eval.outcomes.safetensors").unlink()
    assert contents(folder) == before


# --- files --------------------------------------------------------------------------------------


def test_a_run_writes_these_files_and_no_other(adversarial, standard):
    assert names(adversarial.folder) == ADVERSARIAL_FILES
    assert names(standard.folder) == STANDARD_FILES
    assert names(adversarial.copies / "4") == ADVERSARIAL_FILES - {
        "results.json",
        "outcomes.safetensors",
    }


def test_checkpoints_have_the_released_entries_and_open_without_an_allow_list(
    adversarial, standard, imp
):
    bare = set(tiny().state_dict()) - {"normalize.mean", "normalize.std"}
    ticket = load_ticket(imp / "2-ticket.safetensors")
    pruned = {name.removesuffix("_mask") for name in ticket}
    expected = {f"1.{name}" for name in bare - pruned} | {"0.mean", "0.std"}
    expected |= {f"1.{name}_{end}" for name in pruned for end in ("orig", "mask")}
    entries = {"best_sa", "best_ra", "result", "epoch", "arch", "state_dict"}
    more = {"optimizer", "scheduler"}
    for run, epochs in ((adversarial, 4), (standard, 3)):
        for path in run.folder.glob("*.pth.tar"):
            file = load(path)
            last = path.name == "checkpoint.pth.tar"
            assert (entries | more if last else entries) <= set(file), path
            assert last or not more & set(file)
            assert file["epoch"] == epochs or not last
            assert set(file["state_dict"]) == expected
            for name, mask in ticket.items():
                assert torch.equal(file["state_dict"][f"1.{name}"], mask)  # bool, and kept
            weights = effective_weights(file["state_dict"])
            for name, mask in ticket.items():
                weight = weights[f"1.{name.removesuffix('_mask')}"]
                assert weight[~mask].count_nonzero() == 0
            assert set(file["result"]) == {"train", "ta", "ra", "test_ta", "test_ra"}
            assert {len(curve) for curve in file["result"].values()} == {file["epoch"]}
    last = load(adversarial.folder / "checkpoint.pth.tar")
    assert torch.allclose(last["state_dict"]["0.mean"], torch.tensor(IMAGENET[0]))
    assert last["scheduler"] == {"kind": "constant", "last_epoch": 4}
    assert load(standard.folder / "checkpoint.pth.tar")["best_ra"] is None


def test_what_was_not_measured_is_none(adversarial, standard):
    result = load(adversarial.folder / "checkpoint.pth.tar")["result"]
    measured = {name: [v is not None for v in curve] for name, curve in result.items()}
    evaluated = [False, True, True, True]  # --eval_from 1
    assert measured == {
        "train": [True] * 4, "ta": evaluated, "ra": evaluated,
        "test_ta": [False] * 4, "test_ra": [False] * 4,
    }  # fmt: skip
    result = load(standard.folder / "checkpoint.pth.tar")["result"]
    measured = {name: {v is not None for v in curve} for name, curve in result.items()}
    assert measured == {
        "train": {True}, "ta": {True}, "test_ta": {True}, "ra": {False}, "test_ra": {False}
    }  # fmt: skip


def test_metrics_jsonl_has_the_figures_of_every_epoch(adversarial, standard):
    lines = metrics(adversarial.folder)
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert ["val_sa" in line for line in lines] == [False, True, True, True]
    result = load(adversarial.folder / "checkpoint.pth.tar")["result"]
    assert [line.get("val_ra") for line in lines] == result["ra"]
    assert [line["train_acc"] for line in lines] == result["train"]
    lines = metrics(standard.folder)
    assert [line["test_sa"] for line in lines] == load(standard.folder / "checkpoint.pth.tar")[
        "result"
    ]["test_ta"]
    # x0.1 at the milestones, stepped per epoch
    assert [line["lr"] for line in lines] == pytest.approx([0.05, 0.005, 0.0005])


def test_save_all_keeps_the_bare_weights_of_every_epoch(data, imp, adversarial, tmp_path):
    run_transfer(data, tmp_path / "run", *adversarial.flags, "--save_all")
    extra = {f"{epoch}-checkpoint.pth.tar" for epoch in (0, 1, 2, 3)}
    assert names(tmp_path / "run") == ADVERSARIAL_FILES | extra
    for epoch in (0, 3):  # as --eval_from counts them
        bare = load(tmp_path / "run" / f"{epoch}-checkpoint.pth.tar")
        copied = load(adversarial.copies / str(epoch + 1) / "checkpoint.pth.tar")["state_dict"]
        assert_same_bits(dict(bare), dict(copied))
    for name in extra:
        (tmp_path / "run" / name).unlink()
    assert_same_run(tmp_path / "run", adversarial.folder)


def test_the_curves_are_drawn_from_what_was_measured(data, imp, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(main_downstream, "plot_curves", lambda *args, **_: drawn.append(args))
    run_transfer(data, tmp_path / "run", *STD, *with_ticket(imp))
    path, x, curves, *_ = drawn[-1]
    assert path == tmp_path / "run" / "net_train.png"
    assert list(x) == [1, 2, 3]
    result = load(tmp_path / "run" / "checkpoint.pth.tar")["result"]
    assert curves["val SA"] == result["ta"]
    assert curves["test RA"] == [None] * 3


def test_a_real_net_train_png(data, imp, tmp_path, monkeypatch):
    monkeypatch.setattr(main_downstream, "plot_curves", draw_curves)
    run_transfer(data, tmp_path / "run", *SHORT, *with_ticket(imp))
    with Image.open(tmp_path / "run" / "net_train.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


# --- lines --------------------------------------------------------------------------------------


def test_the_lines_that_scripts_read_are_printed(adversarial, standard):
    results = read_json(adversarial.folder / "results.json")
    wanted = [
        f"* TA best SA={results['sa_best']['sa']}",
        f"* TA best RA={results['sa_best']['ra']}",
        f"* RA best SA={results['ra_best']['sa']}",
        f"* RA best RA={results['ra_best']['ra']}",
    ]
    assert [line for line in adversarial.lines if " best " in line] == wanted
    results = read_json(standard.folder / "results.json")
    wanted = [f"* last SA={results['last']['sa']}", f"* best SA={results['sa_best']['sa']}"]
    assert [line for line in standard.lines if " SA=" in line] == wanted
    for run in (adversarial, standard):
        remain = [line for line in run.lines if line.startswith("* remain weight =  ")]
        assert len(remain) == 2  # at start and end
        assert all(re.fullmatch(r"\* remain weight =  64\.00\d+ %", line) for line in remain)
        first_epoch = next(i for i, line in enumerate(run.lines) if "epoch 1/" in line)
        assert run.lines.index(remain[0]) < first_epoch


def test_a_log_has_the_released_codes_lines_of_every_epoch_in_its_order(adversarial, standard):
    """A learning rate alone on its line, train_accuracy, valid_accuracy of each pass, * Time."""
    released = re.compile(r"(train_accuracy|valid_accuracy|\* Time =)? ?([\d.e-]+)")
    results = read_json(adversarial.folder / "results.json")
    final = [results[role][what] for role in ("sa_best", "ra_best") for what in ("sa", "ra")]
    for run, measured, tested in (
        (adversarial, ("val_sa", "val_ra"), final),
        (standard, ("val_sa", "test_sa"), []),
    ):
        wanted = [("valid_accuracy", f"{value:.3f}") for value in tested]
        for line in reversed(metrics(run.folder)):
            accuracies = [line[name] for name in measured if name in line]
            wanted = [
                (None, str(line["lr"])),
                ("train_accuracy", f"{line['train_acc']:.3f}"),
                *(("valid_accuracy", f"{value:.3f}") for value in accuracies),
                ("* Time =", "seconds"),
                *wanted,
            ]
        found = [match.groups() for line in run.lines if (match := released.fullmatch(line))]
        seconds = [value for word, value in found if word == "* Time ="]
        assert all(0 < float(value) < 600 for value in seconds)
        assert [(w, "seconds" if w == "* Time =" else v) for w, v in found] == wanted


def test_on_a_terminal_an_epoch_is_one_line(data, imp, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    run_transfer(data, tmp_path / "run", *SHORT, *with_ticket(imp))
    printed = capsys.readouterr().out
    assert "epoch 1/" in printed
    assert "* best SA=" in printed
    assert "_accuracy" not in printed
    assert "* Time" not in printed


def test_validation_losses_are_recorded_and_are_the_means_over_the_split(adversarial, standard):
    lines = metrics(adversarial.folder)
    assert ["val_loss" in line for line in lines] == [False, True, True, True]
    assert all(line["val_adv_loss"] > line["val_loss"] > 0 for line in lines[1:])
    for line in metrics(standard.folder):
        assert line["val_loss"] > 0
        assert "val_adv_loss" not in line


# --- which epoch is best ------------------------------------------------------------------------


def script(monkeypatch, sa, ra):
    """Give the epochs' validation accuracies; the test accuracies stay real.

    After an epoch the validation images come first, and under attack second.
    """
    train, measure = steps.train_one_epoch, steps.evaluate
    epoch, seen = -1, list[int]()

    def count(*args, **rest):
        nonlocal epoch
        epoch += 1
        return train(*args, **rest)

    def pretend(model, batches, *, perturb=None, **rest):
        calls = seen.count(epoch)
        seen.append(epoch)
        if calls == 0 and perturb is None:
            return Metrics(12, 1.0, sa[epoch], 100.0)
        if calls == 1 and perturb is not None:
            return Metrics(12, 1.0, ra[epoch], 100.0)
        return measure(model, batches, perturb=perturb, **rest)

    replace(monkeypatch, train, count)
    replace(monkeypatch, measure, pretend)
    return seen


@pytest.mark.parametrize(
    ("eval_from", "sa", "ra", "evaluated", "best"),
    [
        (0, [30.0, 50.0, 50.0, 40.0], [20.0, 10.0, 25.0, 25.0], [0, 1, 2, 3], (2, 3)),
        (2, [90.0, 80.0, 50.0, 50.0], [90.0, 80.0, 1.0, 2.0], [2, 3], (3, 4)),
        (99, [90.0, 80.0, 50.0, 0.5], [90.0, 80.0, 1.0, 0.0], [3], (4, 4)),
        (0, [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0, 1, 2, 3], (1, 1)),
    ],
)
def test_best_is_the_earliest_best_of_the_epochs_evaluated(
    data, imp, tmp_path, monkeypatch, eval_from, sa, ra, evaluated, best
):
    seen = script(monkeypatch, sa, ra)
    flags = [*ADV, *with_ticket(imp), "--eval_from", str(eval_from)]
    run_transfer(data, tmp_path / "run", *flags)
    assert sorted(set(seen)) == evaluated
    kept = [load(tmp_path / "run" / FILE_OF[role]) for role in ("sa_best", "ra_best", "last")]
    assert [file["epoch"] for file in kept] == [*best, 4]
    assert kept[2]["best_sa"] == sa[best[0] - 1]
    assert kept[2]["best_ra"] == ra[best[1] - 1]
    expected = [value if epoch in evaluated else None for epoch, value in enumerate(sa)]
    assert kept[2]["result"]["ta"] == expected


def test_standard_best_is_the_test_accuracy_at_the_earliest_best_validation_epoch(
    data, imp, tmp_path, monkeypatch
):
    script(monkeypatch, [40.0, 60.0, 60.0], [])
    run_transfer(data, tmp_path / "run", *STD, *with_ticket(imp))
    curve = load(tmp_path / "run" / "checkpoint.pth.tar")["result"]["test_ta"]
    results = read_json(tmp_path / "run" / "results.json")
    assert results["sa_best"]["sa"] == curve[1]
    assert results["last"]["sa"] == curve[2]


def test_a_folder_without_val_or_test_uses_what_is_there(data, imp, tmp_path, capsys):
    only_val = tmp_path / "only_val"
    for split in ("train", "val"):
        shutil.copytree(data / split, only_val / split)
    run_transfer(only_val, tmp_path / "a", *STD, *with_ticket(imp))
    result = load(tmp_path / "a" / "checkpoint.pth.tar")["result"]
    assert result["ta"] == result["test_ta"]  # val serves as the test set too
    only_test = tmp_path / "only_test"
    for split in ("train", "test"):
        shutil.copytree(data / split, only_test / split)
    run_transfer(only_test, tmp_path / "b", *STD, *with_ticket(imp))
    assert "data: folder, 33 training, 3 validation and 12 test images" in capsys.readouterr().out


def test_data_number_trains_on_that_part_of_each_class(data, imp, tmp_path, capsys):
    flags = [*SHORT, *with_ticket(imp)]
    run_transfer(data, tmp_path / "run", *flags, "--data_number", "0.5")
    printed = capsys.readouterr().out
    assert "data: folder, 18 training, 12 validation and 12 test images, 3 classes" in printed
    assert read_json(tmp_path / "run" / "results.json")["data_number"] == 0.5
    momentum = load(tmp_path / "run" / "checkpoint.pth.tar")["state_dict"]
    assert momentum["1.bn1.num_batches_tracked"] - load(imp / "init.pth.tar")[
        "bn1.num_batches_tracked"
    ] == -(-18 // 12)


def test_digits_are_a_data_set_with_a_recipe_of_their_own(imp, tmp_path, capsys):
    main_downstream.main(
        [
            *("--dataset", "digits", "--mode", "std", "--data_number", "0.05", "--epochs", "1"),
            *("-b", "30"),
            *("-a", "resnet20s", "--width", "4", *HERE, "--save_dir", str(tmp_path / "run")),
            *with_ticket(imp),
        ]
    )
    assert "data: digits, 60 training, " in capsys.readouterr().out
    written = read_json(tmp_path / "run" / "args.json")
    assert (written["input_size"], written["augment"], written["hflip"]) == (32, "crop", False)
    assert read_json(tmp_path / "run" / "results.json")["dataset"] == "digits"


# --- tickets and weights ------------------------------------------------------------------------


def network(data, save_dir, *flags):
    """The state dict that a transfer with these flags starts from."""
    state = {}

    def stop(model, *_, **__):
        state.update({name: value.clone() for name, value in model.state_dict().items()})
        raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        replace(patch, steps.train_one_epoch, stop)
        with pytest.raises(Interrupted):
            run_transfer(data, save_dir, *ADV, *flags)
    shutil.rmtree(save_dir)
    return state


def masks(state):
    return {name: value for name, value in state.items() if name.endswith("weight_mask")}


def test_a_ticket_of_another_search_is_told_of(data, imp, tmp_path):
    init, ticket = imp / "init.pth.tar", imp / "1-ticket.safetensors"
    flags = ["--mode", "std", "--epochs", "1", "--tickets_file", str(ticket)]
    run_transfer(data, tmp_path / "own", "--init", str(init), *flags)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "init.pth.tar"
    weights = load(init)
    torch.save(weights | {"conv1.weight": weights["conv1.weight"] + 1}, other)
    run_transfer(data, tmp_path / "mixed", "--init", str(other), *flags)
    warnings = [
        [
            line
            for line in read_json(tmp_path / run / "results.json")["warnings"]
            if "ticket" in line
        ]
        for run in ("own", "mixed")
    ]
    assert warnings == [
        [],
        [
            f"--tickets_file {ticket}: belongs to other initial weights than {other}; take those "
            "that its search began with (of one by this code: init.pth.tar beside it)"
        ],
    ]


def test_a_ticket_goes_with_the_file_that_its_search_began_with_and_no_other(data, tmp_path):
    for number in (1, 2):
        model = build_model("resnet20s", 3, (0.5,) * 3, (0.2,) * 3, "cifar", 4)
        save_checkpoint(tmp_path / f"{number}.pth.tar", {"state_dict": model.state_dict()})
    search = ["--mode", "std", "--epochs", "1", "--prune_epoch", "1", "--lr", "0.01"]
    begun = {
        "plain": [],
        "trained": ["--pretrain_epochs", "1"],
    }
    for name, more in begun.items():
        run_imp(data, tmp_path / name, *search, *more, "--init", str(tmp_path / "1.pth.tar"))
    run_imp(data, tmp_path / "random", *search)
    told = {}
    for search_of, init in (
        ("random", "1.pth.tar"), ("random", "random/init.pth.tar"),
        ("plain", "1.pth.tar"), ("plain", "2.pth.tar"), ("plain", "plain/init.pth.tar"),
        ("trained", "1.pth.tar"), ("trained", "trained/init.pth.tar"),
        ("trained", "plain/init.pth.tar"),
    ):  # fmt: skip
        ticket = tmp_path / search_of / "1-ticket.safetensors"
        save_dir = tmp_path / f"{search_of} {init.replace('/', ' ')}"
        flags = ["--init", str(tmp_path / init), "--tickets_file", str(ticket)]
        run_transfer(data, save_dir, "--mode", "std", "--epochs", "1", *flags)
        lines = read_json(save_dir / "results.json")["warnings"]
        told[search_of, init] = any("belongs to other initial weights" in line for line in lines)
    assert told == {
        ("random", "1.pth.tar"): True, ("random", "random/init.pth.tar"): False,
        ("plain", "1.pth.tar"): False, ("plain", "2.pth.tar"): True,
        ("plain", "plain/init.pth.tar"): False, ("trained", "1.pth.tar"): True,
        ("trained", "trained/init.pth.tar"): False, ("trained", "plain/init.pth.tar"): True,
    }  # fmt: skip


@pytest.mark.parametrize("how", ["apart", "no val", "linked", "copied"])
def test_test_images_that_choose_the_best_network_are_warned_of(data, tmp_path, how):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    if how != "apart":
        shutil.rmtree(folder / "val")
        val = {"no val": "rename", "linked": "symlink_to", "copied": ""}[how]
        if val == "rename":
            (folder / "test").rename(folder / "val")
        elif val:
            (folder / "val").symlink_to(folder / "test")
        else:
            shutil.copytree(folder / "test", folder / "val")
    run_transfer(folder, tmp_path / "run", *SHORT)
    told = read_json(tmp_path / "run" / "results.json")["warnings"]
    assert any("too good by that choice" in line for line in told) == (how != "apart")


@pytest.mark.parametrize("kind", ["1-ticket.safetensors", "1-checkpoint.pth.tar"])
def test_a_ticket_knows_its_initial_weights_wherever_they_and_it_lie(data, imp, tmp_path, kind):
    alone, elsewhere = tmp_path / "alone", tmp_path / "elsewhere"
    for folder in (alone, elsewhere):
        folder.mkdir()
    shutil.copy(imp / kind, alone)
    copied = elsewhere / "initial.pt"
    torch.save({"state_dict": load(imp / "init.pth.tar")}, copied)  # other bytes, the same weights
    for init, told in ((copied, 0), (imp / "1-model_best.pth.tar", 1), (alone / kind, 1)):
        if init.suffix == ".safetensors":
            continue
        save_dir = tmp_path / f"{init.parent.name} {init.stem}"
        flags = ["--init", str(init), "--tickets_file", str(alone / kind)]
        run_transfer(data, save_dir, "--mode", "std", "--epochs", "1", *flags)
        lines = read_json(save_dir / "results.json")["warnings"]
        assert sum("belongs to other initial weights" in line for line in lines) == told, init


def test_a_ticket_of_an_earlier_version_is_known_by_the_file_that_it_names(data, imp, tmp_path):
    ticket = tmp_path / "1-ticket.safetensors"
    found = read_ticket(imp / "1-ticket.safetensors")
    save_ticket(
        ticket, found.masks, arch="resnet20s", state=1, density=0.8, init_sha256=found.init_sha256
    )
    other = tmp_path / "init.pth.tar"
    torch.save(load(imp / "init.pth.tar") | {"of": "another search"}, other)
    for init, told in ((imp / "init.pth.tar", 0), (other, 1)):
        flags = ["--init", str(init), "--tickets_file", str(ticket)]
        run_transfer(data, tmp_path / str(told), "--mode", "std", "--epochs", "1", *flags)
        lines = read_json(tmp_path / str(told) / "results.json")["warnings"]
        assert sum("belongs to other initial weights" in line for line in lines) == told


def test_a_ticket_of_another_search_is_told_of_where_the_first_convolution_is_fresh(
    data, imp, tmp_path
):
    other = tmp_path / "init.pth.tar"
    torch.save(load(imp / "init.pth.tar") | {"of": "another search"}, other)
    for init, told in ((imp / "init.pth.tar", 0), (other, 1)):
        flags = ["--init", str(init), "--tickets_file", str(imp / "1-ticket.safetensors")]
        save_dir = tmp_path / str(told)
        run_transfer(data, save_dir, "--mode", "std", "--epochs", "1", "--stem", "imagenet", *flags)
        lines = read_json(save_dir / "results.json")["warnings"]
        assert sum("stem" in line for line in lines) > 0
        assert sum("belongs to other initial weights" in line for line in lines) == told


def test_checkpoints_that_serve_as_tickets_are_compared_with_their_weights_too(data, imp, tmp_path):
    other = {name: v + 1 if name == "conv1.weight" else v
             for name, v in load(imp / "init.pth.tar").items()}  # fmt: skip
    save_checkpoint(tmp_path / "init.pth.tar", other)
    own = load(imp / "1-checkpoint.pth.tar")
    file = {name: value for name, value in own.items() if name not in ("resume", "history")}
    weights = {n: v for n, v in load(imp / "init.pth.tar").items() if "normalize" not in n}
    save_checkpoint(tmp_path / "released.pth.tar", {**file, "init": weights})
    for ticket in (imp / "1-checkpoint.pth.tar", tmp_path / "released.pth.tar"):
        for init, told in ((imp / "init.pth.tar", 0), (tmp_path / "init.pth.tar", 1)):
            save_dir = tmp_path / f"{ticket.stem} {told}"
            flags = ["--init", str(init), "--tickets_file", str(ticket)]
            run_transfer(data, save_dir, "--mode", "std", "--epochs", "1", *flags)
            lines = read_json(save_dir / "results.json")["warnings"]
            assert sum("belongs to other initial weights" in line for line in lines) == told
            going_on = ["--mode", "std", "--prune_epoch", "1", "--epochs", "2", "--lr", "0.01",
                        "--continue_from", str(ticket), "--init", str(init)]  # fmt: skip
            if told:
                with pytest.raises(InputError, match="does not hold the initial weights"):
                    run_imp(data, tmp_path / "on", *going_on)
                assert not (tmp_path / "on").exists()
            else:
                run_imp(data, tmp_path / f"on from {ticket.stem}", *going_on)


def test_a_ticket_of_a_smaller_network_of_the_family_is_refused(data, tmp_path):
    for arch in ("resnet18", "preact_resnet18"):
        model = build_model(arch, 3, (0.5,) * 3, (0.2,) * 3, "cifar")
        pruning_utils.prune_by_magnitude(model, 0.2)
        found = {"arch": arch, "state": 1, "density": 0.8, "init_sha256": ""}
        save_ticket(tmp_path / f"{arch}.safetensors", pruning_utils.masks(model), **found)
    flags = ["--mode", "std", "--epochs", "1", "--stem", "cifar", "--tickets_file"]
    argv = ["--dataset", "folder", "--data", str(data), "--save_dir", str(tmp_path / "run"),
            *HERE, *flags, str(tmp_path / "resnet18.safetensors")]  # fmt: skip
    with pytest.raises(InputError, match=r"one of resnet18: .* 20 of the 36 .* give -a resnet18"):
        main_downstream.main([*argv, "-a", "resnet34", "--input_size", "16"])
    assert not (tmp_path / "run").exists()
    warnings = log.Warnings()
    other = build_model("preact_resnet18_raw", 3, (0.5,) * 3, (0.2,) * 3, "cifar")
    apply_ticket(other, read_ticket(tmp_path / "preact_resnet18.safetensors"), warnings)
    assert warnings.lines == [
        "ticket: the file says it is of preact_resnet18; its masks are put on preact_resnet18_raw"
    ]


@pytest.mark.parametrize("kind", ["omp", "imp"])
def test_a_reinitialised_ticket_that_is_none_of_imp_is_told_of(data, imp, tmp_path, kind):
    ticket = read_ticket(imp / "1-ticket.safetensors")
    path, known = tmp_path / "1-ticket.safetensors", {"arch": "resnet20s", "init_sha256": ""}
    save_ticket(path, ticket.masks, state=1, density=0.8, kind=kind, **known)
    flags = ["--mode", "std", "--epochs", "1", "--reinit", "--tickets_file", str(path)]
    run_transfer(data, tmp_path / "run", *flags)
    results = read_json(tmp_path / "run" / "results.json")
    assert results["ticket"] == "reinit"
    told = [line for line in results["warnings"] if "the control of IMP's tickets" in line]
    assert len(told) == (kind != "imp")


@pytest.mark.parametrize("kind", ["omp", "imp"])
def test_masks_that_a_transfer_hands_on_are_still_those_of_their_kind(data, imp, tmp_path, kind):
    if kind == "omp":
        ticket = read_ticket(imp / "1-ticket.safetensors")
        path = tmp_path / "1-ticket.safetensors"
        save_ticket(path, ticket.masks, arch="resnet20s", state=1, density=0.8,
                    init_sha256=ticket.init_sha256, kind=kind)  # fmt: skip
    else:
        path = imp / "1-ticket.safetensors"
    flags = ["--mode", "std", "--epochs", "1", "--init", str(imp / "init.pth.tar")]
    run_transfer(data, tmp_path / "run", *flags, "--tickets_file", str(path))
    for name in ("model_SA_best.pth.tar", "checkpoint.pth.tar"):
        assert read_ticket(tmp_path / "run" / name).kind == kind
    run_transfer(data, tmp_path / "run", *flags, "--export_released")
    (released,) = (tmp_path / "run").glob("*released*")
    assert read_ticket(released).kind == kind


def test_every_kind_of_ticket_file_gives_the_same_network(data, imp, standard, tmp_path):
    ticket = load_ticket(imp / "2-ticket.safetensors")
    transferred = load(standard.folder / "checkpoint.pth.tar")["state_dict"]
    bare = {name.removeprefix("1."): value for name, value in transferred.items()}
    imp_weights = load(imp / "2-checkpoint.pth.tar")["state_dict"]
    made = {
        "without 1": {"state_dict": bare},
        "module": {"state_dict": {f"module.{k}": v for k, v in imp_weights.items()}},
        "module 1": {"state_dict": {f"module.{k}": v for k, v in transferred.items()}},
        "bare state dict": imp_weights,
        "bool masks": ticket,
        "float masks": {name: mask.float() for name, mask in ticket.items()},
    }
    paths = [imp / f"2-{name}" for name in ("checkpoint.pth.tar", "model_best.pth.tar")]
    paths += [imp / "2-released.pth.tar"]
    paths += [standard.folder / name for name in ("checkpoint.pth.tar", "model_SA_best.pth.tar")]
    for name, payload in made.items():
        paths.append(tmp_path / f"{name}.pth.tar")
        save_checkpoint(paths[-1], payload)
    init = ["--init", str(imp / "init.pth.tar")]
    expected = network(data, tmp_path / "x", *with_ticket(imp))
    assert_same_bits(masks(expected), ticket)
    for path in paths:
        other = network(data, tmp_path / "x", *init, "--tickets_file", str(path))
        assert_same_bits(other, expected, path.name)


def test_the_network_is_the_pre_trained_one_with_a_fresh_classifier(data, imp, tmp_path):
    init = load(imp / "init.pth.tar")
    init["normalize.mean"] = torch.full((3,), 0.1)
    save_checkpoint(tmp_path / "init.pth.tar", init)
    state = network(data, tmp_path / "x", "--init", str(tmp_path / "init.pth.tar"))
    for name, value in init.items():
        if name.startswith("fc."):
            assert not torch.equal(state[name], value)
        elif name != "normalize.mean":
            assert torch.equal(state[name], value), name
    # the data set's statistics, not those of the pre-training
    assert torch.allclose(state["normalize.mean"], torch.tensor(IMAGENET[0]))


def test_own_statistics_go_into_the_model(data, imp, tmp_path):
    flags = ["--init", str(imp / "init.pth.tar"), "--mean", ".1,.2,.3", "--std", "1,1,.5"]
    state = network(data, tmp_path / "x", *flags)
    assert state["normalize.mean"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert state["normalize.std"].tolist() == [1, 1, 0.5]


def test_without_a_ticket_the_dense_network_is_transferred(data, imp, tmp_path):
    flags = [*SHORT, "--init", str(imp / "init.pth.tar")]
    run_transfer(data, tmp_path / "run", *flags)
    results = read_json(tmp_path / "run" / "results.json")
    assert (results["state"], results["density"], results["ticket_sha256"]) == (0, 1.0, None)
    state = load(tmp_path / "run" / "checkpoint.pth.tar")["state_dict"]
    assert not [name for name in state if "mask" in name or "orig" in name]
    # ... which is what the ticket of state 0 gives, to the bit
    zero = with_ticket(imp, "0-ticket.safetensors")
    run_transfer(data, tmp_path / "zero", *SHORT, *zero)
    other = load(tmp_path / "zero" / "checkpoint.pth.tar")["state_dict"]
    assert_same_bits(effective_weights(other), effective_weights(state))
    assert read_json(tmp_path / "zero" / "results.json")["density"] == 1.0


def test_reinit_puts_random_weights_under_the_ticket(data, imp, tmp_path):
    run_transfer(data, tmp_path / "run", *SHORT, *with_ticket(imp), "--reinit")
    assert read_json(tmp_path / "run" / "results.json")["ticket"] == "reinit"
    state = network(data, tmp_path / "x", *with_ticket(imp), "--reinit")
    init = load(imp / "init.pth.tar")
    assert_same_bits(masks(state), load_ticket(imp / "2-ticket.safetensors"))
    assert not torch.equal(state["conv1.weight_orig"], init["conv1.weight"])


def test_a_ticket_of_another_stem_is_left_out_with_a_warning_and_only_that(
    data, imp, tmp_path, capsys
):
    other = tiny("imagenet")
    own = read_ticket(imp / "2-ticket.safetensors")
    ticket = own.masks
    seven = torch.zeros_like(other.conv1.weight, dtype=torch.bool)
    save_ticket(
        tmp_path / "seven.safetensors", {**ticket, "conv1.weight_mask": seven},
        arch="resnet20s", state=2, density=0.64, init_sha256=own.init_sha256,
    )  # fmt: skip
    init = ["--init", str(imp / "init.pth.tar")]
    capsys.readouterr()
    ticket_file = ["--tickets_file", str(tmp_path / "seven.safetensors")]
    state = network(data, tmp_path / "x", *init, *ticket_file)
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        "warning: ticket: conv1 stays dense: its mask is (4, 3, 7, 7), the stem (4, 3, 3, 3)"
    ]
    ticket.pop("conv1.weight_mask")
    assert_same_bits(masks(state), ticket)
    assert torch.equal(state["conv1.weight"], load(imp / "init.pth.tar")["conv1.weight"])
    # such a run is a run: it trains, and its files are read again
    flags = [*ADV, "--epochs", "1", *init, *ticket_file]
    run_transfer(data, tmp_path / "run", *flags)
    assert names(tmp_path / "run") == ADVERSARIAL_FILES
    assert read_json(tmp_path / "run" / "results.json")["density"] > 0.64


def test_weights_of_another_stem_leave_a_fresh_stem(data, tmp_path, capsys):
    save_checkpoint(tmp_path / "seven.pth.tar", tiny("imagenet").state_dict())
    state = network(data, tmp_path / "x", "--init", str(tmp_path / "seven.pth.tar"))
    assert state["conv1.weight"].shape == (4, 3, 3, 3)
    said = capsys.readouterr()
    assert "warning: init: left out: conv1.weight 4x3x7x7" in said.err
    assert "; images are normalised by mean 0." in said.out


def test_a_ticket_of_another_architecture_is_refused_in_one_line(data, imp, tmp_path, capsys):
    save_checkpoint(tmp_path / "wide.pth.tar", tiny(width=8).state_dict())
    flags = ["--init", str(tmp_path / "wide.pth.tar"), "--width", "8"]
    ticket = ["--tickets_file", str(imp / "2-ticket.safetensors")]
    argv = flags_of(data, tmp_path / "run", *ADV, *flags, *ticket)
    message = one_error_line(argv, main_downstream.main, capsys)
    assert "it fits another architecture (-a) or --width" in message
    assert not (tmp_path / "run").exists()


# --- attacks ------------------------------------------------------------------------------------


def test_attacks_are_those_of_the_flags_and_none_in_standard_training(
    data, imp, tmp_path, monkeypatch
):
    made = []
    make = attack_utils.make_pgd

    def spy(model, config, *rest):
        perturb = make(model, config, *rest)

        def perturb_and_tell(images, labels):
            made.append((config, model.training))
            return perturb(images, labels)

        return perturb_and_tell

    replace(monkeypatch, make, spy)
    run_transfer(data, tmp_path / "std", *STD, *with_ticket(imp))
    assert made == []
    flags = ["--mode", "adv", "--epochs", "1", *with_ticket(imp)]
    run_transfer(data, tmp_path / "recipe", *flags)
    train, test = PGDConfig(8 / 255, 10, 2 / 255), PGDConfig(8 / 255, 20, 2 / 255)
    # three training batches in train mode; val, then the test set once: best and last are the same
    assert made == [(train, True)] * 3 + [(test, False)] * 2
    made.clear()
    own = ["--train_eps", "0", "--train_steps", "1", "--no_train_randinit", "--test_eps", "1/255"]
    own += ["--test_steps", "0", "--test_step_size", "1/510", "--no-test-randinit"]
    run_transfer(data, tmp_path / "own", *flags, *own)
    assert {config for config, _ in made} == {
        PGDConfig(0, 1, 2 / 255, False),
        PGDConfig(1 / 255, 0, 1 / 510, False),
    }


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_resumed_adversarial_run_equals_the_uninterrupted_run(
    data, adversarial, tmp_path, epochs
):
    shutil.copytree(adversarial.copies / str(epochs), tmp_path / "run")
    run_transfer(data, tmp_path / "run", *adversarial.flags, "--resume")
    assert_same_run(tmp_path / "run", adversarial.folder)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_resumed_standard_run_equals_the_uninterrupted_run(data, standard, tmp_path, epochs):
    shutil.copytree(standard.copies / str(epochs), tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pth.tar"
    run_transfer(data, tmp_path / "run", *standard.flags, "--resume", str(path))
    assert_same_run(tmp_path / "run", standard.folder)


@pytest.mark.parametrize(
    ("where", "lines"),
    [("first epoch", 0), ("saving", 3), ("final test", 4), ("results", 4)],
)
def test_a_run_that_dies_anywhere_resumes_to_the_same_run(
    data, adversarial, tmp_path, monkeypatch, where, lines
):
    with monkeypatch.context() as patch:
        if where == "first epoch":
            die(patch, steps.training_step, 2)
        elif where == "saving":
            die_saving(patch, 3)
        elif where == "final test":  # 3 epochs by 2 evaluations before
            die(patch, steps.evaluate, 3 * 2 + 2)
        else:
            die(patch, write_json, where=lambda path, _: path.name == "results.json")
        with pytest.raises(Interrupted):
            run_transfer(data, tmp_path / "run", *adversarial.flags)
    assert len(metrics(tmp_path / "run")) == lines
    assert not (tmp_path / "run" / "results.json").exists()
    run_transfer(data, tmp_path / "run", *adversarial.flags, "--resume")
    assert_same_run(tmp_path / "run", adversarial.folder)


def test_resume_of_a_finished_run_changes_nothing(data, adversarial, capsys):
    before = contents(adversarial.folder)
    run_transfer(data, adversarial.folder, *adversarial.flags, "--resume")
    assert contents(adversarial.folder) == before
    finished = f"{adversarial.folder}: this run is finished; nothing to do\n"
    assert capsys.readouterr().out == finished


def test_a_folder_with_a_run_in_it_is_not_overwritten(data, standard, capsys):
    before = contents(standard.folder)
    argv = flags_of(data, standard.folder, *standard.flags)
    message = one_error_line(argv, main_downstream.main, capsys)
    assert "holds a run already; add --resume" in message
    assert contents(standard.folder) == before


def test_a_checkpoint_of_something_else_is_refused_in_one_line(
    data, adversarial, imp, tmp_path, capsys
):
    cases = {
        "model_SA_best.pth.tar": ("--resume", [], "lacks '"),
        "checkpoint.pth.tar": ("--resume", ["--classes", "2"], "checkpoint.pth.tar"),
    }
    for name, (flag, more, told) in cases.items():
        path = str(adversarial.folder / name)
        argv = flags_of(data, tmp_path / "new", *adversarial.flags, *more, flag, path)
        assert told in one_error_line(argv, main_downstream.main, capsys)
    argv = flags_of(data, tmp_path / "new", *adversarial.flags, "--evaluate")
    assert "no checkpoint" in one_error_line(argv, main_downstream.main, capsys)
    assert not (tmp_path / "new").exists()


# --- the same bits ------------------------------------------------------------------------------


def test_the_same_seed_and_other_workers_give_the_same_bits(data, adversarial, tmp_path):
    run_transfer(data, tmp_path / "again", *adversarial.flags, "--workers", "2")
    assert_same_run(tmp_path / "again", adversarial.folder)


def test_another_seed_gives_another_run(data, standard, tmp_path):
    run_transfer(data, tmp_path / "again", *standard.flags, "--seed", "0")
    assert metrics(tmp_path / "again") != metrics(standard.folder)
    assert read_json(tmp_path / "again" / "results.json")["seed"] == 0


# --- end to end ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_resnet18_from_pre_training_over_imp_to_both_transfers(tmp_path, monkeypatch):
    monkeypatch.setattr(main_downstream, "plot_curves", draw_curves)
    source = write_images(tmp_path / "source", side=32, scale=2)
    target = write_images(tmp_path / "target", side=32, scale=2, seed=1)
    network_flags = ["-a", "resnet18", "--stem", "imagenet", "--input_size", "32", "-b", "24"]
    weak = ["--train_eps", "2/255", "--train_step", "1", "--train_gamma", "2/255"]
    imp = tmp_path / "imp"
    run_imp(
        source, imp, *network_flags, *weak, "--pretrain_epochs", "2", "--pretrain_lr", "0.02",
        "--epochs", "2", "--prune_epoch", "1", "--lr", "0.01", "--keep", "tickets",
    )  # fmt: skip
    tickets = {f"{state}-ticket.safetensors" for state in range(4)}
    assert {name for name in names(imp) if "ticket" in name} == tickets
    assert not [name for name in names(imp) if "-checkpoint" in name]
    left = total = 11_166_912  # convolution weights of a ResNet-18
    for state in range(4):
        mask = torch.cat(flat(load_ticket(imp / f"{state}-ticket.safetensors")))
        assert (len(mask), int(mask.sum())) == (total, left)
        left -= round(0.2 * left)
    lines = metrics(imp)
    assert [line["state"] for line in lines] == [0, 0, 1, 2]
    assert lines[-1]["val_sa"] > 60  # a third by chance
    for mode in ("adv", "std"):
        run_transfer(
            target, tmp_path / mode, *network_flags, *weak, "--mode", mode, "--epochs", "2",
            "--lr", "0.02", "--eval_from", "0", "--test_step", "2", "--test_eps", "2/255",
            *with_ticket(imp),
        )  # fmt: skip
        results = read_json(tmp_path / mode / "results.json")
        assert results["arch"] == "resnet18"
        assert results["density"] == pytest.approx(0.64, abs=1e-6)
        assert results["sa_best"]["sa"] > 80
        if mode == "adv":
            assert results["ra_best"]["ra"] > 60
    shutil.rmtree(tmp_path)
