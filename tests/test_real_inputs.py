"""What real folders and files do to a run: its figure, a line that says so, or a refusal.

Three tables, one row a situation: folders, pixels, CIFAR-10-C.
"""

import errno
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluation_cases import evaluator
from helpers.folder_cases import (
    LATIN,
    NFC,
    NFD,
    Case,
    good,
    images,
    link,
    picture,
    renamed,
    split,
    text,
    tiny_imagenet,
)
from PIL import Image

from dataset import DataSpec, build_loaders
from engine.distributed import Runtime
from errors import InputError
from evaluation.sets import BENCHMARK, EXTRA, corruptions
from input_pipeline.decoding import read_image
from input_pipeline.loader import Loader
from input_pipeline.sources import load_splits

AVIF = ".avif" in Image.registered_extensions()  # Pillow writes it from 11.3 on

ROOT = Path(__file__).resolve().parent.parent


def loaders_of(root: Path, dataset="folder", classes=None, **kwargs):
    spec = DataSpec(dataset, str(root), 16, "none", False, classes=classes, **kwargs)
    return build_loaders(spec, batch_size=4, eval_batch_size=4, workers=0, seed=0)


def classes_file(content: str | bytes) -> Callable[[Path], None]:
    return lambda root: text(root / "names.txt", content)


# ------------------------------------------------------------------ folders


def both(name: str, other: str) -> Callable[[Path], object]:
    """The first with 2 images a class, the other with 3."""
    return lambda root: (split(root, name, 2), split(root, other, 3))


SPLIT_CASES = [
    Case("as documented", lambda r: None),
    Case("val", lambda r: split(r, "val", 2), (12, 4, 6)),
    Case("valid", lambda r: split(r, "valid", 2), (12, 4, 6)),
    Case("validation", lambda r: split(r, "validation", 2), (12, 4, 6)),
    Case("Val", lambda r: split(r, "Val", 2), (12, 4, 6)),
    Case("VALIDATION", lambda r: split(r, "VALIDATION", 2), (12, 4, 6)),
    Case("dev", lambda r: split(r, "dev", 2), (12, 4, 6)),
    Case("Train", lambda r: renamed(r, "train", "Train")),
    Case("training and Testing", lambda r: (renamed(r, "train", "training"),
                                            renamed(r, "test", "Testing"))),
    Case("val and validation", both("val", "validation"), (12, 4, 6),
         ("not used: validation/",)),
    Case("valid and dev", both("valid", "dev"), refused=("dev and valid may all be val",)),
    Case("an extra folder", lambda r: split(r, "unlabeled", 1), notes=("not used: unlabeled/",)),
    Case("a split that is a link", lambda r: (renamed(r, "test", "there"),
                                              link(r / "test", "there")),
         notes=("not used: there/",)),
    Case("test is a link to train", lambda r: (shutil.rmtree(r / "test"),
                                               link(r / "test", "train")),
         (10, 2, 12), ("test: 12 images also in train",)),
    Case("hidden folders beside the splits", lambda r: split(r, ".git", 1)),
    Case("test without labels beside val",
         lambda r: (shutil.rmtree(r / "test"), split(r, "val", 2), images(r / "test", 5)),
         (12, 4, 4), ("test: has no class folders, so no labels; val/ is the test set too",)),
    Case("test without labels alone", lambda r: (shutil.rmtree(r / "test"), images(r / "test", 5)),
         refused=("test: its images lie loose",)),
    Case("test/images without labels",
         lambda r: (shutil.rmtree(r / "test"), split(r, "val", 2), images(r / "test/images", 5)),
         (12, 4, 4), ("no labels; val/ is the test set",)),
    Case("imagenet with valid", lambda r: (renamed(r, "test", "valid")), (12, 6),
         dataset="imagenet"),
    Case("imagenet with an unlabelled test", lambda r: (split(r, "val", 2),), (12, 4),
         ("not used: test/",), dataset="imagenet"),
    Case("a zip file", lambda r: (shutil.rmtree(r), text(r)), refused=("a file, not a folder",)),
    Case("imagenet without val", lambda r: None, refused=("no folder val",), dataset="imagenet"),
]  # fmt: skip

