"""Outcomes per image: what is written comes back, equal content is equal bytes, damage is seen."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from attack_utils import PGDConfig
from errors import InputError
from files.checkpoints import load_checkpoint
from files.outcomes import FORMAT, Outcomes, read_outcomes, save_outcomes
from files.sealed import hash_of

ROOT = Path(__file__).resolve().parent.parent


def outcomes(images=10_000, **changes):
    rng = np.random.default_rng(0)
    keys = [(n, m) for n in ("sa_best", "ra_best", "last") for m in ("clean", "pgd")]
    bits = {key: rng.random(images) < 0.8 for key in keys}
    bits["ra_best", "autoattack"] = bits["ra_best", "pgd"][:77]
    attacks = {"pgd": "Linf PGD-20, eps 8/255", "autoattack": "Linf standard, eps 8/255"}
    fields = {"split": "f00d", "images": images, "seed": 3, "attacks": attacks, "bits": bits}
    fields["run"] = {"mode": "adv", "init_sha256": "0123"}
    return Outcomes(**(fields | changes))


def assert_equal(a, b):
    assert (a.split, a.images, a.seed, a.attacks) == (b.split, b.images, b.seed, b.attacks)
    assert a.run == b.run
    assert a.bits.keys() == b.bits.keys()
    for key, bits in a.bits.items():
        assert b.bits[key].dtype == np.bool_
        np.testing.assert_array_equal(bits, b.bits[key])


@pytest.mark.parametrize("images", [77, 80, 10_000])
def test_what_is_written_comes_back_in_order(tmp_path, images):
    written = outcomes(images)
    save_outcomes(tmp_path / "o.safetensors", written)
    assert_equal(written, read_outcomes(tmp_path / "o.safetensors"))


def test_an_accuracy_is_the_mean_of_its_bits():
    bits = np.array([True, True, False])
    found = outcomes(3, bits={("last", "clean"): bits}).accuracy
    assert found("last", "clean") == 100 * 2 / 3
    assert found("last", "pgd") is None


def test_equal_outcomes_are_equal_bytes_whatever_the_order_they_came_in(tmp_path):
    one = outcomes()
    other = outcomes(
        bits=dict(reversed(one.bits.items())), attacks=dict(reversed(one.attacks.items()))
    )
    save_outcomes(tmp_path / "a.safetensors", one)
    save_outcomes(tmp_path / "b.safetensors", other)
    content = (tmp_path / "a.safetensors").read_bytes()
    assert content == (tmp_path / "b.safetensors").read_bytes()
    assert len(content) < 6 * 1250 + 1250  # a bit per image, and a short header


def test_the_file_is_one_of_safetensors_sealed_like_the_others(tmp_path):
    save_outcomes(tmp_path / "o.safetensors", outcomes(77))
    assert "last.clean" in load_checkpoint(tmp_path / "o.safetensors")  # compares the checksum


def test_no_changed_byte_goes_unseen(tmp_path):
    path = tmp_path / "o.safetensors"
    save_outcomes(path, outcomes(77))
    content = path.read_bytes()
    whole = read_outcomes(path)
    lines = []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        try:
            assert_equal(whole, read_outcomes(path))
        except InputError as error:
            lines.append(str(error))
    assert all(line.startswith(str(path)) and "\n" not in line for line in lines)
    assert len(lines) > 0.95 * len(content)  # the rest is padding, and spelling of the same content


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_torn_file_is_refused_in_one_line(tmp_path, kept):
    path = tmp_path / "o.safetensors"
    save_outcomes(path, outcomes(77))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"o\.safetensors: damaged, or no outcomes"):
        read_outcomes(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match="not readable"):
            read_outcomes(path)


def test_an_attack_of_an_earlier_version_is_the_same_attack_as_of_this_one(tmp_path):
    attack = str(PGDConfig(8 / 255, 20, 2 / 255))
    earlier = attack.removeprefix("Linf ")
    assert earlier == "PGD-20, eps 8/255, step size 2/255, random start"
    attacks = {"pgd": earlier, "autoattack": "apgd-ce, square, eps 0.1"}
    save_outcomes(tmp_path / "o.safetensors", outcomes(77, attacks=attacks))
    found = read_outcomes(tmp_path / "o.safetensors").attacks
    assert found == {"pgd": attack, "autoattack": "Linf apgd-ce, square, eps 0.1"}


def test_another_safetensors_file_is_refused(tmp_path):
    save_file({"x": np.zeros(3, np.uint8)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="not a file of outcomes"):
        read_outcomes(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"tested": json.dumps({"last.clean": 99})},
        {"tested": json.dumps({"last.clean": "8"})},
        {"tested": json.dumps({"last.clean": 10**12})},
        {"tested": "[]"},
        {"attacks": "[]"},
        {"images": "4"},
        {"images": "many"},
    ],
)
def test_a_sealed_header_that_does_not_fit_is_refused(tmp_path, change):
    bits = np.packbits(np.ones(8, bool))
    header = {"format": FORMAT, "split": "s", "images": "8", "seed": "0", "attacks": "{}"}
    header = {**header, "tested": json.dumps({"last.clean": 8})} | change
    header["sha256"] = hash_of(header, [("last.clean", bits.tobytes())])
    save_file({"last.clean": bits}, tmp_path / "o.safetensors", metadata=header)
    with pytest.raises(InputError, match="not outcomes of this program"):
        read_outcomes(tmp_path / "o.safetensors")


@pytest.mark.parametrize(
    "bits",
    [
        {("last", "clean"): np.ones(9, bool)},
        {("last", "clean"): np.ones(0, bool)},
        {("last", "clean"): np.ones(8)},
        {("last", "clean"): np.ones((2, 4), bool)},
        {("last", "blurred"): np.ones(8, bool)},
        {("la.st", "clean"): np.ones(8, bool)},
        {("last", "restarts"): np.ones(8, bool)},  # with no attack named for it
    ],
)
def test_outcomes_that_do_not_fit_together_are_not_made(bits):
    with pytest.raises(ValueError):
        outcomes(8, bits=bits)


def test_the_manual_reads_the_files_of_the_repository(tmp_path, monkeypatch, capsys):
    runs = ROOT / "results" / "miniature" / "runs"
    run = runs / "transfer/adv/folder/adv/f0.1/state5/seed1"
    for file in (run / "outcomes.safetensors", runs / "imp/adv/5-ticket.safetensors"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "results.md").read_text()
    exec("".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), {})
    accuracies, density = capsys.readouterr().out.splitlines()
    results = json.loads((run / "results.json").read_text())
    assert f"'ra_best.pgd': {results['ra_best']['ra']}" in accuracies
    assert float(density) == pytest.approx(results["density"], abs=1e-12)


def test_reading_needs_no_torch(tmp_path):
    save_outcomes(tmp_path / "o.safetensors", outcomes(77))
    code = (
        "import sys; from files.outcomes import read_outcomes; read_outcomes(sys.argv[1]); "
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "o.safetensors")]
    subprocess.run(command, cwd=ROOT, check=True)
