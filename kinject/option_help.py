"""The complete `--help` of a recipe, read out of the sources of its dataclasses.

Importing trl and transformers takes several seconds; parsing their three configuration files does not. So nothing is
imported here: fields, types, defaults and help texts are what the class definitions say, base classes included.
"""

from __future__ import annotations

import argparse
import ast
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kinject.errors import KinjectError
from kinject.objectives import find_objective

NOTES = (
    "--config FILE reads any of these options from YAML; the command line wins. The name of a flag alone means true, and "
    "--no_NAME means false where the default is true."
)

# By how an annotation or one side of a union starts; the first that fits.
METAVARS = {"dict": "JSON", "list": "STR ...", "str": "STR", "float": "FLOAT", "int": "INT", "bool": "{true,false}"}


@dataclass(frozen=True)
class Option:
    """One field of a configuration dataclass, as its source shows it.

    Args:
        name: Field name, and option name without the dashes.
        type: Annotation, as written.
        default: Default value; for one that is no literal, its `ast.expr`.
        help: Help text.
        choices: Values it is limited to, if any.
        owner: Public class that it is listed under, as `package.Class`.
    """

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...]
    owner: str


def recipe_help(objective: str, prog: str | None = None, settings: Mapping[str, Any] | None = None) -> str:
    """The `--help` of a training recipe: every option by class, kinject's own first.

    Args:
        objective: Name in `kinject.objectives.OBJECTIVES`; its settings show as defaults.
        prog: The command of the usage line. Default: the running script.
        settings: Further defaults that this command prefers to those of the classes.

    Raises:
        ConfigurationError: unknown objective.
    """
    chosen = find_objective(objective)
    module, name = chosen.config.split(":")
    classes = [("kinject.injection", "InjectionArguments"), ("trl", "ModelConfig"), (module, name)]
    defaults = {**(settings or {}), **chosen.settings}
    return _format(f"Train a model on documents. Objective: {objective}.", classes, defaults, prog)


def evaluate_help(prog: str | None = None) -> str:
    """The `--help` of the evaluation recipe, as `recipe_help`."""
    return _format(
        "Score a model on questions, without training.", [("kinject.measurement", "MeasurementArguments")], {}, prog
    )


def class_options(module: str, name: str) -> dict[str, Option]:
    """The options of dataclass ``name`` of ``module`` by field name, inherited ones included.

    A field that is overridden is listed under the class that overrides it, with that class's default. Fields of a
    private class count as those of the class that extends it.
    """
    module, node = _find_class(module, name)
    owner = f"{module.split('.')[0]}.{name}"
    own = {option.name: option for option in _own_options(node, owner)}
    inherited: dict[str, Option] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id != "object":
            for option in class_options(module, base.id).values():
                private = option.owner.split(".")[1].startswith("_")
                inherited[option.name] = replace(option, owner=owner) if private else option
    return own | {key: option for key, option in inherited.items() if key not in own}


def _format(description: str, classes: Sequence[tuple[str, str]], settings: Mapping[str, Any], prog: str | None) -> str:
    prog = prog or Path(sys.argv[0]).name
    width = min(shutil.get_terminal_size().columns, 120)
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--OPTION VALUE ...]",
        description=f"{description} {NOTES}",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=8, width=width),
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    options = [option for module, name in classes for option in class_options(module, name).values()]
    owners = sorted(dict.fromkeys(option.owner for option in options), key=_own_first)
    groups = {owner: parser.add_argument_group(owner) for owner in owners}
    for option in options:
        default = settings.get(option.name, option.default)
        if isinstance(default, ast.expr):
            default = ast.unparse(default)
        shown = "" if default in (None, "", []) else f" [default: {default}]"
        text = (option.help + shown).replace("%%", "%").replace("%", "%%")
        groups[option.owner].add_argument(f"--{option.name}", metavar=_metavar(option), help=text)
    return parser.format_help().rstrip()


def _own_first(owner: str) -> tuple[bool, bool]:
    return not owner.startswith("kinject."), owner == "transformers.TrainingArguments"


def _metavar(option: Option) -> str:
    """What to type after the option: `INT`, `STR ...`, `{a,b}`."""
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    kinds = [part.strip() for part in option.type.split("|")]
    for start, shown in METAVARS.items():
        if any(kind.startswith(start) for kind in kinds):
            return shown
    return "STR"


def _own_options(node: ast.ClassDef, owner: str) -> Iterator[Option]:
    assigned = {  # helper names of the class body; of several assignments the last holds
        target.id: statement.value
        for statement in ast.walk(node)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name, annotation, value = statement.target.id, ast.unparse(statement.annotation), statement.value
        keywords: dict[str, ast.expr] = {}
        if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "field":
            keywords = {keyword.arg: keyword.value for keyword in value.keywords if keyword.arg}
            value = keywords.get("default", keywords.get("default_factory"))
        if annotation.startswith("ClassVar") or _literal(keywords.get("init")) is False:
            continue
        if isinstance(value, ast.Name):
            value = assigned.get(value.id, value)
        default = [] if isinstance(value, ast.Name) and value.id == "list" else _literal(value)
        metadata = keywords.get("metadata")
        items = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
        said = {_literal(key): _literal(text) for key, text in items if key is not None}
        choices = said["choices"] if isinstance(said.get("choices"), list) else []
        yield Option(name, annotation, default, str(said.get("help", "")), tuple(choices), owner)


def _literal(value: ast.expr | None) -> Any:
    """The value of a literal expression; the expression itself if it is none."""
    if value is None:
        return None
    try:
        return ast.literal_eval(value)
    except ValueError:
        return value


def _find_class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """The definition of class ``name`` and its module, following the imports that bring it into ``module``."""
    path = _source(module)
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            original = next((alias.name for alias in node.names if name in (alias.asname, alias.name)), None)
            if original is not None:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                above = package[: len(package) - node.level + 1] if node.level else []
                return _find_class(".".join([*above, *filter(None, [node.module])]), original)
    raise KinjectError(f"{path}: no class {name}; this version of {module.split('.')[0]} is not supported.")


def _source(module: str) -> Path:
    """The file of ``module``. Only its top-level package is looked up, which imports nothing."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise KinjectError(f"the package {top} is not installed; run pip install kinject in this environment.")
    path = Path(spec.submodule_search_locations[0]).joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
