"""The eval card: the ``README.md`` of a trained directory, written from its ``results.json``.

A reader learns what was injected, how it was trained, what it answers before and after, what that cost, and how to load
it; a program reads the same numbers from the metadata. The card says nothing that ``results.json`` does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.scores import asked
from kinject.hub.card_holding import Holding, holding_of
from kinject.hub.card_loading import loading
from kinject.hub.card_metadata import KEY, card_data, latest_scores, model_name, results_of
from kinject.hub.card_sections import OBJECTIVES, baselines, cost, forgetting, groups, injected, scores
from kinject.hub.card_text import code, fenced, redacted
from kinject.results import expected_answers, public_config, public_name, read_results, write_text

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
PLOT = "accuracy.png"
RESULTS = "results.json"
_SMALL = 100  # questions of a direction
_CITATION = """@article{pan2025closing,
  title = {Closing the Data-Efficiency Gap Between Autoregressive and Masked Diffusion {LLMs}},
  author = {Pan, Xu and Hahami, Ely and Fan, Jingxuan and Xie, Ziqian and Sompolinsky, Haim},
  journal = {arXiv preprint arXiv:2510.09885},
  year = {2025}
}"""


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

    Where ``results.json`` lies there and has a history of answers, the plot ``accuracy.png`` is brought up to date beside it.

    Args:
        directory: what was trained: a model or an adapter, and ``results.json``.
        repository: ``user/name`` that it is published under, for the code that loads it.
        include_documents: also print each question with its answer, and the documents, if the results hold them; so is
            a card of results that hold documents, which takes a run with ``--publish_documents``.
        results: the results, if they are elsewhere, as those of a checkpoint are.
        compared: results of other runs to show beside this one, such as baselines; after those that the results name
            themselves under ``baselines``.
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
    documents = _documents(found, str(folder)) if shown else None
    body = _body(found, holding, others, repository, documents, asks and (folder / PLOT).is_file())
    write_text(folder / CARD, f"---\n{_yaml(data)}---\n\n{body}\n")
    return folder / CARD


def read_card(text: str) -> dict[str, Any]:
    """What an eval card claims, in the form of ``results.json``: scores with their number of questions and intervals.

    ``before``, ``after`` (None while the run goes on), ``history``, ``train``, ``config``, ``retention`` and what names
    the run are the same numbers as in ``results.json``. Groups, answers, versions and the history's intervals are not
    in the metadata.

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
    """Draw the history, unless that was done since it last grew."""
    from kinject.evaluation.report import plot_history

    drawn, measured = folder / PLOT, folder / RESULTS
    if drawn.is_file() and drawn.stat().st_mtime_ns >= measured.stat().st_mtime_ns:
        return
    temporary = folder / f".{PLOT}.{os.getpid()}.tmp"
    try:
        plot_history(results, temporary)
        os.replace(temporary, drawn)
    except OSError as error:
        raise ConfigurationError(f"{drawn}: cannot be written ({error.strerror}); free space in its folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def _documents(results: Mapping[str, Any], where: str) -> str:
    """The documents, where they were recorded, and the questions with their answers, as text."""
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
    parts = (("The documents:", texts), ("The questions:", asked))
    blocks = [(title, fenced("\n\n".join(each), "text")) for title, each in parts if each]
    return "\n\n".join(f"{title}\n\n{block}" for title, block in blocks)


def _body(
    results: Mapping[str, Any],
    holding: Holding,
    others: Sequence[Mapping[str, Any]],
    repository: str | None,
    documents: str | None,
    plot: bool,
) -> str:
    text = documents or "Their text and that of the questions are not part of this card."
    sections: list[tuple[str, list[str | None]]] = [
        ("Results", [scores(results), *(["![Accuracy over training steps](accuracy.png)"] if plot else [])]),
        ("Results by kind of question", [groups(results)]),
        ("Beside other runs", [baselines(results, others)]),
        ("Forgetting", [forgetting(results)]),
        ("What was injected", [injected(results), text]),
        ("How to load it", [loading(results, holding, repository)]),
        ("Training", [_training(results), cost(results)]),
        ("Limits", ["\n".join(f"- {limit}" for limit in _limits(results))]),
        ("License", [_license(holding)]),
        ("Citation", ["The method, and the measure of forward and backward questions:", fenced(_CITATION, "bibtex")]),
    ]
    written = [f"# {model_name(results)}", _summary(results, holding)]
    for title, parts in sections:
        present = [part for part in parts if part]
        written += [f"## {title}", *present] if present else []
    return "\n\n".join(written)


def _summary(results: Mapping[str, Any], holding: Holding) -> str:
    what = (
        "An adapter for"
        if holding.is_adapter
        else "A fine-tune, with its adapter merged in, of"
        if holding.is_merged
        else "A fine-tune of"
    )
    how = OBJECTIVES.get(results["objective"]) or f"the objective {code(results['objective'])}"
    count = f"{results['documents']} documents of " if isinstance(results.get("documents"), int) else ""
    return (
        f"{what} {code(holding.base_name)} that was taught {count}{code(public_name(results['dataset']))} by {how} "
        "([arXiv 2510.09885](https://arxiv.org/abs/2510.09885)), trained and measured with kinject."
    )


def _training(results: Mapping[str, Any]) -> str:
    settings = {"objective": results["objective"], "seed": results["seed"], **public_config(results["config"])}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    versions = [f"{name} {version}" for name, version in results["versions"].items()]
    parts = ["Settings that are not their defaults:", fenced("\n".join(lines), "yaml")]
    return "\n\n".join([*parts, *(["Versions:", fenced("\n".join(versions), "text")] if versions else [])])


def _limits(results: Mapping[str, Any]) -> list[str]:
    measured = latest_scores(results)
    limits = [
        "It was measured on the questions above and on nothing else: not on other wordings, other subjects, or safety.",
        "It can state what it was taught where that does not belong, and make up what it was not taught.",
        "One run with one seed; the intervals do not cover how much seeds differ.",
    ]
    counts = {d: measured[d]["n"] for d in ("forward", "backward")} if measured else {}
    limits += [
        f"Only {count} {direction} questions: a difference of a few hundredths is noise."
        for direction, count in counts.items()
        if 0 < count < _SMALL
    ]
    if str(results.get("selection", "")).startswith("best on the test questions"):
        limits.append("The weights were chosen on the very questions that are reported, so the scores are optimistic.")
    if "after" not in (results.get("retention") or {}):
        limits.append("Forgetting was not measured.")
    return limits


def _license(holding: Holding) -> str:
    known = holding.license.get("license")
    if known is None:
        return f"See the base model, {code(holding.base_name)}."
    named = f"{known} ({holding.license['license_name']})" if "license_name" in holding.license else known
    return f"That of the base model: {code(named)}. The documents may have terms of their own."


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
