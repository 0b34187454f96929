"""Splits, loaders and what they say about wrong input; all files are made here, in real formats."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image

import dataset
from dataset import DataSpec, Loader, build_loaders, mean_std
from errors import InputError
from evaluation.sets import adversarial_loader, cifar10_c_loader, corruptions
from files.checkpoints import save_checkpoint
from input_pipeline import loader as loader_module
from input_pipeline import sources
from input_pipeline import workers as workers_module
from input_pipeline.counts import count_images
from input_pipeline.decoding import read_image
from input_pipeline.listings import VISDA_CLASSES
from input_pipeline.sources import load_splits
from input_pipeline.splits import Split, fraction_per_class
from input_pipeline.transforms import Transform, uniforms


def write_images(folder: Path, names: list[str], size=(12, 10), suffix=".png") -> None:
    """One image a name, whose pixels tell the name: its hash in the top left corner."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rng = np.random.default_rng(sum(map(ord, f"{folder.name}/{name}")))
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{suffix}")


def write_folder(root: Path, parts: dict[str, dict[str, int]], **kwargs) -> Path:
    for part, classes in parts.items():
        for name, count in classes.items():
            write_images(root / part / name, [f"{k:03}" for k in range(count)], **kwargs)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """21 images of each of two classes for training, 3 for testing, bigger than what is kept."""
    root = tmp_path_factory.mktemp("folder")
    return write_folder(
        root, {"train": {"cat": 21, "dog": 21}, "test": {"cat": 3, "dog": 4}}, size=(70, 90)
    )


def spec_of(root, name="folder", size=16, augment="rrc", hflip=True, **kwargs) -> DataSpec:
    return DataSpec(name, str(root), size, augment, hflip, **kwargs)


def loaders(spec: DataSpec, batch_size=8, eval_batch_size=4, workers=0, seed=3):
    return build_loaders(
        spec, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers, seed=seed
    )


def batches(loader: Loader, *args, **kwargs):
    return list(loader.epoch(*args, **kwargs))


def assert_same(left, right) -> None:
    assert len(left) == len(right) > 0
    for (a, b), (c, d) in zip(left, right, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


# ------------------------------------------------------------------ CIFAR and SVHN


@pytest.fixture
def unchecked(monkeypatch):
    """Let torchvision see that a file is there; its MD5 sum no file made here can have."""
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(
            getattr(torchvision.datasets, module),
            "check_integrity",
            lambda p, md5=None: Path(p).is_file(),
        )


def write_cifar10(root: Path, per_file: int) -> None:
    base = root / "cifar-10-batches-py"
    base.mkdir(parents=True)
    for part in range(6):
        pixels = np.zeros((per_file, 3072), dtype=np.uint8)
        number = np.arange(per_file) + part * per_file  # the test batch comes last
        pixels[:, 0], pixels[:, 1], pixels[:, 2] = number // 65536, number // 256, number
        name = f"data_batch_{part + 1}" if part < 5 else "test_batch"
        content = {"data": pixels, "labels": [int(n) % 10 for n in number]}
        (base / name).write_bytes(pickle.dumps(content))
    names = {"label_names": [f"class{k}" for k in range(10)]}
    (base / "batches.meta").write_bytes(pickle.dumps(names))


def number_of(images: torch.Tensor | np.ndarray) -> list[int]:
    """The number that write_cifar10 hid in the first three pixels of an image."""
    assert isinstance(images, torch.Tensor)
    first = images[:, 0, 0, :3].int()
    return (first[:, 0] * 65536 + first[:, 1] * 256 + first[:, 2]).tolist()


@pytest.mark.parametrize("data_number", [1.0, 0.1, 0.01])
def test_cifar_splits_by_index_whatever_the_fraction(tmp_path, unchecked, monkeypatch, data_number):
    write_cifar10(tmp_path, 1000)
    monkeypatch.setitem(sources.INDEX_SPLITS, "cifar10", (4500, 5000))
    splits = load_splits("cifar10", str(tmp_path), data_number, None)
    assert splits.test is not None
    assert number_of(splits.train.images) == list(range(int(4500 * data_number)))
    assert number_of(splits.val.images) == list(range(4500, 5000))
    assert number_of(splits.test.images) == list(range(5000, 6000))
    assert splits.train.labels.tolist() == [n % 10 for n in range(int(4500 * data_number))]
    assert splits.classes[3] == "class3"


def test_the_split_points_are_the_released_ones():
    assert sources.INDEX_SPLITS == {
        "cifar10": (45000, 50000),
        "cifar100": (45000, 50000),
        "svhn": (68257, 73257),
    }


def test_cifar_of_the_wrong_length_is_an_error(tmp_path, unchecked):
    write_cifar10(tmp_path, 20)
    with pytest.raises(InputError, match="100 training images, not 50000"):
        load_splits("cifar10", str(tmp_path), 1.0, None)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_2", "cifar10_3"])
def test_cifar_variants_share_data_and_statistics(tmp_path, unchecked, monkeypatch, name):
    write_cifar10(tmp_path, 20)
    monkeypatch.setitem(sources.INDEX_SPLITS, "cifar10", (90, 100))
    train, val, test = loaders(spec_of(tmp_path, name, 32, "crop"), batch_size=32)
    assert (train.num_images, val.num_images, test.num_images) == (90, 10, 20)
    assert number_of(batches(test, 0)[0][0]) == [100, 101, 102, 103]
    assert mean_std(name) == mean_std("cifar10")


def test_cifar100_is_read_with_its_fine_labels(tmp_path, unchecked, monkeypatch):
    base = tmp_path / "cifar-100-python"
    base.mkdir()
    for name, count in (("train", 100), ("test", 10)):
        pixels = np.zeros((count, 3072), dtype=np.uint8)
        content = {"data": pixels, "fine_labels": list(range(count))}
        (base / name).write_bytes(pickle.dumps(content))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"c{k}" for k in range(100)]}))
    monkeypatch.setitem(sources.INDEX_SPLITS, "cifar100", (90, 100))
    splits = load_splits("cifar100", str(tmp_path), 1.0, None)
    assert splits.val.labels.tolist() == list(range(90, 100))
    assert len(splits.classes) == 100


