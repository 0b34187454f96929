"""The rooms of the project: who may import whom, and what has only one caller."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Room: (its modules, the rooms that it may import). Every room may import its own modules and
# `errors`. Names that end in `*` are all modules that begin so.
ROOMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "errors": (("errors",), ()),
    "flags": (("cli_utils", "flags"), ()),
    "files": (("checkpoint_utils", "file_utils"), ()),
    "models": (("models", "models.*"), ("files",)),
    "pruning": (("pruning_utils",), ()),
    "attacks": (("attack_utils",), ()),
    "data": (("dataset", "data_sources", "transforms", "eval_sets"), ("files",)),
    "processes": (("dist_utils",), ()),
    "training": (("train_utils",), ("processes",)),  # knows no attack and no mask
    "log": (("log_utils",), ("processes", "files")),
    "report": (("report_*",), ("files", "models")),
    # What the mains' algorithms stand on.
    "run": (("run_utils",), ("files", "models", "data", "processes", "training", "log")),
    "plan": (("plan_utils",), ("flags", "files", "models", "data", "attacks", "training")),
    "evaluation": (
        ("evaluation_*",),
        ("files", "models", "data", "attacks", "pruning", "processes", "training", "log"),
    ),
    "one-shot": (
        ("one_shot",),
        ("files", "models", "data", "pruning", "processes", "log", "run", "plan"),
    ),
}
# Everything but the other main, and nothing that only reads finished runs.
MAINS = ("main_imp_pretrain", "main_downstream")
NOT_FOR_MAINS = ("report",)


def source_files() -> dict[str, Path]:
    """Every module that a run may load, by its dotted name."""
    files = {path.stem: path for path in ROOT.glob("*.py")}
    for path in (ROOT / "models").rglob("*.py"):
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


def room_of(name: str) -> str | None:
    if name in MAINS:
        return "mains"
    for room, (modules, _) in ROOMS.items():
        for module in modules:
            if name == module or (module.endswith("*") and name.startswith(module[:-1])):
                return room
    return None


def faults(graph: dict[str, set[str]]) -> list[str]:
    """Imports that the table does not allow."""
    wrong = []
    for name, imported in sorted(graph.items()):
        own = room_of(name)
        for other in sorted(imported):
            room = room_of(other)
            if own == "mains":
                allowed = other not in MAINS and room not in NOT_FOR_MAINS
            else:
                assert own is not None
                allowed = room in (own, "errors", *ROOMS[own][1])
            if not allowed:
                wrong.append(f"{name} imports {other}")
    return wrong


def test_every_module_has_a_room():
    homeless = [name for name in FILES if room_of(name) is None]
    assert homeless == [], "give the new module a room in ROOMS"


def test_every_room_has_a_module():
    for room, (modules, _) in ROOMS.items():
        for module in modules:
            prefix = module.rstrip("*")
            assert any(n == module or (n.startswith(prefix) and n != prefix) for n in FILES), room


def test_imports_are_those_that_the_table_allows():
    graph = {name: project_imports(name) for name in FILES}
    assert faults(graph) == []
    assert sum(len(imported) for imported in graph.values()) > 80  # they were found at all


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("train_utils", "attack_utils"),
        ("train_utils", "pruning_utils"),
        ("main_downstream", "main_imp_pretrain"),
        ("main_downstream", "report_utils"),
        ("pruning_utils", "models"),
        ("models.zoo", "dataset"),
        ("cli_utils", "dist_utils"),
        ("errors", "log_utils"),
        ("report_page", "train_utils"),
        ("dataset", "models.zoo"),
        ("checkpoint_utils", "main_downstream"),
    ],
)
def test_the_table_refuses(name, other):
    assert faults({name: {other}}) == [f"{name} imports {other}"]


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


def test_only_checkpoint_utils_calls_torch_save_and_load():
    for name, tree in TREES.items():
        expected = {"torch.save", "torch.load"} if name == "checkpoint_utils" else set()
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
    tree = TREES["checkpoint_utils"]
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
    assert sorted(callers) == ["checkpoint_utils", "models.convert"]


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