LEVEL_CASES = [
    Case("one level too many", lambda r: split(r, "train/images", 3), bare=True,
         refused=("no folder test or val",)),
    Case("train/images/CLASS", lambda r: (split(r, "train/images", 3), split(r, "val", 1)),
         bare=True,
         refused=("one class folder only, images", "holds 2 (cat, dog)", "move them up")),
    Case("train/a/b/CLASS", lambda r: (split(r, "train/a/b", 3), split(r, "val", 1)),
         bare=True, refused=("train/a/b holds 2 (cat, dog)",)),
    Case("one class", lambda r: shutil.rmtree(r / "train/dog"),
         refused=("one class folder only, cat", "needs two")),
    Case("one chosen class", lambda r: None, classes="1", refused=("classes 1: names 1,",)),
    Case("the root too high", lambda r: split(split(r, "pets/train", 2), "pets/val", 2), bare=True,
         refused=("no folder train", "there is one in", "pets")),
    Case("Kaggle's ImageNet", lambda r: split(split(r, "ILSVRC/Data/CLS-LOC/train", 1),
                                              "ILSVRC/Data/CLS-LOC/val", 1), bare=True,
         dataset="imagenet", refused=("there is one in", "ILSVRC/Data/CLS-LOC")),
    Case("groups of classes", lambda r: (renamed(r, "train/cat", "train/pets/cat"),
                                         renamed(r, "train/dog", "train/pets/dog"),
                                         images(r / "train/zoo", 3),
                                         shutil.rmtree(r / "test"),
                                         split(r, "val", 1, ("pets", "zoo"))),
         (15, 2, 2), ("folders of images lie within pets (in pets: cat, dog)",),
         names=("pets", "zoo")),
    Case("CLASS/images", lambda r: renamed(renamed(r, "train/cat", "x") or r, "x",
                                           "train/cat/images")),
    Case("archives not unpacked", lambda r: (text(r / "train/bird.tar"), text(r / "train/owl.tar")),
         notes=("2 files beside the class folders, so of no class: 2 .tar",)),
    Case("only archives", lambda r: (shutil.rmtree(r / "train"), text(r / "train/bird.tar")),
         refused=("no class folders in it (there are .tar files)",)),
    Case("loose images beside the classes", lambda r: images(r / "train", 2),
         notes=("2 files beside the class folders, so of no class: 2 .png",)),
    Case("tiny-imagenet as unpacked", tiny_imagenet, (8, 4, 4),
         ("no labels; val/ is the test set", "2 files without the suffix of an image: 2 .txt",
          "labels read from val_annotations.txt"), names=("n1", "n2"), bare=True),
    Case("tiny-imagenet for IMP", tiny_imagenet, (8, 4),
         ("not used: test/", "2 .txt", "labels read from"), names=("n1", "n2"), bare=True,
         dataset="imagenet"),
    Case("tiny-imagenet, unlisted image",
         lambda r: (tiny_imagenet(r), picture().save(r / "val/images/new.png")), (8, 4),
         ("not used", "2 .txt", "labels read", "1 image that val_annotations.txt does not list"),
         names=("n1", "n2"), bare=True, dataset="imagenet"),
    Case("tiny-imagenet, listed image gone",
         lambda r: (tiny_imagenet(r), (r / "val/images/001.JPEG").unlink()), bare=True,
         refused=("val_annotations.txt:2: 001.JPEG: no such image",)),
    Case("tiny-imagenet, foreign class",
         lambda r: (tiny_imagenet(r), text(r / "val/val_annotations.txt", "000.JPEG\tn9\n")),
         bare=True, refused=("val_annotations.txt:1: not `image<tab>class`",)),
]  # fmt: skip

