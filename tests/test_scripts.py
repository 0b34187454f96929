"""The bash drivers hand on what they are given, and the demo's data and installer do their jobs."""

import os
import platform
import re
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from helpers.main_cases import HERE, TINY, write_images

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "script"
sys.path.insert(0, str(SCRIPT))

import installed

from cli.flags import build_imp_parser, build_transfer_parser
from files import names
from main_downstream import TRANSFER_DATASETS
from models import ARCHS

OF_A_FOLDER = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*SCRIPT.rglob("*.sh"), *ROOT.glob("benchmarks/*.sh"), *ROOT.glob("results/*/*.sh")]
    if "=$(" in path.read_text() and "dirname" in path.read_text()
)  # the scripts that look for their own folder

STUB = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n'


@pytest.fixture
def stub(tmp_path):
    """A Python that only prints its arguments, one a line."""
    path = tmp_path / "stub python"
    path.write_text(STUB)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def bash(script, *arguments, check=0, **environment):
    done = subprocess.run(
        ["bash", str(SCRIPT / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        timeout=120,
    )
    assert done.returncode == check, done.stderr
    return done


def arguments_of(script, *arguments, python):
    main, *rest = bash(script, *arguments, PYTHON=python).stdout.splitlines()
    return Path(main).relative_to(ROOT).as_posix(), rest


def pairs(arguments):
    """The value that a main would see for every flag: of several the last."""
    return {word: arguments[i + 1] for i, word in enumerate(arguments[:-1]) if word[:2] == "--"}


# --- positions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "mode", "tag"),
    [("imp_adv.sh", "adv", "adv"), ("imp_std.sh", "std", "std"), ("imp_fast.sh", "adv", "fast")],
)
def test_imp_drivers_take_init_save_data(script, mode, tag, stub):
    main, got = arguments_of(
        f"imp_pretrain/{script}", "in it", "save", "da ta", "--epochs", "2", "-b", "7", python=stub
    )
    assert main == "main_imp_pretrain.py"
    assert got[0] == "da ta"
    values = pairs(got)
    assert (values["--init"], values["--save_dir"]) == ("in it", "save")
    assert (values["--mode"], values["--tag"]) == (mode, tag)
    assert got[-4:] == ["--epochs", "2", "-b", "7"]


@pytest.mark.parametrize("script", ["imp_adv.sh", "imp_std.sh", "imp_fast.sh"])
def test_imp_drivers_use_all_gpus_unless_told_otherwise_and_may_have_no_weights(script, stub):
    _, got = arguments_of(f"imp_pretrain/{script}", "", "save", "data", "--gpu", "1", python=stub)
    args = build_imp_parser(ARCHS).parse_args(got)
    assert args.multiprocessing_distributed
    assert (args.gpu, args.init) == (1, None)


@pytest.mark.parametrize("kind", ["omp", "random"])
def test_drivers_of_untrained_tickets_take_init_save(kind, stub):
    main, got = arguments_of(f"imp_pretrain/{kind}.sh", "i", "s", "--rate", "0.5", python=stub)
    assert main == "main_imp_pretrain.py"
    assert got == ["--ticket", kind, "--init", "i", "--save_dir", "s", "--rate", "0.5"]


TRANSFERS = [
    ("train_downstream/adv_cifar.sh", ["cifar100"], "adv", "cifar100"),
    ("train_downstream/adv_svhn.sh", [], "adv", "svhn"),
    ("train_downstream/std.sh", ["visda"], "std", "visda"),
    ("std.sh", ["visda"], "std", "visda"),
]


@pytest.mark.parametrize(("script", "first", "mode", "dataset"), TRANSFERS)
@pytest.mark.parametrize("further", [[], ["--epochs", "2", "--data", "a b"]])
@pytest.mark.parametrize("ticket", [None, "", "a ticket"])
def test_transfer_drivers_take_init_save_and_perhaps_a_ticket(
    script, first, mode, dataset, further, ticket, stub
):
    given = [*first, "in it", "save", *([] if ticket is None else [ticket]), *further]
    main, got = arguments_of(script, *given, python=stub)
    assert main == "main_downstream.py"
    values = pairs(got)
    assert (values["--mode"], values["--dataset"]) == (mode, dataset)
    assert (values["--init"], values["--save_dir"]) == ("in it", "save")
    assert build_transfer_parser(ARCHS, TRANSFER_DATASETS).parse_args(got).tickets_file == (
        ticket or None
    )
    assert got[len(got) - len(further) :] == further


@pytest.mark.parametrize("ticket", [[], [""], ["t"]])
def test_an_empty_ticket_which_an_unset_variable_gives_is_told_of(ticket, stub):
    done = bash("std.sh", "cifar10", "i", "s", *ticket, PYTHON=stub)
    told = "warning: TICKET is empty, so the dense network is trained\n"
    assert done.stderr == (told if ticket == [""] else "")


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("imp_pretrain/imp_adv.sh", ["i", "s"]),
        ("imp_pretrain/imp_std.sh", ["i", "s", "--epochs", "2"]),
        ("imp_pretrain/imp_fast.sh", []),
        ("imp_pretrain/omp.sh", ["i"]),
        ("imp_pretrain/random.sh", ["--init", "i"]),
        ("train_downstream/adv_cifar.sh", ["cifar10", "i"]),
        ("train_downstream/adv_svhn.sh", ["i", "--epochs", "2"]),
        ("train_downstream/std.sh", ["cifar10", "i", "--save_dir", "s"]),
        ("std.sh", []),
        ("study.sh", []),
        ("tried_versions.sh", ["folder"]),
        ("demo.sh", ["a", "b"]),
        ("demo.sh", ["--help"]),
    ],
)
def test_a_missing_position_gives_the_usage_line_and_status_2(script, given, stub):
    done = bash(script, *given, check=2, PYTHON=stub)
    assert done.stdout == ""
    assert done.stderr.startswith("usage: bash script/")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_released_scripts_flags_for_a_short_run_are_warned_of_and_do_run(tmp_path):
    data = write_images(tmp_path / "data")
    done = bash(
        "train_downstream/adv_cifar.sh", "folder", "", str(tmp_path / "run"), "",
        "--data", str(data), *TINY, *HERE, "--epochs", "2", "--decreasing_lr", "50,75",
        "--warmup", "0", "--train_step", "1", "--test_step", "1", "--resume", "",
        PYTHON=sys.executable,
    )  # fmt: skip
    assert "warning: --decreasing_lr 50,75: 50,75 is never reached: with --epochs 2" in done.stderr
    assert (tmp_path / "run" / "results.json").exists()


