"""Masks: torch.nn.utils.prune is the reference, and 0.8^k the science."""

import copy
import re
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import SGD

import models
import pruning_utils as released_names
from errors import InputError
from files.checkpoints import load_checkpoint, save_checkpoint
from pruning_utils import (
    apply_masks,
    convolutions,
    masks,
    masks_in,
    percent_left,
    percent_left_in,
    prune_at_random,
    prune_by_magnitude,
    remain_line,
    remove_prune,
    rewind,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATE = 0.2
build_model: Any = models.build_model  # tests reach for layers that nn.Module does not declare


def small_model(seed=0, stem="cifar"):
    torch.manual_seed(seed)
    return build_model("resnet20s", 10, MEAN, STD, stem=stem, width=4)


def plain_state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def train(model, steps=2, seed=0, size=16):
    """Real SGD steps: momentum and weight decay are what could move a pruned weight."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-2)
    model.train()
    for _ in range(steps):
        images = torch.rand(4, 3, size, size, generator=generator)
        labels = torch.randint(0, 10, (4,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def flat(tensors) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def kept(model) -> int:
    return sum(int(mask.sum()) for mask in masks(model).values())


def is_pruned(module) -> bool:
    return "weight_orig" in module._parameters


# --- three rounds on ResNet-50 against the released code's way ------------------------------------


class Round(NamedTuple):
    ours: dict[str, Tensor]
    reference: Tensor  # (n,) bool, the twin's mask
    tied: Tensor  # (n,) bool, weights exactly as large as the largest one pruned
    rewound: dict[str, Tensor]


class ReleasedTwin:
    """Rounds as the released code does them, on torch.nn.utils.prune alone: float masks, removed
    for the rewinding, applied again."""

    def __init__(self, model):
        self.model, self.init = model, plain_state(model)
        self.layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]

    def prune(self) -> tuple[Tensor, Tensor]:
        before = flat(layer.weight.detach().abs() for layer in self.layers)
        prune.global_unstructured(
            [(layer, "weight") for layer in self.layers],
            pruning_method=prune.L1Unstructured,
            amount=RATE,
        )
        mask = flat(layer.weight_mask for layer in self.layers)
        assert mask.dtype == torch.float32
        return mask.bool(), before == before[mask == 0].max()

    def rewind(self, mask: Tensor) -> None:
        parts = mask.float().split([layer.weight.numel() for layer in self.layers])
        for layer in self.layers:
            prune.remove(layer, "weight")
        self.model.load_state_dict(self.init)
        for layer, part in zip(self.layers, parts, strict=True):
            prune.custom_from_mask(layer, "weight", part.view_as(layer.weight))


@pytest.fixture(scope="module")
def resnet50_rounds():
    """Prune, train and rewind three times, twice: by our functions and by the twin."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    ours = build_model("resnet50", 10, MEAN, STD)
    twin = ReleasedTwin(copy.deepcopy(ours))
    init, rounds = plain_state(ours), []
    for k in range(3):
        if k:
            train(ours, seed=k, size=32)
            train(twin.model, seed=k, size=32)
            twin.model.eval()(torch.rand(1, 3, 32, 32))  # its validation, which refreshes .weight
        prune_by_magnitude(ours, RATE)
        rewind(ours, init)
        ticket = masks_in(ours.state_dict())
        reference, tied = twin.prune()
        rounds.append(Round(ticket, reference, tied, plain_state(ours)))
        twin.rewind(flat(ticket.values()))  # ties aside, so that both go on from one mask
    return init, rounds


@pytest.mark.slow
def test_three_rounds_on_resnet50_give_the_masks_of_torch_prune(resnet50_rounds):
    for ours, reference, tied, _ in resnet50_rounds[1]:
        differs = flat(ours.values()) != reference
        assert not (differs & ~tied).any()
        assert differs.sum() <= 2 * tied.sum()
        assert flat(ours.values()).sum() == reference.sum()


@pytest.mark.slow
def test_three_rounds_on_resnet50_leave_exact_counts(resnet50_rounds):
    left = total = 23_454_912  # all convolution weights of a ResNet-50
    for k, state in enumerate(resnet50_rounds[1], start=1):
        assert len(state.ours) == 53
        left -= round(RATE * left)
        assert sum(int(mask.sum()) for mask in state.ours.values()) == left
        assert left / total == pytest.approx(0.8**k, abs=1e-6)


@pytest.mark.slow
def test_rewound_weights_equal_mask_times_initial(resnet50_rounds):
    init, rounds = resnet50_rounds
    for state in rounds:
        for name, mask in state.ours.items():
            weight = name.replace("_mask", "")
            assert torch.equal(state.rewound[f"{weight}_orig"], init[weight])
            assert torch.equal(state.rewound[f"{weight}_orig"] * mask, init[weight] * mask)


@pytest.mark.slow
def test_rewinding_puts_everything_else_back_too(resnet50_rounds):
    init, rounds = resnet50_rounds
    for state in rounds:
        others = {n: v for n, v in state.rewound.items() if "weight_" not in n}
        names = {name.removesuffix("_orig").removesuffix("_mask") for name in state.rewound}
        assert names == set(init)
        assert {"fc.weight", "fc.bias", "bn1.weight", "bn1.running_var"} <= set(others)
        for name, value in others.items():
            assert torch.equal(value, init[name]), name


# --- what is pruned -------------------------------------------------------------------------------


def test_every_convolution_and_nothing_else_is_pruned():
    model = build_model("resnet18", 10, MEAN, STD)
    prune_by_magnitude(model, RATE)
    pruned = {name for name, _ in model.named_buffers() if name.endswith("weight_mask")}
    assert pruned == {f"{name}.weight_mask" for name, _ in convolutions(model)}
    assert {"conv1.weight_mask", "layer2.0.downsample.0.weight_mask"} <= pruned
    assert len(pruned) == 20


def test_pruning_measures_the_weights_after_the_last_step():
    """`weight` is only computed in a forward pass; the step after that changes `weight_orig`."""
    model = small_model()
    prune_by_magnitude(model, RATE)
    old = kept(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight_orig"):
                parameter.normal_()
    state = model.state_dict()
    effective = flat(state[n.replace("_mask", "_orig")] * state[n] for n in masks(model)).abs()
    prune_by_magnitude(model, RATE)
    new = flat(masks(model).values())
    count = round(RATE * old)
    lowest = effective[effective > 0].sort().values[count]
    assert torch.equal(new, effective >= lowest)
    state = model.state_dict()
    for name, module in convolutions(model):
        now = state[f"{name}.weight_orig"] * state[f"{name}.weight_mask"]
        assert torch.equal(module.weight, now)


def quantised(model):
    """Weights with many exact ties, zeros of both signs among them."""
    with torch.no_grad():
        for _, module in convolutions(model):
            module.weight.mul_(8).round_().div_(8)
    return model


def test_among_equal_magnitudes_the_lowest_index_goes_first():
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Conv2d(1, 3, 2, bias=False))
    first = torch.tensor([3.0, -1, 1, 2, 1, 5, -1, 4])
    second = torch.tensor([1.0, 6, -1, 7, 0, 8, 1, 9, -1, 2, 1, 1])
    with torch.no_grad():
        model[0].weight.copy_(first.view(2, 1, 2, 2))  # type: ignore[operator]
        model[1].weight.copy_(second.view(3, 1, 2, 2))  # type: ignore[operator]
    prune_by_magnitude(model, 0.3)  # 6 of 20: the zero, then the first five of the ten ones
    assert flat(masks(model).values()).int().tolist() == [
        *(1, 0, 0, 1, 0, 1, 0, 1),
        *(0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1),
    ]
    prune_by_magnitude(model, 0.3)  # round(4.2) of the 14 that are left
    assert flat(masks(model).values()).int().tolist() == [
        *(1, 0, 0, 1, 0, 1, 0, 1),
        *(0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1),
    ]


def test_ties_are_broken_as_a_stable_sort_would():
    model = quantised(small_model())
    scores = flat(module.weight.detach().abs() for _, module in convolutions(model))
    expected = torch.ones_like(scores, dtype=torch.bool)
    for _ in range(4):
        left = expected.nonzero().flatten()
        order = scores[left].argsort(stable=True)
        expected[left[order[: round(0.3 * len(left))]]] = False
        prune_by_magnitude(model, 0.3)
        assert torch.equal(flat(masks(model).values()), expected)


@pytest.mark.parametrize("choose", [prune_by_magnitude, prune_at_random])
def test_the_memory_layout_does_not_change_the_masks(choose):
    chosen = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = quantised(small_model()).to(memory_format=layout)
        for round_ in range(2):
            torch.manual_seed(round_)
            choose(model, 0.3)
            train(model.to(memory_format=layout), steps=0)
        chosen.append(flat(masks(model).values()))
    assert torch.equal(*chosen)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_that_is_no_fraction_is_an_error(rate):
    with pytest.raises(InputError, match="pruning rate"):
        prune_by_magnitude(small_model(), rate)


def test_rate_zero_prunes_nothing():
    model = small_model()
    prune_by_magnitude(model, 0.0)
    assert percent_left(model) == 100


# --- random masks ---------------------------------------------------------------------------------


def random_masks(seed, rounds=3):
    model = small_model()
    torch.manual_seed(seed)
    counts, previous = [], torch.ones(0, dtype=torch.bool)
    for _ in range(rounds):
        prune_at_random(model, RATE)
        now = flat(masks(model).values())
        assert not len(previous) or not (now & ~previous).any()  # what is pruned stays pruned
        previous = now
        counts.append(int(now.sum()))
    return counts, previous


def test_random_masks_have_the_counts_of_magnitude_pruning():
    model, expected = small_model(), []
    for _ in range(3):
        prune_by_magnitude(model, RATE)
        expected.append(kept(model))
    counts, mask = random_masks(0)
    assert counts == expected
    share = mask.sum() / len(mask)
    half = len(mask) // 2
    assert mask[:half].float().mean() == pytest.approx(float(share), abs=0.02)


def test_random_masks_follow_the_seed():
    assert torch.equal(random_masks(3)[1], random_masks(3)[1])
    agree = (random_masks(3)[1] == random_masks(4)[1]).float().mean()
    assert agree == pytest.approx(0.512**2 + 0.488**2, abs=0.03)


# --- pruned weights stay zero ---------------------------------------------------------------------


def test_a_pruned_weight_is_zero_in_every_forward_pass_and_every_saved_model(tmp_path):
    model = small_model()
    for _ in range(4):
        prune_by_magnitude(model, 0.4)
    ticket = {name: mask.clone() for name, mask in masks(model).items()}
    before = plain_state(model)
    passes = []

    def look(name, module):
        assert not module.weight[~ticket[f"{name}.weight_mask"]].any()
        passes.append(name)

    for name, module in convolutions(model):
        module.register_forward_hook(lambda module, *_, name=name: look(name, module))
    for epoch in range(3):
        train(model, steps=2, seed=epoch)
        model.eval()(torch.rand(2, 3, 16, 16))
        save_checkpoint(tmp_path / f"{epoch}.pth.tar", {"state_dict": model.state_dict()})
        saved = load_checkpoint(tmp_path / f"{epoch}.pth.tar")["state_dict"]
        for name, mask in ticket.items():
            assert torch.equal(saved[name], mask)
            effective = saved[name.replace("_mask", "_orig")] * saved[name]
            assert not effective[~mask].any()
            assert effective[mask].all()
    assert len(passes) == 3 * (2 + 1) * len(ticket)
    gone = ~ticket["layer1.0.conv1.weight_mask"]
    original = "layer1.0.conv1.weight_orig"  # where weight decay does move what is pruned
    assert not torch.equal(saved[original][gone], before[original][gone])


def test_remove_prune_leaves_zeros_and_the_same_function():
    model = small_model()
    prune_by_magnitude(model, 0.5)
    train(model)
    images = torch.rand(2, 3, 16, 16)
    logits, ticket = model.eval()(images), masks(model)
    remove_prune(model)
    assert set(model.state_dict()) == set(small_model().state_dict())
    for name, module in convolutions(model):
        assert isinstance(module.weight, nn.Parameter)
        assert not module.weight[~ticket[f"{name}.weight_mask"]].any()
    assert torch.equal(model(images), logits)
    remove_prune(model)  # nothing left to remove


# --- custom masks ---------------------------------------------------------------------------------


def random_ticket(model, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.weight_mask": torch.rand(module.weight.shape, generator=generator) < 0.5
        for name, module in convolutions(model)
    }


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.uint8])
def test_custom_masks_are_applied_as_they_are(dtype):
    model = small_model()
    weights = {name: module.weight.detach().clone() for name, module in convolutions(model)}
    ticket = random_ticket(model)
    assert apply_masks(model, {n: m.to(dtype) for n, m in ticket.items()}) == []
    for name, module in convolutions(model):
        mask = ticket[f"{name}.weight_mask"]
        assert torch.equal(model.state_dict()[f"{name}.weight_mask"], mask)  # bool, both
        assert torch.equal(module.weight, weights[name] * mask)


