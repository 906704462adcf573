"""The objectives, and all their options with name, type and help, read from the sources of the configuration classes.

Importing trl and transformers takes several seconds; parsing their three configuration files does not. So nothing is imported
here: `--help` and a mistyped name answer at once. What an option does is not known here.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kinject.compat import assigned, parsed, source_of
from kinject.errors import ConfigurationError, KinjectError, did_you_mean
from kinject.models.names import OWN_MODELS

if TYPE_CHECKING:
    from kinject.trainers import DocumentSFTConfig, DocumentSFTTrainer


# The objectives by name: which configuration and trainer each one runs.


@dataclass(frozen=True)
class Objective:
    """One objective: its configuration class, its trainer class, and the settings that make it what it is."""

    config: str
    trainer: str
    settings: dict[str, Any]

    def config_class(self) -> type[DocumentSFTConfig]:
        """The configuration class, imported on demand."""
        return _load(self.config)

    def trainer_class(self) -> type[DocumentSFTTrainer]:
        """The trainer class, imported on demand."""
        return _load(self.trainer)


_MASKED = ("kinject.trainers.masked_trainer:MaskedSFTConfig", "kinject.trainers.masked_trainer:MaskedSFTTrainer")
_DIFFUSION = (
    "kinject.trainers.diffusion_trainer:DiffusionSFTConfig",
    "kinject.trainers.diffusion_trainer:DiffusionSFTTrainer",
)
_PLAIN = ("kinject.trainers.plain_trainer:PlainSFTConfig", "kinject.trainers.plain_trainer:PlainSFTTrainer")

PRESETS = ("documents", "practice", "paper", "laptop", "one-gpu")
"""What `kinject inject --preset` may be: `documents` learns those alone; `practice` also practices answering, and is taken
unasked for documents and models where that was measured to be better; `paper` is the objective as published; the others are for
a kind of machine. Each is a file in `presets/`."""
_PRESETS = Path(__file__).parent / "presets"


def measured_settings(name: str, preset: str | None = None) -> dict[str, Any]:
    """The settings that `kinject inject` prefers for the objective ``name``. The configurations themselves default to the
    paper's objective and the libraries' schedule.

    Raises:
        ConfigurationError: there is no such ``preset``.
    """
    import yaml

    preset = preset or PRESETS[0]
    if preset not in PRESETS:
        raise ConfigurationError(
            f"preset is '{preset}'; expected one of {', '.join(PRESETS)}{did_you_mean(preset, PRESETS)}"
        )
    settings: dict[str, Any] = yaml.safe_load((_PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    masked = settings.pop("masked", {})
    return {**settings, **(masked if find_objective(name).config == _MASKED[0] else {})}


CHOSEN = (
    *("use_peft", "load_in_4bit", "num_train_epochs", "learning_rate", "max_length"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
)
"""Settings that `kinject inject` chooses by model, documents and device, where nobody gives them."""

OBJECTIVES = {
    "masked": Objective(*_MASKED, {}),
    "random_token": Objective(*_MASKED, {"corruption": "random"}),
    "ar": Objective(*_PLAIN, {"objective": "ar"}),
    "reverse": Objective(*_PLAIN, {"objective": "reverse"}),
    "diffusion": Objective(*_DIFFUSION, {}),
}


def find_objective(name: str) -> Objective:
    """The objective called ``name``.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in OBJECTIVES:
        close = get_close_matches(name, OBJECTIVES, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise ConfigurationError(f"unknown objective '{name}'; expected one of {', '.join(OBJECTIVES)}{hint}")
    return OBJECTIVES[name]


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


NOTES = (
    "--config FILE reads any of these options from YAML; the command line wins. The name of a flag alone means true, and "
    "--no_NAME means false where the default is true."
)

# By how an annotation or one side of a union starts; the first that fits.
METAVARS = {"dict": "JSON", "list": "STR ...", "str": "STR", "float": "FLOAT", "int": "INT", "bool": "{true,false}"}
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


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
        members: Values of the enumeration that it is limited to, if any.
    """

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...]
    owner: str
    members: tuple[str, ...] = ()

    @property
    def kinds(self) -> list[str]:
        """The sides of the annotation's union, such as `int` and `None`."""
        return re.findall(r"(?:[^\s|\[]|\[[^\]]*\])+", self.type.strip("'\""))

    @property
    def takes(self) -> Literal["flag", "one", "many"]:
        """How many words follow it: perhaps a yes or no, one value, or all up to the next option."""
        if "bool" in self.kinds and "str" not in self.kinds:
            return "flag"
        return "many" if any(kind.startswith("list") for kind in self.kinds) and "str" not in self.kinds else "one"

    def typed(self, words: Sequence[str]) -> Any:
        """The value of ``words`` of a command line.

        Raises:
            ConfigurationError: they have another form.
        """
        if any(kind.startswith("list") for kind in self.kinds) and (self.takes == "many" or len(words) > 1):
            return None if len(words) == 1 and self._unsets(words[0]) else [*words]
        return self._of_text(words[-1])

    def written(self, value: Any) -> Any:
        """The value that a YAML file gives.

        Raises:
            ConfigurationError: it has another form.
        """
        kinds = self.kinds
        if value is None and ("None" in kinds or self.default is None):
            return None
        if isinstance(value, str):
            return [value] if self.takes == "many" else self._of_text(value)
        if isinstance(value, bool):
            if "bool" in kinds or (value is False and "Literal[False]" in kinds):
                return value
            raise self._wrong(value, "YAML reads a bare yes, no, on or off as true or false: put it between quotes; ")
        if isinstance(value, (int, float)):
            if isinstance(value, float) and not math.isfinite(value):
                raise self._wrong(value)
            if "float" in kinds or ("int" in kinds and isinstance(value, int)):
                return value
            if "str" in kinds:
                return self._of_text(str(value))
            raise self._wrong(value)
        expected = "list" if isinstance(value, list) else "dict" if isinstance(value, dict) else None
        if expected and any(kind.startswith(expected) or (kind[0].isupper() and kind != "None") for kind in kinds):
            return value
        raise self._wrong(value)

    def _unsets(self, text: str) -> bool:
        """Whether ``text`` stands for no value at all."""
        return text in ("None", "null") and "None" in self.kinds

    def _of_text(self, text: str) -> Any:
        kinds = self.kinds
        if self._unsets(text):
            return None
        if any(kind.startswith("dict") for kind in kinds) and text.lstrip().startswith("{"):
            try:
                return json.loads(text)
            except ValueError as error:
                raise self._wrong(text, f"not valid JSON ({error}): ") from error
        known = self.choices or self.members
        if known and text not in known and not (self.takes == "flag" and text.lower() in TRUE + FALSE):
            raise ConfigurationError(
                f"{self.name} is '{text}'; expected one of {', '.join(known)}{did_you_mean(text, known)}"
            )
        if "str" in kinds:
            return text
        if self.takes == "flag":
            if text in known and text.lower() not in TRUE + FALSE:
                return text
            if text.lower() not in TRUE + FALSE:
                raise self._wrong(text)
            return text.lower() in TRUE
        for kind, convert in (("int", int), ("float", float)):
            if kind in kinds:
                try:
                    number = convert(text)
                except ValueError as error:
                    raise self._wrong(text) from error
                if not math.isfinite(number):
                    raise self._wrong(text)
                return number
        return text

    def _wrong(self, value: Any, why: str = "") -> ConfigurationError:
        words = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "list": "a list",
            "dict": "JSON",
        }
        shown = [next((said for kind, said in words.items() if each.startswith(kind)), "a text") for each in self.kinds]
        expected = " or ".join(
            dict.fromkeys(each for each, kind in zip(shown, self.kinds, strict=True) if kind != "None")
        )
        return ConfigurationError(f"{self.name} is {value!r}; {why}expected {expected}.")


