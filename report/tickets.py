"""The tickets themselves: finding them, their densities, overlap and cost, and --inspect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from errors import InputError
from files import names
from files.results import IMP
from files.run_args import args_if_readable
from files.study_record import files_below
from files.tickets import read_ticket, ticket_header
from pruning_utils import MASK_SUFFIX
from report.runs import natural_order

Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class TicketFile:
    """A ticket below the runs; `source` names the run that wrote it, `kind` says how it did."""

    path: Path
    source: str
    state: int
    kind: str = IMP


def find_tickets(runs_dir: str | Path) -> dict[str, list[TicketFile]]:
    """Find the `{k}-ticket.safetensors` files below a folder, by source, in order of state.

    State 0, the dense network, is left out. A source is named by its run's tag, or by its mode
    where it has none, and by its kind where that is not IMP; those of one name get their folder
    too.
    """
    root = Path(runs_dir)
    folders: dict[Path, dict[int, Path]] = {}
    files, _ = files_below(root, f"*{names.TICKET_SUFFIX}")  # `read_runs` tells what is not read
    for path in sorted(files, key=natural_order):
        state = path.name.removesuffix(names.TICKET_SUFFIX)
        if state.isdecimal() and int(state) > 0:
            folders.setdefault(path.parent, {})[int(state)] = path
    origins = {folder: _run_and_kind(folder) for folder in folders}
    called = [name for name, _ in origins.values()]
    found = {}
    for folder, paths in folders.items():
        name, kind = origins[folder]
        if called.count(name) > 1:
            name = f"{name} ({folder.relative_to(root).as_posix()})"
        found[name] = [TicketFile(paths[state], name, state, kind) for state in sorted(paths)]
    return dict(sorted(found.items(), key=lambda item: natural_order(item[0])))


def _run_and_kind(folder: Path) -> tuple[str, str]:
    """The name of the run in a folder and the kind of its tickets, as its `args.json` tells."""
    places = [args_if_readable(folder)]
    places += [value for place in places for value in place.values() if isinstance(value, dict)]

    def told(key: str) -> str:
        values = (place.get(key) for place in places)
        return next((value for value in values if isinstance(value, str) and value), "")

    name, kind = told("tag") or told("mode") or folder.name, told("ticket") or IMP
    return (name, kind) if kind == IMP else (f"{name}, {kind}", kind)


def pick(states: Iterable[int], most: int = 4) -> list[int]:
    """Pick at most `most` of the states, evenly spaced, the last always among them."""
    ordered = sorted(set(states))
    if len(ordered) <= most:
        return ordered
    step = len(ordered) / most
    return [ordered[round(step * (i + 1)) - 1] for i in range(most)]


# --- masks --------------------------------------------------------------------------------------


def layer_densities(masks: Masks) -> dict[str, float]:
    """Compute the fraction of the weights left in each layer, in the order of the file."""
    return {
        name.removesuffix(MASK_SUFFIX): int(torch.count_nonzero(mask)) / max(mask.numel(), 1)
        for name, mask in masks.items()
    }


Table = list[list[float | None]]


def overlap_matrices(masks: Sequence[Masks]) -> tuple[Table, Table]:
    """Compute intersection over union of the surviving weights, of each ticket with each.

    The second table has what chance would give: two random masks, of the same density in each layer
    as the two tickets. Layers count where both tickets have them in the same shape; two tickets
    without such a layer have None.
    """
    count = len(masks)
    common, by_chance, lefts = (torch.zeros(count, count, dtype=torch.float64) for _ in range(3))
    layers = dict.fromkeys((name, mask.shape) for own in masks for name, mask in own.items())
    for name, shape in layers:
        having = [i for i, own in enumerate(masks) if name in own and own[name].shape == shape]
        bits = torch.stack([masks[i][name].flatten() for i in having]).double()
        both = bits @ bits.T  # (tickets, tickets): how many weights each two have in common
        at = torch.tensor(having)[:, None], torch.tensor(having)
        left = both.diagonal()
        common[at] += both
        by_chance[at] += left[:, None] * left / max(bits.shape[1], 1)
        lefts[at] += left[:, None] + left
    return _over_union(common, lefts), _over_union(by_chance, lefts)


def _over_union(common: Tensor, lefts: Tensor) -> Table:
    return [
        [float(c / (left - c)) if left > 0 else None for c, left in zip(*rows, strict=True)]
        for rows in zip(common, lefts, strict=True)
    ]


# --- one ticket, in text ------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """FLOPs of all convolutions for one image, of the dense network and of the ticket."""

    arch: str
    input_size: int
    dense: int
    sparse: int


def find_arch(masks: Masks, named: str | None = None) -> tuple[str, str | None, int] | None:
    """Architecture, stem and width of the network that the masks fit, None where none does.

    The stem is None where no mask of conv1 tells it. `named` is what a ticket's file says: only so
    a network of timm can be known, and one of two that have the same masks.
    """
    from models import ARCHS  # slow to import, and only --inspect needs it

    first = masks.get("conv1" + MASK_SUFFIX)
    inner = [tuple(m.shape) for n, m in masks.items() if n != "conv1" + MASK_SUFFIX]
    narrow = next(iter(inner), (16,))[0]
    stem = None if first is None else "cifar" if first.shape[-1] == 3 else "imagenet"
    if named is not None and named.startswith("timm:"):
        return (named, None, 16) if _fits(masks, named, None, 16) else None
    first_tried = (named,) if named in ARCHS else ()
    for arch in (*first_tried, *ARCHS):
        if _fits(masks, arch, stem, narrow):
            return arch, stem, narrow
    return None


def _fits(masks: Masks, arch: str, stem: str | None, width: int) -> bool:
    """Whether the masks are those of all of a network's convolutions, conv1 perhaps left out."""
    from models import build_model, fit_masks

    with torch.device("cpu" if arch.startswith("timm:") else "meta"):
        model = build_model(arch, 1, (0.0,) * 3, (1.0,) * 3, stem=stem, width=width)
    shapes = {
        name.removesuffix(".weight") + MASK_SUFFIX: tuple(weight.shape)
        for name, weight in model.named_parameters()
        if weight.dim() == 4
    }
    found = {n: tuple(mask.shape) for n, mask in fit_masks(model, dict(masks)).items()}
    stem_mask = "conv1" + MASK_SUFFIX
    return found == shapes or found == {n: s for n, s in shapes.items() if n != stem_mask}