def test_applying_masks_twice_takes_the_second_ones():
    model = small_model()
    apply_masks(model, random_ticket(model, 1))
    apply_masks(model, second := random_ticket(model, 2))
    assert all(torch.equal(mask, second[name]) for name, mask in masks(model).items())


def test_a_model_does_not_write_into_the_masks_that_it_was_given():
    model, ticket = small_model(), random_ticket(small_model())
    before = {name: mask.clone() for name, mask in ticket.items()}
    apply_masks(model, ticket)
    other = small_model()
    apply_masks(other, random_ticket(other, 6))
    model.load_state_dict(other.state_dict())
    assert all(torch.equal(mask, before[name]) for name, mask in ticket.items())


def test_a_ticket_without_conv1_leaves_it_dense_and_says_so():
    model = small_model()
    ticket = random_ticket(model)
    del ticket["conv1.weight_mask"]
    (note,) = apply_masks(model, ticket)
    assert note.startswith("conv1 ")
    assert "dense" in note
    assert not is_pruned(model.conv1)
    assert all(is_pruned(module) for name, module in convolutions(model) if name != "conv1")
    assert masks(model)["conv1.weight_mask"].all()


def test_a_mask_of_another_stem_is_left_out_and_named():
    model = small_model(stem="cifar")
    ticket = random_ticket(small_model(stem="imagenet"))
    (note,) = apply_masks(model, ticket)
    assert "conv1 " in note
    assert "(4, 3, 7, 7)" in note
    assert "(4, 3, 3, 3)" in note
    assert not is_pruned(model.conv1)
    inner = "layer1.0.conv1.weight_mask"
    assert torch.equal(masks(model)[inner], ticket[inner])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layer9.0.conv1.weight_mask", (4, 4, 3, 3)),  # no such layer
        ("fc.weight_mask", (10, 16)),  # a layer, but no convolution
        ("layer1.0.conv1.weight_mask", (4, 4, 1, 1)),  # another shape, and not the stem
    ],
)
def test_a_mask_that_fits_nothing_is_an_error_and_changes_nothing(name, shape):
    model = small_model()
    before = plain_state(model)
    ticket = {**random_ticket(model), name: torch.ones(shape, dtype=torch.bool)}
    with pytest.raises(InputError, match=re.escape(name)):
        apply_masks(model, ticket)
    assert set(model.state_dict()) == set(before)


