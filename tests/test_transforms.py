"""The uint8 transforms against PIL and torchvision, the reference for pixels and distributions."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image

import input_pipeline.transforms as transforms_module
from errors import InputError
from input_pipeline.decoding import read_image
from input_pipeline.transforms import (
    DRAWS,
    Transform,
    center_crop,
    random_resized_box,
    resize_shorter,
    uniforms,
)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with edges and noise, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-30, 31, (height, width, 3))
    return np.clip(np.asarray(smooth).astype(int) + noise, 0, 255).astype(np.uint8)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def assert_within_one_level(ours: torch.Tensor, reference: Image.Image) -> None:
    expected = np.asarray(reference).astype(int)
    difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.shape == expected.shape
    assert difference.max() <= 1


def draws_of(count: int, seed: int = 0) -> np.ndarray:
    return uniforms(seed, 0, 0, count)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 25), (120, 90), (75, 300)])
def test_random_resized_crops_equal_pils_for_the_same_boxes(height, width):
    pixels = picture(height, width)
    draws = draws_of(40)
    transform = Transform(48, "random", hflip=True)
    ours = transform([tensor(pixels)] * 40, draws, 40)
    for k in range(40):
        box = random_resized_box(draws[k].tolist(), height, width)
        expected = TF.resized_crop(Image.fromarray(pixels), *box, [48, 48])
        if draws[k, 22] < 0.5:
            expected = TF.hflip(expected)
        assert_within_one_level(ours[k], expected)


def test_a_batch_of_one_size_gives_the_bits_of_its_images_one_by_one():
    images = torch.stack([tensor(picture(32, 32, seed)) for seed in range(6)])
    transform = Transform(20, "random", hflip=True)
    draws = draws_of(6)
    together = transform(transform.prepare(images), draws, 6)
    assert torch.equal(together, transform(list(images), draws, 6))


def test_images_that_enlarged_would_fill_the_memory_are_enlarged_batch_by_batch(monkeypatch):
    images = torch.stack([tensor(picture(20, 20, seed)) for seed in range(6)])
    transform = Transform(40, "center", resize=40, pad=4, hflip=True)
    once = transform.prepare(images)
    assert once.shape == (6, 3, 40, 40)
    monkeypatch.setattr(transforms_module, "KEPT_BYTES", 6 * 3 * 40 * 40 - 1)
    kept = transform.prepare(images)
    assert kept.shape == images.shape
    draws = draws_of(6)
    assert torch.equal(transform(kept, draws, 6), transform(once, draws, 6))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (100, 75), (75, 100), (61, 300)])
@pytest.mark.parametrize("size", [224, 50, 32])
def test_evaluation_equals_resize_and_center_crop_of_torchvision(height, width, size):
    pixels = picture(height, width)
    shorter = size * 256 // 224
    ours = Transform(size, "center", resize=shorter)([tensor(pixels)], draws_of(1), 1)
    reference = T.Compose([T.Resize(shorter), T.CenterCrop(size)])(Image.fromarray(pixels))
    assert_within_one_level(ours[0], reference)


def test_stretching_equals_resize_to_both_sides():
    pixels = picture(60, 90)
    ours = Transform(48, "stretch")([tensor(pixels)], draws_of(1), 1)
    assert_within_one_level(ours[0], T.Resize((48, 48))(Image.fromarray(pixels)))


def test_resize_shorter_rounds_the_longer_side_down():
    assert resize_shorter(tensor(picture(30, 45)), 17).shape == (3, 17, 25)
    assert resize_shorter(tensor(picture(45, 30)), 17).shape == (3, 25, 17)
    assert center_crop(tensor(picture(33, 40)), 32).shape == (3, 32, 32)


def test_random_crop_equals_torchvisions_for_the_same_offsets():
    images = torch.stack([tensor(picture(32, 32, seed)) for seed in range(50)])
    transform = Transform(32, "center", resize=32, pad=4, hflip=True)
    draws = draws_of(50)
    ours = transform(transform.prepare(images), draws, 50)
    for k in range(50):
        top, left = (int(draws[k, place] * 9) for place in (20, 21))
        expected = TF.crop(TF.pad(images[k], [4]), top, left, 32, 32)
        assert torch.equal(ours[k], TF.hflip(expected) if draws[k, 22] < 0.5 else expected)


def test_crop_offsets_cover_their_range_evenly_and_half_the_images_flip():
    draws = uniforms(0, 0, 0, 9000)
    for place in (20, 21):
        counts = np.bincount((draws[:, place] * 9).astype(int), minlength=9)
        assert counts.min() > 850
        assert counts.max() < 1150
    white = torch.zeros(4000, 3, 2, 2, dtype=torch.uint8)
    white[..., 0] = 255  # the left column
    flipped = Transform(2, "center", resize=2, hflip=True)(white, draws[:4000], 4000)
    assert 0.47 < float((flipped[:, 0, 0, 1] == 255).float().mean()) < 0.53


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.75, 1.33)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (375, 500), (50, 200)])
def test_crop_boxes_are_distributed_like_torchvisions(height, width, scale):
    n = 8000
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    reference = np.array(
        [T.RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(n)], float
    )
    ours = np.array(
        [random_resized_box(row, height, width, scale) for row in draws_of(n).tolist()], float
    )
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for column in range(4):
        a, b = ours[:, column], reference[:, column]
        tolerance = 4.5 * max(a.std(), b.std()) / np.sqrt(n / 2) + 1e-9
        assert abs(a.mean() - b.mean()) < tolerance
        assert abs(a.std() - b.std()) < tolerance
    area, other = ours[:, 2] * ours[:, 3], reference[:, 2] * reference[:, 3]
    assert np.quantile(area, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(other, [0.1, 0.5, 0.9]), rel=0.05
    )


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (20, 20, (0, 0, 20, 20))],
)
def test_boxes_that_never_fit_fall_back_to_the_central_crop(height, width, box):
    """An area above the image's own never fits."""
    assert random_resized_box(draws_of(1)[0].tolist(), height, width, scale=(4.0, 5.0)) == box
    image = torch.empty(3, height, width)
    assert T.RandomResizedCrop.get_params(image, [4.0, 5.0], [3 / 4, 4 / 3]) == box


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpegs_decode_as_pil_does(tmp_path, mode, options):
    path = tmp_path / "image.jpg"
    Image.fromarray(picture(61, 83)).convert(mode).save(path, quality=80, **options)
    assert_within_one_level(read_image(str(path)), Image.open(path).convert("RGB"))