def test_a_driver_runs_the_real_main(tmp_path):
    done = bash(
        "train_downstream/adv_svhn.sh", "none.pt", str(tmp_path / "s"), "none.safetensors",
        "--epochs", "3", "--dry_run", "--seed", "5", PYTHON=sys.executable,
    )  # fmt: skip
    assert "transfer, adv: resnet50 to svhn at 224 pixels, seed 5" in done.stdout
    assert "--tickets_file none.safetensors   <- MISSING" in done.stdout
    assert "3 epochs" in done.stdout
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("script", OF_A_FOLDER)
def test_a_users_cdpath_leads_no_script_to_another_folder(script, tmp_path):
    """With it `cd` prints where it went, and goes to a folder of that name elsewhere first."""
    (tmp_path / Path(script).parent).mkdir(parents=True)
    lines = [line for line in (ROOT / script).read_text().splitlines() if "$(dirname" in line]
    done = subprocess.run(
        ["bash", "-c", f'{lines[0]}; echo "${{root:-$here}}"', script],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "CDPATH": str(tmp_path)},
    )  # fmt: skip
    where = (ROOT / script).parent if lines[0].startswith("here") else ROOT
    assert done.stdout == f"{where}\n"


def test_a_folder_that_is_named_to_a_script_is_not_looked_for_in_cdpath(stub, tmp_path):
    stub.write_text("#!/usr/bin/env bash\n")
    (tmp_path / "elsewhere/mine").mkdir(parents=True)
    subprocess.run(
        ["bash", str(SCRIPT / "tried_versions.sh"), "mine", "9.9"], cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHON": str(stub), "CDPATH": str(tmp_path / "elsewhere")},
    )  # fmt: skip
    assert (tmp_path / "mine/9.9.log").is_file()