# --- reading masks, counting ----------------------------------------------------------------------


def test_masks_in_takes_copies_of_the_masks_alone():
    model = small_model()
    apply_masks(model, ticket := random_ticket(model))
    found = masks_in(model.state_dict())
    assert found.keys() == ticket.keys()
    assert all(torch.equal(found[name], ticket[name]) for name in ticket)
    found["conv1.weight_mask"].zero_()
    assert torch.equal(model.conv1.weight_mask, ticket["conv1.weight_mask"])
    assert masks_in(small_model().state_dict()) == {}


def test_sparsity_counts_what_remains_in_percent():
    model = small_model()
    total = sum(module.weight.numel() for _, module in convolutions(model))
    assert percent_left(model) == 100
    apply_masks(model, ticket := random_ticket(model))
    expected = 100 * sum(int(mask.sum()) for mask in ticket.values()) / total
    assert percent_left(model) == expected
    assert percent_left_in(ticket) == expected
    assert percent_left_in({name: mask.float() for name, mask in ticket.items()}) == expected
    with torch.no_grad():  # a weight that training sets to zero is not pruned
        model.layer1[0].conv1.weight_orig.zero_()
        model.eval()(torch.rand(1, 3, 16, 16))
    assert percent_left(model) == expected


def test_sparsity_of_a_network_whose_masks_were_removed_counts_nonzeros():
    model = small_model()
    apply_masks(model, random_ticket(model))
    expected = percent_left(model)
    remove_prune(model)
    assert percent_left(model) == expected