MAIN_OPTIONS = {
    "what to learn": ("documents", "questions"),
    "the model": ("model_name_or_path", "use_peft"),
    "the objective": ("objective", "mask_ratio", "mask_unit", "normalize", "frame", "to_diffusion"),
    "training": ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "max_length", "frozen_modules"),
    "asking": ("evaluations", "max_new_tokens"),
    "beside the documents": ("practice", "rehearsal", "keep"),
    "where it goes": ("output_dir", "overwrite", "resume_from_checkpoint", "push_to_hub"),
}
"""What `--help` shows, by group: the twenty or so options that a first run may need. An objective shows those
of them that it has."""

# Help texts in place of the libraries' own, where kinject does something else.
_HELP = {
    "model_name_or_path": f"Model to train: {', '.join(OWN_MODELS)}, a directory with a model or adapter, or a Hub id; "
    "also as --model.",
    "output_dir": "Where the model, results.json, the plot and the model card go. Default: outputs/OBJECTIVE-DOCUMENTS.",
    "push_to_hub": "Publish the model when it is trained (--hub_model_id, --hub_private_repo), and checkpoints as "
    "--hub_strategy says.",
    "resume_from_checkpoint": "Go on from a checkpoint: its path, or true for the last whole one in output_dir.",
    "use_peft": "Train a LoRA adapter (--lora_r, --lora_alpha) instead of the model's own weights.",
}