def test_without_torchvisions_decoder_pil_reads_the_jpegs(tmp_path, monkeypatch):
    path = str(tmp_path / "image.jpg")
    Image.fromarray(picture(61, 83)).save(path)
    fast = read_image(path)
    monkeypatch.setattr("input_pipeline.decoding.decode_jpeg", None)
    assert (read_image(path).int() - fast.int()).abs().max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_other_formats_become_rgb_as_pil_does(tmp_path, mode):
    path = tmp_path / "image.png"
    source = Image.fromarray(picture(20, 30))
    if mode in ("RGBA", "LA"):
        source = source.convert(mode)
        source.putalpha(128)
    else:
        source = source.convert(mode)
    source.save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(read_image(str(path)).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_and_foreign_files_are_named(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(picture(60, 60)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="not a whole image file"):
        read_image(str(path))
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match=f"image{suffix}: not a whole image file"):
        read_image(str(path))
    path.write_bytes(b"")
    with pytest.raises(InputError, match=f"image{suffix}: not a whole image file"):
        read_image(str(path))


def test_random_needs_are_known():
    assert Transform(32, "random").random
    assert Transform(32, "center", resize=32, pad=4).random
    assert Transform(32, "center", resize=36, hflip=True).random
    assert not Transform(32, "center", resize=36).random
    assert DRAWS % 4 == 0
