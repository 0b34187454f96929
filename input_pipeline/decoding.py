"""Image files to uint8 RGB: the same pixels from either decoder, whatever the file's kind.

docs/data.md says what becomes of depth, transparency, palettes and orientation, and why.
"""

import os
from collections import Counter

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import InputError
from input_pipeline.names import shown

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # torchvision means to give its decoders up; PIL is slower and gives the same
    decode_jpeg = None

LOOKED_AT = 64  # images of a set whose headers are read for what is special about its pixels
_ORIENTATION = 274  # the tags of EXIF and of TIFF
_BITS, _PHOTOMETRIC = 258, 262
_NOT_IMAGES = (
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
)
_PIL_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError),
    RuntimeError,  # of AVIF
)


def read_image(path: str) -> Tensor:
    """Decode an image file to uint8 (3, H, W), the pixels of PIL's `convert("RGB")`.

    JPEG goes through torchvision's decoder, whatever that cannot do (and every other format)
    through PIL. 16-bit grey keeps its upper 8 bits, as 16-bit colour does. Raises InputError that
    names a file which is missing, broken, or of pixels whose range the file does not tell.
    """
    try:
        with open(path, "rb") as file:
            data = bytearray(file.read())
        if decode_jpeg is not None and data.startswith(b"\xff\xd8"):
            image = decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.UNCHANGED)
            if image.shape[0] in (1, 3):  # four channels are CMYK, which PIL turns into RGB
                return image.expand(3, -1, -1)
    except (OSError, RuntimeError, ValueError):  # PIL decides whether the file is broken
        pass
    try:
        with Image.open(path) as picture:
            pixels = _rgb(picture, path)
    except InputError:
        raise
    except _PIL_ERRORS as error:
        raise _broken(path, error) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _rgb(picture: Image.Image, path: str) -> np.ndarray:
    """Return the pixels of the first frame, (H, W, 3); transparency is left out."""
    mode = picture.mode
    if _is_16_bit(picture):
        grey = _upper_bits(picture)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        kind = "32-bit floats" if mode == "F" else "32-bit or signed integers"
        raise InputError(
            f"{shown(path)}: its pixels are {kind}, whose range the file does not tell; "
            "save it with 8 or 16 bits"
        )
    picture.info.pop("transparency", None)  # PIL would warn of it; the pixels are the same
    return np.array(picture.convert("RGB"))


def _is_16_bit(picture: Image.Image) -> bool:
    """Whether it is grey of 9 to 16 bits; PIL opens it as I in PGM, in PNG in older versions."""
    mode = picture.mode
    return mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM"))


def _upper_bits(picture: Image.Image) -> np.ndarray:
    """Scale 16-bit (in TIFF also 12-bit) grey to 8 bits, where PIL's convert("RGB") clips it."""
    tags = getattr(picture, "tag_v2", {})
    bits = max(8, int(tags.get(_BITS, (16,))[0]))
    grey = (np.asarray(picture).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return 255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey  # 0: white is zero


def _broken(path: str, error: Exception) -> InputError:
    if not os.path.exists(path):
        return InputError(f"{shown(path)}: no such image file")
    if isinstance(error, PermissionError):
        return InputError(f"{shown(path)}: cannot be read ({error.strerror})")
    if isinstance(error, Image.DecompressionBombError):
        return InputError(
            f"{shown(path)}: more than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels that "
            "Pillow opens of an image; save it smaller"
        )
    reason = " ".join(str(error).split())
    try:
        reason = reason if os.path.getsize(path) else "empty"
        with open(path, "rb") as file:
            start = file.read(64).lower().lstrip()
        reason = next((what for begin, what in _NOT_IMAGES if start.startswith(begin)), reason)
    except OSError:
        pass
    return InputError(
        f"{shown(path)}: not a whole image file ({reason}); replace or remove it (a run that has "
        "begun keeps its images: leave it there, and go on with --resume --skip_bad)"
    )


def check_there(images: object) -> None:
    """Raise InputError for a missing or empty file among images that are files, names (N,)."""
    for path in map(os.fsdecode, images if isinstance(images, np.ndarray) else ()):
        try:
            size = os.path.getsize(path)
        except (OSError, ValueError) as error:
            raise _broken(path, error) from error
        if not size:
            raise _broken(path, ValueError("empty"))


def pixel_notes(files: np.ndarray) -> list[str]:
    """Tell what some images of a set, evenly chosen, hold that is not used.

    files: names (N,) as bytes. Broken files are told when their batch is made. Raises InputError
    where 16-bit images hold 8-bit values, so that scaling would make all of them black.
    """
    chosen = np.unique(np.linspace(0, len(files) - 1, LOOKED_AT).astype(int))
    found: Counter[str] = Counter()
    largest, deep, dark = 0, "", 0
    for path in files[chosen].tolist():
        try:
            with Image.open(os.fsdecode(path)) as picture:
                brightest = _largest_16_bit(picture)
                found.update(_unused(picture))
                if brightest is not None:
                    found["have 16-bit pixels: the upper 8 bits are used"] += 1
                    largest, deep = max(largest, brightest), shown(path)
                    dark += brightest < 256
        except Exception:  # of any kind: a look at what may surprise must not end a run
            continue
    if deep and largest < 256:
        raise InputError(
            f"{deep}: 16-bit pixels with values up to 255 only, as in all such images looked at; "
            "save them with 8 bits"
        )
    notes = [f"{n} of {len(chosen)} images looked at {what}" for what, n in found.items()]
    if deep:
        notes.append(f"the largest 16-bit value in them is {largest} of 65535")
    if dark:
        notes.append(
            f"{dark} of them hold 16-bit values up to 255 only and become black; if these are "
            "8-bit values, save them with 8 bits"
        )
    return notes


def _largest_16_bit(picture: Image.Image) -> int | None:
    """The largest 16-bit value, of colour as PIL's upper 8 bits tell it; None of 8-bit pixels."""
    if _is_16_bit(picture):
        return int(np.asarray(picture).max())
    tiles = getattr(picture, "tile", [])  # until it is loaded: how its pixels are stored
    if any(";16" in str(tile[-1]) for tile in tiles):
        return 257 * int(np.asarray(picture.convert("RGB")).max())
    return None


def _unused(picture: Image.Image) -> list[str]:
    unused = []
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        unused.append("have an alpha channel or a transparent colour, which is not used")
    if picture.format != "TIFF" and picture.getexif().get(_ORIENTATION, 1) not in (0, 1):
        unused.append("are to be turned by their EXIF orientation, which is not applied")
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        unused.append("hold several frames or pages: the first is used")
    return unused