# --- which Python, and what it has ---------------------------------------------------------------


def find_python(root, **environment):
    clean = {
        name: value for name, value in os.environ.items()
        if name not in ("PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX")
    }  # fmt: skip
    line = f'set -euo pipefail; source "{SCRIPT / "env.sh"}"; find_python "$1"'
    done = subprocess.run(
        ["bash", "-c", line, "-", str(root)],
        capture_output=True, text=True, check=True, env={**clean, **environment},
    )  # fmt: skip
    return done.stdout.strip()


def test_python_is_the_one_asked_for_else_the_active_else_the_projects_else_the_systems(tmp_path):
    assert find_python(tmp_path) == "python3"
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert find_python(tmp_path) == str(own)
    assert find_python(tmp_path, CONDA_PREFIX="/somewhere") == "python"
    assert find_python(tmp_path, VIRTUAL_ENV="/somewhere") == "python"
    assert find_python(tmp_path, VIRTUAL_ENV="/somewhere", PYTHON="mine") == "mine"


@pytest.mark.parametrize(
    ("line", "python", "satisfied"),
    [
        ("torch>=2.4", (3, 11), True),
        ("torch>=999", (3, 11), False),
        ("torch>=2.4  # why", (3, 11), True),
        ("no-such-package>=1", (3, 11), False),
        ('no-such-package>=1; python_version < "3.11"', (3, 11), True),
        ('no-such-package>=1; python_version < "3.11"', (3, 10), False),
        ('torch>=2.4; python_version < "3.11"', (3, 10), True),
        ("", (3, 11), True),
    ],
)
def test_installed_reads_bounds_and_markers(line, python, satisfied, tmp_path):
    (tmp_path / "base.txt").write_text(f"# comment\n{line}\n")
    (tmp_path / "more.txt").write_text("-r base.txt\npytest>=1\n")
    assert installed.satisfied(tmp_path / "more.txt", python) is satisfied


def test_installed_asks_for_every_package_of_the_projects_own_files(monkeypatch):
    asked = set()
    monkeypatch.setattr(installed.metadata, "version", lambda name: asked.add(name) or "999")
    assert installed.satisfied(ROOT / "requirements-dev.txt", python=(3, 10))
    texts = [(ROOT / f"requirements{part}.txt").read_text() for part in ("", "-extra", "-dev")]
    assert asked == set(re.findall(r"^[\w.-]+(?=>=)", "\n".join(texts), re.MULTILINE))


@pytest.fixture
def have(monkeypatch):
    """Pretend that these versions are installed, and nothing else."""

    def pretend(**versions):
        def version(name):
            if name not in versions:
                raise installed.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(installed.metadata, "version", version)

    return pretend


@pytest.mark.parametrize(
    ("versions", "constraints"),
    [
        ({}, []),
        ({"torch": "2.4.0", "torchvision": "0.19.0"}, ["torch==2.4.0", "torchvision==0.19.0"]),
        ({"torch": "2.4.1+cu121", "numpy": "1.0"}, ["torch==2.4.1+cu121"]),
        ({"torch": "2.6.0a0+ecf3bae40a.nv25.1"}, ["torch==2.6.0a0+ecf3bae40a.nv25.1"]),
    ],
)
def test_the_pytorch_of_an_environment_is_kept_by_an_installation(versions, constraints, have):
    have(**versions)
    assert installed.kept(ROOT / "requirements-dev.txt") == constraints
    assert not installed.satisfied(ROOT / "requirements.txt")


