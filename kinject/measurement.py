"""Scoring a model without training it, with the same questions, scores and `results.json` as a training run.

Run it through `kinject eval` or `recipes/evaluate_qa.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.injection import one_or_several, print_answers, recorded_answers
from kinject.launch import prepare_results
from kinject.sampling_options import SamplingArguments

if TYPE_CHECKING:
    from kinject.data import Question
    from kinject.hub.claims import Claim


@dataclass
class MeasurementArguments(SamplingArguments):
    """Which model to ask, and what."""

    model_name_or_path: str = field(
        default="", metadata={"help": "A directory with a model or adapter, a Hub id, or smollm2-135m."}
    )
    documents: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Documents the questions are about: they give questions a direction, and a folder in the "
            "published layout or a fictional world brings its questions."
        },
    )
    questions: str | None = field(
        default=None, metadata={"help": "File of questions (json, jsonl, csv, tsv, parquet, xlsx)."}
    )
    text_field: str = field(default="text", metadata={"help": "Field of a row that holds the document."})
    question_field: str = field(default="question", metadata={"help": "Field of a row that holds the question."})
    answer_field: str = field(default="answer", metadata={"help": "Field of a row that holds its answer, or answers."})
    title_field: str = field(default="title", metadata={"help": "Field of a row that holds the title of its document."})
    facts: str | None = field(
        default=None, metadata={"help": "Only these documents and their questions, counted from 0, as in '0-9,30-39'."}
    )
    size: int | None = field(default=None, metadata={"help": "Number of people in a fictional world."})
    world_seed: int = field(default=0, metadata={"help": "Seed of a fictional world."})
    output_dir: str | None = field(default=None, metadata={"help": "Write results.json here."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the results.json that lies in output_dir."})
    dtype: str = field(default="float32", metadata={"help": "Precision of the weights."})
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message of every prompt. Default: the chat template's own."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest answer, in tokens."})
    batch_size: int = field(default=32, metadata={"help": "Questions answered at once."})
    few_shot: int = field(default=0, metadata={"help": "Answered questions shown before each question (the paper: 2)."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub repository."})
    retention: bool = field(default=False, metadata={"help": "Also measure held-out perplexity and general questions."})

    def __post_init__(self) -> None:
        """Refuse an unknown way of sampling, and read a list of one source as that source."""
        super().__post_init__()
        self.documents = None if self.documents is None else one_or_several(self.documents)


def evaluate_model(arguments: MeasurementArguments) -> dict[str, Any]:
    """Ask a model all questions, print the scores, and write `results.json` if an output directory is given.

    Where neither documents nor questions are named, those that the model's eval card is about are asked again, the way
    the card says. Whatever was asked, scores of as many questions as the card's are compared with what it claims.

    Returns:
        The content of `results.json`: objective `evaluation`, `before` equal to `after`, no history.

    Raises:
        ConfigurationError: neither documents nor questions are named, nor has the model a card that is about any, or the
            model cannot be loaded.
        DataError: questions that cannot be used.
    """
    from kinject.evaluation.asking import answer_questions
    from kinject.evaluation.cost import peak_memory_bytes
    from kinject.evaluation.general_knowledge import few_shot_examples, held_out
    from kinject.evaluation.report import results_table
    from kinject.evaluation.retention import measure_retention
    from kinject.evaluation.scores import score_answers
    from kinject.hub.claims import ASKED_WITH, agreement, find_claim
    from kinject.hub.loading import load
    from kinject.results import new_results, write_results

    if not arguments.model_name_or_path:
        raise ConfigurationError("no model is named; pass --model, such as smollm2-135m.")
    arguments.sampling_config(arguments.max_new_tokens)
    output_dir = prepare_results(arguments.output_dir, arguments.overwrite) if arguments.output_dir else None
    claim = find_claim(arguments.model_name_or_path, revision=arguments.revision)
    if not (arguments.documents or arguments.questions):
        arguments, name, questions = _asked_again(arguments, claim)
    else:
        arguments = arguments if claim is None else _as_claimed(arguments, claim, ASKED_WITH)
        name, questions = _load_questions(arguments)
    # What examples and general questions are chosen by.
    about = arguments.documents or ("" if claim is None else claim.documents)
    options = {} if claim is None else claim.loading_options()
    loaded = load(arguments.model_name_or_path, revision=arguments.revision, dtype=arguments.dtype, **options)
    sampling = arguments.sampling_config(arguments.max_new_tokens)
    started = time.monotonic()
    answers = answer_questions(
        loaded.model,
        loaded.tokenizer,
        [question.question for question in questions],
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        examples=few_shot_examples(arguments.few_shot, about),
        system_prompt=arguments.system_prompt,
        sampling=sampling if loaded.is_diffusion else None,
    )
    seconds = round(time.monotonic() - started, 3)
    scores = score_answers(questions, answers)
    results = new_results(
        objective="evaluation",
        model=loaded.name,
        dataset=name,
        paraphrases="none",
        seed=0,
        config={key: value for key, value in asdict(arguments).items() if value is not None and key != "overwrite"},
    )
    results |= {
        "before": scores,
        "after": scores,
        "train": {"steps": 0, "tokens": 0, "flops": 0.0, "seconds": 0.0, "peak_memory_bytes": peak_memory_bytes()},
        "answering_seconds": seconds,
        "answers": recorded_answers(questions, answers),
    }
    retention = None
    if arguments.retention:
        retention = measure_retention(loaded.model, loaded.tokenizer, **held_out(about)._asdict())
        results["retention"] = {"before": retention}
    if output_dir is not None:
        write_results(Path(output_dir) / "results.json", results)
    print(results_table([results]))
    print_answers(results["answers"])
    if claim is not None:
        print(f"\n{agreement(claim, scores, retention)}")
    return results


def _as_claimed(arguments: MeasurementArguments, claim: Claim, names: Sequence[str]) -> MeasurementArguments:
    """``arguments`` with the settings ``names`` that the card's scores were measured with, except those given by hand."""
    default, config = MeasurementArguments(), claim.results["config"]
    untouched = [name for name in names if getattr(arguments, name) == getattr(default, name) and name in config]
    changes = {name: config[name] for name in untouched if config[name] != getattr(default, name)}
    if changes:
        shown = ", ".join(f"{name} {value!r}" for name, value in changes.items())
        print(f"measured as the card of {claim.name} was: {shown}")
    return replace(arguments, **changes)


