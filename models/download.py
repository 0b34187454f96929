"""Weights that are fetched by name, only when they are asked for by name."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import torch
from torchvision.models import get_model_weights

from errors import InputError, first_line
from files.atomic import sha256_of

TORCHVISION = "torchvision"
HUB = "hf:"
WEB = ("https://", "http://")
HUB_NAME = re.compile(r"(?P<repo>[^/@]+/[^/@]+)/(?P<file>[^@]+)(@(?P<revision>.+))?")
SHA256 = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Found:
    """Where weights lie, and what to say of it: nothing of a file that was named by its path."""

    path: Path
    note: str | None = None


def is_fetched(init: str) -> bool:
    """Whether `--init` names weights to be fetched, not a file."""
    return init == TORCHVISION or init.startswith((HUB, *WEB))


def weights_file(init: str, arch: str) -> Found:
    """The file that `--init` means, downloaded if need be.

    `init` is a path, `torchvision`, `hf:OWNER/REPO/FILE[@REVISION]` (Hugging Face's hub, through
    its own cache), or a URL with `#sha256=…`. Raises InputError where nothing can be had.
    """
    if init == TORCHVISION:
        path = torchvision_file(arch)
    elif init.startswith(HUB):
        path = hub_file(init)
    elif init.startswith(WEB):
        path = web_file(init)
    else:
        return Found(Path(init))
    return Found(path, f"{init} lies at {path}, sha256 {sha256_of(path)}")


def torchvision_file(arch: str) -> Path:
    """Give the file of torchvision's V1 weights (the released code's), downloaded if need be.

    It lies where torchvision keeps it; the first digits of its hash are in its name. Raises
    InputError for an architecture that torchvision has no weights of, for another file in that
    place, and where the file cannot be had.
    """
    try:
        url = get_model_weights(arch)["IMAGENET1K_V1"].url
    except (ValueError, KeyError) as error:
        raise InputError(f"--init torchvision: torchvision has no V1 weights of {arch}") from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    sha256 = path.stem.rpartition("-")[2]
    if path.is_file() and not sha256_of(path).startswith(sha256):
        raise InputError(
            f"--init torchvision: {path} is torn, or not torchvision's file, whose SHA-256 begins "
            f"with {sha256}; delete it, and it is downloaded again, or pass its path to --init"
        )
    return _downloaded(url, path, sha256, f"--init torchvision: {url}")


def hub_file(init: str) -> Path:
    """Give a file of Hugging Face's hub, by its client: cached, resumed, offline if asked to.

    Raises InputError without the package `huggingface_hub`, for a name in another form, and where
    the file cannot be had.
    """
    found = HUB_NAME.fullmatch(init.removeprefix(HUB))
    if found is None:
        raise InputError(f"--init {init}: must be like hf:OWNER/REPO/FILE or …/FILE@REVISION")
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise InputError(
            f"--init {init}: needs the package huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        return Path(hub.hf_hub_download(found["repo"], found["file"], revision=found["revision"]))
    except errors.GatedRepoError as error:
        reason = f"{found['repo']} asks for a login: accept its terms, then run `hf auth login`"
        raise InputError(f"--init {init}: {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"--init {init}: no revision {found['revision']}") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"--init {init}: not in the cache, and the hub cannot be reached; download it where "
            "there is a network and pass its path"
        ) from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"--init {init}: no file {found['file']} in {found['repo']}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"--init {init}: no repository {found['repo']}, or a private one"
        ) from error
    except Exception as error:  # of the client, its transport, and what a torn download raises
        raise InputError(f"--init {init}: download failed ({first_line(error)})") from error


def web_file(init: str) -> Path:
    """Give the file of a URL that ends in `#sha256=…`, downloaded if need be.

    It lies in a folder of torch.hub named by the URL's hash, since files of two places may have one
    name. Raises InputError without the hash, where it differs, and where the file cannot be had.
    """
    url, _, fragment = init.partition("#")
    sha256 = fragment.removeprefix("sha256=").lower()
    if not fragment.startswith("sha256=") or not SHA256.fullmatch(sha256):
        raise InputError(
            f"--init {init}: end the URL in #sha256= and the file's SHA-256, 8 to 64 hex digits"
        )
    name = Path(urlsplit(url).path).name or "weights"
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = Path(torch.hub.get_dir()) / "checkpoints" / folder / name
    return _downloaded(url, path, sha256, f"--init {url}")


def _downloaded(url: str, path: Path, sha256: str, what: str) -> Path:
    """Let a file whose hash begins so lie at `path`; `what` it is begins an InputError's line."""
    if path.is_file() and sha256_of(path).startswith(sha256):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        bar = sys.stderr.isatty()  # in a log it would be hundreds of lines
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=bar)
    except HTTPError as error:
        raise InputError(f"{what}: the server answers {error.code} {error.reason}") from error
    except RuntimeError as error:
        raise InputError(
            f"{what}: another file than #sha256={sha256}, or a torn one; nothing was kept"
        ) from error
    except (URLError, OSError, ValueError) as error:
        raise InputError(
            f"{what}: download failed ({error}); fetch it elsewhere and pass its path"
        ) from error
    return path
