"""Every command of the README runs: the short ones as they are, the long ones with --dry_run."""

import importlib
import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.report_cases import write_grid

import main_downstream
import main_imp_pretrain
from cli import checks
from cli.flags import build_imp_parser, build_transfer_parser
from cli.recipes import apply_recipe
from files.checkpoints import save_checkpoint
from main_downstream import TRANSFER_DATASETS
from models import ARCHS, build_model

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

CI_RUNS = {"script/demo.sh", "script/test.sh"}
DRIVERS = ("script/imp_pretrain/", "script/train_downstream/", "script/std.sh")
MAINS = {
    "main_imp_pretrain.py": main_imp_pretrain.main,
    "main_downstream.py": main_downstream.main,
}
SHORT = {"script/report.sh": "report.__main__"}
MODULES = {"models.convert", "models.export"}
# What sets a machine up or looks at a folder: not the project's commands, so not run.
SHELL = ("git clone", "cd", "source", "pip install", "python -m venv", "python -m pip install",
         "tensorboard", "sbatch")  # fmt: skip
LANGUAGES = {"bash", "python", "bibtex", "toml", "text", "json", ""}


# --- reading --------------------------------------------------------------------------------------


def fences(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: (language, content)."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```\s*$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The command lines of the bash fences, continued lines joined, without comments."""
    found = []
    for language, content in fences(text):
        if language.strip() == "bash":
            for line in content.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found.append(line.split(" #")[0].strip())
    return found


@dataclass(frozen=True)
class Command:
    """What kind of command a line is, and the words that matter for it."""

    kind: str  # ci, driver, study, main, short, module, shell
    target: str = ""
    words: tuple[str, ...] = ()


def classify(line: str) -> Command:
    """Tell how a command is tried; a ValueError for a kind that nobody has thought of."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    if any(set(word) <= set("|&;<>()") for word in lexer) or "$" in line:
        raise ValueError(f"{line!r}: pipes, redirections and variables are not tried")
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):  # OMP_NUM_THREADS=1 python …
        words = words[1:]
    for beginning in SHELL:
        if words[: len(beginning.split())] == beginning.split():
            return Command("shell", words[-1] if words[0] == "sbatch" else "")
    if words[0] == "torchrun":
        place = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        words = ["python", *words[place:]] if place else words
    if words[0] == "bash" and len(words) > 1:
        target, rest = words[1], tuple(words[2:])
        if target in CI_RUNS:
            return Command("ci", target, rest)
        if target.startswith(DRIVERS):
            return Command("driver", target, rest)
        if target == "script/study.sh":
            return Command("study", target, rest)
        if target in SHORT:
            return Command("short", target, rest)
    if words[:2] == ["python", "-m"] and words[2] in MODULES:
        return Command("module", words[2], tuple(words[3:]))
    if words[0] == "python" and len(words) > 1:
        target, rest = words[1], tuple(words[2:])
        if target in MAINS:
            return Command("main", target, rest)
    raise ValueError(f"{line!r}: an unknown kind of command; say in {__name__} how to try it")


# --- trying ---------------------------------------------------------------------------------------


def run_in_process(main, argv) -> None:
    """Call a main as its file would; anything but success is a failure of the test."""
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    assert status in (None, 0), argv


def dry_run(main, words: tuple[str, ...], folder: Path, capsys) -> None:
    before = sorted(folder.rglob("*"))
    run_in_process(main, [*words, "--dry_run"])
    printed = capsys.readouterr()
    short = "--epochs 2: state 1 trains 2 of --prune_epoch 30 epochs only"
    assert [line for line in printed.err.splitlines() if short not in line] == []
    assert "writes into" in printed.out
    assert sorted(folder.rglob("*")) == before


def stub_python(folder: Path) -> Path:
    """A Python that prints the words that it is given, one a line: what a driver hands on."""
    path = folder / "stub"
    path.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def bash(words, python, folder: Path) -> str:
    done = subprocess.run(
        ["bash", *words], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHON": str(python)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def at_root(word: str) -> str:
    return str(ROOT / word) if (ROOT / word).exists() else word


def make_weights(path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = build_model("resnet20s", 3, (0.5,) * 3, (0.2,) * 3, "cifar", 4)
        save_checkpoint(path, {"state_dict": model.state_dict()})


def try_study(words: list[str], folder: Path) -> None:
    """The whole list, every command's flags, and one run of it with its cost: the others as it."""
    if "--help" in words:
        assert bash(words, sys.executable, folder)
        return
    words = [word for word in words if word not in ("--dry_run", "--time_it")]
    listed = bash([*words, "--list"], sys.executable, folder).splitlines()
    assert listed
    for line in listed:
        _, _, script, *argv = shlex.split(line)
        parse(Path(script).name, argv)
    only = [] if "--only" in words else ["--only", "^imp/adv$"]
    assert " GPU-h " in bash([*words, *only, "--dry_run"], sys.executable, folder)
    assert list(folder.iterdir()) == []


def parse(script: str, argv: list[str]) -> None:
    imp = script == "main_imp_pretrain.py"
    parser = build_imp_parser(ARCHS) if imp else build_transfer_parser(ARCHS, TRANSFER_DATASETS)
    apply_recipe(parser.parse_args(argv), "imp" if imp else "transfer")


def try_command(line: str, folder: Path, capsys) -> None:
    command = classify(line)
    if command.kind not in ("module", "shell"):
        assert (ROOT / command.target).is_file(), command.target
    if command.kind == "ci":
        pytest.skip(f"CI runs {command.target} (.ci/run)")
    elif command.kind == "driver":
        words = [str(ROOT / command.target), *command.words, "--dry_run"]
        script, *argv = bash(words, stub_python(folder), folder).splitlines()
        dry_run(MAINS[Path(script).name], tuple(argv), folder, capsys)
    elif command.kind == "study":
        try_study([str(ROOT / command.target), *map(at_root, command.words)], folder)
    elif command.kind == "main":
        if "--help" in command.words:
            run_in_process(MAINS[command.target], list(command.words))
        else:
            dry_run(MAINS[command.target], command.words, folder, capsys)
    elif command.kind == "short":
        if command.words and not command.words[0].startswith("-"):
            write_grid(folder / command.words[0])
        run_in_process(importlib.import_module(SHORT[command.target]).main, list(command.words))
    elif command.kind == "module":
        if command.words and not command.words[0].startswith("-"):
            make_weights(folder / command.words[0])
        run_in_process(importlib.import_module(command.target).main, list(command.words))
    elif command.target:
        assert (ROOT / command.target).is_file()


COMMANDS = commands(README.read_text()) if README.exists() else []


@pytest.mark.parametrize("line", COMMANDS, ids=[line[:60] for line in COMMANDS])
def test_a_command_of_the_readme_runs(line, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "_cpu_has_bf16", lambda: True)  # a CPU without it is told of
    monkeypatch.chdir(tmp_path)
    try_command(line, tmp_path, capsys)


def test_the_readme_names_the_two_commands_and_both_mains():
    targets = {classify(line).target for line in COMMANDS}
    assert CI_RUNS | set(MAINS) <= targets
    ci = (ROOT / ".ci" / "run").read_text()
    assert all(f"bash {target}" in ci for target in CI_RUNS)  # which is why they are skipped here


def test_fences_are_of_languages_that_are_looked_at():
    blocks = fences(README.read_text())
    assert {language.strip() for language, _ in blocks} <= LANGUAGES
    for language, content in blocks:
        if language.strip() == "python":
            compile(content, "README.md", "exec")


def known_flags() -> set[str]:
    parsers = [
        build_imp_parser(ARCHS),
        build_transfer_parser(ARCHS, TRANSFER_DATASETS),
        importlib.import_module("report.__main__").build_parser(),
        *(importlib.import_module(module).build_parser() for module in MODULES),
    ]
    flags = {flag for parser in parsers for a in parser._actions for flag in a.option_strings}
    flags |= {f"--no-{flag[5:]}" for flag in flags if flag.startswith("--no_")}
    help_of_study = ["bash", str(ROOT / "script/study.sh"), "--help"]
    printed = bash(help_of_study[1:], sys.executable, ROOT)
    return flags | set(re.findall(r"(?<!\S)--?[A-Za-z][\w-]*", printed.replace(",", " ")))


def test_every_flag_that_the_readme_mentions_exists():
    others = {"--nproc_per_node", "--help"}  # torchrun's; every parser's
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README.read_text()))
    assert sorted(mentioned - known_flags() - others) == []


