"""Finding tickets, their densities, overlap and cost, and the text of --inspect."""

import json

import pytest
import torch

from errors import InputError
from files.atomic import sha256_of
from files.checkpoints import save_checkpoint
from files.tickets import load_ticket, save_ticket
from models import build_model
from report.tickets import (
    cost,
    find_arch,
    find_tickets,
    inspect_ticket,
    layer_densities,
    overlap_matrices,
    pick,
)


def masks_of(arch, stem="imagenet", width=16, keep=1.0):
    model = build_model(arch, 10, (0.5,) * 3, (0.5,) * 3, stem=stem, width=width)
    return {
        name.removesuffix(".weight") + ".weight_mask": torch.rand(weight.shape) < keep
        for name, weight in model.named_parameters()
        if weight.dim() == 4
    }


def bits(*values):
    return torch.tensor(values, dtype=torch.bool)


def write_ticket(path, state=1, masks=None, density=0.8):
    masks = masks or {"conv1.weight_mask": bits(1, 0, 1, 1)}
    save_ticket(path, masks, arch="resnet20s", state=state, density=density, init_sha256="cd" * 32)
    return path


def test_tickets_are_found_by_run_in_order_of_state(tmp_path):
    for state in (0, 2, 10, 9):
        write_ticket(tmp_path / "imp_a" / f"{state}-ticket.safetensors", state)
    (tmp_path / "imp_a" / "args.json").write_text(
        json.dumps({"args": {"tag": "fast", "mode": "adv"}})
    )
    write_ticket(tmp_path / "imp_b" / "1-ticket.safetensors")
    (tmp_path / "imp_b" / "args.json").write_text(json.dumps({"mode": "std"}))
    write_ticket(tmp_path / "other" / "my-ticket.safetensors")
    write_ticket(tmp_path / "other" / "3-ticket.safetensors")
    found = find_tickets(tmp_path)
    states = {source: [file.state for file in files] for source, files in found.items()}
    assert states == {"fast": [2, 9, 10], "other": [3], "std": [1]}


def test_two_runs_of_one_tag_are_told_apart_by_folder(tmp_path):
    for folder in ("seed1", "seed2"):
        write_ticket(tmp_path / folder / "1-ticket.safetensors")
        (tmp_path / folder / "args.json").write_text('{"tag": "adv"}')
    assert list(find_tickets(tmp_path)) == ["adv (seed1)", "adv (seed2)"]


def test_baselines_are_named_by_their_kind_and_never_take_anothers_place(tmp_path):
    origins = {"a": ("adv", "imp"), "b": ("adv", "omp"), "c": ("adv, omp", "imp")}
    for folder, (tag, kind) in origins.items():
        write_ticket(tmp_path / folder / "1-ticket.safetensors")
        (tmp_path / folder / "args.json").write_text(json.dumps({"tag": tag, "ticket": kind}))
    found = find_tickets(tmp_path)
    assert {source: file.kind for source, (file,) in found.items()} == {
        "adv": "imp", "adv, omp (b)": "omp", "adv, omp (c)": "imp",
    }  # fmt: skip


def test_tickets_behind_a_link_are_found_under_the_links_name(tmp_path):
    write_ticket(tmp_path / "disk/imp_a/1-ticket.safetensors")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/imp").symlink_to(tmp_path / "disk")
    (files,) = find_tickets(tmp_path / "runs").values()
    assert [file.path for file in files] == [tmp_path / "runs/imp/imp_a/1-ticket.safetensors"]


def test_the_states_shown_are_spread_and_hold_the_last():
    assert pick(range(1, 17)) == [4, 8, 12, 16]
    assert pick([5, 1, 3]) == [1, 3, 5]
    assert pick(range(1, 20), 1) == [19]
    for count in range(1, 40):
        for most in range(1, 6):
            chosen = pick(range(count), most)
            assert len(set(chosen)) == min(count, most)
            assert chosen[-1] == count - 1


def test_density_and_overlap_of_known_masks():
    first = {"a.weight_mask": bits(1, 1, 0, 0), "b.weight_mask": bits(1, 1)}
    second = {"a.weight_mask": bits(0, 1, 1, 0), "b.weight_mask": bits(0, 0)}
    assert layer_densities(first) == {"a": 0.5, "b": 1.0}
    assert overlap_matrices([first, second])[0] == [[1.0, 0.2], [0.2, 1.0]]


def test_chance_knows_of_the_density_of_each_layer():
    kept, pruned = torch.ones(90, dtype=torch.bool), torch.zeros(90, dtype=torch.bool)
    half = torch.arange(10) < 5
    first = {"a.weight_mask": kept, "b.weight_mask": half}
    second = {"a.weight_mask": kept, "b.weight_mask": ~half}
    expected = (90 + 2.5) / (90 + 7.5)  # layer a is the same whatever the masks
    assert overlap_matrices([first, second])[1][0][1] == pytest.approx(expected)
    assert overlap_matrices([first, {"a.weight_mask": pruned}])[1][0][1] == 0


