"""Asks a finished model, says whether its eval card's claim holds, and sets several cards side by side. Trains nothing."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.commands.inject import one_or_several
from kinject.commands.output_dir import prepare_results
from kinject.data.knowledge import DIRECTIONS
from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.evaluation.examination import Examination, ExaminationArguments, asker
from kinject.evaluation.measures import asked
from kinject.evaluation.report import print_answers
from kinject.evaluation.results import MEASURES, SHOWN, recorded_answers
from kinject.models.names import is_repository, require_model, require_named
from kinject.sampling.config import SamplingArguments

if TYPE_CHECKING:
    from kinject.data import KnowledgeSet, Question


# What the eval cards of published models claim, and whether a measurement of one's own agrees.

_CARD, _RESULTS = "README.md", "results.json"
# Settings of a run that say what was asked, and those that say how.
ASKED = ("facts", "size", "world_seed")
ASKED_WITH = (
    *("max_new_tokens", "few_shot", "system_prompt", "sampling", "sampling_steps", "block_length", "dtype"),
    "retention_questions",
)
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
    """The claims of a model's eval card.

    Attributes:
        name: Of the model.
        results: In the form of `results.json`, as far as the card has it.
        questions: Those it was asked, where they were published; else empty.
        recorded: Its `results.json`, where it has one.
        entries: The scores in its `.eval_results`, by direction.
    """

    name: str
    results: Mapping[str, Any]
    questions: tuple[Question, ...] = ()
    recorded: Mapping[str, Any] | None = None
    entries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def documents(self) -> str | list[str]:
        """What the run learned from, as its settings named it; few-shot examples and general questions depend on it."""
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
            ConfigurationError: there are neither.
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
        ConfigurationError: there is no such repository, or it is not here and the Hub is not to be asked.
        DataError: the results cannot be read.
    """
    require_named(name, revision=revision)
    results = _read_results(name, revision)
    card = _read_card(name, revision)
    entries = _read_entries(name, revision)
    if card is None and results is None:
        return None if not entries else Claim(name, _claimed_by(entries, name), entries=entries)
    answers = () if results is None else results.get("answers", ())
    return Claim(name, card or results or {}, tuple(map(_question, answers)), results, entries)


def require_claim(name: str) -> Claim:
    """The claim of a directory or Hub repository, as `find_claim`; it must have one.

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

    Of a model without a card of kinject the scores in `.eval_results` are shown; where it has both and they differ, lines below
    the table say so.

    Raises:
        ConfigurationError: one of them has no eval card.
        KinjectError: none has a history to plot.
    """
    from kinject.evaluation.report import plot_history, results_table
    from kinject.hub.card_metadata import differences

    results, notes = [], []
    for name in names:
        claim = require_claim(name)
        claimed = claim.results
        said = claimed["after"] or (claimed["history"] or [None])[-1]
        notes += [f"\n{name}: .eval_results says of {each}" for each in differences(said, claim.entries)]
        shown = name if claimed["objective"] == "evaluation" else f"{name}: {claimed['objective']}"
        results.append({**claimed, "objective": shown})
    if plot is not None:
        plot_history(results, plot)
    return results_table(results, intervals=True) + "".join(notes)


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
        for measure in SHOWN if measured[direction]["n"] else ():
            said, found = claimed[direction][measure], measured[direction][measure]
            low, high = claimed[direction].get("ci", {}).get(measure, (said, said))
            label = f"{direction}, {MEASURES[measure].reading}"
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
    except DataError:  # a card that kinject did not write
        return None


def _read_results(name: str, revision: str | None) -> dict[str, Any] | None:
    from kinject.evaluation.results import read_results

    path = _file(name, _RESULTS, revision)
    return None if path is None else read_results(path)


def _read_entries(name: str, revision: str | None) -> dict[str, Any]:
    from kinject.hub.card_metadata import ENTRIES, read_entries

    path = _file(name, ENTRIES, revision)
    return {} if path is None else read_entries(path.read_text(encoding="utf-8"))