def test_every_file_of_the_project_that_the_readme_mentions_exists():
    text = README.read_text().replace("/\n", "/")
    named = re.findall(r"(?<![\w/.-])((?:script|docs|models|benchmarks)/[\w./-]*\w\.\w+)", text)
    named += re.findall(r"(?<![\w/.])(\w+\.py)\b", text)
    named += re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert sorted(set(missing)) == []
    assert len(set(named)) > 5


# --- the machinery above --------------------------------------------------------------------------


SAMPLE = """\
# Title

```bash
bash script/demo.sh        # one
bash script/test.sh

# a comment alone
python main_imp_pretrain.py DATA \\
  --mode adv --epochs 2    # two lines
```

Inline `python nothing.py` is no fence.

```python
bash = "no"
```

```bash
bash script/report.sh --help
```
"""


def test_commands_are_read_out_of_bash_fences_alone():
    assert commands(SAMPLE) == [
        "bash script/demo.sh",
        "bash script/test.sh",
        "python main_imp_pretrain.py DATA    --mode adv --epochs 2",
        "bash script/report.sh --help",
    ]
    assert [language for language, _ in fences(SAMPLE)] == ["bash", "python", "bash"]


@pytest.mark.parametrize(
    ("line", "kind", "target"),
    [
        ("bash script/demo.sh runs/x", "ci", "script/demo.sh"),
        ("bash script/test.sh", "ci", "script/test.sh"),
        ("bash script/std.sh cifar10 W S T", "driver", "script/std.sh"),
        ("bash script/imp_pretrain/imp_adv.sh W S D", "driver", "script/imp_pretrain/imp_adv.sh"),
        ("bash script/study.sh x.toml", "study", "script/study.sh"),
        ("python main_downstream.py --mode std", "main", "main_downstream.py"),
        ("OMP_NUM_THREADS=1 python main_imp_pretrain.py D", "main", "main_imp_pretrain.py"),
        ("torchrun --nproc_per_node 2 main_imp_pretrain.py D", "main", "main_imp_pretrain.py"),
        ("bash script/report.sh runs", "short", "script/report.sh"),
        ("python -m models.convert IN OUT", "module", "models.convert"),
        ("git clone URL", "shell", ""),
        ("sbatch script/slurm/study.sbatch", "shell", "script/slurm/study.sbatch"),
    ],
)
def test_commands_are_told_apart(line, kind, target):
    command = classify(line)
    assert (command.kind, command.target) == (kind, target)