def test_overlap_leaves_out_layers_that_do_not_fit():
    first = {"conv1.weight_mask": torch.ones(2, 7, dtype=torch.bool), "b.weight_mask": bits(1, 0)}
    second = {"conv1.weight_mask": torch.ones(2, 3, dtype=torch.bool), "b.weight_mask": bits(1, 1)}
    assert overlap_matrices([first, second, {"c.weight_mask": bits(1)}])[0] == [
        [1.0, 0.5, None],
        [0.5, 1.0, None],
        [None, None, 1.0],
    ]


@pytest.mark.parametrize(
    ("arch", "stem", "width"),
    [("resnet18", "imagenet", 64), ("resnet50", "cifar", 64), ("resnet20s", "cifar", 8)],
)
def test_the_network_is_told_from_its_masks(arch, stem, width):
    assert find_arch(masks_of(arch, stem, width)) == (arch, stem, width)


def test_masks_of_no_known_network_have_no_cost():
    assert cost({"conv1.weight_mask": torch.ones(4, 3, 3, 3, dtype=torch.bool)}) is None


def test_flops_are_those_of_the_convolutions_by_hand():
    # ResNet-20 at 32 pixels: 40.55 M multiply-adds in its convolutions (option-A shortcuts).
    masks = masks_of("resnet20s", "cifar")
    by_hand = 2 * (3 * 16 * 9 * 32**2 + 6 * 16 * 16 * 9 * 32**2)
    by_hand += 2 * (16 * 32 * 9 * 16**2 + 5 * 32 * 32 * 9 * 16**2)
    by_hand += 2 * (32 * 64 * 9 * 8**2 + 5 * 64 * 64 * 9 * 8**2)
    price = cost(masks)
    assert price is not None
    assert (price.arch, price.input_size) == ("resnet20s", 32)
    assert (price.dense, price.sparse) == (by_hand, by_hand)
    masks["conv1.weight_mask"][:] = False
    pruned = cost(masks, 64)
    assert pruned is not None
    assert (pruned.dense, pruned.sparse) == (4 * by_hand, 4 * (by_hand - 2 * 3 * 16 * 9 * 32**2))


def test_the_stem_of_a_ticket_without_a_mask_for_it_is_the_one_for_the_size():
    whole = {"imagenet": masks_of("resnet18"), "cifar": masks_of("resnet18", "cifar")}
    for stem, size in (("imagenet", None), ("imagenet", 224), ("cifar", 32)):
        rest = {n: mask for n, mask in whole[stem].items() if n != "conv1.weight_mask"}
        assert cost(rest, size) == cost(whole[stem], size)


def test_inspect_tells_what_remains_and_where_it_is_from(tmp_path):
    masks = masks_of("resnet20s", "cifar", keep=0.5)
    left = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    path = write_ticket(tmp_path / "3-ticket.safetensors", 3, masks, left / total)
    told = inspect_ticket(path)
    for part in (
        "resnet20s, state 3", "cd" * 32, sha256_of(path), f"{left:,} of {total:,}",
        "resnet20s at 32 pixels", "layer3.2.conv2", "64x64x3x3",
    ):  # fmt: skip
        assert part in told
    assert "warning" not in told
    conv1 = next(line for line in told.splitlines() if line.startswith("conv1"))
    density = float(masks["conv1.weight_mask"].float().mean())
    assert f"{100 * density:.1f} %" in conv1
    assert conv1.count("#") == round(40 * density)


def test_inspect_reads_foreign_tickets_and_says_so(tmp_path):
    masks = masks_of("resnet20s", "cifar", keep=0.5)
    path = tmp_path / "foreign.pth.tar"
    renamed = {f"module.{name}": mask.float() for name, mask in masks.items()}
    save_checkpoint(path, {"state_dict": renamed})
    told = inspect_ticket(path)
    assert "not one of this project" in told
    assert sha256_of(path) in told
    assert layer_densities(load_ticket(path)) == layer_densities(masks)


@pytest.mark.parametrize(("density", "warned"), [(0.5, True), (0.74, True), (0.7505, False)])
def test_inspect_warns_when_header_and_masks_differ(tmp_path, density, warned):
    path = write_ticket(tmp_path / "1-ticket.safetensors", density=density)  # 3 of 4 are left
    assert ("warning  the header tells another density" in inspect_ticket(path)) == warned


def test_inspect_of_no_ticket_is_an_input_error(tmp_path):
    path = tmp_path / "weights.pth.tar"
    save_checkpoint(path, {"conv1.weight": torch.ones(2)})
    with pytest.raises(InputError):
        inspect_ticket(path)
    with pytest.raises(InputError):
        inspect_ticket(tmp_path / "absent.safetensors")