@pytest.mark.parametrize("versions", [{"torch": "2.3.1"}, {"torch": "2.4.1", "torchvision": "0.9"}])
def test_a_pytorch_that_is_too_old_is_named_and_not_replaced(versions, have, capsys):
    have(**versions)
    with pytest.raises(SystemExit) as stop:
        installed.kept(ROOT / "requirements.txt")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(r"has torch(vision)? (2\.3\.1|0\.9); (2\.4|0\.19) or newer is needed", error)


def test_an_environment_with_the_bounds_of_the_project_is_left_alone(have):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    have(**dict(line.partition(";")[0].split(">=") for line in lines if ">=" in line))
    assert installed.satisfied(ROOT / "requirements.txt")


INSTALLING = """#!/usr/bin/env bash
case "$*" in
  *--kept*) [ -z "$OLD" ] || exit 2; echo torch==2.4.1+cu121 ;;
  *installed.py*) exit 1 ;;
  *"pip install"*) echo "$*" >> "$CALLS"; cat "${@: -1}" >> "$CALLS" ;;
esac
"""


@pytest.mark.parametrize("old", ["", "yes"])
def test_what_is_missing_is_installed_without_touching_the_active_pytorch(old, stub, tmp_path):
    stub.write_text(INSTALLING)
    calls = tmp_path / "calls"
    bash(
        "demo.sh", str(tmp_path / "out"), check=2 if old else 0, PYTHON=stub, VIRTUAL_ENV=tmp_path,
        CALLS=calls, OLD=old,
    )  # fmt: skip
    assert calls.exists() is not bool(old)
    if not old:
        command, constraint = calls.read_text().splitlines()
        assert f"-r {ROOT}/requirements.txt -c " in command
        assert constraint == "torch==2.4.1+cu121"


# --- the trial of several versions ----------------------------------------------------------------

TRIED = """#!/usr/bin/env bash
case "$1 $2" in
  "-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  "-m pip") cat "${@: -1}" >> "$CALLS"; [[ $0 != */9.9/* ]] || { echo "no torch 9.9"; exit 1; } ;;
  "-m pytest")
    echo "$*" >> "$CALLS"
    [[ $VIRTUAL_ENV != */2.5.0 ]] || { echo "2 failed, 3 passed, 1 error in 9.10s"; exit 1; }
    echo "4 passed, 1 skipped, 7 warnings in 63.10s (0:01:03)" ;;
  *) exec "$REAL" "$@" ;;
esac
"""


def test_each_tried_version_gets_one_line_and_its_environment_is_removed(stub, tmp_path):
    stub.write_text(TRIED)
    folder, calls = tmp_path / "a folder", tmp_path / "calls"
    done = bash(
        "tried_versions.sh", str(folder), "2.4.1", "2.5.0", "9.9", "lowest", "--", "-k", "a b",
        check=1, PYTHON=stub, CALLS=calls, REAL=sys.executable,
    )  # fmt: skip
    here = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision"))
    lines = done.stdout.splitlines()
    assert all(line.startswith(f"{here}, numpy ") for line in lines)
    python = f"Python {platform.python_version()}: "
    assert [line.partition(python)[2] for line in lines] == [
        "4 passed, 1 skipped, 0 minutes",
        "2 failed, 3 passed, 1 error, 0 minutes",
        "4 passed, 1 skipped, 0 minutes",
    ]
    assert done.stderr.splitlines() == [
        f"{version}: see {folder}/{version}.log" for version in ("2.5.0", "9.9")
    ]
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{version}.log" for version in ("2.4.1", "2.5.0", "9.9", "lowest")
    ]
    said = calls.read_text().splitlines()
    tests = "-m pytest -p no:cacheprovider -k a b"
    bounds = [
        line.replace(">=", "==")
        for name in ("requirements.txt", "requirements-extra.txt")
        for line in (ROOT / name).read_text().splitlines()
        if ">=" in line
    ]
    assert said == ["torch==2.4.1", tests, "torch==2.5.0", tests, "torch==9.9", *bounds, tests]