def test_the_remaining_line_is_the_one_that_scripts_read():
    model = small_model()
    prune_by_magnitude(model, RATE)
    assert re.fullmatch(r"\* remain weight =  (79\.99|80\.0)\d* %", remain_line(model))
    assert str(percent_left(model)) in remain_line(model)


def test_rewinding_a_trained_network_under_its_masks():
    model = small_model()
    init = plain_state(model)
    prune_by_magnitude(model, RATE)
    train(model)
    ticket = masks_in(model.state_dict())
    rewind(model, init)
    assert all(torch.equal(mask, ticket[name]) for name, mask in masks(model).items())
    for name, module in convolutions(model):  # before any forward pass
        assert torch.equal(module.weight, init[f"{name}.weight"] * module.weight_mask)


# --- both directions: networks pruned by torch.nn.utils.prune itself ------------------------------


def pruned_by_torch(model, rate=0.5):
    layers = [(module, "weight") for _, module in convolutions(model)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=rate)
    return model


def test_a_released_style_network_comes_in_and_goes_out_again():
    released, ours = pruned_by_torch(small_model(1)), small_model(2)
    images = torch.rand(2, 3, 16, 16)
    state = released.state_dict()
    assert state["conv1.weight_mask"].dtype == torch.float32
    assert apply_masks(ours, masks_in(state)) == []
    ours.load_state_dict(state)
    assert ours.conv1.weight_mask.dtype == torch.bool
    assert torch.equal(ours.eval()(images), released.eval()(images))
    assert percent_left(ours) == percent_left(released) == pytest.approx(50, abs=0.01)

    prune_by_magnitude(ours, RATE)
    back = pruned_by_torch(small_model(3))
    back.load_state_dict(ours.state_dict())
    assert back.conv1.weight_mask.dtype == torch.float32
    assert torch.equal(back.eval()(images), ours(images))
    pruned_by_torch(back, RATE)
    prune_by_magnitude(ours, RATE)
    again = masks_in(back.state_dict())
    assert all(torch.equal(mask.bool(), masks(ours)[name]) for name, mask in again.items())


