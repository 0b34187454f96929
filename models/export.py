"""python -m models.export CKPT OUT: a trained network as a plain file, for use elsewhere."""

from __future__ import annotations

import argparse
import importlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from errors import InputError, OneLineParser, run_main
from files.atomic import check_no_run_file, replacing
from files.checkpoints import content_hash
from files.sealed import HASH
from models.flops import check_input_size
from models.normalize import check_constants
from models.pretrained import has_constants, load_network
from models.stem import usual_size
from models.zoo import ARCHS, build_model, classifier, stem_and_width, stem_of

TOLERANCE = 1e-4  # of the largest logit; ONNX runtimes order their sums differently

DESCRIPTION = """\
Write the network in CKPT to OUT, masks baked in (pruned weights are zeros), and check that the
written file gives the same logits.

  OUT.safetensors  the network's own keys. A ResNet's are torchvision's (conv1.weight, layer1.0...,
                   fc.bias): torchvision.models.ARCH(num_classes=N).load_state_dict(load_file(OUT))
                   works for one with the ImageNet stem. Architecture, stem, classes, mean and std
                   are in the file's metadata; images are (x - mean) / std with x in [0, 1].
  OUT.onnx         a graph from float images (N, 3, H, W) in [0, 1] to logits, normalisation
                   inside, any N. Needs: pip install onnx onnxscript

CKPT is a transfer checkpoint (model_RA_best.pth.tar ...), an IMP checkpoint, or any file that
--init reads. What it holds is inferred from its shapes.
"""
EXAMPLES = """\
examples:
  python -m models.export runs/transfer/model_RA_best.pth.tar robust.safetensors
  python -m models.export runs/transfer/model_SA_best.pth.tar net.onnx --input_size 224
"""


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m models.export",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="the trained network")
    parser.add_argument("target", metavar="OUT", help="a name ending in .safetensors or .onnx")
    parser.add_argument("-a", "--arch", help=f"if CKPT does not tell: {', '.join(ARCHS)}")
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="the entry of CKPT with the weights, OUTER.INNER if nested, if not the usual one",
    )
    parser.add_argument(
        "--input_size",
        "--input-size",
        type=int,
        metavar="S",
        help="height and width of the images of the check and of the ONNX graph "
        "(default: 32 with the CIFAR stem, else 224)",
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            metavar="R,G,B",
            help=f"the normalisation's {name}, if CKPT has none",
        )
    return parser


def export_safetensors(model: nn.Module, target: Path, images: Tensor) -> None:
    """Write torchvision-style keys, the constants in the metadata; no file if the check fails."""
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("normalize.")
    }
    header = {
        "format": "pt",
        "arch": str(model.arch),
        "stem": stem_of(model) or "",
        "num_classes": str(weights[f"{classifier(model)}.weight"].shape[0]),
        "mean": json.dumps(model.get_buffer("normalize.mean").tolist()),
        "std": json.dumps(model.get_buffer("normalize.std").tolist()),
        "input": "float RGB images (N, 3, H, W) in [0, 1], then (x - mean) / std",
    }
    header[HASH] = content_hash(header, weights)
    with replacing(target) as temporary:
        save_file(weights, temporary, metadata=header)
        _compare(model(images), _run_safetensors(temporary, images), target)


def _run_safetensors(path: Path, images: Tensor) -> Tensor:
    weights = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    mean, std = json.loads(header["mean"]), json.loads(header["std"])
    stem, width = stem_and_width(weights)
    model = build_model(header["arch"], int(header["num_classes"]), mean, std, stem, width)
    weights |= {"normalize.mean": torch.tensor(mean), "normalize.std": torch.tensor(std)}
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)(images)


def export_onnx(model: nn.Module, target: Path, images: Tensor) -> None:
    """Write a graph with the normalisation inside and a free batch size, in a single file."""
    _require_onnx()
    with replacing(target) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images,),
            temporary,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        for batch in (images, images[:1]):
            _compare(model(batch), _run_onnx(temporary, batch), target)


def _require_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"writing .onnx needs the package {package}: pip install onnx onnxscript"
            ) from error


def _run_onnx(path: Path, images: Tensor) -> Tensor:
    try:
        runtime: Any = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except ImportError:
        reference: Any = importlib.import_module("onnx.reference")
        session = reference.ReferenceEvaluator(str(path))
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _compare(expected: Tensor, written: Tensor, target: Path) -> None:
    """Raise RuntimeError (a fault of ours) unless the logits agree; the file is not kept."""
    scale = float(expected.abs().max())
    difference = float((expected - written).abs().max())
    if not difference <= TOLERANCE * max(scale, 1e-6):
        raise RuntimeError(f"{target}: logits differ by {difference:.3g} of {scale:.3g}")


def _triple(flag: str, words: Sequence[str] | None) -> tuple[float, ...] | None:
    """Three numbers, with commas as the mains take them, or apart."""
    if words is None:
        return None
    try:
        values = tuple(float(part) for word in words for part in word.replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(f"{flag} {' '.join(words)}: three numbers like 0.49,0.48,0.45 are needed")
    return values


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    target = Path(args.target)
    writers = {".safetensors": export_safetensors, ".onnx": export_onnx}
    if target.suffix not in writers:
        raise InputError(f"{target}: the name of OUT must end in {' or '.join(writers)}")
    if target.exists() and target.resolve() == Path(args.checkpoint).resolve():
        raise InputError(f"{target}: CKPT and OUT are the same file; name another OUT")
    check_no_run_file(target, "OUT")
    mean, std = _triple("--mean", args.mean), _triple("--std", args.std)
    if (mean is None) != (std is None):
        raise InputError("--mean and --std go together")
    if mean is not None and std is not None:
        check_constants(mean, std, ("--mean", "--std"))
        if has_constants(args.checkpoint, args.key, "--key"):
            raise InputError(
                f"{args.checkpoint}: has its own mean and std; leave out --mean and --std"
            )
    if args.input_size is not None and args.input_size < 1:
        raise InputError(f"--input_size {args.input_size} must be at least 1")
    source = args.checkpoint
    told: dict[str, Any] = {"tell": print, "note": lambda line: print(f"{source}: {line}")}
    model = load_network(source, args.arch, mean, std, key=args.key, flag="--key", **told)
    size = args.input_size or usual_size(stem_of(model))
    check_input_size(model, size)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    writers[target.suffix](model, target, images)
    print(f"{target}: {model.arch}, same logits as {source}")


if __name__ == "__main__":
    run_main(main)