def recipe_help(
    objective: str,
    prog: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    all_options: bool = False,
    other_objectives: bool = False,
) -> str:
    """The `--help` of a training recipe: the options of `MAIN_OPTIONS`, by group.

    Args:
        objective: Name in `kinject.commands.options.OBJECTIVES`; its settings show as defaults.
        prog: The command of the usage line. Default: the running script.
        settings: Further defaults that this command prefers to those of the classes.
        all_options: Whether to list every option, by the class that it belongs to, kinject's own first.
        other_objectives: Whether this command also trains the others, by `--objective`.

    Raises:
        ConfigurationError: unknown objective.
    """
    defaults = {**(settings or {}), **find_objective(objective).settings}
    options = training_options(objective)
    if other_objectives:
        defaults = {**dict.fromkeys(CHOSEN, "chosen, and printed"), **defaults}
        how = "How documents are learned; each has options of its own, which --help --objective NAME shows."
        named = Option("objective", "str", objective, how, tuple(OBJECTIVES), "kinject.InjectionArguments")
        what = (
            "Settings to begin with: the documents alone, with practice in answering beside them, the paper's recipe, or for "
            "a kind of machine. Default: practice for English documents and models of 50 million to a billion weights that all "
            "learn, else documents."
        )
        preset = Option("preset", "str", PRESETS[0], what, PRESETS, "kinject.InjectionArguments")
        ours = "kinject.InjectionArguments"
        quiet = Option("quiet", "bool", False, "Print nothing but errors and whether the result can be used.", (), ours)
        as_json = Option("json", "bool", False, "Print nothing but results.json, as one JSON document.", (), ours)
        options = {"preset": preset, **options, "objective": named, "quiet": quiet, "json": as_json}
    if all_options:
        groups = _by_owner(options.values())
    else:
        groups = {title: [options[name] for name in names if name in options] for title, names in MAIN_OPTIONS.items()}
        if other_objectives:
            groups["the objective"].insert(0, options["preset"])
            groups["where it goes"] += [options["quiet"], options["json"]]
    description = f"Train a model on documents, and ask it about them before, during and after. Objective: {objective}."
    listing = None if all_options else f"list all {len(options)} options and stop"
    return _format(description, groups, defaults, prog, listing)


def evaluate_help() -> str:
    """The `--help` of the evaluation recipe, as `recipe_help`."""
    options = class_options("kinject.commands.evaluate", "MeasurementArguments")
    return _format("Score a model on questions, without training.", _by_owner(options.values()), {}, None)


@cache
def training_options(objective: str) -> dict[str, Option]:
    """What a training recipe of ``objective`` takes.

    Raises:
        ConfigurationError: unknown objective.
    """
    return {**class_options("kinject.commands.inject", "InjectionArguments"), **trainer_options(objective)}


def trainer_options(objective: str) -> dict[str, Option]:
    """The settings of the model and of the trainer of ``objective``.

    Raises:
        ConfigurationError: unknown objective.
    """
    module, name = find_objective(objective).config.split(":")
    return {**class_options("trl", "ModelConfig"), **class_options(module, name)}


def all_training_options() -> dict[str, Option]:
    """What the recipes of all objectives take."""
    return {name: option for objective in OBJECTIVES for name, option in training_options(objective).items()}


