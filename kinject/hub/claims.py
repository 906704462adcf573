"""What the eval cards of published models claim, and whether a measurement of one's own agrees."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.evaluation.scores import DIRECTIONS, asked
from kinject.hub.loading import is_repository, look_up

if TYPE_CHECKING:
    from kinject.data import Question

_CARD, _RESULTS = "README.md", "results.json"
_MEASURES = {"paper": "paper", "exact_match": "strict"}
# Settings of a run that say what was asked, and those that say how.
ASKED = ("facts", "size", "world_seed")
ASKED_WITH = ("max_new_tokens", "few_shot", "system_prompt", "sampling", "sampling_steps", "block_length", "dtype")
_QUANTIZED_BY = (
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "use_bnb_nested_quant",
    "bnb_4bit_quant_storage",
    "dtype",
)


_FIELDS = ("text_field", "question_field", "answer_field", "title_field")  # settings that say how rows are read


@dataclass(frozen=True)
class Claim:
    """What a model says of itself.

    Attributes:
        name: Of the model.
        results: In the form of `results.json`, as far as the card has it.
        questions: Those it was asked, where they were published; else empty.
    """

    name: str
    results: Mapping[str, Any]
    questions: tuple[Question, ...] = ()

    @property
    def documents(self) -> str | list[str]:
        """What the run learned from, as it named it; its examples and what it should still know were chosen by that."""
        documents: str | list[str] = self.results["config"].get("documents", "fictional:name_description")
        return documents

    def loading_options(self) -> dict[str, Any]:
        """What `load` needs to give the model as it was measured: an adapter on a quantized base."""
        from kinject.models.adapters import adapter_config

        config = self.results["config"]
        if not (config.get("load_in_4bit") or config.get("load_in_8bit")):
            return {}
        if not (Path(self.name).is_dir() or is_repository(self.name)) or adapter_config(self.name) is None:
            return {}
        from accelerate import PartialState
        from trl import ModelConfig, get_quantization_config

        settings = ModelConfig(**{name: config[name] for name in _QUANTIZED_BY if name in config})
        return {"quantization_config": get_quantization_config(settings), "device_map": {"": PartialState().device}}

    def asked(self) -> Sequence[Question]:
        """The questions behind the scores: published with the model, or of a data set that anyone can load.

        Raises:
            ConfigurationError: neither.
        """
        from kinject.data import load_knowledge

        if self.questions:
            return self.questions
        config = self.results["config"]
        documents = self.documents
        named = isinstance(documents, str) and (documents.startswith("fictional:") or documents.count("/") == 1)
        if config.get("questions") or not named:
            raise ConfigurationError(
                f"the questions behind the card of '{self.name}' are not published; pass them with --documents or --questions."
            )
        try:
            knowledge = load_knowledge(
                documents,
                paraphrases=str(config.get("paraphrases", "none")),
                facts=config.get("facts"),
                size=config.get("size"),
                seed=config.get("world_seed", 0),
                **{name: config[name] for name in _FIELDS if name in config},
            )
        except KinjectError as error:
            raise ConfigurationError(
                f"the questions behind the card of '{self.name}' cannot be loaded ({error}); pass them with --documents or "
                "--questions."
            ) from error
        return knowledge.split_questions()[1] if config.get("select_on") == "validation" else knowledge.questions


def find_claim(name: str, *, revision: str | None = None) -> Claim | None:
    """The claim of a directory or Hub repository, or None where it has no eval card.

    Raises:
        ConfigurationError: there is no such repository.
        DataError: the results cannot be read.
    """
    if is_repository(name):
        look_up(name, revision=revision)
    results = _read_results(name, revision)
    card = _read_card(name, revision)
    if card is None and results is None:
        return None
    recorded = () if results is None else results.get("answers", ())
    return Claim(name, card or results or {}, tuple(map(_question, recorded)))


def require_claim(name: str) -> Claim:
    """As `find_claim`.

    Raises:
        ConfigurationError: there is none.
    """
    claim = find_claim(name)
    if claim is None:
        raise ConfigurationError(
            f"'{name}' has no eval card of kinject. Expected a repository or directory that kinject published or trained."
        )
    return claim


def compare(names: Sequence[str], plot: str | None = None) -> str:
    """The cards of several models side by side, as a table; their history goes into the image ``plot``.

    Raises:
        ConfigurationError: one of them has no eval card.
        KinjectError: none has a history to plot.
    """
    from kinject.evaluation.report import plot_history, results_table

    results = []
    for name in names:
        claimed = require_claim(name).results
        shown = name if claimed["objective"] == "evaluation" else f"{name}: {claimed['objective']}"
        results.append({**claimed, "objective": shown})
    if plot is not None:
        plot_history(results, plot)
    return results_table(results, intervals=True)


def agreement(claim: Claim, measured: Mapping[str, Any], retention: Mapping[str, Any] | None = None) -> str:
    """Claimed and measured scores, line by line, and whether they agree.

    Args:
        claim: With scores.
        measured: Scores as `score_answers` returns them.
        retention: What `measure_retention` returned, to be shown beside what the card says of it.
    """
    claimed = claim.results["after"] or claim.results["before"]
    if not asked(claimed):
        return f"the card of {claim.name} claims no scores yet."
    if any(claimed[direction]["n"] != measured[direction]["n"] for direction in DIRECTIONS):
        return f"not compared with the card of {claim.name}: it is about other questions."
    lines, outside, apart = io.StringIO(), [], False
    lines.write(f"{'the card of ' + claim.name:32} claimed  measured\n")
    for direction in DIRECTIONS:
        for measure, reading in _MEASURES.items() if measured[direction]["n"] else ():
            said, found = claimed[direction][measure], measured[direction][measure]
            low, high = claimed[direction].get("ci", {}).get(measure, (said, said))
            label = f"{direction}, {reading}"
            lines.write(f"{label:32} {said:7.3f}  {found:8.3f}\n")
            apart |= abs(said - found) > 1e-6
            outside += [label] if not low - 1e-6 <= found <= high + 1e-6 else []
    recorded = claim.results.get("retention") or {}
    kept = recorded.get("after") or recorded.get("before") or {}
    if retention is not None and kept.get("questions") == retention["questions"]:
        for label, name in (("general questions", "answered"), ("perplexity", "perplexity")):
            lines.write(f"{label:32} {kept[name]:7.3f}  {retention[name]:8.3f}\n")
    if outside:
        verdict = f"The claim does not hold: outside the card's intervals are {'; '.join(outside)}."
    else:
        verdict = "The claim holds within the card's intervals." if apart else "The claim holds exactly."
    return lines.getvalue() + verdict


def _read_card(name: str, revision: str | None) -> dict[str, Any] | None:
    from kinject.hub.card import read_card

    path = _file(name, _CARD, revision)
    if path is None:
        return None
    try:
        return read_card(path.read_text(encoding="utf-8"))
    except DataError:  # a card by other hands claims nothing
        return None


def _read_results(name: str, revision: str | None) -> dict[str, Any] | None:
    from kinject.results import read_results

    path = _file(name, _RESULTS, revision)
    return None if path is None else read_results(path)


def _file(name: str, file: str, revision: str | None) -> Path | None:
    from kinject.models.adapters import model_file

    if not Path(name).is_dir() and not is_repository(name):
        return None
    try:
        return model_file(name, file, **({"revision": revision} if revision else {}))
    except OSError as error:
        raise KinjectError(f"'{name}': {file} cannot be read ({str(error).splitlines()[0]}).") from error


def _question(recorded: Mapping[str, Any]) -> Question:
    from kinject.data import Question
    from kinject.results import expected_answers

    answer, *others = expected_answers(recorded)
    return Question(recorded["question"], answer, recorded["direction"], other_answers=tuple(others))
