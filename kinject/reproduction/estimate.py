"""What a run will cost before it runs: tokens, floating-point operations and hours.

Tokens are counted with the model's own tokenizer and the objective's own frames where both are at hand, else taken from
the scale's YAML file. Operations a token are six times the weights that are multiplied, as in
`kinject.evaluation.cost`; with an adapter or frozen modules up to a third less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import DataError, KinjectError
from kinject.rehearsal import rehearsal_prompts, rehearsal_size
from kinject.reproduction.grid import Run
from kinject.reproduction.specification import Dataset, Scale

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kinject.templates import DocumentTemplate, Frame

_REHEARSED = 40.0  # tokens of a general prompt with its answer, where there is no tokenizer to ask
_PROMPTS = 256  # of them are counted
_INFILLED = 0.45  # of a document, on average, is not part of an infilling sample's answer
_FRAME = 20.0  # tokens around a document, where there is no tokenizer to ask
_TOKENS_A_WORD = 1.4


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens of all samples, without padding.
        flops: Floating-point operations of training.
        hours: Hours of one device.
        counted: Whether tokens were counted, not assumed.
    """

    steps: int
    tokens: float
    flops: float
    hours: float
    counted: bool


def estimate(run: Run, scale: Scale, processes: int = 1) -> Cost:
    """The expected cost of ``run``, on as many ``processes`` as share a step."""
    model, dataset = scale.models[run.model], scale.datasets[run.dataset]
    samples, tokens_a_sample, counted = _samples(run, dataset)
    rehearsed = rehearsal_size(samples, float(run.options.get("rehearsal", 0.0)))
    if rehearsed:
        tokens_a_sample = (samples * tokens_a_sample + rehearsed * _rehearsed_tokens(run)) / (samples + rehearsed)
        samples, counted = samples + rehearsed, False
    batch = int(run.options.get("per_device_train_batch_size", 8)) * processes
    batch *= int(run.options.get("gradient_accumulation_steps", 1))
    steps_an_epoch = -(-samples // batch)
    steps = int(run.options.get("max_steps", -1))
    if steps <= 0:
        epochs = float(run.options["num_train_epochs"])
        steps = -int(-epochs * steps_an_epoch // 1)
    tokens = steps / steps_an_epoch * samples * tokens_a_sample
    flops = tokens * 6.0 * model.parameters
    return Cost(steps, tokens, flops, flops / float(scale.device["flops"]) / 3600, counted)


def matched(runs: Sequence[Run], references: Sequence[Run], scale: Scale, processes: int = 1) -> list[Run]:
    """``runs`` with as many steps as cost what the reference on the same dataset does, in floating-point operations.

    Args:
        runs: The runs to change.
        references: One run a dataset and autoregressive model. A diffusion model is matched with the first of them.
        scale, processes: As for `estimate`.
    """
    budgets: dict[tuple[str, str], float] = {}
    for each in references:
        flops = estimate(each, scale, processes).flops
        budgets.setdefault((each.model, each.dataset), flops)
        budgets.setdefault(("", each.dataset), flops)
    return [
        each.scaled(
            budgets.get((each.model, each.dataset), budgets["", each.dataset]) / estimate(each, scale, processes).flops
        )
        for each in runs
    ]


def _samples(run: Run, dataset: Dataset) -> tuple[int, float, bool]:
    """Number of samples in an epoch, mean tokens of a sample, and whether they were counted."""
    texts = _run_texts(run)
    copies = 2.0 if run.recipe == "masked" else 1.0
    infilled = float(run.options.get("infill_share", 0.0))
    copies -= _INFILLED * infilled  # the answer is the gap alone
    reversals = 2 if run.options.get("objective") == "reverse" else 1
    tokenizer = _tokenizer(str(run.options["model_name_or_path"])) if texts else None
    if not texts:
        documents = (dataset.documents or 1) * dataset.wordings[str(run.options["paraphrases"])]
        return documents * reversals, copies * (dataset.tokens or 50.0) + _FRAME, False
    if tokenizer is None:
        words = sum(len(text.split()) for text in texts) / len(texts)
        return len(texts) * reversals, copies * _TOKENS_A_WORD * words + _FRAME, False
    from kinject.templates import DocumentTemplate

    template = DocumentTemplate(tokenizer, _wordings(run.recipe, run.options), run.options.get("system_prompt"))
    return len(texts) * reversals, copies * _length(template, texts) + _around(template.frames), not infilled


def _rehearsed_tokens(run: Run) -> float:
    """Mean tokens of a general prompt with its answer, which is taken to be as long as a document."""
    texts = _run_texts(run)
    tokenizer = _tokenizer(str(run.options["model_name_or_path"])) if texts else None
    if tokenizer is None:
        return _REHEARSED
    from kinject.templates import ANSWER, DocumentTemplate

    template = DocumentTemplate(tokenizer, (ANSWER,), run.options.get("system_prompt"))
    frames = [template.row_frames(prompt)[0] for prompt in rehearsal_prompts(str(run.options["documents"]), _PROMPTS)]
    return _around(frames) + min(_length(template, texts), float(run.options.get("max_new_tokens", 128)))


def _length(template: DocumentTemplate, texts: Sequence[str]) -> float:
    """Mean tokens of a document."""
    return sum(len(template.encode(text).ids) for text in texts) / len(texts)


def _around(frames: Sequence[Frame]) -> float:
    """Mean tokens around a document."""
    return sum(len(frame.before) + len(frame.between) + len(frame.after) for frame in frames) / len(frames)


def _run_texts(run: Run) -> tuple[str, ...]:
    """The documents of ``run``, or nothing where they are not at hand."""
    return _texts(
        str(run.options["documents"]),
        str(run.options["paraphrases"]),
        run.options.get("facts"),
        run.options.get("size"),
        run.options.get("world_seed", 0),
    )


def _wordings(recipe: str, options: Mapping[str, Any]) -> Any:
    from kinject.templates import FACT, RAW, RAW_FROM_BEGIN
    from kinject.trainers.masked_trainer import named_wordings

    if recipe == "masked":
        return named_wordings(str(options.get("wordings", "paper")))
    plain, default = (RAW_FROM_BEGIN, "raw") if recipe == "diffusion" else (RAW, "chat")
    return (plain,) if options.get("frame", default) == "raw" else (FACT,)


@cache
def _texts(documents: str, paraphrases: str, facts: Any, size: int | None, seed: int) -> tuple[str, ...]:
    """The documents, or nothing where they are not at hand."""
    from kinject.data import load_knowledge
    from kinject.reproduction.fingerprint import data_fingerprint

    fictional = documents.startswith("fictional:")
    if not fictional and not data_fingerprint(documents):
        return ()
    where = documents if fictional else str(Path(documents).expanduser())
    try:
        knowledge = load_knowledge(where, paraphrases=paraphrases, facts=facts, size=size, seed=seed)
    except DataError:  # a part of the published data, without these wordings; the run itself will say so
        return ()
    return tuple(document.text for document in knowledge.documents)


@cache
def _tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model that lies here; `None` for one that would have to be fetched."""
    from kinject.models.loading import EMBEDDED_MODEL, NANO_MODELS
    from kinject.models.lookup import look_up

    if name not in (EMBEDDED_MODEL, *NANO_MODELS) and not Path(name).is_dir():
        return None
    try:
        found = look_up(name)
    except KinjectError:
        return None
    return None if found is None else found[0]
