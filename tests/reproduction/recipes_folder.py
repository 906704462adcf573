"""A small `recipes/` of its own for tests: one dataset of fictional people, two methods and a claim, on nano-ar."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from kinject.reproduction.grid import Run
from kinject.reproduction.specification import Recipes, read_recipes

RECIPES = Path(__file__).parents[2] / "recipes"

FILES: dict[str, dict[str, Any]] = {
    "methods.yaml": {
        "ar": {"label": "AR", "recipe": "ar"},
        "ar+paraphrases": {"label": "AR + paraphrases", "recipe": "ar", "paraphrases": "same_order"},
        "masked": {"label": "masked", "recipe": "masked"},
        "diffusion": {"label": "diffusion", "recipe": "diffusion"},
    },
    "claims.yaml": {
        "masked_helps": {
            "says": "Masked fine-tuning answers backward questions.",
            "checks": [{"method": "masked", "direction": "backward", "at_least": "ar", "plus": 0.2}],
        }
    },
    "published.yaml": {"table5": {"Llama-3.2-3B": {"ar": {"people": [0.2, 0.1]}}}},
    "scales/nano.yaml": {
        "models": {
            "nano-ar": {
                "recipes": "nano",
                "family": "autoregressive",
                "parameters": 1e6,
                "label": "nano-ar",
                "published_as": "Llama-3.2-3B",
            }
        },
        "datasets": {
            "people": {
                "label": "People",
                "options": {"documents": "fictional:nano", "size": 2},
                "wordings": {"none": 1, "same_order": 8},
            }
        },
        "options": {"num_train_epochs": 4, "evaluations": 2, "save_strategy": "steps", "save_steps": 1},
        "seeds": [0],
        "seed_options": ["seed", "world_seed"],
        "reading": "exact_match",
        "cores": 1,
        "device": {"name": "one core", "flops": 1e10},
    },
    "tables/table5.yaml": {
        "title": "People (Table 5)",
        "methods": ["ar", "ar+paraphrases"],
        "panels": {"people": {"label": "People", "dataset": "people"}},
        "published": "table5",
        "claims": ["masked_helps"],
        "figures": ["bars"],
    },
}


def write_recipes(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The folder, with ``changes`` to single fields, given as ``file:field.field``."""
    for name, content in FILES.items():
        content = yaml.safe_load(yaml.safe_dump(content))
        for place, value in (changes or {}).items():
            file, _, fields = place.partition(":")
            if file == name:
                *outer, last = fields.split(".") if fields else [""]
                target = content
                for field in outer:
                    target = target[int(field)] if isinstance(target, list) else target[field]
                target[last] = value
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    shutil.copytree(
        RECIPES / "nano", folder / "nano", ignore=shutil.ignore_patterns("*.py", "__pycache__"), dirs_exist_ok=True
    )
    for script in ("ar_ft.py", "masked_ft.py", "dllm_ft.py"):
        shutil.copy(RECIPES / script, folder)
    return folder


def small_recipes(folder: Path, changes: dict[str, Any] | None = None) -> Recipes:
    """The same, read."""
    return read_recipes(write_recipes(folder, changes), "nano")


def scores(forward: float, backward: float, groups: dict[str, float] | None = None) -> dict[str, Any]:
    """Scores as `results.json` holds them; recall is exact match and a tenth more."""

    def cell(value: float) -> dict[str, Any]:
        interval = [max(0.0, value - 0.05), min(1.0, value + 0.05)]
        recall = min(1.0, value + 0.1)
        measures = {"paper": recall, "exact_match": value, "f1": value}
        return {**measures, "n": 10, "ci": dict.fromkeys(measures, interval)}

    return {
        "forward": cell(forward),
        "backward": cell(backward),
        "groups": {name: cell(value) for name, value in (groups or {}).items()},
    }


def results(run: Run, forward: float, backward: float, **extra: Any) -> tuple[Run, dict[str, Any]]:
    """A run with what it found, last and (better) in the middle."""
    train = {"steps": 10, "tokens": 1000, "flops": 5e9, "seconds": 4.0, "peak_memory_bytes": 2_000_000_000}
    cost = {name: train[name] for name in ("tokens", "flops", "seconds")}
    history = [
        {"step": 5, "epoch": 1.0, **cost, **scores(min(1.0, forward + 0.1), backward)},
        {"step": 10, "epoch": 2.0, **cost, **scores(forward, backward)},
    ]
    found = {"before": scores(0.0, 0.0), "after": scores(forward, backward), "history": history, "train": train}
    return run, {**found, **extra}