ENTRY_CASES = [
    Case("notebook checkpoints", lambda r: images(r / "train/cat/.ipynb_checkpoints", 3),
         notes=("train: left out 1 entry of the system or hidden: .ipynb_checkpoints",)),
    Case("Synology thumbnails", lambda r: images(r / "train/cat/@eaDir/000.png", 2),
         notes=("1 entry of the system or hidden: @eaDir",)),
    Case("trash of a disk", lambda r: images(r / "train/dog/.Trash-1000/files", 2),
         notes=("hidden: .Trash-1000",)),
    Case("a Mac's zip", lambda r: (images(r / "train/__MACOSX/cat", 2),
                                   images(r / "test/__MACOSX/cat", 2)),
         notes=("train: left out 1 entry of the system or hidden: __MACOSX", "test: left out 1")),
    Case("AppleDouble files", lambda r: [text(r / f"train/cat/._{k:03}.png") for k in range(6)],
         notes=("left out 6 entries of the system or hidden: ._000.png, ._001.png",)),
    Case("lost+found", lambda r: (r / "train/lost+found").mkdir(), notes=("hidden: lost+found",)),
    Case("Thumbs.db and desktop.ini", lambda r: (text(r / "train/cat/Thumbs.db"),
                                                 text(r / "train/desktop.ini")),
         notes=("2 entries of the system or hidden: desktop.ini, Thumbs.db",)),
    Case("a Windows bin", lambda r: (r / "train/$RECYCLE.BIN").mkdir(),
         notes=("hidden: $RECYCLE.BIN",)),
    Case("jfif", lambda r: images(r / "train/cat", 6, ".jfif", "JPEG"), (16, 2, 6)),
    Case("gif", lambda r: images(r / "train/cat", 6, ".GIF"), (16, 2, 6)),
    *([Case("avif", lambda r: images(r / "train/cat", 6, ".avif"), (16, 2, 6))] if AVIF else []),
    Case("no suffix", lambda r: images(r / "train/cat", 6, "", "JPEG"), (16, 2, 6)),
    Case("a number for a suffix", lambda r: images(r / "train/cat", 6, ".5", "PNG"), (16, 2, 6)),
    Case("no suffix and no image", lambda r: text(r / "train/cat/LICENSE"),
         notes=("1 file without the suffix of an image: 1 with none",)),
    Case("texts among the images", lambda r: [text(r / f"train/cat/{k}{s}") for k in range(3)
                                              for s in (".txt", ".xml")],
         notes=("6 files without the suffix of an image: 3 .txt, 3 .xml",)),
    Case("photos of a phone", lambda r: [text(r / f"train/cat/{k}.HEIC") for k in range(3)],
         notes=("3 files without the suffix of an image: 3 .heic",)),
    Case("a class in a foreign format",
         lambda r: [p.rename(p.with_suffix(".heic")) for p in (r / "train/dog").glob("*")],
         refused=("train/dog: no image in it", "there are 6 .heic")),
    Case("a pipe", lambda r: os.mkfifo(r / "train/cat/pipe.png"),
         notes=("1 entry that are no files: pipe.png",)),
    Case("an image by a second link", lambda r: link(r / "train/cat/again.png", "000.png"),
         notes=("left out 1 path to images of the same class",)),
    Case("an image by a hard link", lambda r: os.link(r / "train/cat/000.png",
                                                      r / "train/cat/again.png"),
         notes=("left out 1 path to images of the same class",)),
    Case("a folder by a second link", lambda r: (images(r / "train/cat/more", 2),
                                                 link(r / "train/cat/twice", "more")),
         (12, 2, 6), ("left out 2 paths to images of the same class",)),
    Case("a folder that links to itself", lambda r: link(r / "train/cat/loop", "."),
         notes=("1 link to a folder that holds the link: loop",)),
    Case("an image of two classes", lambda r: link(r / "train/dog/cat.png", "../cat/000.png"),
         (11, 2, 6), ("1 file with two labels, by links",)),
    Case("a test image that is trained on",
         lambda r: link(r / "test/cat/seen.png", "../../train/cat/000.png"), (10, 2, 7),
         ("test: 1 image also in train, by links",)),
    Case("a test image that the best network is chosen by",
         lambda r: (split(r, "val", 2), link(r / "test/cat/seen.png", "../../val/cat/000.png")),
         (12, 4, 7), ("test: 1 image also in val, by links",)),
    Case("an image of two classes that is tested too",
         lambda r: (link(r / "train/dog/cat.png", "../cat/000.png"),
                    link(r / "test/cat/seen.png", "../../train/cat/000.png")), (11, 2, 7),
         ("1 file with two labels", "test: 1 image also in train")),
    Case("a class that is a link", lambda r: (renamed(r, "train/dog", "dogs"),
                                              link(r / "train/dog", "../dogs")),
         notes=("not used: dogs/",)),
    Case("a class that links to nothing", lambda r: link(r / "train/owl", "nowhere"),
         refused=("train/owl: a link to nothing",)),
    Case("an empty class", lambda r: (r / "train/owl").mkdir(),
         refused=("train/owl: no image in it",)),
]  # fmt: skip

ABC = ("a", "b", "c")


def abc(content: str | bytes | None = None) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        split(root, "train", 3, ABC)
        split(root, "val", 1, ABC)
        if content is not None:
            text(root / "names.txt", content)

    return change


