"""The floors of the project: which folder may import which, and what has only one caller."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each folder and module of the top level, from the ground up, and what it may import beside itself
# and `errors`: a whole room, or one module of it. All arrows go down.
FLOORS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "pruning_utils": (),
    "attack_utils": (),
    "files": ("pruning_utils",),
    "input_pipeline": ("files.features",),
    "dataset": ("input_pipeline",),
    "models": ("files", "pruning_utils"),
    # Of the attacks only the type of what perturbs a batch, as a test below says.
    "engine": (
        "files", "input_pipeline.loader", "input_pipeline.workers", "models.prepared",
        "attack_utils",
    ),
    "evaluation": (
        "engine", "models", "files", "dataset", "input_pipeline", "attack_utils", "pruning_utils",
    ),
    "cli": (
        "evaluation", "engine", "models", "files", "dataset", "input_pipeline.loader",
        "attack_utils", "pruning_utils",
    ),
    "one_shot": ("cli", "engine", "models", "files", "pruning_utils"),
    "main_imp_pretrain": (
        "one_shot", "cli", "evaluation", "engine", "models", "files", "dataset", "pruning_utils",
    ),
    "main_downstream": (
        "cli", "evaluation", "engine", "models", "files", "dataset", "pruning_utils",
    ),
    # Beside them: what reads finished runs, and what starts runs as processes, without PyTorch.
    "report": ("models", "files", "engine.sharing", "pruning_utils"),
    "study": (
        "files.names", "files.atomic", "files.features", "files.metrics", "files.results",
        "files.run_args", "files.study_record", "engine.schedules",
    ),
}  # fmt: skip
NO_TORCH = (
    "study.__main__",
    "files.names",
    "files.features",
    "files.metrics",
    "files.results",
    "files.run_args",
    "files.study_record",
    "engine.schedules",
    "engine.sharing",
)


def source_files() -> dict[str, Path]:
    """Every module of the project by its dotted name, but for tests, benchmarks and scripts."""
    paths = [*ROOT.glob("*.py"), *(p for init in ROOT.glob("*/__init__.py")
                                   for p in init.parent.rglob("*.py"))]  # fmt: skip
    files = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = source_files()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in FILES.items()}


def imports_of(name: str, tree: ast.AST) -> set[str]:
    """The dotted names of all that a module imports, inside functions too."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def project_imports(name: str) -> set[str]:
    return {other for other in imports_of(name, TREES[name]) if other in FILES and other != name}


def room_of(name: str) -> str:
    return name.partition(".")[0]


def is_allowed(name: str, other: str) -> bool:
    allowed = (room_of(name), "errors", *FLOORS[room_of(name)])
    # `from files import names` names the package too, which imports nothing of its own.
    bare = other in FILES and FILES[other].name == "__init__.py"
    return other in allowed or room_of(other) in allowed or (
        bare and any(room.startswith(f"{other}.") for room in allowed)
    )  # fmt: skip


def faults(graph: dict[str, set[str]]) -> list[str]:
    """Imports that the table does not name."""
    return [
        f"{name} imports {other}"
        for name, imported in sorted(graph.items())
        for other in sorted(imported)
        if not is_allowed(name, other)
    ]


def test_the_table_is_the_folder():
    assert sorted({room_of(name) for name in FILES}) == sorted(FLOORS)


def test_every_arrow_of_the_table_goes_down():
    built = ["errors"]
    for room, below in FLOORS.items():
        assert {room_of(other) for other in below} <= set(built), room
        built.append(room)


def test_every_arrow_of_the_table_is_used():
    graph = {name: project_imports(name) for name in FILES}
    for room, below in FLOORS.items():
        used = {other for name, imported in graph.items() if room_of(name) == room
                for other in imported}  # fmt: skip
        for arrow in below:
            assert any(other == arrow or room_of(other) == arrow for other in used), (room, arrow)


def test_imports_are_those_that_the_table_names():
    graph = {name: project_imports(name) for name in FILES}
    assert faults(graph) == []
    assert sum(len(imported) for imported in graph.values()) > 100  # they were found at all


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("engine.steps", "pruning_utils"),
        ("engine.training", "models.fold"),
        ("main_downstream", "main_imp_pretrain"),
        ("main_downstream", "report.write"),
        ("pruning_utils", "models"),
        ("models.zoo", "dataset"),
        ("cli.parsing", "main_downstream"),
        ("errors", "engine.log"),
        ("report.page", "engine.steps"),
        ("dataset", "models.zoo"),
        ("files.checkpoints", "main_downstream"),
        ("study.config", "files.checkpoints"),
        ("evaluation.evaluator", "cli.build"),
    ],
)
def test_the_table_refuses(name, other):
    assert faults({name: {other}}) == [f"{name} imports {other}"]


