"""What is to be reproduced, as the YAML files in `recipes/` say it: methods, scales, tables and claims."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCRIPTS = {"ar": "ar_ft.py", "masked": "masked_ft.py", "diffusion": "dllm_ft.py"}
FAMILIES = ("autoregressive", "diffusion")
DIRECTIONS = ("forward", "backward")
COMPARED = (*DIRECTIONS, "macro", "forgotten")
"""What claims compare: scores, their mean in both directions, and the share of general questions that training cost."""


@dataclass(frozen=True)
class Method:
    """One row of a table: a recipe, the wordings it learns from, and settings on top of the recipe's.

    Attributes:
        label: As tables show it.
        recipe: `ar`, `masked` or `diffusion`: the script, and the name of a model's YAML file.
        paraphrases: `none`, `same_order` or `permute_order`.
        options: Settings that make it this method.
        steps: How many times the steps of the recipe it takes.
        ratio: The mask ratio that a figure over ratios puts it at.
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
        parameters: Weights that are multiplied, for estimates of FLOPs.
        label: As tables show it.
        published_as: The published model that it stands beside.
    """

    recipes: str
    family: str
    parameters: float
    label: str
    published_as: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Documents with their questions at one scale.

    Attributes:
        label: As tables show it.
        options: Settings of every run on it; `{data_dir}` stands for `--data_dir`.
        wordings: How many wordings of a document each variant of `paraphrases` has. Others do not exist.
        methods: Settings of single methods on it.
        tokens: Mean tokens of a document, for estimates where the documents are not at hand.
        documents: Number of documents in one wording, for the same.
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
        seeds: One run each.
        seed_options: Settings that take the seed.
        options: Settings of every run.
        reading: The measure of claims and figures, `exact_match` or `paper`.
        weights: Which evaluation is reported: the `last`, or the `best` by the paper's macro mean.
        launch: `python`, or `accelerate` for several processes.
        accelerate_config: Configuration file of the latter, relative to the checkout.
        cores: Processor cores that one run makes use of.
        device: What hours are estimated for: `name`, and the floating-point operations a second that it gives.
        methods: The only methods of this scale; empty: all.
        without: Methods that it leaves out.
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
        title: What it shows, and where it stands in the paper.
        methods: Its rows; `before`, the model before training, is added where `before` is true.
        panels: Its parts, the names of which published figures go by.
        published: Name of the published figures to compare with.
        average: Whether rows are the mean over all models of a family (Table 1).
        cost: Whether tokens, FLOPs, seconds and memory of a step are shown (Table 10) instead of scores.
        fits: Whether the fit of accuracy over steps is shown (Table 7).
        claims: Names of the claims to check; their methods join the grid.
        figures: What to draw: `bars`, `ratios` or `steps`.
        options: Settings of every run of this table.
        scales: The scales that it exists at.
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
        at_least, at_most: A number, or the name of a method whose score in the same direction is meant.
        plus: Added to that score.
    """

    method: str
    direction: str
    at_least: float | str | None = None
    at_most: float | str | None = None
    plus: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A qualitative statement of the paper, and the comparisons that it stands or falls with."""

    says: str
    checks: list[Check]

    @property
    def methods(self) -> list[str]:
        """The methods that it needs runs of."""
        bounds = [bound for check in self.checks for bound in (check.method, check.at_least, check.at_most)]
        return list(dict.fromkeys(bound for bound in bounds if isinstance(bound, str)))