def accents(train: str, test: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        split(root, "train", 3, (train, "dog"))
        split(root, "val", 1, (test, "dog"))

    return change


def chosen(name: str, content: str | bytes, *notes: str, names=("a", "c"), refused=()) -> Case:
    counts = (3 * len(names), len(names), len(names))
    return Case(f"--classes: {name}", abc(content), counts, notes, refused, names, "names.txt",
                bare=True)  # fmt: skip


NAME_CASES = [
    Case("NFD against NFC", accents(NFC, NFD), (6, 2, 2), names=(NFC, "dog"), bare=True),
    Case("NFC against NFD", accents(NFD, NFC), (6, 2, 2), names=(NFC, "dog"), bare=True),
    Case("both forms", lambda r: split(r, "train", 2, (NFC, NFD)),
         refused=("two folders café, in two Unicode forms",)),
    Case("bytes that are not UTF-8", accents(LATIN, LATIN), (6, 2, 2), names=("caf\\xe9", "dog"),
         bare=True),
    Case("other case in test", lambda r: renamed(r, "test/cat", "test/Cat"),
         refused=("class folders of train missing: cat (is 'Cat' for 'cat' meant?)",)),
    Case("a space more in test", lambda r: renamed(r, "test/cat", "test/cat "),
         refused=("missing: cat (is 'cat ' for 'cat' meant?)",)),
    Case("a class more in test", lambda r: images(r / "test/owl", 1),
         refused=("class folders that train has not: owl",)),
    chosen("as documented", "a\tfirst\nc\n"),
    chosen("a BOM", "\ufeffa\nc\n"),
    chosen("UTF-16 of Windows", "a\r\nc\r\n".encode("utf-16")),
    chosen("CRLF", "a\r\nc\r\n"),
    chosen("CR of an old Mac", "a\rc\r"),
    chosen("comments and empty lines", "# mine\n\na\n   \nc\n"),
    chosen("as ls -d */ lists", "./a/\nc/\n"),
    chosen("a name twice", "a\nc\na\n", "named more than once: a"),
    chosen("another order", "c\na\n", "in another order than the classes of the data set"),
    chosen("words after a space", "a the first\nc\n",
           refused=("no such class in the data set: a the first; a tab, not ' ', ends the name",)),
    chosen("other case", "A\nc\n", refused=("no such class in the data set: A; there is a",)),
    chosen("Latin-1", b"a\ncaf\xe9\n", refused=("caf\\xe9; the file is not UTF-8",)),
    chosen("one class", "a\n", refused=("names 1, a classifier needs at least 2",)),
    chosen("comments only", "# a\n", refused=("names no class",)),
    Case("--classes: NFD in the file", lambda r: (accents(NFC, NFC)(r),
                                                  text(r / "names.txt", f"{NFD}\ndog\n")),
         (6, 2, 2), names=(NFC, "dog"), classes="names.txt", bare=True),
    Case("--classes: Latin-1 for a Latin-1 folder",
         lambda r: (accents(LATIN, LATIN)(r), text(r / "names.txt", b"caf\xe9\ndog\n")),
         (6, 2, 2), names=("caf\\xe9", "dog"), classes="names.txt", bare=True),
]  # fmt: skip

FOLDER_CASES = [*SPLIT_CASES, *LEVEL_CASES, *ENTRY_CASES, *NAME_CASES]


@pytest.mark.parametrize("case", FOLDER_CASES, ids=lambda case: case.name)
def test_a_folder_gives_its_images_a_note_or_a_refusal(case: Case, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    if not case.bare:
        good(root)
    case.change(root)
    classes = case.classes
    if classes and classes.endswith(".txt"):
        (root / classes).rename(tmp_path / classes)
        classes = str(tmp_path / classes)
    if case.refused:
        with pytest.raises(InputError) as caught:
            loaders_of(root, case.dataset, classes)
        message = str(caught.value)
        assert "\n" not in message
        for words in case.refused:
            assert words in message
        return
    loaders = [part for part in loaders_of(root, case.dataset, classes) if part is not None]
    assert tuple(part.num_images for part in loaders) == case.counts
    assert loaders[0].classes == case.names
    assert len(loaders[0].notes) == len(case.notes), loaders[0].notes
    for words, note in zip(case.notes, loaders[0].notes, strict=True):
        assert words in note
        assert "\n" not in note
        note.encode()  # printable, and fit for JSON
    for part in loaders:
        assert part.notes == loaders[0].notes
        seen = sum(len(labels) for _, labels in part.epoch(0))
        assert seen >= part.num_images - (1 if part is loaders[0] else 0)


def test_the_table_has_its_sixty_situations_and_no_name_twice():
    names = [case.name for case in FOLDER_CASES]
    assert len(set(names)) == len(names)
    assert len(names) + len(PIXELS) + len(REFUSED_PIXELS) + len(ARCHIVES) >= 60


@pytest.mark.parametrize("place", ["", "train", "train/cat", "train/cat/more", "test/dog"])
def test_a_folder_that_may_not_be_read_is_named_whole(tmp_path, monkeypatch, place):
    good(tmp_path)
    images(tmp_path / "train/cat/more", 2)
    real = os.scandir

    def scandir(path):
        if Path(os.fsdecode(path)) == tmp_path / place:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="cannot be read .Permission denied") as caught:
        loaders_of(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / place}: ")


def test_an_image_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    good(tmp_path)
    path = str(tmp_path / "train/cat/000.png")

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"cat/000.png: cannot be read \(Permission denied"):
        read_image(path)


def test_a_set_of_broken_images_alone_is_an_error_even_where_they_are_skipped(tmp_path):
    good(tmp_path)
    for path in tmp_path.glob("test/*/*.png"):
        path.write_bytes(b"")
    _, _, test = loaders_of(tmp_path, skip_bad=True)
    assert test is not None
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(InputError, match="no image can be read"),
    ):
        list(test.epoch(0))