# --- the demo ---------------------------------------------------------------------------------


def test_demo_data_is_an_imagenet_layout_and_a_folder_with_disjoint_classes(tmp_path):
    command = [sys.executable, str(SCRIPT / "demo_data.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    layout = {
        path.relative_to(tmp_path).as_posix(): len(list(path.glob("*.png")))
        for path in tmp_path.glob("*/*/*")
    }
    source = {f"source/{part}/{label}" for part in ("train", "val") for label in range(5)}
    target = {f"target/{part}/{label}" for part in ("train", "test") for label in range(5, 10)}
    assert set(layout) == source | target
    assert sum(layout.values()) == 1797
    assert all(layout[f"source/val/{label}"] >= 30 for label in range(5))


def test_demo_data_leaves_what_is_there_and_completes_what_is_not(tmp_path):
    command = [sys.executable, str(SCRIPT / "demo_data.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    first, second, *_ = sorted(tmp_path.rglob("*.png"))
    before = first.stat().st_mtime_ns
    second.unlink()
    subprocess.run(command, check=True)
    assert first.stat().st_mtime_ns == before
    assert second.exists()
    assert len(list(tmp_path.rglob("*.*"))) == 1797


DEMO_STUB = """#!/usr/bin/env bash
words=$*
echo "${words//$'\n'/; }" >> "$CALLS"
if [[ $words == *" study "* ]]; then exit "$STATUS"; fi
"""


@pytest.mark.parametrize("status", [0, 1, 130])
def test_demo_makes_data_runs_the_study_and_ends_with_names_of_files(status, stub, tmp_path):
    stub.write_text(DEMO_STUB)
    out = tmp_path / "de mo"
    (out / "report").mkdir(parents=True)
    names = ["report.html", "accuracy-folder-100pct.png", "results.csv"]
    for name in names:
        (out / "report" / name).touch()
    calls = tmp_path / "calls"
    done = bash(
        "demo.sh", str(out), check=status, PYTHON=stub, VIRTUAL_ENV=tmp_path, CALLS=calls,
        STATUS=status,
    )  # fmt: skip
    made = calls.read_text().splitlines()
    assert ["installed.py" in made[0], "demo_data.py" in made[1], " study " in made[2]] == [
        True
    ] * 3
    assert made[1].endswith(f"{out}/data")
    assert f"script/study/demo.toml --out {out} -J " in made[2]
    assert "it demonstrates, it does not prove" in done.stdout
    last = done.stdout.splitlines()[-3:]
    assert (last == [f"{out}/report/{name}" for name in names]) == (status != 130)


@pytest.mark.parametrize("sbatch", ["study.sbatch", "imp_multinode.sbatch"])
def test_batch_files_ask_to_be_requeued_and_to_be_warned(sbatch):
    text = (SCRIPT / "slurm" / sbatch).read_text()
    for line in ("#SBATCH --requeue", "#SBATCH --signal=TERM@300", "#SBATCH --open-mode=append"):
        assert line in text


def test_batch_files_know_a_stopped_run_as_the_mains_leave_it():
    text = (SCRIPT / "slurm/job.sh").read_text()
    assert (
        f'if [ -e "$folder/{names.PREEMPTED}" ]; then\n    status={names.PREEMPTED_STATUS}\n'
        in text
    )
    for sbatch in ("study.sbatch", "imp_multinode.sbatch"):
        assert f'/{names.PREEMPTED}"\n' in (SCRIPT / "slurm" / sbatch).read_text()