def test_our_functions_work_on_a_network_with_float_masks():
    released, reference = pruned_by_torch(small_model()), pruned_by_torch(small_model())
    assert all(mask.dtype == torch.bool for mask in masks(released).values())
    prune_by_magnitude(released, RATE)
    pruned_by_torch(reference, RATE)
    expected = {name: mask.bool() for name, mask in masks_in(reference.state_dict()).items()}
    assert all(torch.equal(mask, expected[name]) for name, mask in masks(released).items())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(released(images), reference(images))


def test_torch_prune_works_on_a_network_with_our_masks():
    ours, reference = small_model(), pruned_by_torch(small_model(), RATE)
    prune_by_magnitude(ours, RATE)
    pruned_by_torch(ours, 0.3)
    pruned_by_torch(reference, 0.3)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(ours(images), reference(images))
    for _, module in convolutions(ours):
        prune.remove(module, "weight")
    assert torch.equal(ours.eval()(images), reference.eval()(images))


# --- the released code's functions: what they do there is done here by torch.nn.utils.prune -------

REMAIN = re.compile(r"\* remain weight =  (\d+\.\d+) %\n")


def each_convolution(model):
    return [module for _, module in convolutions(model)]


def test_released_pruning_gives_the_float_masks_of_torch_prune():
    ours, reference = small_model(), small_model()
    for rate in (0.5, RATE):
        released_names.pruning_model(ours, rate)
        pruned_by_torch(reference, rate)
    assert same_state(ours, reference)
    mask = released_names.extract_mask(ours.state_dict())["conv1.weight_mask"]
    assert torch.equal(1 - mask, (mask == 0).float())  # a bool mask has no difference


