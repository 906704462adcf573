"""The map of the package: imports go down one list, no file stands in a circle, one class stands under every objective."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "kinject"
# Each line may import from the lines above it, as in docs/architecture.md; within a folder, from any file that does not
# import back.
LAYERS = (
    ("errors",),
    ("compat",),
    ("corruption", "data"),
    ("prompts",),
    ("models",),
    ("sampling",),
    ("evaluation",),
    ("hub",),
    ("trainers",),
    ("commands", "reproduction"),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(module: str) -> Iterator[str]:
    """The modules of the package that ``module`` names: in imports on top, in functions, for types, and in strings."""
    known = modules()
    for node in ast.walk(known[module]):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if (target := whole if whole in known else node.module) in known:
                    yield target
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("kinject."):
            named = node.value.partition(":")[0]
            while named and named not in known:
                named = named.rpartition(".")[0]
            if named and named != "kinject":
                yield named


def folder(module: str) -> str:
    """The folder or loose file under `kinject` that ``module`` belongs to; empty for `kinject` itself."""
    return (module.split(".") + [""])[1]


def test_every_folder_has_its_place() -> None:
    assert {folder(module) for module in modules()} - {""} == set(FLOOR)


def test_imports_go_down_one_list() -> None:
    upward = [
        f"{module} imports {target}"
        for module in modules()
        for target in imports(module)
        if folder(module) and folder(target) and folder(module) != folder(target)
        if FLOOR[folder(target)] >= FLOOR[folder(module)]
    ]
    assert upward == []


def test_no_circle_of_files() -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        if module != "kinject":  # its public names are imported when they are first used
            arrows[module] = {target for target in imports(module) if target not in (module, "kinject")}
    left = {module: set(targets) for module, targets in arrows.items()}
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


def test_one_class_stands_between_an_objective_and_trl() -> None:
    bases: dict[str, list[str]] = {}
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).split(".")[-1] for base in node.bases]
    for objective in ("MaskedSFTTrainer", "PlainSFTTrainer", "DiffusionSFTTrainer"):
        assert bases[objective] == ["DocumentSFTTrainer"]
    assert bases["DocumentSFTTrainer"] == ["SFTTrainer"]


def test_the_package_stays_small() -> None:
    advice = "two files that are always opened together want to be one (CONTRIBUTING.md)"
    assert len(modules()) <= 91, advice
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 7, advice