def cost(masks: Masks, input_size: int | None = None, named: str | None = None) -> Cost | None:
    """What the convolutions cost; None for a network that is not of the zoo.

    `input_size` is 32 for the CIFAR stem and 224 for the other if left out. A stem that the masks
    do not tell is the one for that size, else the network's own. `named` is the architecture that a
    ticket's file names.
    """
    from models import build_model, estimate_flops, fit_masks, stem_of
    from models.stem import usual_size, usual_stem

    found = find_arch(masks, named)
    if found is None:
        return None
    arch, stem, width = found
    if stem is None and input_size is not None:
        stem = usual_stem(input_size)
    model = build_model(arch, 1, (0.0,) * 3, (1.0,) * 3, stem=stem, width=width)
    size = input_size or usual_size(stem_of(model))
    none = torch.zeros(1, dtype=torch.bool)
    linear = {n + MASK_SUFFIX: none for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    dense = estimate_flops(model, size, linear)
    sparse = estimate_flops(model, size, {**fit_masks(model, dict(masks)), **linear})
    return Cost(arch, size, dense, sparse)


def inspect_ticket(path: str | Path, input_size: int | None = None) -> str:
    """Describe a ticket in text: origin, hash, weights, FLOPs and size left, density per layer.

    Raises InputError when `path` holds no masks.
    """
    ticket = read_ticket(path)
    masks, header = ticket.masks, ticket_header(path)
    left = sum(int(torch.count_nonzero(mask)) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    if not total:
        raise InputError(f"{path}: its masks are empty; a ticket has one entry per weight")
    lines = [f"ticket   {path}", *_origin(header, left / total)]
    lines.append(f"sha256   {ticket.sha256}")
    lines.append(f"weights  {left:,} of {total:,} masked weights left: density {left / total:.6f}")
    lines.append(f"         sparsity {100 * (1 - left / total):.2f} %")
    lines += _flops(masks, input_size, ticket.arch)
    lines.append(
        f"size     {_bytes(4 * left)} of {_bytes(4 * total)} as float32 values, plus "
        f"{_bytes((total + 7) // 8)} for the mask at one bit a weight; "
        f"the file has {_bytes(Path(path).stat().st_size)}"
    )
    return "\n".join([*lines, "", *_layer_table(masks)])


def _flops(masks: Masks, input_size: int | None, named: str | None) -> list[str]:
    if named is not None and named.startswith("timm:") and find_spec("timm") is None:
        return [f"FLOPs    unknown: {named} needs the package timm: pip install timm"]
    price = cost(masks, input_size, named)
    if price is None:
        return ["FLOPs    unknown: the masks fit no network of the model zoo"]
    share = 100 * price.sparse / price.dense
    return [
        f"FLOPs    {_short(price.sparse)} of {_short(price.dense)} ({share:.1f} %) per image: "
        f"convolutions of {price.arch} at {price.input_size} pixels, 2 per multiply-add,",
        "         if arithmetic skipped every pruned weight",
    ]


def _origin(header: Mapping[str, str], density: float) -> list[str]:
    if not header:
        return ["origin   not one of this project's ticket files: no header says where it is from"]
    lines = [
        f"origin   {header.get('arch', '?')}, state {header.get('state', '?')}, "
        f"density {header.get('density', '?')}",
        f"         initial weights sha256 {header.get('init_sha256', '?')}",
    ]
    try:
        stated = float(header.get("density", "nan"))
    except ValueError:
        stated = float("nan")
    if not abs(stated - density) <= 1e-3:
        lines.append(f"warning  the header tells another density than the masks: {density:.6f}")
    return lines


def _layer_table(masks: Masks) -> list[str]:
    shapes = {n.removesuffix(MASK_SUFFIX): "x".join(map(str, m.shape)) for n, m in masks.items()}
    wide = max(len("layer"), *map(len, shapes))
    lines = [f"{'layer':{wide}}  {'shape':>15}  {'left':>10}  density"]
    for name, density in layer_densities(masks).items():
        left = int(torch.count_nonzero(masks[name + MASK_SUFFIX]))
        bar = "#" * round(40 * density)
        percent = f"{100 * density:.1f} %"
        lines.append(
            f"{name:{wide}}  {shapes[name]:>15}  {left:>10,}  {percent:>7}  {bar}".rstrip()
        )
    return lines


def _short(count: float) -> str:
    for unit in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.3g} {unit}".rstrip()
        count /= 1000
    return f"{count:.3g} T"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
