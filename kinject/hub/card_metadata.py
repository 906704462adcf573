"""The metadata of an eval card: scores as the Hub's evaluation results, the model's kind, base and license. No card text.

The model's scores go into ``model-index``, which ``huggingface_hub`` reads as ``EvalResult``. What has no place there (scores
before training, their history, settings and cost) goes under the key ``kinject``. Directions without questions are left out,
since zeros would read as scores. Foreign text is made safe here, for the card's text as well. The same scores are also written
for the Hub's benchmarks.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.compat import is_hub_id
from kinject.data.knowledge import DIRECTIONS
from kinject.data.worlds.paper import QUESTIONS, VARIANTS
from kinject.errors import SECRET_VALUE, ConfigurationError, DataError
from kinject.evaluation.measures import OTHER_WORDS, asked, score_answers
from kinject.evaluation.results import MEASURES, public_config, public_name, validate_results, write_text
from kinject.models.adapters import SETTINGS_FILE
from kinject.models.names import EMBEDDED_HUB_ID, EMBEDDED_MODEL, NANO_MODELS, said_by_hub

if TYPE_CHECKING:
    from huggingface_hub import CardData, EvalResult, EvalResultEntry, ModelCardData

    from kinject.data import KnowledgeSet


# Foreign text, made safe for a model card: Markdown and HTML in it are shown as text.

_REMOVED = "[removed]"
# Characters that change the order in which text is shown, and the byte order mark, which could hide the metadata's first line.
_UNSEEN = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\ufeff" + "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
)


def single_line(text: str, longest: int = 200) -> str:
    """``text`` on one line, without control characters and access tokens, cut at ``longest`` characters."""
    line = SECRET_VALUE.sub(_REMOVED, _visible(" ".join(text.split())))
    return line if len(line) <= longest else line[: longest - 1] + "\u2026"


def code(text: str, longest: int = 200) -> str:
    """``text`` as a code span."""
    line = single_line(text, longest) or " "
    fence = "`" * (_longest_run(line) + 1)
    # A code span that begins or ends with a backtick needs a space there, which is not shown.
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"


def fenced(text: str, language: str = "") -> str:
    """``text`` as a block of code, with its own lines."""
    lines = "\n".join(
        map(_visible, SECRET_VALUE.sub(_REMOVED, text).replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    )
    fence = "`" * max(3, _longest_run(lines) + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def slug(text: str, longest: int = 80) -> str:
    """``text`` in ASCII letters, digits, hyphens, and dots between digits, so that it is neither markup nor an address."""
    hyphenated = re.sub(r"(?!(?<=\d)\.(?=\d))[^A-Za-z0-9]", "-", text)
    return re.sub("-{2,}", "-", hyphenated)[:longest].strip("-.") or "model"


def redacted(text: str) -> str:
    """``text`` without access tokens, and encodable."""
    return SECRET_VALUE.sub(_REMOVED, text).encode("utf-8", "replace").decode("utf-8")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _visible(line: str) -> str:
    return "".join(
        character
        for character in line
        if character == "\t" or not (character in _UNSEEN or unicodedata.category(character) in ("Cc", "Cs"))
    )


# The model in a directory: adapter or whole, its base, autoregressive or diffusion, its license.


@dataclass(frozen=True)
class Holding:
    """The model that a directory holds.

    Attributes:
        is_adapter: Whether it holds an adapter, not a whole model.
        is_merged: Whether an adapter was trained and then merged into the weights.
        is_diffusion: Whether it is a masked diffusion model.
        base: The base model as others can name it: a Hub id, or a model that comes with kinject; None for a local one.
        base_name: The name of the base in the card.
        has_chat_template: Whether questions are asked in the turns of a chat.
        license: The card's metadata on the base's license; empty if unknown.
    """

    is_adapter: bool
    is_merged: bool
    is_diffusion: bool
    base: str | None
    base_name: str
    has_chat_template: bool
    license: dict[str, str]

    @property
    def library(self) -> str:
        """The library that loads it, as the Hub names it."""
        if self.is_diffusion or (self.is_adapter and self.base in NANO_MODELS):
            return "kinject"
        return "peft" if self.is_adapter else "transformers"

    @property
    def tags(self) -> list[str]:
        """The tags of the card that follow from the fields."""
        found = (("peft", self.is_adapter), ("merged-adapter", self.is_merged), ("masked-diffusion", self.is_diffusion))
        return [tag for tag, holds in found if holds]


def holding_of(directory: Path, results: Mapping[str, Any]) -> Holding:
    """The model that ``directory`` holds, or will hold according to ``results`` if its weights are not written yet."""
    adapter, config = (_read(directory / file) for file in ("adapter_config.json", "config.json"))
    trained_adapter = bool(results["config"].get("use_peft"))
    is_adapter = bool(adapter) or (trained_adapter and not config)
    base = _base(public_name(str(adapter.get("base_model_name_or_path") or results["model"])), results)
    template = (directory / "chat_template.jinja").is_file() or "chat_template" in _read(
        directory / "tokenizer_config.json"
    )
    return Holding(
        is_adapter=is_adapter,
        is_merged=trained_adapter and not is_adapter,
        is_diffusion=results["objective"] == "diffusion"
        or (directory / SETTINGS_FILE).is_file()
        or config.get("is_causal") is False
        or config.get("model_type") in ("llada", "sdar", "sdar_moe", "llada2_moe"),
        base=base,
        base_name=base or single_line(public_name(results["model"])),
        has_chat_template=template or not (directory / "tokenizer_config.json").is_file(),
        license=base_license(base) if base is not None else {},
    )


def _base(name: str, results: Mapping[str, Any]) -> str | None:
    """``name`` as others can load it, or None for a directory on the machine that trained."""
    if results.get("model_source") == "directory" and name.split("/")[-1] == results["model"].split("/")[-1]:
        return None
    if name == EMBEDDED_MODEL:
        return EMBEDDED_HUB_ID
    return name if name in NANO_MODELS or is_hub_id(name) else None


def _read(file: Path) -> dict[str, Any]:
    """The content of a JSON file, or nothing where there is none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# The license of a base model: known for the models that come with kinject, else from its card in the cache or on the Hub.