def _claimed_by(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Results with the scores in ``entries``, and nothing else."""
    from kinject.evaluation.measures import score_answers
    from kinject.evaluation.results import new_results

    nothing = score_answers((), ())
    scores: dict[str, dict[str, Any]] = {each: {**nothing[each], **entries.get(each, {})} for each in DIRECTIONS}
    for direction in entries:
        scores[direction]["n"] = entries[direction].get("n", 1)  # how many questions were asked is not known
    return {**new_results(objective="evaluation", model=name, dataset="unknown"), "before": None, "after": scores}


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
    from kinject.evaluation.results import expected_answers

    answer, *others = expected_answers(recorded)
    return Question(recorded["question"], answer, recorded["direction"], other_answers=tuple(others))


@dataclass
class MeasurementArguments(ExaminationArguments, SamplingArguments):
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
    overwrite: bool = field(default=False, metadata={"help": "Replace the results.json and report.html in output_dir."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the weights. Default: float32 on the CPU, bfloat16 on an accelerator that computes in it."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message of every prompt. Default: the chat template's own."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest answer, in tokens."})
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Questions answered at once. Default: 32; 256 of an autoregressive model on an accelerator."},
    )
    few_shot: int = field(default=0, metadata={"help": "Answered questions shown before each question (the paper: 2)."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub repository."})
    retention: bool = field(default=False, metadata={"help": "Also measure held-out perplexity and general questions."})
    retention_questions: int = field(
        default=1000, metadata={"help": "With retention: how many general questions to ask."}
    )

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
    if not arguments.model_name_or_path:
        raise ConfigurationError("no model is named; pass --model, such as smollm2-135m.")
    require_model(arguments.model_name_or_path, revision=arguments.revision)
    arguments.sampling_config(arguments.max_new_tokens)
    output_dir = prepare_results(arguments.output_dir, arguments.overwrite) if arguments.output_dir else None
    loading = _load_questions(arguments) if arguments.documents or arguments.questions else None
    knowledge: KnowledgeSet | None = None
    claim = find_claim(arguments.model_name_or_path, revision=arguments.revision)
    if loading is None:
        arguments, name, questions = _asked_again(arguments, claim)
    else:
        arguments = arguments if claim is None else _as_claimed(arguments, claim, ASKED_WITH)
        name, questions, knowledge = loading
    about = arguments.documents or ("" if claim is None else claim.documents)  # chooses examples and general questions
    examination = _examination(arguments, knowledge, about)
    # Importing torch takes seconds: all that can be checked without it was checked above.
    from kinject.evaluation.asking import answer_questions
    from kinject.evaluation.measures import score_answers
    from kinject.evaluation.page import write_page
    from kinject.evaluation.report import results_table
    from kinject.evaluation.results import new_results, write_results
    from kinject.evaluation.retention import few_shot_examples, held_out, measure_retention
    from kinject.models.devices import described, device_and_dtype
    from kinject.models.diffusion import text_config
    from kinject.models.loading import load
    from kinject.models.weights import peak_memory_bytes

    options = {} if claim is None else claim.loading_options()
    dtype = arguments.dtype or device_and_dtype()[1] or "float32"
    loaded = load(arguments.model_name_or_path, revision=arguments.revision, dtype=dtype, **options)
    print(f"{loaded.name} on {described(loaded.model)}", flush=True)
    sampling = arguments.sampling_config(arguments.max_new_tokens)
    arguments.require_blocks_of(getattr(text_config(loaded.model), "block_length", None))
    asking: dict[str, Any] = {
        "max_new_tokens": arguments.max_new_tokens,
        "batch_size": arguments.batch_size,
        "examples": few_shot_examples(arguments.few_shot, about),
        "system_prompt": arguments.system_prompt,
    }
    started = time.monotonic()
    answers = answer_questions(
        loaded.model,
        loaded.tokenizer,
        [question.question for question in questions],
        **asking,
        sampling=sampling if loaded.is_diffusion else None,
    )
    seconds = round(time.monotonic() - started, 3)
    taught = [] if knowledge is None else [each.titled_text for each in knowledge.documents]
    scores = score_answers(questions, answers, documents=taught)
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
        "device": described(loaded.model),
        "answers": recorded_answers(questions, answers),
    }
    retention = None
    if arguments.retention:
        retention = measure_retention(
            loaded.model, loaded.tokenizer, **held_out(about, arguments.retention_questions)._asdict()
        )
        results["retention"] = {"before": retention}
    if examination is not None:
        ask = asker(loaded.model, loaded.tokenizer, arguments, **asking)
        results |= {part: {"before": found} for part, found in examination.measure(ask, answers=answers).items()}
    if output_dir is not None:
        write_results(Path(output_dir) / "results.json", results)
        write_page([results], Path(output_dir) / "report.html", replace=True)
    print(results_table([results]))
    print_answers(results["answers"])
    if claim is not None:
        print(f"\n{agreement(claim, scores, retention)}")
    return results


def _examination(
    arguments: MeasurementArguments, knowledge: KnowledgeSet | None, about: str | Sequence[str]
) -> Examination | None:
    """What to ask besides the questions; None where no documents are named, as those tell who is unseen.

    Raises:
        ConfigurationError: a part is asked for that needs the documents.
    """
    if knowledge is not None:
        return Examination.of(knowledge, arguments, about, arguments.retention)
    parts = ("unseen", "unknown_samples", "open_book", "other_wordings")
    wanted = [name for name in parts if getattr(arguments, name)]
    if wanted:
        raise ConfigurationError(
            f"{wanted[0]} needs the documents that the model was taught; name them with --documents."
        )
    return None


def _as_claimed(arguments: MeasurementArguments, claim: Claim, names: Sequence[str]) -> MeasurementArguments:
    """``arguments`` with the settings ``names`` that the card's scores were measured with, except those given by hand."""
    default, config = MeasurementArguments(), claim.results["config"]
    if config.get("dtype") == "float32":  # that of the weights in training; answers may be computed in another
        config = {name: value for name, value in config.items() if name != "dtype"}
    untouched = [name for name in names if getattr(arguments, name) == getattr(default, name) and name in config]
    changes = {name: config[name] for name in untouched if config[name] != getattr(default, name)}
    if changes:
        shown = ", ".join(f"{name} {value!r}" for name, value in changes.items())
        print(f"measured as the card of {claim.name} was: {shown}")
    return replace(arguments, **changes)


def _asked_again(
    arguments: MeasurementArguments, claim: Claim | None
) -> tuple[MeasurementArguments, str, Sequence[Question]]:
    """The questions of a model's card, with the settings that they were asked with, except those given by hand."""
    if claim is None:
        raise ConfigurationError(
            "nothing to ask; pass --questions FILE, or --documents that bring questions, or name a model with an eval card."
        )
    questions = claim.asked()
    arguments = replace(_as_claimed(arguments, claim, (*ASKED, *ASKED_WITH)), documents=claim.documents)
    return arguments, str(claim.results["dataset"]), questions


def _load_questions(arguments: MeasurementArguments) -> tuple[str, Sequence[Question], KnowledgeSet | None]:
    """The name of the data set, its questions with directions, and its documents where they are named."""
    from kinject.data import load_knowledge, load_questions

    fields = {"question_field": arguments.question_field, "answer_field": arguments.answer_field}
    knowledge: KnowledgeSet | None = None
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
    return name, questions, knowledge
