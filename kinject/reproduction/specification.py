"""What to reproduce, read from YAML: methods, tables with their panels, claims and scales. Knows nothing of runs.

A file that does not have the expected fields is refused with its path, the field, and what was expected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kinject.data.knowledge import DIRECTIONS
from kinject.errors import ConfigurationError
from kinject.evaluation.results import SHOWN

SCRIPTS = {"ar": "ar_ft.py", "masked": "masked_ft.py", "diffusion": "dllm_ft.py"}
FAMILIES = ("autoregressive", "diffusion")
COMPARED = (*DIRECTIONS, "macro", "forgotten")
"""What claims compare: scores by direction, their mean, and the share of general questions that training lost."""


@dataclass(frozen=True)
class Method:
    """One row of a table: a recipe, the wordings it learns from, and settings that replace the recipe's.

    Attributes:
        label: As tables show it.
        recipe: `ar`, `masked` or `diffusion`: the script, and the name of a model's YAML file.
        paraphrases: `none`, `same_order` or `permute_order`.
        options: Settings that make it this method.
        steps: Factor of the recipe's number of steps.
        ratio: Its mask ratio in a figure over ratios.
    """

    label: str
    recipe: str
    paraphrases: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    steps: float = 1.0
    ratio: float | None = None

    @property
    def family(self) -> str:
        """The kind of model it trains."""
        return "diffusion" if self.recipe == "diffusion" else "autoregressive"


@dataclass(frozen=True)
class Model:
    """A model of a scale: the folder of its recipes, its kind, and its size for estimates.

    Attributes:
        recipes: Folder of its YAML files, within `recipes/`.
        family: `autoregressive` or `diffusion`.
        parameters: Weights that take part in matrix products, for estimates of FLOPs.
        label: As tables show it.
        published_as: The published model with which it is compared.
        files: Names of its YAML files, without `.yaml`, where they differ from those of the recipes.
        copies: How often each token is computed, for estimates: block diffusion has a clean copy beside the noisy one.
    """

    recipes: str
    family: str
    parameters: float
    label: str
    published_as: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    copies: float = 1.0


@dataclass(frozen=True)
class Dataset:
    """Documents with their questions at one scale.

    Attributes:
        label: As tables show it.
        options: Settings of every run on it; `{data_dir}` stands for `--data_dir`.
        wordings: Number of wordings of a document in each variant of `paraphrases` that exists.
        methods: Settings of single methods on it.
        tokens: Mean tokens of a document, for estimates without the documents.
        documents: Number of documents in one wording, for estimates without the documents.
    """

    label: str
    options: dict[str, Any]
    wordings: dict[str, int] = field(default_factory=lambda: {"none": 1})
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: float | None = None
    documents: int | None = None


@dataclass(frozen=True)
class Scale:
    """How large a reproduction is: its models and documents, and how runs are started.

    Attributes:
        models, datasets: By name.
        seeds: There is one run for each.
        seed_options: Settings that are set to the seed.
        options: Settings of every run.
        reading: The measure of claims and figures, `exact_match` or `paper`.
        weights: Which evaluation is reported: the `last`, or the `best` by the paper's macro mean.
        launch: `python`, or `accelerate` for several processes.
        accelerate_config: Configuration file of `accelerate`, relative to the checkout.
        cores: Processor cores that one run uses.
        device: The device for which hours are estimated: `name`, and `flops`, its floating-point operations a second.
        methods: The only methods of this scale; empty: all.
        without: Methods that this scale leaves out.
    """

    models: dict[str, Model]
    datasets: dict[str, Dataset]
    seeds: list[int]
    device: dict[str, Any]
    seed_options: list[str] = field(default_factory=lambda: ["seed"])
    options: dict[str, Any] = field(default_factory=dict)
    reading: str = "paper"
    weights: str = "last"
    launch: str = "python"
    accelerate_config: str | None = None
    cores: int = 1
    methods: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """The questions of one part of a table: a dataset, or one group of its questions."""

    label: str
    dataset: str
    group: str | None = None


@dataclass(frozen=True)
class Table:
    """One table with its figures and claims.

    Attributes:
        title: What it shows, and its place in the paper.
        methods: Its rows; the model before training is added where `before` is true.
        panels: Its parts; published figures have the same names.
        published: Name of the published figures to compare with.
        average: Whether rows are the mean over all models of a family (Table 1).
        cost: Whether tokens, FLOPs, seconds and memory of a step are shown (Table 10) instead of scores.
        fits: Whether the fit of accuracy over steps is shown (Table 7).
        claims: Names of the claims to check; the runs of their methods are added.
        figures: What to draw: `bars`, `ratios` or `steps`.
        options: Settings of every run of this table.
        scales: The scales at which it exists; empty: all.
    """

    title: str
    methods: list[str]
    panels: dict[str, Panel]
    before: bool = True
    published: str | None = None
    average: bool = False
    cost: bool = False
    fits: bool = False
    claims: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    scales: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One comparison: a method's score in a direction against a number, or against another method's score.

    Attributes:
        method, direction: The score that is checked; see `COMPARED`.
        at_least, at_most: The bound: a number, or the name of a method whose score in the same direction is the bound.
        plus: Added to the bound.
    """

    method: str
    direction: str
    at_least: float | str | None = None
    at_most: float | str | None = None
    plus: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A qualitative statement of the paper, which holds if all of its comparisons do."""

    says: str
    checks: list[Check]

    @property
    def methods(self) -> list[str]:
        """The methods whose runs it needs."""
        bounds = [bound for check in self.checks for bound in (check.method, check.at_least, check.at_most)]
        return list(dict.fromkeys(bound for bound in bounds if isinstance(bound, str)))


# Reading the YAML files.

Read = TypeVar("Read")


@dataclass(frozen=True)
class Recipes:
    """The content of `recipes/` for one scale, except the tables, which are read by name."""

    folder: Path
    scale_name: str
    scale: Scale
    methods: dict[str, Method]
    claims: dict[str, Claim]
    published: dict[str, Any]

    def table(self, name: str) -> Table:
        """The table called ``name``.

        Raises:
            ConfigurationError: there is none, it does not exist at this scale, or it names something unknown.
        """
        path = self.folder / "tables" / f"{name}.yaml"
        if not path.is_file():
            raise ConfigurationError(f"table '{name}': expected one of {', '.join(table_names(self.folder))}.")
        content = dict(load_yaml(path))
        content["panels"] = _each(Panel, content.get("panels"), path, "panels")
        table = make(Table, content, str(path))
        if table.scales and self.scale_name not in table.scales:
            raise ConfigurationError(
                f"table '{name}' does not exist at scale {self.scale_name}; use --scale {' or '.join(table.scales)}."
            )
        for what, names, known in (
            ("methods", table.methods, self.methods),
            ("claims", table.claims, self.claims),
            ("published", [table.published] if table.published else [], self.published),
        ):
            for each in names:
                if each not in known:
                    raise ConfigurationError(f"{path}: {what}: unknown '{each}'; expected one of {', '.join(known)}.")
        return table


def read_recipes(folder: Path, scale: str) -> Recipes:
    """Read everything but the tables from ``folder``.

    Raises:
        ConfigurationError: no recipes there, no such scale, or a file without the expected fields.
    """
    if not (folder / "methods.yaml").is_file():
        raise ConfigurationError(
            f"no recipes in {folder}: tables are reproduced by the scripts and YAML files of a checkout of kinject. "
            "Run in a checkout, or name its folder with --recipes PATH/recipes."
        )
    methods = _each(Method, load_yaml(folder / "methods.yaml"), folder / "methods.yaml")
    for name, method in methods.items():
        if method.recipe not in SCRIPTS:
            raise ConfigurationError(
                f"{folder / 'methods.yaml'}: {name}.recipe is '{method.recipe}'; expected {', '.join(SCRIPTS)}."
            )
    return Recipes(
        folder=folder,
        scale_name=scale,
        scale=_read_scale(folder, scale, methods),
        methods=methods,
        claims=_read_claims(folder / "claims.yaml", methods),
        published=dict(load_yaml(folder / "published.yaml")),
    )


def table_names(folder: Path) -> list[str]:
    """The names of all tables in ``folder``."""
    return sorted(path.stem for path in (folder / "tables").glob("*.yaml"))


def load_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping that ``path`` holds.

    Raises:
        ConfigurationError: there is no such file, or it is not a YAML mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{path}: expected fields with values, got {type(content).__name__}.")
    return content


def make(kind: type[Read], content: Any, where: str) -> Read:
    """An instance of the dataclass ``kind`` with the fields of ``content``.

    Raises:
        ConfigurationError: a field that is unknown, missing or of another type; names ``where``.
    """
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{where}: expected the fields {', '.join(fields)}, got {content!r}.")
    for name in content:
        if name not in fields:
            raise ConfigurationError(f"{where}: unknown field '{name}'; expected {', '.join(fields)}.")
    for name, each in fields.items():
        needed = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if name not in content and needed:
            raise ConfigurationError(f"{where}: the field '{name}' is missing.")
        if name in content and not _fits(content[name], str(each.type)):
            raise ConfigurationError(f"{where}: {name} is {content[name]!r}; expected {each.type}.")
    return kind(**content)


def _fits(value: Any, annotation: str) -> bool:
    """Whether ``value`` is of the outermost type that ``annotation`` names."""
    names = [part.split("[")[0].strip() for part in annotation.split("|")] if "[" not in annotation else []
    names = names or [annotation.split("[")[0]]
    types: dict[str, Any] = {"str": str, "float": (int, float), "int": int, "bool": bool, "dict": dict, "list": list}
    types["None"] = type(None)
    if isinstance(value, bool):
        return "bool" in names
    return any(isinstance(value, types[name]) for name in names)


def _each(kind: type[Read], content: Any, path: Path, where: str = "") -> dict[str, Read]:
    """A mapping of names to instances of ``kind``."""
    if not isinstance(content, Mapping) or not content:
        raise ConfigurationError(f"{path}: {where or 'it'} must name at least one {kind.__name__.lower()}.")
    prefix = f"{path}: {where}." if where else f"{path}: "
    return {str(name): make(kind, value, f"{prefix}{name}") for name, value in content.items()}


def _read_scale(folder: Path, name: str, methods: Mapping[str, Method]) -> Scale:
    path = folder / "scales" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in (folder / "scales").glob("*.yaml"))
        raise ConfigurationError(f"scale '{name}': expected one of {', '.join(known)}.")
    content = dict(load_yaml(path))
    content["models"] = _each(Model, content.get("models"), path, "models")
    content["datasets"] = _each(Dataset, content.get("datasets"), path, "datasets")
    scale = make(Scale, content, str(path))
    for field_name, value, choices in (
        ("reading", scale.reading, SHOWN),
        ("weights", scale.weights, ("last", "best")),
        ("launch", scale.launch, ("python", "accelerate")),
        *((f"models.{key}.family", model.family, FAMILIES) for key, model in scale.models.items()),
        *((f"models.{key}.files", each, tuple(SCRIPTS)) for key, model in scale.models.items() for each in model.files),
        *((f"methods.{each}", each, tuple(methods)) for each in scale.methods),
        *((f"without.{each}", each, tuple(methods)) for each in scale.without),
        *((f"datasets.{key}", each, tuple(methods)) for key, data in scale.datasets.items() for each in data.methods),
    ):
        if value not in choices:
            raise ConfigurationError(f"{path}: {field_name} is '{value}'; expected one of {', '.join(choices)}.")
    if not scale.seeds:
        raise ConfigurationError(f"{path}: seeds is empty; expected at least one whole number.")
    return scale


def _read_claims(path: Path, methods: Mapping[str, Method]) -> dict[str, Claim]:
    claims = {}
    for name, content in load_yaml(path).items():
        claim = make(Claim, content, f"{path}: {name}")
        checks = [make(Check, check, f"{path}: {name}, check {number}") for number, check in enumerate(claim.checks, 1)]
        claims[str(name)] = Claim(claim.says, checks)
        for number, check in enumerate(checks, 1):
            where = f"{path}: {name}, check {number}"
            if (check.at_least is None) == (check.at_most is None):
                raise ConfigurationError(f"{where}: expected either at_least or at_most.")
            if check.direction not in COMPARED:
                raise ConfigurationError(
                    f"{where}: direction is '{check.direction}'; expected one of {', '.join(COMPARED)}."
                )
        for method in claims[str(name)].methods:
            if method not in methods:
                raise ConfigurationError(f"{path}: {name}: unknown method '{method}'.")
    return claims