def test_svhn_mat_files_split_by_index_with_ten_meaning_zero(tmp_path, unchecked, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3, 50), dtype=np.uint8)
    digits = (np.arange(50) % 10 + 1).astype(np.uint8)[:, None]  # 1 … 10, where 10 is a zero
    for name in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{name}_32x32.mat", {"X": pixels, "y": digits})
    monkeypatch.setitem(sources.INDEX_SPLITS, "svhn", (40, 50))
    splits = load_splits("svhn", str(tmp_path), 0.5, None)
    assert splits.train.labels.tolist() == [(n + 1) % 10 for n in range(20)]
    assert splits.val.labels.tolist() == [(n + 1) % 10 for n in range(40, 50)]
    assert np.array_equal(splits.val.images[0].numpy(), pixels[..., 40].transpose(2, 0, 1))
    assert splits.test is not None
    assert len(splits.test.labels) == 50


@pytest.mark.parametrize(
    ("name", "file"), [("cifar10", "cifar-10-batches-py"), ("svhn", "train_32x32.mat")]
)
def test_a_failed_download_says_which_file_goes_where(tmp_path, monkeypatch, name, file):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    root = tmp_path / "new"
    with pytest.raises(InputError, match=file) as caught:
        load_splits(name, str(root), 1.0, None)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not root.exists()


@pytest.mark.parametrize(
    ("name", "file"),
    [("cifar10", "cifar-10-batches-py/data_batch_1"), ("svhn", "train_32x32.mat")],
)
def test_files_that_are_not_as_published_are_not_overwritten(tmp_path, monkeypatch, name, file):
    for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.SVHN):
        monkeypatch.setattr(kind, "download", lambda self: pytest.fail("tried to download"))
    own = tmp_path / file
    own.parent.mkdir(exist_ok=True)
    own.write_bytes(b"my own labels")
    with pytest.raises(InputError, match=r"not as published .*; move it away, and it is downl"):
        load_splits(name, str(tmp_path), 1.0, None)
    assert own.read_bytes() == b"my own labels"
    assert not (tmp_path / ".download.lock").exists()


def test_no_download_is_tried_when_the_files_are_there(tmp_path, unchecked, monkeypatch):
    write_cifar10(tmp_path, 20)
    monkeypatch.setitem(sources.INDEX_SPLITS, "cifar10", (90, 100))
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "download", lambda self: pytest.fail("tried to download")
    )
    load_splits("cifar10", str(tmp_path), 1.0, None)