def field_options(dataclass_type: Any) -> dict[str, Option]:
    """The options of a dataclass that is imported already; of a library's, what its source says."""
    module, name = dataclass_type.__module__, dataclass_type.__qualname__
    if module.split(".")[0] in ("kinject", "trl", "transformers"):
        return class_options(module, name)
    options = {}
    for field in dataclasses.fields(dataclass_type):
        written = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        metadata = field.metadata
        options[field.name] = Option(
            field.name, written, field.default, metadata.get("help", ""), tuple(metadata.get("choices", ())), name
        )
    return options


def class_options(module: str, name: str) -> dict[str, Option]:
    """The options of dataclass ``name`` of ``module`` by field name, inherited ones included.

    A field that is overridden is listed under the class that overrides it, with that class's default. Fields of a
    private class count as those of the class that extends it.
    """
    module, node = _find_class(module, name)
    owner = f"{module.split('.')[0]}.{name}"
    own = {option.name: _with_members(option, module) for option in _own_options(node, owner)}
    inherited: dict[str, Option] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id != "object":
            for option in class_options(module, base.id).values():
                private = option.owner.split(".")[1].startswith("_")
                inherited[option.name] = replace(option, owner=owner) if private else option
    return own | {key: option for key, option in inherited.items() if key not in own}


def _with_members(option: Option, module: str) -> Option:
    """``option`` with the values of the enumeration in its annotation."""
    for kind in option.kinds:
        if re.fullmatch(r"[A-Z]\w+", kind) and kind not in ("None", "Any"):
            _, node = _find_class(module, kind)
            if any(ast.unparse(base).endswith("Enum") for base in node.bases):
                values = [_literal(each.value) for each in node.body if isinstance(each, ast.Assign)]
                return replace(option, members=tuple(value for value in values if isinstance(value, str)))
    return option


def _format(
    description: str,
    groups: Mapping[str, Sequence[Option]],
    settings: Mapping[str, Any],
    prog: str | None,
    listing: str | None = None,
) -> str:
    """The help of a command; ``listing`` describes its `--all_options`, if it has that."""
    prog = prog or Path(sys.argv[0]).name
    width = min(shutil.get_terminal_size().columns, 120)
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--OPTION VALUE ...]",
        description=f"{description} {NOTES}",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=8, width=width),
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    if listing is not None:
        parser.add_argument("--all_options", action="store_true", help=listing)
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            default = settings.get(option.name, option.default)
            if isinstance(default, ast.expr):
                default = ast.unparse(default)
            shown = "" if default in (None, "", []) else f" [default: {default}]"
            text = (_HELP.get(option.name, option.help) + shown).replace("%%", "%").replace("%", "%%")
            group.add_argument(f"--{option.name}", metavar=_metavar(option), help=text)
    return parser.format_help().rstrip()


def _by_owner(options: Iterable[Option]) -> dict[str, list[Option]]:
    """``options`` by the class that they belong to."""
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.owner, []).append(option)
    return {owner: groups[owner] for owner in sorted(groups, key=_own_first)}


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


def paper_settings() -> dict[str, Any]:
    """What `recipe="paper"` sets, as `kinject.trainers.masked_trainer.PAPER` says in its source."""
    settings: dict[str, Any] = ast.literal_eval(assigned("kinject.trainers.masked_trainer", "PAPER"))
    return settings


def trackers() -> tuple[str, ...]:
    """The trackers that `--report_to` may name, as transformers lists them in its source."""
    known = assigned("transformers.integrations.integration_utils", "INTEGRATION_TO_CALLBACK")
    return tuple(str(_literal(key)) for key in known.keys) if isinstance(known, ast.Dict) else ()


def _find_class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """The definition of class ``name`` and its module, following the imports that bring it into ``module``."""
    path = source_of(module)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            original = next((alias.name for alias in node.names if name in (alias.asname, alias.name)), None)
            if original is not None:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                above = package[: len(package) - node.level + 1] if node.level else []
                return _find_class(".".join([*above, *filter(None, [node.module])]), original)
    raise KinjectError(f"{path}: no class {name}; this version of {module.split('.')[0]} is not supported.")