def _asked_again(
    arguments: MeasurementArguments, claim: Claim | None
) -> tuple[MeasurementArguments, str, Sequence[Question]]:
    """What the card of a model is about, with the settings it was asked with, except those given by hand."""
    from kinject.hub.claims import ASKED, ASKED_WITH

    if claim is None:
        raise ConfigurationError(
            "nothing to ask; pass --questions FILE, or --documents that bring questions, or name a model with an eval card."
        )
    questions = claim.asked()
    arguments = replace(_as_claimed(arguments, claim, (*ASKED, *ASKED_WITH)), documents=claim.documents)
    return arguments, str(claim.results["dataset"]), questions


def _load_questions(arguments: MeasurementArguments) -> tuple[str, Sequence[Question]]:
    """The name of the data set and its questions, with directions."""
    from kinject.data import load_knowledge, load_questions

    fields = {"question_field": arguments.question_field, "answer_field": arguments.answer_field}
    if arguments.documents:
        knowledge = load_knowledge(
            arguments.documents,
            arguments.questions,
            facts=arguments.facts,
            size=arguments.size,
            seed=arguments.world_seed,
            text_field=arguments.text_field,
            title_field=arguments.title_field,
            **fields,
        )
        name, questions = knowledge.name, knowledge.questions
    else:
        assert arguments.questions is not None
        name, questions = Path(arguments.questions).stem, load_questions(arguments.questions, **fields)
    if not questions:
        raise ConfigurationError(f"'{name}' brings no questions; pass --questions FILE.")
    return name, questions