def test_released_random_pruning_draws_what_torch_prune_draws():
    ours, reference = small_model(), small_model()
    for model in (ours, reference):
        torch.manual_seed(3)
        if model is ours:
            released_names.pruning_model_random(model, RATE)
        else:
            layers = [(module, "weight") for module in each_convolution(model)]
            prune.global_unstructured(layers, pruning_method=prune.RandomUnstructured, amount=RATE)
    assert same_state(ours, reference)


def test_released_custom_masks_applied_twice_intersect():
    ours, reference = small_model(), small_model()
    for seed in (1, 2):
        ticket = {name: mask.float() for name, mask in random_ticket(ours, seed).items()}
        assert released_names.prune_model_custom(ours, ticket) is None
        for name, module in convolutions(reference):
            prune.custom_from_mask(module, "weight", ticket[f"{name}.weight_mask"])
    assert same_state(ours, reference)
    both = random_ticket(ours, 1)["conv1.weight_mask"] & random_ticket(ours, 2)["conv1.weight_mask"]
    assert torch.equal(masks(ours)["conv1.weight_mask"], both)


def test_released_custom_masks_must_be_there_for_each_convolution():
    ticket = random_ticket(small_model())
    del ticket["layer1.0.conv1.weight_mask"]
    with pytest.raises(KeyError, match="layer1.0.conv1.weight_mask"):
        released_names.prune_model_custom(small_model(), ticket)


@pytest.mark.parametrize("pruned_before", [False, True])
def test_released_generate_mask_puts_the_masks_of_nonzero_weights_into_the_model(pruned_before):
    model, ticket = small_model(), random_ticket(small_model())
    apply_masks(model, ticket)
    remove_prune(model)
    before = random_ticket(model, 6) if pruned_before else {}
    if pruned_before:
        apply_masks(model, before)
    assert released_names.generate_mask(model) is None
    for name, mask in masks_in(model.state_dict()).items():
        assert mask.dtype == torch.float32
        assert torch.equal(mask.bool(), ticket[name] & before.get(name, ticket[name]))
    assert all(is_pruned(module) for module in each_convolution(model))


def test_released_counts_are_printed_and_returned(capsys):
    model = small_model()
    ticket = random_ticket(model)
    apply_masks(model, ticket)
    entries = flat(ticket.values())
    zeros, total = float((~entries).sum()), float(len(entries))
    floats = {name: mask.float() for name, mask in ticket.items()}
    for count, counted in (
        (released_names.check_sparsity, model),
        (released_names.check_sparsity_mask, ticket),
        (released_names.check_sparsity_mask, floats),
    ):
        found = count(counted)
        assert found == 100 * (1 - zeros / total)
        printed = REMAIN.fullmatch(capsys.readouterr().out)
        assert printed
        assert float(printed[1]) == found


def test_released_count_is_of_nonzero_weights(capsys):
    model = small_model()
    apply_masks(model, random_ticket(model))
    before = released_names.check_sparsity(model)
    with torch.no_grad():
        model.layer1[0].conv1.weight_orig.zero_()
    assert released_names.check_sparsity(model) < before
    assert percent_left(model) == pytest.approx(before)  # what is masked counts, inside


def test_released_rewinding_prunes_rewinds_and_prints(capsys):
    ours, reference = small_model(), small_model()
    init = plain_state(ours)
    for model in (ours, reference):
        prune_by_magnitude(model, 0.5)
        train(model)
    prune_by_magnitude(reference, RATE)
    rewind(reference, init)
    released_names.pruning_with_rewind(ours, RATE, init)
    assert REMAIN.fullmatch(capsys.readouterr().out)
    assert same_state(ours, reference)


def same_state(a, b):
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        torch.equal(one[n].float(), two[n].float()) for n in one
    )


def test_one_changed_import_gives_a_star_import_all_released_names():
    there: dict[str, Any] = {}
    exec("from pruning_utils import *", there)
    assert {
        "generate_mask", "pruning_model", "pruning_model_random", "prune_model_custom",
        "remove_prune", "extract_mask", "check_sparsity", "check_sparsity_mask",
        "pruning_with_rewind",
    } <= there.keys()  # fmt: skip