_KNOWN = {EMBEDDED_HUB_ID: "apache-2.0", **dict.fromkeys(NANO_MODELS, "apache-2.0")}


def base_license(base: str) -> dict[str, str]:
    """``license``, and ``license_name`` and ``license_link`` for a license of its own; empty if unknown."""
    if base in _KNOWN:
        return {"license": _KNOWN[base]}
    return dict(_from_card(base))


@lru_cache(maxsize=64)  # a card is written at every checkpoint
def _from_card(base: str) -> tuple[tuple[str, str], ...]:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    text = _cached_card(base)
    data: CardData | None
    if text is None:
        info = said_by_hub(base)
        data = None if info is None else info.card_data
    else:
        try:
            data = ModelCard(text, ignore_metadata_errors=True).data
        except (ValueError, YAMLError):  # its metadata cannot be read
            data = None
    found = {name: data.get(name) if data else None for name in ("license", "license_name", "license_link")}
    plain = {name: value for name, value in found.items() if isinstance(value, str) and len(value) <= 200}
    return tuple(plain.items()) if "license" in plain else ()


def _cached_card(base: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, "README.md")
    try:
        return Path(cached).read_text(encoding="utf-8", errors="replace") if isinstance(cached, str) else None
    except OSError:
        return None


KEY = "kinject"
_NOTHING_ASKED: dict[str, Any] = {direction: score_answers((), ())[direction] for direction in DIRECTIONS}
_TASK = "question-answering"
_COPIED = ("documents", "facts", "selection", "selected", "train")
_ENTRY = ("step", "epoch", "tokens", "flops", "seconds", "loss")


def card_data(results: Mapping[str, Any], holding: Holding, tags: Sequence[str] = ()) -> ModelCardData:
    """The metadata of the card of a run."""
    from huggingface_hub import ModelCardData

    fields: dict[str, Any] = {**holding.license, KEY: _run(results)}
    hub_dataset = _hub_dataset(results)
    if holding.base is not None:
        fields["base_model_relation"] = "adapter" if holding.is_adapter else "finetune"
    return ModelCardData(
        model_name=model_name(results),
        base_model=holding.base,
        datasets=[hub_dataset] if hub_dataset else None,
        library_name=holding.library,
        pipeline_tag="text-generation",
        tags=[KEY, "knowledge-injection", "reversal-curse", slug(results["objective"]), *holding.tags, *tags],
        eval_results=_eval_results(results) or None,
        **fields,
    )