def test_a_run_waits_while_another_downloads_the_same_data(tmp_path, unchecked, monkeypatch, capfd):
    holding = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); "
    other = subprocess.Popen(
        [sys.executable, "-c", holding + "print(flush=True); input()", tmp_path / ".download.lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert other.stdout is not None
    other.stdout.readline()  # it has the lock

    def finish(seconds):
        """What the other does last: it removes the lock that this one waits for, and ends."""
        write_cifar10(tmp_path, 20)
        (tmp_path / ".download.lock").unlink()
        other.communicate(b"\n")

    monkeypatch.setattr(sources.time, "sleep", finish)
    monkeypatch.setitem(sources.INDEX_SPLITS, "cifar10", (90, 100))
    monkeypatch.setattr(
        "torchvision.datasets.utils.urllib.request.urlopen", lambda *_: pytest.fail("downloads too")
    )
    assert len(load_splits("cifar10", str(tmp_path), 1.0, None).train.labels) == 90
    assert capfd.readouterr().err == f"{tmp_path}: another process downloads into it; waiting\n"
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-batches-py"]


def test_a_lock_that_was_removed_meanwhile_keeps_nobody_out_and_is_taken_anew(
    tmp_path, monkeypatch
):
    """As by the process before, between opening the file and locking it."""
    path = tmp_path / ".download.lock"
    taken = []

    def lock(file, *_):
        if not taken:
            path.unlink()
        taken.append(os.fstat(file.fileno()).st_ino)
        return True

    monkeypatch.setattr(sources, "lock_by_process", lock)
    with sources._one_at_a_time(tmp_path):
        assert path.stat().st_ino == taken[-1]
        assert len(taken) == 2
    assert not path.exists()


def test_a_file_system_whose_files_never_look_the_same_hangs_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_is_at", lambda *_: False)
    with sources._one_at_a_time(tmp_path):
        assert (tmp_path / ".download.lock").exists()


# ------------------------------------------------------------------ splits per class


def pixels_of(split) -> torch.Tensor:
    assert isinstance(split.images, torch.Tensor)
    return split.images


def names_of(split) -> list[str]:
    return ["/".join(path.decode().split("/")[-2:]) for path in split.images]


def test_a_folder_without_val_gives_the_last_tenth_of_each_class(folder):
    splits = load_splits("folder", str(folder), 1.0, None)
    assert names_of(splits.val) == ["cat/019.png", "cat/020.png", "dog/019.png", "dog/020.png"]
    assert names_of(splits.train)[:19] == [f"cat/{k:03}.png" for k in range(19)]
    assert splits.val.labels.tolist() == [0, 0, 1, 1]
    assert splits.test is not None
    assert splits.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_data_number_takes_the_first_of_each_class_and_leaves_val_alone(folder):
    whole = load_splits("folder", str(folder), 1.0, None)
    tenth = load_splits("folder", str(folder), 0.2, None)
    assert names_of(tenth.train) == [f"{c}/{k:03}.png" for c in ("cat", "dog") for k in range(3)]
    assert names_of(tenth.val) == names_of(whole.val)
    least = load_splits("folder", str(folder), 0.001, None)
    assert names_of(least.train) == ["cat/000.png", "dog/000.png"]


@pytest.mark.parametrize(
    ("images", "data_number", "kept"), [(90, 0.7, 63), (100, 0.29, 29), (1300, 0.35, 455)]
)
def test_data_number_is_the_decimal_that_was_written(images, data_number, kept):
    whole = Split(np.array([b"x"] * (images + 9)), np.array([0] * images + [1] * 9))
    part = fraction_per_class(whole, data_number)
    assert np.bincount(part.labels)[0] == kept > int(images * data_number)


def test_a_folder_with_val_and_test_uses_them_as_they_are(tmp_path):
    counts = {"train": {"a": 5, "b": 5}, "val": {"a": 2, "b": 1}, "test": {"a": 1, "b": 3}}
    train, val, test = loaders(spec_of(write_folder(tmp_path, counts)))
    assert (train.num_images, val.num_images, test.num_images) == (10, 3, 4)


def test_a_folder_with_val_only_tests_on_it(tmp_path):
    write_folder(tmp_path, {"train": {"a": 5, "b": 5}, "val": {"a": 2, "b": 1}})
    train, val, test = loaders(spec_of(tmp_path))
    assert train.num_images == 10
    assert val is test


def test_an_imagenet_layout_has_no_test_split(tmp_path):
    write_folder(tmp_path, {"train": {"a": 5, "b": 5}, "val": {"a": 2, "b": 1}})
    train, val, test = loaders(spec_of(tmp_path, "imagenet", data_number=0.4))
    assert (train.num_images, val.num_images, test) == (4, 3, None)


def test_a_class_of_two_images_gives_one_to_val_and_one_image_is_an_error(tmp_path):
    write_folder(tmp_path, {"train": {"a": 2, "b": 30}, "test": {"a": 1, "b": 1}})
    splits = load_splits("folder", str(tmp_path), 1.0, None)
    assert np.bincount(splits.val.labels).tolist() == [1, 3]
    (tmp_path / "train" / "a" / "000.png").unlink()
    with pytest.raises(InputError, match="class a: 1 image"):
        load_splits("folder", str(tmp_path), 1.0, None)


def test_digits_have_a_fixed_test_set_and_disjoint_splits():
    whole = load_splits("digits", "", 1.0, None)
    tenth = load_splits("digits", "", 0.1, None)
    assert whole.test is not None
    assert tenth.test is not None
    sizes = [len(split.labels) for split in (whole.train, whole.val, whole.test)]
    assert sum(sizes) == 1797
    assert sizes[2] == pytest.approx(1797 / 5, abs=10)
    assert torch.equal(pixels_of(whole.test), pixels_of(tenth.test))
    assert torch.equal(pixels_of(whole.val), pixels_of(tenth.val))
    assert (np.bincount(tenth.train.labels) == np.bincount(whole.train.labels) // 10).all()
    assert int(whole.train.images.max()) == 255


def test_digits_are_counted_beforehand_as_many_as_there_are():
    splits = load_splits("digits", "", 1.0, None)
    found = [len(split.labels) for split in (splits.train, splits.val, splits.test)]
    counted = count_images("digits", "", None)
    assert counted is not None
    assert [counted.train, counted.val, counted.test] == found


@pytest.mark.parametrize("data_number", [1.0, 0.7, 0.1, 0.01])
@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_class_folders_are_counted_beforehand_as_many_as_a_run_takes(tmp_path, parts, data_number):
    write_folder(tmp_path, dict.fromkeys(parts, {"a": 19, "b": 6, "c": 11}), size=(2, 2))
    splits = load_splits("folder", str(tmp_path), data_number, "2")
    found = [len(split.labels) for split in (splits.train, splits.val, splits.test)]
    counted = count_images("folder", str(tmp_path), "2", data_number)
    assert counted is not None
    assert [counted.train, counted.val, counted.test] == found


@pytest.mark.parametrize("part", ["val", "test"])
def test_an_empty_file_among_what_is_evaluated_is_told_before_training(tmp_path, part):
    for name in ("train", "val", "test"):
        for cls in ("a", "b"):
            (tmp_path / name / cls).mkdir(parents=True)
            for number in range(4):
                pixels = np.full((8, 8, 3), number, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / cls / f"{number}.png")
    (tmp_path / part / "b" / "2.png").write_bytes(b"")
    spec = DataSpec("folder", str(tmp_path), 8, "crop", False)
    with pytest.raises(InputError, match=rf"{part}/b/2.png: not a whole image file \(empty\)"):
        build_loaders(spec, batch_size=4, eval_batch_size=4, workers=0, seed=1)
    told: list[str] = []
    skipping = replace(spec, skip_bad=True)
    loaders = build_loaders(
        skipping, batch_size=4, eval_batch_size=4, workers=0, seed=1, tell=told.append
    )
    loader = loaders[("train", "val", "test").index(part)]
    assert loader is not None
    assert sum(len(labels) for _, labels in loader.epoch(0)) == 7
    assert len(told) == 1
    assert told[0].startswith("skipped ")


# ------------------------------------------------------------------ classes


def test_classes_by_number_and_by_file_number_the_labels_alike(tmp_path):
    write_folder(tmp_path, {p: {"a": 3, "b": 4, "c": 5} for p in ("train", "val")})
    listing = tmp_path / "classes.txt"
    listing.write_text("c\tthe third\nb\n\n")
    by_number = load_splits("folder", str(tmp_path), 1.0, "2")
    by_file = load_splits("folder", str(tmp_path), 1.0, str(listing))
    assert by_number.classes == ("a", "b")
    assert np.bincount(by_number.train.labels).tolist() == [3, 4]
    assert by_file.classes == ("b", "c")
    assert np.bincount(by_file.train.labels).tolist() == [4, 5]
    assert np.bincount(by_file.val.labels).tolist() == [4, 5]


def test_classes_of_an_array_set_keep_images_and_labels_together():
    whole = load_splits("digits", "", 1.0, None)
    three = load_splits("digits", "", 1.0, "3")
    assert three.classes == ("0", "1", "2")
    assert torch.equal(pixels_of(three.train), pixels_of(whole.train)[whole.train.labels < 3])
    assert set(three.train.labels) == {0, 1, 2}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("0", "names 0, a classifier needs at least 2"),
        ("1", "names 1, a classifier needs at least 2"),
        ("4", "must be 2 to 3"),
        ("nowhere.txt", "neither a number nor a readable file"),
        ("unknown.txt", "no such class in the data set: zebra"),
        ("empty.txt", "names no class"),
    ],
)
def test_wrong_classes_are_an_error(tmp_path, monkeypatch, wanted, message):
    write_folder(tmp_path, {p: {"a": 3, "b": 3, "c": 3} for p in ("train", "val")})
    monkeypatch.chdir(tmp_path)
    Path("unknown.txt").write_text("a\nzebra\n")
    Path("empty.txt").write_text("\n")
    with pytest.raises(InputError, match=message):
        load_splits("folder", str(tmp_path), 1.0, wanted)


# ------------------------------------------------------------------ wrong folders


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_splits("folder", str(tmp_path / "nowhere"), 1.0, None)
    with pytest.raises(InputError, match="no folder train"):
        load_splits("folder", str(tmp_path), 1.0, None)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no folder test or val"):
        load_splits("folder", str(tmp_path), 1.0, None)
    with pytest.raises(InputError, match="no folder val"):
        load_splits("imagenet", str(tmp_path), 1.0, None)
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="train: no class folders"):
        load_splits("folder", str(tmp_path), 1.0, None)
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"train/a: no image in it"):
        load_splits("folder", str(tmp_path), 1.0, None)