@pytest.mark.parametrize(
    "line",
    [
        "python other.py",
        "python -m other",
        "bash script/other.sh",
        "make",
        "bash script/demo.sh | tail",
        "python main_downstream.py > log",
        "cd x && make",
        "python main_downstream.py --init $WEIGHTS",
        "torchrun --nproc_per_node 2 other",
    ],
)
def test_an_unknown_kind_of_command_fails(line):
    with pytest.raises(ValueError):
        classify(line)


@pytest.mark.parametrize(
    "line",
    [
        "python main_imp_pretrain.py DATA --no_such_flag",
        "bash script/imp_pretrain/imp_adv.sh W",
        "bash script/train_downstream/std.sh no_such_data W S",
        "bash script/imp_pretrain/gone.sh W S D",
        "bash script/study.sh gone.toml",
        "bash script/report.sh --no_such_flag",
        "python -m models.export W out.png",
        "sbatch script/slurm/gone.sbatch",
    ],
)
def test_a_command_that_no_longer_runs_fails(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, SystemExit, ValueError)):
        try_command(line, tmp_path, capsys)


@pytest.mark.parametrize(
    "line",
    [
        "python main_imp_pretrain.py DATA --mode std --epochs 2 --prune_epoch 1",
        "bash script/imp_pretrain/imp_std.sh torchvision SAVE DATA --epochs 2",
        "bash script/report.sh runs/x",
        "python -m models.convert weights.ckpt out.pth.tar",
        "python -m models.export runs/model_RA_best.pth.tar net.safetensors",
    ],
)
def test_a_command_that_runs_passes(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try_command(line, tmp_path, capsys)
