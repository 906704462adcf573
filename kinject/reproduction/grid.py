"""From a table to its runs: every combination of model, dataset, method and seed, with its settings resolved.

A run is known by its settings, so that tables share runs, and a changed setting is another run. Whether what a finished
run left is still good also depends on kinject's code; see `fingerprint`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinject.errors import ConfigurationError
from kinject.reproduction.fingerprint import data_fingerprint
from kinject.reproduction.reading import Recipes, load_yaml
from kinject.reproduction.specification import SCRIPTS, Dataset, Method, Table

# Settings that change where a run lies or what it shows, not what it gives.
_NO_RESULT = ("output_dir", "report_to", "logging_steps", "disable_tqdm", "save_total_limit")
_FILES = ("questions", "wordings", "model_name_or_path")  # settings besides the documents that may name local files


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        model, dataset, method, seed: Where it stands in the grid.
        recipe: `ar`, `masked` or `diffusion`.
        options: All settings, those of the recipe's YAML file included.
        data: Fingerprint of local documents, questions, wordings and models, which may change under their name.
    """

    model: str
    dataset: str
    method: str
    seed: int
    recipe: str
    options: dict[str, Any] = field(hash=False)
    data: str = ""

    @property
    def key(self) -> str:
        """What identifies the run: a hash of its settings and documents."""
        deciding = {name: value for name, value in self.options.items() if name not in _NO_RESULT}
        if data_fingerprint(str(self.options["documents"])):  # known by their content, wherever they lie
            deciding["documents"] = Path(str(self.options["documents"])).name
        text = json.dumps([self.recipe, deciding, self.data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """A readable, unique name for its directory."""
        parts = (self.model, self.dataset, self.method, str(self.seed), self.key)
        return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)

    @property
    def label(self) -> str:
        """As progress and plans show it."""
        return f"{self.model} {self.dataset} {self.method} seed {self.seed}"

    @property
    def script(self) -> str:
        """The recipe's script, in `recipes/`."""
        return SCRIPTS[self.recipe]

    def scaled(self, factor: float) -> Run:
        """The same run with ``factor`` times as many steps."""
        options = _scaled(self.options, factor)
        return Run(self.model, self.dataset, self.method, self.seed, self.recipe, options, self.data)


def table_runs(recipes: Recipes, table: Table, overrides: Mapping[str, Any], data_dir: Path) -> list[Run]:
    """The runs that ``table`` and its claims need at the scale of ``recipes``, in the order of its rows.

    Args:
        recipes: What `recipes/` says.
        table: The table.
        overrides: Settings that win over all others.
        data_dir: Stands in for `{data_dir}`.

    Raises:
        ConfigurationError: no run is left, or the YAML file of a model and recipe is missing.
    """
    methods = list(table.methods)
    for claim in table.claims:
        methods += [name for name in recipes.claims[claim].methods if name not in methods]
    runs = [run for name in methods for run in method_runs(recipes, table, name, overrides, data_dir)]
    if not runs:
        raise ConfigurationError(f"'{table.title}' has no run at scale {recipes.scale_name}; see {recipes.folder}.")
    return runs


def method_runs(
    recipes: Recipes, table: Table, name: str, overrides: Mapping[str, Any], data_dir: Path
) -> Iterator[Run]:
    """The runs of one method on the datasets of ``table``; arguments as in `table_runs`."""
    scale, method = recipes.scale, recipes.methods[name]
    overrides = {**table.options, **overrides}
    datasets = dict.fromkeys(panel.dataset for panel in table.panels.values())
    if name in scale.without or (scale.methods and name not in scale.methods):
        return
    for model_name, model in scale.models.items():
        if model.family != method.family:
            continue
        for dataset_name in datasets:
            dataset = scale.datasets.get(dataset_name)
            if dataset is None or method.paraphrases not in dataset.wordings:
                continue
            base = load_yaml(recipes.folder / model.recipes / f"{method.recipe}.yaml")
            options = _resolved(base, scale.options, name, method, dataset, overrides, data_dir)
            others = [str(options[option]) for option in _FILES if options.get(option)]
            data = data_fingerprint(str(options["documents"]), *others)
            for seed in scale.seeds:
                seeded = {**options, **dict.fromkeys(scale.seed_options, seed)}
                yield Run(model_name, dataset_name, name, seed, method.recipe, seeded, data)


def _resolved(
    base: Mapping[str, Any],
    scale_options: Mapping[str, Any],
    name: str,
    method: Method,
    dataset: Dataset,
    overrides: Mapping[str, Any],
    data_dir: Path,
) -> dict[str, Any]:
    """All settings of a run but its seed; later ones win."""
    options = {
        **base,
        **scale_options,
        **dataset.options,
        **method.options,
        **dataset.methods.get(name, {}),
        **overrides,
        "paraphrases": method.paraphrases,
    }
    documents = str(options.get("documents", "")).replace("{data_dir}", str(data_dir))
    options["documents"] = documents
    if int(options.get("max_steps", -1)) <= 0:
        # As many times fewer epochs show as many samples.
        options["num_train_epochs"] = float(options["num_train_epochs"]) / dataset.wordings[method.paraphrases]
    return options if method.steps == 1 else _scaled(options, method.steps)


def _scaled(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """``options`` with ``factor`` times as many steps."""
    if int(options.get("max_steps", -1)) > 0:
        return {**options, "max_steps": max(1, round(options["max_steps"] * factor))}
    return {**options, "num_train_epochs": round(float(options["num_train_epochs"]) * factor, 4)}