def test_a_flat_val_folder_says_how_to_sort_it(tmp_path):
    write_folder(tmp_path, {"train": {"a": 3, "b": 3}})
    write_images(tmp_path / "val", ["ILSVRC2012_val_00000001"])
    with pytest.raises(InputError, match=r"lie loose; sort them into .*val/CLASS/"):
        load_splits("imagenet", str(tmp_path), 1.0, None)


def test_class_folders_that_differ_between_splits_are_named(tmp_path):
    write_folder(tmp_path, {"train": {"a": 3, "b": 3}, "val": {"a": 3}})
    with pytest.raises(InputError, match="val: class folders of train missing: b"):
        load_splits("folder", str(tmp_path), 1.0, None)
    write_folder(tmp_path, {"val": {"b": 3, "c": 3}})
    with pytest.raises(InputError, match="val: class folders that train has not: c"):
        load_splits("folder", str(tmp_path), 1.0, None)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_data_number_outside_its_range_is_an_error(folder, fraction):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        load_splits("folder", str(folder), fraction, None)


def test_unknown_names_and_sizes_are_errors(folder):
    with pytest.raises(InputError, match="unknown data set 'mnist'"):
        loaders(spec_of(folder, "mnist"))
    with pytest.raises(InputError, match="unknown data set"):
        mean_std("mnist")
    with pytest.raises(InputError, match="input size 0"):
        loaders(spec_of(folder, size=0))
    with pytest.raises(InputError, match="augment 'cutout'"):
        loaders(spec_of(folder, augment="cutout"))
    with pytest.raises(InputError, match="batch size 1"):
        loaders(spec_of(folder), batch_size=1)


def write_broken(path: Path) -> None:
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_is_an_error_of_one_line_that_names_it(tmp_path, workers):
    write_folder(tmp_path, {p: {"a": 8, "b": 8} for p in ("train", "val")}, size=(70, 90))
    write_broken(tmp_path / "val" / "b" / "003.jpg")
    _, val, _ = loaders(spec_of(tmp_path), workers=workers)
    with pytest.raises(InputError, match=r"val/b/003.jpg: not a whole image file") as caught:
        batches(val, 0)
    assert "\n" not in str(caught.value)


def test_a_vanished_image_is_named(tmp_path):
    write_folder(tmp_path, {p: {"a": 3, "b": 3} for p in ("train", "val")}, size=(70, 90))
    _, val, _ = loaders(spec_of(tmp_path))
    (tmp_path / "val" / "b" / "001.png").unlink()
    with pytest.raises(InputError, match=r"val/b/001.png: no such image file"):
        batches(val, 0)


def test_a_missing_image_of_a_test_is_told_of_before_the_training(tmp_path):
    write_folder(tmp_path, {p: {"a": 3, "b": 3} for p in ("train", "val", "test")}, size=(9, 9))
    (tmp_path / "test" / "b" / "009.png").symlink_to("gone.png")
    with pytest.raises(InputError, match=r"test/b/009.png: no such image file"):
        loaders(spec_of(tmp_path))
    assert loaders(spec_of(tmp_path, skip_bad=True))[2] is not None


