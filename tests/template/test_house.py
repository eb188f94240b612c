"""The generated project's house: imports run one way, nothing goes in a circle, rooms stay small."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2] / "<<cookiecutter.comp_name>>"

# From the top floor down; a room may import from its own floor's folder and from lower floors alone.
FLOORS = [
    {"01_folds", "02_train", "03_oof_predict", "04_pseudo_label", "05_stack", "06_submit", "commands"},
    {"cli"},
    {"kernel"},
    {"kaggle"},
    {"submission", "pseudo", "ensemble"},
    {"inference"},
    {"training"},
    {"losses"},
    {"data", "models"},
    {"report", "scoring"},
    {"tasks", "steps"},
    {
        "decisions",
        "metrics",
        "artifacts",
        "reading",
        "stamps",
        "configfile",
        "entry",
        "rawfiles",
        "owncode",
        "optimism",
        "locks",
        "machine",
        "tracking",
        "progress",
    },
    {"maps"},
    {"config"},
]


def room(path: Path) -> str:
    """A stage script, a module of src, or a folder of src."""
    inside = path.relative_to(PROJECT).with_suffix("").parts
    return inside[1] if inside[0] == "src" else inside[0]


def arrows() -> list[tuple[Path, str]]:
    """Every import of ours, lazy ones too: the file and the dotted module."""
    found = []
    for path in [*PROJECT.glob("0?_*.py"), *(PROJECT / "src").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("src."):
                inside = PROJECT.joinpath(*node.module.split("."))  # a package may hand on its own modules
                modules = {
                    f"{node.module}.{n.name}" for n in node.names if (inside / f"{n.name}.py").exists()
                }
                found += [(path, module) for module in modules or {node.module}]
            elif isinstance(node, ast.Import):
                found += [(path, name.name) for name in node.names if name.name.startswith("src.")]
    return found


def test_every_room_has_a_floor():
    rooms = {room(path) for path in [*PROJECT.glob("0?_*.py"), *(PROJECT / "src").rglob("*.py")]}
    assert rooms - {"__init__"} == set().union(*FLOORS)


def test_imports_run_one_way():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    up = [
        f"{path.relative_to(PROJECT)} imports {module}"
        for path, module in arrows()
        if floor[module.split(".")[1]] < floor[room(path)]
    ]
    assert up == []


def test_no_file_imports_itself_through_others():
    graph: dict[str, set[str]] = {}
    for path, module in arrows():
        name = ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
        graph.setdefault(name, set()).add(module)

    def reach(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for module in graph.get(todo.pop(), ()):
                if module not in seen:
                    seen.add(module)
                    todo.append(module)
        return seen

    assert [name for name in graph if name in reach(name)] == []


def test_the_config_imports_nothing_of_ours():
    arrows_out = [(path, module) for path, module in arrows() if room(path) == "config"]
    assert [module for _, module in arrows_out if not module.startswith("src.config")] == []


@pytest.mark.parametrize("path", sorted((PROJECT / "src").rglob("*.py")), ids=lambda path: path.name)
def test_a_module_fits_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


# One name, one thing. These few are a protocol: the same function for each file of a kind.
SHARED_NAMES = {
    "METRICS": "the metrics of each task",
    "Task": "the config's section, and what a task answers",
    "fit": "of each blender",
    "main": "of each command with arguments of its own",
    "run": "of each command that a config is enough for",
}


def test_a_public_name_means_one_thing():
    modules: dict[str, set[str]] = {}
    for path in (PROJECT / "src").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
            for name in names:
                modules.setdefault(name, set()).add(path.relative_to(PROJECT).as_posix())
    twice = {name: where for name, where in modules.items() if len(where) > 1 and not name.startswith("_")}
    assert {name: where for name, where in twice.items() if name not in SHARED_NAMES} == {}
    assert twice.keys() == SHARED_NAMES.keys()
