"""The rooms of the house: imports run down the flow only, each heavy library lives in its room, files stay small."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_OURS = {".git", ".venv", "venv", "build", "hyperparameter_results", "visualizations", "wandb"}
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
THE_LOOP = "model_trainer.train"  # may be longer while it stays a straight line

# What of ours each room may import, besides itself.
FLOW = {
    "hyperparameter_config": set(),
    "tracking": set(),
    "experiment_tracker": {"tracking"},
    "data": set(),
    "dno": set(),
    "model_evaluation": {"data", "dno", "experiment_tracker"},
    "model_optimizer": set(),
    "model_checkpoint": {"experiment_tracker", "model_optimizer"},
    "model_step": {"data", "dno", "model_optimizer"},
    "model_trainer": {"data", "dno", "experiment_tracker", "model_checkpoint", "model_evaluation"}
    | {"model_optimizer", "model_step"},
    "search": {"hyperparameter_config", "experiment_tracker", "data", "dno", "model_checkpoint", "model_trainer"}
    | {"report"},
    "hyperparameter_search": {"search", "hyperparameter_config", "experiment_tracker", "data", "dno", "model_trainer"},
    "report": {"experiment_tracker", "hyperparameter_config"},
    "advanced_visualizations": {"report", "experiment_tracker", "hyperparameter_config"},
}
# Third-party libraries and the only places that may import them. `benchmarks` and `tests` are free.
HOMES = {
    "h5py": {"data.store"},
    "wandb": {"tracking", "experiment_tracker"},
    "optuna": {"search", "report"},
    "matplotlib": {"report", "advanced_visualizations"},
    "seaborn": {"report", "advanced_visualizations"},
    "plotly": {"report", "advanced_visualizations"},
    "pandas": {"report", "advanced_visualizations"},
    "torch": {
        "data.batches",
        "dno",
        "model_checkpoint",
        "model_trainer",
        "model_evaluation",
        "model_optimizer",
        "model_step",
        "search",
        "hyperparameter_search",
    },
}
# All of third parties that a room may import, where that is little.
ONLY = {
    "hyperparameter_config": set(),
    "dno": {"torch", "numpy"},
    "tracking": {"numpy", "wandb"},
    "experiment_tracker": {"numpy", "wandb"},
}
COMMANDS = ("hyperparameter_search", "advanced_visualizations", "data.generate")
HEAVY = {"torch", "optuna", "wandb", "pandas", "matplotlib", "seaborn", "plotly", "scipy", "sklearn", "h5py"}


def source_files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if not NOT_OURS & set(path.relative_to(ROOT).parts)]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in source_files()}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def lies_in(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def targets(module: str, node: ast.AST) -> list[str]:
    """Names that one import statement names: modules, and `module.attribute` for `from module import attribute`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def statements(module: str, *, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes of a module but those that only type checkers see."""
    waiting: list[ast.AST] = list(TREES[module].body)
    while waiting:
        node = waiting.pop()
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if is_for_type_checkers(node) or (is_function and not inside_functions):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


@functools.cache
def imports(module: str) -> set[str]:
    """Everything that a module imports, also inside functions."""
    return {name for node in statements(module, inside_functions=True) for name in targets(module, node)}


@functools.cache
def loaded_at_once(module: str) -> set[str]:
    """What importing a module imports at once."""
    return {name for node in statements(module, inside_functions=False) for name in targets(module, node)}


def with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def closure(module: str) -> dict[str, str]:
    """Every module and library that importing a module loads at once, with the module that asks for it."""
    found, waiting = {}, [(module, module)]
    while waiting:
        name, asked_by = waiting.pop()
        for part in with_parents(name):
            if part in found:
                continue
            found[part] = asked_by
            if part in MODULES:
                waiting += [(target, part) for target in loaded_at_once(part)]
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in FLOW])
def test_imports_run_down_the_flow(module: str) -> None:
    ours = {room(name) for name in MODULES} | set(FLOW)
    asked = {room(name) for name in imports(module)} & ours - {room(module)}
    assert asked <= FLOW[room(module)], f"{module} may not import {sorted(asked - FLOW[room(module)])}"


def test_every_room_has_its_place_in_the_flow() -> None:
    rooms = {room(name) for name in MODULES} - {"benchmarks", "tests"}
    assert rooms <= set(FLOW), f"say in FLOW what {sorted(rooms - set(FLOW))} may import"


@pytest.mark.parametrize("library", HOMES)
def test_library_lives_in_its_room(library: str) -> None:
    strangers = [
        module
        for module in MODULES
        if room(module) not in ("benchmarks", "tests")
        and library in {room(name) for name in imports(module)}
        and not lies_in(module, HOMES[library])
    ]
    assert strangers == []


@pytest.mark.parametrize("place", ONLY)
def test_room_imports_few_libraries(place: str) -> None:
    for module in (name for name in MODULES if room(name) == place):
        libraries = {room(name) for name in imports(module)} - sys.stdlib_module_names - {room(n) for n in MODULES}
        assert libraries <= ONLY[place], f"{module} imports {sorted(libraries - ONLY[place])}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    if command not in MODULES:
        pytest.skip(f"{command} does not exist yet")
    start = [sys.executable, "-X", "importtime", "-m", command, "--help"]
    end = subprocess.run(start, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in end.stderr.splitlines()}
    assert "argparse" in loaded and HEAVY & loaded == set()


def test_report_never_loads_torch() -> None:
    loaded = closure("report") if "report" in MODULES else {}
    for module in (name for name in MODULES if room(name) in ("report", "advanced_visualizations")):
        loaded |= closure(module)
    assert "torch" not in loaded


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_small(module: str) -> None:
    n_lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert n_lines <= MOST_LINES, f"{module} has {n_lines} lines"
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and f"{module}.{node.name}" != THE_LOOP:
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_LINES_OF_A_FUNCTION, f"{module}.{node.name} has {length} lines"


@pytest.mark.parametrize("module", MODULES)
def test_module_says_what_it_is(module: str) -> None:
    assert not TREES[module].body or ast.get_docstring(TREES[module]), f"{module} has no docstring"


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) != "tests"])
def test_signatures_are_annotated(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.returns is not None, f"{module}.{node.name} has no return type"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{module}.{node.name}: {', '.join(bare)} has no type"


def test_records_cross_the_door_of_the_tracker() -> None:
    strangers = [
        module
        for module in MODULES
        if room(module) not in ("tracking", "experiment_tracker", "tests")
        and "tracking" in {room(name) for name in imports(module)}
    ]
    assert strangers == [], "import experiment_tracker instead"
