"""Asks questions at chosen steps of training, and keeps the weights that answered best in a folder of their own.

Knows nothing of how the model is trained.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback

from kinject.data.knowledge import DIRECTIONS
from kinject.errors import ConfigurationError
from kinject.evaluation.measures import READINGS, REFUSED, asked, cells, is_refusal, macro, score_answers
from kinject.evaluation.results import (
    changed_answers,
    measured_before,
    new_results,
    read_results,
    write_json,
    write_results,
)
from kinject.models.weights import (
    flops_per_token,
    from_main_process,
    is_by_zero3,
    is_fsdp,
    load_weights,
    peak_memory_bytes,
    whole_model,
    writable,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    from transformers import PreTrainedTokenizerBase, Trainer, TrainerControl, TrainerState, TrainingArguments

    from kinject.data import Question
    from kinject.sampling import SamplingConfig


# At which steps of a training run questions are asked.


def log_spaced_steps(max_steps: int, evaluations: int, first: int = 1) -> list[int]:
    """``evaluations`` different steps from ``first`` to ``max_steps``, evenly spaced on a logarithmic axis.

    There are fewer if the range has fewer steps. The last is always ``max_steps``. A pure function, so that a resumed run asks
    at the same steps as an uninterrupted one.

    Args:
        max_steps: steps of the whole run.
        evaluations: how many steps to return; 0 returns none.
        first: the first of them.
    """
    first = min(max(first, 1), max_steps)
    count = min(evaluations, max_steps - first + 1)
    if count < 2:
        return [max_steps] if count == 1 else []
    steps: list[int] = []
    for index in range(count):
        spaced = round(first * (max_steps / first) ** (index / (count - 1)))
        steps.append(max(spaced, steps[-1] + 1) if steps else spaced)
    return steps


def question_steps(max_steps: int, epochs: float, evaluations: int, every: int | None = None) -> list[int]:
    """Log-spaced steps from the end of the first epoch to the end of training (the paper evaluates at such epochs).

    With fewer epochs than ``evaluations`` the first step comes before the end of the first epoch, so that every interval is
    about twice the one before it, and the beginning of a single long epoch is seen as well.

    Args:
        max_steps: steps of the whole run.
        epochs: epochs of the whole run.
        evaluations: how many steps to return.
        every: take every so many-th step and the last one instead.
    """
    if every is not None:
        return sorted({*range(every, max_steps, every), max_steps})
    steps_per_epoch = round(max_steps / epochs) if epochs > 0 else max_steps
    doubling = round(max_steps / 2 ** max(evaluations - 1, 0))
    return log_spaced_steps(max_steps, evaluations, steps_per_epoch if epochs >= evaluations else doubling)


SELECTIONS = {
    "validation": "best on the validation half of the questions; the scores are those of the other half",
    "test": "best on the test questions, as in the paper",
    "practice": "best on invented people and things that were learned and never asked about, and on refusals to answer about "
    "unseen people",
    "none": "last weights",
}
_SELECTING = ("validation", "practice")  # these select by questions that are not reported
_CLOCK = "kinject_training_seconds"  # in the trainer's state, which is saved with every checkpoint


def practice_score(scores: Mapping[str, Any]) -> float:
    """The score by which `select_on="practice"` selects: the mean of exact match in the worse direction and of refusals.

    Args:
        scores: Cells by direction, and under `refused` the share of questions about unseen people that are refused, if known.
    """
    worse = min((scores[direction]["exact_match"] for direction in asked(scores)), default=0.0)
    return float(worse + scores[REFUSED]) / 2 if REFUSED in scores else float(worse)


class QuestionAnsweringCallback(TrainerCallback):
    """Asks questions while a model trains, and keeps the weights that answer best.

    Add it to a trainer with :meth:`attach`; in a trainer's ``callbacks`` it works as well, but then it cannot report to
    the trainer's loggers (TensorBoard, Weights & Biases) and cannot gather sharded weights.

    Args:
        questions: the questions to report on.
        tokenizer: the model's tokenizer. Not needed with ``ask``.
        results: the run's results (see :func:`kinject.evaluation.results.new_results`), which this callback fills in.
        results_path: where they are written; default: ``results.json`` in the trainer's ``output_dir``.
        documents: the texts that are taught, to find answers that recite them.
        validation: questions that select the weights and are not reported, as in
            ``validation, questions = knowledge.split_questions()``.
        unseen: questions that should be refused, for ``select_on="practice"``.
        select_on: which weights are kept: ``"validation"``, the best on those; ``"test"``, the best on the reported
            questions themselves, as in the paper; ``"practice"``, the best by `practice_score` on ``validation`` and
            ``unseen``; ``"none"``, the last. Default: ``"validation"`` where there are such questions. The best weights
            are saved to ``<output_dir>/best``; :meth:`restore_best` loads them.
        metric: reading by whose macro mean of forward and backward the weights are selected: ``"paper"``,
            ``"strict"`` or ``"f1"``.
        evaluations: how often to ask during training, the end included; 0: only before training and at its end.
        every: ask after every so many steps, instead of ``evaluations`` times.
        ask: ``ask(model, questions) -> answers``, for models that are not asked by ``generate``.
        max_new_tokens, batch_size, examples, system_prompt, sampling: as in
            :func:`kinject.evaluation.answer_questions`.
        knows: ``knows(model) -> {name: measurement}`` for further measurements of the untrained model, such as ``retention``
            by :func:`kinject.evaluation.measure_retention`; called once, and stored as ``before`` under each name.
        report: shows one line per evaluation; default: printed without breaking a progress bar.

    Attributes:
        results: the content of ``results.json``.
        questions: the questions that are reported.
        answers: their answers, by the weights that are kept.

    Raises:
        ConfigurationError: an unknown ``select_on`` or ``metric``, or no questions of a known direction to select on.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        results: dict[str, Any] | None = None,
        results_path: str | os.PathLike[str] | None = None,
        documents: Sequence[str] = (),
        validation: Sequence[Question] = (),
        unseen: Sequence[str] = (),
        select_on: str | None = None,
        metric: str = "paper",
        evaluations: int = 8,
        every: int | None = None,
        ask: Callable[[Any, Sequence[str]], list[str]] | None = None,
        max_new_tokens: int = 128,
        batch_size: int | None = None,
        examples: Sequence[tuple[str, str]] = (),
        system_prompt: str | None = None,
        sampling: SamplingConfig | None = None,
        knows: Callable[[Any], dict[str, Any]] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Check the settings; nothing is asked yet."""
        select_on = select_on or ("validation" if validation else "none")
        _check_choices(select_on, metric, evaluations, every)
        if tokenizer is None and ask is None:
            raise ConfigurationError("pass the tokenizer to ask with, or a function of your own as ask")
        selects = select_on in _SELECTING
        self.questions, self.validation = tuple(questions), tuple(validation if selects else ())
        self._unseen = tuple(unseen if select_on == "practice" else ())
        _require_selectable(select_on, self.validation if selects else self.questions)
        self._documents = tuple(documents)
        self.results = results or new_results(objective="unknown", model="unknown", dataset="unknown")
        self.results["selection"] = SELECTIONS[select_on]
        self.answers: list[str] = []
        self.trainer: Trainer | None = None
        self.best: BestWeights | None = None
        self._results_path = Path(results_path) if results_path is not None else None
        self._select_on, self._metric, self._evaluations, self._every = select_on, metric, evaluations, every
        self._tokenizer = tokenizer
        self._ask, self._knows = ask, knows
        self._asking: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "examples": tuple(examples),
            "system_prompt": system_prompt,
            "sampling": sampling,
        }
        self._report = report or _print_line
        self._steps: frozenset[int] = frozenset()
        self._flops_per_token = 0.0
        self._seconds = 0.0
        self._clock_started = 0.0

    def attach(self, trainer: Trainer) -> QuestionAnsweringCallback:
        """Add this callback to ``trainer`` and use the trainer's loggers and its way of saving; returns itself."""
        self.trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def restore_best(self, target: Any) -> bool:
        """Load the selected weights into ``target``, a trainer or the model that was trained.

        Returns:
            Whether weights were selected, so that ``target`` now holds them.

        Raises:
            ConfigurationError: the best weights are gone.
        """
        if self.best is None or self.best.step is None:
            return False
        self.best.load_into(target.model if isinstance(target, Trainer) else target)
        return True

    # Events of the trainer.

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask the untrained model, or read the history of the run that is resumed.

        Raises:
            ConfigurationError: the model is sharded in a way in which it cannot be asked, or its best weights not be restored.
        """
        from transformers.integrations import is_deepspeed_zero3_enabled

        model = kwargs["model"]
        if self.trainer is None and is_deepspeed_zero3_enabled():
            raise ConfigurationError(
                "ZeRO-3 has sharded the model, and only its trainer can gather it to ask questions; add this callback with "
                "callback.attach(trainer) instead of callbacks=[...]"
            )
        if self._select_on != "none" and hasattr(model, "peft_config") and is_fsdp(model):
            raise ConfigurationError(
                f"select_on={self._select_on!r} cannot load an adapter back that FSDP has sharded; use select_on='none', or "
                "launch with deepspeed_configs/ddp.yaml or zero3.yaml"
            )
        if args.include_num_input_tokens_seen == "no":
            args.include_num_input_tokens_seen = "non_padding"
        output_dir = Path(str(args.output_dir))
        self._results_path = self._results_path or output_dir / "results.json"
        self._flops_per_token = flops_per_token(model)
        steps = question_steps(state.max_steps, state.num_train_epochs, self._evaluations, self._every)
        self._steps = frozenset(steps)
        if self._select_on != "none":
            self.best = BestWeights(output_dir / "best", state.is_world_process_zero)
        if state.global_step:
            self._resume(state.global_step)
            self._seconds = float(_saved_with_checkpoints(state).get(_CLOCK, 0.0))
        else:
            self.results["history"], self._seconds = [], 0.0
            if self.best is not None:
                self.best.forget()
            scores, self.answers, _ = self._evaluate(args, model)
            self.results["before"], self.results["answers_before"] = scores, self.answers
            # Here at the earliest, since the libraries have just placed the model on its device.
            if self._knows is not None:
                with self._whole(model) as whole:
                    self.results |= {name: {"before": found} for name, found in self._knows(whole).items()}
            self._show(args, state, control, scores, "before")
            self._write(state)
        self._clock_started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask if this is one of the chosen steps."""
        if state.global_step in self._steps:
            self._add_entry(args, state, control, kwargs["model"])
        _saved_with_checkpoints(state)[_CLOCK] = self._stop_clock()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask the trained model, and finish the results with the scores of the weights that are kept."""
        self._stop_clock()
        history = self.results["history"]
        if not history or history[-1]["step"] < state.global_step:
            self._add_entry(args, state, control, kwargs["model"])
        elif not self.answers:  # killed after its last step: its scores are stored, but not its last answers
            self.answers = self._answer(args, kwargs["model"], [each.question for each in self.questions])
        entry = self.results["history"][-1]
        if self.best is not None and self.best.step is not None:
            entry = next(each for each in history if each["step"] == self.best.step)
            self.answers = self.best.answers
            self.results["selected"] = {"step": self.best.step, "score": self.best.score, "metric": self._metric}
        self.results["after"] = {name: entry[name] for name in (*cells(entry), "groups")}
        self.results["train"] = self._cost(state)
        self._write(state)

    # Asking.

    def _add_entry(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any) -> None:
        self._stop_clock()
        scores, answers, selecting = self._evaluate(args, model)
        loss = next((log["loss"] for log in reversed(state.log_history) if "loss" in log), None)
        cost = self._cost(state)
        entry: dict[str, Any] = {"step": state.global_step, "epoch": float(state.epoch or 0.0)}
        entry |= {name: cost[name] for name in ("tokens", "flops", "seconds")}
        entry |= {"loss": loss} if loss is not None else {}
        entry |= scores
        score = macro(selecting or scores, self._metric)
        if selecting is not None:
            kept = {name: selecting[name] for name in (*cells(selecting), REFUSED) if name in selecting}
            entry[self._select_on] = kept
            score = practice_score(kept) if self._select_on == "practice" else score
        entry["answers"] = changed_answers(self.results, answers)
        self.answers = answers
        self.results["history"].append(entry)
        note = ""
        if self.best is not None and self.best.offer(
            state.global_step, score, answers, model=model, tokenizer=self._tokenizer, trainer=self.trainer
        ):
            note = "best so far"
        self.results["train"] = cost
        self._show(args, state, control, entry, note)
        self._write(state)
        self._clock_started = time.monotonic()

    def _evaluate(self, args: TrainingArguments, model: Any) -> tuple[dict[str, Any], list[str], dict[str, Any] | None]:
        """Scores and answers of the reported questions, and the scores of the selecting questions if those are others."""
        taught = [each.question for each in (*self.questions, *self.validation)]
        answers = self._answer(args, model, [*taught, *self._unseen])
        reported = answers[: len(self.questions)]
        selecting = None
        if self._select_on in _SELECTING:
            selecting = score_answers(self.validation, answers[len(self.questions) : len(taught)], resamples=1)
        if selecting is not None and self._unseen:
            refused = [is_refusal(answer) for answer in answers[len(taught) :]]
            selecting[REFUSED] = sum(refused) / len(refused)
        return score_answers(self.questions, reported, documents=self._documents), reported, selecting

    def _answer(self, args: TrainingArguments, model: Any, questions: Sequence[str]) -> list[str]:
        """Answers to ``questions``; every process asks an equal share of them."""
        distinct = list(dict.fromkeys(questions))
        if not distinct:
            return []
        world, rank = args.world_size, args.process_index
        share = distinct[rank::world]
        longest = -(-len(distinct) // world)
        # All processes ask equally many, because the forward passes of a sharded model need every process.
        answers = self._ask_model(model, share + distinct[:1] * (longest - len(share)))
        if world > 1:
            from accelerate.utils import gather_object

            gathered = gather_object(answers)  # (world * longest,), by process
            answers = [gathered[index % world * longest + index // world] for index in range(len(distinct))]
        by_question = dict(zip(distinct, answers, strict=True))
        return [by_question[question] for question in questions]

    def _whole(self, model: Any) -> AbstractContextManager[Any]:
        return nullcontext(model) if self.trainer is None else whole_model(self.trainer)

    def _ask_model(self, model: Any, questions: Sequence[str]) -> list[str]:
        with self._whole(model) as whole:
            if self._ask is not None:
                return self._ask(whole, questions)
            from kinject.evaluation.asking import answer_questions

            assert self._tokenizer is not None
            return answer_questions(whole, self._tokenizer, questions, **self._asking)

    # Keeping and showing.

    def _resume(self, step: int) -> None:
        """Read ``before``, the history up to ``step`` and the best weights from the files of the resumed run."""
        previous = None
        if self._results_path is not None and self._results_path.exists():
            previous = read_results(self._results_path)
        previous = from_main_process(previous)
        if previous is not None:
            self.results["before"] = previous["before"]
            self.results["answers_before"] = previous.get("answers_before", [])
            if self._knows is not None:
                self.results |= {name: {"before": found} for name, found in measured_before(previous).items()}
            self.results["history"] = [entry for entry in previous["history"] if entry["step"] <= step]
        if self.best is not None:
            self.best.resume({entry["step"] for entry in self.results["history"]})

    def _stop_clock(self) -> float:
        """Seconds of training so far, without those spent on questions."""
        now = time.monotonic()
        self._seconds += now - self._clock_started
        self._clock_started = now
        return self._seconds

    def _cost(self, state: TrainerState) -> dict[str, Any]:
        tokens = int(state.num_input_tokens_seen)
        return {
            "steps": state.global_step,
            "tokens": tokens,
            "flops": tokens * self._flops_per_token,
            "seconds": round(self._seconds, 3),
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def _write(self, state: TrainerState) -> None:
        if state.is_world_process_zero and self._results_path is not None:
            write_results(self._results_path, self.results)

    def _show(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, scores: dict[str, Any], note: str
    ) -> None:
        asked = [direction for direction in cells(scores) if scores[direction]["n"]]
        logs = {direction: round(scores[direction][READINGS[self._metric]], 4) for direction in asked}
        if self.trainer is not None and logs:
            # By the base class, since a subclass's log may end its running means of the loss. Logging clears should_log,
            # which another callback may have set for this step.
            should_log = control.should_log
            Trainer.log(self.trainer, dict(logs))
            control.should_log = should_log
        elif logs:
            state.log_history.append({**logs, "epoch": state.epoch, "step": state.global_step})
        if state.is_world_process_zero:
            parts = [f"step {state.global_step}/{state.max_steps}"]
            parts += [f"loss {scores['loss']:.3f}"] if "loss" in scores else []
            for direction in asked:
                cell = scores[direction]
                parts.append(f"{direction} {cell['paper']:.2f} (exact {cell['exact_match']:.2f})")
            self._report("  ".join([*parts, note]).rstrip())


def _check_choices(select_on: str, metric: str, evaluations: int, every: int | None) -> None:
    """Refuse values that are not among the choices, or out of range."""
    if select_on not in SELECTIONS:
        raise ConfigurationError(f"select_on: expected one of {', '.join(SELECTIONS)}, got {select_on!r}")
    if metric not in READINGS:
        raise ConfigurationError(f"metric: expected one of {', '.join(READINGS)}, got {metric!r}")
    if evaluations < 0:
        raise ConfigurationError(f"evaluations: expected 0 or more, got {evaluations}")
    if every is not None and every < 1:
        raise ConfigurationError(
            f"every: expected 1 step or more, got {every}; leave it out to ask at log-spaced steps"
        )


def _require_selectable(select_on: str, selecting: Sequence[Question]) -> None:
    """Refuse to select weights by questions none of which has a known direction."""
    if select_on != "none" and not any(each.direction in DIRECTIONS for each in selecting):
        raise ConfigurationError(
            f"select_on={select_on!r} has no questions to select on whose direction is known; pass validation and "
            "questions as knowledge.split_questions() divides them, or select_on='none'"
        )


def _saved_with_checkpoints(state: TrainerState) -> dict[str, Any]:
    """The part of the trainer's state that is free for callbacks."""
    saved: Any = state.stateful_callbacks
    assert isinstance(saved, dict)
    return saved


