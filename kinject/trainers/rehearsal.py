"""Rehearsal against forgetting: the untrained model's own answers, learned once more beside the documents.

Answers are drawn at random, not the most probable ones, so that the rest of what the model knows is kept as well
(pseudo-rehearsal, Robins 1995). A masked diffusion model learns the tokens that were drawn. An autoregressive model learns its
predictions at their positions instead: the most probable tokens of each, with all others taken as one (distillation, Hinton et
al. 2015; against forgetting, Li and Hoiem 2016). The expected gradient is the same, without the noise of the draw, and it is
zero while the model still predicts the same.

Here are the rows that are rehearsed or practiced, and the loss of runs that have such rows or an anchor. Knows nothing of
command-line options.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import torch

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.trainers.collator import PREDICTED
from kinject.trainers.positions import SupervisedPositions, TokenScores, scores_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kinject.evaluation.asking import Predictions
    from kinject.sampling import SamplingConfig

_PART = 256  # prompts that one process draws at once
# Distance between the seeds of two parts: a diffusion model takes one more seed each time that a prompt is repeated in a part.
_SEEDS = 1_000
_MOST_ANSWERS = 4096  # drawing takes long with larger models, so that later epochs show these again


def rehearsal_size(documents: int, share: float, name: str = "rehearsal") -> int:
    """How many samples make up ``share`` of an epoch beside ``documents``.

    Raises:
        ConfigurationError: ``share`` is not from 0 to below 1.
    """
    if not 0.0 <= share < 1.0:
        raise ConfigurationError(f"{name} is {share}; expected a share of the samples from 0 to below 1, such as 0.5.")
    return round(documents * share / (1.0 - share))


def rehearsal_prompts(documents: str | Sequence[str], count: int) -> list[str]:
    """``count`` prompts for a model that is taught ``documents``, repeated where they run out.

    None of them is among the questions that measure retention. A nano model gets questions about the people it was pretrained
    on, and after each of them the prompt that asks for a fact.
    """
    from kinject.evaluation.retention import PROMPTS, nano_questions, of_nano_world
    from kinject.prompts.templates import FACT

    nano = of_nano_world(documents)
    prompts = [question for question, _ in nano_questions(1)] if nano else list(PROMPTS)
    random.Random(0).shuffle(prompts)
    if nano:
        prompts = [each for prompt in prompts for each in (prompt, str(FACT.user))]
    return [prompts[index % len(prompts)] for index in range(count)]


def own_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    **asking: Any,
) -> list[str]:
    """Answers of ``model`` to ``prompts``, drawn at temperature 1; one cut at its longest ends with a whole sentence.

    The draws of one process do not depend on other processes.

    Args:
        model, tokenizer, max_new_tokens, sampling: As in `answer_questions`.
        prompts: Each is answered by a draw of its own, also where two are equal.
        seed: Of the draws.
        asking: Passed on to `answer_questions`.

    Raises:
        KinjectError: as `answer_questions`.
    """
    from dataclasses import replace

    from kinject.evaluation.asking import answer_questions
    from kinject.models.diffusion import is_diffusion
    from kinject.sampling import SamplingConfig

    asking["max_new_tokens"] = max_new_tokens
    if is_diffusion(model):  # its noise depends on the seed and the prompt
        config = sampling or SamplingConfig.fast(max_new_tokens)
        answers = [""] * len(prompts)
        for number, places in enumerate(_rounds(prompts)):
            drawn = replace(config, temperature=1.0, seed=seed + number)
            said = answer_questions(model, tokenizer, [prompts[place] for place in places], sampling=drawn, **asking)
            for place, answer in zip(places, said, strict=True):
                answers[place] = answer
    else:
        answers = answer_questions(model, tokenizer, prompts, temperature=1.0, seed=seed, **asking)
    lengths = [len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers]
    return [
        to_sentence_end(answer) if length >= max_new_tokens - 1 else answer
        for answer, length in zip(answers, lengths, strict=True)
    ]


def draw_rehearsal(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    system_prompt: str | None = None,
    batch_size: int | None = None,
    silent: bool = False,
    **drawing: Any,
) -> tuple[list[str], list[Predictions] | None]:
    """Answers of ``model`` to ``prompts``, and an autoregressive model's predictions in them; None of a diffusion model.

    The work is shared out over the processes, in parts of fixed size with a seed of their own, so that the answers do not
    depend on the number of processes. Every process has to call this, with the model on the device that computes.

    Args:
        model, tokenizer, prompts, seed, system_prompt, batch_size: As in `own_answers`.
        silent: Show no progress.
        drawing: Passed on to `own_answers`.

    Raises:
        KinjectError: as `answer_questions`.
    """
    from tqdm.auto import tqdm

    from kinject.evaluation.asking import predict
    from kinject.models.diffusion import is_diffusion
    from kinject.models.weights import from_every_process, is_sharded, process_number

    parts = [prompts[start : start + _PART] for start in range(0, len(prompts), _PART)]
    # A forward pass of a sharded model needs every process, so all draw everything. Else those draw that hold the weights.
    holders = [number for number, holds in enumerate(from_every_process(model.device.type != "meta")) if holds]
    mine: Sequence[int] = range(len(parts))
    if not is_sharded(model):
        mine = mine[holders.index(process_number()) :: len(holders)] if process_number() in holders else ()
    drawn: dict[int, tuple[list[str], list[Predictions] | None]] = {}
    total = sum(len(parts[number]) for number in mine)
    with tqdm(total=total, desc="answers to rehearse", disable=silent or process_number() > 0) as bar:
        for number in mine:
            part = parts[number]
            answers = own_answers(
                model,
                tokenizer,
                part,
                seed=seed + _SEEDS * number,
                system_prompt=system_prompt,
                batch_size=batch_size,
                **drawing,
            )
            predicted = None
            if not is_diffusion(model):
                predicted = predict(
                    model, tokenizer, part, answers, system_prompt=system_prompt, batch_size=batch_size or 32
                )
            drawn[number] = answers, predicted
            bar.update(len(part))
    for others in from_every_process(drawn):
        drawn |= others
    answers = [answer for number in range(len(parts)) for answer in drawn[number][0]]
    if is_diffusion(model):
        return answers, None
    return answers, [each for number in range(len(parts)) for each in drawn[number][1] or ()]


def with_rehearsal(
    dataset: datasets.Dataset,
    prompts: Sequence[str],
    answers: Sequence[str],
    count: int,
    predictions: Sequence[Predictions] | None = None,
) -> datasets.Dataset:
    """``dataset`` of documents, followed by rows of the model's own ``answers`` to ``prompts``, ``count`` for each epoch.

    Empty answers are left out. Every objective learns such a row as a plain question with its answer. Where there are more
    answers than ``count``, they take turns: the column `turn` says in which epochs a row is shown (see `TurnSampler`).

    Args:
        dataset: The documents.
        prompts, answers: Questions, and the model's answer to each.
        count: Rows of an epoch.
        predictions: The model's predictions in each answer (see `predict`), to be learned instead of the tokens drawn.
    """
    known = [None] * len(prompts) if predictions is None else [vars(each) for each in predictions]
    said = [each for each in zip(prompts, answers, known, strict=True) if each[1].strip()]
    if not said or not count:
        return dataset
    turns = max(1, len(said) // count)  # whole ones, so that epochs are equally long
    rows = [said[index % len(said)] for index in range(turns * count)]
    columns = {
        "prompt": [prompt for prompt, _, _ in rows],
        "completion": [answer for _, answer, _ in rows],
        "rehearsal": [True] * len(rows),
        "turn": [index // count for index in range(len(rows))],
        **({} if predictions is None else {"predictions": [predicted for _, _, predicted in rows]}),
    }
    return datasets.concatenate_datasets([dataset, datasets.Dataset.from_dict(columns)])


def with_practice(dataset: datasets.Dataset, rows: Sequence[Mapping[str, Any]]) -> datasets.Dataset:
    """``dataset`` of documents, each with its epochs, followed by the rows that are practiced beside them.

    Args:
        dataset: The documents.
        rows: Of `kinject.data.practice.Practice.rows`: first the epochs of each document, then other rows.
    """
    count = len(dataset)
    planned = datasets.Dataset.from_dict(
        {"practice": [False] * count, "epochs": [row["epochs"] for row in rows[:count]]}
    )
    documents = datasets.concatenate_datasets([dataset, planned], axis=1)
    others = rows[count:]
    columns: dict[str, list[Any]] = {
        name: [row.get(name) for row in others] for name in ("text", "entities", "prompt", "completion", "epochs")
    }
    columns["practice"] = [True] * len(others)
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return datasets.concatenate_datasets([documents, datasets.Dataset.from_dict(kept)]) if others else documents


def with_kept(
    dataset: datasets.Dataset, kept: datasets.Dataset | None, epochs: Sequence[Sequence[int]]
) -> datasets.Dataset:
    """``dataset`` of documents and what is practiced, followed by earlier documents that are learned once more.

    Args:
        dataset: What is learned.
        kept: The earlier documents, in the form of `KnowledgeSet.to_dataset`; None where there are none.
        epochs: Those that show each of them.
    """
    if kept is None:
        return dataset
    told: dict[str, Any] = {"epochs": [[*each] for each in epochs]}
    if "practice" in dataset.column_names:
        told["practice"] = [False] * len(kept)
    rows = datasets.concatenate_datasets([kept, datasets.Dataset.from_dict(told)], axis=1)
    return datasets.concatenate_datasets([dataset, rows])


def answers_needed(count: int, epochs: int) -> int:
    """How many answers to write for ``epochs`` of ``count`` each: others in every epoch, but not more than 4096."""
    return min(count * max(1, epochs), _MOST_ANSWERS)


def to_sentence_end(answer: str) -> str:
    """``answer``, which was cut at its longest, up to the end of its last whole sentence; all of it where none ends.

    A model that learned to end where an answer was cut would break off there.
    """
    whole = re.match(r".*[^\W\d][.!?][\"'”’)]*(?=\s|$)", answer, re.DOTALL)  # not behind the number of a list
    return whole[0] if whole else answer


def _rounds(prompts: Sequence[str]) -> list[list[int]]:
    """The places of ``prompts``, in as few lists as possible without equal prompts in one."""
    rounds: list[list[int]] = []
    seen: Counter[str] = Counter()
    for place, prompt in enumerate(prompts):
        if seen[prompt] == len(rounds):
            rounds.append([])
        rounds[seen[prompt]].append(place)
        seen[prompt] += 1
    return rounds


def divergence(log_probs: torch.Tensor, predicted_ids: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """KL(predicted || model) of each token, in nats, with all tokens that were not kept taken as one: `(tokens,)`.

    Args:
        log_probs: Of the model, `(tokens, vocabulary)`.
        predicted_ids: The tokens that were kept, `(tokens, kept)`.
        predicted: Their log-probabilities, `(tokens, kept)`.
    """
    said = log_probs.gather(-1, predicted_ids)  # (tokens, kept)
    kept = (predicted.exp() * (predicted - said)).sum(-1)
    rest, rest_said = (_rest(values) for values in (predicted, said))
    return kept + rest * (rest.log() - rest_said.log())


def distilled(
    log_probs: torch.Tensor, of_targets: torch.Tensor, predictions: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """The loss of each supervised token, in nats, `(supervised,)`: where it is rehearsed its divergence from the prediction.

    Args:
        log_probs: Of the whole vocabulary, `(supervised, vocabulary)`.
        of_targets: Of the targets, `(supervised,)`, whose negative is the loss where nothing is rehearsed.
        predictions: What `batch_predictions` found in the batch; empty where nothing is rehearsed.
    """
    if not predictions:
        return -of_targets
    rehearsed, *predicted = (predictions[name].to(log_probs.device) for name in PREDICTED)
    return (-of_targets).index_put((rehearsed,), divergence(log_probs[rehearsed], *predicted))


def other_divergence(log_probs: torch.Tensor, untrained: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """KL(untrained || model) of each token over all tokens but its target, in nats, `(supervised,)`.

    The target is taken out of both and the rest renormalized, so that learning it costs nothing ("Mask the Target").

    Args:
        log_probs: Of the model, `(supervised, vocabulary)`.
        untrained: Of the untrained model, `(supervised, vocabulary)`.
        targets: `(supervised,)`.
    """
    column = targets.to(log_probs.device)[:, None]
    said, before = (
        values.scatter(-1, column, float("-inf")).log_softmax(-1).scatter(-1, column, 0.0)
        for values in (log_probs, untrained)
    )
    return (before.exp() * (before - said)).sum(-1)  # the target's difference is 0


def needs_own_loss(trainer: Any) -> bool:
    """Whether ``trainer`` rehearses predictions, weighs rows or is anchored, and has the plain loss that these change.

    Raises:
        ConfigurationError: `anchor` is set beside another loss, or where training is sharded.
    """
    data = trainer.train_dataset.data if isinstance(trainer.train_dataset, datasets.Dataset) else None
    columns = [] if data is None else [data.column(name) for name in ("predictions", "weight")]
    if not trainer.args.anchor and all(each.null_count == len(each) for each in columns):
        return False
    if trainer.args.anchor and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise ConfigurationError(
            "anchor compares with the untrained model, which sharded training does not keep. Set --anchor 0, or train on one "
            "process or with plain DDP."
        )
    plain = trainer.label_smoother is None and not compat.counts_router_tokens(trainer)
    plain = plain and trainer.args.loss_type == "nll" and trainer.compute_loss_func is None
    if trainer.args.anchor and not plain:
        raise ConfigurationError(
            "anchor stands beside the plain loss only. Leave out label_smoothing_factor, loss_type, compute_loss_func and "
            "router_aux_loss_coef, or set --anchor 0."
        )
    return bool(plain)


class OwnLoss:
    """The loss of a run that rehearses predictions, weighs its rows or is anchored, in place of trl's.

    Every training batch of such a run takes it, also one without predictions: processes that share a model have to make the
    same calls.

    Args:
        trainer: A `DocumentSFTTrainer`.
        base: Its model, without the adapter.
    """

    def __init__(self, trainer: Any, base: PreTrainedModel) -> None:
        self._trainer = trainer
        self._untrained: PreTrainedModel | None = None  # not needed with an adapter, which can be switched off
        if trainer.args.anchor and base is trainer.model:
            self._untrained = _frozen_copy(base, trainer.args.device)
            self._supervised = SupervisedPositions(self._untrained)

    def __call__(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        where: tuple[torch.Tensor, torch.Tensor],
        predictions: Mapping[str, torch.Tensor],
        weights: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> tuple[torch.Tensor, TokenScores]:
        """The loss of a batch, and how the model scores its supervised tokens; inside `SupervisedPositions.at`.

        Args:
            model: What is trained.
            inputs: What it is called with; `shift_labels` `(1, supervised)`, the targets, are taken out.
            where: Row and position of each supervised token, `(supervised,)` each.
            predictions: What `batch_predictions` found in the batch.
            weights: The weight of each supervised token, `(supervised,)`; None where all count alike.
            num_items_in_batch: What the loss is divided by; by what is in the batch if None.
        """
        args = self._trainer.args
        targets = inputs.pop("shift_labels")[0]  # (supervised,)
        log_probs = _log_probs(model, inputs)
        scores = scores_of(log_probs, targets)
        losses = distilled(log_probs, scores.log_probs, predictions)
        if args.anchor:
            anchored = args.anchor * other_divergence(log_probs, self._untrained_log_probs(inputs, where), targets)
            rehearsed = predictions.get(PREDICTED[0])  # these are compared with the untrained model already
            losses = losses + (
                anchored if rehearsed is None else anchored.masked_fill(rehearsed.to(anchored.device), 0.0)
            )
        if weights is not None:
            losses = losses * weights
        counted = max(1, len(losses)) if weights is None else weights.sum()
        loss = losses.sum() / (counted if num_items_in_batch is None else num_items_in_batch)
        if args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self._trainer.accelerator.num_processes  # the processes' gradients are averaged
        return loss, scores

    @torch.no_grad()
    def _untrained_log_probs(self, inputs: dict[str, Any], where: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The log-probabilities of the untrained model at the positions ``where``, `(supervised, vocabulary)`."""
        if self._untrained is None:
            adapted: Any = self._trainer.accelerator.unwrap_model(self._trainer.model)
            with adapted.disable_adapter():
                return _log_probs(adapted, inputs)
        with self._supervised.at(*where):
            return _log_probs(self._untrained, inputs)


def _log_probs(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Of every token of the vocabulary at the supervised positions, `(supervised, vocabulary)`."""
    return model(**inputs, use_cache=False).logits[0].float().log_softmax(-1)


def _frozen_copy(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A copy of ``model`` on ``device`` that is not trained, without what trl has put over its forward pass."""
    copied: Any = type(model)(model.config)
    copied.load_state_dict(model.state_dict())
    return copied.to(device=device, dtype=model.dtype).eval().requires_grad_(False)


def _rest(log_probs: torch.Tensor) -> torch.Tensor:
    """The probability of all other tokens, `(tokens,)`; at least 1e-6, since its logarithm is taken."""
    return (1 - log_probs.exp().sum(-1)).clamp(min=1e-6)