def model_name(results: Mapping[str, Any]) -> str:
    """The model's name in the card: the base's own name and the objective."""
    return f"{slug(public_name(results['model']).split('/')[-1])}-{slug(results['objective'])}"


def latest_scores(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The scores that the card claims: those after training, or of the last evaluation while it goes on."""
    return results["after"] or (results["history"][-1] if results["history"] else None)


def results_of(data: CardData) -> dict[str, Any]:
    """The results from which `card_data` was made, without groups, answers and the history's intervals.

    Raises:
        DataError: the card is not one of kinject's, or a value in it does not fit the schema.
    """
    run = data.get(KEY)
    if not isinstance(run, Mapping):
        raise DataError(
            f"the card's metadata has no '{KEY}': it is no eval card of kinject, and claims no scores to read"
        )
    results: dict[str, Any] = {"versions": {}, **run}
    finished = results.pop("finished", False)
    claimed = _claimed(data.get("eval_results") or [])
    results["after"] = claimed if finished else None
    results["before"] = _with_unasked(run.get("before"))
    if isinstance(run.get("history"), list):
        results["history"] = [_with_unasked(entry) for entry in run["history"]]
    validate_results(results, "the card's metadata")
    return results


def _hub_dataset(results: Mapping[str, Any]) -> str | None:
    """The data set's Hub id, or None: the Hub refuses cards that name anything else."""
    name = public_name(results["dataset"]).partition(":")[0]  # a configuration may follow
    return name if is_hub_id(name) else None


def _run(results: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: single_line(str(results[name])) for name in ("objective", "paraphrases")}
    named |= {name: single_line(public_name(results[name])) for name in ("model", "dataset")}
    before = results["before"]
    retention = {
        moment: {name: value for name, value in measured.items() if isinstance(value, (int, float))}
        for moment, measured in (results.get("retention") or {}).items()
    }
    return {
        "schema": results["schema"],
        **named,
        "seed": results["seed"],
        **{name: results[name] for name in _COPIED if results.get(name) is not None},
        **({"retention": retention} if retention else {}),
        "config": public_config(results["config"]),
        "finished": results["after"] is not None,
        "before": {name: before[name] for name in asked(before)} or None,
        "history": [_entry(entry) for entry in results["history"] if asked(entry)],
    }


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    scores = {name: {each: entry[name][each] for each in (*MEASURES, "n")} for name in asked(entry)}
    return {**{name: entry[name] for name in _ENTRY if entry.get(name) is not None}, **scores}


def _eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    scores = latest_scores(results)
    dataset = single_line(public_name(results["dataset"]))
    found = []
    for direction in DIRECTIONS:
        cell: Mapping[str, Any] = scores[direction] if scores is not None else {"n": 0}
        for measure, called in MEASURES.items() if cell["n"] else ():
            name = f"{called.name[0].upper()}{called.name[1:]}" + (
                ", as in arXiv 2510.09885" if measure == "paper" else ""
            )
            interval = cell.get("ci", {}).get(measure)
            other = {OTHER_WORDS: cell[OTHER_WORDS]} if measure == "paper" and OTHER_WORDS in cell else {}
            found.append(
                EvalResult(
                    task_type=_TASK,
                    task_name=f"{direction.capitalize()} questions",
                    dataset_type=_hub_dataset(results) or slug(dataset),
                    dataset_name=dataset,
                    dataset_config=direction,
                    metric_type=called.metric,
                    metric_name=f"{name}, in the words of other scripts" if other else name,
                    metric_value=cell[measure],
                    metric_args={
                        "reading": measure,
                        "n": cell["n"],
                        **other,
                        **({"ci": list(interval)} if interval else {}),
                    },
                )
            )
    return found


def _with_unasked(scores: Any) -> Any:
    """``scores`` with empty cells for directions that the card leaves out, so that they can be validated."""
    return {**_NOTHING_ASKED, **scores} if isinstance(scores, Mapping) else scores


def _claimed(eval_results: Sequence[EvalResult]) -> dict[str, Any]:
    claimed: dict[str, dict[str, Any]] = {direction: {} for direction in DIRECTIONS}
    for each in eval_results:
        args = each.metric_args or {}
        if each.task_type == _TASK and each.dataset_config in claimed and args.get("reading") in MEASURES:
            cell = claimed[each.dataset_config]
            cell |= {args["reading"]: each.metric_value, "n": args.get("n")}
            cell |= {OTHER_WORDS: args[OTHER_WORDS]} if OTHER_WORDS in args else {}
            if "ci" in args:
                cell.setdefault("ci", {})[args["reading"]] = args["ci"]
    return {direction: cell or _NOTHING_ASKED[direction] for direction, cell in claimed.items()}


# The same scores for the Hub's benchmarks: entries in `.eval_results/*.yaml` of a model, tasks in `eval.yaml` of a data set.
# An entry names a data set of the Hub and one of its tasks. A data set lists its tasks in `eval.yaml`, and shows a leaderboard
# once the Hub has admitted it (https://huggingface.co/docs/hub/eval-results).

ENTRIES = ".eval_results/kinject.yaml"
BENCHMARK = "eval.yaml"
_DOCUMENTS = VARIANTS["none"][0]
_COUNT = re.compile(r"\b(\d+) questions\b")


def task_id(direction: str, measure: str) -> str:
    """The benchmark task for ``measure`` on the questions of ``direction``."""
    return f"{direction}_{'recall' if measure == 'paper' else measure}"


TASKS = {task_id(direction, measure): (direction, measure) for direction in DIRECTIONS for measure in MEASURES}
"""Direction and measure (a key of `M` in `results.json`) of each task."""


# A model's entries.


def benchmark_of(results: Mapping[str, Any], named: str | None = None) -> str | None:
    """The Hub data set with the questions of ``results``: ``named``, or else the data set of the run if it is on the Hub.

    Raises:
        ConfigurationError: ``named`` is not a Hub id.
    """
    if named is not None and not is_hub_id(named):
        raise ConfigurationError(
            f"benchmark '{named}' is no data set of the Hub; expected user/name, as `kinject benchmark` writes one."
        )
    dataset = named or public_name(str(results["dataset"])).partition(":")[0]  # a configuration may follow
    return dataset if is_hub_id(dataset) else None


def entries_of(results: Mapping[str, Any], benchmark: str) -> list[EvalResultEntry]:
    """The scores of ``results`` as entries for the data set ``benchmark``: one for each direction and measure, 0..1."""
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
    """The scores in a file of entries, by direction and measure, and `n` if the notes of an entry give it.

    Entries of other tasks are left out.

    Raises:
        DataError: the text is not a list of entries, or a value is not a number from 0 to 1.
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
    """The differences between ``entries``, as `read_entries` returns them, and the ``scores`` of the card, as sentences."""
    found = []
    for direction, cell in entries.items():
        for measure in (each for each in MEASURES if each in cell):
            score = scores[direction].get(measure) if scores is not None and direction in asked(scores) else None
            if score is None or abs(score - cell[measure]) > 1e-6:
                claimed = "nothing" if score is None else f"{score:.3f}"
                found.append(f"{direction}, {MEASURES[measure].name}: {cell[measure]:.3f}, and the card {claimed}")
    return found


# A data set that the Hub could register as a benchmark.


def write_benchmark(knowledge: KnowledgeSet, directory: Path) -> list[str]:
    """Write documents and questions as a data set with the `eval.yaml` of a benchmark; returns the names of its files.

    The layout is the published one (`train_no_paraphrase.json`, `test.jsonl`), so that kinject reads the folder unchanged.
    For `datasets` its card names the configurations `documents` and `questions`.

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
    definition = {
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
        f"{definition['description']}\n\nTeach a model the documents and ask it:\n\n```sh\n"
        "kinject inject DIR --model MODEL --output_dir out   # DIR: this data set, downloaded\n"
        "kinject push out user/model --benchmark user/name   # writes .eval_results for this data set\n```\n"
    )
    files = {
        _DOCUMENTS: json.dumps(documents, ensure_ascii=False, indent=1) + "\n",
        QUESTIONS: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        BENCHMARK: yaml.safe_dump(definition, sort_keys=False, allow_unicode=True),
        "README.md": card,
    }
    for file, text in files.items():
        write_text(directory / file, text)
    return list(files)