def _print_line(line: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(line)


# The weights that answered best so far, in one folder with their step, score and answers.

SELECTION_FILE = "selection.json"


class BestWeights:
    """A folder with the best weights: a model or an adapter, with the step, score and answers that belong to it.

    The folder is written under another name and then renamed, so weights and score always belong together, also in a
    run that was killed.

    Args:
        folder: where the weights go; ``<output_dir>/best``.
        writes: whether this process writes, which exactly one process does.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        """Begin without any weights."""
        self.folder = folder
        self.step: int | None = None
        self.score = float("-inf")
        self.answers: list[str] = []
        self._writes = writes

    def forget(self) -> None:
        """Delete the weights that an earlier run left."""
        if self._writes and (self.folder / SELECTION_FILE).is_file():
            shutil.rmtree(self.folder)

    def resume(self, steps: Collection[int]) -> None:
        """Go on with the weights that the resumed run selected, if it did so at one of ``steps``.

        Weights of a later step do not count, since the resumed run takes that step again.
        """
        file = self.folder / SELECTION_FILE
        kept = from_main_process(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None)
        if kept is not None and kept["step"] in steps:
            self.step, self.score, self.answers = kept["step"], kept["score"], kept["answers"]

    def offer(
        self,
        step: int,
        score: float,
        answers: Sequence[str],
        *,
        model: Any,
        tokenizer: PreTrainedTokenizerBase | None,
        trainer: Trainer | None,
    ) -> bool:
        """Save the current weights if ``score`` is above the best so far; returns whether it is.

        Every process calls this with the same score. ``trainer`` gathers sharded weights; without a trainer, the process
        that writes saves ``model`` itself.
        """
        if score <= self.score:
            return False
        self.step, self.score, self.answers = step, score, list(answers)
        fresh = self.folder.with_name(self.folder.name + ".new")
        if self._writes:
            shutil.rmtree(fresh, ignore_errors=True)
        _wait()
        if trainer is not None:
            trainer.save_model(str(fresh), _internal_call=True)  # an internal call does not push to the Hub
        elif self._writes:
            model.save_pretrained(fresh)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh)
        _wait()
        if self._writes:
            selection = {"step": step, "score": score, "answers": self.answers}
            write_json(fresh / SELECTION_FILE, selection)
            shutil.rmtree(self.folder, ignore_errors=True)
            fresh.rename(self.folder)
        _wait()
        return True

    def load_into(self, model: Any) -> None:
        """Load the kept weights into ``model``, the one that was trained (wrapped by PEFT, sharded, or not).

        Every process calls this. Only the main process reads the files, so that the host holds one whole model and the other
        processes need not see its disk. Under ZeRO-3 all of them read, and each keeps its shard.

        Raises:
            ConfigurationError: the folder does not hold such weights.
        """
        if not from_main_process((self.folder / SELECTION_FILE).is_file()):
            raise ConfigurationError(f"{self.folder}: expected the best weights of this run; the folder was removed")
        if hasattr(model, "peft_config"):
            from peft import load_peft_weights, set_peft_model_state_dict

            kept = from_main_process(load_peft_weights(str(self.folder), device="cpu") if self._writes else None)
            with writable([parameter for parameter in model.parameters() if parameter.requires_grad]):
                set_peft_model_state_dict(model, kept)
            return
        # By from_pretrained, since saved weights do not always have the names and shapes of the module's.
        reads = self._writes or is_by_zero3(model)
        load_weights(
            model,
            type(model).from_pretrained(self.folder, config=model.config, dtype=model.dtype) if reads else None,
        )


def _wait() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()
