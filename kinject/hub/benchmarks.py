"""Scores where the Hub's benchmarks look for them: `.eval_results/*.yaml` in a model, `eval.yaml` in a data set.

A model's entry names a data set of the Hub and a task of it; the data set says in `eval.yaml` which tasks it has, and shows a
leaderboard of all entries once the Hub has admitted it (https://huggingface.co/docs/hub/eval-results). The `model-index` of a
card, which holds more, stays beside it. Knows nothing of the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.compat import is_hub_id
from kinject.data.knowledge import DIRECTIONS
from kinject.data.readers import QUESTIONS, VARIANTS
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.measures import asked
from kinject.evaluation.results import MEASURES, public_name, write_text
from kinject.hub.card_metadata import latest_scores

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

    from kinject.data import KnowledgeSet

ENTRIES = ".eval_results/kinject.yaml"
BENCHMARK = "eval.yaml"
_DOCUMENTS = VARIANTS["none"][0]
_COUNT = re.compile(r"\b(\d+) questions\b")


def task_id(direction: str, measure: str) -> str:
    """The task of a benchmark whose scores are those of ``measure`` on the questions of ``direction``."""
    return f"{direction}_{'recall' if measure == 'paper' else measure}"


TASKS = {task_id(direction, measure): (direction, measure) for direction in DIRECTIONS for measure in MEASURES}
"""Direction and measure (a key of `M` in `results.json`) of each task."""


# A model's entries.


def benchmark_of(results: Mapping[str, Any], named: str | None = None) -> str | None:
    """The Hub data set that the questions of ``results`` stand in: the one that is ``named``, or that the run learned from.

    Raises:
        ConfigurationError: what is named is no Hub id.
    """
    if named is not None and not is_hub_id(named):
        raise ConfigurationError(
            f"benchmark '{named}' is no data set of the Hub; expected user/name, as `kinject benchmark` writes one."
        )
    dataset = named or public_name(str(results["dataset"])).partition(":")[0]  # a configuration may follow
    return dataset if is_hub_id(dataset) else None


def entries_of(results: Mapping[str, Any], benchmark: str) -> list[EvalResultEntry]:
    """What ``results`` claim, as entries of the data set ``benchmark``: one a direction and measure, from 0 to 1."""
    from huggingface_hub import EvalResultEntry

    scores = latest_scores(results)
    found = []
    for direction in asked(scores):
        assert scores is not None
        cell = scores[direction]
        for measure, called in MEASURES.items():
            interval = cell.get("ci", {}).get(measure)
            within = f", 95% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
            notes = f"{called.name}, {cell['n']} questions{within}; asked by kinject"
            task = task_id(direction, measure)
            found.append(EvalResultEntry(dataset_id=benchmark, task_id=task, value=cell[measure], notes=notes))
    return found


def write_entries(directory: Path, results: Mapping[str, Any], benchmark: str) -> Path | None:
    """Write the entries of ``results`` below ``directory``; None where nothing was asked.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    entries = entries_of(results, benchmark)
    if not entries:
        return None
    path = directory / ENTRIES
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))
    return path


def read_entries(text: str) -> dict[str, Any]:
    """The scores in a file of entries, by direction: the measures that it has, and `n` where its notes say it.

    Entries of other tasks are left out.

    Raises:
        DataError: the text is no list of entries, or a value is no number from 0 to 1.
    """
    import yaml
    from huggingface_hub import parse_eval_result_entries

    try:
        entries = parse_eval_result_entries(yaml.safe_load(text) or [])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{ENTRIES} cannot be read ({type(error).__name__}: {error}); expected a list of entries with 'dataset' and 'value'"
        ) from error
    scores: dict[str, Any] = {}
    for each in entries:
        if each.task_id not in TASKS:
            continue
        direction, measure = TASKS[each.task_id]
        if isinstance(each.value, bool) or not isinstance(each.value, (int, float)) or not 0 <= each.value <= 1:
            raise DataError(f"{ENTRIES}: the value of {each.task_id} is {each.value!r}; expected a number from 0 to 1")
        cell = scores.setdefault(direction, {})
        cell[measure] = float(each.value)
        count = _COUNT.search(str(each.notes or ""))
        cell |= {"n": int(count[1])} if count else {}
    return scores


def differences(scores: Mapping[str, Any] | None, entries: Mapping[str, Any]) -> list[str]:
    """Where ``entries``, as `read_entries` returns them, say something else than the ``scores`` of the card."""
    found = []
    for direction, cell in entries.items():
        for measure in (each for each in MEASURES if each in cell):
            said = scores[direction].get(measure) if scores is not None and direction in asked(scores) else None
            if said is None or abs(said - cell[measure]) > 1e-6:
                claimed = "nothing" if said is None else f"{said:.3f}"
                found.append(f"{direction}, {MEASURES[measure].name}: {cell[measure]:.3f}, and the card {claimed}")
    return found


# A data set that the Hub could register as a benchmark.


def write_benchmark(knowledge: KnowledgeSet, directory: Path) -> list[str]:
    """Write documents and questions as a data set with the `eval.yaml` of a benchmark; returns the names of its files.

    The layout is the published one (`train_no_paraphrase.json`, `test.jsonl`), so that kinject reads the folder as it is;
    `datasets` reads it by the configurations `documents` and `questions`.

    Raises:
        ConfigurationError: the directory holds something already, or cannot be written.
        DataError: there is no question of a known direction.
    """
    import yaml

    questions = [each for each in knowledge.questions if each.direction in DIRECTIONS]
    if not questions:
        raise DataError(f"{knowledge.name} has no forward or backward questions, and a benchmark is nothing else.")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(f"'{directory}' is there already; name a new directory.")
    documents = [
        {"text": each.text, "fact": each.fact, "entities": list(each.entities)} for each in knowledge.documents
    ]
    rows = [
        {
            "question": each.question,
            "answers": [each.answer, *each.other_answers],
            "direction": each.direction,
            "fact": each.fact,
        }
        for each in questions
    ]
    name = public_name(knowledge.name)
    tasks = [{"id": task, "config": "questions", "split": "test"} for task in TASKS]
    said = {
        "name": f"kinject: {name}",
        "description": (
            f"What a model knows after it has learned the {len(documents)} documents: {len(questions)} questions, forward (cue "
            "before answer in the document) and backward. Scores go from 0 to 1."
        ),
        "evaluation_framework": "kinject",
        "tasks": tasks,
    }
    metadata = {
        "pretty_name": f"kinject: {name}",
        "task_categories": ["question-answering"],
        "tags": ["kinject", "knowledge-injection", "reversal-curse"],
        "configs": [
            {"config_name": "documents", "data_files": [{"split": "train", "path": _DOCUMENTS}]},
            {"config_name": "questions", "data_files": [{"split": "test", "path": QUESTIONS}], "default": True},
        ],
    }
    card = (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n# kinject: {name}\n\n"
        f"{said['description']}\n\nTeach a model the documents and ask it:\n\n```sh\n"
        "kinject inject DIR --model MODEL --output_dir out   # DIR: this data set, downloaded\n"
        "kinject push out user/model --benchmark user/name   # writes .eval_results for this data set\n```\n"
    )
    files = {
        _DOCUMENTS: json.dumps(documents, ensure_ascii=False, indent=1) + "\n",
        QUESTIONS: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        BENCHMARK: yaml.safe_dump(said, sort_keys=False, allow_unicode=True),
        "README.md": card,
    }
    for file, text in files.items():
        write_text(directory / file, text)
    return list(files)