def test_broken_images_alone_are_no_accuracy_where_processes_share_them(tmp_path):
    good(tmp_path)
    split(tmp_path, "test", 4, ("cat", "dog"))
    paths = sorted(tmp_path.glob("test/*/*.png"))
    for path in paths:
        path.write_bytes(b"")
    test = loaders_of(tmp_path, skip_bad=True)[2]
    assert test is not None
    assert len(paths) > test.batch_size  # so the first of two processes meets only some
    tested = replace(evaluator(), runtime=Runtime(torch.device("cpu"), 0, 2))
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(InputError, match="test SA: no image can be read; the last: .*test/"),
    ):
        tested.accuracy(torch.nn.Flatten(), test, "test SA")


SHOW = """
import sys
from dataset import DataSpec, build_loaders
spec = DataSpec("folder", sys.argv[1], 16, "none", False)
loaders = build_loaders(spec, batch_size=4, eval_batch_size=4, workers=0, seed=0)
print(ascii(loaders[0].classes), *(part.fingerprint() for part in loaders[1:]))
print(loaders[0].described())
"""


def test_names_and_fingerprints_do_not_depend_on_the_locale(tmp_path):
    split(tmp_path, "train", 3, (NFD, LATIN, "dog"))
    split(tmp_path, "val", 1, (NFC, LATIN, "dog"))
    _, val, test = loaders_of(tmp_path)
    assert test is not None
    strange = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    printed = subprocess.run(
        [sys.executable, "-c", SHOW, str(tmp_path)],
        cwd=ROOT, env={**os.environ, **strange}, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert printed[0] == f"{ascii(val.classes)} {val.fingerprint()} {test.fingerprint()}"
    assert printed[1] == loaders_of(tmp_path)[0].described()


def test_a_fingerprint_tells_content_order_and_names_and_no_place(tmp_path):
    def fingerprint(root: Path) -> str:
        return loaders_of(root)[1].fingerprint()

    one = split(good(tmp_path / "one"), "val", 2)
    first = fingerprint(one)
    shutil.copytree(one, tmp_path / "two")
    loaders = loaders_of(tmp_path / "two")
    list(loaders[1].epoch(0))  # its small images now lie in memory
    assert loaders[1].fingerprint() == first
    a, b, c = (tmp_path / "two/val/cat" / name for name in ("000.png", "001.png", "c.png"))
    a.rename(c), b.rename(a), c.rename(b)
    assert fingerprint(tmp_path / "two") != first
    for part in ("train", "val", "test"):
        renamed(one, f"{part}/dog", f"{part}/eel")
    assert fingerprint(one) != first


def test_a_fingerprint_of_an_array_set_is_that_of_its_pixels():
    spec = DataSpec("digits", "", 16, "none", False)
    make = lambda s: build_loaders(s, batch_size=4, eval_batch_size=4, workers=0, seed=0)  # noqa: E731
    _, val, test = make(spec)
    assert test is not None
    again = make(DataSpec("digits", "", 8, "crop", True))[2]  # another framing, the same images
    assert again is not None
    assert test.fingerprint() == again.fingerprint() != val.fingerprint()


# ------------------------------------------------------------------ pixels

RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
UPPER = (RAMP >> 8).astype(np.uint8)
COLOURS = np.asarray(picture(3))


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[:, :, None], 3, axis=2)


def save(image: Image.Image | np.ndarray, name: str, **options) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        picture.save(folder / name, **options)
        return str(folder / name)

    return write


def with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(COLOURS).convert(mode)
    image.putalpha(Image.fromarray(UPPER))
    return image