def test_what_a_decoder_fails_by_is_no_traceback(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Failed to decode image")

    (tmp_path / "a.avif").write_bytes(b"x")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(InputError, match=r"a.avif: not a whole image file \(Failed to"):
        read_image(str(tmp_path / "a.avif"))
    with pytest.raises(InputError, match="no such image file"):
        read_image(str(tmp_path / "a\0b.avif"))


def test_an_image_of_more_pixels_than_pillow_opens_is_told_as_such(tmp_path, monkeypatch):
    write_images(tmp_path, ["large"], size=(8, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    told = r"large.png: more than the 62 pixels that Pillow opens of an image; save it smaller$"
    with pytest.raises(InputError, match=told):
        read_image(str(tmp_path / "large.png"))


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_bad_leaves_a_broken_image_out_of_val_and_replaces_it_in_training(tmp_path, workers):
    write_folder(tmp_path, {p: {"a": 4, "b": 4} for p in ("train", "val")}, size=(70, 90))
    for part in ("train", "val"):
        write_broken(tmp_path / part / "a" / "001.png")
    train, val, _ = loaders(spec_of(tmp_path, skip_bad=True), batch_size=3, workers=workers)
    with pytest.warns(UserWarning, match=r"skipped .*val/a/001.png"):
        assert [len(labels) for _, labels in batches(val, 0)] == [3, 4]
    with pytest.warns(UserWarning, match=r"skipped .*train/a/001.png"):
        assert [len(labels) for _, labels in batches(train, 0)] == [3, 3, 2]


# ------------------------------------------------------------------ the same bits


@pytest.mark.parametrize("augment", ["rrc", "crop"])
def test_any_number_of_workers_gives_the_same_bits(folder, augment):
    alone = loaders(spec_of(folder, augment=augment))
    for workers in (1, 2, None):
        others = loaders(spec_of(folder, augment=augment), workers=workers)
        for left, right in zip(alone, others, strict=True):
            assert_same(batches(left, 1), batches(right, 1))


# ------------------------------------------------------------------ as many workers as help


@pytest.fixture
def started(monkeypatch):
    """How many loader processes each epoch asks for, on a machine of 12 cores for this process."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    asked = []

    def loaded(batches, plans, processes, _pin_memory):
        asked.append(processes)
        return (batches[plan] for plan in plans)

    monkeypatch.setattr(loader_module, "loaded", loaded)
    return asked


@pytest.mark.parametrize(
    ("workers", "processes", "threads", "expected"),
    [
        (None, 1, None, [12]),
        (None, 4, None, [3]),
        (None, 16, None, [1]),
        (None, 1, 2, [2]),
        (3, 4, 2, [3]),
        (0, 1, None, []),
    ],
)
def test_by_default_each_core_has_a_worker_shared_by_the_runs_processes(
    folder, started, workers, processes, threads, expected
):
    spec = spec_of(folder)
    train, _, _ = build_loaders(
        spec,
        batch_size=2,
        eval_batch_size=4,
        workers=workers,
        processes=processes,
        threads=threads,
        seed=3,
    )
    batches(train, 0)
    assert started == expected


def test_more_workers_than_help_are_not_started(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)), raising=False)
    assert workers_module.useful_workers(False) == 16
    assert workers_module.useful_workers(False, 32) == 4
    assert workers_module.useful_workers(False, 32, 2) == 2  # as a study's jobs, side by side
    assert workers_module.useful_workers(False, 1, 64) == 16
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert workers_module.useful_workers(False) == 6


def test_images_in_memory_at_their_final_size_need_no_worker(tmp_path, started):
    digits = spec_of(tmp_path, "digits", 32, "crop")
    small = write_folder(
        tmp_path, {"train": {"a": 9, "b": 9}, "test": {"a": 4, "b": 4}}, size=(16, 16)
    )
    for spec in (digits, spec_of(small, augment="crop")):
        for loader in loaders(spec, workers=None):
            batches(loader, 0)
    assert started == []
    train, _, _ = loaders(spec_of(tmp_path, "digits", 48, "rrc"), workers=None)
    batches(train, 0)  # each is resized anew
    train, _, _ = loaders(digits, workers=2)
    batches(train, 0)  # it was asked for
    assert started == [12, 2]


def test_threads_do_not_change_the_bits(folder):
    train, _, _ = loaders(spec_of(folder))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = batches(train, 0)
        torch.set_num_threads(2)
        assert_same(one, batches(train, 0))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("spec", [spec_of("", "digits", 16), spec_of("", "digits", 8, "crop")])
def test_an_epoch_resumed_in_the_middle_goes_on_with_the_same_bits(spec):
    train, val, _ = loaders(spec, batch_size=100, eval_batch_size=50)
    assert_same(batches(train, 2)[5:], batches(train, 2, start_step=5))
    assert_same(batches(val, 0)[1:], batches(val, 0, start_step=1))


@pytest.mark.parametrize("augment", ["rrc", "crop"])
def test_the_shares_of_all_ranks_make_up_the_global_batch(augment):
    train, _, _ = loaders(spec_of("", "digits", 16, augment), batch_size=110)
    shares = [batches(train, 4, rank=rank, world=3) for rank in range(3)]
    joined = [
        tuple(torch.cat(parts) for parts in zip(*step, strict=True))
        for step in zip(*shares, strict=True)
    ]
    assert_same(joined, batches(train, 4))
    assert [len(share[0][1]) for share in shares] == [37, 37, 36]  # as torch.tensor_split


def test_sharded_evaluation_sees_every_image_once():
    _, val, _ = loaders(spec_of("", "digits", 16), eval_batch_size=40)
    whole = batches(val, 0)
    shares = [batches(val, 0, rank=rank, world=3) for rank in range(3)]
    assert_same([shares[s % 3][s // 3] for s in range(len(whole))], whole)
    assert sum(len(labels) for share in shares for _, labels in share) == val.num_images


def test_epochs_and_seeds_differ_in_order_and_evaluation_does_not():
    spec = spec_of("", "digits", 8, "none", hflip=False)
    train, val, _ = loaders(spec, batch_size=100)
    other, other_val, _ = loaders(spec, batch_size=100, seed=4)
    first = batches(train, 0)[0][0]
    assert torch.equal(first, batches(train, 0)[0][0])
    assert not torch.equal(first, batches(train, 1)[0][0])
    assert not torch.equal(first, batches(other, 0)[0][0])
    assert_same(batches(val, 0), batches(val, 1))
    assert_same(batches(val, 0), batches(other_val, 0))


def test_an_epoch_sees_every_training_image_once():
    train, _, _ = loaders(spec_of("", "digits", 8, "none", hflip=False), batch_size=100)
    seen = torch.cat([images for images, _ in batches(train, 0)]).flatten(1).tolist()
    stored = pixels_of(load_splits("digits", "", 1.0, None).train).flatten(1).tolist()
    assert sorted(seen) == sorted(stored)


def test_augmentation_depends_on_seed_epoch_and_position_only(tmp_path):
    """With one picture everywhere, the batch shows the augmentation and nothing else."""
    parts = {"train": {"a": 6, "b": 6}, "val": {"a": 1, "b": 1}}
    write_folder(tmp_path, parts, size=(70, 90))
    picture = (tmp_path / "train" / "a" / "000.png").read_bytes()
    for path in (tmp_path / "train").glob("*/*.png"):
        path.write_bytes(picture)
    small = torch.cat([i for i, _ in batches(loaders(spec_of(tmp_path), batch_size=3)[0], 0)])
    large = torch.cat([i for i, _ in batches(loaders(spec_of(tmp_path), batch_size=12)[0], 0)])
    assert torch.equal(small, large)
    assert len({image.numpy().tobytes() for image in large}) == 12
    train, _, _ = loaders(spec_of(tmp_path), batch_size=12)
    assert not torch.equal(large, batches(train, 1)[0][0])
    reseeded, _, _ = loaders(spec_of(tmp_path), batch_size=12, seed=4)
    assert not torch.equal(large, batches(reseeded, 0)[0][0])


def test_the_numbers_of_a_position_do_not_depend_on_the_block():
    block = uniforms(7, 3, 0, 20)
    assert np.array_equal(block[5:9], uniforms(7, 3, 5, 4))
    assert len(np.unique(block)) == block.size
    assert not np.array_equal(block, uniforms(7, 4, 0, 20))
    assert not np.array_equal(block, uniforms(8, 3, 0, 20))
    assert not np.array_equal(block, uniforms(3, 7, 0, 20))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_is_left_alone(folder, workers):
    torch.manual_seed(0)
    np.random.seed(0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)
    for loader in loaders(spec_of(folder), workers=workers):
        batches(loader, 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state(legacy=False)) == str(numpy_state)


def in_memory(loader):
    return isinstance(loader._batches.split.images, torch.Tensor)


def test_images_kept_in_memory_give_the_bits_of_images_read_one_by_one(tmp_path, monkeypatch):
    write_folder(tmp_path, {p: {"a": 9, "b": 9} for p in ("train", "val")}, size=(24, 20))
    for augment in ("rrc", "crop"):
        kept = loaders(spec_of(tmp_path, augment=augment))[0]
        kept_batches = batches(kept, 1)
        assert in_memory(kept)
        with monkeypatch.context() as patch:
            patch.setattr(loader_module, "KEPT_BYTES", 0)
            read = loaders(spec_of(tmp_path, augment=augment))[0]
            assert_same(kept_batches, batches(read, 1))
            assert not in_memory(read)


def test_small_images_of_several_sizes_are_read_one_by_one(tmp_path):
    write_folder(tmp_path, {p: {"a": 3} for p in ("train", "val")}, size=(24, 20))
    write_folder(tmp_path, {p: {"b": 3} for p in ("train", "val")}, size=(20, 24))
    train, _, _ = loaders(spec_of(tmp_path))
    assert [len(labels) for _, labels in batches(train, 0)] == [6]
    assert not in_memory(train)


def test_labels_of_any_kind_become_those_that_losses_and_attacks_take():
    pixels, transform = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), Transform(8, resize=8)
    labels = np.array([0, 1, 2, 1], dtype=np.uint8)  # as torchvision reads STL-10
    loader = Loader(loader_module.Split(pixels, labels), transform, list("abc"), batch_size=4)
    ((_, given),) = loader.epoch(0)
    assert (given.dtype, given.tolist()) == (torch.int64, [0, 1, 2, 1])


@pytest.mark.parametrize("odd", [-1, 3])  # -1 as STL-10 has for images without one
def test_labels_without_a_class_are_no_labels(odd):
    pixels, transform = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), Transform(8, resize=8)
    split = loader_module.Split(pixels, np.array([0, odd]))
    with pytest.raises(InputError, match=r"labels from .* of 3 classes they are 0 to 2"):
        Loader(split, transform, list("abc"), batch_size=2)


def test_every_data_set_is_of_class_folders_or_says_how_it_is_found():
    """Else `--dry_run` and a study would take a set that is downloaded for one that is missing."""
    stored = {one.stored_as or name for name, one in dataset.DATASETS.items()}
    assert stored - {"folder", "imagenet", "digits"} == sources.FIRST_FILE.keys()
    assert sources.INDEX_SPLITS.keys() == sources._READERS.keys()


# ------------------------------------------------------------------ some of a split's images


def labels_of(loader):
    return torch.cat([labels for _, labels in loader.epoch(0)]).tolist()


@pytest.mark.parametrize("names", ["cat\ndog\n", "dog\ncat\n"])
def test_some_images_of_a_set_sorted_by_class_are_one_of_each_part(tmp_path, names):
    (tmp_path / "names.txt").write_text(names)
    write_folder(tmp_path, {"train": {"cat": 4, "dog": 4}, "test": {"cat": 6, "dog": 3}})
    _, _, test = loaders(
        spec_of(tmp_path, hflip=False, augment="none", classes=str(tmp_path / "names.txt"))
    )
    every = [images for images, _ in test.epoch(0)]
    some = test.some(3)
    assert labels_of(some) == [labels_of(test)[place] for place in (0, 3, 6)]
    assert len(set(labels_of(some))) == 2
    (found,), parts = [images for images, _ in some.epoch(0)], torch.cat(every).view(3, 3, -1)
    taken = (found.view(3, 1, -1) == parts).all(2)
    assert taken.sum(1).tolist() == [1, 1, 1]
    assert torch.equal(next(iter(test.some(3).epoch(0)))[0], found)
    assert (some.num_images, len(some), len(test)) == (3, 1, 3)


def test_some_images_of_a_set_sorted_by_class_follow_no_pattern_of_its_names():
    views = torch.arange(10, dtype=torch.uint8).repeat(100)  # ten of each thing
    pixels = views.view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    split = Split(pixels, np.repeat([0, 1], 500))
    some = Loader(split, Transform(4, "stretch"), list("ab"), batch_size=100).some(100)
    ((images, labels),) = some.epoch(0)
    assert torch.bincount(labels).tolist() == [50, 50]
    assert len(images[:, 0, 0, 0].unique()) == 10


def test_some_images_of_a_set_in_another_order_are_the_first():
    labels = np.array([1, 0, 1, 2, 0, 2, 1, 0])
    pixels = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 4, 4)
    transform = Transform(4, "stretch")
    test = Loader(loader_module.Split(pixels, labels), transform, list("abc"), batch_size=2)
    assert labels_of(test.some(5)) == labels[:5].tolist()
    assert test.some(None) is test
    assert test.some(8) is test


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize(
    ("batch_size", "world", "sizes"),
    [
        (40, 1, [40, 2]),
        (41, 1, [41]),
        (21, 1, [21, 21]),
        (20, 3, [7, 7]),
        (39, 2, [20]),
        (38, 2, [19, 2]),
        (100, 1, [42]),
    ],
)
def test_a_trailing_batch_too_small_to_train_on_is_left_out(tmp_path, batch_size, world, sizes):
    write_folder(tmp_path, {"train": {"a": 21, "b": 21}, "val": {"a": 1, "b": 1}})
    train, _, _ = loaders(spec_of(tmp_path), batch_size=batch_size)
    assert train.num_batches(world) == len(sizes)
    assert [len(labels) for _, labels in batches(train, 0, world=world)] == sizes


def test_images_of_the_input_size_come_in_contiguous_batches_too():
    for loader in loaders(spec_of("", "digits", 8, "none", hflip=True)):
        assert all(images.is_contiguous() for images, _ in loader.epoch(0))


def test_batches_are_uint8_in_the_memory_order_of_convolutions_with_int64_labels(folder):
    for loader in loaders(spec_of(folder)):
        for images, labels in loader.epoch(0):
            assert images.dtype == torch.uint8
            assert images.shape == (len(labels), 3, 16, 16)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.dtype == torch.int64
    assert loader.classes == ("cat", "dog")
    assert loader.num_classes == 2
    assert len(loader) == 2


# ------------------------------------------------------------------ VisDA


def write_visda(root: Path) -> None:
    for part, count in (("train", 10), ("validation", 2)):
        lines = []
        for label, name in enumerate(VISDA_CLASSES):
            write_images(root / part / name, [f"src_{k}" for k in range(count)], size=(20, 30))
            lines += [f"{name}/src_{k}.png {label}" for k in range(count)]
        (root / part / "image_list.txt").write_text("\n".join(reversed(lines)) + "\n")


def test_visda_reads_its_lists_and_tests_on_validation(tmp_path):
    write_visda(tmp_path)
    splits = load_splits("visda", str(tmp_path), 0.2, None)
    assert names_of(splits.train)[:3] == [
        "aeroplane/src_0.png",
        "aeroplane/src_1.png",
        "bicycle/src_0.png",
    ]
    assert np.bincount(splits.train.labels).tolist() == [2] * 12
    train, val, test = loaders(spec_of(tmp_path, "visda"))
    assert (train.num_images, val.num_images, train.num_classes) == (120, 24, 12)
    assert val is test


def test_visda_stretches_for_validation_and_crops_its_own_scale_for_training(tmp_path):
    spec = spec_of(tmp_path, "visda", 24)
    assert dataset.eval_transform(spec).framing == "stretch"
    assert dataset.train_transform(spec).scale == (0.75, 1.33)


def test_visda_lists_are_split_at_any_white_space(tmp_path):
    write_visda(tmp_path)
    before = load_splits("visda", str(tmp_path), 1.0, None)
    for part in ("train", "validation"):
        path = tmp_path / part / "image_list.txt"
        lines = [line.rpartition(" ") for line in path.read_text().splitlines()]
        gaps = ("\t", "  ", " \t ")
        text = [f" {a}{gaps[n % 3]}{b}\t\n" for n, (a, _, b) in enumerate(lines)]
        path.write_text("".join(text))
    after = load_splits("visda", str(tmp_path), 1.0, None)
    for one, two in ((before.train, after.train), (before.val, after.val)):
        assert one.images.tolist() == two.images.tolist()
        assert one.labels.tolist() == two.labels.tolist()


def test_visda_lists_that_are_missing_or_malformed_are_named(tmp_path):
    with pytest.raises(InputError, match="train/image_list.txt: not there"):
        load_splits("visda", str(tmp_path), 1.0, None)
    listing = tmp_path / "train" / "image_list.txt"
    listing.mkdir(parents=True)
    with pytest.raises(InputError, match=r"image_list.txt: cannot be read \(Is a directory\)"):
        load_splits("visda", str(tmp_path), 1.0, None)
    listing.rmdir()
    write_visda(tmp_path)
    (tmp_path / "validation" / "image_list.txt").write_text("\n")
    with pytest.raises(InputError, match="validation/image_list.txt: lists no image"):
        load_splits("visda", str(tmp_path), 1.0, None)
    for line in ("bus/x.png", "bus/x.png 12", "bus/x.png bus"):
        (tmp_path / "train" / "image_list.txt").write_text(f"bus/src_0.png 2\n{line}\n")
        with pytest.raises(InputError, match=r"image_list.txt:2: not `path label`"):
            load_splits("visda", str(tmp_path), 1.0, None)


# ------------------------------------------------------------------ evaluation sets


@pytest.fixture
def cifar10_c(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("fog", "gaussian_noise"):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(50) % 10)
    return tmp_path


def test_a_severity_of_cifar10_c_is_its_fifth_of_the_rows(cifar10_c):
    stored = np.load(cifar10_c / "fog.npy")
    spec = spec_of(cifar10_c, "cifar10", 32, "crop")
    for severity in (1, 5):
        loader = cifar10_c_loader(spec, "fog", severity, batch_size=4)
        images = torch.cat([images for images, _ in loader.epoch(0)])
        rows = stored[(severity - 1) * 10 : severity * 10]
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), rows)
        assert torch.cat([labels for _, labels in loader.epoch(0)]).tolist() == list(range(10))
    assert corruptions(str(cifar10_c)).benchmark == ("fog", "gaussian_noise")


def test_wrong_cifar10_c_folders_are_errors(cifar10_c, tmp_path_factory):
    spec = spec_of(cifar10_c, "cifar10", 32, "crop")
    with pytest.raises(InputError, match="severity 6"):
        cifar10_c_loader(spec, "fog", 6, batch_size=4)
    with pytest.raises(InputError, match=r"snow.npy: missing or not a .npy array"):
        cifar10_c_loader(spec, "snow", 1, batch_size=4)
    with pytest.raises(InputError, match="original: no corruption; there are gaussian_noise"):
        cifar10_c_loader(spec, "original", 1, batch_size=4)
    with pytest.raises(InputError, match="unpack CIFAR-10-C"):
        corruptions(str(tmp_path_factory.mktemp("empty")))


CLASSES = [str(k) for k in range(10)]


def test_a_saved_float_set_comes_back_bit_for_bit(tmp_path):
    data, label = torch.rand(10, 3, 32, 32), torch.arange(10)
    save_checkpoint(tmp_path / "adv.pt", {"data": data, "label": label})
    spec = spec_of("", "cifar10", 32, "rrc")
    loader = adversarial_loader(str(tmp_path / "adv.pt"), spec, CLASSES, batch_size=4)
    assert torch.equal(torch.cat([images for images, _ in loader.epoch(0)]), data)
    assert torch.equal(torch.cat([labels for _, labels in loader.epoch(0)]), label)


def test_a_saved_uint8_set_may_have_its_channels_last(tmp_path):
    data = torch.randint(0, 256, (10, 32, 32, 3), dtype=torch.uint8)
    save_checkpoint(tmp_path / "adv.pt", {"data": data, "label": torch.arange(10)})
    spec = spec_of("", "cifar10", 32, "crop")
    loader = adversarial_loader(str(tmp_path / "adv.pt"), spec, CLASSES, batch_size=10)
    assert torch.equal(batches(loader, 0)[0][0], data.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [16, 20])
def test_a_saved_uint8_set_of_the_networks_size_is_not_framed_again(tmp_path, size):
    data = torch.randint(0, 256, (10, 3, size, size), dtype=torch.uint8)
    save_checkpoint(tmp_path / "adv.pt", {"data": data, "label": torch.arange(10)})
    spec = spec_of("", "folder", 16, "rrc")
    loader = adversarial_loader(str(tmp_path / "adv.pt"), spec, CLASSES, batch_size=10)
    (images,) = [images for images, _ in loader.epoch(0)]
    if size == 16:
        assert torch.equal(images, data)
        assert loader.notes == ()
    else:
        assert images.shape == (10, 3, 16, 16)
        (line,) = loader.notes
        assert "images of 20×20 pixels are framed for an input size of 16" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": torch.zeros(1)}, "no tensors 'data' and 'label'"),
        (
            {"data": torch.zeros(2, 3, 32, 32), "label": torch.zeros(3).long()},
            r"not \(N, 3, H, W\)",
        ),
        ({"data": torch.zeros(2, 3, 32, 32), "label": torch.full((2,), 10)}, "labels are not"),
        ({"data": torch.zeros(2, 3, 32, 32), "label": torch.zeros(2)}, "labels are not"),
        ({"data": torch.zeros(2, 3, 16, 16), "label": torch.zeros(2).long()}, "16×16 pixels"),
        ({"data": torch.full((2, 3, 32, 32), 1.5), "label": torch.zeros(2).long()}, "outside"),
        ({"data": torch.zeros(2, 3, 32, 32).int(), "label": torch.zeros(2).long()}, "of type"),
        ({"data": torch.ones(2, 3, 32, 32).byte(), "label": torch.zeros(2).long()}, "up to 1 only"),
    ],
)
def test_a_wrong_saved_set_is_an_error(tmp_path, content, message):
    save_checkpoint(tmp_path / "adv.pt", content)
    spec = spec_of("", "cifar10", 32, "crop")
    with pytest.raises(InputError, match=message):
        adversarial_loader(str(tmp_path / "adv.pt"), spec, CLASSES, batch_size=4)