def test_what_surrounds_an_epoch_knows_of_attacks_their_type_alone():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "attack_utils":
                told = room_of(name) != "engine" or [a.name for a in node.names] == ["Perturb"]
                assert told, name


@pytest.mark.parametrize("name", NO_TORCH)
def test_a_room_for_machines_without_pytorch_does_not_load_it(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_folder_says_what_lives_there_and_what_it_may_import():
    for name, path in FILES.items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            told = re.search(r"ay import (.*?)[.:](?:\s|$)", text, re.DOTALL)
            assert told, name
            allowed = {*FLOORS[name], "errors"}
            if told[1].startswith("everything below"):
                below = [*FLOORS][: [*FLOORS].index(name)]
                assert {room_of(other) for other in allowed} == set(below), name
            else:
                assert {*re.findall(r"[\w.]+", told[1])} & {*FILES, *FLOORS} == allowed, name


def test_there_are_no_import_cycles():
    graph = {name: project_imports(name) for name in FILES}
    # `from models import x` in a part of the package needs the package, which is being made.
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_scripts_are_commands_that_import_no_room():
    scripts = {path.stem: path for path in (ROOT / "script").rglob("*.py")}
    assert scripts
    for path in scripts.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                named = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                )
                assert not set(named) & set(FILES), f"{path.name} imports {named}"


# --- one caller only ------------------------------------------------------------------------------


def attributes(tree: ast.AST) -> set[str]:
    """Dotted attributes that a module uses: torch.save, torch.nn.utils, …"""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def torch_files(name: str, tree: ast.AST) -> set[str]:
    """What a module uses of torch's reading and writing, under whatever name it has torch."""
    wanted = {"torch.save", "torch.load", "torch.serialization"}
    used = attributes(tree) | imports_of(name, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "torch" and alias.asname:
                    used |= {f"torch.{u.partition('.')[2]}" for u in used
                             if u.startswith(f"{alias.asname}.")}  # fmt: skip
    return {u for u in wanted if any(v == u or v.startswith(f"{u}.") for v in used)}


def test_only_files_checkpoints_calls_torch_save_and_load():
    for name, tree in TREES.items():
        expected = {"torch.save", "torch.load"} if name == "files.checkpoints" else set()
        assert torch_files(name, tree) == expected, name


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.save(1, 2)",
        "import torch as t\nt.load(1)",
        "from torch import load",
        "from torch import save as write",
        "import torch.serialization",
        "import torch\ntorch.serialization.load(1)",
    ],
)
def test_other_ways_to_torch_save_and_load_are_found(text):
    assert torch_files("errors", ast.parse(text))


def test_torch_load_never_runs_code_but_where_it_is_asked_to():
    """weights_only=True everywhere; False in `load_trusted_pickle` alone."""
    tree = TREES["files.checkpoints"]
    assert isinstance(tree, ast.Module)
    loads: dict[str, set[str]] = {}
    for function in tree.body:
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load":
                words = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert isinstance(function, ast.FunctionDef)
                loads.setdefault(words["weights_only"], set()).add(function.name)
    assert set(loads) == {"True", "False"}
    assert loads["False"] == {"load_trusted_pickle"}
    callers = [n for n, tree in TREES.items() if "load_trusted_pickle" in ast.unparse(tree)]
    assert sorted(callers) == ["files.checkpoints", "models.convert"]
    plain = [n for n, tree in TREES.items() if "stranger_pickles" in ast.unparse(tree)]
    assert plain == ["files.checkpoints"]


@pytest.mark.parametrize("package", ["advertorch", "pyautoattack"])
def test_only_attack_utils_imports_attack_libraries(package):
    users = {
        name
        for name, tree in TREES.items()
        if any(other.split(".")[0] == package for other in imports_of(name, tree))
    }
    assert users == {"attack_utils"}


def test_no_star_imports_and_no_eval():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert "*" not in {alias.name for alias in node.names}, name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__"), name