def png_of_16_bits(pixels: np.ndarray, kind: int) -> Callable[[Path], str]:
    """Of colour (kind 2, 6 with alpha): PIL itself writes none."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))

    def write(folder: Path) -> str:
        (folder / "x.png").write_bytes(content)
        return str(folder / "x.png")

    return write


def twelve_bits(folder: Path) -> str:
    """A TIFF of 12 bits a pixel, packed, as scanners and cameras write: PIL itself writes none."""
    values = (RAMP >> 4).ravel().astype(int)
    packed = bytearray()
    for a, b in zip(values[::2], values[1::2], strict=True):
        packed += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    tags = [(256, 16), (257, 16), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 16),
            (279, len(packed))]  # fmt: skip
    body = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in tags
    )
    head = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little") + body
    text(folder / "x.tif", (head + b"\0" * 4).ljust(122, b"\0")[:122] + bytes(packed))
    return str(folder / "x.tif")


def pgm(folder: Path) -> str:
    """Written by hand, as Pillow wrote none of 16 bits for long."""
    text(folder / "x.pgm", b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes())
    return str(folder / "x.pgm")


def exif(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = turn
    return tags


PALETTE = Image.fromarray(COLOURS).quantize(16)
OF_PALETTE = np.asarray(PALETTE.convert("RGB"))
SMOOTH = picture(1, 4).resize((24, 16), Image.Resampling.BICUBIC)  # (16, 24, 3)

PIXELS: dict[str, tuple[Callable[[Path], str], np.ndarray | None]] = {
    "16-bit grey PNG": (save(RAMP, "x.png"), grey(UPPER)),
    "16-bit grey TIFF": (save(RAMP, "x.tif"), grey(UPPER)),
    "16-bit big-endian TIFF": (
        save(Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes()), "x.tif"),
        grey(UPPER),
    ),
    "16-bit TIFF where white is zero": (
        save(RAMP, "x.tif", tiffinfo={262: 0}),
        grey(255 - UPPER),
    ),
    "12-bit TIFF": (twelve_bits, grey(UPPER)),
    "16-bit PGM": (pgm, grey(UPPER)),
    "16-bit JPEG 2000": (save(RAMP, "x.jp2"), grey(UPPER)),
    "8-bit grey PNG": (save(UPPER, "x.png"), grey(UPPER)),
    "4-bit grey PNG": (
        save(Image.fromarray(UPPER).convert("L").quantize(16), "x.png", bits=4),
        np.asarray(Image.fromarray(UPPER).quantize(16).convert("RGB")),
    ),
    "1-bit PNG": (save(Image.fromarray(UPPER > 127), "x.png"), grey((UPPER > 127) * np.uint8(255))),
    "1-bit TIFF": (
        save(Image.fromarray(UPPER > 127), "x.tif", compression="group4"),
        grey((UPPER > 127) * np.uint8(255)),
    ),
    "RGBA": (save(with_alpha("RGB"), "x.png"), COLOURS),
    "LA": (save(with_alpha("L"), "x.png"), grey(np.asarray(Image.fromarray(COLOURS).convert("L")))),
    "palette": (save(PALETTE, "x.png"), OF_PALETTE),
    "palette with a transparent colour": (save(PALETTE, "x.png", transparency=0), OF_PALETTE),
    "palette with an alpha each": (
        save(PALETTE, "x.png", transparency=bytes(range(0, 160, 10))),
        OF_PALETTE,
    ),
    "grey with a transparent level": (save(UPPER, "x.png", transparency=3), grey(UPPER)),
    "GIF": (save(PALETTE, "x.gif"), OF_PALETTE),
    "animated GIF": (
        save(PALETTE, "x.gif", save_all=True, append_images=[PALETTE.rotate(90)]),
        OF_PALETTE,
    ),
    "two-page TIFF": (
        save(COLOURS, "x.tif", save_all=True, append_images=[Image.fromarray(255 - COLOURS)]),
        COLOURS,
    ),
    "CMYK TIFF": (
        save(Image.fromarray(COLOURS).convert("CMYK"), "x.tif"),
        np.asarray(Image.fromarray(COLOURS).convert("CMYK").convert("RGB")),
    ),
    # None: what PIL's convert("RGB") gives.
    "JPEG": (save(SMOOTH, "x.jpg"), None),
    "progressive JPEG": (save(SMOOTH, "x.jpg", progressive=True), None),
    "grey JPEG": (save(SMOOTH.convert("L"), "x.jpg"), None),
    "CMYK JPEG": (save(SMOOTH.convert("CMYK"), "x.jpg"), None),
    "JPEG called .png": (save(SMOOTH, "x.png", format="JPEG"), None),
    "JPEG that EXIF turns": (save(SMOOTH, "x.jpg", exif=exif(6)), None),
    "JPEG with an EXIF block cut off": (save(SMOOTH, "x.jpg", exif=b"Exif\0\0II*\0"), None),
    "PNG that EXIF turns": (save(SMOOTH, "x.png", exif=exif(6)), np.asarray(SMOOTH)),
    "TIFF that turns": (
        save(SMOOTH, "x.tif", tiffinfo={274: 6}),
        np.asarray(SMOOTH.transpose(Image.Transpose.ROTATE_270)),
    ),
}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("decoder", ["torchvision and PIL", "PIL"])
@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_the_same_in_both_decoders(name, decoder, tmp_path, monkeypatch):
    write, expected = PIXELS[name]
    path = write(tmp_path)
    if decoder == "PIL":
        monkeypatch.setattr("input_pipeline.decoding.decode_jpeg", None)
    if expected is None:
        expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


REFUSED_PIXELS: dict[str, tuple[Callable[[Path], str], str]] = {
    "float TIFF": (save(RAMP.astype(np.float32) / 65535, "x.tif"), "32-bit floats, whose range"),
    "32-bit TIFF": (save(RAMP.astype(np.int32), "x.tif"), "32-bit or signed integers, whose"),
    "a Git LFS pointer": (
        lambda p: (
            text(p / "x.png", "version https://git-lfs.github.com/spec/v1\n")  # type: ignore[func-returns-value]
            or str(p / "x.png")
        ),
        "a Git LFS pointer: run git lfs pull",
    ),
    "an HTML page": (
        lambda p: text(p / "x.jpg", "\n<!DOCTYPE html>\n<p>404") or str(p / "x.jpg"),  # type: ignore[func-returns-value]
        "an HTML page",
    ),
}


@pytest.mark.parametrize("name", REFUSED_PIXELS)
def test_pixels_without_a_known_range_are_refused_by_name(name, tmp_path):
    write, message = REFUSED_PIXELS[name]
    with pytest.raises(InputError, match=message) as caught:
        read_image(write(tmp_path))
    assert str(caught.value).startswith(str(tmp_path / "x."))


def filled(root: Path, write: Callable[[Path], str]) -> Path:
    """A folder data set of 16 copies of an image."""
    (root / "made").mkdir(parents=True)
    made = Path(write(root / "made"))
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / "set" / part / name).mkdir(parents=True)
            for k in range(4):
                shutil.copy(made, root / "set" / part / name / f"{k}{made.suffix}")
    return root / "set"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RGBA", "16 of 16 images looked at have an alpha channel or a transparent colour, which"),
        ("palette with an alpha each", "an alpha channel or a transparent colour"),
        ("JPEG that EXIF turns", "to be turned by their EXIF orientation, which is not applied"),
        ("animated GIF", "several frames or pages: the first is used"),
        ("16-bit grey PNG", "16-bit pixels: the upper 8 bits are used"),
        ("16-bit PGM", "the largest 16-bit value in them is 65535 of 65535"),
        ("JPEG", ""),
        ("JPEG with an EXIF block cut off", ""),
        ("TIFF that turns", ""),
    ],
)
def test_what_pixels_hold_beyond_what_is_used_is_noted(name, words, tmp_path):
    train, _, _ = loaders_of(filled(tmp_path, PIXELS[name][0]))
    assert any(words in note for note in train.notes) if words else train.notes == ()


def test_8_bit_values_in_16_bit_files_are_refused(tmp_path):
    root = filled(tmp_path, save(UPPER.astype(np.uint16), "x.png"))
    with pytest.raises(InputError, match="16-bit pixels with values up to 255 only"):
        loaders_of(root)


@pytest.mark.parametrize("kind", [2, 6], ids=["RGB", "RGBA"])
def test_16_bit_colour_is_looked_at_like_grey(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3 if kind == 2 else 4))
    opaque = np.array([1, 1, 1, 257])[: pixels.shape[2]]
    with pytest.raises(InputError, match="16-bit pixels with values up to 255 only"):
        loaders_of(filled(tmp_path / "dark", png_of_16_bits(pixels * opaque, kind)))
    full = loaders_of(filled(tmp_path / "full", png_of_16_bits(pixels * 257, kind)))[0].notes
    assert "16 of 16 images looked at have 16-bit pixels: the upper 8 bits are used" in full


def test_8_bit_values_in_some_of_the_16_bit_files_are_noted(tmp_path):
    root = filled(tmp_path, save(UPPER.astype(np.uint16), "x.png"))
    for path in root.rglob("0.png"):
        Image.fromarray(UPPER.astype(np.uint16) * 257).save(path)
    train, _, _ = loaders_of(root)
    assert any("12 of them hold 16-bit values up to 255 only and" in note for note in train.notes)


@pytest.mark.parametrize(("suffix", "kind"), [(".png", np.uint16), (".tif", np.uint16)])
def test_a_set_that_brightness_separates_stays_separable(tmp_path, suffix, kind):
    for part in ("train", "val"):
        for name, level in (("dark", 8000), ("light", 48000)):
            for k in range(4):
                (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(np.full((16, 16), level + k, kind))
                image.save(tmp_path / part / name / f"{k}{suffix}")
    _, val, _ = loaders_of(tmp_path)
    for batch, labels in val.epoch(0):
        assert torch.equal((batch.float().mean((1, 2, 3)) > 100).long(), labels)


# ------------------------------------------------------------------ VisDA's lists


@pytest.mark.parametrize(
    ("line", "note", "message"),
    [
        ("train/x.png 2", "left out 1 line of images listed before", ""),
        ("./train/x.png 2", "left out 1 line of images listed before", ""),
        ("train//./x.png 2", "left out 1 line of images listed before", ""),
        ("train//x.png 3", "", "image_list.txt:2: train/x.png with a second label"),
        ("train/x.png 3", "", "image_list.txt:2: train/x.png with a second label"),
        ("bus/y z.png 2\r", "", ""),
        (f"train/y.png {'1' * 5000}", "", "image_list.txt:2: not `path label`"),
    ],
)
def test_a_list_of_images_counts_each_once(tmp_path, line, note, message):
    first = "\ufefftrain/x.png 2\n"
    for part in ("train", "validation"):
        text(tmp_path / part / "image_list.txt", f"{first}{line}\n" if part == "train" else first)
    if message:
        with pytest.raises(InputError, match=message):
            load_splits("visda", str(tmp_path), 1.0, None)
        return
    splits = load_splits("visda", str(tmp_path), 1.0, None)
    assert len(splits.train.labels) == (1 if note else 2)
    assert any(note in line for line in splits.notes)
    assert any("lists no image of aeroplane, bicycle" in line for line in splits.notes)


# ------------------------------------------------------------------ CIFAR-10-C


def archive(root: Path) -> None:
    """The 19 corruptions and the labels as published, at 4 images a severity."""
    np.save(root / "labels.npy", np.tile([0, 3, 1, 9], 5).astype(np.uint8))
    for name in (*BENCHMARK, *EXTRA):
        np.save(root / f"{name}.npy", np.zeros((20, 32, 32, 3), np.uint8))


def replaced(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda root: np.save(root / f"{name}.npy", array)


def without(*names: str) -> Callable[[Path], object]:
    return lambda root: [(root / f"{name}.npy").unlink() for name in names]


# What is done; how many of the benchmark and extra; words of the notes; words of a refusal.
ARCHIVES: dict[str, tuple[Callable[[Path], object], tuple[int, int], tuple[str, ...], str]] = {
    "as published": (lambda r: None, (15, 4), (), ""),
    "the 15 alone": (without(*EXTRA), (15, 0), (), ""),
    "one is missing": (without("fog"), (14, 4), ("14 of the 15", "missing: fog"), ""),
    "the extra ones alone": (without(*BENCHMARK), (0, 4), (), "no {corruption}.npy of the"),
    "original.npy": (
        replaced("original", np.zeros((4, 32, 32, 3), np.uint8)),
        (15, 4),
        ("not used: original.npy",),
        "",
    ),
    "old labels": (replaced("labels_old", np.zeros(4)), (15, 4), ("not used: labels_old",), ""),
    "a Mac's ._fog.npy": (lambda r: text(r / "._fog.npy"), (15, 4), ("not used: ._fog",), ""),
    "images of one severity": (
        replaced("fog", np.zeros((4, 32, 32, 3), np.uint8)),
        (15, 4),
        (),
        "fog.npy: 4 images for 20 labels, five times 4",
    ),
    "an extra one too short": (
        replaced("spatter", np.zeros((15, 32, 32, 3), np.uint8)),
        (15, 4),
        (),
        "spatter.npy: 15 images for 20 labels",
    ),
    "labels of one severity": (
        replaced("labels", np.array([0, 3, 1, 9])),
        (15, 4),
        (),
        "labels.npy: not the labels of one severity five times over",
    ),
    "labels that differ between severities": (
        replaced("labels", np.arange(20) % 10),
        (15, 4),
        (),
        "not the labels of one severity five times over",
    ),
    "labels of 100 classes": (
        replaced("labels", np.tile([0, 55, 1, 9], 5)),
        (15, 4),
        (),
        "labels.npy: not labels of 0 to 9",
    ),
    "no labels": (without("labels"), (15, 4), (), "labels.npy: missing or not a .npy array"),
    "floats": (
        replaced("snow", np.zeros((20, 32, 32, 3), np.float32)),
        (15, 4),
        (),
        "snow.npy: not uint8 images",
    ),
    "channels first": (
        replaced("snow", np.zeros((20, 3, 32, 32), np.uint8)),
        (15, 4),
        (),
        "snow.npy: not uint8 images",
    ),
    "cut short by a full disk": (
        lambda r: (r / "fog.npy").write_bytes((r / "fog.npy").read_bytes()[:-9]),
        (15, 4),
        (),
        "fog.npy: missing or not a .npy array",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_cifar10_c_is_the_fifteen_and_whatever_else_is_said(name, tmp_path):
    change, counts, notes, refused = ARCHIVES[name]
    archive(tmp_path)
    change(tmp_path)
    if refused:
        with pytest.raises(InputError) as caught:
            corruptions(str(tmp_path))
        assert refused in str(caught.value)
        return
    found = corruptions(str(tmp_path))
    assert (len(found.benchmark), len(found.extra)) == counts
    assert set(found.missing) == set(BENCHMARK) - set(found.benchmark)
    told = " ".join(found.notes)
    assert all(words in told for words in notes)
    assert bool(found.notes) == bool(notes)


def test_loaders_carry_classes_and_notes_as_plain_values():
    train = loaders_of(Path(), "digits")[0]
    assert isinstance(train, Loader)
    assert train.classes == tuple("0123456789")
    assert train.notes == ()
